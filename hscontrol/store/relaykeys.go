package store

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"gorm.io/gorm"

	"github.com/keelscale/keelscale/hscontrol/tailnet"
)

// CreateRelayKey makes a key that lets relays enrol, and its secret, which is told only now. They will serve the nodes
// of k.TailnetID, or of all tailnets for zero.
func (s *Store) CreateRelayKey(ctx context.Context, k tailnet.RelayKey) (*tailnet.RelayKey, tailnet.Secret, error) {
	err := checkText(k.Description, longText)
	var secret tailnet.Secret
	if err == nil {
		secret, err = tailnet.NewSecret(tailnet.RelayKeySecret, s.cfg.Rand)
	}
	if err != nil {
		return nil, tailnet.Secret{}, fmt.Errorf("creating enrolment key: %w", err)
	}
	var row *tailnet.RelayKey
	err = s.write(ctx, func(t *tx) error {
		if k.TailnetID != 0 {
			if _, err := t.tailnet(k.TailnetID); err != nil {
				return err
			}
		}
		row = &tailnet.RelayKey{
			TailnetID: k.TailnetID, Prefix: secret.Prefix, Hash: secret.Hash(), Description: k.Description,
			Reusable: k.Reusable, ExpiresAt: storableTime(k.ExpiresAt), CreatedAt: t.now,
		}
		if err := t.edit().Create(row).Error; err != nil {
			return err
		}
		return t.audit(record{tailnet: row.TailnetID, action: "relaykey.create", kind: "relaykey", id: uint64(row.ID), name: row.Prefix,
			became: keyFacts{Prefix: row.Prefix, Description: row.Description, Reusable: row.Reusable, Expires: row.ExpiresAt}})
	})
	if err != nil {
		return nil, tailnet.Secret{}, fmt.Errorf("creating enrolment key: %w", err)
	}
	return row, secret, nil
}

// ListRelayKeys returns all enrolment keys, oldest first.
func (s *Store) ListRelayKeys(ctx context.Context) ([]*tailnet.RelayKey, error) {
	var keys []*tailnet.RelayKey
	if err := s.orm.WithContext(ctx).Order("id").Find(&keys).Error; err != nil {
		return nil, fmt.Errorf("listing enrolment keys: %w", s.engine.explain(err))
	}
	return keys, nil
}

// FindRelayKey finds an enrolment key by its ID or, for zero, by its prefix, alone or as part of the whole text or of
// what is shown of it.
func (s *Store) FindRelayKey(ctx context.Context, id tailnet.KeyID, prefix string) (*tailnet.RelayKey, error) {
	var k *tailnet.RelayKey
	var err error
	if id != 0 {
		k = &tailnet.RelayKey{}
		if err = s.orm.WithContext(ctx).Take(k, "id = ?", int64(id)).Error; errors.Is(err, gorm.ErrRecordNotFound) {
			err = errNoSuchRelayKey
		}
	} else {
		prefix = strings.TrimPrefix(strings.TrimSpace(prefix), string(tailnet.RelayKeySecret)+"-")
		prefix, _, _ = strings.Cut(prefix, "-")
		k, err = findRelayKey(s.orm.WithContext(ctx), prefix)
	}
	if err != nil {
		return nil, fmt.Errorf("finding enrolment key: %w", s.engine.explain(err))
	}
	return k, nil
}

// DeleteRelayKey deletes an enrolment key. Relays that it let in stay.
func (s *Store) DeleteRelayKey(ctx context.Context, id tailnet.KeyID) error {
	err := s.write(ctx, func(t *tx) error {
		var k tailnet.RelayKey
		if err := t.look().Take(&k, "id = ?", int64(id)).Error; errors.Is(err, gorm.ErrRecordNotFound) {
			return errNoSuchRelayKey
		} else if err != nil {
			return err
		}
		n, err := t.exec("DELETE FROM relay_keys WHERE id = ?", int64(id))
		if err == nil && n == 0 {
			err = errNoSuchRelayKey
		}
		if err != nil {
			return err
		}
		return t.audit(record{tailnet: k.TailnetID, action: "relaykey.delete", kind: "relaykey", id: uint64(k.ID), name: k.Prefix,
			was: keyFacts{Prefix: k.Prefix, Description: k.Description, Reusable: k.Reusable, Expires: k.ExpiresAt}})
	})
	if err != nil {
		return fmt.Errorf("deleting enrolment key %d: %w", id, err)
	}
	return nil
}
