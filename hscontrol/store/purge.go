package store

import (
	"context"
	"fmt"

	"github.com/keelscale/keelscale/hscontrol/tailnet"
)

// keptChanges is how many rows of the change log are kept for each tailnet at least. A follower that is further behind
// reads everything.
const keptChanges = 20_000

// PurgeExpired deletes registrations and access tokens past their lifetime, old rows of the change log and old traffic, forgets
// servers that died long ago, and elects primary routes anew where a primary node's key has expired. It is to be called every minute or
// so.
func (s *Store) PurgeExpired(ctx context.Context) error {
	tailnets, err := s.ListTailnets(ctx)
	if err != nil {
		return fmt.Errorf("purging: %w", err)
	}
	err = s.write(ctx, func(t *tx) error {
		if _, err := t.exec("DELETE FROM registrations WHERE expires_at <= ?", t.now); err != nil {
			return err
		}
		if _, err := t.exec("DELETE FROM access_tokens WHERE expires_at <= ?", t.now); err != nil {
			return err
		}
		if err := t.purgeRelayTraffic(); err != nil {
			return err
		}
		if err := t.forgetDead(); err != nil {
			return err
		}
		if err := t.forgetAnswers(); err != nil {
			return err
		}
		if err := t.purgeDeliveries(); err != nil {
			return err
		}
		if err := t.tellExpiries(); err != nil {
			return err
		}
		for _, tn := range tailnets {
			if err := t.purgeChanges(tn.ID); err != nil {
				return err
			}
			if err := t.retireExpired(tn.ID); err != nil {
				return err
			}
		}
		return nil
	})
	return wrap("purging", err)
}

// purgeChanges deletes whole revisions only: what is left of the log must tell all of those that it has.
func (t *tx) purgeChanges(id tailnet.ID) error {
	_, err := t.exec(`DELETE FROM changes WHERE tailnet_id = ? AND revision < (
		SELECT revision FROM changes WHERE tailnet_id = ? ORDER BY revision DESC LIMIT 1 OFFSET ?)`,
		int64(id), int64(id), keptChanges-1)
	return err
}

// retireExpired has the primaries elected if one has expired: time passes without a write.
func (t *tx) retireExpired(id tailnet.ID) error {
	due, err := t.exists(`SELECT 1 FROM nodes WHERE tailnet_id = ? AND approved_routes IS NOT NULL
		AND primary_routes IS NOT NULL AND expiry <= ? LIMIT 1`, int64(id), t.now)
	if err != nil || !due {
		return err
	}
	if _, err := t.tailnet(id); err != nil {
		return err
	}
	t.elect[id] = true
	return nil
}
