package access

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
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
	store  *store.Store
	now    func() time.Time
	meters meters
}

// NewGuard makes a guard. It starts nothing.
func NewGuard(db *store.Store, now func() time.Time) *Guard { return &Guard{store: db, now: now} }

// Authenticate finds who sent a header "Authorization", from an address: "Bearer KEY", or Basic with the key as the
// user name, as clients of Tailscale's API write it. Via is ViaAPI; other doors set their own.
//
// Its errors are ErrNoKey, tailnet.ErrAPIKeyRefused, tailnet.ErrTooMany, and those of the store.
func (g *Guard) Authenticate(ctx context.Context, authorization, from string) (Caller, error) {
	secret := bearer(authorization)
	if secret == "" {
		return Caller{}, ErrNoKey
	}
	now := g.now()
	if err := g.meters.guess(from, secret, now); err != nil {
		return Caller{}, err
	}
	key, err := g.store.VerifyAPIKey(ctx, secret)
	if errors.Is(err, tailnet.ErrAPIKeyRefused) {
		g.meters.failed(from, now)
		return Caller{}, fmt.Errorf("%w; make another with headscale apikeys create on the server", err)
	}
	if err != nil {
		return Caller{}, fmt.Errorf("checking the API key: %w", err)
	}
	if err := g.meters.call(key.ID, secret, now); err != nil {
		return Caller{}, err
	}
	return Caller{Tailnet: key.TailnetID, Via: tailnet.ViaAPI, Who: "apikey:" + key.Prefix, From: from, KeyID: key.ID}, nil
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
