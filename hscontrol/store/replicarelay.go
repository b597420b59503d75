package store

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"tailscale.com/types/key"
)

// Servers that share a PostgreSQL database tell each other here of the relays inside them. What is told is the servers'
// business: the store keeps texts.

// ReplicaRelay is the relay inside a server that uses the database, or used it within the last month.
type ReplicaRelay struct {
	Key     key.NodePublic // of the relay
	Place   int            // its number among them: 0, 1, and so on; the relay's for as long as the row is kept
	Replica string         // the server
	About   string         // how it is found
	Load    string         // how it does
	Alive   bool           // the server says that it lives
	Left    bool           // the server ended in order, or has been dead for a day
}

const (
	relayPlaces = `SELECT derp_key, place FROM replica_relays`
	putRelay    = `INSERT INTO replica_relays (derp_key, place, replica, about, load, seen_at) VALUES (?, ?, ?, ?, '', now())
		ON CONFLICT (derp_key) DO UPDATE SET replica = excluded.replica, about = excluded.about, seen_at = now()`
	// Nobody else puts a relay meanwhile, so that no two get one place.
	lockPlaces = `LOCK TABLE replica_relays IN SHARE ROW EXCLUSIVE MODE`

	noteRelay = `UPDATE replica_relays SET load = ?, seen_at = now() WHERE derp_key = ? AND replica = ?`

	listReplicaRelays = `SELECT q.derp_key, q.place, q.replica, q.about, q.load,
			COALESCE(r.seen_at > now() - interval '1 millisecond' * ?, false), r.name IS NULL
		FROM replica_relays q LEFT JOIN replicas r ON r.name = q.replica ORDER BY q.place`

	forgetRelays = `DELETE FROM replica_relays WHERE seen_at < now() - interval '30 days'
		AND NOT EXISTS (SELECT 1 FROM replicas r WHERE r.name = replica)`
)

// errNotShared is that there are no other servers to tell.
var errNotShared = errors.New("the database has one server only")

// PutReplicaRelay tells how the relay inside this server is found, and gives its place. A relay of the same key that
// another server told of is taken for this one in its former life.
func (s *Store) PutReplicaRelay(ctx context.Context, relay key.NodePublic, about string) (place int, err error) {
	if !s.engine.shared() {
		return 0, errNotShared
	}
	text, err := relay.MarshalText()
	if err != nil {
		return 0, fmt.Errorf("telling other servers of the embedded relay: %w", err)
	}
	err = s.write(ctx, func(t *tx) error {
		if _, err := t.exec(lockPlaces); err != nil {
			return err
		}
		if place, err = t.placeOf(string(text)); err != nil {
			return err
		}
		_, err := t.exec(putRelay, string(text), place, s.cfg.Replica, about)
		return err
	})
	if err != nil {
		return 0, fmt.Errorf("telling other servers of the embedded relay: %w", err)
	}
	return place, nil
}

// placeOf is the place that a relay has, or the first that is free.
func (t *tx) placeOf(relay string) (int, error) {
	rows, err := t.query(relayPlaces)
	if err != nil {
		return 0, err
	}
	defer rows.Close()
	var taken []int
	for rows.Next() {
		var other string
		var place int
		if err := rows.Scan(&other, &place); err != nil {
			return 0, err
		}
		if other == relay {
			return place, nil
		}
		taken = append(taken, place)
	}
	free := 0
	for slices.Contains(taken, free) {
		free++
	}
	return free, rows.Err()
}

// NoteReplicaRelay tells how the relay inside this server does, and reports whether it is still this server's: another
// one may have come with the same key.
func (s *Store) NoteReplicaRelay(ctx context.Context, relay key.NodePublic, load string) (ours bool, err error) {
	if !s.engine.shared() {
		return false, errNotShared
	}
	text, err := relay.MarshalText()
	if err != nil {
		return false, fmt.Errorf("telling other servers how the embedded relay does: %w", err)
	}
	res, err := s.reads.ExecContext(ctx, s.engine.rebind(noteRelay), load, string(text), s.cfg.Replica)
	if err != nil {
		return false, fmt.Errorf("telling other servers how the embedded relay does: %w", s.engine.explain(err))
	}
	n, err := res.RowsAffected()
	return n > 0, err
}

// ReplicaRelays are the relays inside servers, by their places; none where the database has one server only.
func (s *Store) ReplicaRelays(ctx context.Context) ([]ReplicaRelay, error) {
	if !s.engine.shared() {
		return nil, nil
	}
	rows, err := s.reads.QueryContext(ctx, s.engine.rebind(listReplicaRelays), s.cfg.DeadAfter.Milliseconds())
	if err != nil {
		return nil, fmt.Errorf("reading the relays inside other servers: %w", s.engine.explain(err))
	}
	defer rows.Close()
	var out []ReplicaRelay
	for rows.Next() {
		var r ReplicaRelay
		var relay string
		if err := rows.Scan(&relay, &r.Place, &r.Replica, &r.About, &r.Load, &r.Alive, &r.Left); err != nil {
			return nil, fmt.Errorf("reading the relays inside other servers: %w", err)
		}
		if err := r.Key.UnmarshalText([]byte(relay)); err != nil {
			return nil, fmt.Errorf("reading the relays inside other servers: %w", err)
		}
		out = append(out, r)
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("reading the relays inside other servers: %w", s.engine.explain(err))
	}
	return out, nil
}

// Replica is the name of this server among those that share the database.
func (s *Store) Replica() string { return s.cfg.Replica }

// DeadAfter is how long a server may say nothing before the others take it for dead.
func (s *Store) DeadAfter() time.Duration { return s.cfg.DeadAfter }
