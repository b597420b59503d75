package policy

import (
	"net/netip"
	"reflect"
	"slices"

	"github.com/keelscale/keelscale/hscontrol/tailnet"
	"go4.org/netipx"
	"tailscale.com/net/tsaddr"
	"tailscale.com/tailcfg"
)

// openTailnet is a tailnet without rules: one class, one filter for all.
type openTailnet struct {
	filter   []tailcfg.FilterRule
	routes   map[tailnet.NodeID][]netip.Prefix // of the nodes that have some
	peerCaps map[tailnet.NodeID]tailcfg.NodeCapMap
	barred   map[tailnet.NodeID]bool // those that are cut off
}

// Keep is prev if both say the same to everybody for sure, else c. Without a policy that is so as long as no ranges,
// routes or exit nodes come and go, whoever joins.
func (c *Compiled) Keep(prev *Compiled) *Compiled {
	if c.open != nil && prev != nil && prev.open != nil && reflect.DeepEqual(c.open, prev.open) {
		return prev
	}
	return c
}

// barred are the nodes that are cut off, nil if there is none.
func barred(s *tailnet.Snapshot) map[tailnet.NodeID]bool {
	var out map[tailnet.NodeID]bool
	for _, n := range s.Nodes {
		if !n.Barred {
			continue
		}
		if out == nil {
			out = map[tailnet.NodeID]bool{}
		}
		out[n.ID] = true
	}
	return out
}

// suggestExitNode is what peers are told of an exit node.
var suggestExitNode = tailcfg.NodeCapMap{tailcfg.NodeAttrSuggestExitNode: nil}

// compileOpen is what holds without a policy: from anywhere in the tailnet to anywhere.
func compileOpen(s *tailnet.Snapshot, barred map[tailnet.NodeID]bool) *openTailnet {
	o := &openTailnet{
		routes:   map[tailnet.NodeID][]netip.Prefix{},
		peerCaps: map[tailnet.NodeID]tailcfg.NodeCapMap{},
		barred:   barred,
	}
	for _, n := range s.Nodes {
		if len(n.ApprovedRoutes) == 0 {
			continue
		}
		routes := slices.Clone(n.PrimaryRoutes)
		for _, r := range n.ServedRoutes() {
			if tailnet.IsExitRoute(r) {
				routes = append(routes, r)
				o.peerCaps[n.ID] = suggestExitNode
			}
		}
		slices.SortFunc(routes, netipx.ComparePrefix)
		o.routes[n.ID] = routes
	}
	o.filter = []tailcfg.FilterRule{{
		SrcIPs:   wildcardSources(s),
		DstPorts: []tailcfg.NetPortRange{{IP: "*", Ports: tailcfg.PortRangeAny}},
	}}
	return o
}

// wildcardSources is "*" as a source: the ranges that Tailscale takes addresses from, less the one of ChromeOS, the
// tailnet's own ranges, and every served subnet route. Sorted as texts, IPv4 first.
func wildcardSources(s *tailnet.Snapshot) []string {
	return wildcardTexts(wildcardExtra(s), servedSubnets(s))
}

var tailscaleRanges = []string{"100.115.94.0-100.127.255.255", "100.64.0.0-100.115.91.255", "fd7a:115c:a1e0::/48"}

// wildcardExtra are the tailnet's own ranges, and single addresses of nodes, that are outside of Tailscale's.
func wildcardExtra(s *tailnet.Snapshot) []netip.Prefix {
	cgnat, chrome, ula := tsaddr.CGNATRange(), tsaddr.ChromeOSVMRange(), tsaddr.TailscaleULARange()
	within := func(p, q netip.Prefix) bool { return q.Bits() <= p.Bits() && q.Contains(p.Addr()) }
	var extra []netip.Prefix
	add := func(p netip.Prefix) {
		p = p.Masked()
		if within(p, ula) || within(p, cgnat) && !within(p, chrome) || slices.ContainsFunc(extra, func(q netip.Prefix) bool { return within(p, q) }) {
			return
		}
		extra = append(extra, p)
	}
	ranges := slices.Clone(s.Prefixes)
	if s.Tailnet != nil {
		ranges = append(ranges, s.Tailnet.PrefixV4, s.Tailnet.PrefixV6)
	}
	for _, p := range ranges {
		if p.IsValid() {
			add(p)
		}
	}
	for _, n := range s.Nodes {
		if a := n.IPv4; a.IsValid() && (!cgnat.Contains(a) || chrome.Contains(a)) {
			add(netip.PrefixFrom(a, 32))
		}
		if a := n.IPv6; a.IsValid() && !ula.Contains(a) {
			add(netip.PrefixFrom(a, 128))
		}
	}
	return extra
}

// servedSubnets are all served subnet routes of the tailnet, sorted, each once.
func servedSubnets(s *tailnet.Snapshot) []netip.Prefix {
	var routes []netip.Prefix
	for _, n := range s.Nodes {
		if len(n.ApprovedRoutes) > 0 {
			routes = append(routes, n.ServedSubnets()...)
		}
	}
	slices.SortFunc(routes, netipx.ComparePrefix)
	return slices.Compact(routes)
}

func wildcardTexts(extra, subnets []netip.Prefix) []string {
	texts := slices.Clone(tailscaleRanges)
	for _, p := range slices.Concat(extra, subnets) {
		texts = append(texts, prefixText(p))
	}
	slices.SortFunc(texts, compareTexts)
	return slices.Compact(texts)
}

// prefixText writes a prefix as Tailscale does: a single address without its length.
func prefixText(p netip.Prefix) string {
	if p.IsSingleIP() {
		return p.Addr().String()
	}
	return p.String()
}
