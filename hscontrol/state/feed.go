package state

import (
	"sync"
	"sync/atomic"

	"github.com/keelscale/keelscale/hscontrol/tailnet"
)

// Feed is where the newest view of one tailnet is found.
type Feed struct {
	id      tailnet.ID
	current atomic.Pointer[Edition]

	// listeners counts the sessions that wake at each view; the pause between views grows with it.
	listeners atomic.Int64
}

// Edition is a published view, and the news that there is a newer one.
type Edition struct {
	*View
	superseded chan struct{}
}

// Superseded is closed when a newer view has been published, or when the tailnet was deleted.
func (e *Edition) Superseded() <-chan struct{} { return e.superseded }

// Load is the newest view, or nil after the tailnet was deleted.
func (f *Feed) Load() *Edition { return f.current.Load() }

// Listen counts the caller among those who wake at each view until stop is called.
func (f *Feed) Listen() (stop func()) {
	f.listeners.Add(1)
	return sync.OnceFunc(func() { f.listeners.Add(-1) })
}

// publish makes v the newest view. Only the follower calls it.
func (f *Feed) publish(v *View) {
	old := f.current.Load()
	v.Seq = 1
	if old != nil {
		v.Seq = old.Seq + 1
	}
	f.current.Store(&Edition{View: v, superseded: make(chan struct{})})
	if old != nil {
		close(old.superseded)
	}
}

// end says that the tailnet is gone.
func (f *Feed) end() {
	if old := f.current.Swap(nil); old != nil {
		close(old.superseded)
	}
}
