package access

import (
	"errors"
	"fmt"

	"github.com/keelscale/keelscale/hscontrol/tailnet"
)

// ErrForbidden is that a caller is known and may not do this.
var ErrForbidden = errors.New("forbidden")

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
		return fmt.Errorf("%w: this needs the scope %s, which this key, or the role of its user, does not have", ErrForbidden, scope)
	}
	return fmt.Errorf("%w: this needs the scope %s, which this key does not have", ErrForbidden, scope)
}

// administers reports whether a role has a part in administration.
func administers(role string) bool { return role != "" && role != "member" }
