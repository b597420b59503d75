package derp_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"time"

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

// member is a relay of a mesh, as Run serves it, and what it logs.
type member struct {
	*derp.Relay
	ports derp.Ports
	cert  *derp.Cert
	log   *logBook
}

// join runs a relay with a certificate of its own, which the others know by its pin.
func join(t *testing.T, cfg derp.Config) *member {
	t.Helper()
	m := &member{log: &logBook{}}
	var err error
	if m.cert, err = derp.OpenCert(derp.CertConfig{Mode: derp.SelfSigned, Hostname: "127.0.0.1", Dir: t.TempDir(), Log: quiet()}); err != nil {
		t.Fatal(err)
	}
	ready := make(chan derp.Ports, 1)
	cfg.Log = m.log.logger()
	cfg.Listen = derp.Listen{Addr: "127.0.0.1:0", Cert: m.cert, HTTPPort: -1, STUNPort: -1, Ready: func(p derp.Ports) { ready <- p }}
	m.Relay = newRelay(t, cfg)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- m.Run(ctx) }()
	t.Cleanup(func() { cancel(); <-done })
	m.ports = <-ready
	return m
}

// peer is what a control server tells others of m.
func (m *member) peer() derp.MeshPeer {
	cert := m.cert.Certificates()[0]
	return derp.MeshPeer{Key: m.PublicKey(), Addrs: []netip.AddrPort{m.ports.Relay}, Name: cert.Name, Pin: cert.Pin}
}

// node connects a node to m.
func (m *member) node(t *testing.T) *raw {
	t.Helper()
	return enterTLS(t, m.ports.Relay.String(), m.PublicKey(), key.NewNode())
}

// links is how often a link of m came up.
func (m *member) links() int { return strings.Count(m.log.String(), "mesh link is up") }

// across waits until a packet goes from one node to another.
func across(t *testing.T, from, to *raw) {
	t.Helper()
	payload := []byte("across")
	waitFor(t, "the relays to know each other's clients", func() bool {
		from.send(ts.FrameSendPacket, to.raw(), payload)
		to.conn.SetReadDeadline(time.Now().Add(30 * time.Millisecond))
		defer to.conn.SetReadDeadline(time.Now().Add(patience))
		_, err := to.br.Peek(1)
		return err == nil
	})
	to.expectPacket(from, payload)
}

func TestMeshAsTheServerArrangesIt(t *testing.T) {
	a, b := join(t, derp.Config{}), join(t, derp.Config{})
	peers := []derp.MeshPeer{a.peer(), b.peer()}
	for _, m := range []*member{a, b} {
		if err := m.SetMesh(psk, peers); err != nil {
			t.Fatal(err)
		}
	}
	x, y := a.node(t), b.node(t)
	across(t, x, y)
	across(t, y, x)

	// The same again, with another address first: the links stay.
	moved := b.peer()
	moved.Addrs = append([]netip.AddrPort{netip.MustParseAddrPort("127.0.0.1:1")}, moved.Addrs...)
	if err := a.SetMesh(psk, []derp.MeshPeer{moved, a.peer()}); err != nil {
		t.Fatal(err)
	}
	across(t, x, y)
	if n := a.links(); n != 1 {
		t.Errorf("the link came up %d times, want once", n)
	}

	// A new key of the mesh: who has only the old one is out.
	other := strings.Repeat("a5", 32)
	if err := a.SetMesh(other, peers); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "the link to break", func() bool { return strings.Contains(b.log.String(), "mesh link broke") })
	if err := b.SetMesh(other, peers); err != nil {
		t.Fatal(err)
	}
	x, y = a.node(t), b.node(t) // which have heard nothing of all that
	across(t, x, y)
	across(t, y, x)

	if err := a.SetMesh("", nil); err != nil {
		t.Fatal(err)
	}
	if got := y.expect(ts.FramePeerGone); !bytes.Equal(got[:ts.KeyLen], x.raw()) {
		t.Errorf("got %x gone, want %x", got, x.raw())
	}
}

// The packets of each pair of nodes keep their order, whatever the others do.
func TestMeshKeepsTheOrder(t *testing.T) {
	a, b := join(t, derp.Config{}), join(t, derp.Config{})
	for _, m := range []*member{a, b} {
		if err := m.SetMesh(psk, []derp.MeshPeer{a.peer(), b.peer()}); err != nil {
			t.Fatal(err)
		}
	}
	const pairs, packets = 8, 300
	done := make(chan error, pairs)
	for range pairs {
		x, y := a.node(t), b.node(t)
		across(t, x, y)
		go func() {
			done <- func() error {
				for i := range packets {
					x.conn.Write(frame(ts.FrameSendPacket, y.raw(), binary.BigEndian.AppendUint32(make([]byte, 1000), uint32(i))))
				}
				for i := 0; i < packets; {
					_, n, err := ts.ReadFrameHeader(y.br)
					if err != nil {
						return err
					}
					body := make([]byte, n)
					if _, err := io.ReadFull(y.br, body); err != nil {
						return err
					}
					if n < 1000 {
						continue // what tried out the way
					}
					if got := int(binary.BigEndian.Uint32(body[n-4:])); got != i {
						return fmt.Errorf("got packet %d, want %d", got, i)
					}
					i++
				}
				return nil
			}()
		}()
	}
	for range pairs {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}

// listen serves a relay at an address that may have been in use before, and returns what ends
// that.
func listen(t *testing.T, r *derp.Relay, addr string) (at string, end func()) {
	t.Helper()
	ln, err := net.Listen("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: r.Handler()}
	go srv.Serve(ln)
	end = func() { srv.Close(); r.Close() }
	t.Cleanup(end)
	return ln.Addr().String(), end
}

// freeAddr is an address where nobody listens yet. Its port is below those that systems give to connections that go out:
// else one could have it by chance, such as a link that is dialled while nobody is there, which then reaches itself.
func freeAddr(t *testing.T) string {
	t.Helper()
	for range 1000 {
		if ln, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", 18_000+rand.N(14_000))); err == nil {
			defer ln.Close()
			return ln.Addr().String()
		}
	}
	t.Fatal("no port is free")
	return ""
}

// Static links as -mesh-with gives them, with the relay itself in the list; they come back
// when the other relay does.
func TestMeshWith(t *testing.T) {
	var addrs [2]string
	for i := range addrs {
		addrs[i] = freeAddr(t)
	}
	with := []string{"http://" + addrs[0], "http://" + addrs[1] + "/"}
	keys := [2]key.NodePrivate{key.NewNode(), key.NewNode()}
	there, here := key.NewNode(), key.NewNode()
	begin := func(i int) func() {
		admit := only([]key.NodePublic{there.Public(), here.Public()}[i]) // the other relay needs no admission
		r := newRelay(t, derp.Config{Key: keys[i], Mesh: derp.Mesh{Key: psk, With: with}, Admit: admit})
		_, end := listen(t, r, addrs[i])
		return end
	}
	end := begin(0)
	begin(1)
	x := enter(t, with[0], keys[0].Public(), there, false)
	y := enter(t, with[0][:7]+addrs[1], keys[1].Public(), here, false)
	across(t, x, y)
	across(t, y, x)
	end()
	if got := y.expect(ts.FramePeerGone); !bytes.Equal(got[:ts.KeyLen], x.raw()) {
		t.Errorf("got %x gone, want %x", got, x.raw())
	}
	begin(0)
	x = enter(t, with[0], keys[0].Public(), there, false)
	across(t, x, y)
	across(t, y, x)
}

// Whom a relay does not know by key or certificate is not told the mesh key.
func TestMeshKeyIsToldToNobodyElse(t *testing.T) {
	b := join(t, derp.Config{})
	for name, change := range map[string]func(*derp.MeshPeer){
		"another relay answers":       func(p *derp.MeshPeer) { p.Key = key.NewNode().Public() },
		"the certificate has the pin": func(p *derp.MeshPeer) { p.Pin = "sha256-raw:" + strings.Repeat("00", 32) },
		"certificate signed by unknown authority": func(p *derp.MeshPeer) {
			p.Pin, p.Name = "", "127.0.0.1"
		},
	} {
		a := join(t, derp.Config{})
		p := b.peer()
		change(&p)
		if err := a.SetMesh(psk, []derp.MeshPeer{p}); err != nil {
			t.Fatal(err)
		}
		waitFor(t, name, func() bool { return strings.Contains(a.log.String(), name) })
		if n := a.links(); n > 0 {
			t.Errorf("%s: the link came up", name)
		}
	}
	if n := b.Load().Refused; n > 0 {
		t.Errorf("%d introduced themselves", n)
	}
}

func TestMeshMistakes(t *testing.T) {
	for _, m := range []derp.Mesh{
		{With: []string{"h"}}, {Key: "short"}, {Key: strings.Repeat("g", 64), With: []string{"h"}},
		{Key: psk, With: []string{"ftp://h"}}, {Key: psk, With: []string{""}}, {Key: psk, With: []string{":443"}},
	} {
		if _, err := derp.New(derp.Config{Key: key.NewNode(), Log: quiet(), Mesh: m}); err == nil {
			t.Errorf("mesh %+v was accepted", m)
		}
	}
	r := newRelay(t, derp.Config{})
	at := []netip.AddrPort{netip.MustParseAddrPort("127.0.0.1:1")}
	for name, tt := range map[string]struct {
		psk  string
		peer derp.MeshPeer
	}{
		"without a mesh key": {"", derp.MeshPeer{Key: key.NewNode().Public(), Addrs: at}},
		"a short mesh key":   {"0f", derp.MeshPeer{Key: key.NewNode().Public(), Addrs: at}},
		"without its key":    {psk, derp.MeshPeer{Addrs: at}},
		"without an address": {psk, derp.MeshPeer{Key: key.NewNode().Public()}},
		"a bad address":      {psk, derp.MeshPeer{Key: key.NewNode().Public(), Addrs: make([]netip.AddrPort, 1)}},
		"a bad pin":          {psk, derp.MeshPeer{Key: key.NewNode().Public(), Addrs: at, Pin: "sha256-raw:00"}},
	} {
		if err := r.SetMesh(tt.psk, []derp.MeshPeer{tt.peer}); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	if err := r.SetMesh(" "+psk+"\n", []derp.MeshPeer{{Key: r.PublicKey()}}); err != nil {
		t.Errorf("a mesh of oneself: %v", err)
	}
}

// A link that does not come up is told of, with why, and one that does is not. An address where another relay answers,
// as behind a network that every machine has, does not end the search.
func TestMeshLinksAreTold(t *testing.T) {
	a, b, c := join(t, derp.Config{}), join(t, derp.Config{}), join(t, derp.Config{})
	to := b.peer()
	to.Addrs = []netip.AddrPort{a.ports.Relay, c.ports.Relay, b.ports.Relay}
	away := derp.MeshPeer{Key: key.NewNode().Public(), Addrs: []netip.AddrPort{c.ports.Relay}}
	if err := b.SetMesh(psk, nil); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	if err := a.SetMesh(psk, []derp.MeshPeer{to, away}); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "one link to be up, and the other to have failed", func() bool {
		up, failed := false, false
		for _, l := range a.MeshLinks() {
			up = up || l.Up && l.Key == b.PublicKey()
			failed = failed || !l.Up && l.Key == away.Key && l.Err != nil
		}
		return up && failed
	})
	if got := a.Load().Troubles; len(got) != 0 && time.Since(began) < 15*time.Second {
		t.Errorf("got %q at once, want patience", got)
	}
	x, y := a.node(t), b.node(t)
	across(t, x, y)
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "the link to be down", func() bool {
		for _, l := range a.MeshLinks() {
			if l.Key == b.PublicKey() {
				return !l.Up && l.Err != nil
			}
		}
		return false
	})
}
