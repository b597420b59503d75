package tailnet_test

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"tailscale.com/tailcfg"

	"github.com/keelscale/keelscale/hscontrol/tailnet"
)

func TestNextAddr(t *testing.T) {
	none := func(netip.Addr) bool { return false }
	cases := []struct {
		name, prefix, from string
		taken              func(netip.Addr) bool
		want               string // empty: exhausted
	}{
		{"the first is the network's", "10.1.0.0/16", "", none, "10.1.0.1"},
		{"where the last one ended", "10.1.0.0/16", "10.1.0.9", none, "10.1.0.9"},
		{"a foreign start counts as none", "10.1.0.0/16", "10.2.0.9", none, "10.1.0.1"},
		{"taken ones are passed over", "10.1.0.0/16", "", func(a netip.Addr) bool { return a.As4()[3] < 5 }, "10.1.0.5"},
		{"MagicDNS is passed over", "100.64.0.0/10", "100.100.100.100", none, "100.100.100.101"},
		{"the range of ChromeOS too, in one step", "100.64.0.0/10", "100.115.92.0", none, "100.115.94.0"},
		{"round the end, without the broadcast address", "10.1.0.0/29", "10.1.0.7", none, "10.1.0.1"},
		{"round the end to a freed one", "10.1.0.0/29", "10.1.0.4", func(a netip.Addr) bool { return a.As4()[3] != 2 }, "10.1.0.2"},
		{"nothing left", "10.1.0.0/29", "10.1.0.4", func(netip.Addr) bool { return true }, ""},
		{"two addresses, both good", "10.1.0.0/31", "", none, "10.1.0.0"},
		{"IPv6", "fd7a:115c:a1e0::/48", "", none, "fd7a:115c:a1e0::1"},
		{"IPv6 MagicDNS", "fd7a:115c:a1e0::/48", "fd7a:115c:a1e0::53", none, "fd7a:115c:a1e0::54"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			var from netip.Addr
			if c.from != "" {
				from = netip.MustParseAddr(c.from)
			}
			got, err := tailnet.NextAddr(netip.MustParsePrefix(c.prefix), from, c.taken)
			switch {
			case c.want == "" && !errors.Is(err, tailnet.ErrExhausted):
				t.Errorf("got %v, %v; want it exhausted", got, err)
			case c.want != "" && (err != nil || got.String() != c.want):
				t.Errorf("got %v, %v; want %s", got, err, c.want)
			}
		})
	}
}

func TestSecrets(t *testing.T) {
	random := bytes.NewReader(bytes.Repeat([]byte{0xab}, 100))
	s, err := tailnet.NewSecret(tailnet.AuthKeySecret, random)
	if err != nil {
		t.Fatal(err)
	}
	if want := "hskey-auth-" + strings.Repeat("ab", 6) + "-" + strings.Repeat("ab", 32); s.Reveal() != want {
		t.Errorf("got %s, want %s", s.Reveal(), want)
	}
	if strings.Contains(s.String(), strings.Repeat("ab", 7)) {
		t.Errorf("the printed form shows the secret: %s", s)
	}
	again, err := tailnet.ParseSecret(tailnet.AuthKeySecret, s.Reveal())
	if err != nil || !again.Matches(s.Hash()) {
		t.Errorf("the same secret, read again: got %v, %v; want a match", again, err)
	}
	other, _ := tailnet.ParseSecret(tailnet.AuthKeySecret, s.Reveal()[:len(s.Reveal())-1]+"c")
	if other.Matches(s.Hash()) {
		t.Error("another secret matches")
	}
	for _, bad := range []string{"", "tskey-auth-x", "hskey-api-" + strings.Repeat("a", 12) + "-" + strings.Repeat("a", 64), s.Reveal()[:40], s.Reveal() + "x"} {
		if _, err := tailnet.ParseSecret(tailnet.AuthKeySecret, bad); err == nil || bad != "" && strings.Contains(err.Error(), bad) {
			t.Errorf("%q: got %v, want an error that does not repeat it", bad, err)
		}
	}
}

func TestRegistrationRefs(t *testing.T) {
	id, digits := strings.Repeat("0a", 12), strings.Repeat("0b", 32)
	for text, want := range map[string]tailnet.RegistrationRef{
		"hskey-authreq-" + id: {ID: "hskey-authreq-" + id},
		"hskey-reg-" + id:     {ID: "hskey-authreq-" + id},
		id:                    {ID: "hskey-authreq-" + id},
		digits:                {Digits: digits},
		"mkey:" + digits:      {Digits: digits},
		"nodekey:" + digits:   {Digits: digits},
		" " + digits + "\n":   {Digits: digits},

		"nodekey:" + id:               {ID: "hskey-authreq-" + id},
		"nodekey:hskey-authreq-" + id: {ID: "hskey-authreq-" + id},
	} {
		if got, err := tailnet.ParseRegistrationRef(text); err != nil || got != want {
			t.Errorf("%q: got %+v, %v; want %+v", text, got, err, want)
		}
	}
	for _, bad := range []string{"", "xyz", id[1:], digits + "00", "hskey-authreq-"} {
		if got, err := tailnet.ParseRegistrationRef(bad); err == nil {
			t.Errorf("%q: got %+v, want an error", bad, got)
		}
	}
}

func TestFreeName(t *testing.T) {
	taken := map[string]bool{"box": true, "box-1": true}
	if got := tailnet.FreeName("box", func(s string) bool { return taken[s] }); got != "box-2" {
		t.Errorf("got %q, want box-2", got)
	}
	long := strings.Repeat("a", 63)
	got := tailnet.FreeName(long, func(s string) bool { return s == long })
	if len(got) > 63 || !strings.HasSuffix(got, "-1") || tailnet.ValidateGivenName(got) != nil {
		t.Errorf("a long name: got %q, want one that fits into a label", got)
	}
	for hostname, want := range map[string]string{"Alice's MacBook Pro": "alices-macbook-pro", "": "node", "___": "node", "db.example.com": "db-example-com"} {
		if got := tailnet.BaseName(hostname); got != want {
			t.Errorf("%q: got %q, want %q", hostname, got, want)
		}
	}
}

func router(id tailnet.NodeID, online bool, primary bool, routes ...string) *tailnet.Node {
	n := &tailnet.Node{ID: id, Online: online, Hostinfo: &tailcfg.Hostinfo{}}
	for _, r := range routes {
		n.Hostinfo.RoutableIPs = append(n.Hostinfo.RoutableIPs, netip.MustParsePrefix(r))
	}
	n.ApprovedRoutes = n.Hostinfo.RoutableIPs
	if primary {
		n.PrimaryRoutes = n.ServedSubnets()
	}
	return n
}

func TestElectPrimaries(t *testing.T) {
	const net1 = "10.1.0.0/24"
	cases := []struct {
		name  string
		nodes []*tailnet.Node
		want  tailnet.NodeID
	}{
		{"the first created", []*tailnet.Node{router(2, true, false, net1), router(1, true, false, net1)}, 1},
		{"an online one", []*tailnet.Node{router(1, false, false, net1), router(2, true, false, net1)}, 2},
		{"who has it keeps it", []*tailnet.Node{router(1, true, false, net1), router(2, true, true, net1)}, 2},
		{"but not when it is gone", []*tailnet.Node{router(1, true, false, net1), router(2, false, true, net1)}, 1},
		{"with none online who has it keeps it", []*tailnet.Node{router(1, false, false, net1), router(2, false, true, net1)}, 2},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			for id, routes := range tailnet.ElectPrimaries(c.nodes) {
				if got := len(routes) == 1; got != (id == c.want) {
					t.Errorf("node %d is primary: got %v, want node %d to be", id, got, c.want)
				}
			}
		})
	}
	exit := router(3, true, false, "0.0.0.0/0", "::/0", net1)
	if got := tailnet.ElectPrimaries([]*tailnet.Node{exit})[3]; len(got) != 1 || got[0].String() != net1 {
		t.Errorf("an exit node: got primary %v, want the subnet only", got)
	}
}

func TestRoutes(t *testing.T) {
	if _, err := tailnet.ParseRoute("192.168.1.7/24"); err == nil || !strings.Contains(err.Error(), "192.168.1.0/24") {
		t.Errorf("host bits: got %v, want the right spelling", err)
	}
	half := []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0"), netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("10.0.0.0/8")}
	if got := tailnet.CanonicalRoutes(half); len(got) != 3 || !slices.Contains(got, netip.MustParsePrefix("::/0")) {
		t.Errorf("half an exit node: got %v, want both exit routes and the subnet once", got)
	}
	n := router(1, true, false, "10.0.0.0/8")
	n.ApprovedRoutes = []netip.Prefix{netip.MustParsePrefix("10.9.0.0/16")}
	if got := n.ServedRoutes(); len(got) != 0 {
		t.Errorf("approved, but not announced: got %v served", got)
	}
}

func TestKeysThatAreNotGoodAnyMore(t *testing.T) {
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	past, future := now.Add(-time.Hour), now.Add(time.Hour)
	for _, c := range []struct {
		name string
		key  tailnet.PreAuthKey
		good bool
	}{
		{"new", tailnet.PreAuthKey{}, true},
		{"to expire", tailnet.PreAuthKey{Expiration: &future}, true},
		{"expired", tailnet.PreAuthKey{Expiration: &past, Reusable: true}, false},
		{"expires now", tailnet.PreAuthKey{Expiration: &now}, false},
		{"used", tailnet.PreAuthKey{Used: true}, false},
		{"used and reusable", tailnet.PreAuthKey{Used: true, Reusable: true}, true},
	} {
		if err := c.key.Usable(now); (err == nil) != c.good || err != nil && !errors.Is(err, tailnet.ErrKeyRefused) {
			t.Errorf("%s: got %v, want good %v", c.name, err, c.good)
		}
	}
}

// The law of snapshots: a delta after another gives what a full one would, and what did not change is shared.
func FuzzSnapshotNext(f *testing.F) {
	f.Add(uint64(1), 10)
	f.Add(uint64(7), 200)
	f.Fuzz(func(t *testing.T, seed uint64, steps int) {
		r := rand.New(rand.NewPCG(seed, 0))
		want := map[tailnet.NodeID]*tailnet.Node{}
		s := (*tailnet.Snapshot)(nil).Next(tailnet.Delta{Full: true, Rev: 1})
		for range min(max(steps, 0), 300) {
			was, d := s, tailnet.Delta{Rev: s.Rev + 1}
			for range r.IntN(4) {
				id := tailnet.NodeID(1 + r.IntN(20))
				if slices.Contains(d.NodesGone, id) || slices.ContainsFunc(d.Nodes, func(n *tailnet.Node) bool { return n.ID == id }) {
					continue
				}
				if r.IntN(3) == 0 {
					d.NodesGone = append(d.NodesGone, id)
					delete(want, id)
				} else {
					n := &tailnet.Node{ID: id}
					d.Nodes = append(d.Nodes, n)
					want[id] = n
				}
			}
			s = was.Next(d)
			if len(s.Nodes) != len(want) {
				t.Fatalf("got %d nodes, want %d", len(s.Nodes), len(want))
			}
			for id := range tailnet.NodeID(22) {
				if n := want[id]; s.Node(id) != n {
					t.Fatalf("node %d: got %p, want %p", id, s.Node(id), n)
				}
			}
			tailnet.Compare(was.Nodes, s.Nodes, func(was, is *tailnet.Node) {
				touched := func(n *tailnet.Node) bool {
					return n != nil && (slices.Contains(d.Nodes, n) || slices.Contains(d.NodesGone, n.ID) || want[n.ID] != n)
				}
				if !touched(was) && !touched(is) {
					t.Fatalf("%v and %v differ, but nothing happened to them", was, is)
				}
			})
		}
	})
}
