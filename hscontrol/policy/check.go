package policy

import (
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strings"

	"go4.org/netipx"
	"tailscale.com/tailcfg"
)

// check understands the words of a draft: definitions first, then what uses them.
func (p *Policy) check(w *draft) *Refusal {
	for _, step := range []func(*draft) *Refusal{
		p.defineNames, p.defineHosts, p.defineSets, p.defineGroups, p.defineTags,
		p.checkRules, p.checkSSH, p.checkApprovers, p.checkAttrs, p.checkRegions,
	} {
		if r := step(w); r != nil {
			return r
		}
	}
	p.tests, p.sshTests = w.tests, w.sshTests
	return nil
}

var tagName = regexp.MustCompile(`^tag:[a-zA-Z][a-zA-Z0-9-]*$`)

// defineNames takes down which groups and tags there are, since they may name each other.
func (p *Policy) defineNames(w *draft) *Refusal {
	p.groups = make(map[string][]selector, len(w.groups))
	p.tags = make(map[string][]selector, len(w.tagOwners))
	for _, e := range w.groups {
		if name, ok := strings.CutPrefix(e.key.text, "group:"); !ok || name == "" {
			return refuse(e.key.line, "write group:NAME", "groups[%q]: group names must start with 'group:'", e.key.text)
		}
		p.groups[e.key.text] = nil
	}
	for _, e := range w.tagOwners {
		place := fmt.Sprintf("tagOwners[%q]", e.key.text)
		if !strings.HasPrefix(e.key.text, "tag:") {
			return refuse(e.key.line, "write tag:NAME", "%s: tag names must start with 'tag:'", place)
		}
		if name := e.key.text[len("tag:"):]; name == "" || !isLetter(name[0]) {
			return refuse(e.key.line, "write tag:NAME, such as tag:web", "%s: tag names must start with a letter, after 'tag:'", place)
		}
		if !tagName.MatchString(e.key.text) {
			return refuse(e.key.line, "rename it, such as tag:web-1", "%s: tag names can only contain numbers, letters, or dashes", place)
		}
		p.tags[e.key.text] = nil
	}
	return nil
}

func isLetter(b byte) bool { return b|0x20 >= 'a' && b|0x20 <= 'z' }

func (p *Policy) defineHosts(w *draft) *Refusal {
	p.hosts = make(map[string][]netipx.IPRange, len(w.hosts))
	for _, e := range w.hosts {
		place := fmt.Sprintf("hosts[%q]", e.key.text)
		if e.key.text == "" || strings.ContainsAny(e.key.text, " ,*@:/") {
			return refuse(e.key.line, "use letters, digits, dots and dashes", "%s: invalid host name", place)
		}
		if len(e.members) != 1 {
			return refuse(e.key.line, "a host is one address or prefix", "%s: %d addresses", place, len(e.members))
		}
		r, ok := parseRange(strings.TrimSpace(e.members[0].text))
		if !ok {
			return refuse(e.members[0].line, "write an address or a prefix", "%s: %q: invalid address", place, e.members[0].text)
		}
		p.hosts[e.key.text] = []netipx.IPRange{r}
	}
	return nil
}

// defineSets builds ipsets: each entry is "add X", "remove X" or just X, where X is an address, a prefix, a range, a
// host, or an ipset that stands further up.
func (p *Policy) defineSets(w *draft) *Refusal {
	p.ipsets = make(map[string]*netipx.IPSet, len(w.ipsets))
	for _, e := range w.ipsets {
		place := fmt.Sprintf("ipsets[%q]", e.key.text)
		if name, ok := strings.CutPrefix(e.key.text, "ipset:"); !ok || name == "" {
			return refuse(e.key.line, "write ipset:NAME", "%s: ipset names must start with 'ipset:'", place)
		}
		var b netipx.IPSetBuilder
		for _, m := range e.members {
			verb, what, two := strings.Cut(strings.TrimSpace(m.text), " ")
			if !two {
				verb, what = "add", verb
			}
			s, r := p.selector(word{what, m.line})
			if r != nil {
				return r.at(place)
			}
			if s.kind != bySet || verb != "add" && verb != "remove" {
				return refuse(m.line, `write "add X" or "remove X", X an address, prefix, range, host or ipset`, "%s: %q: invalid address", place, m.text)
			}
			for _, r := range s.ranges {
				if verb == "add" {
					b.AddRange(r)
				} else {
					b.RemoveRange(r)
				}
			}
		}
		set, err := b.IPSet()
		if err != nil {
			return refuse(e.key.line, "write its addresses and prefixes one by one", "%s: %v", place, err)
		}
		p.ipsets[e.key.text] = set
	}
	return nil
}

func (p *Policy) defineGroups(w *draft) *Refusal {
	var nested []string
	line := 0
	for _, e := range w.groups {
		for _, m := range e.members {
			text := strings.TrimSpace(m.text)
			if strings.HasPrefix(text, "group:") {
				nested = append(nested, fmt.Sprintf("groups[%q]: %q: group members cannot be recursive", e.key.text, text))
				line = m.line
				continue
			}
			s, r := p.selector(m)
			if r == nil && s.kind != byUser && s.kind != byDomain {
				r = refuse(m.line, "only users can be members", "%q is not a user", text)
			}
			if r != nil {
				return r.at(fmt.Sprintf("groups[%q]", e.key.text))
			}
			p.groups[e.key.text] = append(p.groups[e.key.text], s)
		}
	}
	if len(nested) > 0 {
		return refuse(line, "name the users themselves", "%s", strings.Join(nested, "; "))
	}
	return nil
}

func (p *Policy) defineTags(w *draft) *Refusal {
	for _, e := range w.tagOwners {
		owners, r := p.selectors(e.members, fmt.Sprintf("tagOwners[%q]", e.key.text), ownerOnly)
		if r != nil {
			return r
		}
		p.tags[e.key.text] = owners
	}
	return nil
}

// ownerOnly lets through what can own a tag or have its routes approved.
func ownerOnly(s selector) *Refusal {
	if !s.isIdentity() || s.kind == byShared {
		return refuse(s.line, "use users, groups, tags, autogroup:member or a role", "%q cannot be used here", s.text)
	}
	return nil
}

// selectors understands words and has each allowed.
func (p *Policy) selectors(ws []word, place string, allow func(selector) *Refusal) ([]selector, *Refusal) {
	list := make([]selector, 0, len(ws))
	for i, w := range ws {
		s, r := p.selector(w)
		if r == nil {
			r = allow(s)
		}
		if r != nil {
			if !strings.Contains(place, `"`) {
				place = fmt.Sprintf("%s[%d]", place, i)
			}
			return nil, r.at(place)
		}
		list = append(list, s)
	}
	return list, nil
}

func (p *Policy) checkApprovers(w *draft) *Refusal {
	for _, e := range w.approveRoutes {
		place := fmt.Sprintf("autoApprovers.routes[%q]", e.key.text)
		prefix, err := netip.ParsePrefix(strings.TrimSpace(e.key.text))
		if err != nil {
			return refuse(e.key.line, "write a prefix such as 10.0.0.0/8", "%q: invalid prefix", e.key.text).at(place)
		}
		by, r := p.selectors(e.members, place, ownerOnly)
		if r != nil {
			return r
		}
		p.approveRoutes = append(p.approveRoutes, routeApprover{prefix.Masked(), by})
	}
	var r *Refusal
	p.approveExit, r = p.selectors(w.approveExit, "autoApprovers.exitNode", ownerOnly)
	return r
}

func (p *Policy) checkAttrs(w *draft) *Refusal {
	p.setEverywhere(w.randomizeClientPort, tailcfg.NodeAttrRandomizeClientPort)
	p.setEverywhere(w.disableIPv4, attrDisableIPv4)
	switch p.oneCGNAT = w.oneCGNAT.text; p.oneCGNAT {
	case "", "mac-always", "mac-never":
	default:
		return refuse(w.oneCGNAT.line, `write "mac-always", "mac-never" or ""`, "%q is not a valid OneCGNATRoute", p.oneCGNAT)
	}
	for i, a := range w.attrs {
		place := fmt.Sprintf("nodeAttrs[%d]", i)
		rule := attrRule{line: a.line, caps: tailcfg.NodeCapMap{}}
		var r *Refusal
		if rule.target, r = p.selectors(a.target, place+".target", attrTarget); r != nil {
			return r
		}
		for _, attr := range a.attrs {
			if attr.text == "" {
				return refuse(attr.line, "name an attribute, or take the entry out", "attr values cannot be empty").at(place)
			}
			rule.caps[tailcfg.NodeCapability(attr.text)] = nil
			if attr.text == "funnel" {
				rule.caps[funnelPorts] = nil
			}
		}
		for _, c := range a.app {
			if !capabilityName.MatchString(c.name.text) {
				return refuse(c.name.line, "such as tailscale.com/app-connectors", "capability name must have the form {domain}/{path}, not %q", c.name.text).at(place)
			}
			rule.caps[tailcfg.NodeCapability(c.name.text)] = rawMessages(c.values)
		}
		if rule.pools, r = checkPools(a.pools); r != nil {
			return r.at(place)
		}
		p.attrs = append(p.attrs, rule)
	}
	return nil
}

func (p *Policy) setEverywhere(on bool, attr tailcfg.NodeCapability) {
	if on {
		everywhere := []selector{{kind: byAll, text: "*", name: "*"}}
		p.attrs = append(p.attrs, attrRule{target: everywhere, caps: tailcfg.NodeCapMap{attr: nil}})
	}
}

func attrTarget(s selector) *Refusal {
	switch s.kind {
	case bySelf, byInternet, byDanger:
		return refuse(s.line, "name users, groups, tags or hosts", "%q cannot be used as a target", s.text)
	}
	return nil
}

// reservedPools are ranges that clients use themselves.
var reservedPools = []netip.Prefix{
	netip.MustParsePrefix("100.100.0.0/24"), netip.MustParsePrefix("100.100.100.0/24"), netip.MustParsePrefix("100.115.92.0/23"),
}

func checkPools(ws []word) ([]netip.Prefix, *Refusal) {
	var pools []netip.Prefix
	for _, w := range ws {
		pool, err := netip.ParsePrefix(strings.TrimSpace(w.text))
		if err != nil || !pool.Addr().Is4() || pool != pool.Masked() {
			return nil, refuse(w.line, "write an IPv4 prefix such as 100.81.0.0/16", "IPPool(%s): invalid prefix", w.text)
		}
		if slices.ContainsFunc(reservedPools, func(r netip.Prefix) bool { return r.Bits() <= pool.Bits() && r.Contains(pool.Addr()) }) {
			return nil, refuse(w.line, "choose another", "IPPool(%s): network within reserved range", w.text)
		}
		pools = append(pools, pool)
	}
	return pools, nil
}

func rawMessages(values []string) []tailcfg.RawMessage {
	if values == nil {
		return nil
	}
	raw := make([]tailcfg.RawMessage, len(values))
	for i, v := range values {
		raw[i] = tailcfg.RawMessage(v)
	}
	return raw
}
