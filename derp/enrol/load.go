package enrol

import (
	"strings"
	"time"

	"github.com/keelscale/keelscale/derp"
	relayv1 "github.com/keelscale/keelscale/proto/relay/v1"
)

func monthOf(t time.Time) string { return t.UTC().Format("2006-01") }

// count notes what the relay has sent in this calendar month, for the file.
func (a *Agent) count(l derp.Load) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.noteSentLocked(l.SentThisMonth, time.Now())
}

// noteSentLocked takes a count of what was sent in this month, of which the highest is right.
func (a *Agent) noteSentLocked(sent uint64, now time.Time) {
	a.mu.state.Sent = max(sent, a.usedLocked(now))
	a.mu.state.Month = monthOf(now)
}

// usedLocked is what was sent in this month, as far as anybody knows.
func (a *Agent) usedLocked(now time.Time) (used uint64) {
	if a.mu.state.Month == monthOf(now) {
		used = a.mu.state.Sent
	}
	return used
}

// load says how the relay does.
func (a *Agent) load(h Host) *relayv1.Load {
	l := h.Relay.Load()
	a.count(l)
	return &relayv1.Load{
		Started:         l.Started.UnixMicro(),
		Clients:         uint32(l.Clients),
		ReceivedBytes:   l.ReceivedBytes,
		SentBytes:       l.SentBytes,
		ReceivedPackets: l.ReceivedPackets,
		SentPackets:     l.SentPackets,
		DroppedPackets:  l.Dropped,
		Refused:         l.Refused,
		Cpu:             a.cpu.since(time.Now()),
		Troubles:        a.troubles(h, l),
	}
}

// What a server reads of troubles.
const (
	maxTroubles = 16
	maxTrouble  = 253 // bytes of each
)

// troubles are sentences for the operator of the server.
func (a *Agent) troubles(h Host, l derp.Load) (out []string) {
	a.mu.Lock()
	for _, t := range []string{a.mu.meshErr, a.mu.fileErr, skewText(a.mu.line.skew)} {
		if t != "" {
			out = append(out, t)
		}
	}
	a.mu.Unlock()
	out = append(out, l.Troubles...)
	if h.Troubles != nil {
		out = append(out, h.Troubles()...)
	}
	out = out[:min(len(out), maxTroubles)]
	for i, t := range out {
		out[i] = strings.ToValidUTF8(t[:min(len(t), maxTrouble)], "")
	}
	return out
}

// cpuMeter measures the cores that the process used since it was last asked.
type cpuMeter struct {
	at   time.Time
	used time.Duration
}

func (m *cpuMeter) since(now time.Time) float64 {
	used := cpuTime()
	wall, spent := now.Sub(m.at), used-m.used
	first := m.at.IsZero()
	m.at, m.used = now, used
	if first || wall <= 0 || spent < 0 {
		return 0
	}
	return spent.Seconds() / wall.Seconds()
}
