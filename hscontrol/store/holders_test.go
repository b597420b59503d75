package store_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/keelscale/keelscale/hscontrol/store"
	"github.com/keelscale/keelscale/hscontrol/tailnet"
)

// TestHolders: of two servers one sends a stream and one takes a delivery, and when that one has died or ended, the other
// takes its place long before the lease is over.
func TestHolders(t *testing.T) {
	for name, end := range map[string]func(t *testing.T, cfg store.Config, first *store.Store){
		"ended": func(t *testing.T, _ store.Config, first *store.Store) {
			if err := first.Close(); err != nil {
				t.Fatal(err)
			}
		},
		"killed": func(t *testing.T, cfg store.Config, _ *store.Store) { // as if another process had died with them
			for _, statement := range []string{
				"INSERT INTO replicas (name, seen_at) VALUES ('killed', now() - interval '1 minute')",
				"UPDATE audit_streams SET holder = 'killed' WHERE holder = 'one'",
				"UPDATE webhook_deliveries SET holder = 'killed' WHERE holder = 'one'",
			} {
				if _, err := raw(t, cfg).Exec(statement); err != nil {
					t.Fatal(err)
				}
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := postgresConfig(t)
			cfg.DeadAfter = 5 * time.Second // within which a busy server says that it lives
			cfg.Replica = "two"
			w := newWorld(t, cfg)
			other := cfg
			other.Replica, other.Now = "one", w.clock.now
			first := open(t, other)
			if err := w.NoteAuditStream(w.ctx, store.AuditStream{Name: "siem", Settings: "{}"}); err != nil {
				t.Fatal(err)
			}
			w.webhook("userCreated")
			w.newUser(0, "alice")

			hold := func(s *store.Store) bool {
				t.Helper()
				return must[bool](t)(s.HoldAuditStream(w.ctx, "siem", time.Hour))
			}
			claim := func(s *store.Store) int {
				t.Helper()
				return len(must[[]tailnet.Delivery](t)(s.ClaimDeliveries(w.ctx, 10, time.Hour)))
			}
			if !hold(first) || hold(w.Store) || !hold(first) {
				t.Error("got the stream held by both, or by none, want it to be the first's")
			}
			if got := fmt.Sprint(claim(first), claim(w.Store)); got != "1 0" {
				t.Errorf("got %s deliveries at the two, want 1 0", got)
			}
			if err := w.AdvanceAuditStream(w.ctx, "siem", 3, ""); err != nil {
				t.Fatal(err)
			}
			if s := must[*store.AuditStream](t)(w.GetAuditStream(w.ctx, "siem")); s.Sent != 0 {
				t.Errorf("got the stream advanced to %d by one who does not hold it", s.Sent)
			}

			end(t, cfg, first)
			deadline := time.After(patience)
			held, claimed := false, 0
			for !held || claimed == 0 {
				moved := w.Moved()
				held, claimed = held || hold(w.Store), claimed+claim(w.Store)
				select {
				case <-moved:
				case <-time.After(50 * time.Millisecond):
				case <-deadline:
					t.Fatalf("%v later the other holds the stream: %v, and took %d deliveries, want true, 1", patience, held, claimed)
				}
			}
			if claimed != 1 {
				t.Errorf("got %d deliveries at the other, want the one", claimed)
			}
		})
	}
}
