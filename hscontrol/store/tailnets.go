package store

import (
	"context"
	"errors"
	"fmt"
	"net/netip"

	"gorm.io/gorm"

	"github.com/keelscale/keelscale/hscontrol/tailnet"
)

// ensureDefault makes the tailnet that exists from the start, and the head of the audit log.
func (s *Store) ensureDefault(t *tx) error {
	if _, err := t.exec("INSERT INTO audit_head (id, last, hash) VALUES (1, 0, ?)"+orNothing, make([]byte, len(tailnet.AuditHash{}))); err != nil {
		return err
	}
	return t.edit().Exec("INSERT INTO tailnets (name, created_at) VALUES (?, ?) ON CONFLICT (name) DO NOTHING",
		tailnet.DefaultName, t.now).Error
}

// CreateTailnet makes a tailnet. The zero prefix for both families means the server's ranges, for one of them that it
// has no addresses of that family. ErrExists if the name is taken.
func (s *Store) CreateTailnet(ctx context.Context, name string, v4, v6 netip.Prefix) (*tailnet.Tailnet, error) {
	if err := tailnet.ValidateTailnetName(name); err != nil {
		return nil, fmt.Errorf("creating tailnet: %w", err)
	}
	if v4.IsValid() && !v4.Addr().Is4() || v6.IsValid() && (!v6.Addr().Is6() || v6.Addr().Is4In6()) {
		return nil, fmt.Errorf("creating tailnet %q: %w: prefixes %s and %s are not one of IPv4 and one of IPv6", name, tailnet.ErrInvalid, v4, v6)
	}
	var row *tailnet.Tailnet
	err := s.write(ctx, func(t *tx) error {
		if err := t.lockRelays(); err != nil {
			return err
		}
		row = &tailnet.Tailnet{Name: name, Revision: 1, PrefixV4: v4.Masked(), PrefixV6: v6.Masked(), CreatedAt: t.now}
		err := t.edit().Create(row).Error
		if s.engine.fault(err).unique != "" {
			return fmt.Errorf("%w: choose another name", tailnet.ErrExists)
		}
		if err != nil {
			return err
		}
		t.revised[row.ID] = row.Revision
		return t.auditTailnet("tailnet.create", nil, row)
	})
	if err != nil {
		return nil, fmt.Errorf("creating tailnet %q: %w", name, err)
	}
	return row, nil
}

// errDefaultStays is that somebody wants the default tailnet deleted.
var errDefaultStays = fmt.Errorf("%w: the tailnet %q always exists", tailnet.ErrConflict, tailnet.DefaultName)

type tailnetFacts struct {
	Name string `json:"name"`
	V4   string `json:"prefixV4,omitempty"`
	V6   string `json:"prefixV6,omitempty"`
}

func factsOfTailnet(row *tailnet.Tailnet) tailnetFacts {
	return tailnetFacts{row.Name, prefixText(row.PrefixV4), prefixText(row.PrefixV6)}
}

// auditTailnet is auditNode for tailnets.
func (t *tx) auditTailnet(action string, was, became *tailnet.Tailnet) error {
	r, row := changed(action, kindTailnet, was, became, factsOfTailnet)
	r.tailnet, r.id, r.name = row.ID, uint64(row.ID), row.Name
	return t.audit(r)
}

func prefixText(p netip.Prefix) string {
	if !p.IsValid() {
		return ""
	}
	return p.String()
}

// ListTailnets returns all tailnets in the order in which they were made, without what moves by itself: see Since.
// What it returns is shared.
func (s *Store) ListTailnets(ctx context.Context) ([]*tailnet.Tailnet, error) {
	rows, err := s.tailnetRows(ctx)
	if err != nil {
		return nil, fmt.Errorf("listing tailnets: %w", s.engine.explain(err))
	}
	return rows, nil
}

// everyRow is the place of a whole table on its shelf.
type everyRow struct{}

// tailnetRows are all rows, read again only after a tailnet was made, changed or deleted.
func (s *Store) tailnetRows(ctx context.Context) ([]*tailnet.Tailnet, error) {
	mark := s.marks.topics[topicTailnets].Load()
	if rows, there := s.tailnets.get(mark, everyRow{})[everyRow{}]; there && !s.engine.shared() {
		return rows, nil
	}
	var rows []*tailnet.Tailnet
	if err := s.orm.WithContext(ctx).Order("id").Find(&rows).Error; err != nil {
		return nil, err
	}
	for _, row := range rows {
		row.Revision, row.NextV4, row.NextV6 = 0, netip.Addr{}, netip.Addr{}
	}
	s.tailnets.put(mark, map[everyRow][]*tailnet.Tailnet{{}: rows}, 1)
	return rows, nil
}

// FindTailnet finds a tailnet by its name; the empty name is "default". It is as ListTailnets has it.
func (s *Store) FindTailnet(ctx context.Context, name string) (*tailnet.Tailnet, error) {
	if name == "" {
		name = tailnet.DefaultName
	}
	rows, err := s.tailnetRows(ctx)
	if err != nil {
		return nil, fmt.Errorf("finding tailnet %q: %w", name, s.engine.explain(err))
	}
	for _, row := range rows {
		if row.Name == name {
			return row, nil
		}
	}
	return nil, fmt.Errorf("finding tailnet %q: %w: see headscale tailnets list", name, tailnet.ErrNotFound)
}

func findTailnet(db *gorm.DB, name string) (*tailnet.Tailnet, error) {
	var row tailnet.Tailnet
	err := db.Where("name = ?", name).Take(&row).Error
	if errors.Is(err, gorm.ErrRecordNotFound) {
		return nil, fmt.Errorf("%w: see headscale tailnets list", tailnet.ErrNotFound)
	}
	if err != nil {
		return nil, err
	}
	return &row, nil
}

// DeleteTailnet deletes a tailnet with its keys and policies. ErrConflict while it has nodes, users or relays
// of its own, and for "default".
func (s *Store) DeleteTailnet(ctx context.Context, name string) error {
	err := s.write(ctx, func(t *tx) error {
		if name == tailnet.DefaultName || name == "" {
			return errDefaultStays
		}
		row, err := findTailnet(t.look(), name)
		if err != nil {
			return err
		}
		if _, err := t.tailnet(row.ID); err != nil {
			return err
		}
		if err := t.deleteTailnet(row.ID); err != nil {
			return err
		}
		return t.auditTailnet("tailnet.delete", row, nil)
	})
	if err != nil {
		return fmt.Errorf("deleting tailnet %q: %w", name, err)
	}
	return nil
}

func (t *tx) deleteTailnet(id tailnet.ID) error {
	for _, of := range []string{"nodes", "users", "relays"} {
		var count int64
		if err := t.queryRow("SELECT COUNT(*) FROM "+of+" WHERE tailnet_id = ?", int64(id)).Scan(&count); err != nil {
			return err
		}
		if count > 0 {
			return fmt.Errorf("%w: it still has %d %s: delete them first", tailnet.ErrConflict, count, of)
		}
	}
	for _, of := range []string{"pre_auth_keys", "api_keys", "oauth_clients", "relay_keys", "relay_regions", "policy_versions", "changes"} {
		if _, err := t.exec("DELETE FROM "+of+" WHERE tailnet_id = ?", int64(id)); err != nil {
			return err
		}
	}
	if _, err := t.exec("DELETE FROM tailnets WHERE id = ?", int64(id)); err != nil {
		return err
	}
	t.forget(id)
	return nil
}

// forget drops what the group still wanted to write of a tailnet that is no longer there.
func (t *tx) forget(id tailnet.ID) {
	delete(t.tailnets, id)
	clear(t.keys)
	t.dropped[id] = true
}

// orDefault is the ID of the default tailnet where none is given.
func (s *Store) orDefault(id tailnet.ID) tailnet.ID {
	if id == 0 {
		return s.defaultID
	}
	return id
}
