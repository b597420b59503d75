package state

import (
	"sync/atomic"
	"time"

	"github.com/keelscale/keelscale/hscontrol/tailnet"
)

// Feed is where the newest view of one tailnet is found.
type Feed struct {
	id      tailnet.ID
	current atomic.Pointer[Edition]
	turns   turns
}

func newFeed(id tailnet.ID) *Feed { return &Feed{id: id, turns: turns{most: turnsMost()}} }

// Edition is a published view.
type Edition struct {
	*View
	feed  *Feed
	ended atomic.Int64 // when it was superseded, in nanoseconds since 1970; 0: not yet
}

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

// publish makes v the newest view. Only the follower calls it.
func (f *Feed) publish(v *View, at time.Time) {
	old := f.current.Load()
	v.Seq = 1
	if old != nil {
		v.Seq = old.Seq + 1
	}
	f.replace(&Edition{View: v, feed: f}, at)
}

// end says that the tailnet is gone.
func (f *Feed) end(at time.Time) { f.replace(nil, at) }

func (f *Feed) replace(e *Edition, at time.Time) {
	if old := f.current.Swap(e); old != nil {
		old.ended.Store(at.UnixNano())
	}
	f.turns.begin()
}
