package policy

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/keelscale/keelscale/hscontrol/tailnet"
	"tailscale.com/tailcfg"
)

// Match is a rule about packets that concerns somebody, or some address and port.
type Match struct {
	RuleRef
	Sources []string // as written
	Targets []string // each with its ports
	Via     []string
}

// PreviewSource is what the rules let a user, group, tag or host open: the rules that hold it as their source. The error
// says that the word stands for nobody.
func (c *Compiled) PreviewSource(s *tailnet.Snapshot, text string) ([]Match, error) {
	v := verifier{c, s}
	from, err := v.parties(text)
	if err != nil {
		return nil, err
	}
	return v.matches(func(r *rule, t target) bool {
		return slices.ContainsFunc(r.src, func(w selector) bool {
			return slices.ContainsFunc(from, func(p party) bool {
				if t.kind == bySelf {
					return v.opensItself(w, p)
				}
				return v.covers(w, p, false) || v.covers(w, p, true)
			})
		})
	}, nil), nil
}

// PreviewTarget is who may open a port of an address: the rules that hold it as their destination.
func (c *Compiled) PreviewTarget(s *tailnet.Snapshot, at netip.AddrPort) []Match {
	v := verifier{c, s}
	to := v.addressParty(at.Addr())
	return v.matches(func(r *rule, t target) bool {
		if t.kind == bySelf {
			return slices.ContainsFunc(r.src, func(w selector) bool { return v.opensItself(w, to) })
		}
		return v.covers(t.selector, to, at.Addr().Is6())
	}, func(p tailcfg.PortRange) bool { return p.Contains(at.Port()) })
}

// opensItself reports whether a source of a rule about autogroup:self holds the party.
func (v verifier) opensItself(w selector, p party) bool {
	return p.user != nil && (w.kind == byAll || v.c.policy.userIs(w, p.user))
}

// matches are the rules with the destinations that are meant; unless inPorts is nil, those with a port that it holds.
func (v verifier) matches(meant func(*rule, target) bool, inPorts func(tailcfg.PortRange) bool) []Match {
	rules := v.c.policy.rules
	if !v.c.policy.hasRules {
		rules = []rule{allowAll}
	}
	list := []Match{}
	for i := range rules {
		r := &rules[i]
		m := Match{RuleRef: *r.ref(), Via: r.via}
		for _, t := range r.dst {
			if !meant(r, t) {
				continue
			}
			for _, f := range r.flows {
				open := f.ports
				if open == nil {
					open = t.ports
				}
				if inPorts == nil || slices.ContainsFunc(open, inPorts) {
					m.Targets = append(m.Targets, targetText(t, open))
				}
			}
		}
		if m.Targets == nil {
			continue
		}
		for _, w := range r.src {
			m.Sources = append(m.Sources, w.text)
		}
		list = append(list, m)
	}
	return list
}

// targetText is a destination as the entries of acls are written.
func targetText(t target, ports []tailcfg.PortRange) string {
	if slices.Contains(ports, tailcfg.PortRangeAny) {
		return t.text + ":*"
	}
	return fmt.Sprintf("%s:%s", t.text, portTexts(ports))
}
