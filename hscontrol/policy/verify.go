package policy

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/keelscale/keelscale/hscontrol/tailnet"
	"go4.org/netipx"
)

// ErrTestsFailed is the fact that tests or sshTests of a policy did not pass.
var ErrTestsFailed = errors.New("test(s) failed")

// Test says why the policy should not be set while the tailnet is as it is: names that mean nothing in it, and the
// policy's own tests and sshTests. Nil when all is well. A policy in force stays in force whatever Test says of it.
func (c *Compiled) Test(s *tailnet.Snapshot) error {
	if c.policy == nil {
		return nil
	}
	if r := c.policy.strayPool(s.Prefixes); r != nil {
		return r
	}
	return c.verify(s)
}

// strayPool refuses pools from which no node of the tailnet can get an address. Without ranges there is nothing to say.
func (p *Policy) strayPool(ranges []netip.Prefix) *Refusal {
	if len(ranges) == 0 {
		return nil
	}
	for _, a := range p.attrs {
		for _, pool := range a.pools {
			within := func(r netip.Prefix) bool { return r.Bits() <= pool.Bits() && r.Contains(pool.Addr()) }
			if !slices.ContainsFunc(ranges, within) {
				return refuse(a.line, fmt.Sprintf("the addresses of the tailnet are in %v: choose a part of these", ranges),
					"ipPool: %s does not lie in a range of the tailnet", pool)
			}
		}
	}
	return nil
}

// verify is Test as far as it concerns what nodes are told.
func (c *Compiled) verify(s *tailnet.Snapshot) error {
	if len(c.doubts) > 0 {
		return c.doubts[0]
	}
	for i := range c.policy.sshTests {
		if r := c.checkSSHTest(&c.policy.sshTests[i]); r != nil {
			return r.at(fmt.Sprintf("sshTests[%d]", i))
		}
	}
	var failed []string
	for _, r := range c.Results(s) {
		for _, why := range r.Failures {
			failed = append(failed, fmt.Sprintf("line %d: %s[%d]: %s", r.Line, r.Section, r.Index, why))
		}
	}
	if len(failed) == 0 {
		return nil
	}
	const shown = 20
	if len(failed) > shown {
		failed = append(failed[:shown], fmt.Sprintf("and %d more", len(failed)-shown))
	}
	return fmt.Errorf("%w:\n  %s", ErrTestsFailed, strings.Join(failed, "\n  "))
}

// TestResult is the outcome of one entry of tests or sshTests.
type TestResult struct {
	Section  string // tests or sshTests
	Index    int
	Line     int
	Src      string
	Failures []string // what is not as the entry has it; empty: it passed
}

// Results runs all tests and sshTests of the policy.
func (c *Compiled) Results(s *tailnet.Snapshot) []TestResult {
	if c.policy == nil {
		return nil
	}
	v := verifier{c, s}
	var list []TestResult
	for i, t := range c.policy.tests {
		list = append(list, TestResult{"tests", i, t.line, t.src.text, v.test(t)})
	}
	for i, t := range c.policy.sshTests {
		list = append(list, TestResult{"sshTests", i, t.line, t.src.text, v.sshTest(t)})
	}
	return list
}

// verifier holds a compiled policy against its tests. Tests are about identities, so they work for users and tags that
// have no nodes yet.
type verifier struct {
	c *Compiled
	s *tailnet.Snapshot
}

// party is one end of a test: a user or tags, and addresses. Without addresses it is a user or tag without nodes.
type party struct {
	user  *tailnet.User
	tags  []string
	addrs []netip.Addr
	node  int // its number, -1 for none
}

// parties are the ends that a word stands for; an error when it stands for none.
func (v verifier) parties(text string) ([]party, error) {
	s, r := v.c.policy.selector(word{text, 0})
	if r != nil {
		return nil, errors.New(r.What)
	}
	var list []party
	switch s.kind {
	case byTag:
		for i := range v.c.x.byTag[s.name].all() {
			list = append(list, v.nodeParty(i))
		}
		if list == nil {
			list = []party{{tags: []string{s.name}, node: -1}}
		}
	case byTagged:
		for i := range v.c.x.tagged.all() {
			list = append(list, v.nodeParty(i))
		}
	case bySet:
		if len(s.ranges) != 1 || s.ranges[0].From() != s.ranges[0].To() || strings.Contains(text, "/") {
			return nil, fmt.Errorf("%q is not one address", text)
		}
		return []party{v.addressParty(s.ranges[0].From())}, nil
	case byUser, byGroup, byDomain, byMember, byRole:
		list = v.userParties(s)
	default:
		return nil, fmt.Errorf("%q cannot be tested: name a user, group, tag or host", text)
	}
	if len(list) == 0 {
		return nil, fmt.Errorf("%q is nobody", text)
	}
	return list, nil
}

func (v verifier) nodeParty(i int) party {
	p := party{addrs: v.c.x.ownAddresses(i), node: i, tags: v.c.x.tags[i]}
	if len(p.tags) == 0 {
		p.user = v.s.Users[v.c.x.users[i]]
	}
	return p
}

// addressParty is an address, with the identity of the node that has it.
func (v verifier) addressParty(a netip.Addr) party {
	p := party{node: -1}
	if in := v.c.x.addressesIn(netipx.IPRangeFrom(a, a)); len(in) > 0 {
		p = v.nodeParty(in[0].node)
	}
	p.addrs = []netip.Addr{a}
	return p
}

func (v verifier) userParties(s selector) []party {
	var list []party
	for _, id := range sortedIDs(v.s.Users) {
		u := v.s.Users[id]
		if !v.c.policy.userIs(s, u) {
			continue
		}
		nodes := v.c.x.byUser[id]
		if nodes == nil {
			list = append(list, party{user: u, node: -1})
		}
		for i := range nodes.all() {
			list = append(list, v.nodeParty(i))
		}
	}
	return list
}

// test is what an entry of tests fails by.
func (v verifier) test(t test) (failed []string) {
	protos, ok := parseProto(strings.TrimSpace(t.proto.text))
	if !ok {
		return []string{fmt.Sprintf("unknown protocol %q", t.proto.text)}
	}
	if protos == nil {
		protos = []int{6}
	}
	from, err := v.parties(t.src.text)
	if err != nil {
		return []string{fmt.Sprintf("src: %v", err)}
	}
	if len(t.accept)+len(t.deny) == 0 {
		return []string{"neither accept nor deny is given"}
	}
	for _, w := range t.accept {
		if why := v.reaches(from, w.text, protos[0], true); why != "" {
			failed = append(failed, why)
		}
	}
	for _, w := range t.deny {
		if why := v.reaches(from, w.text, protos[0], false); why != "" {
			failed = append(failed, why)
		}
	}
	return failed
}

// reaches says how the policy differs from what a test wants of a destination HOST:PORT.
func (v verifier) reaches(from []party, text string, proto int, want bool) string {
	host, port, err := splitTestDst(text)
	if err != nil {
		return err.Error()
	}
	to, err := v.parties(host)
	if err != nil {
		return fmt.Sprintf("dst %q: %v", text, err)
	}
	for _, f := range from {
		for _, t := range to {
			if v.allows(f, t, proto, port) == want {
				continue
			}
			if want {
				return fmt.Sprintf("%s to %q is not accepted by any rule", v.name(f), text)
			}
			return fmt.Sprintf("%s to %q is accepted, want deny", v.name(f), text)
		}
	}
	return ""
}

// splitTestDst reads HOST:PORT with one port. An IPv6 address may be in brackets.
func splitTestDst(text string) (host string, port uint16, err error) {
	i := strings.LastIndexByte(text, ':')
	if i < 0 {
		return "", 0, fmt.Errorf("dst %q: write HOST:PORT", text)
	}
	r, refusal := parsePortRange(text[i+1:])
	if refusal != nil {
		return "", 0, fmt.Errorf("dst %q: %w", text, refusal)
	}
	if r.First != r.Last {
		return "", 0, fmt.Errorf("dst %q: a test is about one port", text)
	}
	host = text[:i]
	if inner, ok := strings.CutPrefix(host, "["); ok {
		host = strings.Replace(inner, "]", "", 1)
	}
	return host, r.First, nil
}

func (v verifier) name(p party) string {
	switch {
	case p.node >= 0 && p.user != nil:
		return fmt.Sprintf("%s (%s)", p.user.LoginName(), p.addrs[0])
	case p.user != nil:
		return p.user.LoginName()
	case len(p.tags) > 0 && len(p.addrs) > 0:
		return fmt.Sprintf("%s (%s)", p.tags[0], p.addrs[0])
	case len(p.tags) > 0:
		return p.tags[0]
	}
	return p.addrs[0].String()
}

// allows reports whether some rule lets packets from one party to a port of the other, in some address family.
func (v verifier) allows(from, to party, proto int, port uint16) bool {
	rules := v.c.policy.rules
	if !v.c.policy.hasRules {
		rules = []rule{allowAll}
	}
	for i := range rules {
		r := &rules[i]
		for _, f := range r.flows {
			protos := f.protos
			if len(protos) == 0 {
				protos = []int{1, 6, 17, 58}
			}
			if slices.Contains(protos, proto) && v.ruleAllows(r, f, from, to, port) {
				return true
			}
		}
	}
	return false
}

func (v verifier) ruleAllows(r *rule, f protoPorts, from, to party, port uint16) bool {
	for _, d := range r.dst {
		ports := f.ports
		if ports == nil {
			ports = d.ports
		}
		open := false
		for _, p := range ports {
			open = open || p.Contains(port)
		}
		if !open {
			continue
		}
		for _, s := range r.src {
			if d.kind == bySelf {
				if from.user != nil && to.user != nil && from.user.ID == to.user.ID && (s.kind == byAll || v.c.policy.userIs(s, from.user)) {
					return true
				}
				continue
			}
			if v.meet(s, from, d.selector, to) {
				return true
			}
		}
	}
	return false
}

// meet reports whether a source and a destination cover the two parties, in some address family.
func (v verifier) meet(s selector, from party, d selector, to party) bool {
	for _, is6 := range []bool{false, true} {
		if v.covers(s, from, is6) && v.covers(d, to, is6) {
			return true
		}
	}
	return false
}

// covers reports whether a selector stands for a party, in the address family.
func (v verifier) covers(s selector, p party, is6 bool) bool {
	nodeless := len(p.addrs) == 0
	hasFamily := slices.ContainsFunc(p.addrs, func(a netip.Addr) bool { return a.Is6() == is6 })
	switch s.kind {
	case byAll, byDanger:
		return nodeless || hasFamily
	case bySet, byInternet:
		ranges := s.ranges
		if s.kind == byInternet {
			ranges = internet
		}
		return slices.ContainsFunc(p.addrs, func(a netip.Addr) bool {
			return a.Is6() == is6 && slices.ContainsFunc(ranges, func(r netipx.IPRange) bool { return r.Contains(a) })
		})
	}
	return (nodeless || hasFamily) && v.c.policy.isAny([]selector{s}, p.tags, p.user)
}
