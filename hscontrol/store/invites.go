package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"

	"github.com/keelscale/keelscale/hscontrol/tailnet"
)

// maxInvites is how many invitations a tailnet may have open.
const maxInvites = 1000

const selectInvites = "SELECT id, tailnet_id, email, role, inviter_id, created_at FROM user_invites WHERE "

// ListUserInvites returns the open invitations to a tailnet, oldest first.
func (s *Store) ListUserInvites(ctx context.Context, id tailnet.ID) ([]*tailnet.UserInvite, error) {
	rows, err := s.reads.QueryContext(ctx, s.engine.rebind(selectInvites+"tailnet_id = ? ORDER BY id"), int64(id))
	if err != nil {
		return nil, fmt.Errorf("listing invitations: %w", s.engine.explain(err))
	}
	defer rows.Close()
	var list []*tailnet.UserInvite
	for rows.Next() {
		i, err := scanInvite(rows.Scan)
		if err != nil {
			return nil, fmt.Errorf("listing invitations: %w", err)
		}
		list = append(list, i)
	}
	return list, rows.Err()
}

// GetUserInvite returns an invitation by its ID. ErrNotFound if there is none, or it was taken up.
func (s *Store) GetUserInvite(ctx context.Context, id uint64) (*tailnet.UserInvite, error) {
	i, err := scanInvite(s.reads.QueryRowContext(ctx, s.engine.rebind(selectInvites+"id = ?"), int64(id)).Scan)
	if errors.Is(err, sql.ErrNoRows) {
		err = tailnet.ErrNotFound
	}
	if err != nil {
		return nil, fmt.Errorf("finding invitation %d: %w", id, s.engine.explain(err))
	}
	return i, nil
}

func scanInvite(scan func(...any) error) (*tailnet.UserInvite, error) {
	var i tailnet.UserInvite
	err := scan(number(&i.ID), number(&i.TailnetID), &i.Email, &i.Role, ref(&i.InviterID), instant(&i.CreatedAt))
	return &i, err
}

// InviteUser opens a tailnet to whoever logs in with a mail address, with a role. ErrExists if the address is invited
// already.
func (s *Store) InviteUser(ctx context.Context, i tailnet.UserInvite) (*tailnet.UserInvite, error) {
	i.Email = strings.ToLower(i.Email)
	err := errors.Join(tailnet.ValidateRole(i.Role), checkText(i.Email, longText))
	if at := strings.IndexByte(i.Email, '@'); at < 1 || at == len(i.Email)-1 {
		err = errors.Join(err, fmt.Errorf("%w: %q is not a mail address", tailnet.ErrInvalid, i.Email))
	}
	if err != nil {
		return nil, fmt.Errorf("inviting: %w", err)
	}
	err = s.write(ctx, func(t *tx) error {
		if _, err := t.tailnet(i.TailnetID); err != nil {
			return err
		}
		var many int
		if err := t.queryRow("SELECT COUNT(*) FROM user_invites WHERE tailnet_id = ?", int64(i.TailnetID)).Scan(&many); err != nil {
			return err
		}
		if many >= maxInvites {
			return fmt.Errorf("%w invitations: %d are open: delete some", tailnet.ErrTooMany, many)
		}
		i.CreatedAt = t.now
		id, err := t.insert("INSERT INTO user_invites (tailnet_id, email, role, inviter_id, created_at) VALUES (?, ?, ?, ?, ?)"+orNothing,
			int64(i.TailnetID), i.Email, i.Role, ref(&i.InviterID), t.now)
		if err != nil {
			return err
		}
		if i.ID = uint64(id); id == 0 {
			return fmt.Errorf("%w: %s is invited already", tailnet.ErrExists, i.Email)
		}
		return t.audit(record{tailnet: i.TailnetID, action: "invite.create", kind: "invite", id: i.ID, name: i.Email, became: map[string]string{"role": i.Role}})
	})
	if err != nil {
		return nil, fmt.Errorf("inviting %s: %w", i.Email, err)
	}
	return &i, nil
}

// DeleteUserInvite takes an invitation back. ErrNotFound if there is none.
func (s *Store) DeleteUserInvite(ctx context.Context, id uint64) error {
	err := s.write(ctx, func(t *tx) error {
		i, err := scanInvite(t.queryRow(selectInvites+"id = ?", int64(id)).Scan)
		if errors.Is(err, sql.ErrNoRows) {
			return tailnet.ErrNotFound
		}
		if err != nil {
			return err
		}
		if _, err := t.exec("DELETE FROM user_invites WHERE id = ?", int64(id)); err != nil {
			return err
		}
		return t.audit(record{tailnet: i.TailnetID, action: "invite.delete", kind: "invite", id: id, name: i.Email, was: map[string]string{"role": i.Role}})
	})
	if err != nil {
		return fmt.Errorf("deleting invitation %d: %w", id, err)
	}
	return nil
}

// admit settles how a user who logs in for the first time begins: invited ones with the role of the invitation, which
// is then used up; others wait for approval where the tailnet asks for it.
func (t *tx) admit(u *tailnet.User) error {
	if u.ProviderIdentifier == "" {
		return nil // an administrator makes the user
	}
	if u.Email != "" {
		i, err := scanInvite(t.queryRow(selectInvites+"tailnet_id = ? AND email = ?", int64(u.TailnetID), strings.ToLower(u.Email)).Scan)
		if err == nil {
			u.Role = i.Role
			_, err := t.exec("DELETE FROM user_invites WHERE id = ?", int64(i.ID))
			return err
		}
		if !errors.Is(err, sql.ErrNoRows) {
			return err
		}
	}
	set, err := t.settings(u.TailnetID)
	if err == nil && set.UsersApproval {
		u.Status = tailnet.UserNeedsApproval
	}
	return err
}
