package policy_test

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"strings"
	"testing"

	"github.com/keelscale/keelscale/hscontrol/policy"
	"github.com/keelscale/keelscale/hscontrol/tailnet"
	"tailscale.com/tailcfg"
)

// madeTailnet makes a tailnet of n nodes: one user for every four, a third of the nodes tagged with one of 20 tags, one
// in 40 a router, one in 100 an exit node.
func madeTailnet(n int) *tailnet.Snapshot {
	s := &tailnet.Snapshot{Tailnet: &tailnet.Tailnet{ID: 1, Name: "default"}, Users: map[tailnet.UserID]*tailnet.User{}}
	for u := 1; u <= max(n/4, 1); u++ {
		name := fmt.Sprintf("user%d", u)
		s.Users[tailnet.UserID(u)] = &tailnet.User{ID: tailnet.UserID(u), Name: name, Email: name + "@example.com"}
	}
	v4, v6 := netip.MustParseAddr("100.64.0.1"), netip.MustParseAddr("fd7a:115c:a1e0::1")
	for i := 1; i <= n; i++ {
		node := &tailnet.Node{
			ID: tailnet.NodeID(i), GivenName: fmt.Sprintf("node%d", i), IPv4: v4, IPv6: v6, Online: true,
			Hostinfo: &tailcfg.Hostinfo{OS: "linux"},
		}
		v4, v6 = v4.Next(), v6.Next()
		if i%3 == 0 {
			node.Tags = []string{fmt.Sprintf("tag:t%d", i%20)}
		} else {
			node.UserID = tailnet.UserID(1 + i%len(s.Users))
		}
		if i%40 == 0 {
			serve(node, fmt.Sprintf("10.%d.0.0/16", i/40%250))
		}
		if i%100 == 0 {
			serve(node, "0.0.0.0/0", "::/0")
		}
		s.Nodes = append(s.Nodes, node)
	}
	elect(s)
	return s
}

// serve announces and approves routes.
func serve(n *tailnet.Node, routes ...string) {
	for _, r := range routes {
		n.Hostinfo.RoutableIPs = append(n.Hostinfo.RoutableIPs, netip.MustParsePrefix(r))
		n.ApprovedRoutes = append(n.ApprovedRoutes, netip.MustParsePrefix(r))
	}
}

func elect(s *tailnet.Snapshot) {
	for id, routes := range tailnet.ElectPrimaries(s.Nodes) {
		s.Node(id).PrimaryRoutes = routes
	}
}

// madePolicy makes a policy with that many rules of every kind: groups, tags, hosts, routes, autogroup:self, via.
func madePolicy(rules, users int) string {
	var b strings.Builder
	b.WriteString("{\n")
	b.WriteString(`"groups": {`)
	for g := range 20 {
		fmt.Fprintf(&b, `"group:g%d": [`, g)
		for u := g; u < users; u += 20 {
			fmt.Fprintf(&b, `"user%d@example.com",`, u+1)
		}
		b.WriteString("],\n")
	}
	b.WriteString("},\n\"tagOwners\": {")
	for t := range 20 {
		fmt.Fprintf(&b, `"tag:t%d": ["group:g%d"],`+"\n", t, t)
	}
	b.WriteString("},\n" + `"hosts": {"lab": "10.3.0.0/16"},` + "\n\"acls\": [\n")
	for r := range rules - 4 {
		fmt.Fprintf(&b, `{"action": "accept", "src": ["group:g%d", "tag:t%d"], "dst": ["tag:t%d:%d", "10.%d.0.0/16:443"]},`+"\n", r%20, (r+1)%20, (r+7)%20, 1000+r, r%50)
	}
	b.WriteString(`{"action": "accept", "src": ["autogroup:member"], "dst": ["autogroup:self:*"]},` + "\n")
	b.WriteString(`{"action": "accept", "src": ["group:g1"], "dst": ["lab:22", "autogroup:internet:*"]},` + "\n")
	b.WriteString(`],` + "\n\"grants\": [\n")
	b.WriteString(`{"src": ["group:g2"], "dst": ["10.0.0.0/8"], "ip": ["tcp:80"], "via": ["tag:t0"]},` + "\n")
	b.WriteString(`{"src": ["group:g3"], "dst": ["tag:t4"], "app": {"tailscale.com/cap/drive": [{"shares": ["*"], "access": "rw"}]}},` + "\n")
	b.WriteString(`],` + "\n")
	b.WriteString(`"ssh": [{"action": "check", "src": ["autogroup:member"], "dst": ["autogroup:self"], "users": ["autogroup:nonroot"]}],` + "\n")
	b.WriteString(`"nodeAttrs": [{"target": ["group:g5"], "attr": ["funnel"]}],` + "\n}\n")
	return b.String()
}

// compiled parses and compiles a policy that must be right.
func compiled(t testing.TB, text string, s *tailnet.Snapshot) *policy.Compiled {
	t.Helper()
	p, err := policy.Parse(text)
	if err != nil {
		t.Fatalf("parsing: %v\n%s", err, text)
	}
	c, err := policy.Compile(p, s)
	if err != nil {
		t.Fatalf("compiling: %v\n%s", err, text)
	}
	return c
}

// seeded is a source of randomness that gives the same for the same seed.
func seeded(seed uint64) *rand.Rand { return rand.New(rand.NewPCG(seed, 1)) }
