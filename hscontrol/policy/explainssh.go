package policy

import (
	"fmt"
	"slices"
)

// login answers for a login by SSH.
func (e explainer) login(from, to end, name string) *Answer {
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
		ref := &RuleRef{"ssh", r.index, r.line}
		if len(lacks) == 0 {
			a.Allowed, a.Outcome, a.Rule, a.Lacks = true, "accept", ref, nil
			if r.check {
				a.Outcome = "check"
			}
			return a
		}
		if met > nearest {
			nearest, a.Rule, a.Lacks = met, ref, lacks
		}
	}
	return a
}

// sshGoesTo reports whether node k is a destination of the entry for node i.
func (e explainer) sshGoesTo(f *sshFlow, i, k int) bool {
	u := e.c.x.users[k]
	return f.to.has(k) || f.self[u] && e.c.x.member.has(k) && e.c.x.member.has(i) && e.c.x.users[i] == u
}
