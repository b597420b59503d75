package store_test

import (
	"context"
	"fmt"
	"net/netip"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"tailscale.com/tailcfg"
	"tailscale.com/types/key"

	"github.com/keelscale/keelscale/hscontrol/store"
	"github.com/keelscale/keelscale/hscontrol/tailnet"
)

var (
	v4 = netip.MustParsePrefix("100.64.0.0/10")
	v6 = netip.MustParsePrefix("fd7a:115c:a1e0::/48")
)

// clock is a time that tests move themselves.
type clock struct {
	sync.Mutex
	at time.Time
}

func newClock() *clock { return &clock{at: time.Date(2026, 3, 1, 12, 0, 0, 123456789, time.UTC)} }

func (c *clock) now() time.Time {
	c.Lock()
	defer c.Unlock()
	return c.at
}

func (c *clock) advance(d time.Duration) time.Time {
	c.Lock()
	defer c.Unlock()
	c.at = c.at.Add(d)
	return c.at
}

// sqliteConfig is a fresh SQLite database.
func sqliteConfig(t testing.TB) store.Config {
	return store.Config{
		Type:     "sqlite",
		SQLite:   store.SQLiteConfig{Path: filepath.Join(t.TempDir(), "data", "db.sqlite"), WAL: true},
		PrefixV4: v4,
		PrefixV6: v6,
	}
}

// open opens a store and closes it at the end of the test.
func open(t testing.TB, cfg store.Config) *store.Store {
	t.Helper()
	s, err := store.Open(context.Background(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// must is the value of a call that has to succeed.
func must[T any](t testing.TB) func(T, error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

// world is a store with a user and a reusable key of that user.
type world struct {
	*store.Store
	t      testing.TB
	clock  *clock
	ctx    context.Context
	user   *tailnet.User
	secret string
}

func newWorld(t testing.TB, cfg store.Config) *world {
	t.Helper()
	c := newClock()
	cfg.Now = c.now
	w := &world{Store: open(t, cfg), t: t, clock: c, ctx: context.Background()}
	w.user = w.newUser(0, "anna")
	w.secret = w.newKey(tailnet.PreAuthKey{UserID: w.user.ID, Reusable: true})
	return w
}

func (w *world) newUser(id tailnet.ID, name string) *tailnet.User {
	w.t.Helper()
	return must[*tailnet.User](w.t)(w.CreateUser(w.ctx, tailnet.User{TailnetID: id, Name: name}))
}

// written returns when all is written that was to be before.
func (w *world) written() {
	w.t.Helper()
	if err := w.CloseSessions(w.ctx, nil); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) newKey(k tailnet.PreAuthKey) string {
	w.t.Helper()
	_, secret, err := w.CreatePreAuthKey(w.ctx, k)
	if err != nil {
		w.t.Fatal(err)
	}
	return secret.Reveal()
}

// client is a machine that wants to join.
func client(hostname string) store.Join {
	return store.Join{
		MachineKey: key.NewMachine().Public(),
		NodeKey:    key.NewNode().Public(),
		Hostinfo:   &tailcfg.Hostinfo{Hostname: hostname, OS: "linux"},
		CapVersion: 113,
	}
}

func (w *world) join(hostname string) *tailnet.Node {
	w.t.Helper()
	return must[*tailnet.Node](w.t)(w.JoinWithKey(w.ctx, w.secret, client(hostname)))
}

func (w *world) node(id tailnet.NodeID) *tailnet.Node {
	w.t.Helper()
	return must[*tailnet.Node](w.t)(w.GetNode(w.ctx, id))
}

func (w *world) online(ids ...tailnet.NodeID) {
	w.t.Helper()
	for _, id := range ids {
		if err := w.OpenSession(w.ctx, id, fmt.Sprint("session-", id)); err != nil {
			w.t.Fatal(err)
		}
	}
}

func (w *world) offline(ids ...tailnet.NodeID) {
	w.t.Helper()
	for _, id := range ids {
		if err := w.CloseSessions(w.ctx, []store.SessionRef{{NodeID: id, SessionID: fmt.Sprint("session-", id)}}); err != nil {
			w.t.Fatal(err)
		}
	}
}

// revision is that of the default tailnet.
func (w *world) revision() tailnet.Revision {
	w.t.Helper()
	def := must[*tailnet.Tailnet](w.t)(w.FindTailnet(w.ctx, ""))
	return must[map[tailnet.ID]tailnet.Revision](w.t)(w.Revisions(w.ctx))[def.ID]
}

func prefixes(texts ...string) (ps []netip.Prefix) {
	for _, text := range texts {
		ps = append(ps, netip.MustParsePrefix(text))
	}
	return ps
}

// comparable lets go-cmp look into keys and addresses.
var comparable = []cmp.Option{
	cmpopts.EquateComparable(key.MachinePublic{}, key.NodePublic{}, key.DiscoPublic{}, key.NLPublic{}, netip.Addr{}, netip.Prefix{}, netip.AddrPort{}),
	cmpopts.EquateEmpty(),
}
