package access

import (
	"errors"
	"fmt"
	"slices"
	"strings"
)

// Scopes that stand for all others.
const (
	All     = "all"
	AllRead = "all:read"
)

// read is what a scope ends with that only reads.
const read = ":read"

// ErrForbidden is that a caller is known and may not do this.
var ErrForbidden = errors.New("forbidden")

// May reports whether the caller has a scope: "devices:core", "devices:core:read". Who may write may read. A scope
// without a name, for what everybody may do, all have.
func (c Caller) May(scope string) bool {
	return c.Scopes == nil || scope == "" || covers(c.Scopes, scope)
}

// Check is May as an error, with a sentence for people.
func (c Caller) Check(scope string) error {
	if c.May(scope) {
		return nil
	}
	if c.User != 0 {
		return fmt.Errorf("%w: this needs the scope %s, which this key, or the role of its user, does not have", ErrForbidden, scope)
	}
	return fmt.Errorf("%w: this needs the scope %s, which this key does not have", ErrForbidden, scope)
}

// covers reports whether one of the scopes is, or implies, the one that is wanted.
func covers(scopes []string, want string) bool {
	return slices.ContainsFunc(scopes, func(s string) bool { return implies(s, want) })
}

func implies(s, want string) bool {
	switch {
	case s == want, s == All:
		return true
	case s == AllRead:
		return strings.HasSuffix(want, read)
	}
	return s+read == want
}

// administers reports whether a role has a part in administration.
func administers(role string) bool { return role != "" && role != "member" }
