package store_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/keelscale/keelscale/hscontrol/store"
	"github.com/keelscale/keelscale/hscontrol/tailnet"
)

// logged is a row of the audit log as tests tell it.
func logged(e tailnet.AuditEntry) string {
	return fmt.Sprintf("%s/%s %s %s:%s %s -> %s", e.Actor.Via, e.Actor.Who, e.Action, e.Kind, e.TargetName, e.Before, e.After)
}

func (w *world) audit(f store.AuditFilter) []tailnet.AuditEntry {
	w.t.Helper()
	return must[[]tailnet.AuditEntry](w.t)(w.ListAudit(w.ctx, f))
}

func (w *world) lastAudit() uint64 {
	w.t.Helper()
	return must[store.AuditMark](w.t)(w.AuditHead(w.ctx)).ID
}

// verified fails the test unless the chain holds to its end.
func (w *world) verified() {
	w.t.Helper()
	_, end, broken, err := w.VerifyAudit(w.ctx, store.AuditMark{}, 0)
	if err != nil || broken != nil || !end {
		w.t.Errorf("verifying: got end %v, %+v, %v, want a whole chain", end, broken, err)
	}
}

// TestAuditRows: each change is told once, with what differed, and by whom; what is no change is not.
func TestAuditRows(t *testing.T) {
	bothEngines(t, func(t *testing.T, w *world) {
		n := w.join("web")
		w.ctx = tailnet.WithActor(w.ctx, tailnet.Actor{Via: tailnet.ViaREST, Who: "apikey:abc", From: "192.0.2.7"})
		for _, c := range []struct {
			name string
			do   func() error
			want []string
		}{
			{"renaming", func() error { _, err := w.RenameNode(w.ctx, n.ID, "db"); return err },
				[]string{`rest/apikey:abc node.rename node:db {"name":"web"} -> {"name":"db"}`}},
			{"renaming to the same", func() error { _, err := w.RenameNode(w.ctx, n.ID, "db"); return err }, nil},
			{"failing", func() error {
				if _, err := w.RenameNode(w.ctx, n.ID, "no name"); err == nil {
					return errors.New("a bad name was taken")
				}
				return nil
			}, nil},
			{"tags", func() error { _, err := w.SetNodeTags(w.ctx, n.ID, []string{"tag:db"}); return err },
				[]string{fmt.Sprintf(`rest/apikey:abc node.tags node:db {"user":%d} -> {"tags":["tag:db"]}`, w.user.ID)}},
			{"routes", func() error { _, err := w.ApproveRoutes(w.ctx, n.ID, prefixes("10.0.0.0/24")); return err },
				[]string{`rest/apikey:abc node.routes node:db {} -> {"approvedRoutes":["10.0.0.0/24"]}`}},
			{"a new user", func() error { _, err := w.CreateUser(w.ctx, tailnet.User{Name: "bob"}); return err },
				[]string{`rest/apikey:abc user.create user:bob  -> {"name":"bob"}`}},
			{"endpoints", func() error {
				_, _, err := w.UpdateNode(w.ctx, n.ID, store.NodeUpdate{CapVersion: 114})
				return err
			}, nil},
			{"a session", func() error { return w.OpenSession(w.ctx, n.ID, "x") }, nil},
			{"a policy", func() error { _, err := w.PutPolicy(w.ctx, 0, "{}", "cli"); return err },
				[]string{`rest/apikey:abc policy.set policy:  -> {"version":1,"sha256":"44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a","source":"cli"}`}},
			{"the same policy", func() error { _, err := w.PutPolicy(w.ctx, 0, "{}", "cli"); return err }, nil},
			{"deleting", func() error { return w.DeleteNode(w.ctx, n.ID) }, []string{"rest/apikey:abc node.delete node:db {"}},
		} {
			last := w.lastAudit()
			if err := c.do(); err != nil {
				t.Fatalf("%s: %v", c.name, err)
			}
			var got []string
			for _, e := range w.audit(store.AuditFilter{After: last}) {
				got = append(got, logged(e))
				if e.Actor.From != "192.0.2.7" || e.TailnetID != w.user.TailnetID {
					t.Errorf("%s: got from %q in tailnet %d", c.name, e.Actor.From, e.TailnetID)
				}
			}
			same := len(got) == len(c.want)
			for i := range c.want {
				same = same && strings.HasPrefix(got[i], c.want[i])
			}
			if !same {
				t.Errorf("%s: got %q, want %q", c.name, got, c.want)
			}
		}
		w.verified()
	})
}

// TestAuditJoins: a node that comes in is told with the key that let it, one that comes again only if something differs.
func TestAuditJoins(t *testing.T) {
	bothEngines(t, func(t *testing.T, w *world) {
		last := w.lastAudit()
		j := client("web")
		control := tailnet.WithActor(w.ctx, tailnet.Actor{Via: tailnet.ViaControl, From: "198.51.100.9"})
		n := must[*tailnet.Node](t)(w.JoinWithKey(control, w.secret, j))
		must[*tailnet.Node](t)(w.JoinWithKey(control, w.secret, j))
		past := w.clock.now().Add(-time.Minute)
		must[*tailnet.Node](t)(w.ExpireNode(control, n.ID, &past))
		got := w.audit(store.AuditFilter{After: last})
		if len(got) != 2 || got[0].Action != "node.create" || got[1].Action != "node.logout" {
			t.Fatalf("got %d rows %+v, want node.create and node.logout", len(got), got)
		}
		if by := got[0].Actor; by.Via != "control" || !strings.HasPrefix(by.Who, "authkey:") || by.From != "198.51.100.9" {
			t.Errorf("got actor %+v, want the key over control", by)
		}
		if strings.Contains(string(got[0].After), w.secret) {
			t.Error("the log has the secret of the key")
		}
	})
}

// TestAuditFilters: each filter chooses what it says.
func TestAuditFilters(t *testing.T) {
	bothEngines(t, func(t *testing.T, w *world) {
		start := w.clock.now()
		n := w.join("web")
		w.clock.advance(time.Hour)
		alice := tailnet.WithActor(w.ctx, tailnet.Actor{Via: "cli", Who: "Alice_1"})
		must[*tailnet.Node](t)(w.RenameNode(alice, n.ID, "db"))
		lab := must[*tailnet.Tailnet](t)(w.CreateTailnet(w.ctx, "lab", v4, v6))
		for _, c := range []struct {
			f    store.AuditFilter
			want string
		}{
			{store.AuditFilter{Limit: 1}, "user.create"},
			{store.AuditFilter{Limit: 2, Newest: true}, "node.rename tailnet.create"},
			{store.AuditFilter{Since: start.Add(time.Minute)}, "node.rename tailnet.create"},
			{store.AuditFilter{Until: start.Add(time.Minute), Target: "node"}, "node.create"},
			{store.AuditFilter{Actor: "ALICE_"}, "node.rename"},
			{store.AuditFilter{Actor: "alice%"}, ""},
			{store.AuditFilter{Target: fmt.Sprint("node:", n.ID)}, "node.create node.rename"},
			{store.AuditFilter{Target: "db"}, "node.rename"},
			{store.AuditFilter{Action: "node"}, "node.create node.rename"},
			{store.AuditFilter{Action: "node.rename"}, "node.rename"},
			{store.AuditFilter{TailnetID: lab.ID}, "tailnet.create"},
			{store.AuditFilter{Before: 2}, "user.create"},
		} {
			var got []string
			for _, e := range w.audit(c.f) {
				got = append(got, e.Action)
			}
			if strings.Join(got, " ") != c.want {
				t.Errorf("%+v: got %q, want %q", c.f, got, c.want)
			}
		}
	})
}

// TestAuditChain: many at once, in one group and from two servers, make one chain.
func TestAuditChain(t *testing.T) {
	bothConfigs(t, func(t *testing.T, cfg store.Config) {
		w := newWorld(t, cfg)
		stores := []*store.Store{w.Store}
		if cfg.Type == "postgres" {
			stores = append(stores, open(t, cfg))
		}
		last := w.lastAudit()
		const each = 100
		var wg sync.WaitGroup
		for _, s := range stores {
			for i := range each {
				wg.Go(func() {
					if _, err := s.JoinWithKey(w.ctx, w.secret, client(fmt.Sprint("n", i))); err != nil {
						t.Error(err)
					}
				})
			}
		}
		wg.Wait()
		if got, want := w.lastAudit()-last, uint64(each*len(stores)); got != want {
			t.Errorf("got %d rows, want %d", got, want)
		}
		w.verified()
	})
}

// TestAuditTampering: whatever is done to the tables past the server, the first row that is wrong is found.
func TestAuditTampering(t *testing.T) {
	for _, c := range []struct {
		name string
		sql  []string
		want uint64
	}{
		{"a changed name", []string{"UPDATE audit SET who = 'nobody' WHERE id = 5"}, 5},
		{"a changed time", []string{"UPDATE audit SET at = (SELECT at FROM audit WHERE id = 1) WHERE id = 6"}, 6},
		{"a changed document", []string{"UPDATE audit SET became = '{}' WHERE id = 4"}, 4},
		{"a row that is gone", []string{"DELETE FROM audit WHERE id = 3"}, 3},
		{"the end that is gone", []string{"DELETE FROM audit WHERE id > 6"}, 7},
		{"all of it gone", []string{"DELETE FROM audit"}, 1},
		{"an empty head", []string{"UPDATE audit_head SET last = 6, hash = (SELECT hash FROM audit WHERE id = 5)"}, 8},
		{"two that changed places", []string{"UPDATE audit SET id = 100 WHERE id = 3", "UPDATE audit SET id = 3 WHERE id = 4", "UPDATE audit SET id = 4 WHERE id = 100"}, 3},
		{"a hash taken from another", []string{"UPDATE audit SET hash = (SELECT hash FROM audit WHERE id = 2) WHERE id = 3"}, 3},
	} {
		t.Run(c.name, func(t *testing.T) {
			bothConfigs(t, func(t *testing.T, cfg store.Config) {
				w := newWorld(t, cfg)
				for i := range 6 {
					w.clock.advance(time.Second)
					w.newUser(0, fmt.Sprint("u", i))
				}
				w.verified()
				db := raw(t, cfg)
				for _, statement := range c.sql {
					if _, err := db.Exec(statement); err != nil {
						t.Fatal(err)
					}
				}
				_, _, broken, err := w.VerifyAudit(w.ctx, store.AuditMark{}, 0)
				if err != nil || broken == nil || broken.ID != c.want {
					t.Errorf("got %+v, %v, want row %d to be the first that is wrong", broken, err, c.want)
				}
			})
		})
	}
}

// TestAuditPages: a chain is verified page by page, and each page's end is where the next begins.
func TestAuditPages(t *testing.T) {
	bothEngines(t, func(t *testing.T, w *world) {
		for i := range 9 {
			w.newUser(0, fmt.Sprint("u", i))
		}
		var at store.AuditMark
		pages := 0
		for end := false; !end; pages++ {
			var broken *tailnet.AuditBreak
			var err error
			if at, end, broken, err = w.VerifyAudit(w.ctx, at, 4); err != nil || broken != nil {
				t.Fatalf("page %d: %+v, %v", pages, broken, err)
			}
		}
		head := must[store.AuditMark](t)(w.AuditHead(w.ctx))
		if diff := cmp.Diff(head, at); diff != "" || pages != 3 {
			t.Errorf("got %d pages, want 3; the end (-want +got):\n%s", pages, diff)
		}
	})
}

// TestAuditUndone: an operation that fails in a group leaves no row behind.
func TestAuditUndone(t *testing.T) {
	bothConfigs(t, func(t *testing.T, cfg store.Config) {
		w := newWorld(t, cfg)
		tiny := must[*tailnet.Tailnet](t)(w.CreateTailnet(w.ctx, "tiny", prefixes("10.9.0.0/32")[0], v6))
		eve := w.newUser(tiny.ID, "eve")
		secret := w.newKey(tailnet.PreAuthKey{UserID: eve.ID, Reusable: true})
		n := w.join("web")
		last := w.lastAudit()
		release := hold(t, cfg)
		first := make(chan error, 1)
		before := w.Stats()
		go func() { first <- w.OpenSession(context.Background(), n.ID, "x") }()
		for w.Stats().Groups == before.Groups {
			// until the writer has it
		}
		const herd = 20
		var wg sync.WaitGroup
		var mu sync.Mutex
		in := 0
		for range herd {
			wg.Go(func() {
				_, err := w.JoinWithKey(w.ctx, secret, client("n"))
				mu.Lock()
				defer mu.Unlock()
				if err == nil {
					in++
				} else if !errors.Is(err, tailnet.ErrExhausted) {
					t.Error(err)
				}
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
		if got := len(w.audit(store.AuditFilter{After: last})); got != in || in != 1 {
			t.Errorf("got %d rows for %d nodes, want one each", got, in)
		}
		w.verified()
	})
}
