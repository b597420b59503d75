package policy

import (
	"fmt"
	"regexp"
	"slices"
	"strings"

	"tailscale.com/tailcfg"
)

// maxProduct bounds the destinations times the ports of one rule.
const maxProduct = 50_000

// capabilityName is the form of a capability: a domain and a path.
var capabilityName = regexp.MustCompile(`^[a-zA-Z0-9-]+(\.[a-zA-Z0-9-]+)+/[^\s]+$`)

// grantable are the capabilities in Tailscale's domain that a grant may give.
var grantable = []string{
	"tailscale.com/cap/drive", "tailscale.com/cap/golink", "tailscale.com/cap/kubernetes", "tailscale.com/cap/relay",
	"tailscale.com/cap/secrets", "tailscale.com/cap/tsidp", "tailscale.com/cap/webui",
}

// checkRules understands grants and ACLs. Grants come first, as they do at Tailscale.
func (p *Policy) checkRules(w *draft) *Refusal {
	p.hasRules = w.hasACLs || w.hasGrants
	for i, g := range w.grants {
		rule, r := p.checkGrant(g)
		if r != nil {
			return r.at(fmt.Sprintf("grants[%d]", i))
		}
		rule.section, rule.index, rule.line = "grants", i, g.line
		p.rules = append(p.rules, rule)
	}
	for i, a := range w.acls {
		rule, r := p.checkACL(a)
		if r != nil {
			return r.at(fmt.Sprintf("acls[%d]", i))
		}
		rule.section, rule.index, rule.line = "acls", i, a.line
		p.rules = append(p.rules, rule)
	}
	return nil
}

func (p *Policy) checkGrant(g ruleDraft) (rule, *Refusal) {
	var out rule
	var r *Refusal
	if out.src, r = p.sources(g.src); r != nil {
		return out, r
	}
	for _, w := range g.dst {
		s, r := p.selector(w)
		if r != nil {
			return out, asDst(r, strings.TrimSpace(w.text))
		}
		if r := destination(s); r != nil {
			return out, r
		}
		for _, ip := range s.ranges {
			if prefix, ok := ip.Prefix(); ok && prefix.Bits() == 0 {
				return out, refuse(w.line, "write one of the two", `dst %q: to allow all IP addresses, use "*" or "autogroup:internet"`, s.text)
			}
		}
		out.dst = append(out.dst, target{selector: s})
	}
	if len(g.ip) == 0 && len(g.app) == 0 {
		return out, refuse(g.line, `give ip: ["*"] to allow all ports`, "ip and app can not both be empty")
	}
	if out.flows, r = grantFlows(g.ip); r != nil {
		return out, r
	}
	if out.caps, r = checkCapabilities(g.app); r != nil {
		return out, r
	}
	if out.via, r = p.checkVia(g.via); r != nil {
		return out, r
	}
	return out, checkCombination(g.line, &out)
}

// checkCombination refuses what is right in itself but not together.
func checkCombination(line int, g *rule) *Refusal {
	kinds := func(k selectorKind) bool {
		return slices.ContainsFunc(g.dst, func(t target) bool { return t.kind == k })
	}
	if len(g.caps) > 0 && kinds(byInternet) {
		return refuse(line, "capabilities are for nodes of the tailnet", "cannot use app grants with autogroup:internet")
	}
	if kinds(bySelf) {
		for _, s := range g.src {
			if !s.isUsers() {
				return notForSelf(s)
			}
		}
	}
	ports := 0
	for _, f := range g.flows {
		ports += len(f.ports)
	}
	if len(g.dst)*ports > maxProduct {
		return refuse(line, "use wider prefixes or port ranges", "more than %d destinations times ports in one rule", maxProduct)
	}
	return nil
}

func notForSelf(s selector) *Refusal {
	return refuse(s.line, fmt.Sprintf("%q is none of these", s.text), "autogroup:self can only be used with users, groups, or supported autogroups")
}

// grantFlows groups the entries of ip by protocol, in order of first use.
func grantFlows(ip []word) ([]protoPorts, *Refusal) {
	var flows []protoPorts
	for _, w := range ip {
		f, r := parseIP(w.text)
		if r != nil {
			r.Line = w.line
			return nil, r
		}
		i := slices.IndexFunc(flows, func(o protoPorts) bool { return slices.Equal(o.protos, f.protos) })
		if i < 0 {
			flows = append(flows, f)
			continue
		}
		flows[i].ports = append(flows[i].ports, f.ports...)
	}
	return flows, nil
}

func checkCapabilities(app []capability) (tailcfg.PeerCapMap, *Refusal) {
	if len(app) == 0 {
		return nil, nil
	}
	caps := make(tailcfg.PeerCapMap, len(app))
	for _, c := range app {
		name := c.name.text
		if !capabilityName.MatchString(name) {
			return nil, refuse(c.name.line, fmt.Sprintf("%q has not", name), "capability name must have the form {domain}/{path}")
		}
		domain, _, _ := strings.Cut(strings.ToLower(name), "/")
		if domain == "tailscale.com" && !slices.Contains(grantable, name) {
			return nil, refuse(c.name.line, fmt.Sprintf("%q is; of that domain there are %s", name, strings.Join(grantable, ", ")),
				"capability name must not be in the tailscale.com domain")
		}
		caps[tailcfg.PeerCapability(name)] = rawMessages(c.values)
	}
	return caps, nil
}

func (p *Policy) checkVia(via []word) ([]string, *Refusal) {
	var tags []string
	for _, w := range via {
		tag := strings.TrimSpace(w.text)
		if !strings.HasPrefix(tag, "tag:") {
			return nil, refuse(w.line, fmt.Sprintf("%q is none", tag), "via can only be a tag")
		}
		if _, ok := p.tags[tag]; !ok {
			return nil, refuse(w.line, "add it to tagOwners", "tag %q not found", tag)
		}
		tags = append(tags, tag)
	}
	return tags, nil
}

func (p *Policy) checkACL(a ruleDraft) (rule, *Refusal) {
	var out rule
	if action := strings.TrimSpace(a.action.text); action != "accept" {
		return out, refuse(max(a.line, a.action.line), `only "accept" is; what no rule accepts is denied`, "action=%q is not supported", action)
	}
	protos, ok := parseProto(strings.TrimSpace(a.proto.text))
	if !ok {
		return out, refuse(a.proto.line, "write a name such as tcp, udp or icmp, or a number", "proto=%q is not supported", a.proto.text)
	}
	out.flows = []protoPorts{{protos: protos}}
	var r *Refusal
	if out.src, r = p.sources(a.src); r != nil {
		return out, r
	}
	ports := 0
	for _, w := range a.dst {
		t, r := p.aclTarget(w, out.src)
		if r != nil {
			return out, r
		}
		out.dst = append(out.dst, t)
		ports += len(t.ports)
	}
	if ports > maxProduct {
		return out, refuse(a.line, "use wider prefixes or port ranges", "more than %d destinations times ports in one rule", maxProduct)
	}
	return out, nil
}

// aclTarget reads HOST:PORTS. An IPv6 address may be in brackets.
func (p *Policy) aclTarget(w word, src []selector) (target, *Refusal) {
	text := strings.TrimSpace(w.text)
	i := strings.LastIndexByte(text, ':')
	if i < 0 {
		return target{}, refuse(w.line, "write HOST:PORTS, such as "+text+":* for all ports", "dst=%q: missing port", text)
	}
	host, portText := text[:i], text[i+1:]
	ports, r := parsePorts(portText)
	if r != nil {
		r.Line = w.line
		r.What = fmt.Sprintf("dst=%q: %s", text, r.What)
		return target{}, r
	}
	if inner, ok := strings.CutPrefix(host, "["); ok {
		host = strings.Replace(inner, "]", "", 1)
	}
	s, r := p.selector(word{host, w.line})
	if r != nil {
		return target{}, asDst(r, host)
	}
	if r := destination(s); r != nil {
		return target{}, r
	}
	if s.kind == bySelf {
		for _, from := range src {
			if !from.isUsers() && from.kind != byAll {
				return target{}, notForSelf(from)
			}
		}
	}
	return target{s, ports}, nil
}

// sources understands the src of a rule.
func (p *Policy) sources(ws []word) ([]selector, *Refusal) {
	var list []selector
	for _, w := range ws {
		s, r := p.selector(w)
		if r != nil {
			r.What = "src=" + r.What
			return nil, r
		}
		if s.kind == bySelf || s.kind == byInternet {
			return nil, refuse(w.line, "name users, groups or tags", "%q not valid on the src side of a rule", s.text)
		}
		list = append(list, s)
	}
	return list, nil
}

// destination lets through what can be one.
func destination(s selector) *Refusal {
	if s.kind == byDanger {
		return refuse(s.line, `use "*"`, "cannot use autogroup:danger-all as a dst")
	}
	return nil
}

func asDst(r *Refusal, host string) *Refusal {
	r.What = fmt.Sprintf("dst=%q: %s", host, r.What)
	return r
}
