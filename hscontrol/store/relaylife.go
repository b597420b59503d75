package store

import (
	"context"
	"errors"
	"fmt"
	"time"

	"gorm.io/gorm"

	"github.com/keelscale/keelscale/hscontrol/tailnet"
)

// OpenRelaySession notes that a relay is connected to this replica. It replaces a former session of the relay, whose
// close, coming late, then changes nothing.
func (s *Store) OpenRelaySession(ctx context.Context, id tailnet.RelayID, session string) error {
	err := s.write(ctx, func(t *tx) error {
		r, err := t.relay(id)
		if err != nil {
			return err
		}
		_, err = t.exec(`INSERT INTO relay_sessions (relay_id, id, replica, since) VALUES (?, ?, ?, ?)
			ON CONFLICT (relay_id) DO UPDATE SET id = excluded.id, replica = excluded.replica, since = excluded.since`,
			int64(id), session, s.cfg.Replica, t.now)
		if err != nil || r.Online {
			return err
		}
		return t.relayChanged(r)
	})
	if err != nil {
		return fmt.Errorf("opening session of relay %d: %w", id, err)
	}
	return nil
}

// CloseRelaySession ends a session, if it is still the current one of its relay.
func (s *Store) CloseRelaySession(ctx context.Context, id tailnet.RelayID, session string) error {
	err := s.write(ctx, func(t *tx) error {
		return t.endRelaySessions(" WHERE relay_id = ? AND id = ?", int64(id), session)
	})
	if err != nil {
		return fmt.Errorf("closing session of relay %d: %w", id, err)
	}
	return nil
}

func (t *tx) endRelaySessions(where string, args ...any) error {
	if some, err := t.exists("SELECT 1 FROM relay_sessions"+where+" LIMIT 1", args...); err != nil || !some {
		return wrap("ending sessions of relays", err)
	}
	if err := t.lockRelays(); err != nil {
		return err
	}
	rows, err := t.query("SELECT relay_id, id FROM relay_sessions"+where+" ORDER BY relay_id", args...)
	if err != nil {
		return fmt.Errorf("ending sessions of relays: %w", err)
	}
	refs, err := scanSessions(rows)
	if err != nil {
		return fmt.Errorf("ending sessions of relays: %w", err)
	}
	for _, ref := range refs {
		if _, err := t.exec("DELETE FROM relay_sessions WHERE relay_id = ? AND id = ?", int64(ref.NodeID), ref.SessionID); err != nil {
			return err
		}
		r, err := t.relay(tailnet.RelayID(ref.NodeID))
		if err != nil {
			return err
		}
		if err := t.relayChanged(r); err != nil {
			return err
		}
	}
	return nil
}

// NoteRelayLoad writes how a relay does, and adds to its traffic what it moved since it last said so: through a restart of
// the relay, whose counters then begin anew, and of this server, which finds here how far they were. No revision is
// raised. A relay that was removed is ErrNotFound.
func (s *Store) NoteRelayLoad(ctx context.Context, l tailnet.RelayLoad) error {
	var err error
	for _, text := range l.Troubles {
		err = errors.Join(err, checkText(text, longText))
	}
	if len(l.Troubles) > maxTroubles {
		err = fmt.Errorf("%w troubles: %d, at most %d", tailnet.ErrTooMany, len(l.Troubles), maxTroubles)
	}
	if l.Clients > maxCounter || l.SentBytes > maxCounter || l.ReceivedBytes > maxCounter {
		err = fmt.Errorf("%w: a counter that no relay can have reached", tailnet.ErrInvalid)
	}
	if err == nil {
		err = s.write(ctx, func(t *tx) error {
			seen := t.now
			if !l.SeenAt.IsZero() {
				seen = storable(l.SeenAt)
			}
			moved, err := t.movedSince(&l)
			if err != nil {
				return err
			}
			n, err := t.exec(`INSERT INTO relay_loads (relay_id, clients, cpu, troubles, seen_at, started, sent_bytes, received_bytes)
				SELECT id, ?, ?, ?, ?, ?, ?, ? FROM relays WHERE id = ?
				ON CONFLICT (relay_id) DO UPDATE SET clients = excluded.clients, cpu = excluded.cpu,
					troubles = excluded.troubles, seen_at = excluded.seen_at, started = excluded.started,
					sent_bytes = excluded.sent_bytes, received_bytes = excluded.received_bytes`,
				int64(l.Clients), l.CPU, list(&l.Troubles), seen, l.Started, int64(l.SentBytes), int64(l.ReceivedBytes), int64(l.RelayID))
			if err := orNoSuchRelay(n, err); err != nil || moved == (tailnet.Traffic{}) {
				return err
			}
			return t.addRelayTraffic(l.RelayID, seen, moved)
		})
	}
	if err != nil {
		return fmt.Errorf("noting the load of relay %d: %w", l.RelayID, err)
	}
	return nil
}

// movedSince is what a relay moved since it last said how it does.
func (t *tx) movedSince(l *tailnet.RelayLoad) (tailnet.Traffic, error) {
	if l.Started == nil {
		return tailnet.Traffic{}, nil
	}
	began := storable(*l.Started)
	l.Started = &began
	var was tailnet.RelayLoad
	err := t.look().Where("relay_id = ?", int64(l.RelayID)).Take(&was).Error
	switch {
	case errors.Is(err, gorm.ErrRecordNotFound):
	case err != nil:
		return tailnet.Traffic{}, err
	case was.Started != nil && was.Started.Equal(began) && was.SentBytes <= l.SentBytes && was.ReceivedBytes <= l.ReceivedBytes:
		return tailnet.Traffic{Sent: l.SentBytes - was.SentBytes, Received: l.ReceivedBytes - was.ReceivedBytes}, nil
	}
	return tailnet.Traffic{Sent: l.SentBytes, Received: l.ReceivedBytes}, nil
}

const (
	maxTroubles = 32
	maxCounter  = 1 << 56 // bytes: years of any line, and sums of many still fit
)

func orNoSuchRelay(written int64, err error) error {
	if err == nil && written == 0 {
		return errNoSuchRelay
	}
	return err
}

// RelayLoads says how the relays did that ever said so.
func (s *Store) RelayLoads(ctx context.Context) (map[tailnet.RelayID]*tailnet.RelayLoad, error) {
	var rows []*tailnet.RelayLoad
	if err := s.orm.WithContext(ctx).Find(&rows).Error; err != nil {
		return nil, fmt.Errorf("reading the load of relays: %w", s.engine.explain(err))
	}
	loads := make(map[tailnet.RelayID]*tailnet.RelayLoad, len(rows))
	for _, l := range rows {
		loads[l.RelayID] = l
	}
	return loads, nil
}

// keptTraffic is for how many days the traffic of a relay is kept.
const keptTraffic = 400

// dayNumber is how a day is written in the table: 20260301.
func dayNumber(at time.Time) int64 {
	year, month, day := at.UTC().Date()
	return int64(year*10_000 + int(month)*100 + day)
}

// addRelayTraffic adds to what a relay moved on the day (UTC) of the given time.
func (t *tx) addRelayTraffic(id tailnet.RelayID, day time.Time, moved tailnet.Traffic) error {
	_, err := t.exec(`INSERT INTO relay_traffic (relay_id, day, sent, received) VALUES (?, ?, ?, ?)
		ON CONFLICT (relay_id, day) DO UPDATE SET sent = relay_traffic.sent + excluded.sent, received = relay_traffic.received + excluded.received`,
		int64(id), dayNumber(day), int64(moved.Sent), int64(moved.Received))
	return err
}

// RelayTraffic says what each relay moved today and in this month.
func (s *Store) RelayTraffic(ctx context.Context) (map[tailnet.RelayID]tailnet.RelayTraffic, error) {
	today := dayNumber(s.now())
	rows, err := s.reads.QueryContext(ctx, s.engine.rebind("SELECT relay_id, day, sent, received FROM relay_traffic WHERE day > ? AND day <= ?"),
		today/100*100, today)
	if err != nil {
		return nil, fmt.Errorf("reading the traffic of relays: %w", s.engine.explain(err))
	}
	defer rows.Close()
	sums := map[tailnet.RelayID]tailnet.RelayTraffic{}
	for rows.Next() {
		var id, day, sent, received int64
		if err := rows.Scan(&id, &day, &sent, &received); err != nil {
			return nil, fmt.Errorf("reading the traffic of relays: %w", err)
		}
		sum := sums[tailnet.RelayID(id)]
		if day == today {
			sum.Today = tailnet.Traffic{Sent: uint64(sent), Received: uint64(received)}
		}
		sum.Month.Sent += uint64(sent)
		sum.Month.Received += uint64(received)
		sums[tailnet.RelayID(id)] = sum
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("reading the traffic of relays: %w", s.engine.explain(err))
	}
	return sums, nil
}

// purgeRelayTraffic deletes what is older than is kept.
func (t *tx) purgeRelayTraffic() error {
	_, err := t.exec("DELETE FROM relay_traffic WHERE day < ?", dayNumber(t.now.AddDate(0, 0, -keptTraffic)))
	return err
}
