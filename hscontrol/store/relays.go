package store

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"gorm.io/gorm"
	"tailscale.com/types/key"

	"github.com/keelscale/keelscale/hscontrol/tailnet"
)

const (
	maxRelays            = 1000
	maxRelayAddresses    = 32
	maxRelayCertificates = 8
)

// RelayFilter chooses relays; zero fields choose all.
type RelayFilter struct {
	ID         tailnet.RelayID
	MachineKey key.MachinePublic
	Name       string
	// Serving chooses those that serve the nodes of a tailnet; OwnedBy those that serve no others.
	Serving, OwnedBy tailnet.ID
}

// ListRelays returns the relays that the filter chooses, oldest first.
func (s *Store) ListRelays(ctx context.Context, f RelayFilter) ([]*tailnet.Relay, error) {
	q := s.orm.WithContext(ctx).Order("id")
	if f.ID != 0 {
		q = q.Where("id = ?", int64(f.ID))
	}
	if !f.MachineKey.IsZero() {
		q = q.Where("machine_key = ?", f.MachineKey.String())
	}
	if f.Name != "" {
		q = q.Where("name = ?", f.Name)
	}
	if f.Serving != 0 {
		q = q.Where("(tailnet_id IS NULL OR tailnet_id = ?)", int64(f.Serving))
	}
	if f.OwnedBy != 0 {
		q = q.Where("tailnet_id = ?", int64(f.OwnedBy))
	}
	list, err := readRelays(q, s.orm.WithContext(ctx))
	if err != nil {
		return nil, fmt.Errorf("listing relays: %w", s.engine.explain(err))
	}
	return list, nil
}

// readRelays runs a query for relays, and says by another which of them are online.
func readRelays(q, db *gorm.DB) ([]*tailnet.Relay, error) {
	var list []*tailnet.Relay
	if err := q.Find(&list).Error; err != nil || len(list) == 0 {
		return nil, err
	}
	var online []uint64
	if err := db.Table("relay_sessions").Pluck("relay_id", &online).Error; err != nil {
		return nil, err
	}
	for _, r := range list {
		r.Online = slices.Contains(online, uint64(r.ID))
	}
	return list, nil
}

// GetRelay returns a relay by its ID.
func (s *Store) GetRelay(ctx context.Context, id tailnet.RelayID) (*tailnet.Relay, error) {
	list, err := s.ListRelays(ctx, RelayFilter{ID: id})
	if err == nil && (len(list) == 0 || id == 0) {
		err = errNoSuchRelay
	}
	if err != nil {
		return nil, fmt.Errorf("finding relay %d: %w", id, err)
	}
	return list[0], nil
}

var errNoSuchRelay = fmt.Errorf("%w: see headscale derp list", tailnet.ErrNotFound)

// FindRelay returns the relay that has the machine key. ErrRelayRemoved if it was removed, ErrNotFound if it never
// enrolled here.
func (s *Store) FindRelay(ctx context.Context, machine key.MachinePublic) (*tailnet.Relay, error) {
	list, err := s.ListRelays(ctx, RelayFilter{MachineKey: machine})
	if err != nil {
		return nil, err
	}
	if len(list) > 0 && !machine.IsZero() {
		return list[0], nil
	}
	var removed int64
	err = s.orm.WithContext(ctx).Table("relay_removals").Where("machine_key = ?", machine.String()).Count(&removed).Error
	switch {
	case err != nil:
		return nil, fmt.Errorf("finding relay: %w", s.engine.explain(err))
	case removed > 0:
		return nil, fmt.Errorf("%w by an administrator: to enrol it again, make a new key with headscale derp enroll-keys create", tailnet.ErrRelayRemoved)
	}
	return nil, fmt.Errorf("relay %s: %w: it has not enrolled here", machine.ShortString(), tailnet.ErrNotFound)
}

// lockRelays keeps all other processes from changing anything of relays until the end of the transaction, and from
// making a tailnet, which must not miss a change of those that serve all. What is read before must be read again. The
// lock is the row of the tailnet that always exists.
func (t *tx) lockRelays() error {
	_, err := t.tailnet(t.s.defaultID)
	return err
}

// relay reads a relay, with the lock.
func (t *tx) relay(id tailnet.RelayID) (*tailnet.Relay, error) {
	if err := t.lockRelays(); err != nil {
		return nil, err
	}
	list, err := readRelays(t.look().Where("id = ?", int64(id)), t.look())
	if err == nil && len(list) == 0 {
		err = errNoSuchRelay
	}
	if err != nil {
		return nil, err
	}
	return list[0], nil
}

// relayChanged notes it for every tailnet that the relay serves.
func (t *tx) relayChanged(r *tailnet.Relay) error {
	return t.changedFor(r.TailnetID, kindRelay, uint64(r.ID))
}

// changedFor is changed for one tailnet or, for zero, all of them. It needs the lock of relays.
func (t *tx) changedFor(id tailnet.ID, kind string, object uint64) error {
	if id != 0 {
		t.changed(id, kind, object)
		return nil
	}
	var all []uint64
	if err := t.look().Table("tailnets").Order("id").Pluck("id", &all).Error; err != nil {
		return err
	}
	for _, id := range all {
		t.changed(tailnet.ID(id), kind, object)
	}
	return nil
}

// changeRelay loads a relay, has it changed, and writes it if change says so.
func (s *Store) changeRelay(ctx context.Context, act string, id tailnet.RelayID, change func(*tx, *tailnet.Relay) (bool, error)) (*tailnet.Relay, error) {
	var r *tailnet.Relay
	err := s.write(ctx, func(t *tx) (err error) {
		if r, err = t.relay(id); err != nil {
			return err
		}
		was := *r
		differs, err := change(t, r)
		if err != nil || !differs {
			return err
		}
		if err := t.edit().Save(r).Error; err != nil {
			return err
		}
		if err := t.tellRelay(act, &was, r); err != nil {
			return err
		}
		return t.relayChanged(r)
	})
	if err != nil {
		return nil, fmt.Errorf("%s relay %d: %w", act, id, err)
	}
	return r, nil
}

// tellRelay tells the audit log of what somebody decided, and webhooks of a relay that is in the DERP map no more, or
// again.
func (t *tx) tellRelay(act string, was, is *tailnet.Relay) error {
	if was.Healthy != is.Healthy {
		event := tailnet.EventRelayUp
		if !is.Healthy {
			event = tailnet.EventRelayDown
		}
		t.happened(news{tailnet: is.TailnetID, event: event, kind: kindRelay, id: uint64(is.ID), name: is.Name, more: map[string]string{"reason": is.OutBecause}})
	}
	switch act {
	case "draining":
		return t.auditRelay("relay.drain", was, is)
	case "renaming":
		return t.auditRelay("relay.rename", was, is)
	}
	return nil
}

// DescribeRelay writes what a relay says of itself, if that is new.
func (s *Store) DescribeRelay(ctx context.Context, id tailnet.RelayID, d tailnet.RelayDescription) (*tailnet.Relay, error) {
	if err := checkDescription(&d); err != nil {
		return nil, fmt.Errorf("describing relay %d: %w", id, err)
	}
	return s.changeRelay(ctx, "describing", id, func(_ *tx, r *tailnet.Relay) (bool, error) {
		differs := !r.RelayDescription.Equal(d)
		r.RelayDescription = d
		return differs, nil
	})
}

// checkDescription bounds what a relay may say, and brings it into the form in which it is stored.
func checkDescription(d *tailnet.RelayDescription) error {
	if len(d.Addresses) > maxRelayAddresses || len(d.Published) > maxRelayAddresses {
		return fmt.Errorf("%w addresses: at most %d", tailnet.ErrTooMany, maxRelayAddresses)
	}
	if len(d.Certificates) > maxRelayCertificates {
		return fmt.Errorf("%w certificates: %d, at most %d", tailnet.ErrTooMany, len(d.Certificates), maxRelayCertificates)
	}
	d.Certificates = slices.Clone(d.Certificates)
	err := errors.Join(checkText(d.Version, longText), checkText(d.Hostname, longText))
	for i, c := range d.Certificates {
		err = errors.Join(err, checkText(c.Name, longText), checkText(c.Pin, longText))
		d.Certificates[i].Expires = storable(c.Expires)
	}
	return err
}

// SetRelayHealth notes whether a relay may stand in the DERP map and, if not, why: a sentence for people.
func (s *Store) SetRelayHealth(ctx context.Context, id tailnet.RelayID, healthy bool, because string) error {
	if healthy {
		because = ""
	}
	if err := checkText(because, longText); err != nil {
		return fmt.Errorf("noting the health of relay %d: %w", id, err)
	}
	_, err := s.changeRelay(ctx, "noting the health of", id, func(_ *tx, r *tailnet.Relay) (bool, error) {
		differs := r.Healthy != healthy || r.OutBecause != because
		r.Healthy, r.OutBecause = healthy, because
		return differs, nil
	})
	return err
}

// DrainRelay has a relay take nobody new and send the others away, or take clients again, for which it returns to the
// DERP map as one that was out.
func (s *Store) DrainRelay(ctx context.Context, id tailnet.RelayID, drain bool) (*tailnet.Relay, error) {
	return s.changeRelay(ctx, "draining", id, func(_ *tx, r *tailnet.Relay) (bool, error) {
		differs := r.Draining != drain
		r.Draining = drain
		if differs && !drain && r.Healthy {
			r.Healthy, r.OutBecause = false, tailnet.RelayReturns
		}
		return differs, nil
	})
}

// RemoveRelay forgets a relay. It comes back only with an enrolment key that is made later.
func (s *Store) RemoveRelay(ctx context.Context, id tailnet.RelayID) error {
	err := s.write(ctx, func(t *tx) error {
		r, err := t.relay(id)
		if err != nil {
			return err
		}
		if _, err := t.exec("DELETE FROM relays WHERE id = ?", int64(id)); err != nil {
			return err
		}
		if _, err := t.exec(`INSERT INTO relay_removals (machine_key, removed_at) VALUES (?, ?)
			ON CONFLICT (machine_key) DO UPDATE SET removed_at = excluded.removed_at`, r.MachineKey.String(), t.now); err != nil {
			return err
		}
		if err := t.auditRelay("relay.remove", r, nil); err != nil {
			return err
		}
		return errors.Join(t.relayChanged(r), t.leaveRegion(r.RegionID))
	})
	if err != nil {
		return fmt.Errorf("removing relay %d: %w", id, err)
	}
	return nil
}
