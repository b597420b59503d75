package policy

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/keelscale/keelscale/hscontrol/tailnet"
	"go4.org/netipx"
	"tailscale.com/tailcfg"
)

// Question asks whether a packet passes, or with SSH set whether a login does.
type Question struct {
	From, To string // a node's given name, a host, or an address; a user or tag stands for its first node
	Proto    string // by name or number; empty is tcp
	Port     uint16 // says nothing of protocols that have none
	SSH      string // login name; then Proto and Port say nothing
}

// sshPort is where clients take logins by SSH for themselves.
const sshPort = 22

// ParseQuestion reads the ends as people write them: to as HOST:PORT, where the port may be left out for SSH and for
// protocols that have none. The error says what is wrong with the words; whether they mean something, Explain says.
func ParseQuestion(from, to, proto, ssh string) (Question, error) {
	q := Question{From: from, To: to, Proto: proto, SSH: ssh}
	if from == "" || to == "" {
		return q, errors.New("say both ends: from which node, user, tag or address, and to which HOST:PORT")
	}
	protos, ok := parseProto(cmp.Or(proto, "tcp"))
	if !ok {
		return q, fmt.Errorf("unknown protocol %q: write a name such as tcp, udp or icmp, or a number", proto)
	}
	needsPort := ssh == "" && hasPorts(protos[0])
	if _, err := netip.ParseAddr(to); err == nil && !needsPort {
		return q, nil
	}
	host, port, err := splitTestDst(to)
	switch {
	case err == nil && (ssh == "" || port == sshPort):
		q.To, q.Port = host, port
	case err == nil:
		return q, fmt.Errorf("%q: Tailscale SSH is at port %d only", to, sshPort)
	case needsPort:
		return q, fmt.Errorf("%w, such as %s:443", err, strings.TrimSuffix(to, ":"))
	}
	return q, nil
}

func hasPorts(proto int) bool { return proto == 6 || proto == 17 || proto == 132 }

// Answer is yes or no, and why.
type Answer struct {
	Allowed bool
	Outcome string   // accept, deny, or for SSH also check
	Rule    *RuleRef // the rule that allows it; for a no the one that comes nearest, nil if there is none
	Steps   []string // how each end leads to the rule, in the order of reading
	Lacks   []string // for a no: what the nearest rule lacks
}

// RuleRef names a rule of the policy.
type RuleRef struct {
	Section string // grants, acls, ssh; "default" for what holds without rules
	Index   int
	Line    int    // 0 for the default
	Text    string // the rule as JSON; empty for the default
}

func (r RuleRef) String() string {
	if r.Line == 0 {
		return "the default: without acls and grants everything within the tailnet is allowed"
	}
	return fmt.Sprintf("%s[%d], line %d", r.Section, r.Index, r.Line)
}

// end is one end of a question.
type end struct {
	name string
	addr netip.Addr
	node int // number of the node that has the address; -1 for none
	who  party
}

// Explain answers q. The error says which word of the question means nothing.
func (c *Compiled) Explain(s *tailnet.Snapshot, q Question) (*Answer, error) {
	if c.policy == nil {
		nothing, err := Compile(&Policy{}, s)
		if err != nil {
			return nil, err
		}
		c = nothing
	}
	protos, ok := parseProto(cmp.Or(q.Proto, "tcp"))
	if !ok {
		return nil, fmt.Errorf("unknown protocol %q: write a name such as tcp, udp or icmp, or a number", q.Proto)
	}
	e := explainer{verifier{c, s}}
	from, err := e.ends(q.From)
	if err != nil {
		return nil, fmt.Errorf("from: %w", err)
	}
	to, err := e.ends(q.To)
	if err != nil {
		return nil, fmt.Errorf("to: %w", err)
	}
	var answer *Answer
	for _, f := range from {
		for _, t := range to {
			if f.addr.Is4() != t.addr.Is4() {
				continue
			}
			var a *Answer
			if q.SSH != "" {
				a = e.login(f, t, q.SSH)
			} else {
				a = e.packet(f, t, protos[0], q.Port)
			}
			if answer == nil || a.Allowed && !answer.Allowed {
				answer = a
			}
		}
	}
	if answer == nil {
		return nil, fmt.Errorf("%q and %q have no addresses of one family", q.From, q.To)
	}
	if answer.Rule != nil {
		answer.Rule.Text = c.policy.ruleText(answer.Rule)
	}
	return answer, nil
}

// ruleText is a rule as it was written, without comments and white space.
func (p *Policy) ruleText(ref *RuleRef) (text string) {
	d, root, refusal := openDocument(p.text)
	if refusal != nil || ref.Line == 0 {
		return ""
	}
	_ = d.members(root, func(name string, _ int, m value) *Refusal {
		if !strings.EqualFold(name, ref.Section) || isNull(m) {
			return nil
		}
		return d.list(m, func(i int, e value) *Refusal {
			if i == ref.Index {
				text = d.raw(e)
			}
			return nil
		})
	})
	return text
}

type explainer struct{ verifier }

// ends finds what a word stands for, one end for each of its addresses.
func (e explainer) ends(text string) ([]end, error) {
	if n := e.s.NodeByName(strings.ToLower(text)); n != nil {
		if i, ok := e.c.x.number[n.ID]; ok {
			return e.nodeEnds(i), nil
		}
	}
	s, r := e.c.policy.selector(word{text, 0})
	if r != nil {
		return nil, e.nobody(text)
	}
	if s.kind == bySet {
		if len(s.ranges) != 1 || s.ranges[0].From() != s.ranges[0].To() {
			return nil, fmt.Errorf("%q is more than one address", text)
		}
		addr := s.ranges[0].From()
		p := e.addressParty(addr)
		return []end{{text, addr, p.node, p}}, nil
	}
	parties, err := e.parties(text)
	if err != nil {
		return nil, e.nobody(text)
	}
	for _, p := range parties {
		if p.node >= 0 {
			return e.nodeEnds(p.node), nil
		}
	}
	return nil, fmt.Errorf("%q has no node", text)
}

// nobody says that a word of the question means nothing, and what it looks like.
func (e explainer) nobody(text string) error {
	var known []string
	for _, n := range e.s.Nodes {
		known = append(known, n.GivenName)
	}
	for _, u := range e.s.Users {
		known = append(known, u.Name+"@", u.Email)
	}
	known = slices.Concat(known, keys(e.c.policy.hosts), keys(e.c.policy.tags))
	slices.Sort(known)
	if like := nearest(text, known); like != "" {
		return fmt.Errorf("%q is no node, host, address, user or tag: did you mean %q?", text, like)
	}
	return fmt.Errorf("%q is no node, host, address, user or tag", text)
}

func (e explainer) nodeEnds(i int) []end {
	var ends []end
	name := fmt.Sprint(e.c.x.ids[i])
	if n := e.s.Node(e.c.x.ids[i]); n != nil {
		name = n.GivenName
	}
	for _, a := range e.c.x.ownAddresses(i) {
		p := e.nodeParty(i)
		p.addrs = []netip.Addr{a}
		ends = append(ends, end{name, a, i, p})
	}
	return ends
}

// describe says who an end is.
func (e explainer) describe(x end) string {
	switch {
	case x.who.user != nil:
		return fmt.Sprintf("%s is %s, of user %s", x.name, x.addr, x.who.user.LoginName())
	case len(x.who.tags) > 0:
		return fmt.Sprintf("%s is %s, tagged %s", x.name, x.addr, strings.Join(x.who.tags, ", "))
	}
	return fmt.Sprintf("%s is no node's address", x.addr)
}

// receiver is the node that gets packets for the end: the one that has the address, or a router that from is sent to.
func (e explainer) receiver(from, to end) (int, string) {
	if to.node >= 0 {
		return to.node, ""
	}
	best, bestRoute := -1, netip.Prefix{}
	for i := range e.c.x.ids {
		if !e.c.x.routers.has(i) && !e.c.x.exits.has(i) {
			continue
		}
		for _, r := range e.routesFor(from, i) {
			if r.Contains(to.addr) && (best < 0 || r.Bits() > bestRoute.Bits()) {
				best, bestRoute = i, r
			}
		}
	}
	if best < 0 {
		return -1, fmt.Sprintf("no router serves %s to %s: it takes a route that is announced and approved, and a rule", to.addr, from.name)
	}
	return best, fmt.Sprintf("%s lies in %s, which %s serves", to.addr, bestRoute, e.nodeEnds(best)[0].name)
}

// routesFor are the routes of router i for an end. One that is no node is somewhere behind a router itself.
func (e explainer) routesFor(from end, i int) []netip.Prefix {
	if from.node >= 0 {
		return e.c.Routes(e.c.x.ids[from.node], e.c.x.ids[i])
	}
	return e.c.x.routes[i]
}

// packet answers for one pair of addresses.
func (e explainer) packet(from, to end, proto int, port uint16) *Answer {
	a := &Answer{Outcome: "deny", Steps: []string{e.describe(from), e.describe(to)}}
	at, route := e.receiver(from, to)
	if route != "" {
		a.Steps = append(a.Steps, route)
	}
	nearest := -1
	for n := range e.c.flows {
		f := &e.c.flows[n]
		if f.caps != nil {
			continue
		}
		lacks, met := e.hold(f, from, to, at, proto, port)
		if len(lacks) == 0 {
			a.Allowed, a.Outcome, a.Rule, a.Lacks = true, "accept", f.rule.ref(), nil
			a.Steps = append(a.Steps, e.steps(f.rule, from, to)...)
			return a
		}
		if met > nearest {
			nearest, a.Lacks, a.Rule = met, lacks, f.rule.ref()
		}
	}
	if nearest < 0 {
		a.Lacks = []string{"no rule of acls and grants is about any packet here"}
	}
	return a
}

func (r *rule) ref() *RuleRef { return &RuleRef{Section: r.section, Index: r.index, Line: r.line} }

// hold holds a packet against a flow: what the flow lacks, and how near it comes.
func (e explainer) hold(f *flow, from, to end, at, proto int, port uint16) (lacks []string, met int) {
	miss := func(ok bool, weight int, format string, args ...any) {
		if ok {
			met += weight
			return
		}
		lacks = append(lacks, fmt.Sprintf(format, args...))
	}
	srcOK, dstOK, portsOK, ports := e.meets(f, from, to, at, port, proto)
	miss(srcOK, 4, "its src %s does not hold %s", selectorTexts(f.rule.src), from.name)
	miss(dstOK, 4, "its dst %s does not hold %s", targetTexts(f.rule.dst), to.name)
	protos := f.protos
	if len(protos) == 0 {
		protos = []int{1, 6, 17, 58}
	}
	miss(slices.Contains(protos, proto), 1, "it is about protocol %s", numbers(protos))
	miss(portsOK, 2, "its ports %s do not hold %d", ports, port)
	return lacks, met
}

// meets reports whether the flow's source, destination and ports hold the packet that arrives at node at.
func (e explainer) meets(f *flow, from, to end, at int, port uint16, proto int) (src, dst, portOK bool, ports string) {
	hasPorts := proto != 1 && proto != 58
	inPorts := func(list []tailcfg.PortRange) bool {
		return !hasPorts || slices.ContainsFunc(list, func(p tailcfg.PortRange) bool { return p.Contains(port) })
	}
	if f.self != nil {
		u := from.who.user
		src = u != nil && from.node >= 0 && f.self[u.ID]
		dst = u != nil && to.who.user != nil && to.node >= 0 && to.who.user.ID == u.ID
		return src, dst, inPorts(f.ports), portTexts(f.ports)
	}
	src = f.src.contains(e.c.x, from)
	var all []tailcfg.PortRange
	for _, d := range f.dsts {
		if at < 0 || !d.to.has(at) || !d.contains(to) {
			all = append(all, d.ports...)
			continue
		}
		if inPorts(d.ports) {
			return src, true, true, ""
		}
		if !dst {
			all = nil
		}
		dst, all = true, append(all, d.ports...)
	}
	return src, dst, inPorts(all), portTexts(all)
}

// contains reports whether packets from the end have this source.
func (s *source) contains(x *index, e end) bool {
	in := func(r netipx.IPRange) bool { return r.Contains(e.addr) }
	switch {
	case s.danger, e.node >= 0 && s.owned.has(e.node), slices.ContainsFunc(s.ranges, in):
		return true
	case s.wild:
		return slices.ContainsFunc(x.wild, in) || slices.ContainsFunc(x.subnets, func(p netip.Prefix) bool { return p.Contains(e.addr) })
	}
	return false
}

// contains reports whether packets to the end have this destination.
func (d *dest) contains(e end) bool {
	switch {
	case d.kind == byAll:
		return true
	case d.owned != nil:
		return e.node >= 0 && d.owned.has(e.node)
	}
	return slices.ContainsFunc(d.ranges, func(r netipx.IPRange) bool { return r.Contains(e.addr) })
}

// steps say by which words the ends are in the rule.
func (e explainer) steps(r *rule, from, to end) []string {
	var steps []string
	for _, s := range r.src {
		if e.covers(s, from.who, from.addr.Is6()) {
			steps = append(steps, "src "+e.expand(s, from))
			break
		}
	}
	for _, d := range r.dst {
		if d.kind == bySelf || e.covers(d.selector, to.who, to.addr.Is6()) {
			steps = append(steps, "dst "+e.expand(d.selector, to))
			break
		}
	}
	if len(r.via) > 0 {
		steps = append(steps, "by way of "+strings.Join(r.via, ", "))
	}
	return steps
}

// expand says how a selector comes to hold an end.
func (e explainer) expand(s selector, x end) string {
	switch s.kind {
	case byAll, byDanger:
		return s.text + " holds " + x.name
	case byGroup:
		for _, m := range e.c.policy.groups[s.name] {
			if e.c.policy.userIs(m, x.who.user) {
				return fmt.Sprintf("%s holds %s (line %d), whose node is %s", s.text, m.text, m.line, x.name)
			}
		}
	case byTag:
		return fmt.Sprintf("%s is on %s", s.text, x.name)
	case bySet:
		if ranges, ok := e.c.policy.hosts[s.text]; ok {
			return fmt.Sprintf("host %s is %s, which holds %s", s.text, rangeText(ranges[0]), x.addr)
		}
		return fmt.Sprintf("%s holds %s", s.text, x.addr)
	case bySelf:
		return fmt.Sprintf("%s: %s is the same user's", s.text, x.name)
	case byInternet:
		return fmt.Sprintf("%s holds %s", s.text, x.addr)
	}
	return fmt.Sprintf("%s holds %s", s.text, x.name)
}
