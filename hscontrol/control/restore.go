package control

import (
	"context"
	"time"

	"github.com/keelscale/keelscale/hscontrol/store"
	"github.com/keelscale/keelscale/hscontrol/tailnet"
)

// restoreEvery is how often it is looked whether those who poll here count as online.
const restoreEvery = 2 * time.Second

// restoreSessions makes nodes and relays that are connected here online again, where the database says otherwise: it
// was away when they came, or another server took this one for dead.
func (c *Control) restoreSessions(ctx context.Context) {
	tick := time.NewTicker(restoreEvery)
	defer tick.Stop()
	missed := map[string]bool{} // IDs of sessions that were not online at the last look: those that just came are not yet
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		missing := c.offlineHere()
		var refs []store.SessionRef
		now := map[string]bool{}
		for _, ref := range missing {
			now[ref.SessionID] = true
			if missed[ref.SessionID] {
				refs = append(refs, ref)
			}
		}
		missed = now
		if len(refs) > 0 {
			if err := c.Store.RestoreSessions(ctx, refs); err == nil {
				c.Log.Warn("nodes that are connected here were offline in the database", "nodes", len(refs))
			}
		}
		c.restoreRelays(ctx)
	}
}

// offlineHere are the sessions of this process whose nodes are offline in the newest views.
func (c *Control) offlineHere() (refs []store.SessionRef) {
	online := map[tailnet.ID]map[nodeID]bool{}
	for _, s := range c.live.sessions() {
		e := s.feed.Load()
		if e == nil {
			continue
		}
		if online[e.Tailnet.ID] == nil {
			online[e.Tailnet.ID] = onlineNodes(e.Nodes)
		}
		if is, known := online[e.Tailnet.ID][s.viewer.ID]; known && !is { // one that was deleted is not to come back
			refs = append(refs, store.SessionRef{NodeID: s.viewer.ID, SessionID: s.id})
		}
	}
	return refs
}

func onlineNodes(nodes []*tailnet.Node) map[nodeID]bool {
	m := make(map[nodeID]bool, len(nodes))
	for _, n := range nodes {
		m[n.ID] = n.Online
	}
	return m
}

// sessions are the polls of this process.
func (l *live) sessions() []*session {
	l.mu.Lock()
	defer l.mu.Unlock()
	all := make([]*session, 0, len(l.open))
	for _, s := range l.open {
		all = append(all, s)
	}
	return all
}

// restoreRelays does the same for relays.
func (c *Control) restoreRelays(ctx context.Context) {
	c.relays.Lock()
	open := make(map[tailnet.RelayID]*relaySession, len(c.relays.open))
	for id, s := range c.relays.open {
		open[id] = s
	}
	c.relays.Unlock()
	for _, v := range c.State.Views() {
		for _, r := range v.Relays {
			if s := open[r.ID]; s != nil && !r.Online && c.Now().Sub(s.since) > 2*restoreEvery {
				_ = c.Store.OpenRelaySession(ctx, r.ID, s.id) // it is tried again
			}
			delete(open, r.ID)
		}
	}
}
