package store_test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/keelscale/keelscale/hscontrol/store"
	"github.com/keelscale/keelscale/hscontrol/tailnet"
)

// hold keeps the writer in its transaction until release is called, by holding what it has to lock.
func hold(t *testing.T, cfg store.Config) (release func()) {
	t.Helper()
	conn, err := raw(t, cfg).Conn(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	statements := []string{"BEGIN IMMEDIATE"}
	if cfg.Type == "postgres" {
		statements = []string{"BEGIN", "LOCK TABLE tailnets IN EXCLUSIVE MODE"}
	}
	for _, statement := range statements {
		if _, err := conn.ExecContext(context.Background(), statement); err != nil {
			t.Fatal(err)
		}
	}
	return func() {
		if _, err := conn.ExecContext(context.Background(), "ROLLBACK"); err != nil {
			t.Error(err)
		}
		conn.Close()
	}
}

// TestGroupCommit: what comes while one transaction is under way is written in the next, all at once, and raises the
// revision once; an operation that fails takes nothing of the others with it.
func TestGroupCommit(t *testing.T) {
	bothConfigs(t, func(t *testing.T, cfg store.Config) {
		w := newWorld(t, cfg)
		tiny := must[*tailnet.Tailnet](t)(w.CreateTailnet(w.ctx, "tiny", prefixes("10.9.0.0/32")[0], v6))
		eve := w.newUser(tiny.ID, "eve")
		once := w.newKey(tailnet.PreAuthKey{UserID: eve.ID})
		must[*tailnet.Node](t)(w.JoinWithKey(w.ctx, w.newKey(tailnet.PreAuthKey{UserID: eve.ID}), client("only")))

		release := hold(t, cfg)
		before, revision := w.Stats(), w.revision()
		first := make(chan error, 1)
		go func() { first <- w.OpenSession(w.ctx, 1, "x") }() // the writer takes it and waits for the lock
		for w.Stats().Groups == before.Groups {
			// until the writer has it
		}
		const herd = 100
		var wg sync.WaitGroup
		errs := make([]error, herd)
		for i := range herd {
			wg.Go(func() {
				if i%10 == 0 { // uses the key, then finds no address: its use is undone
					_, errs[i] = w.JoinWithKey(w.ctx, once, client("late"))
					return
				}
				_, errs[i] = w.JoinWithKey(w.ctx, w.secret, client(fmt.Sprint("n", i)))
			})
		}
		for w.Stats().Waiting < herd {
			// until all have come
		}
		release()
		wg.Wait()
		if err := <-first; err != nil {
			t.Error(err)
		}
		for i, err := range errs {
			if want := map[bool]error{true: tailnet.ErrExhausted}[i%10 == 0]; !errors.Is(err, want) {
				t.Errorf("join %d: got %v, want %v", i, err, want)
			}
		}
		after := w.Stats()
		if groups := after.Groups - before.Groups; groups != 2 {
			t.Errorf("got %d transactions for 1 operation and then %d, want 2", groups, herd)
		}
		if got := w.revision(); got != revision+1 {
			t.Errorf("got revision %d after %d, want one more", got, revision)
		}
		if k := must[*tailnet.PreAuthKey](t)(w.FindPreAuthKey(w.ctx, once)); k.Used {
			t.Error("the key of a join that failed is used")
		}
		if nodes := must[[]*tailnet.Node](t)(w.ListNodes(w.ctx, store.NodeFilter{UserID: w.user.ID})); len(nodes) != herd*9/10 {
			t.Errorf("got %d nodes, want %d", len(nodes), herd*9/10)
		}
	})
}

// TestGroupSeesItself: of operations on one node in one transaction each sees what those before it wrote, although the
// rows of all were read first.
func TestGroupSeesItself(t *testing.T) {
	bothConfigs(t, func(t *testing.T, cfg store.Config) {
		w := newWorld(t, cfg)
		twice, renamed, deleted, came := w.join("twice"), w.join("renamed"), w.join("deleted"), w.join("came")
		release := hold(t, cfg)
		before := w.Stats()
		first := make(chan error, 1)
		go func() { first <- w.OpenSession(w.ctx, twice.ID, "x") }() // the writer takes it and waits for the lock
		for w.Stats().Groups == before.Groups {
			// until the writer has it
		}
		at := w.clock.advance(time.Hour).Add(-time.Minute)
		update := func(n *tailnet.Node, second time.Duration, port uint16) func() error {
			return func() error {
				updated, _, err := w.UpdateNode(w.ctx, n.ID, store.NodeUpdate{
					Arrived: at.Add(second * time.Second), Endpoints: []netip.AddrPort{netip.AddrPortFrom(netip.MustParseAddr("192.0.2.1"), port)},
				})
				if n == came && err == nil && !updated.Online {
					return errors.New("it is not known to be online")
				}
				return err
			}
		}
		steps := []struct {
			do   func() error
			want error
		}{
			{update(twice, 2, 2), nil},
			{update(twice, 1, 1), tailnet.ErrStale},
			{update(twice, 3, 3), nil},
			{func() error { _, err := w.RenameNode(w.ctx, renamed.ID, "new"); return err }, nil},
			{update(renamed, 1, 4), nil},
			{func() error { return w.DeleteNode(w.ctx, deleted.ID) }, nil},
			{update(deleted, 1, 5), tailnet.ErrNotFound},
			{func() error { return w.OpenSession(w.ctx, came.ID, "y") }, nil},
			{update(came, 1, 6), nil},
		}
		var wg sync.WaitGroup
		errs := make([]error, len(steps))
		for i, step := range steps {
			wg.Go(func() { errs[i] = step.do() })
			for w.Stats().Waiting <= i {
				// until it waits behind those before it
			}
		}
		release()
		wg.Wait()
		if err := <-first; err != nil {
			t.Error(err)
		}
		for i, step := range steps {
			if !errors.Is(errs[i], step.want) {
				t.Errorf("step %d: got %v, want %v", i, errs[i], step.want)
			}
		}
		if n := w.node(twice.ID); len(n.Endpoints) != 1 || n.Endpoints[0].Port() != 3 || !n.Online {
			t.Errorf("updated twice: got %v, online %v; want the newest endpoint and online", n.Endpoints, n.Online)
		}
		if n := w.node(renamed.ID); n.GivenName != "new" || len(n.Endpoints) != 1 || n.Endpoints[0].Port() != 4 {
			t.Errorf("renamed and updated: got %q %v, want both", n.GivenName, n.Endpoints)
		}
	})
}

// TestCancelled: an operation whose caller goes away while it waits is not run.
func TestCancelled(t *testing.T) {
	bothConfigs(t, func(t *testing.T, cfg store.Config) {
		w := newWorld(t, cfg)
		n := w.join("web")
		release := hold(t, cfg)
		before := w.Stats()
		first := make(chan error, 1)
		go func() { first <- w.OpenSession(w.ctx, n.ID, "x") }()
		for w.Stats().Groups == before.Groups {
			// until the writer has it
		}
		ctx, cancel := context.WithCancel(w.ctx)
		late := make(chan error, 1)
		go func() {
			_, err := w.RenameNode(ctx, n.ID, "renamed")
			late <- err
		}()
		for w.Stats().Waiting == 0 {
			// until it has come
		}
		cancel()
		if err := <-late; !errors.Is(err, context.Canceled) {
			t.Errorf("got %v at once, want %v", err, context.Canceled)
		}
		release()
		if err := <-first; err != nil {
			t.Error(err)
		}
		w.join("other") // the queue has been gone through
		if got := w.node(n.ID).GivenName; got != "web" {
			t.Errorf("got name %q, want web: the caller had gone away", got)
		}
	})
}

func TestClosed(t *testing.T) {
	cfg := sqliteConfig(t)
	s, err := store.Open(context.Background(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for i := range 50 { // each is written or refused, and none waits for ever
		wg.Go(func() {
			_, err := s.CreateUser(context.Background(), tailnet.User{Name: fmt.Sprint("u", i)})
			if err != nil && !strings.Contains(err.Error(), "closed") {
				t.Error(err)
			}
		})
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	wg.Wait()
	if err := s.OpenSession(context.Background(), 1, "x"); err == nil || !strings.Contains(err.Error(), "the store is closed") {
		t.Errorf("got %v, want that the store is closed", err)
	}
}
