package policy_test

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/keelscale/keelscale/hscontrol/policy"
	"github.com/keelscale/keelscale/hscontrol/tailnet"
	"go4.org/netipx"
	"tailscale.com/tailcfg"
)

// smallTailnet is a random tailnet of some 20 nodes, with routes that overlap each other, and sometimes the nodes.
func smallTailnet(r *rand.Rand) *tailnet.Snapshot {
	s := madeTailnet(12 + r.IntN(12))
	routes := []string{"10.0.0.0/8", "10.33.0.0/16", "10.33.1.0/24", "192.168.1.0/24", "fd00:1::/64", "0.0.0.0/0", "::/0", "100.64.0.0/29"}
	for _, n := range s.Nodes {
		if r.IntN(3) == 0 {
			n.Tags = []string{fmt.Sprintf("tag:t%d", r.IntN(4))}
			n.UserID = 0
		}
		if n.IsTagged() && r.IntN(2) == 0 {
			n.Tags = []string{"tag:t0", "tag:t1"}
		}
		if r.IntN(3) == 0 {
			route := routes[r.IntN(len(routes))]
			if route == "0.0.0.0/0" {
				serve(n, "::/0")
			}
			serve(n, route)
		}
		n.ApprovedRoutes = tailnet.CanonicalRoutes(n.ApprovedRoutes)
	}
	elect(s)
	return s
}

func pick(r *rand.Rand, words ...string) string { return words[r.IntN(len(words))] }

func randomSrc(r *rand.Rand) string {
	return pick(r, "*", "tag:t0", "tag:t1", "tag:t2", "user1@example.com", "user2@example.com", "group:a", "group:b",
		"autogroup:member", "autogroup:tagged", "10.33.0.0/16", "100.64.0.3", "lab", "autogroup:danger-all", "100.64.0.2-100.64.0.6")
}

func randomDst(r *rand.Rand) string {
	return pick(r, "*", "tag:t0", "tag:t1", "tag:t3", "user1@example.com", "group:a", "autogroup:member", "autogroup:tagged",
		"10.33.0.0/16", "10.33.1.7", "100.64.0.3", "lab", "autogroup:internet", "fd00:1::/64", "100.64.0.0/30", "ipset:some")
}

// randomRules are random grants and ACLs, as JSON texts.
func randomRules(r *rand.Rand) (grants, acls []string) {
	list := func(word func(*rand.Rand) string, suffix string) string {
		var words []string
		for range 1 + r.IntN(3) {
			words = append(words, word(r)+suffix)
		}
		b, _ := json.Marshal(words)
		return string(b)
	}
	port := func() string { return pick(r, "22", "80-443", "*", "53") }
	for range r.IntN(4) {
		grants = append(grants, fmt.Sprintf(`{"src": %s, "dst": %s, "ip": ["%s%s"]}`, list(randomSrc, ""), list(randomDst, ""), pick(r, "tcp:", "udp:", ""), port()))
	}
	for range r.IntN(4) {
		acls = append(acls, fmt.Sprintf(`{"action": "accept", "src": %s, "dst": %s}`, list(randomSrc, ""), list(randomDst, ":"+port())))
	}
	if r.IntN(2) == 0 {
		acls = append(acls, `{"action": "accept", "src": ["autogroup:member"], "dst": ["autogroup:self:*"]}`)
	}
	if r.IntN(3) == 0 {
		grants = append(grants, `{"src": ["tag:t1"], "dst": ["tag:t2", "user1@example.com"], "app": {"tailscale.com/cap/drive": [{"shares": ["*"]}]}}`)
	}
	return grants, acls
}

func viaGrant(r *rand.Rand) string {
	return fmt.Sprintf(`{"src": [%q], "dst": [%q], "ip": ["*"], "via": ["tag:t0"]}`, pick(r, "tag:t1", "group:a"), pick(r, "10.33.0.0/16", "autogroup:internet"))
}

func policyOf(grants, acls []string) string {
	return fmt.Sprintf(`{
		"groups": {"group:a": ["user1@example.com", "user3@example.com"], "group:b": ["user2@example.com"]},
		"tagOwners": {"tag:t0": [], "tag:t1": [], "tag:t2": [], "tag:t3": [], %s},
		"hosts": {"lab": "10.33.1.0/24"},
		"ipsets": {"ipset:some": ["add 10.33.0.0/16", "remove 10.33.2.0/24", "100.64.0.5"]},
		"grants": [%s], "acls": [%s]}`, moreTags(), strings.Join(grants, ","), strings.Join(acls, ","))
}

func moreTags() string {
	var tags []string
	for t := 4; t < 20; t++ {
		tags = append(tags, fmt.Sprintf(`"tag:t%d": []`, t))
	}
	return strings.Join(tags, ", ")
}

// identity is a node's addresses and served subnet routes.
func identity(n *tailnet.Node) []netip.Prefix { return slices.Concat(n.Prefixes(), n.ServedSubnets()) }

// wire reads an address text of a packet filter.
func wire(t *testing.T, text string) []netipx.IPRange {
	t.Helper()
	if text == "*" {
		return []netipx.IPRange{netipx.MustParseIPRange("0.0.0.0-255.255.255.255"), netipx.RangeOfPrefix(netip.MustParsePrefix("::/0"))}
	}
	if strings.Contains(text, "-") {
		return []netipx.IPRange{netipx.MustParseIPRange(text)}
	}
	if strings.Contains(text, "/") {
		return []netipx.IPRange{netipx.RangeOfPrefix(netip.MustParsePrefix(text))}
	}
	a := netip.MustParseAddr(text)
	return []netipx.IPRange{netipx.IPRangeFrom(a, a)}
}

func overlapAny(t *testing.T, texts []string, prefixes []netip.Prefix) bool {
	t.Helper()
	for _, text := range texts {
		for _, r := range wire(t, text) {
			if slices.ContainsFunc(prefixes, func(p netip.Prefix) bool { return r.Overlaps(netipx.RangeOfPrefix(p)) }) {
				return true
			}
		}
	}
	return false
}

func dstTexts(rule tailcfg.FilterRule) []string {
	var texts []string
	for _, d := range rule.DstPorts {
		texts = append(texts, d.IP)
	}
	for _, g := range rule.CapGrant {
		for _, p := range g.Dsts {
			texts = append(texts, p.String())
		}
	}
	return texts
}

// checkInvariants holds what was compiled against the definitions, read from the filters as clients get them.
func checkInvariants(t *testing.T, c *policy.Compiled, s *tailnet.Snapshot, text string) {
	t.Helper()
	for _, n := range s.Nodes {
		if c.Sees(n.ID, n.ID) {
			t.Errorf("node %d sees itself under\n%s", n.ID, text)
		}
		for _, rule := range c.Filter(n.ID) {
			for _, dst := range dstTexts(rule) {
				mine := identity(n)
				if n.IsExitNode() {
					mine = append(mine, tailnet.ExitRoutes()...)
				}
				if !overlapAny(t, []string{dst}, mine) {
					t.Errorf("filter of node %d: got destination %s, want only its own %v\n%s", n.ID, dst, mine, text)
				}
			}
		}
	}
	for _, v := range s.Nodes {
		for _, p := range s.Nodes {
			if v.ID == p.ID {
				continue
			}
			if got, want := c.Sees(v.ID, p.ID), c.Sees(p.ID, v.ID); got != want {
				t.Errorf("visibility of %d and %d is not symmetric under\n%s", v.ID, p.ID, text)
			}
			checkPair(t, c, v, p, text)
		}
	}
}

// checkPair holds one pair against the definition: they see each other if a rule of one has a source that overlaps the
// identity of the other; and the routes are those of the primary, seen by whom a rule lets there, by whom one lets
// come from there, and by those that serve it too.
func checkPair(t *testing.T, c *policy.Compiled, v, p *tailnet.Node, text string) {
	t.Helper()
	sees := false
	for _, pair := range [][2]*tailnet.Node{{v, p}, {p, v}} {
		for _, rule := range c.Filter(pair[0].ID) {
			sees = sees || overlapAny(t, rule.SrcIPs, identity(pair[1]))
		}
	}
	if got := c.Sees(v.ID, p.ID); got != sees {
		t.Errorf("node %d sees node %d: got %v, want %v under\n%s", v.ID, p.ID, got, sees, text)
	}
	var want []netip.Prefix
	for _, r := range p.PrimaryRoutes {
		leads := slices.Contains(v.ServedRoutes(), r)
		for _, rule := range c.Filter(p.ID) {
			leads = leads || overlapAny(t, rule.SrcIPs, identity(v)) && overlapAny(t, dstTexts(rule), []netip.Prefix{r})
		}
		for _, rule := range c.Filter(v.ID) {
			leads = leads || overlapAny(t, rule.SrcIPs, []netip.Prefix{r})
		}
		if leads && sees {
			want = append(want, r)
		}
	}
	got := slices.DeleteFunc(slices.Clone(c.Routes(v.ID, p.ID)), tailnet.IsExitRoute)
	slices.SortFunc(want, netipx.ComparePrefix)
	if !slices.Equal(got, want) {
		t.Errorf("routes of %d for %d: got %v, want %v under\n%s", p.ID, v.ID, got, want, text)
	}
}

// noHolders takes away routes that cover nodes' addresses: autogroup:self does not look at such routes.
func noHolders(s *tailnet.Snapshot) {
	for _, n := range s.Nodes {
		n.ApprovedRoutes = slices.DeleteFunc(n.ApprovedRoutes, func(p netip.Prefix) bool { return p.Addr() == netip.MustParseAddr("100.64.0.0") })
		n.PrimaryRoutes = nil
	}
	elect(s)
}

func TestInvariants(t *testing.T) {
	for seed := range uint64(120) {
		r := seeded(seed)
		s := smallTailnet(r)
		grants, acls := randomRules(r)
		if slices.ContainsFunc(acls, func(a string) bool { return strings.Contains(a, "autogroup:self") }) {
			noHolders(s)
		}
		text := policyOf(grants, acls)
		checkInvariants(t, compiled(t, text, s), s, text)
		if t.Failed() {
			t.Fatalf("seed %d", seed)
		}
	}
	s := smallTailnet(seeded(1))
	c, err := policy.Compile(nil, s)
	if err != nil {
		t.Fatal(err)
	}
	checkInvariants(t, c, s, "no policy")
}

// TestClassesAreTrue checks that viewers of one class cannot be told apart by what they see.
func TestClassesAreTrue(t *testing.T) {
	for seed := range uint64(100) {
		r := seeded(seed)
		s := smallTailnet(r)
		grants, acls := randomRules(r)
		text := policyOf(append(grants, viaGrant(r)), acls)
		c := compiled(t, text, s)
		for _, a := range s.Nodes {
			for _, b := range s.Nodes {
				if a.ID == b.ID || c.Class(a.ID) != c.Class(b.ID) {
					continue
				}
				for _, p := range s.Nodes {
					if p.ID == a.ID || p.ID == b.ID {
						continue
					}
					if c.Sees(a.ID, p.ID) != c.Sees(b.ID, p.ID) || !slices.Equal(c.Routes(a.ID, p.ID), c.Routes(b.ID, p.ID)) {
						t.Fatalf("nodes %d and %d are of class %d but see node %d differently under\n%s", a.ID, b.ID, c.Class(a.ID), p.ID, text)
					}
				}
			}
		}
	}
}

// TestMoreRulesNeverTakeAway adds a rule and looks for anything that is gone. Rules with via are left out: they steer.
func TestMoreRulesNeverTakeAway(t *testing.T) {
	for seed := range uint64(200) {
		r := seeded(seed)
		s := smallTailnet(r)
		grants, acls := randomRules(r)
		more, _ := randomRules(r)
		before := compiled(t, policyOf(grants, acls), s)
		after := compiled(t, policyOf(append(slices.Clone(grants), more...), acls), s)
		for _, v := range s.Nodes {
			for _, p := range s.Nodes {
				if before.Sees(v.ID, p.ID) && !after.Sees(v.ID, p.ID) {
					t.Fatalf("seed %d: %d sees %d no more after adding %v", seed, v.ID, p.ID, more)
				}
				for _, route := range before.Routes(v.ID, p.ID) {
					if !slices.Contains(after.Routes(v.ID, p.ID), route) {
						t.Fatalf("seed %d: %d lost route %v at %d after adding %v", seed, v.ID, route, p.ID, more)
					}
				}
			}
			for _, rule := range before.Filter(v.ID) {
				if !slices.ContainsFunc(after.Filter(v.ID), func(o tailcfg.FilterRule) bool { return covers(o, rule) }) {
					t.Fatalf("seed %d: node %d lost rule %v of %v %v after adding %v: %v", seed, v.ID, rule, grants, acls, more, after.Filter(v.ID))
				}
			}
		}
	}
}

// covers reports whether a rule as written allows all that another does.
func covers(o, rule tailcfg.FilterRule) bool {
	within := func(a, b []string) bool {
		return !slices.ContainsFunc(b, func(x string) bool { return !slices.Contains(a, x) })
	}
	ports := func(r tailcfg.FilterRule) (texts []string) {
		for _, d := range r.DstPorts {
			texts = append(texts, fmt.Sprint(d))
		}
		for _, g := range r.CapGrant {
			texts = append(texts, fmt.Sprint(g))
		}
		return texts
	}
	return slices.Equal(o.IPProto, rule.IPProto) && within(o.SrcIPs, rule.SrcIPs) && within(ports(o), ports(rule))
}

// renumbered is the same tailnet with other numbers: nodes and users come in another order.
func renumbered(r *rand.Rand, s *tailnet.Snapshot) *tailnet.Snapshot {
	users, nodes := r.Perm(len(s.Users)), r.Perm(len(s.Nodes))
	out := &tailnet.Snapshot{Tailnet: s.Tailnet, Users: map[tailnet.UserID]*tailnet.User{}, Nodes: make([]*tailnet.Node, len(s.Nodes))}
	for id, u := range s.Users {
		c := *u
		c.ID = tailnet.UserID(1 + users[id-1])
		out.Users[c.ID] = &c
	}
	for i, n := range s.Nodes {
		c := *n
		c.ID = tailnet.NodeID(1 + nodes[i])
		if !c.IsTagged() {
			c.UserID = tailnet.UserID(1 + users[n.UserID-1])
		}
		out.Nodes[nodes[i]] = &c
	}
	return out
}

// TestNumbersDoNotMatter gives nodes and users other IDs, and so another order, and finds the same meaning. Rules with
// via are left out: of several routers with the tag they choose the one with the lowest ID.
func TestNumbersDoNotMatter(t *testing.T) {
	for seed := range uint64(100) {
		r := seeded(seed)
		s := smallTailnet(r)
		grants, acls := randomRules(r)
		text := policyOf(grants, acls)
		other := renumbered(r, s)
		one, two := compiled(t, text, s), compiled(t, text, other)
		twin := func(n *tailnet.Node) tailnet.NodeID { return other.NodeByName(n.GivenName).ID }
		for _, v := range s.Nodes {
			if diff := cmp.Diff(sortedFilter(one.Filter(v.ID)), sortedFilter(two.Filter(twin(v)))); diff != "" {
				t.Fatalf("seed %d: filter of %s depends on the order of nodes or users:\n%s", seed, v.GivenName, diff)
			}
			if diff := cmp.Diff(one.Caps(v.ID), two.Caps(twin(v))); diff != "" {
				t.Fatalf("seed %d: capabilities of %s depend on it:\n%s", seed, v.GivenName, diff)
			}
			for _, p := range s.Nodes {
				if one.Sees(v.ID, p.ID) != two.Sees(twin(v), twin(p)) || !slices.Equal(one.Routes(v.ID, p.ID), two.Routes(twin(v), twin(p))) {
					t.Fatalf("seed %d: what %s sees of %s depends on the order of nodes or users under\n%s", seed, v.GivenName, p.GivenName, text)
				}
			}
		}
	}
}

// TestOrderDoesNotMatter shuffles rules, and finds the same meaning.
func TestOrderDoesNotMatter(t *testing.T) {
	for seed := range uint64(100) {
		r := seeded(seed)
		s := smallTailnet(r)
		grants, acls := randomRules(r)
		one := compiled(t, policyOf(grants, acls), s)
		r.Shuffle(len(grants), func(i, j int) { grants[i], grants[j] = grants[j], grants[i] })
		r.Shuffle(len(acls), func(i, j int) { acls[i], acls[j] = acls[j], acls[i] })
		two := compiled(t, policyOf(grants, acls), s)
		for _, v := range s.Nodes {
			if diff := cmp.Diff(sortedFilter(one.Filter(v.ID)), sortedFilter(two.Filter(v.ID))); diff != "" {
				t.Fatalf("seed %d: filter of %d depends on the order of rules:\n%s", seed, v.ID, diff)
			}
			for _, p := range s.Nodes {
				if one.Sees(v.ID, p.ID) != two.Sees(v.ID, p.ID) || !slices.Equal(one.Routes(v.ID, p.ID), two.Routes(v.ID, p.ID)) {
					t.Fatalf("seed %d: what %d sees of %d depends on the order of rules", seed, v.ID, p.ID)
				}
			}
		}
	}
}

func sortedFilter(rules []tailcfg.FilterRule) []string {
	var texts []string
	for _, r := range rules {
		var dst []string
		for _, d := range r.DstPorts {
			dst = append(dst, fmt.Sprint(d))
		}
		slices.Sort(dst)
		texts = append(texts, fmt.Sprint(r.SrcIPs, r.IPProto, dst, r.CapGrant))
	}
	slices.Sort(texts)
	return texts
}
