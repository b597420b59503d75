package store

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/keelscale/keelscale/hscontrol/tailnet"
)

// Bounds of attributes: how many a node may have, and how long, in bytes, name, value and comment may be.
const (
	maxAttributes     = 200
	maxAttributeText  = 50
	maxAttributeValue = 1024
)

// Attributes are what is known of a node, sorted by name. Those that expired are not among them.
func (s *Store) Attributes(ctx context.Context, id tailnet.NodeID) ([]tailnet.Attribute, error) {
	rows, err := s.reads.QueryContext(ctx, s.engine.rebind(`SELECT name, value, comment, expires_at, updated_at FROM node_attributes
		WHERE node_id = ? AND (expires_at IS NULL OR expires_at > ?) ORDER BY name`), int64(id), s.now())
	if err != nil {
		return nil, fmt.Errorf("reading attributes of node %d: %w", id, s.engine.explain(err))
	}
	defer rows.Close()
	var list []tailnet.Attribute
	for rows.Next() {
		a := tailnet.Attribute{NodeID: id}
		if err := rows.Scan(&a.Name, &a.Value, &a.Comment, maybe(&a.ExpiresAt), instant(&a.UpdatedAt)); err != nil {
			return nil, fmt.Errorf("reading attributes of node %d: %w", id, err)
		}
		list = append(list, a)
	}
	return list, rows.Err()
}

// SetAttribute writes an attribute of a node, in place of one of the same name.
func (s *Store) SetAttribute(ctx context.Context, a tailnet.Attribute) error {
	err := s.write(ctx, func(t *tx) error {
		if err := checkAttribute(&a, t.now); err != nil {
			return err
		}
		n, err := t.node(a.NodeID)
		if err != nil {
			return err
		}
		if _, err := t.exec("DELETE FROM node_attributes WHERE node_id = ? AND (name = ? OR expires_at <= ?)", int64(a.NodeID), a.Name, t.now); err != nil {
			return err
		}
		var many int
		if err := t.queryRow("SELECT COUNT(*) FROM node_attributes WHERE node_id = ?", int64(a.NodeID)).Scan(&many); err != nil {
			return err
		}
		if many >= maxAttributes {
			return fmt.Errorf("%w attributes: a node may have %d at most", tailnet.ErrTooMany, maxAttributes)
		}
		at := storableTime(a.ExpiresAt)
		if _, err := t.exec("INSERT INTO node_attributes (node_id, name, value, comment, expires_at, updated_at) VALUES (?, ?, ?, ?, ?, ?)",
			int64(a.NodeID), a.Name, a.Value, a.Comment, maybe(&at), t.now); err != nil {
			return err
		}
		return t.audit(record{tailnet: n.TailnetID, action: "node.attribute", kind: kindNode, id: uint64(n.ID), name: n.GivenName,
			became: map[string]string{"attribute": a.Name, "value": a.Value, "comment": a.Comment}})
	})
	if err != nil {
		return fmt.Errorf("setting attribute %q of node %d: %w", a.Name, a.NodeID, err)
	}
	return nil
}

func checkAttribute(a *tailnet.Attribute, now time.Time) error {
	if a.ExpiresAt != nil && !a.ExpiresAt.After(now) {
		return fmt.Errorf("%w: its expiry is in the past", tailnet.ErrInvalid)
	}
	if err := checkText(a.Name, maxAttributeText); err != nil {
		return err
	}
	if err := checkText(a.Value, maxAttributeValue); err != nil {
		return err
	}
	if !json.Valid([]byte(a.Value)) {
		return fmt.Errorf("%w: its value is no JSON", tailnet.ErrInvalid)
	}
	return checkText(a.Comment, maxAttributeValue)
}

// DeleteAttribute forgets an attribute. ErrNotFound if the node has none of that name.
func (s *Store) DeleteAttribute(ctx context.Context, id tailnet.NodeID, name string) error {
	err := s.write(ctx, func(t *tx) error {
		n, err := t.node(id)
		if err != nil {
			return err
		}
		gone, err := t.exec("DELETE FROM node_attributes WHERE node_id = ? AND name = ?", int64(id), name)
		if err != nil {
			return err
		}
		if gone == 0 {
			return tailnet.ErrNotFound
		}
		return t.audit(record{tailnet: n.TailnetID, action: "node.attribute", kind: kindNode, id: uint64(n.ID), name: n.GivenName,
			was: map[string]string{"attribute": name}})
	})
	if err != nil {
		return fmt.Errorf("deleting attribute %q of node %d: %w", name, id, err)
	}
	return nil
}
