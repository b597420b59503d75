package state

import (
	"context"
	"fmt"
	"reflect"
	"slices"
	"time"

	"github.com/keelscale/keelscale/hscontrol/tailnet"
)

// Pauses of the follower. The first change of a tailnet after a quiet time goes out at once; those that come while its
// sessions are still busy with it are gathered, for longer while others are busy too. A tailnet that rests keeps no other
// one waiting.
const (
	restMost        = 500 * time.Millisecond
	restForOthers   = 200 * time.Millisecond // of it, for the sessions of other tailnets
	restPerListener = 75 * time.Microsecond  // what one session and its client cost when it wakes
	roundPause      = time.Millisecond       // between two rounds
	retryPause      = 250 * time.Millisecond
)

// Run follows the store until ctx ends. While the store cannot be read it keeps what it has published and tries again.
func (s *State) Run(ctx context.Context) error {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		moved := s.store.Moved()
		begun := time.Now()
		due, err := s.catchUp(ctx)
		s.publishing.Add(int64(time.Since(begun)))
		if ctx.Err() != nil {
			return nil
		}
		pause := roundPause
		if err != nil {
			s.log.Error("following the store", "err", err)
			pause = retryPause
		}
		timer.Reset(pause)
		select {
		case <-timer.C:
		case <-ctx.Done():
			return nil
		}
		if err != nil {
			continue
		}
		wait := s.untilExpiry()
		if !due.IsZero() {
			wait = min(wait, time.Until(due))
		}
		timer.Reset(wait)
		select {
		case <-moved:
		case <-s.wake:
		case <-timer.C:
		case <-ctx.Done():
			return nil
		}
	}
}

// catchUp publishes a view of each tailnet that moved. Those that still rest are left, and it says when the first of
// them is due; zero if there is none.
func (s *State) catchUp(ctx context.Context) (due time.Time, err error) {
	revisions, err := s.store.Revisions(ctx)
	if err != nil {
		return time.Time{}, err
	}
	s.mu.RLock()
	settings, derpMap, pinless := s.settings, s.derpMap, s.pinless
	s.mu.RUnlock()
	published := false
	now := s.now()
	for id, rev := range revisions {
		feed := s.feedFor(id)
		var prev *View
		if e := feed.Load(); e != nil {
			prev = e.View
		}
		if prev != nil && prev.Rev == rev && prev.general == settings && prev.base == derpMap && !s.expiryDue(id, now) {
			continue
		}
		if rests := s.follow.rests[id]; time.Until(rests) > 0 {
			if due.IsZero() || rests.Before(due) {
				due = rests
			}
			continue
		}
		next, err := s.advance(ctx, id, prev, now)
		if err != nil {
			return time.Time{}, fmt.Errorf("tailnet %d: %w", id, err)
		}
		if next == nil {
			continue
		}
		next.general, next.base, next.DERPMap, next.Pinless = settings, derpMap, derpMap, pinless
		s.dress(ctx, next, prev)
		s.locate(id, prev, next)
		feed.publish(next, s.now())
		s.published.Add(1)
		published = true
		s.rest(id, time.Duration(feed.turns.all.Load())*restPerListener)
	}
	if s.dropGone(revisions) || published {
		s.round.Lock()
		close(s.round.done)
		s.round.done = make(chan struct{})
		s.round.Unlock()
	}
	return due, nil
}

// rest has a tailnet rest until its sessions, and those of all others that were woken before them, have had the time
// that they need.
func (s *State) rest(id tailnet.ID, takes time.Duration) {
	now := time.Now()
	if s.follow.busy.Before(now) {
		s.follow.busy = now
	}
	s.follow.busy = s.follow.busy.Add(takes)
	if most := now.Add(restForOthers); s.follow.busy.After(most) {
		s.follow.busy = most
	}
	rests := now.Add(min(takes, restMost))
	if rests.Before(s.follow.busy) {
		rests = s.follow.busy
	}
	s.follow.rests[id] = rests
}

// advance makes the view after prev from what the store says changed since; nil when the tailnet is gone.
func (s *State) advance(ctx context.Context, id tailnet.ID, prev *View, now time.Time) (*View, error) {
	var from tailnet.Revision
	var snapshot *tailnet.Snapshot
	if prev != nil {
		from, snapshot = prev.Rev, prev.Snapshot
	}
	delta, err := s.store.Since(ctx, id, from)
	if err != nil {
		return nil, err
	}
	if delta.Gone {
		return nil, nil
	}
	for _, n := range delta.Nodes {
		n.Lapsed = n.Expired(now)
	}
	delta.Nodes = append(delta.Nodes, lapsed(snapshot, delta, now)...)
	delta.Nodes = bar(snapshot, delta)
	next := snapshot.Next(delta)
	s.follow.expiry[id] = nextExpiry(next.Nodes, now)
	return &View{Snapshot: next}, nil
}

// lapsed are copies of the nodes whose keys expired since the snapshot was made, less those that delta brings anyway.
func lapsed(snapshot *tailnet.Snapshot, delta tailnet.Delta, now time.Time) []*tailnet.Node {
	if snapshot == nil || delta.Full {
		return nil
	}
	var out []*tailnet.Node
	for _, n := range snapshot.Nodes {
		if n.Lapsed || !n.Expired(now) {
			continue
		}
		if slices.ContainsFunc(delta.Nodes, func(m *tailnet.Node) bool { return m.ID == n.ID }) {
			continue
		}
		c := *n
		c.Lapsed = true
		out = append(out, &c)
	}
	return out
}

func nextExpiry(nodes []*tailnet.Node, now time.Time) time.Time {
	var next time.Time
	for _, n := range nodes {
		if n.Expiry != nil && n.Expiry.After(now) && (next.IsZero() || n.Expiry.Before(next)) {
			next = *n.Expiry
		}
	}
	return next
}

func (s *State) expiryDue(id tailnet.ID, now time.Time) bool {
	at := s.follow.expiry[id]
	return !at.IsZero() && !at.After(now)
}

// untilExpiry is how long until the next key expires in any tailnet, an hour at most.
func (s *State) untilExpiry() time.Duration {
	wait := time.Hour
	now := s.now()
	for _, at := range s.follow.expiry {
		if !at.IsZero() {
			wait = min(wait, max(at.Sub(now), 0))
		}
	}
	return wait
}

// dress adds to the snapshot what stands beside it: domain, the compiled policy, DNS, and what the policy says of relays.
func (s *State) dress(ctx context.Context, next, prev *View) {
	next.putSettings(prev)
	next.Domain = next.Settings.domain(next.Tailnet)
	prefixes := next.Settings.prefixes(next.Tailnet)
	if prev != nil && slices.Equal(prefixes, prev.Prefixes) {
		prefixes = prev.Prefixes
	}
	next.Prefixes = prefixes
	next.Policy = s.compile(ctx, next, prev)
	next.putDNS(prev)
	next.putRelays(prev)
	next.putDERPMap(prev)
	next.ChooseRegions(prev)
	s.tellOfRegions(next, prev)
}

// putDNS makes the DNS configuration; prev's where it is the same.
func (v *View) putDNS(prev *View) {
	if prev != nil && v.Settings == prev.Settings && v.Domain == prev.Domain && v.Policy.Policy() == prev.Policy.Policy() {
		v.DNS = prev.DNS
		return
	}
	v.DNS = v.Settings.dnsConfig(v.Domain, v.Prefixes, v.Policy.Policy().ExtraRecords())
	if prev != nil && reflect.DeepEqual(v.DNS, prev.DNS) {
		v.DNS = prev.DNS
	}
}
