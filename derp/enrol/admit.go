package enrol

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"tailscale.com/types/key"
)

const (
	// joinWait is how long a node that is not on the list may wait for it: it may have joined a second ago.
	joinWait = 2 * time.Second
	// maxWaiting bounds those who wait so, as any stranger may be among them.
	maxWaiting = 256
)

// Why a node is refused; the relay logs it.
var (
	errNoList   = errors.New("no list of nodes came from the control server yet")
	errOver     = errors.New("the control server has been away for too long")
	errUnlisted = errors.New("the control server does not name this node")
)

// Admit is a derp.Admit: it lets in the nodes that the control server named, while that is not too long ago.
func (a *Agent) Admit(ctx context.Context, node key.NodePublic, _ netip.Addr) (bool, error) {
	again, why := a.roster.admits(node, time.Now())
	if why == nil {
		return true, nil
	}
	if again == nil {
		return false, why
	}
	if !a.waiting.enter() {
		return false, why
	}
	defer a.waiting.leave()
	patience := time.NewTimer(joinWait)
	defer patience.Stop()
	for why != nil && again != nil {
		select {
		case <-again:
			again, why = a.roster.admits(node, time.Now())
		case <-patience.C:
			return false, why
		case <-ctx.Done():
			return false, why
		}
	}
	return why == nil, why
}

// waiters counts those who wait.
type waiters chan struct{}

func (w waiters) enter() bool {
	select {
	case w <- struct{}{}:
		return true
	default:
		return false
	}
}

func (w waiters) leave() { <-w }

// admits says why a node may not come in, nil if it may. If that may change soon, again is closed when it is time to ask
// again.
func (r *roster) admits(node key.NodePublic, now time.Time) (again <-chan struct{}, why error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	_, known := r.nodes[node]
	switch ok, _ := r.servedLocked(now); {
	case known && ok:
		return nil, nil
	case r.nodes == nil:
		why = errNoList
	case !ok:
		why = errOver
	default:
		why = errUnlisted
	}
	if r.open || r.trying {
		again = r.changed
	}
	return again, why
}

// served reports whether the list counts now, and without a session until when.
func (r *roster) served(now time.Time) (bool, time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.servedLocked(now)
}

func (r *roster) servedLocked(now time.Time) (bool, time.Time) {
	if r.nodes == nil {
		return false, time.Time{}
	}
	if r.up {
		return true, time.Time{}
	}
	until := r.contact.Add(r.outage)
	return now.Before(until), until
}

// ended reports, once, that the list counts no more.
func (r *roster) ended(now time.Time) (since time.Time, ended bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if ok, _ := r.servedLocked(now); ok || r.nodes == nil || r.over {
		return time.Time{}, false
	}
	r.over = true
	return r.contact, true
}

// endOutage sends everybody away once the control server has been away for too long.
func (a *Agent) endOutage(h Host, now time.Time) {
	since, ended := a.roster.ended(now)
	if !ended {
		return
	}
	n := a.sweep(h)
	a.log.Error("the control server has been away for too long: nobody is admitted until it is back",
		"since", since.UTC().Format(time.RFC3339), "sent_away", n)
}

// sweep ends the connections of those that may not be here, because they are not on the list, or it counts no more.
func (a *Agent) sweep(h Host) (sentAway int) {
	now := time.Now()
	for _, k := range h.Relay.Clients() {
		if _, why := a.roster.admits(k, now); why != nil {
			sentAway += a.evict(h, k, why)
		}
	}
	return sentAway
}

// evict ends a node's connections.
func (a *Agent) evict(h Host, node key.NodePublic, why error) int {
	n := h.Relay.Evict(node)
	if n > 0 {
		a.log.Info("node sent away", "node", node.ShortString(), "connections", n, "reason", fmt.Sprint(why))
	}
	return n
}
