package derp_test

import (
	"context"
	"net/netip"
	"strings"
	"testing"

	ts "tailscale.com/derp"
	"tailscale.com/types/key"

	"github.com/keelscale/keelscale/derp"
)

// only admits the given nodes.
func only(nodes ...key.NodePublic) derp.Admit {
	return func(_ context.Context, node key.NodePublic, _ netip.Addr) (bool, error) {
		for _, n := range nodes {
			if n == node {
				return true, nil
			}
		}
		return false, nil
	}
}

func TestMesh(t *testing.T) {
	psk := strings.Repeat("0f", 32)
	there, here := key.NewNode(), key.NewNode()
	hub := serve(t, newRelay(t, derp.Config{Mesh: derp.Mesh{Key: psk}, Admit: only(there.Public())}))
	spoke := serve(t, newRelay(t, derp.Config{
		Mesh:  derp.Mesh{Key: psk, With: []string{strings.TrimSuffix(hub, "/derp")}},
		Admit: only(here.Public()),
	}))
	a, b := newClient(t, hub, there), newClient(t, spoke, here)
	connect(t, a)
	connect(t, b)
	got := make(chan string, 100)
	go func() {
		for {
			m, err := a.Recv()
			if err != nil {
				return
			}
			if p, ok := m.(ts.ReceivedPacket); ok {
				got <- string(p.Data)
			}
		}
	}()
	// The spoke hears from the hub who is there; until then it has nowhere to send to.
	waitFor(t, "a packet over two relays", func() bool {
		if err := b.Send(there.Public(), []byte("hello")); err != nil {
			t.Fatal(err)
		}
		select {
		case data := <-got:
			return data == "hello"
		default:
			return false
		}
	})
}

func TestMeshNeedsAKey(t *testing.T) {
	for _, m := range []derp.Mesh{{With: []string{"h"}}, {Key: "short"}, {Key: strings.Repeat("g", 64), With: []string{"h"}}} {
		if _, err := derp.New(derp.Config{Key: key.NewNode(), Log: quiet(), Mesh: m}); err == nil {
			t.Errorf("mesh %+v was accepted", m)
		}
	}
}
