package store

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"

	"gorm.io/gorm"

	"github.com/keelscale/keelscale/hscontrol/tailnet"
)

// maxPolicy is how long a policy's text may be, in bytes.
const maxPolicy = 4 << 20

// PutPolicy puts a text into force of which nothing is known but by which door it came; see PutPolicyVersion.
func (s *Store) PutPolicy(ctx context.Context, id tailnet.ID, text, source string) (*tailnet.PolicyVersion, error) {
	return s.PutPolicyVersion(ctx, tailnet.PolicyVersion{TailnetID: id, Text: text, Source: source})
}

// PutPolicyVersion puts a text into force in a tailnet (zero: default). The former ones are kept. The text of the newest
// version writes nothing and returns that version.
func (s *Store) PutPolicyVersion(ctx context.Context, v tailnet.PolicyVersion) (*tailnet.PolicyVersion, error) {
	return s.putPolicy(ctx, v, nil)
}

// ReplacePolicy is PutPolicyVersion as long as the newest version is the given one (0: there has never been one).
// ErrStale if it is not.
func (s *Store) ReplacePolicy(ctx context.Context, v tailnet.PolicyVersion, newest uint64) (*tailnet.PolicyVersion, error) {
	return s.putPolicy(ctx, v, &newest)
}

func (s *Store) putPolicy(ctx context.Context, v tailnet.PolicyVersion, over *uint64) (*tailnet.PolicyVersion, error) {
	v.TailnetID = s.orDefault(v.TailnetID)
	err := checkText(v.Text, maxPolicy)
	for _, text := range []string{v.Source, v.Author, v.Origin, v.Note} {
		err = errors.Join(err, checkText(text, longText))
	}
	if err != nil {
		return nil, fmt.Errorf("putting policy: %w", err)
	}
	var version *tailnet.PolicyVersion
	err = s.write(ctx, func(t *tx) (err error) {
		if _, err := t.tailnet(v.TailnetID); err != nil {
			return err
		}
		former, err := newestPolicy(t.look(), v.TailnetID)
		if err == nil && over != nil && (former == nil && *over != 0 || former != nil && former.ID != *over) {
			return fmt.Errorf("%w: the policy was changed meanwhile: read it again", tailnet.ErrStale)
		}
		if version = former; err != nil || version != nil && version.Text == v.Text {
			return err
		}
		fresh := v
		version = &fresh
		version.ID, version.CreatedAt = 0, t.now
		if err := t.edit().Create(version).Error; err != nil {
			return err
		}
		t.changed(v.TailnetID, kindPolicy, version.ID)
		return t.auditPolicy(former, version)
	})
	if err != nil {
		return nil, fmt.Errorf("putting policy of tailnet %d: %w", v.TailnetID, err)
	}
	return version, nil
}

// toldPolicy is how long a policy may be, in bytes, that webhooks are told word by word.
const toldPolicy = 64 << 10

// auditPolicy tells of a policy that came into force. The log has the hash of its text; the text itself is kept as a
// version.
func (t *tx) auditPolicy(was, is *tailnet.PolicyVersion) error {
	r := record{tailnet: is.TailnetID, action: "policy.set", kind: kindPolicy, id: is.ID, became: factsOfPolicy(is), tell: map[string]string{}}
	if len(is.Text) <= toldPolicy {
		r.tell["newPolicy"] = is.Text
	}
	if was != nil {
		r.was = factsOfPolicy(was)
		if len(was.Text) <= toldPolicy {
			r.tell["oldPolicy"] = was.Text
		}
	}
	return t.audit(r)
}

func factsOfPolicy(v *tailnet.PolicyVersion) policyFacts {
	sum := sha256.Sum256([]byte(v.Text))
	return policyFacts{Version: v.ID, SHA256: hex.EncodeToString(sum[:]), Source: v.Source, Origin: v.Origin, Note: v.Note}
}

// GetPolicy returns the policy in force in a tailnet (zero: default), nil if there has never been one.
func (s *Store) GetPolicy(ctx context.Context, id tailnet.ID) (*tailnet.PolicyVersion, error) {
	version, err := newestPolicy(s.orm.WithContext(ctx), s.orDefault(id))
	if err != nil {
		return nil, fmt.Errorf("reading policy of tailnet %d: %w", id, s.engine.explain(err))
	}
	return version, nil
}

// GetPolicyVersion returns one version of a tailnet's policy (zero: default). ErrNotFound if the tailnet has no such one.
func (s *Store) GetPolicyVersion(ctx context.Context, id tailnet.ID, version uint64) (*tailnet.PolicyVersion, error) {
	var v tailnet.PolicyVersion
	err := s.orm.WithContext(ctx).Where("tailnet_id = ? AND id = ?", int64(s.orDefault(id)), int64(version)).Take(&v).Error
	if errors.Is(err, gorm.ErrRecordNotFound) {
		return nil, fmt.Errorf("policy version %d: %w: see headscale policy history", version, tailnet.ErrNotFound)
	}
	if err != nil {
		return nil, fmt.Errorf("reading policy version %d: %w", version, s.engine.explain(err))
	}
	return &v, nil
}

// PolicyHistory returns the newest versions of a tailnet's policy (zero: default), at most limit, newest first and
// without their texts.
func (s *Store) PolicyHistory(ctx context.Context, id tailnet.ID, limit int) ([]*tailnet.PolicyVersion, error) {
	var versions []*tailnet.PolicyVersion
	err := s.orm.WithContext(ctx).Omit("text").Where("tailnet_id = ?", int64(s.orDefault(id))).Order("id DESC").Limit(limit).Find(&versions).Error
	if err != nil {
		return nil, fmt.Errorf("listing policies of tailnet %d: %w", id, s.engine.explain(err))
	}
	return versions, nil
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
