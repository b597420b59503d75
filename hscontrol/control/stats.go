package control

import (
	"sync/atomic"
	"time"

	"github.com/keelscale/keelscale/hscontrol/state"
)

// Stage is how often something was done, and how long that took in all.
type Stage struct {
	Count uint64
	Took  time.Duration
}

// Stats is how the polls of this process do.
type Stats struct {
	Encode, Send Stage  // map responses made, those that were shared too; and sent
	SentBytes    uint64 // of them, before HTTP/2 and Noise

	// Of the session that is furthest behind: how many views it has not been told of, and for how long.
	BehindViews uint64
	Behind      time.Duration
}

// stage counts.
type stage struct {
	count atomic.Uint64
	took  atomic.Int64
}

// since notes that it was done, and when it was begun.
func (s *stage) since(begun time.Time) {
	s.count.Add(1)
	s.took.Add(int64(time.Since(begun)))
}

func (s *stage) read() Stage {
	return Stage{Count: s.count.Load(), Took: time.Duration(s.took.Load())}
}

// Stats says how the polls do, at the given time.
func (c *Control) Stats(now time.Time) Stats {
	s := Stats{Encode: c.encoded.read(), Send: c.sent.read(), SentBytes: c.sentBytes.Load()}
	for _, e := range c.live.cursors() {
		views, since := e.Lag()
		s.BehindViews = max(s.BehindViews, views)
		if !since.IsZero() {
			s.Behind = max(s.Behind, now.Sub(since))
		}
	}
	return s
}

// cursors are what the sessions sent last.
func (l *live) cursors() (editions []*state.Edition) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, s := range l.open {
		if e := s.cursor.Load(); e != nil {
			editions = append(editions, e)
		}
	}
	return editions
}
