package hstest

import (
	"errors"
	"fmt"
	"maps"
	"slices"

	"tailscale.com/tailcfg"
)

// Netmap is what a client knows, kept as a client keeps it (control/controlclient/map.go).
type Netmap struct {
	Node     *tailcfg.Node
	Peers    map[tailcfg.NodeID]*tailcfg.Node
	Profiles map[tailcfg.UserID]tailcfg.UserProfile
	Filters  map[string][]tailcfg.FilterRule
	DNS      *tailcfg.DNSConfig
	DERP     *tailcfg.DERPMap
	SSH      *tailcfg.SSHPolicy
	Domain   string
}

// NewNetmap knows nothing.
func NewNetmap() *Netmap {
	return &Netmap{
		Peers:    map[tailcfg.NodeID]*tailcfg.Node{},
		Profiles: map[tailcfg.UserID]tailcfg.UserProfile{},
		Filters:  map[string][]tailcfg.FilterRule{},
	}
}

// Apply takes in one message. It refuses what a client would stumble over.
func (m *Netmap) Apply(r *tailcfg.MapResponse) error {
	if m.Node == nil && r.Node == nil {
		return errors.New("the first message has no Node")
	}
	if r.Node != nil {
		m.Node = r.Node
	}
	if r.Peers != nil {
		clear(m.Peers)
	}
	for _, p := range slices.Concat(r.Peers, r.PeersChanged) {
		if p.ID == m.Node.ID || p.Key == m.Node.Key {
			return fmt.Errorf("node %d is among its own peers", p.ID)
		}
		m.Peers[p.ID] = p
	}
	for _, id := range r.PeersRemoved {
		if m.Peers[id] == nil {
			return fmt.Errorf("peer %d was removed, but is not known", id)
		}
		delete(m.Peers, id)
	}
	for _, c := range r.PeersChangedPatch {
		if err := m.patch(c); err != nil {
			return err
		}
	}
	for _, p := range r.UserProfiles {
		m.Profiles[p.ID] = p
	}
	for name, rules := range r.PacketFilters {
		if rules == nil {
			delete(m.Filters, name)
		} else {
			m.Filters[name] = rules
		}
	}
	if r.PacketFilter != nil {
		m.Filters["base"] = r.PacketFilter
	}
	if r.DNSConfig != nil {
		m.DNS = r.DNSConfig
	}
	if r.DERPMap != nil {
		m.DERP = r.DERPMap
	}
	if r.SSHPolicy != nil {
		m.SSH = r.SSHPolicy
	}
	if r.Domain != "" {
		m.Domain = r.Domain
	}
	return m.check()
}

func (m *Netmap) patch(c *tailcfg.PeerChange) error {
	was := m.Peers[c.NodeID]
	if was == nil {
		return fmt.Errorf("peer %d was patched, but is not known", c.NodeID)
	}
	patched := *was
	p := &patched
	if c.DERPRegion != 0 {
		p.HomeDERP = c.DERPRegion
		p.LegacyDERPString = fmt.Sprintf("%s:%d", tailcfg.DerpMagicIP, c.DERPRegion)
	}
	if c.Endpoints != nil {
		p.Endpoints = c.Endpoints
	}
	if c.Online != nil {
		p.Online = c.Online
		if *c.Online {
			p.LastSeen = nil
		}
	}
	if c.LastSeen != nil {
		p.LastSeen = c.LastSeen
	}
	if c.Cap != 0 {
		p.Cap = c.Cap
	}
	if c.Key != nil {
		p.Key = *c.Key
	}
	if c.DiscoKey != nil {
		p.DiscoKey = *c.DiscoKey
	}
	if c.KeyExpiry != nil {
		p.KeyExpiry = *c.KeyExpiry
	}
	if c.CapMap != nil {
		p.CapMap = c.CapMap
	}
	m.Peers[c.NodeID] = p
	return nil
}

// check finds peers whose owner the client was never told of.
func (m *Netmap) check() error {
	for _, p := range m.Peers {
		if _, ok := m.Profiles[p.User]; !ok {
			return fmt.Errorf("peer %d belongs to user %d, whose profile was not sent", p.ID, p.User)
		}
	}
	return nil
}

// Peer is the peer whose host name is name, or nil.
func (m *Netmap) Peer(name string) *tailcfg.Node {
	for _, p := range m.Peers {
		if p.Hostinfo.Valid() && p.Hostinfo.Hostname() == name {
			return p
		}
	}
	return nil
}

// Names are the host names of all peers, sorted.
func (m *Netmap) Names() []string {
	var names []string
	for _, id := range slices.Sorted(maps.Keys(m.Peers)) {
		names = append(names, m.Peers[id].Hostinfo.Hostname())
	}
	slices.Sort(names)
	return names
}
