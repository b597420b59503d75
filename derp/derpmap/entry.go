package derpmap

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"strings"

	"tailscale.com/tailcfg"
)

// Relay describes a relay of our own, for its region in the DERP map.
type Relay struct {
	RegionID   int    // required; 900 to 999 are meant for relays of one's own
	RegionCode string // "" means r<ID>
	RegionName string // "" means the code

	Name     string // of the node, among those of the region; "" means <ID>a
	HostName string // a name or an IP address, with or without brackets; required
	IPv4     string // "" leaves it to DNS, "none" switches it off
	IPv6     string // likewise
	CertName string // derp.Cert.Pin; "" for a certificate that an authority vouches for

	DERPPort int // zero means 443
	STUNPort int // zero means 3478, negative none

	CanPort80 bool // whether port 80 answers captive portal checks
}

// Embedded is the region of a relay that is on its own in it.
func Embedded(r Relay) (*tailcfg.DERPRegion, error) {
	n := &tailcfg.DERPNode{
		Name:      r.Name,
		RegionID:  r.RegionID,
		HostName:  strings.TrimSuffix(strings.TrimPrefix(r.HostName, "["), "]"),
		CertName:  r.CertName,
		IPv4:      r.IPv4,
		IPv6:      r.IPv6,
		DERPPort:  r.DERPPort,
		STUNPort:  max(r.STUNPort, -1),
		CanPort80: r.CanPort80,
	}
	// A client need not look up in the DNS what is an address already.
	if ip, err := netip.ParseAddr(n.HostName); err == nil {
		if ip.Is4() && n.IPv4 == "" {
			n.IPv4 = n.HostName
		}
		if ip.Is6() && n.IPv6 == "" {
			n.IPv6 = n.HostName
		}
	}
	if n.DERPPort == 443 {
		n.DERPPort = 0
	}
	if n.STUNPort == 3478 {
		n.STUNPort = 0
	}
	region := &tailcfg.DERPRegion{
		RegionID:   r.RegionID,
		RegionCode: r.RegionCode,
		RegionName: r.RegionName,
		Nodes:      []*tailcfg.DERPNode{n},
	}
	m := &tailcfg.DERPMap{Regions: map[int]*tailcfg.DERPRegion{r.RegionID: region}}
	complete(m)
	if err := check(m); err != nil {
		return nil, fmt.Errorf("describing the relay: %w", err)
	}
	return region, nil
}

// Entry renders a region as a whole DERP map in JSON, to be pasted into a file of
// derp.paths, or merged by hand into another map.
func Entry(region *tailcfg.DERPRegion) string {
	m := map[string]any{"Regions": map[int]*tailcfg.DERPRegion{region.RegionID: region}}
	text, err := json.MarshalIndent(m, "", "  ")
	if err != nil { // plain strings and numbers
		panic(err)
	}
	return string(text)
}
