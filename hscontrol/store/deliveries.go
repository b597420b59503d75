package store

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/keelscale/keelscale/hscontrol/tailnet"
)

// keptDeliveries is for how long it is known what became of a delivery.
const keptDeliveries = 7 * 24 * time.Hour

// ClaimDeliveries takes deliveries that are due for this server, at most limit, and sets them due again after lease:
// should this server end before it says what became of them, another one, or its next life, takes them.
func (s *Store) ClaimDeliveries(ctx context.Context, limit int, lease time.Duration) ([]tailnet.Delivery, error) {
	// Most of the time nothing is due, and no transaction has to be made for that.
	due, err := s.dueDelivery(ctx)
	if err != nil || !due {
		return nil, err
	}
	var claimed []tailnet.Delivery
	err = s.write(ctx, func(t *tx) error {
		claimed = nil
		query := "SELECT " + deliveryColumns + " FROM webhook_deliveries WHERE state = ? AND due_at <= ? ORDER BY id LIMIT ?"
		if t.s.engine.shared() {
			query += " FOR UPDATE SKIP LOCKED"
			if err := t.save(); err != nil {
				return err
			}
		}
		rows, err := t.query(query, string(tailnet.DeliveryWaiting), t.now, limit)
		if err != nil {
			return err
		}
		found, err := scanDeliveries(rows)
		if err != nil {
			return err
		}
		for _, d := range found {
			if _, err := t.exec("UPDATE webhook_deliveries SET due_at = ?, holder = ?, attempts = attempts + 1 WHERE id = ?",
				t.now.Add(lease), s.cfg.Replica, int64(d.ID)); err != nil {
				return err
			}
			d.Attempts++
			claimed = append(claimed, d)
		}
		return nil
	})
	return claimed, wrap("taking deliveries", err)
}

func (s *Store) dueDelivery(ctx context.Context) (bool, error) {
	var n int
	err := s.reads.QueryRowContext(ctx, s.engine.rebind("SELECT COUNT(*) FROM (SELECT 1 FROM webhook_deliveries WHERE state = 'waiting' AND due_at <= ? LIMIT 1) d"), s.now()).Scan(&n)
	if err != nil {
		return false, fmt.Errorf("looking for deliveries: %w", s.engine.explain(err))
	}
	return n > 0, nil
}

const deliveryColumns = "id, webhook_id, event, state, attempts, status, trouble, due_at, created_at, ended_at"

type deliveryRows interface {
	Next() bool
	Scan(...any) error
	Err() error
	Close() error
}

func scanDeliveries(rows deliveryRows) (list []tailnet.Delivery, err error) {
	defer rows.Close()
	for rows.Next() {
		var d tailnet.Delivery
		var event, state string
		if err := rows.Scan(number(&d.ID), number(&d.WebhookID), &event, &state, &d.Attempts, &d.Status, &d.Trouble,
			instant(&d.DueAt), instant(&d.CreatedAt), maybe(&d.EndedAt)); err != nil {
			return nil, err
		}
		d.Event, d.State = json.RawMessage(event), tailnet.DeliveryState(state)
		list = append(list, d)
	}
	return list, rows.Err()
}

// Outcome is what became of an attempt. A zero Next ends the delivery: as done if Trouble is empty, else given up.
type Outcome struct {
	ID      uint64
	Status  int
	Trouble string
	Next    time.Time
}

// NoteDelivery writes what became of an attempt.
func (s *Store) NoteDelivery(ctx context.Context, o Outcome) error {
	trouble := fact(o.Trouble)
	err := s.write(ctx, func(t *tx) error {
		if !o.Next.IsZero() {
			_, err := t.exec("UPDATE webhook_deliveries SET status = ?, trouble = ?, due_at = ?, holder = '' WHERE id = ?",
				o.Status, trouble, storable(o.Next), int64(o.ID))
			return err
		}
		state := tailnet.DeliveryDone
		if trouble != "" {
			state = tailnet.DeliveryAbandoned
		}
		_, err := t.exec("UPDATE webhook_deliveries SET state = ?, status = ?, trouble = ?, holder = '', ended_at = ? WHERE id = ?",
			string(state), o.Status, trouble, t.now, int64(o.ID))
		return err
	})
	return wrap("noting a delivery", err)
}

// ListDeliveries returns the newest deliveries to an endpoint, newest first, at most limit.
func (s *Store) ListDeliveries(ctx context.Context, webhook uint64, limit int) ([]tailnet.Delivery, error) {
	rows, err := s.reads.QueryContext(ctx, s.engine.rebind("SELECT "+deliveryColumns+" FROM webhook_deliveries WHERE webhook_id = ? ORDER BY id DESC LIMIT ?"),
		int64(webhook), limit)
	if err != nil {
		return nil, fmt.Errorf("listing deliveries: %w", s.engine.explain(err))
	}
	list, err := scanDeliveries(rows)
	if err != nil {
		return nil, fmt.Errorf("listing deliveries: %w", s.engine.explain(err))
	}
	return list, nil
}

// purgeDeliveries forgets deliveries that ended long ago.
func (t *tx) purgeDeliveries() error {
	_, err := t.exec("DELETE FROM webhook_deliveries WHERE state <> 'waiting' AND ended_at < ?", t.now.Add(-keptDeliveries))
	return err
}

// releaseDeliveries makes due at once what a former life of this process had taken: all of them where no other process
// uses the database.
func (t *tx) releaseDeliveries() error {
	if t.s.engine.shared() {
		return t.freeDeliveries(" WHERE holder = ?", t.s.cfg.Replica)
	}
	return t.freeDeliveries(" WHERE holder <> ''")
}

// freeDeliveries makes due at once what those had taken whom the condition chooses.
func (t *tx) freeDeliveries(where string, args ...any) error {
	_, err := t.exec("UPDATE webhook_deliveries SET due_at = ?, holder = ''"+where+" AND state = 'waiting'", append([]any{t.now}, args...)...)
	return err
}
