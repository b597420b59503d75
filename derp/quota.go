package derp

import (
	"sync"
	"time"

	"tailscale.com/derp"
)

// The quota of the month. When it is spent, the relay tells its clients, sends them away over
// a few seconds and takes none until the month is over; packets that are under way still go,
// as to drop them would cost more than it saves: they would be sent again by another way.

// quotaTick is how often the count is compared with the quota.
const quotaTick = time.Second

// month counts what was sent in the calendar month (UTC).
type month struct {
	mu    sync.Mutex
	which int    // year*12 + month
	base  uint64 // what the relay had sent when the month began
	extra uint64 // what it sent in this month before it was started
}

// monthOf numbers the months.
func monthOf(t time.Time) int {
	year, m, _ := t.UTC().Date()
	return year*12 + int(m) - 1
}

// count is what was sent this month, when the relay has sent total since it began.
func (m *month) count(now time.Time, total uint64) uint64 { return m.atLeast(now, total, 0) }

// atLeast is count, and raises it to what somebody else knows of.
func (m *month) atLeast(now time.Time, total, used uint64) uint64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	if which := monthOf(now); which != m.which {
		m.which, m.base, m.extra = which, total, 0
	}
	n := total - m.base + m.extra
	if n < used {
		m.extra += used - n
	}
	return max(n, used)
}

// carried is what left the relay, in bytes, as the quota counts it: whole frames.
func (e *engine) carried() uint64 {
	const head, forwardHead = derp.FrameHeaderLen + derp.KeyLen, derp.FrameHeaderLen + 2*derp.KeyLen
	e.mu.Lock()
	defer e.mu.Unlock()
	clients, lines := e.retired, e.retiredLines
	for c := range e.clients {
		clients.add(c)
	}
	for c := range e.lines {
		lines.add(c)
	}
	return clients.sentBytes + clients.sentPackets*head + lines.sentBytes + lines.sentPackets*forwardHead
}

// checkQuota opens or closes the relay to clients, as the quota says.
func (e *engine) checkQuota(now time.Time) {
	quota := e.limits.Load().MonthlyQuota
	n := e.month.count(now, e.carried())
	e.setClosed(func(g *closure) { g.spent = quota > 0 && n >= quota })
}

// watchQuota compares the count with the quota until the engine is closed.
func (e *engine) watchQuota() {
	t := time.NewTicker(quotaTick)
	defer t.Stop()
	for {
		select {
		case now := <-t.C:
			// Without a quota it is enough to notice that a month begins.
			if e.limits.Load().MonthlyQuota > 0 || now.Second() == 0 {
				e.checkQuota(now)
			}
		case <-e.over:
			return
		}
	}
}
