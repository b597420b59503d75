package policy

import (
	"encoding/binary"
	"net/netip"
	"slices"

	"github.com/keelscale/keelscale/hscontrol/tailnet"
	"go4.org/netipx"
	"tailscale.com/tailcfg"
)

// denyAll is the packet filter that lets nothing in. It is not nil, which would mean "unchanged" to a client.
var denyAll = []tailcfg.FilterRule{}

// Filter is the node's packet filter, cut down to the node. It is never nil; empty means deny all. Do not change it.
func (c *Compiled) Filter(id tailnet.NodeID) []tailcfg.FilterRule {
	if c.open != nil && c.open.barred[id] {
		return denyAll
	}
	if c.open != nil {
		return c.open.filter
	}
	i, ok := c.x.number[id]
	if !ok {
		return denyAll
	}
	if f := c.filters[i].Load(); f != nil {
		return *f
	}
	rules := c.buildFilter(i)
	c.filters[i].CompareAndSwap(nil, &rules)
	return *c.filters[i].Load()
}

// buildFilter writes the flows that concern node i. Filters that name no node are shared.
func (c *Compiled) buildFilter(i int) []tailcfg.FilterRule {
	key, shareable := c.filterKey(i)
	if len(key) == 0 {
		return denyAll
	}
	if !shareable {
		return c.writeFilter(i)
	}
	if f, ok := c.shared.Load("filter" + string(key)); ok {
		return f.([]tailcfg.FilterRule)
	}
	f, _ := c.shared.LoadOrStore("filter"+string(key), c.writeFilter(i))
	return f.([]tailcfg.FilterRule)
}

// filterKey says which destinations of which flows concern node i, and whether what they write is the same for every
// node of that key: not its own addresses, nor a part of a set.
func (c *Compiled) filterKey(i int) (key []byte, shareable bool) {
	shareable = true
	for n := range c.flows {
		f := &c.flows[n]
		switch {
		case f.self != nil:
			if c.x.member.has(i) && f.self[c.x.users[i]] {
				key, shareable = binary.AppendUvarint(key, uint64(n)), false
			}
		case f.to.has(i):
			key = binary.AppendUvarint(key, uint64(n))
			for k, d := range f.dsts {
				if d.to.has(i) {
					key = binary.AppendUvarint(key, uint64(k+1))
					shareable = shareable && d.owned == nil && f.caps == nil && (d.kind != bySet || len(d.ranges) == 1)
				}
			}
			key = append(key, 0) // ends the destinations
		}
	}
	return key, shareable
}

func (c *Compiled) writeFilter(i int) []tailcfg.FilterRule {
	w := filterWriter{c: c, node: i, at: map[int]int{}}
	for n := range c.flows {
		f := &c.flows[n]
		switch {
		case f.self != nil:
			if c.x.member.has(i) && f.self[c.x.users[i]] {
				w.self(f)
			}
		case f.to.has(i) && f.caps != nil:
			w.capabilities(f)
		case f.to.has(i):
			w.ports(f)
		}
	}
	slices.SortStableFunc(w.rules, func(a, b numberedRule) int { return a.merge - b.merge })
	rules := make([]tailcfg.FilterRule, len(w.rules))
	for k := range w.rules {
		rules[k] = w.rules[k].FilterRule
	}
	return rules
}

// filterWriter collects the rules of one node.
type filterWriter struct {
	c     *Compiled
	node  int
	rules []numberedRule
	at    map[int]int // where a rule of a number is
	selfs map[string]int
}

type numberedRule struct {
	tailcfg.FilterRule
	merge int
}

// rule finds the rule of that number, or begins it.
func (w *filterWriter) rule(merge int, src *source, protos []int) *tailcfg.FilterRule {
	k, ok := w.at[merge]
	if !ok {
		k = len(w.rules)
		w.at[merge] = k
		w.rules = append(w.rules, numberedRule{tailcfg.FilterRule{SrcIPs: src.texts(), IPProto: protos}, merge})
	}
	return &w.rules[k].FilterRule
}

func (w *filterWriter) ports(f *flow) {
	r := w.rule(f.merge, f.src, f.protos)
	for _, d := range f.dsts {
		if !d.to.has(w.node) {
			continue
		}
		texts := d.texts
		if d.owned != nil {
			texts = w.c.ownTexts(w.node, d.owned)
		} else if len(texts) > 1 && d.kind == bySet {
			texts = w.c.concerning(w.node, d.dest)
		}
		for _, ip := range texts {
			for _, p := range d.ports {
				r.DstPorts = append(r.DstPorts, tailcfg.NetPortRange{IP: ip, Ports: p})
			}
		}
	}
}

func (w *filterWriter) capabilities(f *flow) {
	r := w.rule(f.merge, f.src, nil)
	for _, d := range f.dsts {
		if d.to.has(w.node) {
			r.CapGrant = append(r.CapGrant, tailcfg.CapGrant{Dsts: w.c.grantDsts(w.node, d.dest), CapMap: f.caps})
		}
	}
}

// self writes what a user's nodes may do among themselves. It joins a rule that has just these nodes as sources.
func (w *filterWriter) self(f *flow) {
	x := w.c.x
	src := w.c.own(x.users[w.node])
	merge := f.merge
	if f.caps == nil {
		key := mergeKey(src, f.protos)
		if n, ok := w.c.merges[key]; ok {
			merge = n
		} else if n, ok := w.selfs[key]; ok {
			merge = n
		} else if w.selfs == nil {
			w.selfs = map[string]int{key: merge}
		} else {
			w.selfs[key] = merge
		}
	}
	r := w.rule(merge, src, f.protos)
	if f.caps != nil {
		r.CapGrant = append(r.CapGrant, tailcfg.CapGrant{Dsts: x.ownPrefixes(w.node), CapMap: f.caps})
		return
	}
	for _, ip := range x.ownAddresses(w.node) {
		for _, p := range f.ports {
			r.DstPorts = append(r.DstPorts, tailcfg.NetPortRange{IP: ip.String(), Ports: p})
		}
	}
}

// own is the source that stands for a user's own nodes.
func (c *Compiled) own(id tailnet.UserID) *source {
	key := string(binary.AppendUvarint([]byte("own"), uint64(id)))
	if s, ok := c.shared.Load(key); ok {
		return s.(*source)
	}
	s := &source{owned: c.x.byUser[id], nodes: c.x.byUser[id]}
	c.x.write(s)
	shared, _ := c.shared.LoadOrStore(key, s)
	return shared.(*source)
}

// ownTexts are the addresses of owned nodes that concern node i: its own, and those in its subnet routes.
func (c *Compiled) ownTexts(i int, owned bitset) []string {
	var texts []string
	if owned.has(i) {
		for _, k := range c.x.position[i] {
			if k >= 0 {
				texts = append(texts, c.x.texts[k])
			}
		}
	}
	for _, r := range c.x.routes[i] {
		if h := c.x.holders[c.x.subnet(r)]; h == nil || !h.meets(owned) {
			continue
		}
		for _, a := range c.x.addressesIn(netipx.RangeOfPrefix(r)) {
			if a.node != i && owned.has(a.node) {
				texts = append(texts, a.addr.String())
			}
		}
	}
	return texts
}

// concerning are the texts of those of a set's ranges that concern node i.
func (c *Compiled) concerning(i int, d *dest) []string {
	var texts []string
	for k, r := range d.ranges {
		if c.x.concerns(i, r) {
			texts = append(texts, d.texts[k])
		}
	}
	return texts
}

// concerns reports whether the range has an address of node i or overlaps one of its subnet routes.
func (x *index) concerns(i int, r netipx.IPRange) bool {
	if slices.ContainsFunc(x.ownAddresses(i), r.Contains) {
		return true
	}
	return slices.ContainsFunc(x.routes[i], func(p netip.Prefix) bool { return r.Overlaps(netipx.RangeOfPrefix(p)) })
}

func (x *index) ownAddresses(i int) []netip.Addr {
	addrs := make([]netip.Addr, 0, 2)
	for _, a := range [2]netip.Addr{x.v4[i], x.v6[i]} {
		if a.IsValid() {
			addrs = append(addrs, a)
		}
	}
	return addrs
}

func (x *index) ownPrefixes(i int) []netip.Prefix {
	var prefixes []netip.Prefix
	for _, a := range x.ownAddresses(i) {
		prefixes = append(prefixes, netip.PrefixFrom(a, a.BitLen()))
	}
	return prefixes
}

// grantDsts are the prefixes at which node i has a capability granted: its own addresses, as far as the destination
// has them, and what the destination has of its subnet routes.
func (c *Compiled) grantDsts(i int, d *dest) []netip.Prefix {
	if d.kind == byAll || d.owned != nil && d.owned.has(i) {
		return c.x.ownPrefixes(i)
	}
	var dsts []netip.Prefix
	for _, r := range d.ranges {
		for _, p := range c.x.ownPrefixes(i) {
			if r.Contains(p.Addr()) {
				dsts = append(dsts, p)
			}
		}
		for _, route := range c.x.routes[i] {
			if r.Overlaps(netipx.RangeOfPrefix(route)) {
				dsts = append(dsts, r.Prefixes()...)
			}
		}
	}
	slices.SortFunc(dsts, netipx.ComparePrefix)
	return slices.Compact(dsts)
}
