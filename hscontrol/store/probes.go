package store

import (
	"context"
	"fmt"
	"time"

	"tailscale.com/types/key"
)

// probeAnswers are answers to the questions of another server whether a router is there: a client may answer on a
// connection that a load balancer gave to somebody else. A router has one row at most.
var probeAnswers = []string{
	`CREATE TABLE probe_answers (machine_key text PRIMARY KEY, token text NOT NULL, answered_at {time} NOT NULL)`,
}

// answerLife is how long one is kept: longer than any server waits for it.
const answerLife = time.Hour

// NoteAnswer notes that a machine answered a question which another server may have asked. One that has no node with
// approved routes is asked nothing, and a store that no other server uses has nobody to tell: nothing is noted then.
func (s *Store) NoteAnswer(ctx context.Context, machine key.MachinePublic, token string) error {
	if !s.engine.shared() {
		return nil
	}
	err := s.write(ctx, func(t *tx) error {
		_, err := t.exec(`INSERT INTO probe_answers (machine_key, token, answered_at)
			SELECT m, ?, ? FROM (SELECT CAST(? AS text) AS m) asked
			WHERE EXISTS (SELECT 1 FROM nodes WHERE machine_key = m AND approved_routes IS NOT NULL)
			ON CONFLICT (machine_key) DO UPDATE SET token = excluded.token, answered_at = excluded.answered_at`,
			token, t.now, text(&machine))
		return err
	})
	return wrap("noting an answer", err)
}

// Answered reports whether a machine answered a question at another server.
func (s *Store) Answered(ctx context.Context, machine key.MachinePublic, token string) (answered bool, err error) {
	if !s.engine.shared() {
		return false, nil
	}
	err = s.reads.QueryRowContext(ctx, "SELECT EXISTS (SELECT 1 FROM probe_answers WHERE machine_key = $1 AND token = $2)",
		text(&machine), token).Scan(&answered)
	if err != nil {
		return false, fmt.Errorf("looking for an answer: %w", s.engine.explain(err))
	}
	return answered, nil
}

// forgetAnswers deletes those that nobody waits for any more.
func (t *tx) forgetAnswers() error {
	_, err := t.exec("DELETE FROM probe_answers WHERE answered_at < ?", t.now.Add(-answerLife))
	return err
}
