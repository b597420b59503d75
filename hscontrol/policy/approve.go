package policy

import (
	"net/netip"
	"slices"

	"github.com/keelscale/keelscale/hscontrol/tailnet"
	"go4.org/netipx"
)

// AutoApproves reports whether autoApprovers approve the route of n. The node need not be in the compiled snapshot.
func (c *Compiled) AutoApproves(n *tailnet.Node, s *tailnet.Snapshot, route netip.Prefix) bool {
	if c.policy == nil {
		return false
	}
	owner := s.Users[n.UserID]
	if tailnet.IsExitRoute(route) {
		return c.policy.isAny(c.policy.approveExit, n.Tags, owner)
	}
	return slices.ContainsFunc(c.policy.approveRoutes, func(a routeApprover) bool {
		return a.prefix.Bits() <= route.Bits() && a.prefix.Contains(route.Addr()) && c.policy.isAny(a.by, n.Tags, owner)
	})
}

// TagExists reports whether the policy defines tag in tagOwners.
func (c *Compiled) TagExists(tag string) bool {
	if c.policy == nil {
		return false
	}
	_, ok := c.policy.tags[tag]
	return ok
}

// TagOwnedBy reports whether tag, which the policy defines, is one of the tags, or owned by one, itself or through other
// tags.
func (c *Compiled) TagOwnedBy(by []string, tag string) bool {
	if !c.TagExists(tag) {
		return false
	}
	seen := map[string]bool{}
	var owned func(tag string) bool
	owned = func(tag string) bool {
		if seen[tag] {
			return false
		}
		seen[tag] = true
		return slices.Contains(by, tag) || slices.ContainsFunc(c.policy.tags[tag], func(owner selector) bool {
			return owner.kind == byTag && owned(owner.name)
		})
	}
	return owned(tag)
}

// MayTag reports whether the user, or the node with one of the addresses, may put tag on a node: as an owner of the
// tag, or as an owner of a tag that owns it.
func (c *Compiled) MayTag(u *tailnet.User, addrs []netip.Addr, tag string) bool {
	if !c.TagExists(tag) {
		return false
	}
	var tags []string
	for _, a := range addrs {
		for _, in := range c.x.addressesIn(netipx.IPRangeFrom(a, a)) {
			tags = append(tags, c.x.tags[in.node]...)
		}
	}
	seen := map[string]bool{}
	var owns func(tag string) bool
	owns = func(tag string) bool {
		if seen[tag] {
			return false
		}
		seen[tag] = true
		return slices.ContainsFunc(c.policy.tags[tag], func(owner selector) bool {
			switch owner.kind {
			case byTag:
				return slices.Contains(tags, owner.name) || owns(owner.name)
			case byTagged:
				return len(tags) > 0
			}
			return c.policy.userIs(owner, u)
		})
	}
	return owns(tag)
}
