package hscontrol

import (
	"context"
	"net/netip"
	"path/filepath"
	"sync"
	"time"

	"tailscale.com/types/key"

	"github.com/keelscale/keelscale/derp"
	"github.com/keelscale/keelscale/hscontrol/control"
)

// guests are the nodes that the embedded relay admitted, or is about to.
type guests struct {
	sync.Mutex
	known map[key.NodePublic]*guest
}

type guest struct {
	asked time.Time          // when it last came
	bound control.RelayBound // that it was last under
}

// Pauses of keepRelay.
const (
	guestPause = 250 * time.Millisecond // between two looks, though the first after a quiet time is at once
	guestStays = time.Minute            // a node that is not connected is remembered for so long
)

// admit is who may use the embedded relay. A node is remembered before it is looked up: so, if it is a node no more a
// moment later, whoever notices that knows that it has to be sent away.
func (s *Server) admit(ctx context.Context, node key.NodePublic, _ netip.Addr) (bool, error) {
	s.guests.Lock()
	if s.guests.known == nil {
		s.guests.known = map[key.NodePublic]*guest{}
	}
	if s.guests.known[node] == nil {
		s.guests.known[node] = &guest{}
	}
	s.guests.known[node].asked = time.Now()
	s.guests.Unlock()
	ok, err := s.control.Admits(ctx, node)
	if _, n := s.state.Find(node); !ok && !control.Admitted(n) {
		s.guests.Lock()
		delete(s.guests.known, node)
		s.guests.Unlock()
		s.relay.Evict(node) // who came earlier with this key
	}
	return ok, err
}

// keepRelay has the embedded relay serve whom relays may serve now, within the bounds of the configuration, until ctx
// ends.
func (s *Server) keepRelay(ctx context.Context) error {
	if s.relay == nil {
		return nil
	}
	used, err := derp.ReadMonth(s.monthFile(), time.Now())
	if err != nil {
		s.log.Warn("what the embedded relay has sent in this month is not known; it is counted from now on", "err", err)
	}
	if was, err := derp.ReadTraffic(s.monthFile(), time.Now()); err == nil { // otherwise it was told of above
		s.relay.Resume(was)
	}
	var wait sync.WaitGroup
	defer wait.Wait()
	wait.Go(func() { s.keepMonth(ctx) })
	var was *control.RelayRules
	forgot := time.Now()
	for {
		round := s.state.Round()
		rules, replaced := s.control.RelayRules()
		if s.lookAtGuests(rules) || rules != was {
			s.relay.SetLimits(s.relayLimits(rules, used))
		}
		was = rules
		if time.Since(forgot) > guestStays {
			s.forgetGuests()
			forgot = time.Now()
		}
		select {
		case <-time.After(guestPause):
		case <-ctx.Done():
			return nil
		}
		select {
		case <-round:
		case <-replaced:
		case <-time.After(guestStays):
		case <-ctx.Done():
			return nil
		}
	}
}

// lookAtGuests sends those away that may not use relays any more, and says whether the bound of any is another one now.
func (s *Server) lookAtGuests(rules *control.RelayRules) (changed bool) {
	s.guests.Lock()
	var gone []key.NodePublic
	for k, g := range s.guests.known {
		_, n := s.state.Find(k)
		if !control.Admitted(n) {
			gone = append(gone, k)
			delete(s.guests.known, k)
			continue
		}
		if bound := rules.BoundOf(n); bound != g.bound {
			g.bound, changed = bound, true
		}
	}
	s.guests.Unlock()
	for _, k := range gone {
		s.relay.Evict(k)
	}
	return changed
}

// forgetGuests forgets those that left.
func (s *Server) forgetGuests() {
	here := map[key.NodePublic]bool{}
	for _, k := range s.relay.Clients() {
		here[k] = true
	}
	s.guests.Lock()
	defer s.guests.Unlock()
	for k, g := range s.guests.known {
		if !here[k] && time.Since(g.asked) > guestStays {
			delete(s.guests.known, k)
		}
	}
}

// relayLimits are the bounds of the embedded relay.
func (s *Server) relayLimits(r *control.RelayRules, used uint64) derp.Limits {
	bound := func(b control.RelayBound) derp.Bound { return derp.Bound{Rate: b.Rate, Burst: b.Burst} }
	l := derp.Limits{
		Node: derp.Each(bound(r.PerNode)), Total: bound(r.Total),
		MonthlyQuota: r.MonthlyQuota, UsedThisMonth: used,
		ConnectionsPerSecond: r.ConnectionsPerSecond,
	}
	if len(r.PerTag) > 0 {
		l.Node = func(k key.NodePublic) derp.Bound {
			if _, n := s.state.Find(k); n != nil {
				return bound(r.BoundOf(n))
			}
			return bound(r.PerNode)
		}
	}
	return l
}

// keepMonth writes down what the embedded relay has carried, until ctx ends.
func (s *Server) keepMonth(ctx context.Context) {
	s.relay.KeepMonth(ctx, s.monthFile, func(_ string, err error) {
		s.log.Error("writing down what the embedded relay has carried", "err", err)
	})
}

func (s *Server) monthFile() string { return filepath.Join(s.config().DataDir, "derp_month.json") }
