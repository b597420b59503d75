package policy

import (
	"fmt"
	"slices"
	"strings"
)

// login answers for a login by SSH. It takes a rule of ssh, and packets to port 22 that pass: the two know nothing of
// each other.
func (e explainer) login(from, to end, name string) *Answer {
	a := e.loginRule(from, to, name)
	if !a.Allowed {
		return a
	}
	p := e.packet(from, to, 6, sshPort)
	if p.Allowed {
		a.Steps = append(a.Steps, fmt.Sprintf("port %d of %s is open to %s by %s", sshPort, to.name, from.name, p.Rule))
		return a
	}
	p.Lacks = append([]string{fmt.Sprintf("%s would answer %s, but packets to port %d do not pass", a.Rule, a.Outcome, sshPort)}, p.Lacks...)
	return p
}

// loginRule answers by the rules of ssh alone.
func (e explainer) loginRule(from, to end, name string) *Answer {
	a := &Answer{Outcome: "deny", Steps: []string{e.describe(from), e.describe(to)}}
	nearest := -1
	for n := range e.c.ssh {
		r := e.c.ssh[n].rule
		var lacks []string
		met := 0
		for _, part := range []struct {
			ok   bool
			miss string
		}{
			{slices.ContainsFunc(r.src, func(s selector) bool { return e.covers(s, from.who, from.addr.Is6()) }), fmt.Sprintf("its src %s does not hold %s", selectorTexts(r.src), from.name)},
			{to.node >= 0 && from.node >= 0 && e.sshGoesTo(&e.c.ssh[n], from.node, to.node), fmt.Sprintf("its dst %s does not hold %s for it", selectorTexts(r.dst), to.name)},
			{e.namesLogin(r, from.who, name), fmt.Sprintf("its users do not let in %q", name)},
		} {
			if part.ok {
				met++
			} else {
				lacks = append(lacks, part.miss)
			}
		}
		ref := &RuleRef{Section: "ssh", Index: r.index, Line: r.line}
		if len(lacks) == 0 {
			a.Allowed, a.Outcome, a.Rule, a.Lacks = true, "accept", ref, nil
			if r.check {
				a.Outcome = "check"
			}
			a.Steps = append(a.Steps, e.loginSteps(r, from, to, name)...)
			return a
		}
		if met > nearest {
			nearest, a.Rule, a.Lacks = met, ref, lacks
		}
	}
	if nearest < 0 {
		a.Lacks = []string{"the policy has no rule in ssh, and without one nobody logs in by Tailscale SSH"}
	}
	return a
}

// loginSteps say by which words the ends and the name are in the rule.
func (e explainer) loginSteps(r *sshRule, from, to end, name string) []string {
	var steps []string
	for _, s := range r.src {
		if e.covers(s, from.who, from.addr.Is6()) {
			steps = append(steps, "src "+e.expand(s, from))
			break
		}
	}
	for _, d := range r.dst {
		if d.kind == bySelf || e.covers(d, to.who, to.addr.Is6()) {
			steps = append(steps, "dst "+e.expand(d, to))
			break
		}
	}
	switch {
	case slices.Contains(r.users, name):
		steps = append(steps, fmt.Sprintf("users name %q", name))
	case len(r.localparts) > 0 && !slices.Contains(r.users, "autogroup:nonroot"):
		steps = append(steps, fmt.Sprintf("users have localpart:*@%s, and %q is what stands before the @ of the user", strings.Join(r.localparts, ", localpart:*@"), name))
	default:
		steps = append(steps, fmt.Sprintf("autogroup:nonroot holds %q", name))
	}
	if r.check && r.period > 0 {
		steps = append(steps, fmt.Sprintf("an approval is good for %s", r.period))
	}
	return steps
}

// sshGoesTo reports whether node k is a destination of the entry for node i.
func (e explainer) sshGoesTo(f *sshFlow, i, k int) bool {
	u := e.c.x.users[k]
	return f.to.has(k) || f.self[u] && e.c.x.member.has(k) && e.c.x.member.has(i) && e.c.x.users[i] == u
}
