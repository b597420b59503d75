package derp

import (
	"sync"
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
	Troubles                                               []string // sentences for the operator; none is healthy
}

// Load tells how the relay does.
func (r *Relay) Load() Load {
	e := r.engine
	n := e.census()
	l := Load{
		Started:         e.start,
		Clients:         n.clients - n.meshed,
		ReceivedBytes:   n.gotBytes + n.gotForwardBytes,
		SentBytes:       n.sent(),
		ReceivedPackets: n.gotPackets + n.gotForwards,
		SentPackets:     n.sentPackets + n.lines.sentPackets,
		Refused:         uint64(e.count.refused.Load()),
		SentThisMonth:   e.month.count(time.Now(), n.sent()),
	}
	for why := range dropReasons {
		for kind := range kinds {
			l.Dropped += uint64(e.count.dropped[why][kind].Load())
		}
	}
	if why := e.closedTo(); why != "" {
		l.Troubles = append(l.Troubles, why)
	}
	return l
}

// sent is what left the relay, in bytes.
func (n census) sent() uint64 { return n.sentBytes + n.lines.sentBytes }

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

// month counts what was sent in the calendar month.
type month struct {
	mu    sync.Mutex
	which int    // year*12 + month
	base  uint64 // what the relay had sent when the month began
	extra uint64 // what it sent before it was started
}

// monthOf numbers the months.
func monthOf(t time.Time) int {
	year, m, _ := t.UTC().Date()
	return year*12 + int(m) - 1
}

// count is what was sent this month, when the relay has sent total since it began.
func (m *month) count(now time.Time, total uint64) uint64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.countLocked(now, total)
}

func (m *month) countLocked(now time.Time, total uint64) uint64 {
	if which := monthOf(now); which != m.which {
		m.which, m.base, m.extra = which, total, 0
	}
	return total - m.base + m.extra
}

// atLeast raises the count to what somebody else knows of.
func (m *month) atLeast(now time.Time, total, used uint64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if n := m.countLocked(now, total); n < used {
		m.extra += used - n
	}
}
