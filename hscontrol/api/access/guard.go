package access

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/keelscale/keelscale/hscontrol/store"
	"github.com/keelscale/keelscale/hscontrol/tailnet"
)

// ErrNoKey is that a call came without a key.
var ErrNoKey = errors.New("an API key is needed: make one with headscale apikeys create on the server")

// Guard knows callers over the network by their keys. It may be used by many at once; all doors of a server share one,
// so that limits hold over all of them.
type Guard struct {
	Issuers *http.Client // how issuers of federated clients are asked; nil: http.DefaultClient. Not to be changed in use
	Log     *slog.Logger // nil: slog.Default. Not to be changed in use

	store   *store.Store
	now     func() time.Time
	meters  meters
	known   known
	issuers issuers
}

// NewGuard makes a guard. It starts nothing.
func NewGuard(db *store.Store, now func() time.Time) *Guard { return &Guard{store: db, now: now} }

// Authenticate finds who sent a header "Authorization", from an address: "Bearer KEY", where KEY is an API key or an
// access token, or Basic with it as the user name, as clients of Tailscale's API write it. Via is ViaAPI; other doors
// set their own.
//
// Its errors are ErrNoKey, tailnet.ErrAPIKeyRefused, tailnet.ErrTooMany, and those of the store.
func (g *Guard) Authenticate(ctx context.Context, authorization, from string) (Caller, error) {
	secret := bearer(authorization)
	if secret == "" {
		return Caller{}, ErrNoKey
	}
	now, d := g.now(), digestOf(secret)
	if err := g.meters.guess(from, d, now); err != nil {
		return Caller{}, err
	}
	c, err := g.identify(ctx, secret, d, now)
	if errors.Is(err, tailnet.ErrAPIKeyRefused) {
		g.meters.failed(from, now)
		return Caller{}, fmt.Errorf("%w; make another with headscale apikeys create on the server", err)
	}
	if err != nil {
		return Caller{}, fmt.Errorf("checking the API key: %w", err)
	}
	if err := g.meters.call(c.Who, d, now); err != nil {
		return Caller{}, err
	}
	c.Via, c.From = tailnet.ViaAPI, from
	return c, nil
}

// bearer is the secret in a header "Authorization"; empty: there is none.
func bearer(authorization string) string {
	scheme, value, _ := strings.Cut(strings.TrimSpace(authorization), " ")
	value = strings.TrimSpace(value)
	switch {
	case strings.EqualFold(scheme, "Bearer"):
		return value
	case strings.EqualFold(scheme, "Basic"):
		pair, err := base64.StdEncoding.DecodeString(value)
		if name, _, ok := strings.Cut(string(pair), ":"); err == nil && ok {
			return name
		}
	}
	return ""
}

// lookUp asks the store whose secret it is, what it opens, and when it expires (nil: never).
func (g *Guard) lookUp(ctx context.Context, secret string) (c Caller, expires *time.Time, err error) {
	if strings.HasPrefix(secret, string(tailnet.TokenSecret)+"-") {
		t, client, err := g.store.VerifyAccessToken(ctx, secret)
		if err != nil {
			return Caller{}, nil, err
		}
		// What was taken from the client since is taken from its tokens.
		tags := slices.DeleteFunc(slices.Clone(t.Tags), func(tag string) bool { return !slices.Contains(client.Tags, tag) })
		if len(client.Tags) > 0 && len(tags) == 0 {
			tags = client.Tags
		}
		c, err = g.onBehalf(ctx, client.UserID, Caller{
			Tailnet: client.TailnetID, Who: "oauth:" + client.Prefix, Tags: tags, Scopes: tailnet.ScopesInBoth(t.Scopes, client.Scopes),
		})
		return c, &t.ExpiresAt, err
	}
	k, err := g.store.VerifyAPIKey(ctx, secret)
	if err != nil {
		return Caller{}, nil, err
	}
	c, err = g.onBehalf(ctx, k.UserID, Caller{
		Tailnet: k.TailnetID, Who: "apikey:" + k.Prefix, Tags: k.Tags, Scopes: k.Scopes, KeyID: k.ID,
	})
	return c, k.Expiration, err
}

// onBehalf gives the caller no more than what a user may, if there is one.
func (g *Guard) onBehalf(ctx context.Context, id tailnet.UserID, c Caller) (Caller, error) {
	if id != 0 {
		users, err := g.store.ListUsers(ctx, store.UserFilter{ID: id})
		switch {
		case err != nil:
			return Caller{}, err
		case len(users) == 0:
			return Caller{}, fmt.Errorf("%w: its user was deleted", tailnet.ErrAPIKeyRefused)
		case users[0].Status != tailnet.UserActive:
			return Caller{}, fmt.Errorf("%w: its user is not active", tailnet.ErrAPIKeyRefused)
		}
		c.User, c.Role = id, users[0].Role
		c.Tailnet, c.Scopes = users[0].TailnetID, tailnet.ScopesInBoth(c.Scopes, tailnet.RoleScopes(c.Role))
	}
	if tailnet.ScopesCover(c.Scopes, tailnet.ScopeAll) {
		c.Scopes = nil
	}
	return c, nil
}
