package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"tailscale.com/tailcfg"
	"tailscale.com/types/key"

	"github.com/keelscale/keelscale/hscontrol/tailnet"
)

// NodeFilter chooses nodes; zero fields choose all.
type NodeFilter struct {
	TailnetID  tailnet.ID
	UserID     tailnet.UserID // tagged nodes have none
	MachineKey key.MachinePublic
	GivenName  string
}

// NodeUpdate is what a map request says of its node.
type NodeUpdate struct {
	Arrived       time.Time       // when the request arrived; zero: now
	DiscoKey      key.DiscoPublic // zero: unchanged
	Endpoints     []netip.AddrPort
	EndpointTypes []tailcfg.EndpointType
	Hostinfo      *tailcfg.Hostinfo         // nil: unchanged; without NetInfo: that is unchanged
	CapVersion    tailcfg.CapabilityVersion // zero: unchanged
}

// ListNodes returns the nodes that the filter chooses, sorted by ID.
func (s *Store) ListNodes(ctx context.Context, f NodeFilter) ([]*tailnet.Node, error) {
	where, args := []string{"1 = 1"}, []any{}
	add := func(condition string, arg any) {
		where, args = append(where, condition), append(args, arg)
	}
	if f.TailnetID != 0 {
		add("n.tailnet_id = ?", int64(f.TailnetID))
	}
	if f.UserID != 0 {
		add("n.user_id = ?", int64(f.UserID))
	}
	if !f.MachineKey.IsZero() {
		add("n.machine_key = ?", text(&f.MachineKey))
	}
	if f.GivenName != "" {
		add("n.given_name = ?", f.GivenName)
	}
	nodes, err := s.readNodes(ctx, strings.Join(where, " AND ")+" ORDER BY n.id", args...)
	if err != nil {
		return nil, fmt.Errorf("listing nodes: %w", err)
	}
	return nodes, nil
}

func (s *Store) readNodes(ctx context.Context, where string, args ...any) ([]*tailnet.Node, error) {
	rows, err := s.reads.QueryContext(ctx, s.engine.rebind(selectNodes+" WHERE "+where), args...)
	if err != nil {
		return nil, s.engine.explain(err)
	}
	nodes, err := scanNodes(rows)
	return nodes, s.engine.explain(err)
}

// GetNode returns the node with that ID.
func (s *Store) GetNode(ctx context.Context, id tailnet.NodeID) (*tailnet.Node, error) {
	return s.readNode(ctx, fmt.Sprintf("node %d", id), "n.id = ?", int64(id))
}

// FindNodeByKey returns the node with that node key.
func (s *Store) FindNodeByKey(ctx context.Context, k key.NodePublic) (*tailnet.Node, error) {
	what := "node with key " + k.ShortString()
	// Of those who ask most are new, and that is told by a short query.
	switch there, err := s.HasNodeKey(ctx, k); {
	case err != nil:
		return nil, fmt.Errorf("reading %s: %w", what, err)
	case !there:
		return nil, notThere(what)
	}
	return s.readNode(ctx, what, "n.node_key = ?", text(&k))
}

// HasNodeKey reports whether any node has that node key.
func (s *Store) HasNodeKey(ctx context.Context, k key.NodePublic) (bool, error) {
	var one int
	err := s.reads.QueryRowContext(ctx, s.engine.rebind("SELECT 1 FROM nodes WHERE node_key = ?"), text(&k)).Scan(&one)
	if errors.Is(err, sql.ErrNoRows) {
		return false, nil
	}
	return err == nil, s.engine.explain(err)
}

func notThere(what string) error {
	return fmt.Errorf("%s: %w: see headscale nodes list", what, tailnet.ErrNotFound)
}

func (s *Store) readNode(ctx context.Context, what, where string, arg any) (*tailnet.Node, error) {
	nodes, err := s.readNodes(ctx, where, arg)
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", what, err)
	}
	if len(nodes) == 0 {
		return nil, notThere(what)
	}
	return nodes[0], nil
}

// UpdateNode writes what a map request said, and reports whether anything differed; if not, nothing is written.
// ErrStale, and nothing written, if a request that arrived later was written before.
func (s *Store) UpdateNode(ctx context.Context, id tailnet.NodeID, u NodeUpdate) (node *tailnet.Node, changed bool, err error) {
	if err := u.check(); err != nil {
		return nil, false, fmt.Errorf("updating node %d: %w", id, err)
	}
	if u.Arrived.IsZero() {
		u.Arrived = s.now()
	}
	u.Arrived = storable(u.Arrived)
	err = s.writeNode(ctx, id, func(t *tx) (err error) {
		node, changed, err = t.update(id, u)
		return err
	})
	if err != nil {
		return nil, false, fmt.Errorf("updating node %d: %w", id, err)
	}
	return node, changed, nil
}

func (u *NodeUpdate) check() error {
	if n := max(len(u.Endpoints), len(u.EndpointTypes)); n > maxEndpoints {
		return fmt.Errorf("%w endpoints: %d, at most %d", tailnet.ErrTooMany, n, maxEndpoints)
	}
	return checkHostinfo(u.Hostinfo)
}

func (t *tx) update(id tailnet.NodeID, u NodeUpdate) (*tailnet.Node, bool, error) {
	n, err := t.node(id)
	if err != nil {
		return nil, false, err
	}
	// A HeardAt that is still to come is of a clock that was set back: it must not shut the node out until then.
	if n.HeardAt != nil && !u.Arrived.After(*n.HeardAt) && !n.HeardAt.After(t.now) {
		return nil, false, fmt.Errorf("%w: a request that arrived at %s was written before this one", tailnet.ErrStale, n.HeardAt)
	}
	before := *n
	if err := t.hear(n, u.Hostinfo); err != nil {
		return nil, false, err
	}
	if !u.DiscoKey.IsZero() {
		n.DiscoKey = u.DiscoKey
	}
	if u.CapVersion != 0 {
		n.CapVersion = u.CapVersion
	}
	n.Endpoints, n.EndpointTypes = u.Endpoints, u.EndpointTypes
	n.HeardAt = &u.Arrived
	if changed, err := t.updateNode(&before, n); err != nil || !changed {
		return &before, false, err
	}
	if slices.Equal(before.ServedRoutes(), n.ServedRoutes()) {
		return n, true, nil
	}
	n, err = t.settle(n, true)
	return n, true, err
}
