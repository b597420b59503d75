package store

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"gorm.io/gorm"
	"tailscale.com/types/key"

	"github.com/keelscale/keelscale/hscontrol/tailnet"
)

// RelayEnrolment is a relay that shows its key.
type RelayEnrolment struct {
	Key        string // whole, as tailnet.RelayKeyText, or without its last part
	MachineKey key.MachinePublic
	Region     string // code; empty: one of its own, called as the relay is
	Name       string // what it calls itself; empty: as its region, with a number
	// Taken are the regions of the DERP map that are no relay's that enrolled: their IDs are not given out.
	Taken       []tailnet.RegionID
	Description tailnet.RelayDescription
}

// EnrolRelay lets a relay in. ErrRelayRefused if the key is not good. A relay that shows the key that it enrolled with
// is the same one, unchanged: its answer was lost. With another good key it is the same one too, and goes where that
// key leads.
func (s *Store) EnrolRelay(ctx context.Context, e RelayEnrolment) (*tailnet.Relay, error) {
	secret, _, err := tailnet.ParseRelayKey(e.Key)
	switch {
	case err != nil:
		err = fmt.Errorf("%w: %w", tailnet.ErrRelayRefused, err)
	case e.MachineKey.IsZero():
		err = fmt.Errorf("%w: the relay has no machine key", tailnet.ErrInvalid)
	case e.Region != "":
		err = tailnet.ValidateRegionCode(e.Region)
	}
	if err == nil {
		err = checkDescription(&e.Description)
	}
	if err != nil {
		return nil, fmt.Errorf("enrolling relay: %w", err)
	}
	var r *tailnet.Relay
	if by := tailnet.ActorOf(ctx); by.Who == "" {
		ctx = tailnet.WithActor(ctx, tailnet.Actor{Via: tailnet.ViaRelay, Who: "relaykey:" + secret.Prefix, From: by.From})
	}
	err = s.write(ctx, func(t *tx) (err error) {
		r, err = t.enrolRelay(e, secret)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("enrolling relay: %w", err)
	}
	return r, nil
}

func (t *tx) enrolRelay(e RelayEnrolment, secret tailnet.Secret) (*tailnet.Relay, error) {
	if err := t.lockRelays(); err != nil {
		return nil, err
	}
	k, err := findRelayKey(t.look(), secret.Prefix)
	if errors.Is(err, tailnet.ErrNotFound) || err == nil && !secret.Matches(k.Hash) {
		err = fmt.Errorf("%w: it is not known here; make one with headscale derp enroll-keys create", tailnet.ErrRelayRefused)
	}
	if err != nil {
		return nil, err
	}
	known, err := readRelays(t.look().Where("machine_key = ?", e.MachineKey.String()), t.look())
	if err != nil {
		return nil, err
	}
	if len(known) > 0 && known[0].KeyID == k.ID {
		return known[0], nil
	}
	if err := t.mayEnrol(k, e.MachineKey); err != nil {
		return nil, err
	}
	r := &tailnet.Relay{MachineKey: e.MachineKey, OutBecause: tailnet.RelayNotProbed, CreatedAt: t.now}
	if len(known) > 0 {
		r = known[0]
	}
	if err := t.placeRelay(r, k, e); err != nil {
		return nil, err
	}
	if _, err := t.exec("UPDATE relay_keys SET used_at = ? WHERE id = ?", t.now, int64(k.ID)); err != nil {
		return nil, err
	}
	return r, nil
}

// mayEnrol says why the key does not let in the relay that has the machine key, or nil.
func (t *tx) mayEnrol(k *tailnet.RelayKey, machine key.MachinePublic) error {
	if err := k.Usable(t.now); err != nil {
		return err
	}
	removed, err := t.exists("SELECT 1 FROM relay_removals WHERE machine_key = ? AND removed_at >= ?", machine.String(), k.CreatedAt)
	if removed {
		err = fmt.Errorf("%w: this relay was removed after the key was made; make a new one with headscale derp enroll-keys create", tailnet.ErrRelayRefused)
	}
	return err
}

// placeRelay writes a relay, new or not, to where its key leads.
func (t *tx) placeRelay(r *tailnet.Relay, k *tailnet.RelayKey, e RelayEnrolment) error {
	var count int64
	if err := t.look().Table("relays").Count(&count).Error; err != nil {
		return err
	}
	if r.ID == 0 && count >= maxRelays {
		return fmt.Errorf("%w relays: %d, as many as there may be; remove some with headscale derp remove", tailnet.ErrTooMany, count)
	}
	was := *r
	r.TailnetID, r.KeyID, r.RelayDescription = k.TailnetID, k.ID, e.Description
	if was.ID == 0 || e.Region != "" || was.TailnetID != r.TailnetID {
		region, err := t.regionFor(r, e)
		if err != nil {
			return err
		}
		r.RegionID = region.ID
	}
	if was.ID == 0 {
		if err := t.nameRelay(r, e.Name); err != nil {
			return err
		}
		if _, err := t.exec("DELETE FROM relay_removals WHERE machine_key = ?", r.MachineKey.String()); err != nil {
			return err
		}
	}
	if err := t.edit().Save(r).Error; err != nil {
		return err
	}
	if was.ID != 0 && was.RegionID != r.RegionID {
		if err := t.leaveRegion(was.RegionID); err != nil {
			return err
		}
	}
	if was.ID != 0 && was.TailnetID != r.TailnetID {
		if err := t.relayChanged(&was); err != nil {
			return err
		}
	}
	former := &was
	if was.ID == 0 {
		former = nil
	}
	if err := t.auditRelay("relay.enrol", former, r); err != nil {
		return err
	}
	return t.relayChanged(r)
}

// nameRelay gives a new relay a name that is free: the one that it asks for, or its region's with a number.
func (t *tx) nameRelay(r *tailnet.Relay, asked string) (err error) {
	taken := func(name string) bool {
		is, fault := t.exists("SELECT 1 FROM relays WHERE name = ?", name)
		err = errors.Join(err, fault)
		return is && fault == nil
	}
	if strings.TrimSpace(asked) != "" {
		base := tailnet.BaseName(asked)
		if validateRelayName(base) != nil {
			base = "relay-" + base
		}
		r.Name = tailnet.FreeName(base[:min(len(base), maxRelayName)], taken)
		return err
	}
	region, err := findRegion(t.look(), r.RegionID)
	if err != nil {
		return err
	}
	for n := 1; ; n++ {
		if r.Name = region.Code + "-" + strconv.Itoa(n); !taken(r.Name) {
			return err
		}
	}
}

// RelayNames says what shall be called otherwise; empty is unchanged.
type RelayNames struct {
	Name       string // of the relay, a DNS label
	Region     string // code of the region that it moves to
	RegionName string // of the region in which it then is, for people

	Taken []tailnet.RegionID // as in RelayEnrolment
}

// RenameRelay renames a relay or its region, or moves it to another region. ErrExists if the name is taken.
func (s *Store) RenameRelay(ctx context.Context, id tailnet.RelayID, n RelayNames) (*tailnet.Relay, error) {
	var err error
	if n.Name != "" {
		err = validateRelayName(n.Name)
	}
	if n.Region != "" {
		err = errors.Join(err, tailnet.ValidateRegionCode(n.Region))
	}
	if err = errors.Join(err, checkText(n.RegionName, longText)); err != nil {
		return nil, fmt.Errorf("renaming relay %d: %w", id, err)
	}
	return s.changeRelay(ctx, "renaming", id, func(t *tx, r *tailnet.Relay) (bool, error) { return t.renameRelay(r, n) })
}

const maxRelayName = 63

func validateRelayName(name string) error {
	if tailnet.ValidateGivenName(name) != nil {
		return fmt.Errorf("%w: relay name %q: use lower-case letters, digits and dashes, 63 at most", tailnet.ErrInvalid, name)
	}
	if _, err := strconv.ParseUint(name, 10, 64); err == nil {
		return fmt.Errorf("%w: relay name %q: a number is an ID, a name needs a letter", tailnet.ErrInvalid, name)
	}
	return nil
}

func (t *tx) renameRelay(r *tailnet.Relay, n RelayNames) (bool, error) {
	was := *r
	if n.Name != "" && n.Name != r.Name {
		taken, err := t.exists("SELECT 1 FROM relays WHERE name = ?", n.Name)
		if taken {
			err = fmt.Errorf("%w: another relay is called %q", tailnet.ErrExists, n.Name)
		}
		if err != nil {
			return false, err
		}
		r.Name = n.Name
	}
	if n.Region != "" {
		region, err := t.regionFor(r, RelayEnrolment{Region: n.Region, Taken: n.Taken})
		if err != nil {
			return false, err
		}
		r.RegionID = region.ID
	}
	if was.RegionID != r.RegionID {
		if err := t.leaveRegion(was.RegionID); err != nil {
			return false, err
		}
	}
	if n.RegionName != "" {
		if err := t.nameRegion(r.RegionID, n.RegionName); err != nil {
			return false, err
		}
	}
	return was.Name != r.Name || was.RegionID != r.RegionID, nil
}

func findRelayKey(db *gorm.DB, prefix string) (*tailnet.RelayKey, error) {
	var k tailnet.RelayKey
	err := db.Take(&k, "prefix = ?", prefix).Error
	if errors.Is(err, gorm.ErrRecordNotFound) {
		return nil, errNoSuchRelayKey
	}
	return &k, err
}

var errNoSuchRelayKey = fmt.Errorf("%w: see headscale derp enroll-keys list", tailnet.ErrNotFound)
