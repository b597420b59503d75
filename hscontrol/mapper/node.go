// Package mapper turns views of a tailnet into what Tailscale clients read: whole network maps, the differences
// between two of them, and the bytes of both, encoded once for all viewers who get the same.
//
// The law that everything here keeps: applying Diff(a, b) to the map of a gives the map of b.
package mapper

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"time"

	"tailscale.com/tailcfg"
	"tailscale.com/types/key"

	"github.com/keelscale/keelscale/hscontrol/state"
	"github.com/keelscale/keelscale/hscontrol/tailnet"
)

// Viewer is the node whose map is made, and the client that reads it.
type Viewer struct {
	ID  tailnet.NodeID
	Cap tailcfg.CapabilityVersion
}

// Capability versions at which clients began to read a field (tailcfg.CapabilityVersion).
const (
	capNodeCapMap    = 74  // Node.CapMap; before it Node.Capabilities
	capPacketFilters = 81  // MapResponse.PacketFilters; before it PacketFilter
	capCertPins      = 116 // DERPNode.CertName as a hash (v1.84); before it a host name
)

// common is what a node and its peers are told alike.
func common(v *state.View, n *tailnet.Node) *tailcfg.Node {
	t := &tailcfg.Node{
		ID:                tailcfg.NodeID(n.ID),
		StableID:          StableID(n.ID),
		Name:              n.FQDN(v.Domain),
		User:              tailcfg.UserID(n.UserID),
		Key:               n.NodeKey,
		DiscoKey:          n.DiscoKey,
		Endpoints:         n.Endpoints,
		HomeDERP:          n.HomeDERP,
		Created:           n.CreatedAt.UTC(),
		Cap:               n.CapVersion,
		Tags:              n.Tags,
		PrimaryRoutes:     n.PrimaryRoutes,
		MachineAuthorized: !n.Barred,
		Expired:           n.Lapsed,
	}
	if n.HomeDERP != 0 {
		// Clients before capability version 111 read the region from this address.
		t.LegacyDERPString = fmt.Sprintf("%s:%d", tailcfg.DerpMagicIP, n.HomeDERP)
	}
	if n.IsTagged() {
		t.User = tailcfg.UserID(tailnet.TaggedDevices)
	}
	if n.Expiry != nil {
		t.KeyExpiry = n.Expiry.UTC()
	}
	return t
}

// StableID is the name of a node that exit node settings and the API use.
func StableID(id tailnet.NodeID) tailcfg.StableNodeID {
	return tailcfg.StableNodeID(strconv.FormatUint(uint64(id), 10))
}

// self is the node as it sees itself.
func self(v *state.View, viewer Viewer, n *tailnet.Node) *tailcfg.Node {
	t := common(v, n)
	t.Addresses = addresses(n, v.Policy.HidesIPv4(n.ID, n.ID))
	t.AllowedIPs = slices.Concat(t.Addresses, n.ServedRoutes())
	t.Machine = n.MachineKey
	if n.Hostinfo != nil {
		own := *n.Hostinfo
		own.NetInfo = nil // it knows its own network better
		t.Hostinfo = own.View()
	}
	caps := selfCaps(v, n)
	if viewer.Cap >= capNodeCapMap {
		t.CapMap = caps
	} else {
		for c := range caps {
			t.Capabilities = append(t.Capabilities, c)
		}
		slices.Sort(t.Capabilities)
	}
	return t
}

// selfCaps are the capabilities of the node itself: what every node has, what its owner's role gives, and what the
// policy adds.
func selfCaps(v *state.View, n *tailnet.Node) tailcfg.NodeCapMap {
	caps := tailcfg.NodeCapMap{
		tailcfg.CapabilitySSH:                         nil,
		tailcfg.NodeAttrDisableCaptivePortalDetection: nil,
		tailcfg.NodeAttrDefaultAutoUpdate:             {tailcfg.RawMessage(strconv.FormatBool(v.Settings.AutoUpdate))},
		tailcfg.NodeAttrSSHBehaviorV1:                 nil,
		tailcfg.NodeAttrSSHEnvironmentVariables:       nil,
		tailcfg.NodeAttrProbeUDPLifetime:              nil,
		"tailnet-display-name":                        {tailcfg.RawMessage(strconv.Quote(v.Tailnet.Name))},
	}
	if v.Settings.Taildrop {
		caps[tailcfg.CapabilityFileSharing] = nil
	}
	if v.Settings.RandomizeClientPort {
		caps[tailcfg.NodeAttrRandomizeClientPort] = nil
	}
	if u := v.Owner(n); u != nil && (u.Role == "owner" || u.Role == "admin") {
		caps[tailcfg.CapabilityAdmin] = nil
		if u.Role == "owner" {
			caps[tailcfg.CapabilityOwner] = nil
		}
	}
	for c, values := range v.Policy.Caps(n.ID) {
		caps[c] = values
	}
	return caps
}

// peer is the node as a viewer sees it.
func peer(v *state.View, n *tailnet.Node, s sight) *tailcfg.Node {
	t := common(v, n)
	t.Addresses = addresses(n, s.hidesIPv4)
	t.AllowedIPs = slices.Concat(t.Addresses, s.routes)
	t.CapMap = s.caps
	t.Hostinfo = peerHostinfo(n, s.hidesIPv4).View()
	online := n.Online
	t.Online = &online
	if !online {
		t.LastSeen = lastSeen(n)
	}
	return t
}

// lastSeen is when an offline node was last connected, to the second.
func lastSeen(n *tailnet.Node) *time.Time {
	if n.LastSeen == nil {
		return nil
	}
	at := n.LastSeen.UTC().Truncate(time.Second)
	return &at
}

// peerHostinfo is the part of a node's Hostinfo that its peers need: what it is called, and where its peer API and SSH
// answer. The rest is a third of the bytes and nobody's business.
func peerHostinfo(n *tailnet.Node, hidesIPv4 bool) *tailcfg.Hostinfo {
	h := n.Hostinfo
	if h == nil {
		return &tailcfg.Hostinfo{Hostname: n.Hostname}
	}
	out := &tailcfg.Hostinfo{
		OS:             h.OS,
		Hostname:       h.Hostname,
		SSH_HostKeys:   h.SSH_HostKeys,
		ShareeNode:     h.ShareeNode,
		Location:       h.Location,
		IngressEnabled: h.IngressEnabled,
		WireIngress:    h.WireIngress,
	}
	for _, s := range h.Services {
		switch s.Proto {
		case tailcfg.PeerAPI4:
			if !hidesIPv4 {
				out.Services = append(out.Services, s)
			}
		case tailcfg.PeerAPI6, tailcfg.PeerAPIDNS:
			out.Services = append(out.Services, s)
		}
	}
	return out
}

func addresses(n *tailnet.Node, hidesIPv4 bool) []netip.Prefix {
	prefixes := n.Prefixes()
	if hidesIPv4 {
		prefixes = slices.DeleteFunc(prefixes, func(p netip.Prefix) bool { return p.Addr().Is4() })
	}
	return prefixes
}

// unknown is the node that a client is shown when there is none with its key: expired, so that it asks its user to
// log in again. A client that merely got an error would ask for ever.
func unknown(k key.NodePublic, at time.Time) *tailcfg.Node {
	return &tailcfg.Node{
		ID:        1,
		StableID:  "deleted",
		Name:      "deleted.",
		Key:       k,
		KeyExpiry: at.Add(-time.Hour).UTC().Truncate(time.Second),
		Expired:   true,
		Addresses: []netip.Prefix{},
	}
}

// derpMap is the DERP map that this client can use.
func derpMap(v *state.View, viewer Viewer) *tailcfg.DERPMap {
	if viewer.Cap < capCertPins {
		return v.PinlessOf(viewer.ID)
	}
	return v.DERPMapOf(viewer.ID)
}
