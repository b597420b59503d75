package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"

	"gorm.io/gorm"

	"github.com/keelscale/keelscale/hscontrol/tailnet"
)

// KeyFilter chooses pre-auth keys; zero fields choose all.
type KeyFilter struct {
	TailnetID tailnet.ID
	UserID    tailnet.UserID
	IDs       []tailnet.KeyID // nil: all
	After     tailnet.KeyID   // those that are younger
	Limit     int             // 0: all
}

// maxTags is how many tags a key or a node may have.
const maxTags = 100

// CreatePreAuthKey makes a key for a user, for tags, or both, and its secret, which is told only now.
func (s *Store) CreatePreAuthKey(ctx context.Context, k tailnet.PreAuthKey) (*tailnet.PreAuthKey, tailnet.Secret, error) {
	row, secret, err := s.createPreAuthKey(ctx, k)
	if err != nil {
		return nil, tailnet.Secret{}, fmt.Errorf("creating pre-auth key: %w", err)
	}
	return row, secret, nil
}

func (s *Store) createPreAuthKey(ctx context.Context, k tailnet.PreAuthKey) (*tailnet.PreAuthKey, tailnet.Secret, error) {
	tags, err := checkTags(k.Tags)
	if err != nil {
		return nil, tailnet.Secret{}, err
	}
	if k.UserID == 0 && len(tags) == 0 {
		return nil, tailnet.Secret{}, fmt.Errorf("%w: a key needs a user or tags", tailnet.ErrInvalid)
	}
	if err := checkText(k.Description, longText); err != nil {
		return nil, tailnet.Secret{}, fmt.Errorf("description: %w", err)
	}
	secret, err := tailnet.NewSecret(tailnet.AuthKeySecret, s.cfg.Rand)
	if err != nil {
		return nil, tailnet.Secret{}, err
	}
	var row *tailnet.PreAuthKey
	err = s.write(ctx, func(t *tx) error {
		row = &tailnet.PreAuthKey{
			TailnetID: k.TailnetID, UserID: k.UserID, Prefix: secret.Prefix, Hash: secret.Hash(), Description: k.Description,
			Reusable: k.Reusable, Ephemeral: k.Ephemeral, Preauthorized: k.Preauthorized, Tags: tags, Expiration: storableTime(k.Expiration), CreatedAt: t.now,
		}
		if at := storable(k.CreatedAt); !k.CreatedAt.IsZero() && at.Before(t.now) {
			row.CreatedAt = at // when it was asked for, from which its expiration counts
		}
		if err := t.placeKey(row); err != nil {
			return err
		}
		if err := t.edit().Create(row).Error; err != nil {
			return err
		}
		return t.auditKey("authkey.create", nil, row)
	})
	return row, secret, err
}

// placeKey says in which tailnet a key is: its user's, the given one, or default.
func (t *tx) placeKey(k *tailnet.PreAuthKey) error {
	if k.UserID != 0 {
		u, err := t.user(k.UserID)
		if err != nil {
			return err
		}
		if k.TailnetID != 0 && k.TailnetID != u.TailnetID {
			return fmt.Errorf("%w: user %q is not in tailnet %d", tailnet.ErrInvalid, u.Name, k.TailnetID)
		}
		k.TailnetID = u.TailnetID
	}
	k.TailnetID = t.s.orDefault(k.TailnetID)
	_, err := t.tailnet(k.TailnetID)
	return err
}

// checkTags returns tags sorted and each once.
func checkTags(tags []string) ([]string, error) {
	if len(tags) > maxTags {
		return nil, fmt.Errorf("%w tags: %d, at most %d", tailnet.ErrTooMany, len(tags), maxTags)
	}
	for _, tag := range tags {
		if err := tailnet.ValidateTag(tag); err != nil {
			return nil, err
		}
	}
	tags = slices.Clone(tags)
	slices.Sort(tags)
	return slices.Compact(tags), nil
}

const selectKeys = "SELECT id, tailnet_id, user_id, prefix, hash, description, reusable, ephemeral, preauthorized, used, tags, expiration, created_at FROM pre_auth_keys"

// ListPreAuthKeys returns the keys that the filter chooses, oldest first.
func (s *Store) ListPreAuthKeys(ctx context.Context, f KeyFilter) ([]*tailnet.PreAuthKey, error) {
	where, args := f.where()
	query := selectKeys + where + " ORDER BY id"
	if f.Limit > 0 {
		query, args = query+" LIMIT ?", append(args, f.Limit)
	}
	rows, err := s.reads.QueryContext(ctx, s.engine.rebind(query), args...)
	if err != nil {
		return nil, fmt.Errorf("listing pre-auth keys: %w", s.engine.explain(err))
	}
	keys, err := scanKeys(rows)
	if err != nil {
		return nil, fmt.Errorf("listing pre-auth keys: %w", s.engine.explain(err))
	}
	return keys, nil
}

func (f *KeyFilter) where() (string, []any) {
	var where []string
	var args []any
	add := func(condition string, values ...any) {
		where, args = append(where, condition), append(args, values...)
	}
	if f.TailnetID != 0 {
		add("tailnet_id = ?", int64(f.TailnetID))
	}
	if f.UserID != 0 {
		add("user_id = ?", int64(f.UserID))
	}
	if len(f.IDs) > 0 {
		add("id IN ("+marks(len(f.IDs))+")", signed(f.IDs)...)
	} else if f.IDs != nil {
		add("1 = 0") // none of them
	}
	if f.After != 0 {
		add("id > ?", int64(f.After))
	}
	if len(where) == 0 {
		return "", nil
	}
	return " WHERE " + strings.Join(where, " AND "), args
}

func scanKeys(rows *sql.Rows) (keys []*tailnet.PreAuthKey, err error) {
	defer rows.Close()
	for rows.Next() {
		k := &tailnet.PreAuthKey{}
		if err := rows.Scan(number(&k.ID), number(&k.TailnetID), ref(&k.UserID), &k.Prefix, &k.Hash, &k.Description,
			flag(&k.Reusable), flag(&k.Ephemeral), flag(&k.Preauthorized), flag(&k.Used), list(&k.Tags), maybe(&k.Expiration), instant(&k.CreatedAt)); err != nil {
			return nil, badRow("pre_auth_keys", uint64(k.ID), err)
		}
		keys = append(keys, k)
	}
	return keys, rows.Err()
}

// keptKeys is how many pre-auth keys are kept in memory.
const keptKeys = 10_000

// PreAuthKeys finds keys by their IDs; those that are not there are nil. They are shared, and are read again only after
// a key was used, ended or deleted; one that did not change is the same pointer then.
func (s *Store) PreAuthKeys(ctx context.Context, ids []tailnet.KeyID) (map[tailnet.KeyID]*tailnet.PreAuthKey, error) {
	mark, err := s.Mark(ctx, TopicKeys)
	if err != nil {
		return nil, err
	}
	keys := s.keys.get(mark, ids...)
	if len(keys) == len(ids) {
		return keys, nil
	}
	former := s.keys.former(ids...)
	missing := slices.DeleteFunc(slices.Clone(ids), func(id tailnet.KeyID) bool { _, there := keys[id]; return there })
	for some := range slices.Chunk(missing, idsPerQuery) {
		rows, err := s.ListPreAuthKeys(ctx, KeyFilter{IDs: some})
		if err != nil {
			return nil, err
		}
		for _, id := range some {
			keys[id] = nil
		}
		for _, k := range rows {
			if was := former[k.ID]; was != nil && reflect.DeepEqual(was, k) {
				k = was
			}
			keys[k.ID] = k
		}
	}
	s.keys.put(mark, keys, keptKeys)
	return keys, nil
}

// ExpirePreAuthKey ends a key now. One that has expired stays as it is.
func (s *Store) ExpirePreAuthKey(ctx context.Context, id tailnet.KeyID) error {
	err := s.write(ctx, func(t *tx) error {
		return t.endKey("authkey.expire", id, t.expireKey)
	})
	if err != nil {
		return fmt.Errorf("expiring pre-auth key %d: %w", id, err)
	}
	return nil
}

// endKey ends a pre-auth key, and tells the audit log what it was.
func (t *tx) endKey(action string, id tailnet.KeyID, end func(table string, id tailnet.KeyID) error) error {
	var k tailnet.PreAuthKey
	if err := t.look().Take(&k, "id = ?", int64(id)).Error; err != nil && !errors.Is(err, gorm.ErrRecordNotFound) {
		return err
	}
	if err := end("pre_auth_keys", id); err != nil || action == "authkey.expire" && k.Expiration != nil && !k.Expiration.After(t.now) {
		return err
	}
	return t.auditKey(action, &k, nil)
}

// auditKey is auditNode for pre-auth keys.
func (t *tx) auditKey(action string, was, became *tailnet.PreAuthKey) error {
	r, k := changed(action, kindAuthKey, was, became, factsOfKey)
	r.tailnet, r.id, r.name = k.TailnetID, uint64(k.ID), k.Prefix
	return t.audit(r)
}

func (t *tx) expireKey(table string, id tailnet.KeyID) error {
	clear(t.keys)
	if n, err := t.exec("UPDATE "+table+" SET expiration = ? WHERE id = ? AND (expiration IS NULL OR expiration > ?)",
		t.now, int64(id), t.now); err != nil || n > 0 {
		return err
	}
	there, err := t.exists("SELECT 1 FROM "+table+" WHERE id = ?", int64(id))
	if err == nil && !there {
		err = tailnet.ErrNotFound
	}
	return err
}

// DeletePreAuthKey deletes a key. Nodes that it let in stay.
func (s *Store) DeletePreAuthKey(ctx context.Context, id tailnet.KeyID) error {
	err := s.write(ctx, func(t *tx) error { return t.endKey("authkey.delete", id, t.deleteKey) })
	if err != nil {
		return fmt.Errorf("deleting pre-auth key %d: %w", id, err)
	}
	return nil
}

func (t *tx) deleteKey(table string, id tailnet.KeyID) error {
	clear(t.keys)
	n, err := t.exec("DELETE FROM "+table+" WHERE id = ?", int64(id))
	if err == nil && n == 0 {
		err = tailnet.ErrNotFound
	}
	return err
}

// FindPreAuthKey finds a key by its whole secret, by what String shows of it, or by its prefix alone.
func (s *Store) FindPreAuthKey(ctx context.Context, secretOrPrefix string) (*tailnet.PreAuthKey, error) {
	prefix := strings.TrimPrefix(strings.TrimSpace(secretOrPrefix), string(tailnet.AuthKeySecret)+"-")
	prefix, body, _ := strings.Cut(prefix, "-")
	k, err := findPreAuthKey(s.orm.WithContext(ctx), prefix)
	if err != nil {
		return nil, fmt.Errorf("finding pre-auth key: %w", s.engine.explain(err))
	}
	if body == "" || strings.Trim(body, "*") == "" {
		return k, nil
	}
	if secret, err := tailnet.ParseSecret(tailnet.AuthKeySecret, strings.TrimSpace(secretOrPrefix)); err != nil || !secret.Matches(k.Hash) {
		return nil, fmt.Errorf("finding pre-auth key: %w", errNoSuchKey)
	}
	return k, nil
}

var errNoSuchKey = fmt.Errorf("%w: see headscale preauthkeys list", tailnet.ErrNotFound)

func findPreAuthKey(db *gorm.DB, prefix string) (*tailnet.PreAuthKey, error) {
	var k tailnet.PreAuthKey
	err := db.Take(&k, "prefix = ?", prefix).Error
	if errors.Is(err, gorm.ErrRecordNotFound) {
		return nil, errNoSuchKey
	}
	return &k, err
}
