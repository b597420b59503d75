package hstest_test

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"golang.zx2c4.com/wireguard/conn"
	"golang.zx2c4.com/wireguard/device"
	"golang.zx2c4.com/wireguard/tun/tuntest"

	"github.com/keelscale/keelscale/hscontrol/hstest"
)

// endpoint is a WireGuard device that is configured from nothing but a network map.
type endpoint struct {
	node *hstest.Node
	tun  *tuntest.ChannelTUN
	dev  *device.Device
	poll *hstest.Poll
}

func newEndpoint(t *testing.T, s *hstest.Server, name, secret string) *endpoint {
	t.Helper()
	e := &endpoint{node: s.Node(name), tun: tuntest.NewChannelTUN()}
	e.dev = device.NewDevice(e.tun.TUN(), conn.NewDefaultBind(), device.NewLogger(device.LogLevelSilent, ""))
	t.Cleanup(e.dev.Close)
	e.set(t, "private_key=%s\nlisten_port=0", e.node.Key.UntypedHexString())
	if err := e.dev.Up(); err != nil {
		t.Fatal(err)
	}
	e.node.Join(secret)
	e.node.Update(fmt.Sprintf("127.0.0.1:%s", e.port(t)))
	e.poll = e.node.Poll()
	return e
}

func (e *endpoint) set(t *testing.T, format string, args ...any) {
	t.Helper()
	if err := e.dev.IpcSet(fmt.Sprintf(format, args...)); err != nil {
		t.Fatalf("configuring WireGuard: %v", err)
	}
}

// port is the UDP port that the device chose.
func (e *endpoint) port(t *testing.T) string {
	t.Helper()
	text, err := e.dev.IpcGet()
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(text) {
		if port, ok := strings.CutPrefix(strings.TrimSpace(line), "listen_port="); ok {
			return port
		}
	}
	t.Fatal("WireGuard has no port")
	return ""
}

// meet configures the device with the peers that the map has.
func (e *endpoint) meet(t *testing.T, peer string) {
	t.Helper()
	e.poll.Await(peer+"'s endpoint", func(m *hstest.Netmap) bool { p := m.Peer(peer); return p != nil && len(p.Endpoints) > 0 })
	p := e.poll.Netmap.Peer(peer)
	text := fmt.Sprintf("public_key=%s\nendpoint=%s", p.Key.UntypedHexString(), p.Endpoints[0])
	for _, ip := range p.AllowedIPs {
		text += "\nallowed_ip=" + ip.String()
	}
	e.set(t, "%s", text)
}

func (e *endpoint) addr() netip.Addr { return e.poll.Netmap.Node.Addresses[0].Addr() }

// What the map says of a peer, its key, addresses and endpoints, is enough for WireGuard itself to carry packets.
func TestMapConfiguresWireGuard(t *testing.T) {
	s := hstest.Start(t)
	secret := s.Key(s.User("alice"))
	a, b := newEndpoint(t, s, "alpha", secret), newEndpoint(t, s, "beta", secret)
	a.meet(t, "beta")
	b.meet(t, "alpha")
	for _, way := range []struct{ from, to *endpoint }{{a, b}, {b, a}} {
		ping := tuntest.Ping(way.to.addr(), way.from.addr())
		way.from.tun.Outbound <- ping
		select {
		case got := <-way.to.tun.Inbound:
			if string(got) != string(ping) {
				t.Errorf("%s got another packet than %s sent", way.to.node.Name, way.from.node.Name)
			}
		case <-time.After(hstest.Patience):
			t.Fatalf("no packet from %s to %s", way.from.node.Name, way.to.node.Name)
		}
	}
	if got := a.poll.Netmap.Peer("beta").Key; got != b.node.Key.Public() {
		t.Errorf("the map has key %v for beta, want %v", got, b.node.Key.Public())
	}
}
