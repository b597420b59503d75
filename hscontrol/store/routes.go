package store

import (
	"context"
	"fmt"
	"net/netip"
	"slices"

	"github.com/keelscale/keelscale/hscontrol/tailnet"
)

// maxRoutes is how many routes a node may announce, and how many may be approved.
const maxRoutes = 1000

// ApproveRoutes replaces the approved routes of a node. The exit routes are approved as a pair.
func (s *Store) ApproveRoutes(ctx context.Context, id tailnet.NodeID, routes []netip.Prefix) (*tailnet.Node, error) {
	return s.changeNode(ctx, "approving routes of", id, func(t *tx, n *tailnet.Node) error {
		if len(routes) > maxRoutes {
			return fmt.Errorf("%w routes: %d, at most %d", tailnet.ErrTooMany, len(routes), maxRoutes)
		}
		for _, r := range routes {
			if !r.IsValid() || r != r.Masked() {
				return fmt.Errorf("%w: route %s has host bits set: write %s", tailnet.ErrInvalid, r, r.Masked())
			}
		}
		n.ApprovedRoutes = tailnet.CanonicalRoutes(routes)
		return nil
	})
}

// electPrimaries says anew which nodes of a tailnet are primary for its routes. It reads only the nodes that have
// approved routes.
func (t *tx) electPrimaries(id tailnet.ID) error {
	routers, err := t.nodesWhere("n.tailnet_id = ? AND n.approved_routes IS NOT NULL", int64(id))
	if err != nil {
		return fmt.Errorf("electing primary routes: %w", err)
	}
	for _, n := range routers {
		n.Online = n.Online && !n.Expired(t.now)
	}
	primaries := tailnet.ElectPrimaries(routers)
	for _, n := range routers {
		elected := primaries[n.ID]
		if slices.Equal(elected, n.PrimaryRoutes) {
			continue
		}
		if _, err := t.exec("UPDATE nodes SET primary_routes = ? WHERE id = ?", list(&elected), int64(n.ID)); err != nil {
			return fmt.Errorf("electing primary routes: %w", err)
		}
		t.nodeChanged(n)
	}
	return nil
}
