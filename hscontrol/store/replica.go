package store

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// Servers that share a PostgreSQL database each say now and then that they live. A server that has not said so for a
// while has died with its sessions open; the others end them. All times are the database's, so that clocks may differ.
const (
	deadAfter = 12 * time.Second
	beats     = 6 // in that time

	sayAlive = `INSERT INTO replicas (name, seen_at) VALUES (?, now())
		ON CONFLICT (name) DO UPDATE SET seen_at = now()`
	ofTheDead = ` WHERE NOT EXISTS (SELECT 1 FROM replicas r
		WHERE r.name = replica AND r.seen_at > now() - interval '1 millisecond' * ?)`
	heldByDead = ` WHERE holder <> '' AND NOT EXISTS (SELECT 1 FROM replicas r
		WHERE r.name = holder AND r.seen_at > now() - interval '1 millisecond' * ?)`
	forgetDead = `DELETE FROM replicas WHERE seen_at < now() - interval '1 day'`
)

// sayAlive notes that this server lives.
func (s *Store) sayAlive(ctx context.Context) error {
	if _, err := s.reads.ExecContext(ctx, s.engine.rebind(sayAlive), s.cfg.Replica); err != nil {
		return fmt.Errorf("noting that replica %s lives: %w", s.cfg.Replica, s.engine.explain(err))
	}
	return nil
}

// Servers is how many servers use the database now, this one among them.
func (s *Store) Servers(ctx context.Context) (n int, err error) {
	if !s.engine.shared() {
		return 1, nil
	}
	err = s.reads.QueryRowContext(ctx, "SELECT count(*) FROM replicas WHERE seen_at > now() - interval '1 millisecond' * $1", s.cfg.DeadAfter.Milliseconds()).Scan(&n)
	if err != nil {
		return 0, fmt.Errorf("counting the servers: %w", s.engine.explain(err))
	}
	return n, nil
}

// sayGone notes that this server ended. One that cannot is taken for dead a moment later.
func (s *Store) sayGone() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	_, _ = s.reads.ExecContext(ctx, s.engine.rebind("DELETE FROM replicas WHERE name = ?"), s.cfg.Replica)
}

// aliveLoop says so until ctx is done, and buries the dead. While the database was away nobody could say that he lives:
// so the dead are buried only by one who could for as long himself.
func (s *Store) aliveLoop(ctx context.Context) {
	deadAfter := s.cfg.DeadAfter
	tick := time.NewTicker(deadAfter / beats)
	defer tick.Stop()
	last := time.Now()
	since := last // no beat was missed from here on
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		beat, cancel := context.WithTimeout(ctx, deadAfter/2)
		err := s.sayAlive(beat)
		cancel()
		if err != nil {
			if ctx.Err() == nil && time.Since(last) > deadAfter {
				s.cfg.Log.Warn("other servers may take this one for dead", "err", err)
			}
			continue
		}
		now := time.Now()
		if now.Sub(last) > deadAfter/2 {
			since = now
		}
		last = now
		if now.Sub(since) < deadAfter {
			continue
		}
		if err := s.buryDead(ctx); err != nil && ctx.Err() == nil {
			s.cfg.Log.Warn("ending the sessions of servers that died", "err", err)
		}
	}
}

// buryDead ends the sessions of servers that died, if there are any, and gives others what they had begun to tell: events
// to webhooks, and the audit log to its receivers.
func (s *Store) buryDead(ctx context.Context) error {
	var some bool
	after := s.cfg.DeadAfter.Milliseconds()
	query := "SELECT EXISTS (SELECT 1 FROM sessions" + ofTheDead + ") OR EXISTS (SELECT 1 FROM relay_sessions" + ofTheDead +
		") OR EXISTS (SELECT 1 FROM audit_streams" + heldByDead + ") OR EXISTS (SELECT 1 FROM webhook_deliveries" + heldByDead + " AND state = 'waiting')"
	err := s.reads.QueryRowContext(ctx, s.engine.rebind(query), after, after, after, after).Scan(&some)
	if err != nil || !some {
		return s.engine.explain(err)
	}
	return s.write(ctx, func(t *tx) error {
		if err := t.endSessions(ofTheDead, after); err != nil {
			return err
		}
		if err := t.endRelaySessions(ofTheDead, after); err != nil {
			return err
		}
		return errors.Join(t.freeStreams(heldByDead, after), t.freeDeliveries(heldByDead, after))
	})
}

// forgetDead deletes what is known of servers that died long ago.
func (t *tx) forgetDead() error {
	if !t.s.engine.shared() {
		return nil
	}
	for _, statement := range []string{forgetDead, forgetRelays} {
		if _, err := t.exec(statement); err != nil {
			return err
		}
	}
	return nil
}
