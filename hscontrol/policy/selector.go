package policy

import (
	"net/netip"
	"slices"
	"strings"

	"go4.org/netipx"
)

// selector is a word that stands for nodes or addresses, understood but not yet resolved.
type selector struct {
	kind selectorKind
	text string // as written
	line int
	// name is the tag, group, domain, role or user, by kind.
	name string
	// ranges are the addresses of a bySet selector.
	ranges []netipx.IPRange
}

type selectorKind uint8

const (
	byAll      selectorKind = iota // *
	byDanger                       // autogroup:danger-all
	byTag                          // tag:x
	byGroup                        // group:x
	byUser                         // name@domain, name@, or the bare name of a user
	byDomain                       // user:*@domain
	byMember                       // autogroup:member
	byTagged                       // autogroup:tagged
	byRole                         // autogroup:admin and the like
	byShared                       // autogroup:shared: nobody here, since nodes are not shared between tailnets
	bySet                          // addresses: a host, an address, a prefix, a range, an ipset
	bySelf                         // autogroup:self
	byInternet                     // autogroup:internet
)

// isIdentity reports whether s stands for users or tags, and so only for nodes' own addresses.
func (s selector) isIdentity() bool { return s.kind >= byTag && s.kind <= byShared }

// isUsers reports whether s stands for users and never for tagged nodes.
func (s selector) isUsers() bool { return s.isIdentity() && s.kind != byTag && s.kind != byTagged }

// roles are the autogroups that stand for users with a role.
var roles = []string{"owner", "admin", "it-admin", "network-admin", "billing-admin", "auditor"}

var autogroups = append([]string{"internet", "member", "tagged", "self", "nonroot", "danger-all", "shared"}, roles...)

// selector understands a word. Whether it may stand where it does is for the caller to say.
func (p *Policy) selector(w word) (selector, *Refusal) {
	text := strings.TrimSpace(w.text)
	s := selector{text: text, line: w.line, name: text}
	if text == "*" {
		return s, nil // byAll
	}
	kind, name, _ := strings.Cut(text, ":")
	switch kind {
	case "autogroup":
		return p.autogroup(s, name)
	case "tag":
		if _, ok := p.tags[text]; !ok {
			return s, p.unknown(w.line, "tag", text, keys(p.tags), "add it to tagOwners")
		}
		s.kind = byTag
		return s, nil
	case "group":
		if _, ok := p.groups[text]; !ok {
			return s, p.unknown(w.line, "group", text, keys(p.groups), "add it to groups")
		}
		s.kind = byGroup
		return s, nil
	case "user":
		domain, ok := strings.CutPrefix(name, "*@")
		if !ok || domain == "" {
			return s, refuse(w.line, "write user:*@example.com, or just the user", "%q: invalid address", text)
		}
		s.kind, s.name = byDomain, domain
		return s, nil
	case "ipset":
		set, ok := p.ipsets[text]
		if !ok {
			return s, p.unknown(w.line, "ipset", text, keys(p.ipsets), "add it to ipsets")
		}
		s.kind, s.ranges = bySet, setRanges(set)
		return s, nil
	case "svc":
		return s, refuse(w.line, "take it out", "%q: services are not offered by this server yet", text)
	}
	return p.addressOrUser(s)
}

func (p *Policy) unknown(line int, what, text string, known []string, remedy string) *Refusal {
	slices.Sort(known)
	if like := nearest(text, known); like != "" {
		remedy += ", or did you mean \"" + like + "\"?"
	}
	return refuse(line, remedy, "%s not found: %q", what, text)
}

func (p *Policy) autogroup(s selector, name string) (selector, *Refusal) {
	s.name = name
	switch name {
	case "internet":
		s.kind = byInternet
	case "member", "members":
		s.kind = byMember
	case "tagged":
		s.kind = byTagged
	case "self":
		s.kind = bySelf
	case "danger-all":
		s.kind = byDanger
	case "shared":
		s.kind = byShared
	default:
		if !slices.Contains(roles, name) {
			remedy := "known are " + strings.Join(autogroups, ", ")
			if like := nearest(name, autogroups); like != "" {
				remedy = "did you mean \"autogroup:" + like + "\"?"
			}
			return s, refuse(s.line, remedy, "%q: unknown autogroup", s.text)
		}
		s.kind = byRole
	}
	return s, nil
}

// addressOrUser understands what has no prefix word: a host, an address, prefix or range, or a user.
func (p *Policy) addressOrUser(s selector) (selector, *Refusal) {
	if ranges, ok := p.hosts[s.text]; ok {
		s.kind, s.ranges = bySet, ranges
		return s, nil
	}
	if r, ok := parseRange(s.text); ok {
		s.kind, s.ranges = bySet, []netipx.IPRange{r}
		return s, nil
	}
	// A bare name can be a user's; without a tailnet that cannot be known. What can be neither is refused here.
	if !strings.Contains(s.text, "@") && (s.text == "" || strings.ContainsAny(s.text, "%*:/ ,")) {
		return s, invalidAddress(s)
	}
	s.kind = byUser
	return s, nil
}

func invalidAddress(s selector) *Refusal {
	return refuse(s.line, "it is no user, group, tag, host, address, prefix or autogroup", "%q: invalid address", s.text)
}

// parseRange reads an address, a prefix, or a range FROM-TO.
func parseRange(text string) (netipx.IPRange, bool) {
	if text == "" || text[0] != ':' && !isHexDigit(text[0]) {
		return netipx.IPRange{}, false
	}
	if a, err := netip.ParseAddr(text); err == nil && a.Zone() == "" && !a.Is4In6() {
		return netipx.IPRangeFrom(a, a), true
	}
	if strings.Contains(text, "/") {
		p, err := netip.ParsePrefix(text)
		if err != nil || p.Addr().Is4In6() {
			return netipx.IPRange{}, false
		}
		return netipx.RangeOfPrefix(p), true
	}
	if strings.Contains(text, "-") {
		r, err := netipx.ParseIPRange(text)
		return r, err == nil && r.IsValid() && r.From().Zone() == "" && r.To().Zone() == "" && !r.From().Is4In6()
	}
	return netipx.IPRange{}, false
}

func isHexDigit(b byte) bool {
	return b >= '0' && b <= '9' || b >= 'a' && b <= 'f' || b >= 'A' && b <= 'F'
}

// rangeText writes a range as Tailscale does: an address, a prefix, or FROM-TO.
func rangeText(r netipx.IPRange) string {
	if p, ok := r.Prefix(); ok {
		return prefixText(p)
	}
	return r.String()
}

// setRanges are the prefixes of a set, as ranges.
func setRanges(set *netipx.IPSet) []netipx.IPRange {
	var ranges []netipx.IPRange
	for _, p := range set.Prefixes() {
		ranges = append(ranges, netipx.RangeOfPrefix(p))
	}
	return ranges
}

func keys[V any](m map[string]V) []string {
	ks := make([]string, 0, len(m))
	for k := range m {
		ks = append(ks, k)
	}
	return ks
}
