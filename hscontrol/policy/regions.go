package policy

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/tailscale/hujson"
	"tailscale.com/tailcfg"

	"github.com/keelscale/keelscale/hscontrol/tailnet"
)

// The rules of derpMap say which regions of the DERP map some nodes are told of. All rules that name a node count
// together, in whatever order they stand: with an allow among them the node is told only of what some allow names, and
// of what some deny names it is never told. A node that no rule names is told of all.

// maxRegionRules bounds derpMap.rules.
const maxRegionRules = 1000

// region names a region of the DERP map: by its number, or by its code where id is 0.
type region struct {
	id   int
	code string
	line int
}

func (r region) String() string {
	if r.id != 0 {
		return strconv.Itoa(r.id)
	}
	return strconv.Quote(r.code)
}

func (r region) is(id int, code string) bool {
	if r.id != 0 {
		return r.id == id
	}
	return r.code == code
}

// regionRule is one entry of derpMap.rules.
type regionRule struct {
	line        int
	target      []selector
	allow, deny []region
}

// regionDraft is a regionRule before its targets are understood.
type regionDraft struct {
	regionRule
	target []word
}

func readRegionRules(d *document, v value, w *draft) *Refusal {
	return d.list(v, func(i int, e value) *Refusal {
		if i == maxRegionRules {
			return refuse(d.line(e), "put more targets into one", "more than %d rules", maxRegionRules).at(v.place)
		}
		rule := regionDraft{regionRule: regionRule{line: d.line(e)}}
		r := d.fields(e, map[string]func(value) *Refusal{
			"target": d.wordsInto(&rule.target),
			"allow":  d.regionsInto(&rule.allow),
			"deny":   d.regionsInto(&rule.deny),
		})
		if r == nil && len(rule.target) == 0 {
			r = refuse(rule.line, `say whom it is for, such as "target": ["tag:cam"]`, "the rule has no target").at(e.place)
		}
		if r == nil && len(rule.allow)+len(rule.deny) == 0 {
			r = refuse(rule.line, `name regions, such as "allow": ["home", 901]`, "the rule neither allows nor denies a region").at(e.place)
		}
		w.regions = append(w.regions, rule)
		return r
	})
}

// regionsInto reads a list of regions. An empty one is refused: it could be read as all regions or as none.
func (d *document) regionsInto(rs *[]region) func(value) *Refusal {
	return func(v value) *Refusal {
		r := d.list(v, func(_ int, e value) *Refusal {
			one, r := d.region(e)
			*rs = append(*rs, one)
			return r
		})
		if r == nil && len(*rs) == 0 {
			r = refuse(d.line(v), "name a region, or take it out", "the list is empty").at(v.place)
		}
		return r
	}
}

func (d *document) region(v value) (region, *Refusal) {
	lit, ok := v.Value.Value.(hujson.Literal)
	switch {
	case ok && lit.Kind() == '0':
		id, err := strconv.Atoi(string(lit))
		if err != nil || id < 1 {
			return region{}, refuse(d.line(v), "write a whole number from 1 up", "%s is no number of a region", lit).at(v.place)
		}
		return region{id: id, line: d.line(v)}, nil
	case ok && lit.Kind() == '"':
		w, r := d.word(v)
		code := strings.TrimSpace(w.text)
		if r == nil && code == "" {
			r = refuse(w.line, `write a code such as "home", or a number`, "the code of a region is empty").at(v.place)
		}
		return region{code: code, line: w.line}, r
	}
	return region{}, d.wrongKind(v, `a region: its code, "...", or its number`)
}

func (p *Policy) checkRegions(w *draft) *Refusal {
	for i, rule := range w.regions {
		targets, r := p.selectors(rule.target, fmt.Sprintf("derpMap.rules[%d].target", i), attrTarget)
		if r != nil {
			return r
		}
		rule.regionRule.target = targets
		p.regions = append(p.regions, rule.regionRule)
	}
	return nil
}

// Selection says which regions of a DERP map a node is told of. Nil is all of them.
type Selection struct {
	key         string
	allow, deny []region // no allow: all
	line        int      // of the first rule that made it
}

// Key is the same for selections that select alike, in whatever policy they stand.
func (s *Selection) Key() string { return s.key }

// Keeps reports whether the region with this number and code is among them.
func (s *Selection) Keeps(id int, code string) bool {
	if s == nil {
		return true
	}
	is := func(r region) bool { return r.is(id, code) }
	return (len(s.allow) == 0 || slices.ContainsFunc(s.allow, is)) && !slices.ContainsFunc(s.deny, is)
}

// Of is what is kept of m, which is not changed. Regions are shared with it.
func (s *Selection) Of(m *tailcfg.DERPMap) *tailcfg.DERPMap {
	if s == nil || m == nil {
		return m
	}
	out := *m
	out.Regions = make(map[int]*tailcfg.DERPRegion, len(m.Regions)) // not nil, which clients take for "as before"
	for id, r := range m.Regions {
		if r != nil && s.Keeps(id, r.RegionCode) {
			out.Regions[id] = r
		}
	}
	return &out
}

// compileRegions finds the selection of each node that some rule names. Nodes with the same rules share theirs.
func (c *compiler) compileRegions() {
	if len(c.policy.regions) == 0 {
		return
	}
	named := make([][]int, len(c.x.ids)) // rules, by node
	for n, rule := range c.policy.regions {
		for i := range c.targeted(rule.target).all() {
			named[i] = append(named[i], n)
		}
	}
	c.selections = make([]*Selection, len(c.x.ids))
	made := map[string]*Selection{}
	for i, rules := range named {
		if len(rules) == 0 {
			continue
		}
		key := fmt.Sprint(rules)
		if made[key] == nil {
			made[key] = c.policy.selection(rules)
		}
		c.selections[i] = made[key]
	}
}

// selection is what the rules with these numbers select together.
func (p *Policy) selection(rules []int) *Selection {
	s := &Selection{line: p.regions[rules[0]].line}
	for _, n := range rules {
		s.allow = append(s.allow, p.regions[n].allow...)
		s.deny = append(s.deny, p.regions[n].deny...)
	}
	s.key = regionsKey(s.allow) + "-" + regionsKey(s.deny)
	return s
}

func regionsKey(list []region) string {
	texts := make([]string, len(list))
	for i, r := range list {
		texts[i] = r.String()
	}
	slices.Sort(texts)
	return strings.Join(slices.Compact(texts), " ")
}

// Selection is which regions the node is told of; nil for all. Nodes with the same rules get the same pointer.
func (c *Compiled) Selection(id tailnet.NodeID) *Selection {
	if c.selections == nil {
		return nil
	}
	i, ok := c.x.number[id]
	if !ok {
		return nil
	}
	return c.selections[i]
}

// Selections are those that some node has, each with its nodes, in the order of the first of these.
func (c *Compiled) Selections() []Selected {
	var list []Selected
	at := map[string]int{}
	for i, s := range c.selections {
		if s == nil {
			continue
		}
		k, ok := at[s.key]
		if !ok {
			k = len(list)
			at[s.key] = k
			list = append(list, Selected{Selection: s})
		}
		list[k].Nodes = append(list[k].Nodes, c.x.ids[i])
	}
	return list
}

// Selected is a selection with the nodes that have it.
type Selected struct {
	*Selection
	Nodes []tailnet.NodeID
}

// StrayRegions are sentences about regions that rules name and m does not have. Relays come and go, so that is no error.
func (p *Policy) StrayRegions(m *tailcfg.DERPMap) []string {
	if p == nil || m == nil {
		return nil
	}
	var codes, out []string
	for id, r := range m.Regions {
		if r != nil {
			codes = append(codes, r.RegionCode, strconv.Itoa(id))
		}
	}
	slices.Sort(codes)
	for i, rule := range p.regions {
		for _, r := range slices.Concat(rule.allow, rule.deny) {
			known := false
			for id, have := range m.Regions {
				known = known || have != nil && r.is(id, have.RegionCode)
			}
			if known {
				continue
			}
			hint := ""
			if like := nearest(r.code, codes); r.id == 0 && like != "" {
				hint = fmt.Sprintf(": did you mean %q?", like)
				if like == r.code {
					hint = ": a number stands without quotes"
				}
			}
			out = append(out, fmt.Sprintf("line %d: derpMap.rules[%d]: no relay is in region %s now%s", r.line, i, r, hint))
		}
	}
	return out
}

// shownNodes bounds how many nodes a sentence names.
const shownNodes = 3

// LeavesWithout says which nodes the rules leave with no region of m at all; nil for none, and where m has no region
// for anybody. Those that but names do not count; nil is nobody.
func (c *Compiled) LeavesWithout(m *tailcfg.DERPMap, s *tailnet.Snapshot, but func(tailnet.NodeID) bool) *Refusal {
	if m == nil || len(m.Regions) == 0 {
		return nil
	}
	var names []string
	line := 0
	for _, of := range c.Selections() {
		if len(of.Of(m).Regions) > 0 {
			continue
		}
		for _, id := range of.Nodes {
			if n := s.Node(id); n != nil && (but == nil || !but(id)) {
				names = append(names, n.GivenName)
				line = cmp.Or(line, of.line)
			}
		}
	}
	if len(names) == 0 {
		return nil
	}
	which := strings.Join(names[:min(len(names), shownNodes)], ", ")
	if more := len(names) - shownNodes; more > 0 {
		which += fmt.Sprintf(" and %d more", more)
	}
	return refuse(line, "allow them a region that has a relay: see headscale derp", "no relay is left for %s", which).at("derpMap.rules")
}

const otherRegion = "any other region"

// regions compares which of the regions that some rule names the nodes are told of, and whether of the others.
func (d *differ) regions() (list []RegionChange) {
	named := map[string]region{}
	for _, c := range []*Compiled{d.was, d.is} {
		for _, rule := range c.policy.regions {
			for _, r := range slices.Concat(rule.allow, rule.deny) {
				named[r.String()] = r
			}
		}
	}
	if len(named) == 0 {
		return nil
	}
	names := append(sortedIDs(named), otherRegion)
	for _, lost := range []bool{true, false} {
		for _, name := range names {
			r, c := named[name], RegionChange{Lost: lost, Region: name}
			for i, id := range d.was.x.ids {
				was, is := d.was.Selection(id).Keeps(r.id, r.code), d.is.Selection(id).Keeps(r.id, r.code)
				if was == lost && is != lost {
					c.Nodes = append(c.Nodes, d.names[i])
				}
			}
			if len(c.Nodes) > 0 {
				list = append(list, c)
			}
		}
	}
	return list
}
