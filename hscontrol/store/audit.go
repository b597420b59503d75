package store

import (
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/keelscale/keelscale/hscontrol/tailnet"
)

// AuditFilter chooses rows of the audit log; zero fields choose all.
type AuditFilter struct {
	TailnetID    tailnet.ID
	Since, Until time.Time // from Since on, before Until
	Actor        string    // a part of who it was, in any letter case
	Target       string    // "node", "node:7", an ID or a name
	Action       string    // "node.rename", or all of "node"
	After        uint64    // rows with a greater ID
	Before       uint64    // rows with a smaller one
	Newest       bool      // if there are more than Limit, the last ones
	Limit        int       // at most 10,000; zero means 1,000
}

const (
	auditPage    = 1_000
	maxAuditPage = 10_000
)

// ListAudit returns the rows of the audit log that the filter chooses, oldest first.
func (s *Store) ListAudit(ctx context.Context, f AuditFilter) ([]tailnet.AuditEntry, error) {
	where, args := f.where()
	order, limit := " ORDER BY id", f.Limit
	if f.Newest {
		order = " ORDER BY id DESC"
	}
	if limit <= 0 {
		limit = auditPage
	}
	query := "SELECT " + auditColumns + " FROM audit" + where + order + " LIMIT ?"
	rows, err := s.reads.QueryContext(ctx, s.engine.rebind(query), append(args, min(limit, maxAuditPage))...)
	if err != nil {
		return nil, fmt.Errorf("reading the audit log: %w", s.engine.explain(err))
	}
	entries, err := scanAudit(rows)
	if err != nil {
		return nil, fmt.Errorf("reading the audit log: %w", s.engine.explain(err))
	}
	if f.Newest {
		slices.Reverse(entries)
	}
	return entries, nil
}

func (f *AuditFilter) where() (string, []any) {
	var where []string
	var args []any
	add := func(condition string, values ...any) {
		where, args = append(where, condition), append(args, values...)
	}
	if f.TailnetID != 0 {
		add("tailnet_id = ?", int64(f.TailnetID))
	}
	if !f.Since.IsZero() {
		add("at >= ?", storable(f.Since))
	}
	if !f.Until.IsZero() {
		add("at < ?", storable(f.Until))
	}
	if f.Actor != "" {
		add(`lower(who) LIKE ? ESCAPE '\'`, "%"+likeLiteral.Replace(strings.ToLower(f.Actor))+"%")
	}
	if f.Target != "" {
		add("(kind = ? OR target_id = ? OR target_name = ? OR kind || ':' || target_id = ?)", f.Target, f.Target, f.Target, f.Target)
	}
	if f.Action != "" {
		add(`(action = ? OR action LIKE ? ESCAPE '\')`, f.Action, likeLiteral.Replace(f.Action)+".%")
	}
	if f.After != 0 {
		add("id > ?", int64(f.After))
	}
	if f.Before != 0 {
		add("id < ?", int64(f.Before))
	}
	if len(where) == 0 {
		return "", nil
	}
	return " WHERE " + strings.Join(where, " AND "), args
}

// likeLiteral takes the meaning of a pattern from a text. It never changes.
var likeLiteral = strings.NewReplacer(`\`, `\\`, "%", `\%`, "_", `\_`)

func scanAudit(rows *sql.Rows) (entries []tailnet.AuditEntry, err error) {
	defer rows.Close()
	for rows.Next() {
		var e tailnet.AuditEntry
		var was, became sql.NullString
		var hash []byte
		if err := rows.Scan(number(&e.ID), instant(&e.At), ref(&e.TailnetID), &e.Actor.Via, &e.Actor.Who, &e.Actor.From,
			&e.Action, &e.Kind, &e.TargetID, &e.TargetName, &was, &became, &hash); err != nil {
			return nil, err
		}
		if was.Valid {
			e.Before = json.RawMessage(was.String)
		}
		if became.Valid {
			e.After = json.RawMessage(became.String)
		}
		copy(e.Hash[:], hash)
		entries = append(entries, e)
	}
	return entries, rows.Err()
}

// AuditMark is a row of the audit log and its hash; the zero value is before the first.
type AuditMark struct {
	ID   uint64
	Hash tailnet.AuditHash
}

// AuditHead is the last row of the audit log, as its head has it.
func (s *Store) AuditHead(ctx context.Context) (AuditMark, error) {
	var m AuditMark
	err := s.view(ctx, func(v *view) (err error) {
		m, err = v.auditHead()
		return err
	})
	return m, wrap("reading the head of the audit log", err)
}

func (v *view) auditHead() (AuditMark, error) { return v.auditMark(auditLast) }

func (v *view) auditMark(which int) (AuditMark, error) {
	return scanMark(v.conn.QueryRowContext(v.ctx, v.s.engine.rebind(selectMark), which))
}

// VerifyAudit walks the chain of the audit log after a row that is known to be good, at most limit rows (10,000 for
// zero); after one that was pruned it begins with the first that is kept. It returns how far the chain holds, whether
// that is its end, and where it breaks, if it does.
func (s *Store) VerifyAudit(ctx context.Context, from AuditMark, limit int) (at AuditMark, end bool, broken *tailnet.AuditBreak, err error) {
	if limit <= 0 || limit > maxAuditPage {
		limit = maxAuditPage
	}
	err = s.view(ctx, func(v *view) (err error) {
		at, end, broken, err = v.verifyAudit(from, limit)
		return err
	})
	return at, end, broken, wrap("verifying the audit log", err)
}

func (v *view) verifyAudit(at AuditMark, limit int) (AuditMark, bool, *tailnet.AuditBreak, error) {
	anchor, err := v.auditMark(auditAnchor)
	if err != nil {
		return at, false, nil, err
	}
	if at.ID < anchor.ID {
		if broken, err := v.anchored(anchor); err != nil || broken != nil {
			return at, false, broken, err
		}
		at = anchor
	}
	rows, err := v.query("SELECT "+auditColumns+" FROM audit WHERE id > ? ORDER BY id LIMIT ?", int64(at.ID), limit)
	if err != nil {
		return at, false, nil, err
	}
	entries, err := scanAudit(rows)
	if err != nil {
		return at, false, nil, err
	}
	for i := range entries {
		e := &entries[i]
		switch {
		case e.ID != at.ID+1:
			return at, false, &tailnet.AuditBreak{ID: at.ID + 1, Why: fmt.Sprintf("the row is missing: the next one is %d", e.ID)}, nil
		case e.Sum(at.Hash) != e.Hash:
			return at, false, &tailnet.AuditBreak{ID: e.ID, Why: "the row does not have the hash that follows from it and the row before: it, or that one, was changed"}, nil
		}
		at = AuditMark{e.ID, e.Hash}
	}
	if len(entries) == limit {
		return at, false, nil, nil
	}
	head, err := v.auditHead()
	switch {
	case err != nil:
		return at, false, nil, err
	case head.ID > at.ID:
		return at, true, &tailnet.AuditBreak{ID: at.ID + 1, Why: fmt.Sprintf("the row is missing, and all after it: there were %d", head.ID)}, nil
	case head != at:
		return at, true, &tailnet.AuditBreak{ID: at.ID, Why: "it is not the row that was written last"}, nil
	}
	return at, true, nil, nil
}
