package access_test

import (
	"context"
	"io"
	"log/slog"
	"net/netip"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/keelscale/keelscale/hscontrol/api/access"
	"github.com/keelscale/keelscale/hscontrol/store"
	"github.com/keelscale/keelscale/hscontrol/tailnet"
)

// bench is a guard over a real store, with a clock that tests move.
type bench struct {
	*access.Guard
	store *store.Store

	mu sync.Mutex
	at time.Time
}

func (b *bench) now() time.Time {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.at
}

func (b *bench) advance(d time.Duration) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.at = b.at.Add(d)
}

func newBench(t testing.TB) *bench {
	t.Helper()
	b := &bench{at: time.Date(2026, 5, 4, 12, 0, 0, 0, time.UTC)}
	db, err := store.Open(t.Context(), store.Config{
		Type:     "sqlite",
		SQLite:   store.SQLiteConfig{Path: filepath.Join(t.TempDir(), "db.sqlite"), WAL: true},
		PrefixV4: netip.MustParsePrefix("100.64.0.0/10"),
		Now:      b.now,
		Log:      slog.New(slog.NewTextHandler(io.Discard, nil)),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	})
	b.store, b.Guard = db, access.NewGuard(db, b.now)
	return b
}

// key makes an API key and tells its secret.
func (b *bench) key(t *testing.T, k tailnet.APIKey) string {
	t.Helper()
	_, secret, err := b.store.CreateAPIKey(context.Background(), k)
	if err != nil {
		t.Fatal(err)
	}
	return secret.Reveal()
}

func (b *bench) user(t *testing.T, name, role string) *tailnet.User {
	t.Helper()
	u, err := b.store.CreateUser(t.Context(), tailnet.User{Name: name, Role: role})
	if err != nil {
		t.Fatal(err)
	}
	return u
}

func (b *bench) client(t *testing.T, c tailnet.OAuthClient) (*tailnet.OAuthClient, string) {
	t.Helper()
	made, secret, err := b.store.CreateOAuthClient(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	return made, secret.Reveal()
}
