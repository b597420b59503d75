package policy

import (
	"fmt"
	"slices"
	"strings"
)

// checkSSHTest refuses destinations that no SSH test can have.
func (c *Compiled) checkSSHTest(t *sshTest) *Refusal {
	for _, w := range t.dst {
		text := strings.TrimSpace(w.text)
		s, r := c.policy.selector(word{text, w.line})
		if r != nil && strings.HasPrefix(text, "tag:") {
			return refuse(w.line, "tests of SSH name no port; tags stand in tagOwners", "SSH tests dst contains unknown tag %q", text)
		}
		isOne := s.kind == bySet && len(s.ranges) == 1 && s.ranges[0].From() == s.ranges[0].To() && !strings.Contains(text, "/")
		if r != nil || s.kind != byTag && s.kind != byUser && !isOne {
			return refuse(w.line, "name a tag, a user, a host or an address", "SSH tests dst contains disallowed element %q", text)
		}
	}
	return nil
}

// sshTest is what an entry of sshTests fails by.
func (v verifier) sshTest(t sshTest) (failed []string) {
	from, err := v.parties(strings.TrimSpace(t.src.text))
	if err != nil {
		return []string{fmt.Sprintf("src: %v", err)}
	}
	if len(t.accept)+len(t.deny)+len(t.check) == 0 {
		return []string{"none of accept, deny and check is given"}
	}
	if len(t.dst) == 0 {
		return []string{"no dst is given"}
	}
	for _, w := range t.dst {
		to, err := v.parties(strings.TrimSpace(w.text))
		if err == nil && slices.ContainsFunc(to, func(p party) bool { return p.user == nil && len(p.tags) == 0 }) {
			err = fmt.Errorf("%q is no node's address", w.text)
		}
		if err != nil {
			failed = append(failed, fmt.Sprintf("dst: %v", err))
			continue
		}
		failed = append(failed, v.logins(t, from, to, w.text)...)
	}
	return failed
}

// logins holds the login names of a test against the policy.
func (v verifier) logins(t sshTest, from, to []party, dst string) (failed []string) {
	for _, want := range []struct {
		outcome string
		names   []word
	}{{"accept", t.accept}, {"deny", t.deny}, {"check", t.check}} {
		for _, n := range want.names {
			for _, f := range from {
				for _, d := range to {
					got := v.login(f, d, n.text)
					if n.text == "" {
						got = "an empty name"
					}
					if got != want.outcome {
						failed = append(failed, fmt.Sprintf("%s as %q at %q: %s, want %s", v.name(f), n.text, dst, got, want.outcome))
					}
				}
			}
		}
	}
	return failed
}

// login is the outcome of a login: accept, check or deny. Checks come first, as on the wire.
func (v verifier) login(from, to party, name string) string {
	for _, check := range []bool{true, false} {
		for i := range v.c.policy.ssh {
			r := &v.c.policy.ssh[i]
			if r.check != check || !v.sshCovers(r, from, to) || !v.namesLogin(r, from, name) {
				continue
			}
			if check {
				return "check"
			}
			return "accept"
		}
	}
	return "deny"
}

func (v verifier) sshCovers(r *sshRule, from, to party) bool {
	covered := slices.ContainsFunc(r.src, func(s selector) bool { return v.covers(s, from, false) || v.covers(s, from, true) })
	return covered && slices.ContainsFunc(r.dst, func(d selector) bool {
		if d.kind == bySelf {
			return from.user != nil && to.user != nil && from.user.ID == to.user.ID
		}
		return v.c.policy.isAny([]selector{d}, to.tags, to.user)
	})
}

func (v verifier) namesLogin(r *sshRule, from party, name string) bool {
	users := loginMap(r)
	if local, ok := users[name]; ok && local != "" || !ok && users["*"] != "" {
		return true
	}
	if from.user == nil {
		return false
	}
	local, domain, _ := strings.Cut(mailOf(from.user), "@")
	return local == name && slices.Contains(r.localparts, domain)
}
