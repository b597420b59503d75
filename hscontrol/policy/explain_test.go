package policy_test

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"strings"
	"testing"

	"github.com/keelscale/keelscale/hscontrol/policy"
	"github.com/keelscale/keelscale/hscontrol/tailnet"
	"go4.org/netipx"
	"tailscale.com/types/ipproto"
	"tailscale.com/wgengine/filter"
)

// clientFilter is the packet filter of the real client with the node's rules.
func clientFilter(t *testing.T, c *policy.Compiled, n *tailnet.Node) *filter.Filter {
	t.Helper()
	matches, err := filter.MatchesFromFilterRules(c.Filter(n.ID))
	if err != nil {
		t.Fatalf("the client cannot read the filter of node %d: %v", n.ID, err)
	}
	var local, logged netipx.IPSetBuilder
	for _, p := range n.Prefixes() {
		local.AddPrefix(p)
	}
	for _, p := range n.ServedRoutes() {
		local.AddPrefix(p)
	}
	localSet, err := local.IPSet()
	if err != nil {
		t.Fatal(err)
	}
	loggedSet, _ := logged.IPSet()
	return filter.New(matches, nil, localSet, loggedSet, nil, func(string, ...any) {})
}

// receiver is the node that v sends packets for dst to, by the longest prefix as the client does; nil if to nobody.
func receiver(c *policy.Compiled, s *tailnet.Snapshot, v *tailnet.Node, dst netip.Addr) *tailnet.Node {
	var best *tailnet.Node
	bits := -1
	for _, p := range s.Nodes {
		if p.IPv4 == dst || p.IPv6 == dst {
			return p
		}
		for _, r := range c.Routes(v.ID, p.ID) {
			if r.Contains(dst) && r.Bits() > bits {
				best, bits = p, r.Bits()
			}
		}
	}
	return best
}

// TestExplainAgreesWithClient asks about random packets and gives the same packets to the client's own filter.
func TestExplainAgreesWithClient(t *testing.T) {
	asked := 0
	for seed := range uint64(150) {
		r := seeded(seed)
		s := smallTailnet(r)
		noHolders(s)
		grants, acls := randomRules(r)
		text := policyOf(append(grants, viaGrant(r)), acls)
		c := compiled(t, text, s)
		filters := map[tailnet.NodeID]*filter.Filter{}
		for range 100 {
			from := s.Nodes[r.IntN(len(s.Nodes))]
			dst := randomAddress(r, s)
			to := receiver(c, s, from, dst)
			if to == nil || to.ID == from.ID {
				continue
			}
			src := from.IPv4
			if dst.Is6() {
				src = from.IPv6
			}
			if filters[to.ID] == nil {
				filters[to.ID] = clientFilter(t, c, to)
			}
			port := []uint16{22, 53, 80, 443, 9999}[r.IntN(5)]
			proto := []ipproto.Proto{ipproto.TCP, ipproto.UDP}[r.IntN(2)]
			want := filters[to.ID].Check(src, dst, port, proto) == filter.Accept
			q := policy.Question{From: src.String(), To: dst.String(), Port: port, Proto: fmt.Sprint(int(proto))}
			got, err := c.Explain(s, q)
			if err != nil {
				t.Fatalf("seed %d: %+v: %v", seed, q, err)
			}
			if asked++; got.Allowed != want {
				t.Fatalf("seed %d: %+v: got %v by %v (%v), client of node %d says %v, routes %v, filter %v\n%s", seed, q, got.Allowed, got.Rule, got.Steps, to.ID, want, to.ServedRoutes(), c.Filter(to.ID), text)
			}
			if got.Allowed != (len(got.Lacks) == 0 && got.Rule != nil) && len(c.Filter(to.ID)) > 0 {
				t.Fatalf("seed %d: %+v: answer %+v does not fit itself", seed, q, got)
			}
		}
	}
	if asked < 1000 {
		t.Errorf("asked %d questions, want many more", asked)
	}
}

func randomAddress(r *rand.Rand, s *tailnet.Snapshot) netip.Addr {
	switch n := s.Nodes[r.IntN(len(s.Nodes))]; r.IntN(4) {
	case 0:
		return netip.MustParseAddr(pick(r, "10.33.1.7", "10.33.9.9", "10.1.1.1", "192.168.1.2", "fd00:1::7", "8.8.8.8", "2001:db8::1"))
	case 1:
		return n.IPv6
	default:
		return n.IPv4
	}
}

func TestExplain(t *testing.T) {
	s := madeTailnet(6) // node3 is tag:t3, node6 is tag:t6, the others are user1's
	serve(s.Nodes[5], "10.0.0.0/24")
	elect(s)
	c := compiled(t, `{
		"tagOwners": {"tag:t3": [], "tag:t6": []},
		"groups": {"group:dev": ["user1@example.com"]},
		"hosts": {"db": "10.0.0.5"},
		"acls": [
			{"action": "accept", "src": ["group:dev"], "dst": ["tag:t3:5432"]},
			{"action": "accept", "proto": "tcp", "src": ["group:dev"], "dst": ["db:80-443"]},
			{"action": "accept", "proto": "tcp", "src": ["node@", "100.64.0.1"], "dst": ["tag:t3:22"]},
		],
		"ssh": [{"action": "check", "src": ["group:dev"], "dst": ["tag:t3"], "users": ["autogroup:nonroot"]}],
	}`, s)
	for _, test := range []struct {
		q       policy.Question
		outcome string
		rule    string
		says    string // a part of steps or lacks
	}{
		{policy.Question{From: "node1", To: "node3", Port: 5432}, "accept", "acls[0], line 6", "group:dev holds user1@example.com (line 3)"},
		{policy.Question{From: "node1", To: "node3", Port: 5433}, "deny", "acls[0], line 6", "ports 5432 do not hold 5433"},
		{policy.Question{From: "node3", To: "node1", Port: 5432}, "deny", "acls[0], line 6", "does not hold node3"},
		{policy.Question{From: "user1@", To: "tag:t3", Port: 5432, Proto: "udp"}, "accept", "acls[0], line 6", "tag:t3 is on node3"},
		{policy.Question{From: "node2", To: "db", Port: 100}, "accept", "acls[1], line 7", "10.0.0.5 lies in 10.0.0.0/24, which node6 serves"},
		{policy.Question{From: "node2", To: "db", Port: 100, Proto: "udp"}, "deny", "acls[1], line 7", "about protocol tcp"},
		{policy.Question{From: "node2", To: "10.0.9.9", Port: 80}, "deny", "acls[1], line 7", "no router serves 10.0.9.9"},
		{policy.Question{From: "node1", To: "node3", SSH: "alice"}, "check", "ssh[0], line 10", `autogroup:nonroot holds "alice"`},
		{policy.Question{From: "node1", To: "node3", SSH: "alice"}, "check", "ssh[0], line 10", "port 22 of node3 is open to node1 by acls[2], line 8"},
		{policy.Question{From: "node2", To: "node3", SSH: "alice"}, "deny", "acls[0], line 6", "ssh[0], line 10 would answer check, but packets to port 22 do not pass"},
		{policy.Question{From: "node1", To: "node3", SSH: "root"}, "deny", "ssh[0], line 10", `do not let in "root"`},
	} {
		a, err := c.Explain(s, test.q)
		if err != nil {
			t.Errorf("%+v: %v", test.q, err)
			continue
		}
		if a.Outcome != test.outcome || a.Allowed != (test.outcome != "deny") || a.Rule.String() != test.rule {
			t.Errorf("%+v: got %s by %v, want %s by %s", test.q, a.Outcome, a.Rule, test.outcome, test.rule)
		}
		if said := strings.Join(append(a.Steps, a.Lacks...), "\n"); !strings.Contains(said, test.says) {
			t.Errorf("%+v: got %q, want it to say %q", test.q, said, test.says)
		}
	}
	for _, q := range []policy.Question{{From: "nobody%", To: "node1"}, {From: "node1", To: "tag:nope"}, {From: "node1", To: "node2", Proto: "smtp"}} {
		if a, err := c.Explain(s, q); err == nil {
			t.Errorf("%+v: got %+v, want an error", q, a)
		}
	}
}

func TestExplainNamesTheRule(t *testing.T) {
	s := madeTailnet(6)
	c := compiled(t, "{\"acls\": [\n// why\n{\"action\": \"accept\", /* who */ \"src\": [\"*\"], \"dst\": [\"*:22\"]}]}", s)
	a, err := c.Explain(s, policy.Question{From: "node1", To: "node2", Port: 22})
	if err != nil {
		t.Fatal(err)
	}
	if got, want := a.Rule.Text, `{"action":"accept","src":["*"],"dst":["*:22"]}`; got != want || a.Rule.Line != 3 {
		t.Errorf("got rule %q in line %d, want %q in line 3", got, a.Rule.Line, want)
	}
	if _, err := c.Explain(s, policy.Question{From: "nod1", To: "node2", Port: 22}); err == nil || !strings.Contains(err.Error(), `did you mean "node1"?`) {
		t.Errorf("a name that is wrong: got %v, want the right one suggested", err)
	}
}

func TestExplainWithoutPolicy(t *testing.T) {
	s := madeTailnet(6)
	c, err := policy.Compile(nil, s)
	if err != nil {
		t.Fatal(err)
	}
	a, err := c.Explain(s, policy.Question{From: "node1", To: "node2", Port: 22})
	if err != nil || !a.Allowed || a.Rule.Section != "default" {
		t.Errorf("a packet: got %+v, %v, want it to pass by the default", a, err)
	}
	a, err = c.Explain(s, policy.Question{From: "node1", To: "node2", SSH: "root"})
	if err != nil || a.Allowed || !strings.Contains(strings.Join(a.Lacks, " "), "no rule in ssh") {
		t.Errorf("a login: got %+v, %v, want no", a, err)
	}
	if _, err = c.Explain(s, policy.Question{From: "nobody", To: "node2", Port: 22}); err == nil {
		t.Error("somebody who is not there: got an answer")
	}
}

func TestParseQuestion(t *testing.T) {
	for _, test := range []struct {
		to, proto, ssh string
		want           policy.Question
		says           string
	}{
		{to: "db:5432", want: policy.Question{To: "db", Port: 5432}},
		{to: "tag:web:443", proto: "udp", want: policy.Question{To: "tag:web", Port: 443}},
		{to: "[fd7a::1]:22", want: policy.Question{To: "fd7a::1", Port: 22}},
		{to: "fd7a::1", proto: "icmp", want: policy.Question{To: "fd7a::1"}},
		{to: "db", proto: "icmp", want: policy.Question{To: "db"}},
		{to: "tag:web", ssh: "root", want: policy.Question{To: "tag:web"}},
		{to: "db:22", ssh: "root", want: policy.Question{To: "db", Port: 22}},
		{to: "db:23", ssh: "root", says: "port 22 only"},
		{to: "db", says: `write HOST:PORT, such as db:443`},
		{to: "db:1-2", says: "one port"},
		{to: "db:80", proto: "smtp", says: "unknown protocol"},
		{says: "say both ends"},
	} {
		got, err := policy.ParseQuestion("box", test.to, test.proto, test.ssh)
		if test.says != "" {
			if err == nil || !strings.Contains(err.Error(), test.says) {
				t.Errorf("%+v: got %v, want %q", test, err, test.says)
			}
			continue
		}
		test.want.From, test.want.Proto, test.want.SSH = "box", test.proto, test.ssh
		if err != nil || got != test.want {
			t.Errorf("%+v: got %+v, %v, want %+v", test, got, err, test.want)
		}
	}
}

func TestResults(t *testing.T) {
	s := madeTailnet(6)
	c := compiled(t, `{
		"tagOwners": {"tag:t3": []},
		"acls": [{"action": "accept", "src": ["user1@example.com"], "dst": ["tag:t3:80"]}],
		"tests": [
			{"src": "user1@example.com", "accept": ["tag:t3:80"]},
			{"src": "tag:t3", "accept": ["user1@example.com:80"], "deny": ["tag:t3:80"]},
		],
		"sshTests": [{"src": "user1@example.com", "dst": ["tag:t3"], "deny": ["root"]}],
	}`, s)
	got := c.Results(s)
	if len(got) != 3 || len(got[0].Failures) != 0 || len(got[1].Failures) != 1 || len(got[2].Failures) != 0 {
		t.Fatalf("got %+v, want the second of three to fail by one sentence", got)
	}
	if r := got[1]; r.Section != "tests" || r.Index != 1 || r.Line != 6 || r.Src != "tag:t3" {
		t.Errorf("got %+v, want tests[1] of line 6", r)
	}
}
