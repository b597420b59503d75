package policy_test

import (
	"net/netip"
	"testing"

	"tailscale.com/tailcfg"

	"github.com/keelscale/keelscale/hscontrol/policy"
	"github.com/keelscale/keelscale/hscontrol/tailnet"
)

// Without a policy a node that joins changes nothing of what holds; a route, an exit node or a node that is cut off does.
func TestKeep(t *testing.T) {
	node := func(id tailnet.NodeID, edit func(*tailnet.Node)) *tailnet.Node {
		n := &tailnet.Node{ID: id, UserID: 1, IPv4: netip.AddrFrom4([4]byte{100, 64, 0, byte(id)})}
		if edit != nil {
			edit(n)
		}
		return n
	}
	compile := func(text string, nodes ...*tailnet.Node) *policy.Compiled {
		t.Helper()
		var p *policy.Policy
		if text != "" {
			var err error
			if p, err = policy.Parse(text); err != nil {
				t.Fatal(err)
			}
		}
		s := (*tailnet.Snapshot)(nil).Next(tailnet.Delta{Full: true, Rev: 1, Nodes: nodes})
		c, err := policy.Compile(p, s)
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	serves := func(route string) func(*tailnet.Node) {
		r := []netip.Prefix{netip.MustParsePrefix(route)}
		return func(n *tailnet.Node) {
			n.ApprovedRoutes, n.PrimaryRoutes = r, r
			n.Hostinfo = &tailcfg.Hostinfo{RoutableIPs: r}
		}
	}
	before := compile("", node(1, nil))
	for _, c := range []struct {
		name string
		next *policy.Compiled
		kept bool
	}{
		{"nothing", compile("", node(1, nil)), true},
		{"a node joins", compile("", node(1, nil), node(2, nil)), true},
		{"a node serves a route", compile("", node(1, serves("10.0.0.0/8"))), false},
		{"a node is an exit node", compile("", node(1, serves("0.0.0.0/0"))), false},
		{"a node is cut off", compile("", node(1, func(n *tailnet.Node) { n.Barred = true })), false},
		{"a node has an address of its own", compile("", node(1, nil), node(2, func(n *tailnet.Node) { n.IPv4 = netip.MustParseAddr("192.0.2.1") })), false},
		{"a policy is set", compile(`{"acls":[{"action":"accept","src":["*"],"dst":["*:*"]}]}`, node(1, nil)), false},
	} {
		if got := c.next.Keep(before) == before; got != c.kept {
			t.Errorf("%s: got kept %v, want %v", c.name, got, c.kept)
		}
		if got := before.Keep(c.next) == c.next; got != c.kept {
			t.Errorf("%s, back: got kept %v, want %v", c.name, got, c.kept)
		}
	}
}
