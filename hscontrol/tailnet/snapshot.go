package tailnet

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"
)

// Snapshot is everything that the store says of one tailnet at one revision. It is immutable: Next makes a new one
// that shares every value that did not change, so pointers may be compared to see what did.
type Snapshot struct {
	Tailnet *Tailnet
	Rev     Revision
	Nodes   []*Node // sorted by ID
	Users   map[UserID]*User
	Policy  *PolicyVersion // nil: there has never been one

	Settings *Settings // nil: nothing is set for this tailnet

	// Relays are those that serve the tailnet's nodes, its own and those for all, sorted by ID; Regions are theirs.
	Relays  []*Relay
	Regions map[RegionID]*RelayRegion

	// Prefixes are the ranges that the tailnet takes its addresses from, the server's defaults applied.
	Prefixes []netip.Prefix
}

// Delta is what changed from one revision to a later one. A delta that is Full replaces everything.
type Delta struct {
	Full bool
	Rev  Revision

	Tailnet *Tailnet // nil: unchanged; deleted tailnets are told by Gone
	Gone    bool     // the tailnet was deleted
	Policy  *PolicyVersion

	Settings *Settings // nil: unchanged

	Nodes     []*Node // new and changed, any order
	NodesGone []NodeID
	Users     []*User
	UsersGone []UserID

	Relays     []*Relay // new and changed, any order
	RelaysGone []RelayID
	Regions    []*RelayRegion // all of them if any may have changed; nil: unchanged
}

// Next is the snapshot after d. s may be nil if d is Full.
func (s *Snapshot) Next(d Delta) *Snapshot {
	if d.Full || s == nil {
		s = &Snapshot{}
	}
	next := &Snapshot{Tailnet: s.Tailnet, Rev: d.Rev, Nodes: s.Nodes, Users: s.Users, Policy: s.Policy, Prefixes: s.Prefixes,
		Settings: s.Settings, Relays: s.Relays, Regions: s.Regions}
	if d.Tailnet != nil {
		next.Tailnet = d.Tailnet
	}
	if d.Policy != nil {
		next.Policy = d.Policy
	}
	if d.Settings != nil {
		next.Settings = d.Settings
	}
	if len(d.Nodes)+len(d.NodesGone) > 0 {
		next.Nodes = mergeNodes(s.Nodes, d.Nodes, d.NodesGone)
	}
	if len(d.Users)+len(d.UsersGone) > 0 || next.Users == nil {
		next.Users = make(map[UserID]*User, len(s.Users)+len(d.Users))
		maps.Copy(next.Users, s.Users)
		for _, u := range d.Users {
			next.Users[u.ID] = u
		}
		for _, id := range d.UsersGone {
			delete(next.Users, id)
		}
	}
	if len(d.Relays)+len(d.RelaysGone) > 0 {
		next.Relays = mergeRelays(s.Relays, d.Relays, d.RelaysGone)
	}
	if d.Regions != nil {
		next.Regions = nextRegions(s.Regions, d.Regions)
	}
	return next
}

func mergeNodes(old, changed []*Node, gone []NodeID) []*Node {
	changed = slices.Clone(changed)
	slices.SortFunc(changed, byID)
	gone = slices.Clone(gone)
	slices.Sort(gone)
	merged := make([]*Node, 0, len(old)+len(changed))
	for len(old)+len(changed) > 0 {
		var n *Node
		switch {
		case len(old) == 0 || len(changed) > 0 && changed[0].ID < old[0].ID:
			n, changed = changed[0], changed[1:]
		case len(changed) > 0 && changed[0].ID == old[0].ID:
			n, changed, old = changed[0], changed[1:], old[1:]
		default:
			n, old = old[0], old[1:]
		}
		if _, found := slices.BinarySearch(gone, n.ID); !found {
			merged = append(merged, n)
		}
	}
	return merged
}

func byID(a, b *Node) int { return cmp.Compare(a.ID, b.ID) }

// Compare calls differ for each node that is not the same pointer in was and is, both sorted by ID: with nil for the
// one that is missing.
func Compare(was, is []*Node, differ func(was, is *Node)) {
	for len(was)+len(is) > 0 {
		switch {
		case len(was) > 0 && len(is) > 0 && was[0] == is[0]: // most are the same, and need not be looked at
			was, is = was[1:], is[1:]
		case len(is) == 0 || len(was) > 0 && was[0].ID < is[0].ID:
			differ(was[0], nil)
			was = was[1:]
		case len(was) == 0 || is[0].ID < was[0].ID:
			differ(nil, is[0])
			is = is[1:]
		default:
			differ(was[0], is[0])
			was, is = was[1:], is[1:]
		}
	}
}

// Node finds a node by its ID, or nil. IDs are given one after the other and few nodes are deleted, so it is tried
// first where it would be if none had been.
func (s *Snapshot) Node(id NodeID) *Node {
	nodes := s.Nodes
	if len(nodes) == 0 || id < nodes[0].ID {
		return nil
	}
	most := len(nodes)
	if d := uint64(id - nodes[0].ID); d < uint64(most) {
		if n := nodes[d]; n.ID == id {
			return n
		}
		most = int(d)
	}
	i, found := slices.BinarySearchFunc(nodes[:most], id, func(n *Node, id NodeID) int { return cmp.Compare(n.ID, id) })
	if !found {
		return nil
	}
	return nodes[i]
}

// NodeByName finds a node by its given name, or nil.
func (s *Snapshot) NodeByName(name string) *Node {
	for _, n := range s.Nodes {
		if n.GivenName == name {
			return n
		}
	}
	return nil
}

// Owner is the user that owns n, or nil if it is tagged.
func (s *Snapshot) Owner(n *Node) *User {
	if n.IsTagged() {
		return nil
	}
	return s.Users[n.UserID]
}

// SameIdentities reports whether no policy can tell a from b: the same users, and nodes that are the same by
// SameIdentity.
func SameIdentities(a, b *Snapshot) bool {
	if a == b {
		return true
	}
	if a == nil || b == nil || len(a.Nodes) != len(b.Nodes) || len(a.Users) != len(b.Users) {
		return false
	}
	for i, n := range a.Nodes {
		if n != b.Nodes[i] && !SameIdentity(n, b.Nodes[i]) {
			return false
		}
	}
	for id, u := range a.Users {
		if v := b.Users[id]; v != u && (v == nil || v.Name != u.Name || v.Email != u.Email || v.Role != u.Role) {
			return false
		}
	}
	return true
}
