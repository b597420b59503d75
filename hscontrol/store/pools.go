package store

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/keelscale/keelscale/hscontrol/tailnet"
)

// TakeFromPools gives a node an IPv4 address out of the first of the pools that has one left, unless its own lies in
// one of them. Pools outside of the tailnet's range give none. ErrExhausted if no pool has any.
func (s *Store) TakeFromPools(ctx context.Context, id tailnet.NodeID, pools []netip.Prefix) (*tailnet.Node, error) {
	return s.changeNode(ctx, "choosing an address of", id, func(t *tx, n *tailnet.Node) error {
		if slices.ContainsFunc(pools, func(p netip.Prefix) bool { return p.Contains(n.IPv4) }) {
			return nil
		}
		tn, err := t.tailnet(n.TailnetID)
		if err != nil {
			return err
		}
		f := s.families(tn)[0]
		for _, pool := range pools {
			if !f.prefix.IsValid() || f.prefix.Bits() > pool.Bits() || !f.prefix.Contains(pool.Addr()) {
				continue
			}
			next := pool.Masked().Addr()
			addr, err := t.freeAddr(n, family{column: f.column, prefix: pool.Masked(), next: &next, addr: f.addr})
			if err == nil {
				n.IPv4 = addr
				return nil
			}
			if !errors.Is(err, tailnet.ErrExhausted) {
				return err
			}
		}
		return fmt.Errorf("%w in the ranges that the policy has for it (ipPool %v): widen them, or delete nodes", tailnet.ErrExhausted, pools)
	})
}
