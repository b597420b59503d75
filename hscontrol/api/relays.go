package api

import (
	"cmp"
	"context"
	"fmt"
	"net"
	"slices"
	"strconv"

	"tailscale.com/tailcfg"

	headscalev1 "github.com/keelscale/keelscale/proto/headscale/v1"

	"github.com/keelscale/keelscale/hscontrol/api/access"
	"github.com/keelscale/keelscale/hscontrol/state"
	"github.com/keelscale/keelscale/hscontrol/store"
	"github.com/keelscale/keelscale/hscontrol/tailnet"
)

// ListRelays lists the relays that enrolled, and those inside the servers, with how they do.
func (s *Server) ListRelays(ctx context.Context, req *headscalev1.ListRelaysRequest) (*headscalev1.ListRelaysResponse, error) {
	f := store.RelayFilter{OwnedBy: access.Of(ctx).Tailnet}
	if name := req.GetTailnet(); name != "" && name != allTailnets {
		t, err := s.tailnetNamed(ctx, name)
		if err != nil {
			return nil, err
		}
		f.Serving = t.ID
	}
	relays, err := s.cfg.Store.ListRelays(ctx, f)
	if err != nil {
		return nil, err
	}
	l, err := s.lookAtRelays(ctx)
	if err != nil {
		return nil, err
	}
	resp := &headscalev1.ListRelaysResponse{}
	if s.cfg.Embedded != nil && everything(ctx) == nil {
		for _, e := range s.cfg.Embedded() {
			resp.Relays = append(resp.Relays, l.embedded(e))
		}
	}
	for _, r := range relays {
		resp.Relays = append(resp.Relays, l.relay(r))
	}
	resp.Relays, resp.NextPageToken, err = page(req, resp.Relays, func(r *headscalev1.Relay) place { return place{number: r.GetId()} })
	return resp, err
}

// RemoveRelay forgets a relay, which then serves nobody.
func (s *Server) RemoveRelay(ctx context.Context, req *headscalev1.RemoveRelayRequest) (*headscalev1.RemoveRelayResponse, error) {
	r, err := s.relay(ctx, req.GetRelay())
	if err != nil {
		return nil, err
	}
	if err := s.cfg.Store.RemoveRelay(ctx, r.ID); err != nil {
		return nil, err
	}
	return &headscalev1.RemoveRelayResponse{}, nil
}

// DrainRelay has a relay send its clients away, or take some again.
func (s *Server) DrainRelay(ctx context.Context, req *headscalev1.DrainRelayRequest) (*headscalev1.DrainRelayResponse, error) {
	r, err := s.relay(ctx, req.GetRelay())
	if err != nil {
		return nil, err
	}
	if r, err = s.cfg.Store.DrainRelay(ctx, r.ID, !req.GetUndo()); err != nil {
		return nil, err
	}
	l, err := s.lookAtRelays(ctx)
	if err != nil {
		return nil, err
	}
	return &headscalev1.DrainRelayResponse{Relay: l.relay(r)}, nil
}

// RenameRelay renames a relay or its region, or moves it to another region.
func (s *Server) RenameRelay(ctx context.Context, req *headscalev1.RenameRelayRequest) (*headscalev1.RenameRelayResponse, error) {
	r, err := s.relay(ctx, req.GetRelay())
	if err != nil {
		return nil, err
	}
	if req.GetName() == "" && req.GetRegion() == "" && req.GetRegionName() == "" {
		return nil, invalid("say what shall be called otherwise: a name, a region, or a name of the region")
	}
	n := store.RelayNames{Name: req.GetName(), Region: req.GetRegion(), RegionName: req.GetRegionName(), Taken: s.regionIDs()}
	if r, err = s.cfg.Store.RenameRelay(ctx, r.ID, n); err != nil {
		return nil, err
	}
	l, err := s.lookAtRelays(ctx)
	if err != nil {
		return nil, err
	}
	return &headscalev1.RenameRelayResponse{Relay: l.relay(r)}, nil
}

// regionIDs are those of the map, which no new region may have.
func (s *Server) regionIDs() (ids []tailnet.RegionID) {
	if s.cfg.DERPMap == nil {
		return nil
	}
	for _, id := range s.cfg.DERPMap().RegionIDs() {
		ids = append(ids, tailnet.RegionID(id))
	}
	return ids
}

// relay finds a relay that the caller may change, by its ID or its name.
func (s *Server) relay(ctx context.Context, ref string) (*tailnet.Relay, error) {
	if ref == "" {
		return nil, invalid("say which relay: by its ID, or its name")
	}
	f := store.RelayFilter{Name: ref}
	if id, err := strconv.ParseUint(ref, 10, 63); err == nil && id != 0 {
		f = store.RelayFilter{ID: tailnet.RelayID(id)}
	}
	found, err := s.cfg.Store.ListRelays(ctx, f)
	if err != nil {
		return nil, err
	}
	if len(found) == 0 && s.isEmbedded(ref) {
		return nil, invalid("the relay inside the server is not enrolled: derp.server in the configuration is about it")
	}
	if len(found) == 0 || !mayReach(ctx, found[0].TailnetID) {
		return nil, fmt.Errorf("%w: relay %q: see headscale derp list", tailnet.ErrNotFound, ref)
	}
	return found[0], nil
}

// relayLook is what messages about relays refer to.
type relayLook struct {
	*names
	regions   map[tailnet.RegionID]*tailnet.RelayRegion
	loads     map[tailnet.RelayID]*tailnet.RelayLoad
	traffic   map[tailnet.RelayID]tailnet.RelayTraffic
	views     []*state.View // of the tailnets that the caller may see
	latencies func(tailnet.RegionID) (median float64, nodes int)
}

func (s *Server) lookAtRelays(ctx context.Context) (*relayLook, error) {
	n, err := s.tailnetNames(ctx)
	if err != nil {
		return nil, err
	}
	l := &relayLook{names: n, regions: map[tailnet.RegionID]*tailnet.RelayRegion{}}
	regions, err := s.cfg.Store.ListRelayRegions(ctx)
	if err != nil {
		return nil, err
	}
	for _, r := range regions {
		l.regions[r.ID] = r
	}
	if l.loads, err = s.cfg.Store.RelayLoads(ctx); err != nil {
		return nil, err
	}
	if l.traffic, err = s.cfg.Store.RelayTraffic(ctx); err != nil {
		return nil, err
	}
	var snapshots []*tailnet.Snapshot
	for id := range n.tailnets {
		if s.cfg.View == nil || !mayReach(ctx, id) {
			continue
		}
		if v := s.cfg.View(id); v != nil {
			l.views = append(l.views, v)
			snapshots = append(snapshots, v.Snapshot)
		}
	}
	l.latencies = func(id tailnet.RegionID) (float64, int) { return medianLatency(snapshots, id) }
	return l, nil
}

// medianLatency is, in seconds, the median of what the connected nodes measured to a region, and how many did.
func medianLatency(snapshots []*tailnet.Snapshot, id tailnet.RegionID) (float64, int) {
	v4, v6 := fmt.Sprintf("%d-v4", id), fmt.Sprintf("%d-v6", id)
	var seconds []float64
	for _, s := range snapshots {
		for _, n := range s.Nodes {
			if !n.Online || n.Hostinfo == nil || n.Hostinfo.NetInfo == nil {
				continue
			}
			if best := lowestLatency(n.Hostinfo.NetInfo, v4, v6); best > 0 {
				seconds = append(seconds, best)
			}
		}
	}
	if len(seconds) == 0 {
		return 0, 0
	}
	slices.Sort(seconds)
	middle := len(seconds) / 2
	if len(seconds)%2 == 1 {
		return seconds[middle], len(seconds)
	}
	return (seconds[middle-1] + seconds[middle]) / 2, len(seconds)
}

// lowestLatency is the better one of both families; zero for none. Clients may say anything.
func lowestLatency(info *tailcfg.NetInfo, keys ...string) (best float64) {
	const most = 60
	for _, k := range keys {
		if d := info.DERPLatency[k]; d > 0 && d < most && (best == 0 || d < best) {
			best = d
		}
	}
	return best
}

func (l *relayLook) relay(r *tailnet.Relay) *headscalev1.Relay {
	m := &headscalev1.Relay{
		Id:         uint64(r.ID),
		Name:       r.Name,
		RegionId:   uint32(r.RegionID),
		Tailnet:    l.tailnets[r.TailnetID],
		Hostname:   r.Hostname,
		Addresses:  texts(r.Addresses),
		DerpPort:   uint32(r.DERPPort),
		StunPort:   uint32(r.STUNPort),
		Port_80:    r.Port80,
		Version:    r.Version,
		MachineKey: r.MachineKey.String(),
		Online:     r.Online,
		Healthy:    r.Healthy,
		Draining:   r.Draining,
		OutBecause: r.OutBecause,
		CreatedAt:  timestamp(&r.CreatedAt),
	}
	if r.SeenFrom.IsValid() {
		m.SeenFrom = r.SeenFrom.String()
	}
	if !r.DERPKey.IsZero() {
		m.DerpKey = r.DERPKey.String()
	}
	if region := l.regions[r.RegionID]; region != nil {
		m.RegionCode, m.RegionName = region.Code, region.Name
	}
	for _, c := range r.Certificates {
		m.Certificates = append(m.Certificates, &headscalev1.RelayCertificate{Name: c.Name, Pin: c.Pin, Expires: timestamp(&c.Expires)})
	}
	if load := l.loads[r.ID]; load != nil {
		m.Clients, m.Troubles, m.SeenAt = load.Clients, load.Troubles, timestamp(&load.SeenAt)
	}
	traffic := l.traffic[r.ID]
	m.Today, m.Month = trafficMessage(traffic.Today), trafficMessage(traffic.Month)
	l.publish(m, r)
	l.measure(m)
	return m
}

// publish says where clients find the relay, by the DERP maps that they get; a relay that is left out is found nowhere.
func (l *relayLook) publish(m *headscalev1.Relay, r *tailnet.Relay) {
	if !r.Healthy || r.Draining {
		return
	}
	for _, v := range l.views {
		if v.DERPMap == nil || !r.Serves(v.Tailnet.ID) {
			continue
		}
		if n := nodeOf(v.DERPMap, r); n != nil {
			m.Published = addressesOf(n)
			return
		}
		m.OutBecause = fmt.Sprintf("region %d is another one in the server's own map, or a policy leaves it out; see headscale health", r.RegionID)
	}
}

// nodeOf is the relay in a DERP map, or nil.
func nodeOf(m *tailcfg.DERPMap, r *tailnet.Relay) *tailcfg.DERPNode {
	region := m.Regions[int(r.RegionID)]
	if region == nil {
		return nil
	}
	for _, n := range region.Nodes {
		if n.Name == r.Name {
			return n
		}
	}
	return nil
}

// addressesOf is where clients dial: the addresses, if the map has any, else the name.
func addressesOf(n *tailcfg.DERPNode) (at []string) {
	port := strconv.Itoa(cmp.Or(n.DERPPort, 443))
	for _, host := range []string{n.IPv4, n.IPv6} {
		if host != "" && host != "none" {
			at = append(at, net.JoinHostPort(host, port))
		}
	}
	if len(at) == 0 {
		at = []string{net.JoinHostPort(n.HostName, port)}
	}
	return at
}

func trafficMessage(t tailnet.Traffic) *headscalev1.RelayTraffic {
	return &headscalev1.RelayTraffic{Sent: t.Sent, Received: t.Received}
}

// measure says how far the region is for nodes.
func (l *relayLook) measure(m *headscalev1.Relay) {
	median, nodes := l.latencies(tailnet.RegionID(m.RegionId))
	m.LatencyMs, m.LatencyNodes = median*1000, uint32(nodes)
}

// isEmbedded reports whether that is how a relay inside a server is listed.
func (s *Server) isEmbedded(name string) bool {
	return s.cfg.Embedded != nil && slices.ContainsFunc(s.cfg.Embedded(), func(e *EmbeddedRelay) bool { return e.Name == name })
}

func (l *relayLook) embedded(e *EmbeddedRelay) *headscalev1.Relay {
	m := &headscalev1.Relay{
		Name:       e.Name,
		RegionId:   uint32(e.RegionID),
		RegionCode: e.RegionCode,
		RegionName: e.RegionName,
		Published:  e.Published,
		DerpPort:   uint32(e.DERPPort),
		StunPort:   uint32(e.STUNPort),
		Online:     e.Online,
		Healthy:    e.OutBecause == "",
		OutBecause: e.OutBecause,
		Troubles:   e.Troubles,
		Clients:    uint64(e.Clients),
		Today:      trafficMessage(e.Traffic.Today),
		Month:      trafficMessage(e.Traffic.Month),
		Embedded:   true,
	}
	if !e.SeenAt.IsZero() {
		m.SeenAt = timestamp(&e.SeenAt)
	}
	if !e.Expires.IsZero() {
		m.Certificates = []*headscalev1.RelayCertificate{{Expires: timestamp(&e.Expires)}}
	}
	l.measure(m)
	return m
}
