package tailnet

import (
	"fmt"
	"net/netip"
	"slices"

	"go4.org/netipx"
)

// The two routes of an exit node. They are approved and withdrawn as a pair.
var (
	exitV4 = netip.PrefixFrom(netip.IPv4Unspecified(), 0)
	exitV6 = netip.PrefixFrom(netip.IPv6Unspecified(), 0)
)

// ExitRoutes are 0.0.0.0/0 and ::/0.
func ExitRoutes() []netip.Prefix { return []netip.Prefix{exitV4, exitV6} }

// IsExitRoute reports whether p is one of the two routes of an exit node.
func IsExitRoute(p netip.Prefix) bool { return p == exitV4 || p == exitV6 }

// ParseRoute reads a route in CIDR form. A route with host bits set is refused with the right spelling.
func ParseRoute(text string) (netip.Prefix, error) {
	p, err := netip.ParsePrefix(text)
	if err != nil {
		return netip.Prefix{}, fmt.Errorf("route %q is not a prefix like 192.168.100.0/24", text)
	}
	if p != p.Masked() {
		return netip.Prefix{}, fmt.Errorf("route %q has host bits set: write %s", text, p.Masked())
	}
	return p, nil
}

// CanonicalRoutes sorts routes, removes repeats, and makes the exit routes a pair.
func CanonicalRoutes(routes []netip.Prefix) []netip.Prefix {
	out := slices.Clone(routes)
	if slices.ContainsFunc(out, IsExitRoute) {
		out = append(out, exitV4, exitV6)
	}
	slices.SortFunc(out, netipx.ComparePrefix)
	return slices.Compact(out)
}

// AnnouncedRoutes are the routes that the client advertises, sorted.
func (n *Node) AnnouncedRoutes() []netip.Prefix {
	if n.Hostinfo == nil || len(n.Hostinfo.RoutableIPs) == 0 {
		return nil
	}
	routes := make([]netip.Prefix, 0, len(n.Hostinfo.RoutableIPs))
	for _, p := range n.Hostinfo.RoutableIPs {
		routes = append(routes, p.Masked())
	}
	slices.SortFunc(routes, netipx.ComparePrefix)
	return slices.Compact(routes)
}

// ServedRoutes are the routes that are both announced and approved, exit routes included, sorted.
func (n *Node) ServedRoutes() []netip.Prefix {
	if len(n.ApprovedRoutes) == 0 {
		return nil
	}
	var served []netip.Prefix
	for _, p := range n.AnnouncedRoutes() {
		if slices.Contains(n.ApprovedRoutes, p) {
			served = append(served, p)
		}
	}
	return served
}

// ServedSubnets are the ServedRoutes less the exit routes.
func (n *Node) ServedSubnets() []netip.Prefix {
	return slices.DeleteFunc(n.ServedRoutes(), IsExitRoute)
}

// IsExitNode reports whether the node serves an exit route.
func (n *Node) IsExitNode() bool { return slices.ContainsFunc(n.ServedRoutes(), IsExitRoute) }

// ElectPrimaries says which subnet routes each node is primary for: of the nodes that serve a route, the one that is
// primary now keeps it while it is online; else the online node with the lowest ID gets it; else, with none online,
// the one that has it keeps it or the lowest ID gets it, so that a route has exactly one primary. Expired nodes count
// as offline; the caller sets Online accordingly. The result holds every node that serves a subnet route.
func ElectPrimaries(nodes []*Node) map[NodeID][]netip.Prefix {
	byRoute := map[netip.Prefix][]*Node{}
	primaries := map[NodeID][]netip.Prefix{}
	for _, n := range nodes {
		for _, p := range n.ServedSubnets() {
			byRoute[p] = append(byRoute[p], n)
			primaries[n.ID] = nil
		}
	}
	for route, servers := range byRoute {
		slices.SortFunc(servers, func(a, b *Node) int { return int(a.ID) - int(b.ID) })
		best := servers[0]
		for _, n := range servers[1:] {
			if rank(n, route) > rank(best, route) {
				best = n
			}
		}
		primaries[best.ID] = append(primaries[best.ID], route)
	}
	for _, routes := range primaries {
		slices.SortFunc(routes, netipx.ComparePrefix)
	}
	return primaries
}

// rank orders candidates for a route: online and primary, online, primary, neither.
func rank(n *Node, route netip.Prefix) int {
	r := 0
	if n.Online {
		r += 2
	}
	if slices.Contains(n.PrimaryRoutes, route) {
		r++
	}
	return r
}
