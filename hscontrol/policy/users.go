package policy

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/keelscale/keelscale/hscontrol/tailnet"
)

// people is what a policy can know of a tailnet's users.
type people struct {
	ids     []tailnet.UserID // sorted
	byWord  map[string]tailnet.UserID
	twice   map[string]bool // words that two users answer to
	mail    map[tailnet.UserID]string
	role    map[tailnet.UserID]string
	domains map[string]bool // the tailnet's own mail domains
	strict  bool            // domains come from the owner, so there are no others
}

func newPeople(s *tailnet.Snapshot) *people {
	n := len(s.Users)
	u := &people{
		ids: make([]tailnet.UserID, 0, n), byWord: make(map[string]tailnet.UserID, 3*n), twice: map[string]bool{},
		mail: make(map[tailnet.UserID]string, n), role: make(map[tailnet.UserID]string, n), domains: map[string]bool{},
	}
	for id := range s.Users {
		u.ids = append(u.ids, id)
	}
	slices.Sort(u.ids)
	owners := map[string]bool{}
	for _, id := range u.ids {
		user := s.Users[id]
		u.answer(user.Name, id)
		u.answer(user.Name+"@", id)
		u.answer(strings.ToLower(user.Email), id)
		u.role[id] = user.Role
		u.mail[id] = mailOf(user)
		if _, domain, ok := strings.Cut(u.mail[id], "@"); ok {
			u.domains[domain] = true
			if user.Role == "owner" {
				owners[domain] = true
			}
		}
	}
	if len(owners) > 0 {
		u.domains, u.strict = owners, true
	}
	return u
}

// mailOf is the user's mail address, which may be the name; empty without one.
func mailOf(u *tailnet.User) string {
	if u.Email != "" {
		return u.Email
	}
	if local, domain, ok := strings.Cut(u.Name, "@"); ok && local != "" && domain != "" {
		return u.Name
	}
	return ""
}

func (u *people) answer(word string, id tailnet.UserID) {
	if word == "" {
		return
	}
	if other, ok := u.byWord[word]; ok && other != id {
		u.twice[word] = true
	}
	u.byWord[word] = id
}

// find is the user that answers to word, and whether two do.
func (u *people) find(word string) (id tailnet.UserID, twice bool) {
	if id, ok := u.byWord[word]; ok {
		return id, u.twice[word]
	}
	word = strings.ToLower(word)
	return u.byWord[word], u.twice[word]
}

// hasRole reports whether a user with the given role is in the autogroup: the owner is an admin too.
func hasRole(role, autogroup string) bool {
	return role == autogroup || autogroup == "admin" && role == "owner"
}

// usersOf are the users that a selector stands for, sorted.
func (c *compiler) usersOf(s selector) []tailnet.UserID {
	key := fmt.Sprint(s.kind, s.name)
	if ids, ok := c.userSets[key]; ok {
		return ids
	}
	ids := c.findUsers(s)
	c.userSets[key] = ids
	return ids
}

func (c *compiler) findUsers(s selector) []tailnet.UserID {
	var ids []tailnet.UserID
	switch s.kind {
	case byUser:
		return c.findUser(s)
	case byGroup:
		for _, m := range c.policy.groups[s.name] {
			ids = append(ids, c.usersOf(m)...)
		}
	case byDomain:
		c.checkDomain(s.name, s.line, "")
		for _, id := range c.people.ids {
			if strings.HasSuffix(c.people.mail[id], "@"+s.name) {
				ids = append(ids, id)
			}
		}
	case byRole:
		for _, id := range c.people.ids {
			if hasRole(c.people.role[id], s.name) {
				ids = append(ids, id)
			}
		}
	case byMember:
		return c.people.ids
	case byShared:
		c.warnAt(s.line, "%q: nodes are not shared between tailnets here, so this is nobody", s.text)
	}
	slices.Sort(ids)
	return slices.Compact(ids)
}

func (c *compiler) findUser(s selector) []tailnet.UserID {
	id, twice := c.people.find(s.name)
	switch {
	case twice:
		c.doubt(refuse(s.line, "use the mail address", "%q: more than one user answers to this name", s.text))
		return nil
	case id != 0:
		return []tailnet.UserID{id}
	case strings.Contains(s.text, "@"):
		c.warnAt(s.line, "user %q does not exist yet", s.text)
		return nil
	}
	c.doubt(refuse(s.line, fmt.Sprintf("there is no host and no user of that name; write %q for a user that comes later", s.text+"@"),
		"%q: invalid address", s.text))
	return nil
}

// checkDomain doubts a mail domain that is none of the tailnet's.
func (c *compiler) checkDomain(domain string, line int, prefix string) {
	if c.people.domains[domain] {
		return
	}
	if !c.people.strict && strings.Contains(domain, ".") && !strings.ContainsAny(domain, "*@ /") {
		c.warnAt(line, "no user has a mail address in %s yet", domain)
		return
	}
	var own []string
	for d := range c.people.domains {
		own = append(own, d)
	}
	slices.Sort(own)
	c.doubt(refuse(line, "the tailnet's domains are "+strings.Join(own, ", "),
		"%s%s is not associated with this Tailnet and cannot be used in user:*@<domain> expressions", prefix, domain))
}

// doubt takes down a reason to refuse the policy that depends on who is in the tailnet today.
func (c *compiler) doubt(r *Refusal) {
	c.doubts = append(c.doubts, r)
	c.warn(r.Error())
}

// maxWarnings bounds what people are asked to read.
const maxWarnings = 200

func (c *compiler) warn(text string) {
	if c.said[text] {
		return
	}
	c.said[text] = true
	switch n := len(c.said); {
	case n < maxWarnings:
		c.warnings = append(c.warnings, text)
	case n == maxWarnings:
		c.warnings = append(c.warnings, "and more of the kind")
	}
}

func (c *compiler) warnAt(line int, format string, args ...any) {
	w := fmt.Sprintf(format, args...)
	if line > 0 {
		w = fmt.Sprintf("line %d: %s", line, w)
	}
	c.warn(w)
}

// userIs reports whether a selector stands for the user. It needs no snapshot, so it holds for newcomers too.
func (p *Policy) userIs(s selector, u *tailnet.User) bool {
	if u == nil {
		return false
	}
	switch s.kind {
	case byUser:
		return u.Matches(s.name)
	case byGroup:
		return slices.ContainsFunc(p.groups[s.name], func(m selector) bool { return p.userIs(m, u) })
	case byDomain:
		return strings.HasSuffix(mailOf(u), "@"+s.name)
	case byRole:
		return hasRole(u.Role, s.name)
	case byMember, byAll, byDanger:
		return true
	}
	return false
}

// isAny reports whether a selector stands for a node with these tags or, untagged, this owner.
func (p *Policy) isAny(list []selector, tags []string, owner *tailnet.User) bool {
	return slices.ContainsFunc(list, func(s selector) bool {
		if len(tags) == 0 {
			return p.userIs(s, owner)
		}
		return s.kind == byTagged || s.kind == byAll || s.kind == byDanger || s.kind == byTag && slices.Contains(tags, s.name)
	})
}

func sortedIDs[K cmp.Ordered, V any](m map[K]V) []K {
	ks := make([]K, 0, len(m))
	for k := range m {
		ks = append(ks, k)
	}
	slices.Sort(ks)
	return ks
}
