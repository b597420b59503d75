package policy

import (
	"net/netip"
	"slices"

	"github.com/keelscale/keelscale/hscontrol/tailnet"
)

// Changes are what another policy changes for whom, in a tailnet as it is. Each list is sorted.
type Changes struct {
	Packets   []PacketChange
	Logins    []LoginChange
	Routes    []RouteChange
	Caps      []CapChange
	Regions   []RegionChange
	Approvals []RouteChange // From is empty: announced routes that autoApprovers approve, or no longer do
}

// PacketChange is a way that opens or closes.
type PacketChange struct {
	Lost   bool
	From   []string // nodes, served subnets, and "any other address"
	To     []string // nodes, and subnets as "10.0.0.0/16 at router"
	Protos string   // "tcp, udp"
	Ports  string   // "22,80-443" or "*"
}

// LoginChange is a login whose outcome is another.
type LoginChange struct {
	From, To []string
	Login    string // "any other name" stands for all that no rule names
	Was, Is  string // accept, check or deny
}

// RouteChange is a route that viewers gain or lose at a router.
type RouteChange struct {
	Lost   bool
	From   []string
	Router string
	Route  netip.Prefix
}

// CapChange is a capability that nodes gain or lose, with its values.
type CapChange struct {
	Lost  bool
	Nodes []string
	Cap   string
}

// RegionChange is a region of the DERP map that nodes are told of, or no longer are, while there is a relay in it.
type RegionChange struct {
	Lost   bool
	Nodes  []string
	Region string // as rules name it, 901 or "home"; "any other region" stands for all that no rule names
}

// IsEmpty reports whether nothing changes.
func (c *Changes) IsEmpty() bool {
	return len(c.Packets)+len(c.Logins)+len(c.Routes)+len(c.Caps)+len(c.Regions)+len(c.Approvals) == 0
}

// HasLoss reports whether somebody can do less than before.
func (c *Changes) HasLoss() bool {
	rank := map[string]int{"deny": 0, "check": 1, "accept": 2}
	return slices.ContainsFunc(c.Packets, func(p PacketChange) bool { return p.Lost }) ||
		slices.ContainsFunc(c.Logins, func(l LoginChange) bool { return rank[l.Is] < rank[l.Was] }) ||
		slices.ContainsFunc(c.Routes, func(r RouteChange) bool { return r.Lost }) ||
		slices.ContainsFunc(c.Caps, func(n CapChange) bool { return n.Lost }) ||
		slices.ContainsFunc(c.Regions, func(r RegionChange) bool { return r.Lost }) ||
		slices.ContainsFunc(c.Approvals, func(r RouteChange) bool { return r.Lost })
}

// Diff compares two policies over the nodes of a snapshot. Either may be nil: no policy.
func Diff(before, after *Policy, s *tailnet.Snapshot) (*Changes, error) {
	var sides [2]*Compiled
	for i, p := range []*Policy{before, after} {
		if p == nil {
			p = &Policy{}
		}
		c, err := Compile(p, s)
		if err != nil {
			return nil, err
		}
		sides[i] = c
	}
	d := &differ{was: sides[0], is: sides[1], s: s, packets: map[string]*PacketChange{}}
	for _, n := range s.Nodes {
		d.names = append(d.names, n.GivenName)
	}
	for i := range s.Nodes {
		d.comparePackets(i)
	}
	out := &Changes{Packets: d.packetChanges(), Logins: d.logins(), Routes: d.routes(), Caps: d.caps(), Regions: d.regions(), Approvals: d.approvals()}
	return out, nil
}
