package store_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/keelscale/keelscale/hscontrol/store"
	"github.com/keelscale/keelscale/hscontrol/tailnet"
)

// daysOfChanges makes a change a day, and returns the row of each.
func (w *world) daysOfChanges(days int) (rows []uint64) {
	for i := range days {
		w.newUser(0, fmt.Sprint("user-of-day-", i))
		rows = append(rows, w.lastAudit())
		w.clock.advance(24 * time.Hour)
	}
	return rows
}

func (w *world) prune(keep time.Duration) uint64 {
	w.t.Helper()
	return must[uint64](w.t)(w.PruneAudit(w.ctx, w.clock.now().Add(-keep)))
}

// TestPruneAudit: what is too old goes, the log says so, and its chain holds from there on.
func TestPruneAudit(t *testing.T) {
	bothEngines(t, func(t *testing.T, w *world) {
		day := 24 * time.Hour
		if got := w.prune(day); got != 0 {
			t.Errorf("a young log: got %d rows pruned, want 0", got)
		}
		if got := must[store.AuditMark](t)(w.AuditAnchor(w.ctx)); got != (store.AuditMark{}) {
			t.Errorf("got %+v as the anchor of a whole log, want none", got)
		}
		rows := w.daysOfChanges(10)
		want := w.audit(store.AuditFilter{After: rows[4] - 1, Limit: 1})[0]
		if got := w.prune(5*day + time.Hour); got != rows[4] {
			t.Errorf("got %d rows pruned, want %d", got, rows[4])
		}
		anchor := must[store.AuditMark](t)(w.AuditAnchor(w.ctx))
		if diff := cmp.Diff(store.AuditMark{ID: want.ID, Hash: want.Hash}, anchor); diff != "" {
			t.Errorf("anchor (-want +got):\n%s", diff)
		}
		w.verified()
		left := w.audit(store.AuditFilter{})
		if left[0].ID != rows[5] {
			t.Errorf("got row %d as the first, want %d", left[0].ID, rows[5])
		}
		if last := left[len(left)-1]; last.Action != "audit.prune" || last.Actor.Via != tailnet.ViaServer {
			t.Errorf("got %+v as the last row, want it to say that rows were pruned", last)
		}
		w.clock.advance(time.Hour)
		if got := w.prune(5*day + time.Hour); got != 0 {
			t.Errorf("within a day: got %d rows pruned, want 0", got)
		}
		w.clock.advance(30 * day)
		if got := w.prune(5 * day); got == 0 {
			t.Error("a month later: got nothing pruned")
		}
		w.verified() // only the row is left that says so
		w.newUser(0, "later")
		w.verified()
		if _, end, broken, err := w.VerifyAudit(w.ctx, store.AuditMark{ID: 2}, 0); err != nil || broken != nil || !end {
			t.Errorf("from a row that went: got %v, %+v, %v, want it to hold from the anchor on", end, broken, err)
		}
	})
}

// TestPruneAuditWaits: rows that a receiver has not got are kept, but not for one that is gone.
func TestPruneAuditWaits(t *testing.T) {
	bothEngines(t, func(t *testing.T, w *world) {
		day := 24 * time.Hour
		rows := w.daysOfChanges(3)
		stream := store.AuditStream{Name: "https://siem.example.com", Settings: "{}", Sent: rows[0]}
		if err := w.NoteAuditStream(w.ctx, stream); err != nil {
			t.Fatal(err)
		}
		w.clock.advance(10 * day)
		if got := w.prune(day); got != rows[0] {
			t.Errorf("got %d rows pruned, want %d, which the receiver has", got, rows[0])
		}
		w.verified()
		w.clock.advance(60 * day)
		if w.prune(day); must[store.AuditMark](t)(w.AuditAnchor(w.ctx)).ID < rows[2] {
			t.Error("got rows kept for a receiver that was not followed for two months")
		}
		w.verified()
	})
}

// TestCutLog: a log that was cut off by another than the server is not taken for one that was pruned.
func TestCutLog(t *testing.T) {
	for name, statements := range map[string][]string{
		"rows taken away": {"DELETE FROM audit WHERE id <= 3"},
		"an anchor put there": {"INSERT INTO audit_head (id, last, hash) SELECT 2, id, hash FROM audit WHERE id = 3",
			"DELETE FROM audit WHERE id <= 3"},
	} {
		t.Run(name, func(t *testing.T) {
			bothConfigs(t, func(t *testing.T, cfg store.Config) {
				w := newWorld(t, cfg)
				w.daysOfChanges(5)
				for _, statement := range statements {
					if _, err := raw(t, cfg).Exec(statement); err != nil {
						t.Fatal(err)
					}
				}
				if _, _, broken, err := w.VerifyAudit(w.ctx, store.AuditMark{}, 0); err != nil || broken == nil {
					t.Errorf("got %+v, %v, want it to be told", broken, err)
				}
			})
		})
	}
	t.Run("an anchor moved on", func(t *testing.T) {
		bothConfigs(t, func(t *testing.T, cfg store.Config) {
			w := newWorld(t, cfg)
			rows := w.daysOfChanges(6)
			if w.prune(4*24*time.Hour) == 0 {
				t.Fatal("got nothing pruned")
			}
			for _, statement := range []string{
				fmt.Sprintf("UPDATE audit_head SET last = %d, hash = (SELECT hash FROM audit WHERE id = %d) WHERE id = 2", rows[4], rows[4]),
				fmt.Sprintf("DELETE FROM audit WHERE id <= %d", rows[4]),
			} {
				if _, err := raw(t, cfg).Exec(statement); err != nil {
					t.Fatal(err)
				}
			}
			if _, _, broken, err := w.VerifyAudit(w.ctx, store.AuditMark{}, 0); err != nil || broken == nil || broken.ID != rows[4] {
				t.Errorf("got %+v, %v, want row %d to be missed", broken, err, rows[4])
			}
		})
	})
}
