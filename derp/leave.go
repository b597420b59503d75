package derp

import (
	"context"
	"math/rand/v2"
	"sync"
	"time"

	"tailscale.com/derp"
	"tailscale.com/types/key"
)

// How clients leave when it is not their own wish: one node at once (Evict), or all of them,
// spread over a while so that they do not all fall upon the next relay in the same moment.

// Evict ends all connections of a node at once, also one that is still being admitted, and
// reports how many there were. Who takes a node off the list that Admit looks at does so
// before.
func (r *Relay) Evict(node key.NodePublic) int { return r.engine.evict(rawKey(node)) }

// SetDraining has the relay refuse new clients and send away those that are here, spread over
// a few seconds; false has it take clients again. Other relays of the mesh stay connected.
// Meanwhile its probes and its STUN server answer nobody, so that clients choose another relay.
func (r *Relay) SetDraining(on bool) {
	r.engine.setClosed(func(g *closure) { g.draining = on })
}

// drainTime is over how long a relay that goes on running sends its clients away.
const drainTime = 5 * time.Second

// closure says why a relay takes no clients. Its zero value takes them.
type closure struct {
	draining bool // the operator wants it
	spent    bool // the quota of the month is
}

// reason is a sentence for the operator; "" when clients are taken.
func (g closure) reason() string {
	switch {
	case g.spent:
		return "the traffic of this month is used up: no clients until the next month"
	case g.draining:
		return "draining: no new clients"
	}
	return ""
}

// news is what clients hear who are sent away.
func (g closure) news() string {
	if g.spent {
		return "this relay has used up its traffic for the month"
	}
	return "this relay is being taken out of service"
}

// closedTo is why no clients are taken, "" if they are.
func (e *engine) closedTo() string {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.closure.reason()
}

// sending is the task of sending clients away.
type sending struct {
	sync.Mutex
	stop context.CancelFunc // nil when there is no such task
	done sync.WaitGroup
}

// setClosed changes why clients are not taken, and sends them away or stops doing so.
func (e *engine) setClosed(change func(*closure)) {
	e.sending.Lock()
	defer e.sending.Unlock()
	e.mu.Lock()
	was := e.closure
	change(&e.closure)
	is := e.closure
	e.takesNone.Store(is.reason() != "")
	var list []*client
	for c := range e.clients {
		if !c.meshed {
			list = append(list, c)
		}
	}
	shut := e.closed
	e.mu.Unlock()
	if is == was || shut {
		return
	}
	if stop := e.sending.stop; stop != nil && (is.reason() == "") {
		stop()
		e.sending.stop = nil
	}
	if is.reason() == "" || e.sending.stop != nil {
		return
	}
	ctx, stop := context.WithCancel(context.Background())
	e.sending.stop = stop
	e.sending.done.Go(func() {
		e.sendAway(ctx, list, drainTime, func(c *client) { c.tell(derp.FrameHealth, []byte(is.news())) })
	})
}

// stopSending ends the task of sending clients away.
func (e *engine) stopSending() {
	e.sending.Lock()
	defer e.sending.Unlock()
	if e.sending.stop != nil {
		e.sending.stop()
		e.sending.stop = nil
	}
	e.sending.done.Wait()
}

// drain tells the clients that the relay restarts, and sends all away. It returns when they
// have left, or ctx ends.
func (e *engine) drain(ctx context.Context, over time.Duration) {
	list := e.all(true)
	e.sendAway(ctx, list, over, func(c *client) {
		// In milliseconds: when to come back, and how long to try.
		c.tell(derp.FrameRestarting, []byte{0, 0, 0, 100, 0, 0, 0x75, 0x30})
	})
	for _, c := range list {
		select {
		case <-c.ended:
		case <-ctx.Done():
			return
		}
	}
}

// drainStep is the most time between two clients that are sent away.
const drainStep = 10 * time.Millisecond

// sendAway closes connections one after the other, spread over at most the given time.
func (e *engine) sendAway(ctx context.Context, list []*client, over time.Duration, tell func(*client)) {
	if len(list) == 0 {
		return
	}
	rand.Shuffle(len(list), func(i, j int) { list[i], list[j] = list[j], list[i] })
	step := min(over/time.Duration(len(list)), drainStep)
	t := time.NewTicker(max(step, time.Millisecond))
	defer t.Stop()
	perTick := max(1, int(time.Millisecond*time.Duration(len(list))/max(over, 1)))
	for i, c := range list {
		tell(c)
		c.leave()
		if i%perTick != perTick-1 {
			continue
		}
		select {
		case <-t.C:
		case <-ctx.Done():
			return
		}
	}
}
