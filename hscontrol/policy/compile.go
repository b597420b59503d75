package policy

import (
	"fmt"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/keelscale/keelscale/hscontrol/tailnet"
	"tailscale.com/tailcfg"
)

// Compiled is what a policy means for a tailnet. It is immutable and safe for use by many goroutines. It holds nothing
// of the snapshot beyond what tailnet.SameIdentity compares, so it stays valid while tailnet.SameIdentities holds.
type Compiled struct {
	policy   *Policy      // nil: none
	open     *openTailnet // without a policy, and nothing below
	warnings []string
	doubts   []*Refusal // why the policy should not be set today

	x      *index
	people *people
	flows  []flow
	merges map[string]int // sources and protocols that share a rule
	edges  []edge
	classes
	paths
	ssh   []sshFlow
	attrs []attrFlow

	selections []*Selection // by node; nil: all regions

	filters   []atomic.Pointer[[]tailcfg.FilterRule] // by node; made when asked for
	shared    sync.Map                               // filters that name no node, and other results, by content
	sshCache  []atomic.Pointer[tailcfg.SSHPolicy]
	capsCache []atomic.Pointer[tailcfg.NodeCapMap]
}

// compiler is a Compiled in the making, with what it has resolved so far.
type compiler struct {
	*Compiled
	userSets map[string][]tailnet.UserID
	nodeSets map[string]bitset
	touches  map[string]bitset
	sources  map[string]*source
	dests    map[string]*dest
	said     map[string]bool // warnings
	nextRule int
}

// flow is a part of a rule that becomes one rule of a packet filter: one source, one protocol, or capabilities.
type flow struct {
	rule   *rule
	src    *source
	dsts   []flowDst
	to     bitset // nodes that get it
	protos []int
	caps   tailcfg.PeerCapMap // nil: it is about ports
	merge  int                // flows with the same number become one rule; rules are in the order of these

	// self is set for autogroup:self: the users that it holds for, each for their own nodes. Then there are no src,
	// dsts and to.
	self  map[tailnet.UserID]bool
	ports []tailcfg.PortRange
}

// flowDst is a destination with its ports, and the nodes that are told of it.
type flowDst struct {
	*dest
	to    bitset
	ports []tailcfg.PortRange
}

// edge is what a rule says about who sees whom: nodes of src and the nodes in to.
type edge struct {
	src   *source
	dsts  []flowDst
	to    bitset
	via   bool
	ports bool // false: only capabilities, which reach no further than the node itself
}

// Compile says what p means for s. Without a policy (nil) everyone sees and reaches everyone in the tailnet. Nodes that
// are cut off (tailnet.Node.Barred) see and reach nobody.
// A policy that was parsed compiles for any snapshot: what it names and nobody is yet, is nobody. Whether it should be
// set today is for Test to say.
func Compile(p *Policy, s *tailnet.Snapshot) (*Compiled, error) {
	whole := s
	if s = s.Admitted(); p == nil {
		return &Compiled{open: compileOpen(s, barred(whole))}, nil
	}
	c := &compiler{
		Compiled: &Compiled{
			policy: p, x: newIndex(s), people: newPeople(s), warnings: slices.Clone(p.warnings),
			merges: map[string]int{},
		},
		userSets: map[string][]tailnet.UserID{}, nodeSets: map[string]bitset{}, touches: map[string]bitset{},
		sources: map[string]*source{}, dests: map[string]*dest{}, said: map[string]bool{},
	}
	c.selves = map[tailnet.UserID]bool{}
	n := len(s.Nodes)
	c.filters = make([]atomic.Pointer[[]tailcfg.FilterRule], n)
	c.sshCache = make([]atomic.Pointer[tailcfg.SSHPolicy], n)
	c.capsCache = make([]atomic.Pointer[tailcfg.NodeCapMap], n)
	c.compileRules()
	c.compileSSH()
	c.compileAttrs()
	c.compileRegions()
	c.compilePaths()
	c.compileClasses()
	c.findNobodies()
	return c.Compiled, nil
}

// allowAll is the rule that holds where a policy has neither acls nor grants.
var allowAll = rule{
	section: "default",
	src:     []selector{{kind: byAll, text: "*", name: "*"}},
	dst:     []target{{selector: selector{kind: byAll, text: "*", name: "*"}}},
	flows:   []protoPorts{{ports: []tailcfg.PortRange{tailcfg.PortRangeAny}}},
}

func (c *compiler) compileRules() {
	if !c.policy.hasRules {
		c.compileRule(&allowAll)
		return
	}
	for i := range c.policy.rules {
		c.compileRule(&c.policy.rules[i])
	}
}

func (c *compiler) compileRule(r *rule) {
	if len(r.src) == 0 || len(r.dst) == 0 {
		return
	}
	var dsts []flowDst
	var selves []target
	for _, t := range r.dst {
		if t.kind == bySelf {
			selves = append(selves, t)
			continue
		}
		d := c.dest(t.selector)
		dsts = append(dsts, flowDst{d, c.reach(d, r.via), t.ports})
	}
	if len(dsts) > 0 {
		c.compilePlain(r, dsts)
	}
	for _, t := range selves {
		c.compileSelf(r, t)
	}
}

// reach are the nodes that a destination concerns; with via only those that have one of the tags and lead there.
func (c *compiler) reach(d *dest, via []string) bitset {
	if len(via) == 0 {
		return d.to
	}
	x := c.x
	leads := newBitset(len(x.ids))
	for k := range x.subnets {
		if d.overlaps(x, k) {
			leads.add(x.servers[k])
		}
	}
	if d.kind == byAll || d.kind == byInternet {
		leads.add(x.exits)
	}
	tagged := newBitset(len(x.ids))
	for _, t := range via {
		tagged.add(x.byTag[t])
	}
	leads.keep(tagged)
	return leads
}

func (c *compiler) compilePlain(r *rule, dsts []flowDst) {
	src := c.source(r.src)
	to := unionTo(dsts, len(c.x.ids))
	if !src.isEmpty() {
		for _, f := range r.flows {
			withPorts := dsts
			if f.ports != nil {
				withPorts = slices.Clone(dsts)
				for i := range withPorts {
					withPorts[i].ports = f.ports
				}
			}
			c.addFlow(flow{rule: r, src: src, dsts: withPorts, to: to, protos: f.protos})
		}
		c.edges = append(c.edges, edge{src: src, dsts: dsts, to: to, via: len(r.via) > 0, ports: len(r.flows) > 0})
	}
	if r.caps == nil || len(r.via) > 0 {
		return // with via, capabilities are not told, but the nodes see each other
	}
	c.addFlow(flow{rule: r, src: src, dsts: dsts, to: to, caps: r.caps})
	for _, caps := range companions(r.caps) {
		c.compileCompanion(r, caps)
	}
}

// companions are the capabilities that the other side of some needs, in Tailscale's order.
func companions(caps tailcfg.PeerCapMap) []tailcfg.PeerCapMap {
	var out []tailcfg.PeerCapMap
	for _, pair := range [][2]tailcfg.PeerCapability{
		{tailcfg.PeerCapabilityTaildrive, tailcfg.PeerCapabilityTaildriveSharer},
		{tailcfg.PeerCapabilityRelay, tailcfg.PeerCapabilityRelayTarget},
	} {
		if _, ok := caps[pair[0]]; ok {
			out = append(out, tailcfg.PeerCapMap{pair[1]: nil})
		}
	}
	return out
}

// compileCompanion turns a rule round: its destinations have the capability at its sources.
func (c *compiler) compileCompanion(r *rule, caps tailcfg.PeerCapMap) {
	var from []selector
	for _, t := range r.dst {
		if t.kind != bySelf {
			from = append(from, t.selector)
		}
	}
	src := c.source(from)
	var dsts []flowDst
	for _, s := range r.src {
		d := c.dest(s)
		dsts = append(dsts, flowDst{dest: d, to: d.to})
	}
	to := unionTo(dsts, len(c.x.ids))
	c.addFlow(flow{rule: r, src: src, dsts: dsts, to: to, caps: caps})
	if !src.isEmpty() {
		c.edges = append(c.edges, edge{src: src, dsts: dsts, to: to})
	}
}

// compileSelf is autogroup:self as a destination: each user of the rule, among their own untagged nodes.
func (c *compiler) compileSelf(r *rule, t target) {
	users := map[tailnet.UserID]bool{}
	for _, s := range r.src {
		if s.kind == byAll {
			s.kind = byMember
		}
		for _, id := range c.usersOf(s) {
			users[id], c.selves[id] = true, true
		}
	}
	for _, f := range r.flows {
		ports := f.ports
		if ports == nil {
			ports = t.ports
		}
		c.addFlow(flow{rule: r, self: users, protos: f.protos, ports: ports})
	}
	if r.caps == nil {
		return
	}
	c.addFlow(flow{rule: r, self: users, caps: r.caps})
	for _, caps := range companions(r.caps) {
		c.addFlow(flow{rule: r, self: users, caps: caps})
	}
}

// addFlow appends a flow. Flows about ports with the same source and protocols share their number.
func (c *compiler) addFlow(f flow) {
	f.merge = c.nextRule
	if f.caps == nil && f.self == nil {
		key := mergeKey(f.src, f.protos)
		if n, ok := c.merges[key]; ok {
			f.merge = n
		} else {
			c.merges[key] = f.merge
		}
	}
	c.nextRule++
	c.flows = append(c.flows, f)
}

func mergeKey(s *source, protos []int) string { return fmt.Sprint(protos) + s.key }

func unionTo(dsts []flowDst, n int) bitset {
	if len(dsts) == 1 {
		return dsts[0].to
	}
	to := newBitset(n)
	for _, d := range dsts {
		to.add(d.to)
	}
	return to
}

// isEmpty reports whether the source is no address at all.
func (s *source) isEmpty() bool {
	return !s.danger && len(s.literals) == 0 && s.addrs.empty()
}

// findNobodies resolves what no rule uses, so that all of the policy is warned about.
func (c *compiler) findNobodies() {
	for _, name := range sortedIDs(c.policy.groups) {
		c.usersOf(selector{kind: byGroup, name: name})
	}
	for _, tag := range sortedIDs(c.policy.tags) {
		for _, owner := range c.policy.tags[tag] {
			c.usersOf(owner)
		}
	}
	for _, a := range c.policy.approveRoutes {
		for _, s := range a.by {
			c.usersOf(s)
		}
	}
}

// Policy is the policy that was compiled, nil for none.
func (c *Compiled) Policy() *Policy { return c.policy }

// Warnings are sentences about what is allowed but probably not meant, such as users that do not exist yet.
func (c *Compiled) Warnings() []string { return c.warnings }
