package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"github.com/keelscale/keelscale/hscontrol/tailnet"
)

// AuditStream is a receiver of the audit log, and how far it has it.
type AuditStream struct {
	Name      string     // one of a kind in the database
	TailnetID tailnet.ID // whose rows it gets; zero: all
	Settings  string     // what hooks know of it, without secrets
	Sealed    []byte     // its secret; nil: none
	Sent      uint64     // the last row that it has
	Trouble   string     // why it does not get the rows now
	UpdatedAt time.Time
}

const streamColumns = "name, tailnet_id, settings, sealed, sent, trouble, updated_at"

const kindStream = "stream"

// NoteAuditStream makes the row of a stream of the configuration, unless it is there.
func (s *Store) NoteAuditStream(ctx context.Context, a AuditStream) error {
	err := s.write(ctx, func(t *tx) error {
		_, err := t.exec(`INSERT INTO audit_streams (name, tailnet_id, settings, sealed, sent, holder, held_until, trouble, updated_at)
			VALUES (?, ?, ?, ?, ?, '', NULL, '', ?)`+orNothing, a.Name, ref(&a.TailnetID), a.Settings, a.Sealed, int64(a.Sent), t.now)
		return err
	})
	return wrap("noting stream "+a.Name, err)
}

// PutAuditStream makes a stream, or gives one that is there other settings; it goes on where it was.
func (s *Store) PutAuditStream(ctx context.Context, a AuditStream) error {
	err := checkText(a.Settings, maxSettings)
	if err == nil {
		err = s.write(ctx, func(t *tx) error {
			if a.TailnetID != 0 {
				if _, err := t.tailnet(a.TailnetID); err != nil {
					return err
				}
			}
			_, err := t.exec(`INSERT INTO audit_streams (name, tailnet_id, settings, sealed, sent, holder, held_until, trouble, updated_at)
				VALUES (?, ?, ?, ?, ?, '', NULL, '', ?)
				ON CONFLICT (name) DO UPDATE SET settings = excluded.settings, sealed = excluded.sealed, trouble = '', updated_at = excluded.updated_at`,
				a.Name, ref(&a.TailnetID), a.Settings, a.Sealed, int64(a.Sent), t.now)
			if err != nil {
				return err
			}
			return t.audit(record{tailnet: a.TailnetID, action: "stream.set", kind: kindStream, name: a.Name})
		})
	}
	return wrap("setting stream "+a.Name, err)
}

// maxSettings bounds the settings of a stream, in bytes.
const maxSettings = 16 << 10

// GetAuditStream returns a stream by its name.
func (s *Store) GetAuditStream(ctx context.Context, name string) (*AuditStream, error) {
	list, err := s.auditStreams(ctx, " WHERE name = ?", name)
	if err == nil && len(list) == 0 {
		err = tailnet.ErrNotFound
	}
	if err != nil {
		return nil, fmt.Errorf("reading stream %s: %w", name, err)
	}
	return &list[0], nil
}

// ListAuditStreams returns all streams, by name.
func (s *Store) ListAuditStreams(ctx context.Context) ([]AuditStream, error) {
	list, err := s.auditStreams(ctx, " ORDER BY name")
	return list, wrap("listing streams of the audit log", err)
}

func (s *Store) auditStreams(ctx context.Context, where string, args ...any) (list []AuditStream, err error) {
	rows, err := s.reads.QueryContext(ctx, s.engine.rebind("SELECT "+streamColumns+" FROM audit_streams"+where), args...)
	if err != nil {
		return nil, s.engine.explain(err)
	}
	defer rows.Close()
	for rows.Next() {
		var a AuditStream
		if err := rows.Scan(&a.Name, ref(&a.TailnetID), &a.Settings, &a.Sealed, number(&a.Sent), &a.Trouble, instant(&a.UpdatedAt)); err != nil {
			return nil, err
		}
		list = append(list, a)
	}
	return list, s.engine.explain(rows.Err())
}

// DeleteAuditStream forgets a stream.
func (s *Store) DeleteAuditStream(ctx context.Context, name string) error {
	err := s.write(ctx, func(t *tx) error {
		var id tailnet.ID
		err := t.queryRow("SELECT tailnet_id FROM audit_streams WHERE name = ?", name).Scan(ref(&id))
		if errors.Is(err, sql.ErrNoRows) {
			return tailnet.ErrNotFound
		}
		if err != nil {
			return err
		}
		if _, err := t.exec("DELETE FROM audit_streams WHERE name = ?", name); err != nil {
			return err
		}
		return t.audit(record{tailnet: id, action: "stream.delete", kind: kindStream, name: name})
	})
	return wrap("deleting stream "+name, err)
}

// HoldAuditStream makes this server the one that sends a stream, for a while. held is false while another one is.
func (s *Store) HoldAuditStream(ctx context.Context, name string, lease time.Duration) (held bool, err error) {
	var elsewhere bool // that costs no transaction
	err = s.reads.QueryRowContext(ctx, s.engine.rebind("SELECT COUNT(*) > 0 FROM audit_streams WHERE name = ? AND holder <> ? AND holder <> '' AND held_until > ?"),
		name, s.cfg.Replica, s.now()).Scan(&elsewhere)
	if err != nil || elsewhere {
		return false, wrap("holding stream "+name, s.engine.explain(err))
	}
	err = s.write(ctx, func(t *tx) error {
		n, err := t.exec("UPDATE audit_streams SET holder = ?, held_until = ? WHERE name = ? AND (holder = ? OR holder = '' OR held_until <= ?)",
			s.cfg.Replica, t.now.Add(lease), name, s.cfg.Replica, t.now)
		held = n > 0
		return err
	})
	return held, wrap("holding stream "+name, err)
}

// AdvanceAuditStream notes up to which row the receiver has the log, and what troubles the stream.
func (s *Store) AdvanceAuditStream(ctx context.Context, name string, sent uint64, trouble string) error {
	err := s.write(ctx, func(t *tx) error {
		_, err := t.exec("UPDATE audit_streams SET sent = ?, trouble = ?, updated_at = ? WHERE name = ? AND holder = ?",
			int64(sent), fact(trouble), t.now, name, s.cfg.Replica)
		return err
	})
	return wrap("advancing stream "+name, err)
}

// releaseStreams has no process hold the streams that a former life of this one held: all of them where no other
// process uses the database.
func (t *tx) releaseStreams() error {
	if t.s.engine.shared() {
		return t.freeStreams(" WHERE holder = ?", t.s.cfg.Replica)
	}
	return t.freeStreams(" WHERE holder <> ''")
}

// freeStreams has nobody hold what those held whom the condition chooses.
func (t *tx) freeStreams(where string, args ...any) error {
	_, err := t.exec("UPDATE audit_streams SET holder = '', held_until = NULL"+where, args...)
	return err
}
