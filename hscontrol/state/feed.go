package state

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/keelscale/keelscale/hscontrol/tailnet"
)

// Feed is where the newest view of one tailnet is found.
type Feed struct {
	id      tailnet.ID
	current atomic.Pointer[Edition]

	// listeners counts the sessions that wake at each view; the rest after each view grows with it.
	listeners atomic.Int64
}

// Edition is a published view, and the news that there is a newer one.
type Edition struct {
	*View
	feed       *Feed
	superseded chan struct{}
	ended      atomic.Int64 // when it was superseded, in nanoseconds since 1970; 0: not yet
}

// Superseded is closed when a newer view has been published, or when the tailnet was deleted.
func (e *Edition) Superseded() <-chan struct{} { return e.superseded }

// Lag is how many views newer than this one were published, and when the first of them was; zero for none.
func (e *Edition) Lag() (views uint64, since time.Time) {
	ended := e.ended.Load()
	if ended == 0 {
		return 0, time.Time{}
	}
	if newest := e.feed.Load(); newest != nil {
		views = newest.Seq - e.Seq
	}
	return views, time.Unix(0, ended)
}

// Load is the newest view, or nil after the tailnet was deleted.
func (f *Feed) Load() *Edition { return f.current.Load() }

// Listen counts the caller among those who wake at each view until stop is called.
func (f *Feed) Listen() (stop func()) {
	f.listeners.Add(1)
	return sync.OnceFunc(func() { f.listeners.Add(-1) })
}

// publish makes v the newest view. Only the follower calls it.
func (f *Feed) publish(v *View, at time.Time) {
	old := f.current.Load()
	v.Seq = 1
	if old != nil {
		v.Seq = old.Seq + 1
	}
	f.current.Store(&Edition{View: v, feed: f, superseded: make(chan struct{})})
	if old != nil {
		old.ended.Store(at.UnixNano())
		close(old.superseded)
	}
}

// end says that the tailnet is gone.
func (f *Feed) end() {
	if old := f.current.Swap(nil); old != nil {
		close(old.superseded)
	}
}
