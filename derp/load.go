package derp

import (
	"time"

	"tailscale.com/types/key"
)

// Load is how a relay does. Its counters begin with the relay.
type Load struct {
	Started                                                time.Time
	Clients                                                int      // connections of nodes
	ReceivedBytes, SentBytes, ReceivedPackets, SentPackets uint64   // of packets, also those of other relays
	Dropped                                                uint64   // packets
	Refused                                                uint64   // connections
	SentThisMonth                                          uint64   // bytes, as of Limits.MonthlyQuota
	Today, Month                                           Carried  // in the calendar day and month (UTC)
	Troubles                                               []string // sentences for the operator; none is healthy
}

// Load tells how the relay does.
func (r *Relay) Load() Load {
	e := r.engine
	n, now := e.census(), time.Now()
	l := Load{
		Started:         e.start,
		Clients:         n.clients - n.meshed,
		ReceivedBytes:   n.gotBytes + n.gotForwardBytes,
		SentBytes:       n.sentBytes + n.lines.sentBytes,
		ReceivedPackets: n.gotPackets + n.gotForwards,
		SentPackets:     n.sentPackets + n.lines.sentPackets,
		Refused:         uint64(e.count.refused.Load()),
		SentThisMonth:   e.month.count(now, e.carried()),
	}
	l.Today, l.Month = e.journal.count(now, Carried{Sent: l.SentBytes, Received: l.ReceivedBytes})
	for why := range dropReasons {
		for kind := range kinds {
			l.Dropped += uint64(e.count.dropped[why][kind].Load())
		}
	}
	if why := e.closedTo(); why != "" {
		l.Troubles = append(l.Troubles, why)
	}
	l.Troubles = append(l.Troubles, r.brokenLinks(now)...)
	return l
}

// Clients are the nodes that are connected now.
func (r *Relay) Clients() []key.NodePublic {
	e := r.engine
	e.mu.Lock()
	defer e.mu.Unlock()
	var list []key.NodePublic
	for c := range e.clients {
		// Each node once: by the connection that gets its packets.
		if p, ok := e.peers.Load(c.key); ok && !c.meshed && p.active.Load() == c {
			list = append(list, c.key.public())
		}
	}
	return list
}
