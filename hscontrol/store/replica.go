package store

import (
	"context"
	"fmt"
	"time"
)

// Servers that share a PostgreSQL database each say now and then that they live. A server that has not said so for a
// while has died with its sessions open; the others end them. All times are the database's, so that clocks may differ.
const (
	livesEvery = 10 * time.Second

	sayAlive = `INSERT INTO replicas (name, seen_at) VALUES (?, now())
		ON CONFLICT (name) DO UPDATE SET seen_at = now()`
	ofTheDead = ` WHERE NOT EXISTS (SELECT 1 FROM replicas r
		WHERE r.name = replica AND r.seen_at > now() - interval '60 seconds')`
	forgetDead = `DELETE FROM replicas WHERE seen_at < now() - interval '1 day'`
)

// sayAlive notes that this server lives.
func (s *Store) sayAlive(ctx context.Context) error {
	if _, err := s.reads.ExecContext(ctx, s.engine.rebind(sayAlive), s.cfg.Replica); err != nil {
		return fmt.Errorf("noting that replica %s lives: %w", s.cfg.Replica, s.engine.explain(err))
	}
	return nil
}

// aliveLoop says so until ctx is done.
func (s *Store) aliveLoop(ctx context.Context) {
	tick := time.NewTicker(livesEvery)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		if err := s.sayAlive(ctx); err != nil && ctx.Err() == nil {
			s.cfg.Log.Warn("other servers may take this one for dead", "err", err)
		}
	}
}

// buryDead ends the sessions of servers that died.
func (t *tx) buryDead() error {
	if !t.s.engine.shared() {
		return nil
	}
	if err := t.endSessions(ofTheDead); err != nil {
		return err
	}
	if err := t.endRelaySessions(ofTheDead); err != nil {
		return err
	}
	_, err := t.exec(forgetDead)
	return err
}
