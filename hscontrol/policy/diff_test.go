package policy_test

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/keelscale/keelscale/hscontrol/policy"
	"github.com/keelscale/keelscale/hscontrol/tailnet"
)

func parsed(t testing.TB, text string) *policy.Policy {
	t.Helper()
	p, err := policy.Parse(text)
	if err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	return p
}

func TestDiff(t *testing.T) {
	s := madeTailnet(6) // node3 is tag:t3, node6 tag:t6, the others are user1's
	serve(s.Nodes[5], "10.0.0.0/24")
	elect(s)
	const head = `{"tagOwners": {"tag:t3": [], "tag:t6": []}, `
	before := parsed(t, head+`
		"acls": [
			{"action": "accept", "src": ["user1@example.com"], "dst": ["tag:t3:80-90"]},
			{"action": "accept", "proto": "tcp", "src": ["node@", "tag:t3"], "dst": ["10.0.0.0/24:443"]},
		],
		"ssh": [{"action": "accept", "src": ["tag:t6"], "dst": ["tag:t3"], "users": ["root", "autogroup:nonroot"]}]}`)
	after := parsed(t, head+`
		"acls": [
			{"action": "accept", "proto": "tcp", "src": ["user1@example.com"], "dst": ["tag:t3:85"]},
			{"action": "accept", "proto": "tcp", "src": ["tag:t3"], "dst": ["10.0.0.128/25:443"]},
		],
		"nodeAttrs": [{"target": ["tag:t3"], "attr": ["funnel"]}],
		"autoApprovers": {"routes": {"10.0.0.0/8": ["tag:t6"]}},
		"ssh": [{"action": "check", "src": ["tag:t6"], "dst": ["tag:t3"], "users": ["root"]}]}`)
	got, err := policy.Diff(before, after, s)
	if err != nil {
		t.Fatal(err)
	}
	users := []string{"node1", "node2", "node4", "node5"}
	want := &policy.Changes{
		Packets: []policy.PacketChange{
			{Lost: true, From: []string{"node3"}, To: []string{"10.0.0.0/25 at node6"}, Protos: "tcp", Ports: "443"},
			{Lost: true, From: users, To: []string{"node3"}, Protos: "icmp, ipv6-icmp", Ports: "*"},
			{Lost: true, From: users, To: []string{"node3"}, Protos: "tcp", Ports: "80-84,86-90"},
			{Lost: true, From: users, To: []string{"node3"}, Protos: "udp", Ports: "80-90"},
		},
		Logins: []policy.LoginChange{
			{From: []string{"node6"}, To: []string{"node3"}, Login: "root", Was: "accept", Is: "check"},
			{From: []string{"node6"}, To: []string{"node3"}, Login: "any other name", Was: "accept", Is: "deny"},
		},
		Caps: []policy.CapChange{
			{Nodes: []string{"node3"}, Cap: "funnel"},
			{Nodes: []string{"node3"}, Cap: "https://tailscale.com/cap/funnel-ports?ports=443,8443,10000"},
		},
		Approvals: []policy.RouteChange{{Router: "node6", Route: netip.MustParsePrefix("10.0.0.0/24")}},
	}
	if diff := cmp.Diff(want, got, cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })); diff != "" {
		t.Errorf("changes (-want +got):\n%s", diff)
	}
	if !got.HasLoss() || got.IsEmpty() {
		t.Error("there are losses")
	}
	same, err := policy.Diff(after, parsed(t, after.Text()), s)
	if err != nil || !same.IsEmpty() || same.HasLoss() {
		t.Errorf("the same policy: got %+v, %v", same, err)
	}
	open, err := policy.Diff(nil, parsed(t, `{"acls": []}`), s)
	if err != nil || !open.HasLoss() || len(open.Routes) != 1 {
		t.Errorf("from no policy to deny all: got %+v, %v", open, err)
	}
	gain, err := policy.Diff(parsed(t, `{"acls": []}`), nil, s)
	if err != nil || gain.HasLoss() || gain.IsEmpty() {
		t.Errorf("from deny all to no policy: got %+v, %v", gain, err)
	}
}

// TestDiffAgreesWithExplain asks both policies about packets between nodes and looks for the difference in the list.
func TestDiffAgreesWithExplain(t *testing.T) {
	for seed := range uint64(60) {
		r := seeded(seed)
		s := smallTailnet(r)
		noHolders(s)
		var sides [2]*policy.Policy
		for i := range sides {
			grants, acls := randomRules(r)
			sides[i] = parsed(t, policyOf(grants, acls))
		}
		changes, err := policy.Diff(sides[0], sides[1], s)
		if err != nil {
			t.Fatal(err)
		}
		was, is := compiled(t, sides[0].Text(), s), compiled(t, sides[1].Text(), s)
		for range 100 {
			from, to := s.Nodes[r.IntN(len(s.Nodes))], s.Nodes[r.IntN(len(s.Nodes))]
			if from == to {
				continue
			}
			port, proto := []uint16{22, 53, 80, 9999}[r.IntN(4)], pick(r, "tcp", "udp")
			lost, gained := false, false
			for i, src := range from.Addrs() {
				q := policy.Question{From: src.String(), To: to.Addrs()[i].String(), Port: port, Proto: proto}
				a, b := allowed(t, was, s, q), allowed(t, is, s, q)
				lost, gained = lost || a && !b, gained || b && !a
			}
			q := policy.Question{From: from.GivenName, To: to.GivenName, Port: port, Proto: proto}
			if has(changes, q, true) != lost || has(changes, q, false) != gained {
				t.Fatalf("seed %d: %+v: lost %v, gained %v, but listed as %v, %v\nbefore %s\nafter %s", seed, q,
					lost, gained, has(changes, q, true), has(changes, q, false), sides[0].Text(), sides[1].Text())
			}
		}
	}
}

func allowed(t *testing.T, c *policy.Compiled, s *tailnet.Snapshot, q policy.Question) bool {
	t.Helper()
	a, err := c.Explain(s, q)
	if err != nil {
		t.Fatal(err)
	}
	return a.Allowed
}

// has reports whether the change is listed.
func has(c *policy.Changes, q policy.Question, lost bool) bool {
	return slices.ContainsFunc(c.Packets, func(p policy.PacketChange) bool {
		return p.Lost == lost && slices.Contains(p.From, q.From) && slices.Contains(p.To, q.To) &&
			slices.Contains(strings.Split(p.Protos, ", "), q.Proto) && inPorts(p.Ports, q.Port)
	})
}

func inPorts(texts string, port uint16) bool {
	for text := range strings.SplitSeq(texts, ",") {
		lo, hi := 0, 65535
		if n, _ := fmt.Sscanf(text, "%d-%d", &lo, &hi); n == 1 {
			hi = lo
		}
		if int(port) >= lo && int(port) <= hi {
			return true
		}
	}
	return false
}

func BenchmarkDiff(b *testing.B) {
	s := madeTailnet(1000)
	before, after := parsed(b, madePolicy(60, len(s.Users))), parsed(b, madePolicy(61, len(s.Users)))
	for b.Loop() {
		if _, err := policy.Diff(before, after, s); err != nil {
			b.Fatal(err)
		}
	}
}
