package store

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"

	"gorm.io/gorm"

	"github.com/keelscale/keelscale/hscontrol/tailnet"
)

// UserFilter chooses users; zero fields choose all.
type UserFilter struct {
	TailnetID          tailnet.ID
	ID                 tailnet.UserID
	Name               string
	Email              string // in any letter case
	ProviderIdentifier string
}

// CreateUser makes a user of u.TailnetID (zero: default). ErrExists if the name, or the identity at the provider, is
// taken in that tailnet.
func (s *Store) CreateUser(ctx context.Context, u tailnet.User) (*tailnet.User, error) {
	u.TailnetID = s.orDefault(u.TailnetID)
	if err := checkUser(&u); err != nil {
		return nil, fmt.Errorf("creating user: %w", err)
	}
	var row *tailnet.User
	err := s.write(ctx, func(t *tx) error {
		if _, err := t.tailnet(u.TailnetID); err != nil {
			return err
		}
		fresh := u
		row = &fresh
		row.ID, row.CreatedAt, row.UpdatedAt = 0, t.now, t.now
		if err := t.admit(row); err != nil {
			return err
		}
		if err := t.edit().Create(row).Error; err != nil {
			return t.userFault(row, err)
		}
		t.changed(row.TailnetID, kindUser, uint64(row.ID))
		return t.auditUser("user.create", nil, row)
	})
	if err != nil {
		return nil, fmt.Errorf("creating user %q: %w", u.Name, err)
	}
	return row, nil
}

// UpdateUser writes display name, e-mail, picture, provider, identity and role of the user u.ID, and nothing else. If
// they are what they were nothing is written.
func (s *Store) UpdateUser(ctx context.Context, u tailnet.User) (*tailnet.User, error) {
	return s.changeUser(ctx, "updating", u.ID, func(row *tailnet.User) error {
		row.DisplayName, row.Email, row.ProfilePicURL = u.DisplayName, u.Email, u.ProfilePicURL
		row.Provider, row.ProviderIdentifier, row.Role = u.Provider, u.ProviderIdentifier, u.Role
		return checkUser(row)
	})
}

// RenameUser gives a user another name. ErrExists if it is taken.
func (s *Store) RenameUser(ctx context.Context, id tailnet.UserID, name string) (*tailnet.User, error) {
	return s.changeUser(ctx, "renaming", id, func(row *tailnet.User) error {
		row.Name = name
		return checkUser(row)
	})
}

func (s *Store) changeUser(ctx context.Context, act string, id tailnet.UserID, change func(*tailnet.User) error) (*tailnet.User, error) {
	return s.rewriteUser(ctx, act, id, func(_ *tx, u *tailnet.User) error { return change(u) })
}

// rewriteUser is changeUser for changes that look at more than the user.
func (s *Store) rewriteUser(ctx context.Context, act string, id tailnet.UserID, change func(*tx, *tailnet.User) error) (*tailnet.User, error) {
	var row *tailnet.User
	err := s.write(ctx, func(t *tx) (err error) {
		if row, err = t.user(id); err != nil {
			return err
		}
		before := *row
		if err := change(t, row); err != nil || *row == before {
			return err
		}
		row.UpdatedAt = t.now
		if err := t.edit().Save(row).Error; err != nil {
			return t.userFault(row, err)
		}
		t.changed(row.TailnetID, kindUser, uint64(id))
		return t.auditUser(userAction(&before, row), &before, row)
	})
	if err != nil {
		return nil, fmt.Errorf("%s user %d: %w", act, id, err)
	}
	return row, nil
}

// userAction is what the audit log calls a change of a user.
func userAction(was, is *tailnet.User) string {
	switch {
	case was.Name != is.Name:
		return "user.rename"
	case was.Role != is.Role:
		return "user.role"
	case was.Status == is.Status:
		return "user.update"
	case is.Status == tailnet.UserSuspended:
		return "user.suspend"
	case was.Status == tailnet.UserSuspended:
		return "user.restore"
	case was.Status == tailnet.UserNeedsApproval:
		return "user.approve"
	}
	return "user.update"
}

// ListUsers returns the users that the filter chooses, in the order in which they were made.
func (s *Store) ListUsers(ctx context.Context, f UserFilter) ([]*tailnet.User, error) {
	users, err := listUsers(s.orm.WithContext(ctx), f)
	if err != nil {
		return nil, fmt.Errorf("listing users: %w", s.engine.explain(err))
	}
	return users, nil
}

func listUsers(db *gorm.DB, f UserFilter) (users []*tailnet.User, err error) {
	q := db.Order("id")
	if f.TailnetID != 0 {
		q = q.Where("tailnet_id = ?", int64(f.TailnetID))
	}
	if f.ID != 0 {
		q = q.Where("id = ?", int64(f.ID))
	}
	if f.Name != "" {
		q = q.Where("name = ?", f.Name)
	}
	if f.Email != "" {
		q = q.Where("lower(email) = lower(?)", f.Email)
	}
	if f.ProviderIdentifier != "" {
		q = q.Where("provider_identifier = ?", f.ProviderIdentifier)
	}
	return users, q.Find(&users).Error
}

// FindUser finds the one user that ref means, in a tailnet or, for zero, in all: "12" is an ID if there is such a
// user, else a name; "id=12" and "name=12" leave no doubt; anything else is a name or an e-mail address.
func (s *Store) FindUser(ctx context.Context, id tailnet.ID, ref string) (*tailnet.User, error) {
	users, err := s.usersMeant(ctx, id, ref)
	if err != nil {
		return nil, fmt.Errorf("finding user %q: %w", ref, err)
	}
	switch len(users) {
	case 0:
		return nil, fmt.Errorf("finding user %q: %w: see headscale users list", ref, tailnet.ErrNotFound)
	case 1:
		return users[0], nil
	}
	var choices []string
	for _, u := range users {
		choices = append(choices, fmt.Sprintf("id=%d (%s in tailnet %d)", u.ID, u.LoginName(), u.TailnetID))
	}
	return nil, fmt.Errorf("finding user %q: %w: it may be %s: name one by its ID", ref, tailnet.ErrConflict, strings.Join(choices, " or "))
}

func (s *Store) usersMeant(ctx context.Context, id tailnet.ID, ref string) ([]*tailnet.User, error) {
	digits, forced := strings.CutPrefix(ref, "id=")
	number, err := strconv.ParseUint(digits, 10, 63)
	if forced && err != nil {
		return nil, fmt.Errorf("%w: write id= and a number", tailnet.ErrInvalid)
	}
	if err == nil && number > 0 {
		users, err := s.ListUsers(ctx, UserFilter{TailnetID: id, ID: tailnet.UserID(number)})
		if forced || err != nil || len(users) > 0 {
			return users, err
		}
	}
	name, byName := strings.CutPrefix(ref, "name=")
	if name == "" || forced {
		return nil, nil
	}
	users, err := s.ListUsers(ctx, UserFilter{TailnetID: id, Name: name})
	if err != nil || byName {
		return users, err
	}
	mailed, err := s.ListUsers(ctx, UserFilter{TailnetID: id, Email: name})
	if err != nil {
		return nil, err
	}
	for _, m := range mailed {
		if m.Name != name { // else it is among users already
			users = append(users, m)
		}
	}
	return users, nil
}

// DeleteUser deletes a user and its keys. ErrConflict while it owns nodes.
func (s *Store) DeleteUser(ctx context.Context, id tailnet.UserID) error {
	return s.deleteUser(ctx, id, false)
}

func (s *Store) deleteUser(ctx context.Context, id tailnet.UserID, nodesToo bool) error {
	err := s.write(ctx, func(t *tx) error {
		u, err := t.user(id)
		if err != nil {
			return err
		}
		if nodesToo {
			if err := t.removeNodesOf(id); err != nil {
				return err
			}
		}
		var nodes int64
		if err := t.queryRow("SELECT COUNT(*) FROM nodes WHERE user_id = ?", int64(id)).Scan(&nodes); err != nil {
			return err
		}
		if nodes > 0 {
			return fmt.Errorf("%w: %q still has %d nodes: move them to another user or delete them first", tailnet.ErrConflict, u.Name, nodes)
		}
		clear(t.keys)
		for _, statement := range []string{"DELETE FROM pre_auth_keys WHERE user_id = ?", "DELETE FROM api_keys WHERE user_id = ?",
			"DELETE FROM oauth_clients WHERE user_id = ?", "DELETE FROM users WHERE id = ?"} {
			if _, err := t.exec(statement, int64(id)); err != nil {
				return err
			}
		}
		t.changed(u.TailnetID, kindUser, uint64(id))
		return t.auditUser("user.delete", u, nil)
	})
	if err != nil {
		return fmt.Errorf("deleting user %d: %w", id, err)
	}
	return nil
}

// user reads a user whose tailnet is locked.
func (t *tx) user(id tailnet.UserID) (*tailnet.User, error) {
	read := func() (*tailnet.User, error) {
		var u tailnet.User
		err := t.look().Take(&u, "id = ?", int64(id)).Error
		if errors.Is(err, gorm.ErrRecordNotFound) {
			return nil, fmt.Errorf("user %d: %w: see headscale users list", id, tailnet.ErrNotFound)
		}
		return &u, err
	}
	u, err := read()
	if err != nil || t.tailnets[u.TailnetID] != nil {
		return u, err
	}
	if _, err := t.tailnet(u.TailnetID); err != nil {
		return nil, err
	}
	if !t.s.engine.shared() {
		return u, nil
	}
	return read()
}

func (t *tx) userFault(u *tailnet.User, err error) error {
	switch unique := t.s.engine.fault(err).unique; {
	case strings.Contains(unique, "provider_identifier"), unique == "user_identity":
		return fmt.Errorf("%w: another user has the same identity at the provider", tailnet.ErrExists)
	case unique != "":
		return fmt.Errorf("user name %q: %w", u.Name, tailnet.ErrExists)
	}
	return err
}

// longText is how long, in bytes, free texts about users and keys may be.
const longText = 1024

func checkUser(u *tailnet.User) error {
	if err := tailnet.ValidateUserName(u.Name); err != nil {
		return fmt.Errorf("%w: %w", tailnet.ErrInvalid, err)
	}
	for _, text := range []string{u.DisplayName, u.Email, u.Provider, u.ProviderIdentifier, u.ProfilePicURL, u.Role} {
		if err := checkText(text, longText); err != nil {
			return fmt.Errorf("user %q: %w", u.Name, err)
		}
	}
	return nil
}

// checkText refuses what one of the engines could not store, and what is too long, in bytes.
func checkText(text string, most int) error {
	if len(text) > most {
		return fmt.Errorf("%w: a text of %d bytes: %d at most", tailnet.ErrInvalid, len(text), most)
	}
	if !utf8.ValidString(text) || strings.ContainsRune(text, 0) {
		return fmt.Errorf("%w: the text %q is not plain UTF-8", tailnet.ErrInvalid, text[:min(len(text), 40)])
	}
	return nil
}
