package store

import (
	"context"
	"fmt"

	"github.com/keelscale/keelscale/hscontrol/tailnet"
)

// RemoveTailnet deletes a tailnet with all that is in it, nodes and users too. ErrConflict while it has relays of its
// own, and for "default".
func (s *Store) RemoveTailnet(ctx context.Context, id tailnet.ID) error {
	err := s.write(ctx, func(t *tx) error {
		row, err := t.tailnet(id)
		if err != nil {
			return err
		}
		if id == s.defaultID {
			return errDefaultStays
		}
		was := *row // which is forgotten with the tailnet
		if err := t.removeAllNodes(id); err != nil {
			return err
		}
		if err := t.removeAllUsers(id); err != nil {
			return err
		}
		if err := t.deleteTailnet(id); err != nil {
			return err
		}
		return t.auditTailnet("tailnet.delete", &was, nil)
	})
	if err != nil {
		return fmt.Errorf("deleting tailnet %d: %w", id, err)
	}
	return nil
}

func (t *tx) removeAllNodes(id tailnet.ID) error {
	nodes, err := t.nodesWhere("n.tailnet_id = ? ORDER BY n.id", int64(id))
	if err != nil {
		return err
	}
	for _, n := range nodes {
		if err := t.removeNode(n); err != nil {
			return err
		}
	}
	delete(t.elect, id) // nobody is left
	return nil
}

// removeAllUsers deletes the users of a tailnet without nodes, with what is theirs.
func (t *tx) removeAllUsers(id tailnet.ID) error {
	var users []tailnet.User
	if err := t.look().Order("id").Find(&users, "tailnet_id = ?", int64(id)).Error; err != nil {
		return err
	}
	clear(t.keys)
	for _, table := range []string{"pre_auth_keys", "api_keys", "oauth_clients"} {
		if _, err := t.exec("DELETE FROM "+table+" WHERE tailnet_id = ?", int64(id)); err != nil {
			return err
		}
	}
	for i := range users {
		if err := t.auditUser("user.delete", &users[i], nil); err != nil {
			return err
		}
	}
	_, err := t.exec("DELETE FROM users WHERE tailnet_id = ?", int64(id))
	return err
}
