package state

import (
	"cmp"
	"maps"
	"net/netip"
	"reflect"
	"slices"

	"tailscale.com/tailcfg"

	"github.com/keelscale/keelscale/derp/derpmap"
	"github.com/keelscale/keelscale/hscontrol/tailnet"
)

// putRelays adds the relays that enrolled to the server's own map, and gives prev's where that is the same, so that
// no client gets a map for nothing.
func (v *View) putRelays(prev *View) {
	if prev != nil && prev.base == v.base && prev.Settings.NoRelays == v.Settings.NoRelays &&
		slices.Equal(prev.Relays, v.Relays) && maps.Equal(prev.Regions, v.Regions) {
		v.served, v.servedPinless = prev.served, prev.servedPinless
	} else {
		var regions map[int]*tailcfg.DERPRegion
		if !v.Settings.NoRelays {
			regions = relayRegions(v.Snapshot)
		}
		v.served = withRegions(v.base, regions)
		switch {
		case v.served == v.base:
			v.servedPinless = v.Pinless
		case prev != nil && reflect.DeepEqual(prev.served, v.served):
			v.served, v.servedPinless = prev.served, prev.servedPinless
		default:
			v.servedPinless = withoutPins(v.served)
		}
	}
	v.DERPMap, v.Pinless = v.served, v.servedPinless
}

// withRegions is base and the regions, of which none takes the place of one in base: see Clashes. It is base itself
// where nothing is to be added.
func withRegions(base *tailcfg.DERPMap, regions map[int]*tailcfg.DERPRegion) *tailcfg.DERPMap {
	if base != nil {
		maps.DeleteFunc(regions, func(id int, _ *tailcfg.DERPRegion) bool { return base.Regions[id] != nil })
	}
	if len(regions) == 0 {
		return base
	}
	return derpmap.Merge(base, &tailcfg.DERPMap{Regions: regions})
}

// relayRegions are the regions of the relays that clients may be told of now.
func relayRegions(s *tailnet.Snapshot) map[int]*tailcfg.DERPRegion {
	regions := map[int]*tailcfg.DERPRegion{}
	put := func(in *tailnet.RelayRegion, node *tailcfg.DERPNode) {
		id := int(in.ID)
		if regions[id] == nil {
			regions[id] = &tailcfg.DERPRegion{RegionID: id, RegionCode: in.Code, RegionName: cmp.Or(in.Name, in.Code)}
		}
		regions[id].Nodes = append(regions[id].Nodes, node)
	}
	var returning []*tailnet.Relay
	for _, r := range s.Relays {
		in, node := s.Regions[r.RegionID], RelayNode(r)
		switch {
		case in == nil || node == nil || r.Draining:
		case r.Healthy:
			put(in, node)
		case r.OutBecause == tailnet.RelayReturns:
			returning = append(returning, r)
		}
	}
	for _, r := range returning {
		if regions[int(r.RegionID)] == nil { // otherwise the region changes when the relay is there
			put(s.Regions[r.RegionID], Placeholder(int(r.RegionID), r.Name))
		}
	}
	return regions
}

// Placeholder holds the place of a relay that returns: a node that clients neither measure nor connect to. A region
// without nodes is more than clients before v1.86 bear.
func Placeholder(region int, name string) *tailcfg.DERPNode {
	return &tailcfg.DERPNode{
		Name: name, RegionID: region, HostName: name + ".invalid", IPv4: "none", IPv6: "none",
		STUNPort: -1, STUNOnly: true,
	}
}

// RelayNode is a relay as it stands in the DERP map; nil where clients could not find it, because nobody knows an
// address, or because it has no certificate.
//
// A certificate that an authority vouches for is asked for by the name that it is for, which DNS knows; one of the
// relay's own making by a name that only the relay knows, at the addresses that are published. A client that has the
// map from before a new certificate asks by the old name, and gets the old certificate (derp.CertInfo).
func RelayNode(r *tailnet.Relay) *tailcfg.DERPNode {
	var c tailnet.RelayCertificate // a proxy in front may have one that is not told
	if len(r.Certificates) > 0 {
		c = r.Certificates[0]
	} else if r.Hostname == "" {
		return nil
	}
	n := &tailcfg.DERPNode{
		Name: r.Name, RegionID: int(r.RegionID),
		HostName: cmp.Or(c.Name, r.Hostname), CertName: c.Pin,
		DERPPort: int(r.DERPPort), STUNPort: int(r.STUNPort), CanPort80: r.Port80,
	}
	if len(r.Published) > 0 {
		n.IPv4, n.IPv6 = family(r.Published, netip.Addr.Is4), family(r.Published, netip.Addr.Is6)
		n.HostName = cmp.Or(n.HostName, r.Published[0].String())
	} else if c.Pin != "" || n.HostName == "" {
		return nil
	}
	// What clients take zero for.
	if n.DERPPort == 443 {
		n.DERPPort = 0
	}
	switch n.STUNPort {
	case 0:
		n.STUNPort = -1
	case 3478:
		n.STUNPort = 0
	}
	return n
}

// family is the first of addrs that is of the family, or "none", by which clients do not look for one in the DNS.
func family(addrs []netip.Addr, is func(netip.Addr) bool) string {
	for _, a := range addrs {
		if is(a.Unmap()) {
			return a.Unmap().String()
		}
	}
	return "none"
}

// Clashes are the regions of enrolled relays whose number a region of the server's own map has. They are left out of
// what clients get, since it was the operator who wrote the other one down.
func (s *State) Clashes() []*tailnet.RelayRegion {
	base := s.DERPMap()
	found := map[tailnet.RegionID]*tailnet.RelayRegion{}
	for _, v := range s.Views() {
		for id, r := range v.Regions {
			if base != nil && base.Regions[int(id)] != nil {
				found[id] = r
			}
		}
	}
	return slices.SortedFunc(maps.Values(found), func(a, b *tailnet.RelayRegion) int { return cmp.Compare(a.ID, b.ID) })
}
