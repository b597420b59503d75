package hscontrol

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"time"

	"tailscale.com/tailcfg"

	"github.com/keelscale/keelscale/derp"
	"github.com/keelscale/keelscale/derp/derpmap"
	"github.com/keelscale/keelscale/hscontrol/state"
	"github.com/keelscale/keelscale/hscontrol/store"
)

// The relays inside the servers of one database stand together in one region, and pass on what is for each other's
// clients. Each server writes down how its own is found, and looks every two seconds who else there is (store,
// replicarelay.go). No server tells another anything but by the database.
//
//	alive                    in the map, and meshed with
//	ended in order           the same, for as long as a server may be silent: who only restarts it wants no new map for all
//	dead                     out of both, if this server itself could say that it lives for as long
//
// A region whose relays are all away keeps its place in the map: see the two steps in control/relayhealth.go.

// neighbours are they.
type neighbours struct {
	meshKey string        // that they share
	changed chan struct{} // how the own relay is found is another thing now; has room for one

	mu    sync.Mutex
	place int         // of the own relay
	rows  []neighbour // the relays of the others, by place
	twin  string      // another server that has the own relay's key

	// What only keepNeighbours touches.
	told   string    // about the own relay
	noted  string    // how it does
	when   time.Time // that was written
	steady time.Time // since when every look succeeded
	looked time.Time // last
}

// neighbour is the relay inside another server.
type neighbour struct {
	store.ReplicaRelay
	about relayAbout
	load  relayLoad
	there bool      // in the map, and meshed with
	left  time.Time // when it was first missed
}

// relayAbout is how the relay inside a server is found, as replica_relays.about has it.
type relayAbout struct {
	Entry *derpmap.Relay  `json:"entry,omitempty"` // in the DERP map; nil: it shall not be there
	Mesh  []derp.MeshPeer `json:"mesh"`            // one, without its key
}

// relayLoad is how it does, as replica_relays.load has it.
type relayLoad struct {
	SeenAt  time.Time    `json:"seen_at"` // when it did so
	Clients int          `json:"clients"`
	Traffic derp.Traffic `json:"traffic"`
	Expires time.Time    `json:"expires"` // the certificate; zero where it is none of its own
	Trouble []string     `json:"trouble,omitempty"`
}

// Pauses of keepNeighbours.
const (
	looks    = 6                // in the time after which a server is dead
	noteLoad = 10 * time.Second // between two notes of how the own relay does
	noteAll  = 10 * time.Minute // the same, where nothing has changed
)

// joinNeighbours tells of the own relay for the first time, and reads who else there is.
func (s *Server) joinNeighbours(ctx context.Context) (err error) {
	s.near.changed = make(chan struct{}, 1)
	if !s.store.Shared() {
		return nil
	}
	if s.relay != nil {
		if s.near.meshKey, err = meshKey(ctx, s.store, s.config()); err != nil {
			return err
		}
		if err = s.meshNeighbours(); err != nil { // who comes later is known by the key before it is found
			return err
		}
	}
	return s.look(ctx)
}

// keepNeighbours keeps both up to date until ctx ends.
func (s *Server) keepNeighbours(ctx context.Context) error {
	if !s.store.Shared() {
		return nil
	}
	tick := time.NewTicker(s.store.DeadAfter() / looks)
	defer tick.Stop()
	for failed := false; ; {
		select {
		case <-tick.C:
		case <-s.near.changed:
		case <-ctx.Done():
			return nil
		}
		within, cancel := context.WithTimeout(ctx, s.store.DeadAfter()/2)
		err := s.look(within)
		cancel()
		if err != nil && ctx.Err() == nil && !failed {
			s.log.Warn("which relays there are inside other servers is not known; those that were stay in the DERP map", "err", err)
		}
		failed = err != nil
	}
}

// look tells of the own relay what is new, and puts those of others into the map and the mesh, or takes them out.
func (s *Server) look(ctx context.Context) error {
	n := &s.near
	now := time.Now()
	if now.Sub(n.looked) > s.store.DeadAfter()/2 { // it slept, or the database did
		n.steady = now
	}
	if err := s.tell(ctx, now); err != nil {
		return err
	}
	rows, err := s.store.ReplicaRelays(ctx)
	if err != nil {
		return err
	}
	n.looked = now
	twin := ""
	var next []neighbour
	for _, row := range rows {
		if s.relay != nil && row.Key == s.relay.PublicKey() {
			if row.Replica != s.store.Replica() && row.Alive {
				twin = row.Replica
			}
			continue
		}
		next = append(next, s.judge(row, now))
	}
	n.mu.Lock()
	same := slices.EqualFunc(n.rows, next, func(a, b neighbour) bool {
		return a.Key == b.Key && a.Place == b.Place && a.About == b.About && a.there == b.there
	})
	before := n.twin
	n.rows, n.twin = next, twin
	n.mu.Unlock()
	if twin != "" && before == "" {
		s.log.Error("another server has the key of this server's relay: they cannot be meshed", "file", s.config().DERP.Server.PrivateKeyPath)
	}
	if same {
		return nil
	}
	s.refreshDERP()
	return s.meshNeighbours()
}

// judge says whether a relay is there. Its server may be dead only to who is well himself.
func (s *Server) judge(row store.ReplicaRelay, now time.Time) neighbour {
	next := neighbour{ReplicaRelay: row}
	if err := json.Unmarshal([]byte(row.About), &next.about); err != nil {
		s.log.Debug("another server tells of its relay what this one does not understand", "err", err)
		return next
	}
	_ = json.Unmarshal([]byte(row.Load), &next.load) // for people to see, and empty at first
	n, was := &s.near, neighbour{}
	n.mu.Lock()
	if i := slices.IndexFunc(n.rows, func(o neighbour) bool { return o.Key == row.Key }); i >= 0 {
		was = n.rows[i]
	}
	n.mu.Unlock()
	patience := s.store.DeadAfter()
	switch {
	case row.Alive:
		next.there = true
	case !was.there:
	case row.Left:
		if next.left = was.left; next.left.IsZero() {
			next.left = now
		}
		next.there = now.Sub(next.left) < patience
	default:
		next.there = now.Sub(n.steady) < patience
	}
	return next
}

// tell writes down how the own relay is found, and how it does, where that has changed.
func (s *Server) tell(ctx context.Context, now time.Time) error {
	if s.relay == nil {
		return nil
	}
	n := &s.near
	about, err := s.aboutRelay(ctx)
	if err != nil {
		return err
	}
	if about != n.told {
		place, err := s.store.PutReplicaRelay(ctx, s.relay.PublicKey(), about)
		if err != nil {
			return err
		}
		n.told = about
		n.mu.Lock()
		moved := n.place != place
		n.place = place
		n.mu.Unlock()
		if moved {
			s.refreshDERP()
		}
	}
	load := s.ownLoad()
	load.SeenAt = time.Time{} // the same load again is no news
	text, err := json.Marshal(load)
	if err != nil {
		return fmt.Errorf("telling other servers how the embedded relay does: %w", err)
	}
	if since := now.Sub(n.when); since < noteLoad || string(text) == n.noted && since < noteAll {
		return nil
	}
	n.noted, n.when = string(text), now
	load.SeenAt = now.UTC()
	if text, err = json.Marshal(load); err != nil {
		return fmt.Errorf("telling other servers how the embedded relay does: %w", err)
	}
	ours, err := s.store.NoteReplicaRelay(ctx, s.relay.PublicKey(), string(text))
	if err != nil {
		return err
	}
	if !ours && s.twin() == "" { // the row is away, or of one that had the key before
		n.told, n.when = "", time.Time{}
	}
	return nil
}

// twin is another server whose relay has the same key; empty where there is none.
func (s *Server) twin() string {
	s.near.mu.Lock()
	defer s.near.mu.Unlock()
	return s.near.twin
}

// others are the relays inside other servers.
func (s *Server) others() []neighbour {
	s.near.mu.Lock()
	defer s.near.mu.Unlock()
	return s.near.rows
}

// ownLoad is how the own relay does.
func (s *Server) ownLoad() relayLoad {
	l := s.relay.Load()
	return relayLoad{SeenAt: time.Now(), Clients: l.Clients, Traffic: derp.Traffic{Today: l.Today, Month: l.Month}, Expires: s.relayExpires(), Trouble: l.Troubles}
}

// meshNeighbours links the own relay with those that are there.
func (s *Server) meshNeighbours() error {
	if s.relay == nil {
		return nil
	}
	var peers []derp.MeshPeer
	for _, o := range s.others() {
		if o.there && len(o.about.Mesh) == 1 {
			p := o.about.Mesh[0]
			p.Key = o.Key
			peers = append(peers, p)
		}
	}
	if err := s.relay.SetMesh(s.near.meshKey, peers); err != nil {
		return fmt.Errorf("meshing the relays of the servers: %w", err)
	}
	return nil
}

// relayName is the name of a relay among those of a region: 999a, 999b, and so on.
func relayName(region, place int) string {
	const letters = 26
	name := string(rune('a' + place%letters))
	for place = place/letters - 1; place >= 0; place = place/letters - 1 {
		name = string(rune('a'+place%letters)) + name
	}
	return strconv.Itoa(region) + name
}

// regions are those of the relays inside servers, as clients of this server get them: its own relay comes first, so
// that clients prefer it, and servers share the load.
func (s *Server) regions(own *derpmap.Relay) (regions []*tailcfg.DERPRegion) {
	put := func(r derpmap.Relay, place int, there bool) {
		r.Name = relayName(r.RegionID, place)
		region, err := derpmap.Embedded(r)
		if err != nil {
			s.log.Error("describing the relay inside a server", "relay", r.Name, "err", err)
			return
		}
		i := slices.IndexFunc(regions, func(o *tailcfg.DERPRegion) bool { return o.RegionID == r.RegionID })
		switch {
		case i >= 0 && there:
			regions[i].Nodes = append(regions[i].Nodes, region.Nodes...)
		case i < 0 && !there:
			region.Nodes = []*tailcfg.DERPNode{state.Placeholder(r.RegionID, r.Name)}
			fallthrough
		case i < 0:
			regions = append(regions, region)
		}
	}
	s.near.mu.Lock()
	place, rows := s.near.place, s.near.rows
	s.near.mu.Unlock()
	if own != nil {
		put(*own, place, true)
	}
	for _, there := range []bool{true, false} {
		for _, o := range rows {
			if o.about.Entry != nil && o.there == there {
				put(*o.about.Entry, o.Place, there)
			}
		}
	}
	slices.SortFunc(regions, func(a, b *tailcfg.DERPRegion) int { return cmp.Compare(a.RegionID, b.RegionID) })
	return regions
}
