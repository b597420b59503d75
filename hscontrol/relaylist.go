package hscontrol

import (
	"cmp"
	"fmt"
	"net"
	"strconv"
	"time"

	"tailscale.com/tailcfg"

	"github.com/keelscale/keelscale/derp"
	"github.com/keelscale/keelscale/derp/derpmap"
	"github.com/keelscale/keelscale/hscontrol/api"
	"github.com/keelscale/keelscale/hscontrol/tailnet"
)

// embeddedRelays are the relays inside the servers, by their places, for administrators.
func (s *Server) embeddedRelays() (list []*api.EmbeddedRelay) {
	s.near.mu.Lock()
	place, rows := s.near.place, s.near.rows
	s.near.mu.Unlock()
	own := func() {
		if s.relay != nil {
			list = append(list, s.ownRelay(place))
		}
	}
	listed := false
	for _, o := range rows {
		if o.Place > place && !listed {
			own()
			listed = true
		}
		if o.there || !o.Left {
			list = append(list, o.listed())
		}
	}
	if !listed {
		own()
	}
	return list
}

// ownRelay is how the relay inside this server does.
func (s *Server) ownRelay(place int) *api.EmbeddedRelay {
	cfg := s.config().DERP.Server
	e := &api.EmbeddedRelay{
		Name:     "embedded",
		RegionID: cfg.RegionID, RegionCode: cfg.RegionCode, RegionName: cfg.RegionName,
		SeenAt: time.Now(), Online: true,
	}
	if s.store.Shared() {
		e.Name = listedName(cfg.RegionID, place)
	}
	if s.twin() != "" {
		e.Troubles = append(e.Troubles, "another server has its key")
	}
	putLoad(e, s.ownLoad())
	if entry := s.relayEntry(s.config()); entry != nil {
		putEntry(e, *entry)
	} else if region := s.state.DERPMap().Regions[e.RegionID]; region != nil { // as a source of the map has it
		for _, n := range region.Nodes {
			putNode(e, n)
		}
	}
	return e
}

// listed is how the relay inside another server does, as that one said.
func (o *neighbour) listed() *api.EmbeddedRelay {
	e := &api.EmbeddedRelay{Name: fmt.Sprintf("embedded-%d", o.Place), SeenAt: o.load.SeenAt, Online: o.Alive}
	putLoad(e, o.load)
	if entry := o.about.Entry; entry != nil {
		e.Name = listedName(entry.RegionID, o.Place)
		e.RegionID, e.RegionCode, e.RegionName = entry.RegionID, entry.RegionCode, entry.RegionName
		putEntry(e, *entry)
	}
	if !o.there {
		e.Published, e.OutBecause = nil, "its server does not say that it lives"
	}
	return e
}

// listedName is the name in the list of a relay that is called 999b in the DERP map.
func listedName(region, place int) string { return "embedded-" + relayName(region, place) }

func putLoad(e *api.EmbeddedRelay, l relayLoad) {
	e.Clients, e.Expires, e.Troubles = l.Clients, l.Expires, append(e.Troubles, l.Trouble...)
	e.Traffic = tailnet.RelayTraffic{Today: traffic(l.Traffic.Today), Month: traffic(l.Traffic.Month)}
}

func traffic(c derp.Carried) tailnet.Traffic {
	return tailnet.Traffic{Sent: c.Sent, Received: c.Received}
}

func putEntry(e *api.EmbeddedRelay, r derpmap.Relay) {
	if region, err := derpmap.Embedded(r); err == nil {
		putNode(e, region.Nodes[0])
	}
}

func putNode(e *api.EmbeddedRelay, n *tailcfg.DERPNode) {
	e.DERPPort, e.STUNPort = n.DERPPort, max(n.STUNPort, 0)
	port := strconv.Itoa(cmp.Or(n.DERPPort, 443))
	hosts := []string{n.IPv4, n.IPv6}
	if n.CertName == "" || n.IPv4 == "" && n.IPv6 == "" {
		hosts = []string{n.HostName}
	}
	for _, host := range hosts {
		if host != "" && host != "none" {
			e.Published = append(e.Published, net.JoinHostPort(host, port))
		}
	}
}

// serversFaults are what is not as it should be with the relays inside servers.
func (s *Server) serversFaults() (faults []api.Fault) {
	for _, o := range s.others() {
		if e := o.about.Entry; e != nil && !o.there && !o.Left {
			faults = append(faults, api.Fault{Name: "embedded-relay", Text: fmt.Sprintf(
				"%s is out of the DERP map: its server does not say that it lives; one that was removed is forgotten within a day", listedName(e.RegionID, o.Place))})
		}
	}
	if s.relay == nil {
		return faults
	}
	for _, text := range s.relay.Load().Troubles {
		faults = append(faults, api.Fault{Name: "embedded-relay", Text: "the relay inside this server: " + text})
	}
	if twin := s.twin(); twin != "" {
		faults = append(faults, api.Fault{Name: "embedded-relay-key", Severe: true, Text: fmt.Sprintf(
			"another server has the same relay key, and clients of the two relays do not reach each other: remove %s on one of them and start it again", s.config().DERP.Server.PrivateKeyPath)})
	}
	own := s.relayEntry(s.config())
	for _, o := range s.others() {
		e := o.about.Entry
		if own != nil && e != nil && o.there && e.RegionID == own.RegionID && samePlace(*own, *e) && e.CertName != own.CertName {
			faults = append(faults, api.Fault{Name: "embedded-relay-address", Severe: true, Text: fmt.Sprintf(
				"clients are told to find the relays inside two servers at the same address, %s, with different certificates: set derp.server.ipv4 or derp.server.ipv6 of each server to an address of its own", e.HostName)})
			break
		}
	}
	return faults
}

// samePlace reports whether clients would dial the same for both.
func samePlace(a, b derpmap.Relay) bool {
	if a.IPv4+a.IPv6 == "" {
		return b.IPv4+b.IPv6 == "" && a.HostName == b.HostName && a.DERPPort == b.DERPPort
	}
	return a.IPv4 == b.IPv4 && a.IPv6 == b.IPv6 && a.DERPPort == b.DERPPort
}
