package store

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/keelscale/keelscale/hscontrol/tailnet"
)

// changeNode loads a node, has it changed, writes it if it differs, and elects primary routes if it has or had any to
// serve.
func (s *Store) changeNode(ctx context.Context, act string, id tailnet.NodeID, change func(*tx, *tailnet.Node) error) (*tailnet.Node, error) {
	var n *tailnet.Node
	err := s.write(ctx, func(t *tx) (err error) {
		if n, err = t.node(id); err != nil {
			return err
		}
		before := *n
		if err := change(t, n); err != nil {
			return err
		}
		if len(n.ApprovedRoutes) == 0 {
			n.PrimaryRoutes = nil
		}
		if changed, err := t.updateNode(&before, n); err != nil || !changed {
			return err
		}
		if err := t.auditNode(actionOf(act, tailnet.ActorOf(ctx)), &before, n); err != nil {
			return err
		}
		n, err = t.settle(n, len(before.ApprovedRoutes) > 0)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("%s node %d: %w", act, id, err)
	}
	return n, nil
}

// actionOf is what the audit log calls a change of a node. A node that expires its own key logs out.
func actionOf(act string, by tailnet.Actor) string {
	switch act {
	case "renaming":
		return "node.rename"
	case "tagging":
		return "node.tags"
	case "moving":
		return "node.move"
	case "expiring":
		if by.Via == tailnet.ViaControl {
			return "node.logout"
		}
		return "node.expire"
	case "approving routes of":
		return "node.routes"
	case "authorizing":
		return "node.approve"
	case "taking the authorization of":
		return "node.unapprove"
	case "setting addresses of", "choosing an address of":
		return "node.addresses"
	}
	return "node.update"
}

// RenameNode gives a node a name and pins it: the host name does not change it any more. ErrExists if it is taken.
func (s *Store) RenameNode(ctx context.Context, id tailnet.NodeID, name string) (*tailnet.Node, error) {
	return s.changeNode(ctx, "renaming", id, func(_ *tx, n *tailnet.Node) error {
		n.GivenName, n.NamePinned = name, true
		return tailnet.ValidateGivenName(name)
	})
}

// SetNodeTags replaces the tags of a node, which thereby has no owner and no expiry.
func (s *Store) SetNodeTags(ctx context.Context, id tailnet.NodeID, tags []string) (*tailnet.Node, error) {
	return s.changeNode(ctx, "tagging", id, func(_ *tx, n *tailnet.Node) error {
		if len(tags) == 0 {
			return fmt.Errorf("%w: a node cannot lose all its tags this way: move it to a user", tailnet.ErrInvalid)
		}
		checked, err := checkTags(tags)
		if err != nil {
			return err
		}
		if !n.IsTagged() {
			n.Expiry = nil
		}
		n.Tags, n.UserID = checked, 0
		return nil
	})
}

// MoveNode makes a user of the same tailnet the owner of a node, which thereby loses its tags.
func (s *Store) MoveNode(ctx context.Context, id tailnet.NodeID, user tailnet.UserID) (*tailnet.Node, error) {
	return s.changeNode(ctx, "moving", id, func(t *tx, n *tailnet.Node) error {
		u, err := t.user(user)
		if err != nil {
			return err
		}
		if u.TailnetID != n.TailnetID {
			return fmt.Errorf("%w: user %q is in another tailnet: log the node out and in again there", tailnet.ErrInvalid, u.Name)
		}
		n.UserID, n.Tags = user, nil
		return nil
	})
}

// ExpireNode sets when the key of a node expires; nil: never.
func (s *Store) ExpireNode(ctx context.Context, id tailnet.NodeID, at *time.Time) (*tailnet.Node, error) {
	return s.changeNode(ctx, "expiring", id, func(_ *tx, n *tailnet.Node) error {
		n.Expiry = storableTime(at)
		return nil
	})
}

// DeleteNode deletes a node and its session. Its name and addresses are free again.
func (s *Store) DeleteNode(ctx context.Context, id tailnet.NodeID) error {
	err := s.write(ctx, func(t *tx) error {
		n, err := t.node(id)
		if err != nil {
			return err
		}
		return t.removeNode(n)
	})
	if err != nil {
		return fmt.Errorf("deleting node %d: %w", id, err)
	}
	return nil
}

func (t *tx) removeNode(n *tailnet.Node) error {
	if _, err := t.tailnet(n.TailnetID); err != nil {
		return err
	}
	if len(n.ApprovedRoutes) > 0 {
		t.elect[n.TailnetID] = true
	}
	if err := t.auditNode("node.delete", n, nil); err != nil {
		return err
	}
	return t.deleteNode(n)
}

// ReapEphemeral deletes the ephemeral nodes that have no session and were last seen before offlineSince, or made
// before it and never seen. It returns their IDs.
func (s *Store) ReapEphemeral(ctx context.Context, offlineSince time.Time) ([]tailnet.NodeID, error) {
	const idle = `n.ephemeral AND COALESCE(n.last_seen, n.created_at) < ?
		AND NOT EXISTS (SELECT 1 FROM sessions s WHERE s.node_id = n.id)`
	offlineSince = storable(offlineSince)
	found, err := s.readNodes(ctx, idle, offlineSince)
	if err != nil || len(found) == 0 {
		return nil, wrap("reaping ephemeral nodes", err)
	}
	var reaped []tailnet.NodeID
	err = s.write(ctx, func(t *tx) error {
		reaped = nil
		for _, f := range found {
			n, err := t.node(f.ID)
			if errors.Is(err, tailnet.ErrNotFound) {
				continue
			}
			if err != nil {
				return err
			}
			if still, err := t.exists("SELECT 1 FROM nodes n WHERE n.id = ? AND "+idle, int64(f.ID), offlineSince); err != nil || !still {
				if err != nil {
					return err
				}
				continue
			}
			if err := t.removeNode(n); err != nil {
				return err
			}
			reaped = append(reaped, n.ID)
		}
		return nil
	})
	return reaped, wrap("reaping ephemeral nodes", err)
}

func wrap(act string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %w", act, err)
}
