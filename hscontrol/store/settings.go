package store

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/keelscale/keelscale/hscontrol/tailnet"
)

// settings are what Tailscale's API changes beside nodes, users and keys: settings of tailnets, attributes of nodes,
// services, invitations, and who was not let in yet.
var settings = []string{
	`CREATE TABLE tailnet_settings (
		tailnet_id {int} PRIMARY KEY REFERENCES tailnets (id) ON DELETE CASCADE, body text NOT NULL, updated_at {time} NOT NULL)`,

	`CREATE TABLE node_attributes (
		node_id {int} NOT NULL REFERENCES nodes (id) ON DELETE CASCADE, name text NOT NULL,
		value text NOT NULL, comment text NOT NULL, expires_at {time}, updated_at {time} NOT NULL,
		PRIMARY KEY (node_id, name)) {norowid}`,

	`CREATE TABLE services (
		tailnet_id {int} NOT NULL REFERENCES tailnets (id) ON DELETE CASCADE, name text NOT NULL,
		ipv4 text, ipv6 text, body text NOT NULL, updated_at {time} NOT NULL,
		PRIMARY KEY (tailnet_id, name)) {norowid}`,
	`CREATE UNIQUE INDEX service_ipv4 ON services (tailnet_id, ipv4)`,
	`CREATE UNIQUE INDEX service_ipv6 ON services (tailnet_id, ipv6)`,

	`CREATE TABLE user_invites (
		id {id}, tailnet_id {int} NOT NULL REFERENCES tailnets (id) ON DELETE CASCADE,
		email text NOT NULL, role text NOT NULL, inviter_id {int} REFERENCES users (id) ON DELETE SET NULL, created_at {time} NOT NULL)`,
	`CREATE UNIQUE INDEX user_invite_email ON user_invites (tailnet_id, email)`,

	`ALTER TABLE nodes ADD COLUMN unauthorized boolean NOT NULL DEFAULT FALSE`,
	`ALTER TABLE users ADD COLUMN status text NOT NULL DEFAULT ''`,
	`ALTER TABLE pre_auth_keys ADD COLUMN preauthorized boolean NOT NULL DEFAULT FALSE`,
}

const selectSettings = "SELECT body FROM tailnet_settings WHERE tailnet_id = ?"

// Settings are what was set for a tailnet (zero: default). Where nothing was, they are zero.
func (s *Store) Settings(ctx context.Context, id tailnet.ID) (*tailnet.Settings, error) {
	id = s.orDefault(id)
	row := s.reads.QueryRowContext(ctx, s.engine.rebind(selectSettings), int64(id))
	set, err := scanSettings(row)
	if err != nil {
		return nil, fmt.Errorf("reading settings of tailnet %d: %w", id, s.engine.explain(err))
	}
	return set, nil
}

func scanSettings(row *sql.Row) (*tailnet.Settings, error) {
	var body string
	set := &tailnet.Settings{}
	err := row.Scan(&body)
	if errors.Is(err, sql.ErrNoRows) {
		return set, nil
	}
	if err != nil {
		return nil, err
	}
	return set, json.Unmarshal([]byte(body), set)
}

// readSettings are those of a tailnet at the moment of a view.
func readSettings(v *view, id tailnet.ID) (*tailnet.Settings, error) {
	set, err := scanSettings(v.conn.QueryRowContext(v.ctx, v.s.engine.rebind(selectSettings), int64(id)))
	if err != nil {
		return nil, fmt.Errorf("reading settings: %w", err)
	}
	return set, nil
}

// settings reads those of a tailnet that is locked.
func (t *tx) settings(id tailnet.ID) (*tailnet.Settings, error) {
	set, err := scanSettings(t.queryRow(selectSettings, int64(id)))
	if err != nil {
		return nil, fmt.Errorf("reading settings: %w", err)
	}
	return set, nil
}

// ChangeSettings has change alter the settings of a tailnet (zero: default), and writes them if they differ. It may be
// called more than once, with settings as they are in the store.
func (s *Store) ChangeSettings(ctx context.Context, id tailnet.ID, change func(*tailnet.Settings) error) (*tailnet.Settings, error) {
	id = s.orDefault(id)
	var set *tailnet.Settings
	err := s.write(ctx, func(t *tx) (err error) {
		tn, err := t.tailnet(id)
		if err != nil {
			return err
		}
		if set, err = t.settings(id); err != nil {
			return err
		}
		was, err := json.Marshal(set)
		if err != nil {
			return err
		}
		before := new(tailnet.Settings)
		if err := json.Unmarshal(was, before); err != nil {
			return err
		}
		if err := change(set); err != nil {
			return err
		}
		if err := set.Validate(); err != nil {
			return err
		}
		is, err := json.Marshal(set)
		if err != nil || string(is) == string(was) {
			return err
		}
		if _, err = t.exec(`INSERT INTO tailnet_settings (tailnet_id, body, updated_at) VALUES (?, ?, ?)
			ON CONFLICT (tailnet_id) DO UPDATE SET body = excluded.body, updated_at = excluded.updated_at`, int64(id), string(is), t.now); err != nil {
			return err
		}
		t.changed(id, kindSettings, uint64(id))
		return t.audit(record{tailnet: id, action: "settings.update", kind: kindSettings, id: uint64(id), name: tn.Name, was: before, became: set})
	})
	if err != nil {
		return nil, fmt.Errorf("changing settings of tailnet %d: %w", id, err)
	}
	return set, nil
}

// AuthorizeNode lets a node in, or keeps it out until it is let in.
func (s *Store) AuthorizeNode(ctx context.Context, id tailnet.NodeID, in bool) (*tailnet.Node, error) {
	act := "authorizing"
	if !in {
		act = "taking the authorization of"
	}
	return s.changeNode(ctx, act, id, func(_ *tx, n *tailnet.Node) error {
		n.Unauthorized = !in
		return nil
	})
}

// UnpinNode gives a node the name of its host again, which it then follows.
func (s *Store) UnpinNode(ctx context.Context, id tailnet.NodeID) (*tailnet.Node, error) {
	return s.changeNode(ctx, "renaming", id, func(t *tx, n *tailnet.Node) error {
		n.NamePinned = false
		return t.nameAfter(n, n.Hostname)
	})
}

// SetUserStatus makes a user tailnet.UserActive, UserSuspended or UserNeedsApproval, if its state is one of from (none:
// any). ErrConflict if it is not, and for the last owner of a tailnet, who stays active.
func (s *Store) SetUserStatus(ctx context.Context, id tailnet.UserID, status string, from ...string) (*tailnet.User, error) {
	return s.rewriteUser(ctx, "setting the state of", id, func(t *tx, u *tailnet.User) error {
		if len(from) > 0 && !slices.Contains(from, u.Status) {
			return fmt.Errorf("%w: user %q is %s", tailnet.ErrConflict, u.Name, stateText(u.Status))
		}
		u.Status = status
		if status != tailnet.UserActive {
			return t.notLastOwner(u)
		}
		return nil
	})
}

func stateText(status string) string {
	switch status {
	case tailnet.UserSuspended:
		return "suspended"
	case tailnet.UserNeedsApproval:
		return "waiting for approval"
	}
	return "active"
}

// SetUserRole gives a user a role. ErrConflict for the last owner of a tailnet, who stays one.
func (s *Store) SetUserRole(ctx context.Context, id tailnet.UserID, role string) (*tailnet.User, error) {
	if err := tailnet.ValidateRole(role); err != nil {
		return nil, fmt.Errorf("setting the role of user %d: %w", id, err)
	}
	return s.rewriteUser(ctx, "setting the role of", id, func(t *tx, u *tailnet.User) error {
		if u.Role == role || u.Role == "" && role == "member" {
			return nil
		}
		if err := t.notLastOwner(u); err != nil {
			return err
		}
		u.Role = role
		return nil
	})
}

// RemoveUser deletes a user with all nodes and keys. ErrConflict for the last owner of a tailnet.
func (s *Store) RemoveUser(ctx context.Context, id tailnet.UserID) error {
	return s.deleteUser(ctx, id, true)
}

func (t *tx) removeNodesOf(id tailnet.UserID) error {
	u, err := t.user(id)
	if err != nil {
		return err
	}
	if err := t.notLastOwner(u); err != nil {
		return err
	}
	nodes, err := t.nodesWhere("n.user_id = ? ORDER BY n.id", int64(id))
	if err != nil {
		return err
	}
	for _, n := range nodes {
		if err := t.removeNode(n); err != nil {
			return err
		}
	}
	return nil
}

// notLastOwner refuses what would leave a tailnet that has an owner without one.
func (t *tx) notLastOwner(u *tailnet.User) error {
	if u.Role != "owner" {
		return nil
	}
	other, err := t.exists("SELECT 1 FROM users WHERE tailnet_id = ? AND role = 'owner' AND status = '' AND id <> ?", int64(u.TailnetID), int64(u.ID))
	if err == nil && !other {
		err = fmt.Errorf("%w: user %q is the last owner: make somebody else one first", tailnet.ErrConflict, u.Name)
	}
	return err
}
