package store

import (
	"context"
	"errors"
	"fmt"
	"time"

	"gorm.io/gorm"

	"github.com/keelscale/keelscale/hscontrol/tailnet"
)

// seenEvery is how often the LastSeen of an API key is written at most.
const seenEvery = time.Minute

// CreateAPIKey makes a key as k says, and its secret, which is told only now. A key of a user is for that user's
// tailnet; without one it is for k.TailnetID, or for all tailnets for zero.
func (s *Store) CreateAPIKey(ctx context.Context, k tailnet.APIKey) (*tailnet.APIKey, tailnet.Secret, error) {
	row, secret, err := s.createAPIKey(ctx, k)
	if err != nil {
		return nil, tailnet.Secret{}, fmt.Errorf("creating API key: %w", err)
	}
	return row, secret, nil
}

func (s *Store) newAPIKeySecret(short bool) (tailnet.Secret, error) {
	if short {
		return tailnet.NewShortAPIKey(s.cfg.Rand)
	}
	return tailnet.NewSecret(tailnet.APIKeySecret, s.cfg.Rand)
}

func (s *Store) createAPIKey(ctx context.Context, k tailnet.APIKey) (*tailnet.APIKey, tailnet.Secret, error) {
	scopes, tags, err := checkGrant(k.Scopes, k.Tags, k.Description)
	if err != nil {
		return nil, tailnet.Secret{}, err
	}
	secret, err := s.newAPIKeySecret(k.Short)
	if err != nil {
		return nil, tailnet.Secret{}, err
	}
	var row *tailnet.APIKey
	err = s.write(ctx, func(t *tx) error {
		row = &tailnet.APIKey{
			TailnetID: k.TailnetID, UserID: k.UserID, Prefix: secret.Prefix, Hash: secret.Hash(), Description: k.Description,
			Scopes: scopes, Tags: tags, Expiration: storableTime(k.Expiration), CreatedAt: t.now,
		}
		if err := t.placeGrant(&row.TailnetID, row.UserID); err != nil {
			return err
		}
		if err := t.edit().Create(row).Error; err != nil {
			return err
		}
		return t.auditAPIKey("apikey.create", nil, row)
	})
	return row, secret, err
}

// checkGrant returns scopes and tags sorted and each once.
func checkGrant(scopes, tags []string, description string) ([]string, []string, error) {
	scopes, err := tailnet.ValidateScopes(scopes)
	if err != nil {
		return nil, nil, err
	}
	if tags, err = checkTags(tags); err != nil {
		return nil, nil, err
	}
	if err := checkText(description, longText); err != nil {
		return nil, nil, fmt.Errorf("description: %w", err)
	}
	return scopes, tags, nil
}

// placeGrant says in which tailnet a key for the API is: its user's, the given one, or, for zero, all.
func (t *tx) placeGrant(id *tailnet.ID, user tailnet.UserID) error {
	if user != 0 {
		u, err := t.user(user)
		if err != nil {
			return err
		}
		if *id != 0 && *id != u.TailnetID {
			return fmt.Errorf("%w: user %q is not in tailnet %d", tailnet.ErrInvalid, u.Name, *id)
		}
		*id = u.TailnetID
	}
	if *id == 0 {
		return nil
	}
	_, err := t.tailnet(*id)
	return err
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
	err := s.write(ctx, func(t *tx) error { return t.endAPIKey("apikey.expire", id, t.expireKey) })
	if err != nil {
		return fmt.Errorf("expiring API key %d: %w", id, err)
	}
	return nil
}

// DeleteAPIKey deletes a key.
func (s *Store) DeleteAPIKey(ctx context.Context, id tailnet.KeyID) error {
	err := s.write(ctx, func(t *tx) error { return t.endAPIKey("apikey.delete", id, t.deleteKey) })
	if err != nil {
		return fmt.Errorf("deleting API key %d: %w", id, err)
	}
	return nil
}

// endAPIKey is endKey for API keys.
func (t *tx) endAPIKey(action string, id tailnet.KeyID, end func(table string, id tailnet.KeyID) error) error {
	var k tailnet.APIKey
	if err := t.look().Take(&k, "id = ?", int64(id)).Error; err != nil && !errors.Is(err, gorm.ErrRecordNotFound) {
		return err
	}
	if err := end("api_keys", id); err != nil || action == "apikey.expire" && k.Expiration != nil && !k.Expiration.After(t.now) {
		return err
	}
	return t.auditAPIKey(action, &k, nil)
}

// auditAPIKey is auditNode for API keys.
func (t *tx) auditAPIKey(action string, was, became *tailnet.APIKey) error {
	r, k := changed(action, kindAPIKey, was, became, factsOfAPIKey)
	r.tailnet, r.id, r.name = k.TailnetID, uint64(k.ID), k.Prefix
	return t.audit(r)
}

// grantFacts are what the audit log keeps of what opens the API.
type grantFacts struct {
	Description string         `json:"description,omitempty"`
	UserID      tailnet.UserID `json:"userId,omitempty"`
	Scopes      []string       `json:"scopes"`
	Tags        []string       `json:"tags,omitempty"`
	Expiration  *time.Time     `json:"expiration,omitempty"`

	Kind     string            `json:"kind,omitempty"` // of an OAuth client
	Issuer   string            `json:"issuer,omitempty"`
	Subject  string            `json:"subject,omitempty"`
	Audience string            `json:"audience,omitempty"`
	Claims   map[string]string `json:"claims,omitempty"`
}

func factsOfAPIKey(k *tailnet.APIKey) grantFacts {
	return grantFacts{Description: k.Description, UserID: k.UserID, Scopes: k.Scopes, Tags: k.Tags, Expiration: k.Expiration}
}

// FindAPIKey finds a key by its ID or, for zero, by its prefix, alone or as part of what is shown of the secret.
func (s *Store) FindAPIKey(ctx context.Context, id tailnet.KeyID, prefix string) (*tailnet.APIKey, error) {
	q := s.orm.WithContext(ctx)
	if id != 0 {
		q = q.Where("id = ?", int64(id))
	} else {
		prefix = tailnet.SecretPrefix(tailnet.APIKeySecret, prefix)
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
	secret, err := tailnet.ParseAPIKey(text)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", tailnet.ErrAPIKeyRefused, err)
	}
	k, err := s.FindAPIKey(ctx, 0, secret.Prefix)
	if err != nil && !errors.Is(err, tailnet.ErrNotFound) {
		return nil, err
	}
	if err != nil || !secret.Matches(k.Hash) && !secret.MatchesOld(k.Hash) {
		return nil, fmt.Errorf("%w: it is not known", tailnet.ErrAPIKeyRefused)
	}
	now := s.now()
	if k.Expiration != nil && !k.Expiration.After(now) {
		return nil, fmt.Errorf("%w: it expired at %s", tailnet.ErrAPIKeyRefused, k.Expiration.UTC().Format(time.RFC3339))
	}
	if k.LastSeen == nil || now.Sub(*k.LastSeen) >= seenEvery || !secret.Matches(k.Hash) {
		s.noteSeen(k, secret.Hash(), now)
	}
	return k, nil
}

// noteSeen has written when a key was last used, and a hash that costs less than headscale's where it has that one: all
// of them are of random bits enough. The call does not wait for that, and that it cannot be written is no reason to
// refuse the key.
func (s *Store) noteSeen(k *tailnet.APIKey, hash []byte, now time.Time) {
	id := k.ID
	s.writeSoon(func(t *tx) error {
		_, err := t.exec("UPDATE api_keys SET last_seen = ?, hash = ? WHERE id = ?", now, hash, int64(id))
		return err
	}, func(err error) {
		if err != nil {
			s.cfg.Log.Warn("the last use of an API key could not be written", "key", id, "err", err)
		}
	})
	k.LastSeen, k.Hash = &now, hash
}
