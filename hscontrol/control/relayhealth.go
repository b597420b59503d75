package control

import (
	"context"
	"errors"
	"strings"
	"sync"
	"time"

	"github.com/keelscale/keelscale/hscontrol/state"
	"github.com/keelscale/keelscale/hscontrol/tailnet"
)

// How a relay gets out of the DERP map and in again. Each server probes the relays that are connected to it, and those
// that are connected to none: a relay that lost its control server goes on as long as it answers. One that says that it
// stops is not probed until it comes again, and is taken out if it does not within a rest: who only restarts it wants no
// new map for all.
//
//	not probed yet --one good probe--> healthy --failures probes fail, one after the other--> out
//	out --a good probe--> returns --another--> healthy
//
// A relay returns in two steps, since a client goes on with the region that it had for up to two minutes after that left
// the map, and does not connect when it is there again, because its home has not changed (netcheck, PreferredDERP;
// magicsock, setNearestDERP). What frees it is a change of a region that is there. So first the region comes without the
// relay (state.relayRegions), and then with it.
const (
	failures    = 3
	fewFailures = 2                // where probes are rare
	rareProbes  = 6 * time.Second  // from this pause on
	leastProbes = 1 * time.Second  // pause between two rounds, also of relays that have just come
	neverProbes = 10 * time.Second // pause where probing is off
	retell      = 12               // failures until the sentence why is told anew
	mostRest    = 10 * time.Second // where probes are rare or off
)

// relayRest is how long a relay that stops may stay away: two rounds.
func (r *RelayRules) relayRest() time.Duration {
	if r.ProbeEvery > 0 {
		return min(2*r.ProbeEvery, mostRest)
	}
	return mostRest
}

// relayHealth is what this server knows of a relay by asking it.
type relayHealth struct {
	session   string // here, in which this was found out; empty: it is connected nowhere
	bad       int    // probes in a row
	verdict   *bool  // what this server last wrote
	shown     bool   // and has seen in a view since: one from before may say the contrary
	overruled bool   // and another one wrote the contrary: this one says no more
}

// wrote notes what this server wrote.
func (h *relayHealth) wrote(healthy bool) { h.verdict, h.shown = &healthy, false }

// sees notes what a view says of a relay that is connected nowhere. The contrary of what this server wrote, and has seen
// written, is another one's word.
func (h *relayHealth) sees(healthy bool) {
	switch {
	case h.verdict == nil || h.session != "":
	case healthy == *h.verdict:
		h.shown = true
	case h.shown:
		h.overruled = true
	}
}

// probeNow has the relays probed without waiting for the next round.
func (c *Control) probeNow() {
	select {
	case c.relays.kick <- struct{}{}:
	default:
	}
}

// watchRelays probes relays until ctx ends.
func (c *Control) watchRelays(ctx context.Context) {
	health := map[tailnet.RelayID]*relayHealth{}
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		rules, changed := c.RelayRules()
		pause := neverProbes
		if rules.ProbeEvery > 0 {
			pause = rules.ProbeEvery
		}
		if !rules.Off {
			stops := c.takeOutStopped(ctx, rules.relayRest())
			returns := c.probeRelays(ctx, rules, health)
			if stops || returns {
				pause = min(pause, leastProbes)
			}
		}
		least := time.NewTimer(min(leastProbes, pause))
		timer.Reset(pause)
		select {
		case <-timer.C:
		case <-changed:
		case <-c.relays.kick:
		case <-ctx.Done():
		}
		select {
		case <-least.C:
		case <-ctx.Done():
			least.Stop()
			return
		}
	}
}

// probed is a relay and what its probe found.
type probed struct {
	relay   *tailnet.Relay
	session *relaySession // here, or nil
	err     error
	deaf    bool // STUN did not answer
}

// probeRelays asks all relays that are this server's to ask, at the same time, and writes down what that means. It
// reports whether one returns, and should be asked again soon.
func (c *Control) probeRelays(ctx context.Context, rules *RelayRules, health map[tailnet.RelayID]*relayHealth) (returns bool) {
	asked := c.toProbe(health)
	if rules.ProbeEvery > 0 {
		within, cancel := context.WithTimeout(ctx, rules.ProbeTime)
		var wait sync.WaitGroup
		for _, p := range asked {
			wait.Go(func() { p.ask(within) })
		}
		wait.Wait()
		cancel()
	}
	if ctx.Err() != nil {
		return false
	}
	if nobodyAnswers(asked) {
		c.Log.Warn("no relay answers, and none is connected: it is taken for a fault of this server's own network", "relays", len(asked))
		return false
	}
	enough := failures
	if rules.ProbeEvery >= rareProbes {
		enough = fewFailures
	}
	for _, p := range asked {
		h := health[p.relay.ID]
		if p.session != nil {
			p.session.deaf.Store(p.deaf && p.err == nil)
		}
		if p.err == nil {
			h.bad = 0
		} else {
			h.bad++
		}
		returns = c.judge(ctx, p, h, enough) || returns
	}
	return returns
}

// ask asks the relay, and its STUN.
func (p *probed) ask(ctx context.Context) {
	node := state.RelayNode(p.relay)
	if node == nil {
		p.err = errors.New("nobody knows an address for it, or its certificate")
		return
	}
	p.err = askRelay(ctx, node)
	p.deaf = p.err == nil && !askSTUN(ctx, p.relay)
	if errors.Is(p.err, errNoRoute) && p.session != nil {
		p.err = nil // it is connected, and that has to do
	}
}

// nobodyAnswers reports whether several relays were asked, in vain, and no connection to any is left: then it is
// likelier that this server lost its network than that all relays are away.
func nobodyAnswers(asked []*probed) bool {
	for _, p := range asked {
		if p.err == nil || p.session != nil {
			return false
		}
	}
	return len(asked) > 1
}

// toProbe are the relays that are connected here, and those that are connected nowhere. What is known of others is
// forgotten.
func (c *Control) toProbe(health map[tailnet.RelayID]*relayHealth) (out []*probed) {
	there := map[tailnet.RelayID]bool{}
	for _, r := range relaysOf(admission{views: c.State.Views()}) {
		s, stops := c.relaySessionOf(r.ID), !c.relayStopped(r.ID).IsZero()
		if r.Draining || stops || s == nil && (r.Online || r.OutBecause == tailnet.RelayStopped) {
			continue
		}
		session := ""
		if s != nil {
			session = s.id
		}
		there[r.ID] = true
		h := health[r.ID]
		switch {
		case h == nil || session != "" && h.session != session:
			health[r.ID] = &relayHealth{session: session}
		case h.session != session: // it lost its session: what was found out stays true
			h.session = session
		}
		out = append(out, &probed{relay: r, session: s})
	}
	for id := range health {
		if !there[id] {
			delete(health, id)
		}
	}
	return out
}

// takeOutStopped takes out the relays that said that they stop and have stayed away for a rest. It reports whether it
// waits for others.
func (c *Control) takeOutStopped(ctx context.Context, rest time.Duration) (waits bool) {
	for _, r := range relaysOf(admission{views: c.State.Views()}) {
		since := c.relayStopped(r.ID)
		here := c.relaySessionOf(r.ID) != nil
		switch {
		case since.IsZero():
		case !here && r.Online, !here && !r.Healthy: // another server has it, or all is said
			c.relays.Lock()
			delete(c.relays.stops, r.ID)
			c.relays.Unlock()
		case c.Now().Sub(since) < rest:
			waits = true
		case r.Healthy && !r.Draining:
			c.setHealth(ctx, r, false, tailnet.RelayStopped)
		}
	}
	return waits
}

// judge writes down what probes mean for a relay, and reports whether that is that it returns.
func (c *Control) judge(ctx context.Context, p *probed, h *relayHealth, enough int) (returns bool) {
	r := p.relay
	if !c.relayStopped(r.ID).IsZero() {
		return false
	}
	h.sees(r.Healthy)
	healthy, because := r.Healthy, r.OutBecause
	switch {
	case p.err == nil && (r.Healthy || r.OutBecause == tailnet.RelayNotProbed || r.OutBecause == tailnet.RelayReturns):
		healthy, because = true, ""
	case p.err == nil:
		because = tailnet.RelayReturns
	case p.err != nil && r.Healthy && h.bad >= enough:
		healthy, because = false, sentence(p.err)
	case p.err != nil && !r.Healthy && h.bad%retell == 1:
		because = sentence(p.err)
	}
	if healthy == r.Healthy && because == r.OutBecause || h.overruled && h.session == "" {
		return false
	}
	if c.setHealth(ctx, r, healthy, because) {
		h.wrote(healthy)
	}
	return because == tailnet.RelayReturns
}

// setHealth writes down whether a relay is healthy, and if not, why.
func (c *Control) setHealth(ctx context.Context, r *tailnet.Relay, healthy bool, because string) bool {
	if err := c.Store.SetRelayHealth(ctx, r.ID, healthy, because); err != nil {
		if !errors.Is(err, tailnet.ErrNotFound) && ctx.Err() == nil {
			c.Log.Error("writing down the health of a relay", "relay", r.Name, "err", err)
		}
		return false
	}
	switch {
	case healthy && !r.Healthy:
		c.Log.Info("relay put into the DERP map", "relay", r.Name, "at", strings.Join(clientAddrs(r), " "))
	case because == tailnet.RelayReturns:
	case !healthy && r.Healthy:
		c.Log.Warn("relay taken out of the DERP map", "relay", r.Name, "why", because)
	case !healthy:
		c.Log.Warn("relay stays out of the DERP map", "relay", r.Name, "why", because)
	}
	return true
}

// sentence is what the operator reads.
func sentence(err error) string {
	text := err.Error()
	if strings.HasPrefix(text, "nobody answers") {
		text += ": is the relay running, and its port open and forwarded to it?"
	}
	return text
}
