package access

import (
	"errors"
	"fmt"
	"slices"

	"github.com/keelscale/keelscale/hscontrol/tailnet"
)

// ErrForbidden is that a caller is known and may not do this.
var ErrForbidden = errors.New("forbidden")

// refusal is an ErrForbidden with a sentence of its own.
type refusal string

func (r refusal) Error() string      { return string(r) }
func (refusal) Is(target error) bool { return target == ErrForbidden }

// Forbid is an ErrForbidden that says why.
func Forbid(format string, args ...any) error { return refusal(fmt.Sprintf(format, args...)) }

// May reports whether the caller has a scope: "devices:core", "devices:core:read". Who may write may read. A scope
// without a name, for what everybody may do, all have.
func (c Caller) May(scope string) bool {
	return c.Scopes == nil || scope == "" || tailnet.ScopesCover(c.Scopes, scope)
}

// Check is May as an error, with a sentence for people.
func (c Caller) Check(scope string) error {
	switch {
	case c.May(scope):
		return nil
	case c.User != 0:
		return Forbid("this needs the scope %s, which this key, or the role of its user, does not have", scope)
	}
	return Forbid("this needs the scope %s, which this key does not have", scope)
}

// administers reports whether a role has a part in administration.
func administers(role string) bool { return role != "" && role != "member" }

// CheckTags refuses tags for what the caller makes that are neither the caller's nor owned by these. owns asks the
// policy whether one of the tags owns another; nil: none does. A caller without tags may use any.
func (c Caller) CheckTags(tags []string, owns func(by []string, tag string) bool) error {
	if c.Tags == nil {
		return nil
	}
	if len(tags) == 0 {
		return fmt.Errorf("%w: what this key makes needs tags, of %v or owned by these", tailnet.ErrTagRefused, c.Tags)
	}
	for _, tag := range tags {
		if !slices.Contains(c.Tags, tag) && (owns == nil || !owns(c.Tags, tag)) {
			return fmt.Errorf("%w: %s is neither among this key's tags, %v, nor owned by them", tailnet.ErrTagRefused, tag, c.Tags)
		}
	}
	return nil
}

// CheckRole refuses a caller who acts for a user to change another one of that role, or to make a user of it: what the
// caller may not do they may not have others do.
func (c Caller) CheckRole(role string) error {
	if c.User == 0 {
		return nil
	}
	for _, s := range tailnet.RoleScopes(role) {
		if !tailnet.ScopesCover(tailnet.RoleScopes(c.Role), s) || role == "owner" && c.Role != "owner" {
			return Forbid("a user of the role %s cannot do this with one of the role %s", c.Role, role)
		}
	}
	return nil
}

// Grant is what a new key or client of the caller's may open: the scopes that are asked for, or, for none, all that the
// caller has; and tags likewise. It never opens more than the caller may.
func (c Caller) Grant(scopes, tags []string) ([]string, []string, error) {
	if len(scopes) == 0 {
		if scopes = c.Scopes; scopes == nil {
			scopes = []string{tailnet.ScopeAll}
		}
	}
	for _, s := range scopes {
		if !c.May(s) {
			return nil, nil, Forbid("this key does not have the scope %s itself, and cannot give it", s)
		}
	}
	if len(tags) == 0 {
		return scopes, c.Tags, nil
	}
	return scopes, tags, c.CheckTags(tags, nil)
}

// SeesKey reports whether a key or client of a tailnet and a user is there for the caller. Who acts for a user sees that
// user's, unless the user may do everything.
func (c Caller) SeesKey(id tailnet.ID, user tailnet.UserID) bool {
	return c.Sees(id) && (c.User == 0 || c.User == user || tailnet.ScopesCover(tailnet.RoleScopes(c.Role), tailnet.ScopeAll))
}
