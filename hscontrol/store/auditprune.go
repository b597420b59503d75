package store

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/keelscale/keelscale/hscontrol/tailnet"
)

// The audit log may be cut off at its old end. Of the last row that went, the anchor has the number and the hash, so
// that the chain goes on from there; that it was cut off there, and by which rule, is in a row of the log itself.

// The rows of audit_head.
const (
	auditLast   = 1 // the last row of the log
	auditAnchor = 2 // the last one that was pruned; missing: none was
)

const (
	pruneSlack    = 24 * time.Hour      // by which the oldest row is too old before anything is done
	pruneMost     = 10_000              // rows at once
	streamPatient = 30 * 24 * time.Hour // how long a stream that nobody follows keeps back what it has not got
)

const actionPrune = "audit.prune"

// pruneFacts is what the log keeps of rows that went.
type pruneFacts struct {
	First  uint64    `json:"first"`
	Last   uint64    `json:"last"`
	Hash   string    `json:"hash"` // of the last
	Before time.Time `json:"before"`
}

// PruneAudit deletes rows of the audit log that are older than the given time, once the oldest is so by a day: those
// before the first that a receiver of the log has not got, and some of them at once, so it is to be called again. It
// returns how many went.
func (s *Store) PruneAudit(ctx context.Context, before time.Time) (pruned uint64, err error) {
	before = storable(before)
	var oldest time.Time
	err = s.reads.QueryRowContext(ctx, "SELECT at FROM audit ORDER BY id LIMIT 1").Scan(instant(&oldest))
	if errors.Is(err, sql.ErrNoRows) || err == nil && !oldest.Before(before.Add(-pruneSlack)) {
		return 0, nil
	}
	if err == nil {
		err = s.write(ctx, func(t *tx) (err error) {
			pruned, err = t.pruneAudit(before)
			return err
		})
	}
	return pruned, wrap("pruning the audit log", s.engine.explain(err))
}

func (t *tx) pruneAudit(before time.Time) (pruned uint64, err error) {
	if err := t.save(); err != nil {
		return 0, err
	}
	if _, _, err := t.auditHead(); err != nil { // of several servers one prunes after the other
		return 0, err
	}
	from, err := t.auditAnchor()
	if err != nil {
		return 0, err
	}
	last, err := t.lastToPrune(from.ID, before)
	if err != nil || last <= from.ID {
		return 0, err
	}
	var hash []byte
	if err := t.queryRow("SELECT hash FROM audit WHERE id = ?", int64(last)).Scan(&hash); err != nil {
		return 0, fmt.Errorf("reading row %d: %w", last, err)
	}
	if _, err := t.exec("DELETE FROM audit WHERE id <= ?", int64(last)); err != nil {
		return 0, err
	}
	if _, err := t.exec(`INSERT INTO audit_head (id, last, hash) VALUES (?, ?, ?)
		ON CONFLICT (id) DO UPDATE SET last = excluded.last, hash = excluded.hash`, auditAnchor, int64(last), hash); err != nil {
		return 0, err
	}
	mark := AuditMark{ID: last}
	copy(mark.Hash[:], hash)
	return last - from.ID, t.audit(record{action: actionPrune, kind: "audit", became: pruneFacts{from.ID + 1, last, mark.Hash.String(), before}})
}

// lastToPrune is the last row that may go; not after the anchor if none may.
func (t *tx) lastToPrune(anchor uint64, before time.Time) (last uint64, err error) {
	var old, got sql.NullInt64
	if err := t.queryRow("SELECT max(id) FROM audit WHERE at < ? AND id <= ?", before, int64(anchor+pruneMost)).Scan(&old); err != nil {
		return 0, err
	}
	err = t.queryRow("SELECT min(sent) FROM audit_streams WHERE updated_at > ? OR held_until > ?",
		t.now.Add(-streamPatient), t.now.Add(-streamPatient)).Scan(&got)
	if err != nil {
		return 0, err
	}
	if got.Valid {
		old.Int64 = min(old.Int64, got.Int64)
	}
	return uint64(max(old.Int64, 0)), nil
}

func (t *tx) auditAnchor() (AuditMark, error) {
	return scanMark(t.queryRow(selectMark, auditAnchor))
}

const selectMark = "SELECT last, hash FROM audit_head WHERE id = ?"

// scanMark reads a row of audit_head; one that is missing is before the first row of the log.
func scanMark(row *sql.Row) (m AuditMark, err error) {
	var hash []byte
	err = row.Scan(number(&m.ID), &hash)
	if errors.Is(err, sql.ErrNoRows) {
		return AuditMark{}, nil
	}
	copy(m.Hash[:], hash)
	return m, err
}

// AuditAnchor is the last row of the audit log that was pruned; the zero value if none was.
func (s *Store) AuditAnchor(ctx context.Context) (AuditMark, error) {
	m, err := scanMark(s.reads.QueryRowContext(ctx, s.engine.rebind(selectMark), auditAnchor))
	return m, wrap("reading where the audit log begins", s.engine.explain(err))
}

// anchored reports why the log does not begin where it says that it was pruned; nil if it does.
func (v *view) anchored(anchor AuditMark) (*tailnet.AuditBreak, error) {
	if anchor.ID == 0 {
		return nil, nil
	}
	rows, err := v.query("SELECT "+auditColumns+" FROM audit WHERE action = ? AND kind = 'audit' ORDER BY id DESC LIMIT 1", actionPrune)
	if err != nil {
		return nil, err
	}
	entries, err := scanAudit(rows)
	if err != nil {
		return nil, err
	}
	var said pruneFacts
	if len(entries) == 1 {
		if err := json.Unmarshal(entries[0].After, &said); err != nil {
			return nil, err
		}
	}
	if said.Last != anchor.ID || said.Hash != anchor.Hash.String() {
		return &tailnet.AuditBreak{ID: anchor.ID, Why: "it and the rows before it are missing, and no row says that they were pruned"}, nil
	}
	return nil, nil
}
