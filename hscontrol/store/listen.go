package store

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"maps"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/keelscale/keelscale/hscontrol/tailnet"
)

// How late a commit of another process is noticed at the latest: while notifications come, one of which may be lost,
// and while they do not.
const (
	pollEvery = time.Second
	pollAlone = 200 * time.Millisecond
)

// listenLoop has followers woken by the notifications of other processes, and the revisions read often while that
// cannot be.
func (s *Store) listenLoop(ctx context.Context) {
	said := ""
	for ctx.Err() == nil {
		err := s.listen(ctx)
		s.follower.listening.Store(false)
		s.follower.deaf.Store(&err)
		if err != nil && ctx.Err() == nil && err.Error() != said {
			said = err.Error() // once while it is the same
			s.cfg.Log.Warn("not hearing of the commits of other servers at once: reading the revisions instead", "every", pollAlone, "err", err)
		}
		s.wake() // what came while nobody listened
		again := pollEvery
		if errors.Is(err, errDeaf) {
			again = deafPause
		}
		select {
		case <-time.After(again):
		case <-ctx.Done():
		}
	}
}

// deafPause is after how long it is tried again whether notifications come.
const deafPause = 5 * time.Minute

// echoTime is how long a notification to oneself may take.
const echoTime = 5 * time.Second

var errDeaf = errors.New("notifications do not come through: LISTEN needs a connection of its own, so have pgbouncer pool sessions (pool_mode = session), or give database.postgres the address of PostgreSQL itself")

// listen waits for notifications of other processes on a connection of its own and wakes the followers for each, until
// ctx is done or the connection breaks. First it tries whether they come, with one to itself: a pooler may take the
// LISTEN and give the connection behind it to somebody else.
func (s *Store) listen(ctx context.Context) error {
	pc, err := s.cfg.Postgres.parse()
	if err != nil {
		return err
	}
	conn, err := pgx.ConnectConfig(ctx, pc)
	if err != nil {
		return fmt.Errorf("listening for commits: %w", err)
	}
	defer conn.Close(context.WithoutCancel(ctx))
	if _, err := conn.Exec(ctx, "LISTEN "+channel, pgx.QueryExecModeSimpleProtocol); err != nil {
		return fmt.Errorf("listening for commits: %w", err)
	}
	if err := s.awaitEcho(ctx, conn); err != nil {
		return err
	}
	if err := s.lookAtTimeline(ctx); err != nil {
		return err
	}
	s.follower.listening.Store(true)
	s.follower.deaf.Store(nil)
	s.wake() // what came before
	for {
		if _, err := conn.WaitForNotification(ctx); err != nil {
			return fmt.Errorf("listening for commits: %w", err)
		}
		s.wake()
	}
}

// awaitEcho sends a notification that only this connection waits for, and waits for it. Others may come through even
// where none should: behind a pooler the connection may be one on which another server listens.
func (s *Store) awaitEcho(ctx context.Context, conn *pgx.Conn) error {
	echo := rand.Text()
	if _, err := s.reads.ExecContext(ctx, "SELECT pg_notify($1, $2)", channel, echo); err != nil {
		return fmt.Errorf("listening for commits: %w", err)
	}
	first, cancel := context.WithTimeout(ctx, echoTime)
	defer cancel()
	for {
		n, err := conn.WaitForNotification(first)
		switch {
		case err == nil && n.Payload == echo:
			return nil
		case err == nil:
			s.wake()
		case first.Err() != nil && ctx.Err() == nil:
			return errDeaf
		default:
			return fmt.Errorf("listening for commits: %w", err)
		}
	}
}

// pollLoop is the safety of listenLoop: it looks whether the revisions moved.
func (s *Store) pollLoop(ctx context.Context) {
	tick := time.NewTicker(pollAlone)
	defer tick.Stop()
	var last map[tailnet.ID]tailnet.Revision
	var looked, lookedBack time.Time
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		if s.follower.listening.Load() && time.Since(looked) < pollEvery {
			continue
		}
		looked = time.Now()
		revs, err := s.Revisions(ctx)
		if err == nil && !maps.Equal(revs, last) {
			last = revs
			s.wake()
		}
		if time.Since(lookedBack) > lookEvery {
			lookedBack = time.Now()
			if err := s.lookAtTimeline(ctx); err != nil && ctx.Err() == nil {
				s.cfg.Log.Warn("changes that a failover of the database lost may still be shown", "err", err)
			}
		}
	}
}

// Listening reports whether commits of other servers are heard of at once, not only when the revisions are read next;
// if not, the error is why, or nil where it was not found out yet. A store that no other server uses has nothing to hear.
func (s *Store) Listening() (bool, error) {
	if !s.engine.shared() || s.follower.listening.Load() {
		return true, nil
	}
	if err := s.follower.deaf.Load(); err != nil {
		return false, *err
	}
	return false, nil
}
