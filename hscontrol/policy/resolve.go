package policy

import (
	"fmt"
	"slices"
	"strings"
	"sync"

	"go4.org/netipx"
)

// source is the senders of a rule: addresses for the packet filter, and the nodes that they overlap.
type source struct {
	wild, danger bool             // "*" is among them; autogroup:danger-all is
	owned        bitset           // nodes that are meant by identity
	ranges       []netipx.IPRange // addresses that are meant as such
	nodes        bitset           // whose identity (addresses and served subnet routes) overlaps

	key      string   // equal for sources that are written alike
	addrs    bitset   // positions in index.texts
	literals []string // what else is written
	texts    func() []string
}

// source resolves selectors into one source. Equal lists share theirs.
func (c *compiler) source(list []selector) *source {
	key := selectorsKey(list)
	if s, ok := c.sources[key]; ok {
		return s
	}
	s := &source{owned: newBitset(len(c.x.ids)), nodes: newBitset(len(c.x.ids))}
	for _, sel := range list {
		switch {
		case sel.kind == byAll:
			s.wild = true
		case sel.kind == byDanger:
			s.danger = true
		case sel.isIdentity():
			s.owned.add(c.nodesOf(sel))
		default:
			s.ranges = append(s.ranges, sel.ranges...)
			s.nodes.add(c.touched(sel))
		}
	}
	s.nodes.add(c.x.withCovering(s.owned))
	if s.wild || s.danger {
		s.nodes = c.x.all
	}
	c.x.write(s)
	c.sources[key] = s
	return s
}

// write prepares the texts of a source, and its key.
func (x *index) write(s *source) {
	s.addrs = x.addressBits(s.owned)
	for _, r := range s.ranges {
		text := rangeText(r)
		if in := x.addressesIn(r); r.From() == r.To() && len(in) > 0 {
			k := x.position[in[0].node]
			s.addrs.set(k[btoi(r.From().Is6())])
			continue
		}
		s.literals = append(s.literals, text)
	}
	if s.wild {
		s.literals = append(s.literals, x.wildTexts...)
	}
	slices.SortFunc(s.literals, compareTexts)
	s.literals = slices.Compact(s.literals)
	if s.danger {
		s.key, s.texts = "*", func() []string { return []string{"*"} }
		return
	}
	s.key = string(s.addrs.appendKey(nil)) + strings.Join(s.literals, " ")
	s.texts = sync.OnceValue(func() []string {
		texts := make([]string, 0, len(s.literals))
		for k := range s.addrs.all() {
			texts = append(texts, x.texts[k])
		}
		if len(s.literals) == 0 {
			return texts
		}
		texts = append(texts, s.literals...)
		slices.SortFunc(texts, compareTexts)
		return slices.Compact(texts)
	})
}

func btoi(b bool) int {
	if b {
		return 1
	}
	return 0
}

// compareTexts orders addresses as texts, IPv4 first.
func compareTexts(a, b string) int {
	if d := btoi(strings.Contains(a, ":")) - btoi(strings.Contains(b, ":")); d != 0 {
		return d
	}
	return strings.Compare(a, b)
}

// overlaps reports whether the source overlaps the subnet route of that number.
func (s *source) overlaps(x *index, subnet int) bool {
	if s.wild || s.danger {
		return true
	}
	r := netipx.RangeOfPrefix(x.subnets[subnet])
	return slices.ContainsFunc(s.ranges, r.Overlaps) || x.holders[subnet] != nil && x.holders[subnet].meets(s.owned)
}

// nodesOf are the nodes that an identity stands for.
func (c *compiler) nodesOf(s selector) bitset {
	x := c.x
	switch s.kind {
	case byTag:
		if nodes := x.byTag[s.name]; nodes != nil {
			return nodes
		}
		return newBitset(len(x.ids))
	case byTagged:
		return x.tagged
	case byMember:
		return x.member
	}
	key := fmt.Sprint(s.kind, s.name)
	if nodes, ok := c.nodeSets[key]; ok {
		return nodes
	}
	nodes := newBitset(len(x.ids))
	for _, id := range c.usersOf(s) {
		nodes.add(x.byUser[id])
	}
	c.nodeSets[key] = nodes
	return nodes
}

// touched are the nodes that the addresses of a selector concern.
func (c *compiler) touched(s selector) bitset {
	if nodes, ok := c.touches[s.text]; ok {
		return nodes
	}
	nodes := newBitset(len(c.x.ids))
	for _, r := range s.ranges {
		nodes.add(c.x.overlapping(r))
	}
	c.touches[s.text] = nodes
	return nodes
}

// dest is a destination of a rule.
type dest struct {
	kind   selectorKind // byAll, byInternet, bySet, or an identity
	owned  bitset       // nodes that are meant by identity
	ranges []netipx.IPRange
	texts  []string // how ranges are written; "*" for byAll
	to     bitset   // nodes that it concerns
}

// internet is what autogroup:internet stands for: the public addresses.
var internetTexts = []string{
	"0.0.0.0-9.255.255.255", "11.0.0.0-100.63.255.255", "100.128.0.0-169.253.255.255", "169.255.0.0-172.15.255.255",
	"172.32.0.0-192.167.255.255", "192.169.0.0-255.255.255.255", "2000::-3fff:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
}

var internet = func() []netipx.IPRange {
	var ranges []netipx.IPRange
	for _, t := range internetTexts {
		ranges = append(ranges, netipx.MustParseIPRange(t))
	}
	return ranges
}()

// dest resolves a destination other than autogroup:self.
func (c *compiler) dest(s selector) *dest {
	if s.kind == byDanger {
		s.kind = byAll // only as a source turned round
	}
	key := fmt.Sprint(s.kind, s.text)
	if d, ok := c.dests[key]; ok {
		return d
	}
	d := &dest{kind: s.kind}
	switch {
	case s.kind == byAll:
		d.texts, d.to = []string{"*"}, c.x.all
	case s.kind == byInternet:
		d.ranges, d.texts, d.to = internet, internetTexts, c.x.exits
	case s.isIdentity():
		d.owned = c.nodesOf(s)
		d.to = c.x.withCovering(d.owned)
	default:
		d.ranges, d.to = s.ranges, c.touched(s)
		for _, r := range d.ranges {
			d.texts = append(d.texts, rangeText(r))
		}
	}
	c.dests[key] = d
	return d
}

// overlaps reports whether the destination overlaps the subnet route of that number.
func (d *dest) overlaps(x *index, subnet int) bool {
	if d.kind == byAll {
		return true
	}
	if d.owned != nil {
		return x.holders[subnet] != nil && x.holders[subnet].meets(d.owned)
	}
	r := netipx.RangeOfPrefix(x.subnets[subnet])
	return slices.ContainsFunc(d.ranges, r.Overlaps)
}

// overlapsInternet reports whether an exit node is needed for some of the destination.
func (d *dest) overlapsInternet() bool {
	if d.kind == byAll || d.kind == byInternet {
		return true
	}
	return slices.ContainsFunc(d.ranges, func(r netipx.IPRange) bool { return slices.ContainsFunc(internet, r.Overlaps) })
}

func selectorsKey(list []selector) string {
	var b strings.Builder
	for _, s := range list {
		fmt.Fprintf(&b, "%d %q ", s.kind, s.text)
	}
	return b.String()
}
