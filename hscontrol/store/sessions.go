package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

	"github.com/keelscale/keelscale/hscontrol/tailnet"
)

// SessionRef names one session of a node.
type SessionRef struct {
	NodeID    tailnet.NodeID
	SessionID string
}

// OpenSession notes that a node is connected to this replica. It replaces a former session of the node, whose close,
// coming late, then changes nothing.
func (s *Store) OpenSession(ctx context.Context, id tailnet.NodeID, sessionID string) error {
	err := s.write(ctx, func(t *tx) error {
		at, err := t.place(id)
		if err != nil {
			return err
		}
		_, err = t.exec(`INSERT INTO sessions (node_id, id, replica, since) VALUES (?, ?, ?, ?)
			ON CONFLICT (node_id) DO UPDATE SET id = excluded.id, replica = excluded.replica, since = excluded.since`,
			int64(id), sessionID, s.cfg.Replica, t.now)
		if err != nil || at.online {
			return err
		}
		t.onlineChanged(id, at, true)
		return nil
	})
	if err != nil {
		return fmt.Errorf("opening session of node %d: %w", id, err)
	}
	return nil
}

// CloseSessions ends those of the sessions that are still the current ones of their nodes.
func (s *Store) CloseSessions(ctx context.Context, refs []SessionRef) error {
	err := s.write(ctx, func(t *tx) error {
		for _, ref := range refs {
			if err := t.closeSession(ref); err != nil {
				return fmt.Errorf("of node %d: %w", ref.NodeID, err)
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("closing sessions: %w", err)
	}
	return nil
}

// RestoreSessions opens those of the sessions whose nodes have none: sessions that could not be written when they began,
// and those that another server ended because this one seemed dead.
func (s *Store) RestoreSessions(ctx context.Context, refs []SessionRef) error {
	err := s.write(ctx, func(t *tx) error {
		for _, ref := range refs {
			at, err := t.place(ref.NodeID)
			if errors.Is(err, tailnet.ErrNotFound) || err == nil && at.online {
				continue
			}
			if err != nil {
				return fmt.Errorf("of node %d: %w", ref.NodeID, err)
			}
			_, err = t.exec("INSERT INTO sessions (node_id, id, replica, since) VALUES (?, ?, ?, ?)", int64(ref.NodeID), ref.SessionID, s.cfg.Replica, t.now)
			if err != nil {
				return fmt.Errorf("of node %d: %w", ref.NodeID, err)
			}
			t.onlineChanged(ref.NodeID, at, true)
		}
		return nil
	})
	return wrap("restoring sessions", err)
}

func (t *tx) closeSession(ref SessionRef) error {
	at, err := t.place(ref.NodeID)
	if errors.Is(err, tailnet.ErrNotFound) {
		return nil // deleted, and its session with it
	}
	if err != nil {
		return err
	}
	closed, err := t.exec("DELETE FROM sessions WHERE node_id = ? AND id = ?", int64(ref.NodeID), ref.SessionID)
	if err != nil || closed == 0 {
		return err
	}
	if _, err := t.exec("UPDATE nodes SET last_seen = ? WHERE id = ?", t.now, int64(ref.NodeID)); err != nil {
		return err
	}
	t.onlineChanged(ref.NodeID, at, false)
	return nil
}

// place is what a session must know of its node.
type place struct {
	tailnet tailnet.ID
	router  bool
	online  bool
}

// place reads it, with the tailnet locked.
func (t *tx) place(id tailnet.NodeID) (place, error) {
	read := func() (p place, err error) {
		err = t.queryRow(`SELECT tailnet_id, approved_routes IS NOT NULL, EXISTS (SELECT 1 FROM sessions s WHERE s.node_id = n.id)
			FROM nodes n WHERE id = ?`, int64(id)).Scan(number(&p.tailnet), flag(&p.router), flag(&p.online))
		if errors.Is(err, sql.ErrNoRows) {
			err = tailnet.ErrNotFound
		}
		return p, err
	}
	p, err := read()
	if err != nil || t.tailnets[p.tailnet] != nil {
		return p, err
	}
	if _, err := t.tailnet(p.tailnet); err != nil {
		return p, err
	}
	if !t.s.engine.shared() {
		return p, nil
	}
	return read()
}

func (t *tx) onlineChanged(id tailnet.NodeID, at place, online bool) {
	t.changed(at.tailnet, kindNode, uint64(id))
	event := tailnet.EventNodeOffline
	if online {
		event = tailnet.EventNodeOnline
	}
	t.happened(news{tailnet: at.tailnet, event: event, kind: kindNode, id: uint64(id)})
	if at.router {
		t.elect[at.tailnet] = true
	}
}

// endFormerSessions ends the sessions that a former life of this process left: all of them where no other process
// uses the database.
func (s *Store) endFormerSessions(t *tx) error {
	where, args := "", []any{}
	if s.engine.shared() {
		where, args = " WHERE replica = ?", []any{s.cfg.Replica}
	}
	if err := errors.Join(t.releaseDeliveries(), t.releaseStreams()); err != nil {
		return err
	}
	if err := t.endRelaySessions(where, args...); err != nil {
		return err
	}
	return t.endSessions(where, args...)
}

func (t *tx) endSessions(where string, args ...any) error {
	rows, err := t.query("SELECT node_id, id FROM sessions"+where+" ORDER BY node_id", args...)
	if err != nil {
		return fmt.Errorf("ending former sessions: %w", err)
	}
	refs, err := scanSessions(rows)
	if err != nil {
		return fmt.Errorf("ending former sessions: %w", err)
	}
	for _, ref := range refs {
		if err := t.closeSession(ref); err != nil {
			return fmt.Errorf("ending former session of node %d: %w", ref.NodeID, err)
		}
	}
	return nil
}

func scanSessions(rows *sql.Rows) (refs []SessionRef, err error) {
	defer rows.Close()
	for rows.Next() {
		var ref SessionRef
		if err := rows.Scan(number(&ref.NodeID), &ref.SessionID); err != nil {
			return nil, err
		}
		refs = append(refs, ref)
	}
	return refs, rows.Err()
}
