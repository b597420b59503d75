// Package access says who makes a call to the API, and what they may do: keys and access tokens, their scopes, the user
// that a key is bound to, and how often.
//
// REST, gRPC and Tailscale's API share it. The way of a call:
//
//	guard.go     what came as "Authorization" -> Caller, or a refusal
//	known.go     who was known a moment ago
//	limits.go    how often, and how slowly keys can be guessed
//	caller.go    the Caller in a context
//	scopes.go    what a Caller may do
//	token.go     an OAuth client's secret -> access token; exchange.go: another issuer's token -> access token
//
// It knows no gRPC and answers no HTTP of its own but that for tokens; its refusals are facts that each border
// translates.
package access

import (
	"context"
	"net/netip"

	"github.com/keelscale/keelscale/hscontrol/tailnet"
)

// Caller is who makes a call.
type Caller struct {
	Tailnet tailnet.ID     // the only one that they may see; zero: all
	User    tailnet.UserID // on whose behalf; zero: nobody's
	Role    string         // of that user; see tailnet.User

	Via  string // the door; see tailnet.Actor
	Who  string // as tailnet.Actor has it
	From string // an address, or "unix socket"

	// Scopes are what the caller may do, by Tailscale's names. Nil: everything; empty: nothing.
	Scopes []string
	// Tags are those that what the caller makes must have, or tags that these own. Nil: it may have any or none.
	Tags []string

	KeyID tailnet.KeyID // of the API key; zero: none
}

type callerKey struct{}

// With returns a context whose calls c makes. Changes are written down as theirs.
func With(ctx context.Context, c Caller) context.Context {
	by := tailnet.Actor{Via: c.Via, Who: c.Who, From: c.From}
	if _, err := netip.ParseAddr(c.From); err != nil {
		by.From = "" // this machine
	}
	return context.WithValue(tailnet.WithActor(ctx, by), callerKey{}, c)
}

// Of is the caller of a context. That of a context without one may do nothing.
func Of(ctx context.Context) Caller {
	if c, ok := ctx.Value(callerKey{}).(Caller); ok {
		return c
	}
	return Caller{Scopes: []string{}}
}

// Sees reports whether what belongs to a tailnet is there for the caller.
func (c Caller) Sees(id tailnet.ID) bool { return c.Tailnet == 0 || c.Tailnet == id }

// OwnOnly reports whether the caller acts for a user who has no part in administration, and so may do only what
// concerns that user, and only as far as it says so where it is done.
func (c Caller) OwnOnly() bool { return c.User != 0 && !administers(c.Role) }

// Owns reports whether what belongs to a user, zero for tagged nodes, is there for the caller.
func (c Caller) Owns(owner tailnet.UserID) bool { return !c.OwnOnly() || owner == c.User }
