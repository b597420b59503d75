package derp

import (
	"sync"
	"time"
)

// Carried is what a relay took and passed on in some time: bytes of packets, also those from and to other relays.
type Carried struct {
	Sent     uint64 `json:"sent"`
	Received uint64 `json:"received"`
}

func (c Carried) plus(d Carried) Carried { return Carried{c.Sent + d.Sent, c.Received + d.Received} }

// minus is never less than nothing: who asks at the turn of a day may have counted a moment before another who asks.
func (c Carried) minus(d Carried) Carried {
	return Carried{c.Sent - min(c.Sent, d.Sent), c.Received - min(c.Received, d.Received)}
}

// journal counts by calendar days and months (UTC), for people to see; month is what the quota goes by.
type journal struct {
	mu         sync.Mutex
	day, month period
}

// period is the day or month that it is.
type period struct {
	name   string  // 2026-11-22, 2026-11
	before Carried // by this process, before the period began
	extra  Carried // in the period, before this process began
}

const dayFormat = "2006-01-02"

// count is what was carried today and in this month, when the process has carried total.
func (j *journal) count(now time.Time, total Carried) (today, month Carried) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.day.count(now.UTC().Format(dayFormat), total), j.month.count(now.UTC().Format(monthFormat), total)
}

func (p *period) count(name string, total Carried) Carried {
	switch p.name {
	case name:
	case "": // the first since the process began
		p.name = name
	default:
		*p = period{name: name, before: total}
	}
	return total.minus(p.before).plus(p.extra)
}

// resume adds what former processes carried.
func (j *journal) resume(now time.Time, today, month Carried) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.day.resume(now.UTC().Format(dayFormat), today)
	j.month.resume(now.UTC().Format(monthFormat), month)
}

func (p *period) resume(name string, c Carried) {
	if p.name == "" {
		p.name = name
	}
	if p.name == name {
		p.extra = p.extra.plus(c)
	}
}

// Resume has Load.Today and Load.Month go on from what the relay carried before it was started, as ReadTraffic says it.
// It is meant to be called once.
func (r *Relay) Resume(was Traffic) {
	r.engine.journal.resume(time.Now(), was.Today, was.Month)
}
