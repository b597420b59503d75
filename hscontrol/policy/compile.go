package policy

import (
	"errors"
	"net/netip"

	"github.com/keelscale/keelscale/hscontrol/tailnet"
	"tailscale.com/tailcfg"
)

// Compiled is what a policy means for a tailnet. It is immutable and safe for use by many goroutines. It holds nothing
// of the snapshot beyond what tailnet.SameIdentity compares, so it stays valid while tailnet.SameIdentities holds.
type Compiled struct {
	open     *openTailnet
	warnings []string
}

// Compile says what p means for s. Without a policy (nil) everyone sees and reaches everyone in the tailnet.
// The errors are refusals, each with the line, the thing and the remedy.
func Compile(p *Policy, s *tailnet.Snapshot) (*Compiled, error) {
	if p == nil {
		return &Compiled{open: compileOpen(s)}, nil
	}
	return nil, errors.New("this server does not understand policies")
}

// Warnings are sentences about what is allowed but probably not meant, such as users that do not exist yet.
func (c *Compiled) Warnings() []string { return c.warnings }

// Test runs the policy's tests and sshTests; nil when all pass.
func (c *Compiled) Test(s *tailnet.Snapshot) error { return nil }

// Class groups viewers: those of one class see the same peers with the same routes, apart from themselves.
// It is -1 for a node that was not in the snapshot.
func (c *Compiled) Class(id tailnet.NodeID) int { return 0 }

// Sees reports whether viewer and peer are in each other's network map. It is symmetric, and false for a node itself.
func (c *Compiled) Sees(viewer, peer tailnet.NodeID) bool { return viewer != peer }

// Routes are the subnet and exit routes of peer in the AllowedIPs that viewer gets, sorted. Do not change the result.
func (c *Compiled) Routes(viewer, peer tailnet.NodeID) []netip.Prefix { return c.open.routes[peer] }

// Filter is the node's packet filter, cut down to the node. It is never nil; empty means deny all.
func (c *Compiled) Filter(id tailnet.NodeID) []tailcfg.FilterRule { return c.open.filter }

// SSH is the node's SSH policy, nil when the policy has no ssh section.
func (c *Compiled) SSH(id tailnet.NodeID) *tailcfg.SSHPolicy { return nil }

// Caps are the node capabilities that the policy gives to the node itself.
func (c *Compiled) Caps(id tailnet.NodeID) tailcfg.NodeCapMap { return nil }

// PeerCaps are the capabilities of peer that viewer is told.
func (c *Compiled) PeerCaps(viewer, peer tailnet.NodeID) tailcfg.NodeCapMap {
	return c.open.peerCaps[peer]
}

// HidesIPv4 reports whether viewer is told of peer without its IPv4 address (the disable-ipv4 attribute of either).
// For viewer == peer it says whether the node itself goes without.
func (c *Compiled) HidesIPv4(viewer, peer tailnet.NodeID) bool { return false }

// AutoApproves reports whether autoApprovers approve the route of n. The node need not be in the compiled snapshot.
func (c *Compiled) AutoApproves(n *tailnet.Node, s *tailnet.Snapshot, route netip.Prefix) bool {
	return false
}

// TagExists reports whether the policy defines tag in tagOwners.
func (c *Compiled) TagExists(tag string) bool { return false }

// MayTag reports whether the user, or the node with one of the addresses, may put tag on a node.
func (c *Compiled) MayTag(u *tailnet.User, addrs []netip.Addr, tag string) bool { return false }
