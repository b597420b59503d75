package store

import (
	"context"
	"errors"
	"fmt"

	"gorm.io/gorm"

	"github.com/keelscale/keelscale/hscontrol/tailnet"
)

// maxPolicy is how long a policy's text may be, in bytes.
const maxPolicy = 4 << 20

// PutPolicy puts a text into force in a tailnet (zero: default). The former ones are kept. The text of the newest
// version writes nothing and returns that version.
func (s *Store) PutPolicy(ctx context.Context, id tailnet.ID, text, source string) (*tailnet.PolicyVersion, error) {
	id = s.orDefault(id)
	if err := errors.Join(checkText(text, maxPolicy), checkText(source, longText)); err != nil {
		return nil, fmt.Errorf("putting policy: %w", err)
	}
	var version *tailnet.PolicyVersion
	err := s.write(ctx, func(t *tx) (err error) {
		if _, err := t.tailnet(id); err != nil {
			return err
		}
		version, err = newestPolicy(t.look(), id)
		if err != nil || version != nil && version.Text == text {
			return err
		}
		version = &tailnet.PolicyVersion{TailnetID: id, Text: text, Source: source, CreatedAt: t.now}
		if err := t.edit().Create(version).Error; err != nil {
			return err
		}
		t.changed(id, kindPolicy, version.ID)
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("putting policy of tailnet %d: %w", id, err)
	}
	return version, nil
}

// GetPolicy returns the policy in force in a tailnet (zero: default), nil if there has never been one.
func (s *Store) GetPolicy(ctx context.Context, id tailnet.ID) (*tailnet.PolicyVersion, error) {
	version, err := newestPolicy(s.orm.WithContext(ctx), s.orDefault(id))
	if err != nil {
		return nil, fmt.Errorf("reading policy of tailnet %d: %w", id, s.engine.explain(err))
	}
	return version, nil
}

// ListPolicies returns all versions of a tailnet's policy (zero: default), newest first.
func (s *Store) ListPolicies(ctx context.Context, id tailnet.ID) ([]*tailnet.PolicyVersion, error) {
	var versions []*tailnet.PolicyVersion
	err := s.orm.WithContext(ctx).Where("tailnet_id = ?", int64(s.orDefault(id))).Order("id DESC").Find(&versions).Error
	if err != nil {
		return nil, fmt.Errorf("listing policies of tailnet %d: %w", id, s.engine.explain(err))
	}
	return versions, nil
}

func newestPolicy(db *gorm.DB, id tailnet.ID) (*tailnet.PolicyVersion, error) {
	var versions []*tailnet.PolicyVersion
	err := db.Where("tailnet_id = ?", int64(id)).Order("id DESC").Limit(1).Find(&versions).Error
	if err != nil || len(versions) == 0 {
		return nil, err
	}
	return versions[0], nil
}
