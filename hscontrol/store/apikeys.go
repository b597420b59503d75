package store

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"gorm.io/gorm"

	"github.com/keelscale/keelscale/hscontrol/tailnet"
)

// seenEvery is how often the LastSeen of an API key is written at most.
const seenEvery = time.Minute

// CreateAPIKey makes a key that opens the API of one tailnet, or of all for zero, and its secret, which is told only
// now.
func (s *Store) CreateAPIKey(ctx context.Context, id tailnet.ID, expiration *time.Time) (*tailnet.APIKey, tailnet.Secret, error) {
	secret, err := tailnet.NewSecret(tailnet.APIKeySecret, s.cfg.Rand)
	if err != nil {
		return nil, tailnet.Secret{}, fmt.Errorf("creating API key: %w", err)
	}
	var row *tailnet.APIKey
	err = s.write(ctx, func(t *tx) error {
		if id != 0 {
			if _, err := t.tailnet(id); err != nil {
				return err
			}
		}
		row = &tailnet.APIKey{TailnetID: id, Prefix: secret.Prefix, Hash: secret.Hash(), Expiration: storableTime(expiration), CreatedAt: t.now}
		return t.edit().Create(row).Error
	})
	if err != nil {
		return nil, tailnet.Secret{}, fmt.Errorf("creating API key: %w", err)
	}
	return row, secret, nil
}

// ListAPIKeys returns all API keys, oldest first.
func (s *Store) ListAPIKeys(ctx context.Context) ([]*tailnet.APIKey, error) {
	var keys []*tailnet.APIKey
	if err := s.orm.WithContext(ctx).Order("id").Find(&keys).Error; err != nil {
		return nil, fmt.Errorf("listing API keys: %w", s.engine.explain(err))
	}
	return keys, nil
}

// ExpireAPIKey ends a key now. One that has expired stays as it is.
func (s *Store) ExpireAPIKey(ctx context.Context, id tailnet.KeyID) error {
	err := s.write(ctx, func(t *tx) error { return t.expireKey("api_keys", id) })
	if err != nil {
		return fmt.Errorf("expiring API key %d: %w", id, err)
	}
	return nil
}

// DeleteAPIKey deletes a key.
func (s *Store) DeleteAPIKey(ctx context.Context, id tailnet.KeyID) error {
	err := s.write(ctx, func(t *tx) error { return t.deleteKey("api_keys", id) })
	if err != nil {
		return fmt.Errorf("deleting API key %d: %w", id, err)
	}
	return nil
}

// FindAPIKey finds a key by its ID or, for zero, by its prefix, alone or as part of what is shown of the secret.
func (s *Store) FindAPIKey(ctx context.Context, id tailnet.KeyID, prefix string) (*tailnet.APIKey, error) {
	q := s.orm.WithContext(ctx)
	if id != 0 {
		q = q.Where("id = ?", int64(id))
	} else {
		prefix = strings.TrimPrefix(strings.TrimSpace(prefix), string(tailnet.APIKeySecret)+"-")
		prefix, _, _ = strings.Cut(prefix, "-")
		q = q.Where("prefix = ?", prefix)
	}
	var k tailnet.APIKey
	err := q.Take(&k).Error
	if errors.Is(err, gorm.ErrRecordNotFound) {
		err = fmt.Errorf("%w: see headscale apikeys list", tailnet.ErrNotFound)
	}
	if err != nil {
		return nil, fmt.Errorf("finding API key: %w", s.engine.explain(err))
	}
	return &k, nil
}

// VerifyAPIKey finds the key of a secret. ErrAPIKeyRefused if there is none or it has expired.
func (s *Store) VerifyAPIKey(ctx context.Context, text string) (*tailnet.APIKey, error) {
	secret, err := tailnet.ParseSecret(tailnet.APIKeySecret, text)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", tailnet.ErrAPIKeyRefused, err)
	}
	k, err := s.FindAPIKey(ctx, 0, secret.Prefix)
	if errors.Is(err, tailnet.ErrNotFound) || err == nil && !secret.Matches(k.Hash) {
		return nil, fmt.Errorf("%w: it is not known", tailnet.ErrAPIKeyRefused)
	}
	if err != nil {
		return nil, err
	}
	now := s.now()
	if k.Expiration != nil && !k.Expiration.After(now) {
		return nil, fmt.Errorf("%w: it expired at %s", tailnet.ErrAPIKeyRefused, k.Expiration.UTC().Format(time.RFC3339))
	}
	if k.LastSeen == nil || now.Sub(*k.LastSeen) >= seenEvery {
		s.noteSeen(ctx, k, now)
	}
	return k, nil
}

// noteSeen writes when a key was last used. That it cannot be written is no reason to refuse the key.
func (s *Store) noteSeen(ctx context.Context, k *tailnet.APIKey, now time.Time) {
	err := s.write(ctx, func(t *tx) error {
		_, err := t.exec("UPDATE api_keys SET last_seen = ? WHERE id = ?", now, int64(k.ID))
		return err
	})
	if err != nil {
		s.cfg.Log.Warn("the last use of an API key could not be written", "key", k.ID, "err", err)
		return
	}
	k.LastSeen = &now
}
