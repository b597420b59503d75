package control

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"tailscale.com/types/key"

	"github.com/keelscale/keelscale/hscontrol/state"
	"github.com/keelscale/keelscale/hscontrol/store"
	"github.com/keelscale/keelscale/hscontrol/tailnet"
	relayv1 "github.com/keelscale/keelscale/proto/relay/v1"
)

// relays are the relays that are connected here, and the rules for all.
//
// The way of a relay: serveRelay (here) -> enrol or know it -> relaysession.go (reports and orders, until it leaves);
// relayadmission.go says whom it may serve, relayaddress.go where clients find it. Beside that, relayprobe.go asks from
// outside whether it answers, and takes it out of the DERP map while it does not.
type relays struct {
	sync.Mutex
	open    map[tailnet.RelayID]*relaySession
	stops   map[tailnet.RelayID]time.Time // since when those stop that said so and have not come again
	rules   *RelayRules
	changed chan struct{} // closed when rules are replaced
	kick    chan struct{} // a relay wants to be probed now; capacity 1
}

// SetRelayRules replaces the rules, for those that are connected too.
func (c *Control) SetRelayRules(r *RelayRules) {
	c.relays.Lock()
	defer c.relays.Unlock()
	c.relays.rules = r
	if c.relays.changed != nil {
		close(c.relays.changed)
	}
	c.relays.changed = make(chan struct{})
}

// RelayRules are the rules in force, and what is closed when there are others.
func (c *Control) RelayRules() (*RelayRules, <-chan struct{}) {
	c.relays.Lock()
	defer c.relays.Unlock()
	return c.relays.rules, c.relays.changed
}

// relaySessionOf is the session of a relay here, or nil.
func (c *Control) relaySessionOf(id tailnet.RelayID) *relaySession {
	c.relays.Lock()
	defer c.relays.Unlock()
	return c.relays.open[id]
}

// RelaySessions is how many relays are connected here now.
func (c *Control) RelaySessions() int {
	c.relays.Lock()
	defer c.relays.Unlock()
	return len(c.relays.open)
}

// enterRelay makes s the session of its relay and ends the one before it.
func (c *Control) enterRelay(s *relaySession) {
	s.id, s.replaced = rand.Text(), make(chan struct{})
	c.relays.Lock()
	defer c.relays.Unlock()
	if old := c.relays.open[s.relay.ID]; old != nil {
		close(old.replaced) // it is taken out of the map with it, so nobody closes it twice
	}
	c.relays.open[s.relay.ID] = s
	delete(c.relays.stops, s.relay.ID)
}

// relayStops notes that the relay of s said that it stops; false if that was known.
func (c *Control) relayStops(s *relaySession) bool {
	c.relays.Lock()
	defer c.relays.Unlock()
	if _, known := c.relays.stops[s.relay.ID]; known || c.relays.open[s.relay.ID] != s {
		return false
	}
	c.relays.stops[s.relay.ID] = c.Now()
	c.probeNow()
	return true
}

// relayStopped is when the relay said that it stops; zero if it did not, or came again.
func (c *Control) relayStopped(id tailnet.RelayID) time.Time {
	c.relays.Lock()
	defer c.relays.Unlock()
	return c.relays.stops[id]
}

func (c *Control) leaveRelay(s *relaySession) {
	c.relays.Lock()
	defer c.relays.Unlock()
	if c.relays.open[s.relay.ID] == s {
		delete(c.relays.open, s.relay.ID)
	}
}

// serveRelay is the one request of an enrolled relay, or of one that wants to be: an open stream both ways, see
// proto/relay/v1.
func (c *Control) serveRelay(w http.ResponseWriter, r *http.Request) {
	s := newRelaySession(c, w, r)
	first, err := s.readReport()
	if err != nil {
		c.Log.Debug("a relay said nothing", "from", s.from, "err", err)
		http.Error(w, "the first report did not come", http.StatusBadRequest)
		return
	}
	// What comes now is read by one goroutine, which ends with the session.
	s.relay, err = c.knowRelay(r.Context(), machine(r.Context()), first, s.from)
	if err != nil {
		s.refuse(err)
		return
	}
	c.enterRelay(s)
	defer c.leaveRelay(s)
	s.log = s.log.With("relay", s.relay.Name)
	if err := c.Store.OpenRelaySession(r.Context(), s.relay.ID, s.id); err != nil && r.Context().Err() == nil {
		s.log.Error("recording that a relay is connected", "err", err)
	}
	defer s.record("recording that a relay left", func(ctx context.Context) error {
		return c.Store.CloseRelaySession(ctx, s.relay.ID, s.id)
	})
	s.log.Info("relay connected", "version", s.relay.Version)
	s.log.Info("relay left", "why", s.run(r.Context(), first))
}

// refusal is why a relay is not served.
type refusal struct {
	reason  string // a sentence for the operator of the relay
	removed bool   // and it is to forget its enrolment
	later   bool   // it is the server that cannot: the relay tries again
}

// Error implements error.
func (r *refusal) Error() string { return r.reason }

// knowRelay finds the relay that a machine is, enrols it if it has a key, and writes down what it says of itself. The
// error is a *refusal.
func (c *Control) knowRelay(ctx context.Context, m key.MachinePublic, first *relayv1.Report, from netip.Addr) (*tailnet.Relay, error) {
	if rules, _ := c.RelayRules(); rules.Off {
		return nil, &refusal{reason: "this server takes no relays: derp.relays.enabled is off in its configuration"}
	}
	derpKey, err := readHello(first.Hello)
	if err != nil {
		return nil, &refusal{reason: err.Error()}
	}
	d, err := readDescription(first.Description)
	if err != nil {
		return nil, &refusal{reason: err.Error()}
	}
	d.Version, d.DERPKey, d.SeenFrom = first.Hello.Version, derpKey, from
	d.Published = publish(&d)
	relay, err := c.enrol(ctx, m, first.Hello, d)
	if err != nil {
		return nil, c.refusal(ctx, err)
	}
	if twin := c.twinOf(relay, derpKey); twin != nil {
		return nil, &refusal{reason: fmt.Sprintf("relay %s has the same DERP key: the files of one machine were copied to another; remove the key file here and start again", twin.Name)}
	}
	if relay, err = c.Store.DescribeRelay(ctx, relay.ID, d); err != nil {
		return nil, c.refusal(ctx, err)
	}
	return relay, nil
}

// enrol is the relay of a machine: with a key a new one, or the same at another place.
func (c *Control) enrol(ctx context.Context, m key.MachinePublic, h *relayv1.Hello, d tailnet.RelayDescription) (*tailnet.Relay, error) {
	known, err := c.Store.FindRelay(ctx, m)
	if h.EnrollKey == "" {
		return known, err
	}
	if err != nil && !errors.Is(err, tailnet.ErrNotFound) && !errors.Is(err, tailnet.ErrRelayRemoved) {
		return nil, err
	}
	taken, codes := c.foreignRegions()
	if known == nil && slices.Contains(codes, h.Region) {
		return nil, &refusal{reason: fmt.Sprintf("the DERP map of this server has a region %q already that is not made of enrolled relays; choose another --region", h.Region)}
	}
	relay, err := c.Store.EnrolRelay(ctx, store.RelayEnrolment{Key: h.EnrollKey, MachineKey: m, Region: h.Region, Name: h.Name, Taken: taken, Description: d})
	if err == nil && (known == nil || known.KeyID != relay.KeyID) {
		c.Log.Info("relay enrolled", "relay", relay.Name, "id", relay.ID, "region", relay.RegionID, "from", d.SeenFrom)
	}
	return relay, err
}

// foreignRegions are the numbers and codes of the regions in clients' maps that are not made of enrolled relays.
func (c *Control) foreignRegions() (ids []tailnet.RegionID, codes []string) {
	found := map[tailnet.RegionID]string{}
	if m := c.State.DERPMap(); m != nil {
		for id, r := range m.Regions {
			found[tailnet.RegionID(id)] = r.RegionCode
		}
	}
	for _, v := range c.State.Views() {
		if v.DERPMap == nil {
			continue
		}
		for id, r := range v.DERPMap.Regions {
			if v.Regions[tailnet.RegionID(id)] == nil && r != nil {
				found[tailnet.RegionID(id)] = r.RegionCode
			}
		}
	}
	return slices.Sorted(maps.Keys(found)), slices.Collect(maps.Values(found))
}

// twinOf is another relay with the same DERP key, or nil.
func (c *Control) twinOf(relay *tailnet.Relay, k key.NodePublic) *tailnet.Relay {
	for _, v := range c.State.Views() {
		for _, r := range v.Relays {
			if r.ID != relay.ID && r.DERPKey == k {
				return r
			}
		}
	}
	return nil
}

// refusal is what a relay is told of an error.
func (c *Control) refusal(ctx context.Context, err error) error {
	var known *refusal
	switch {
	case errors.As(err, &known):
		return known
	case errors.Is(err, tailnet.ErrRelayRemoved):
		return &refusal{reason: "an administrator removed it", removed: true}
	case errors.Is(err, tailnet.ErrNotFound):
		return &refusal{reason: "this server does not know the relay: start it with --enroll-key, with a key of headscale derp enroll-keys create"}
	case errors.Is(err, tailnet.ErrRelayRefused), errors.Is(err, tailnet.ErrInvalid), errors.Is(err, tailnet.ErrConflict),
		errors.Is(err, tailnet.ErrTooMany), errors.Is(err, tailnet.ErrExists), errors.Is(err, tailnet.ErrExhausted):
		return &refusal{reason: strings.TrimPrefix(err.Error(), "enrolling relay: ")}
	}
	if ctx.Err() == nil {
		c.Log.Error("looking up a relay", "err", err)
	}
	return &refusal{reason: "the server cannot look up relays now", later: true}
}

// currentRelay is a relay as the newest views have it, and its region; nils where they do not have it.
func currentRelay(views []*state.View, id tailnet.RelayID) (*tailnet.Relay, *tailnet.RelayRegion) {
	for _, v := range views {
		if r := v.Relay(id); r != nil {
			return r, v.Regions[r.RegionID]
		}
	}
	return nil, nil
}

// recordTime bounds what is written when a session ends.
const recordTime = 10 * time.Second
