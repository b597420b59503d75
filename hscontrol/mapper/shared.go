package mapper

import (
	"sync"
	"time"

	"github.com/keelscale/keelscale/hscontrol/state"
	"github.com/keelscale/keelscale/hscontrol/tailnet"
)

// sharedDeltas keeps the encoded differences that many sessions are about to send, per tailnet and for the newest
// views only.
type sharedDeltas struct {
	mu        sync.Mutex
	byTailnet map[tailnet.ID]*recent
}

// recent are the differences that end at one view. Sessions that lag end at older ones and do without.
type recent struct {
	to     *state.View
	deltas map[deltaKey]*delta
}

// deltaKey names those who get the same bytes: they last had the same view and are of the same classes in both.
type deltaKey struct {
	from        *state.View
	wasIn, isIn int
	compress    bool
}

// delta is made once by whoever comes first.
type delta struct {
	once   sync.Once
	frame  []byte // nil: nothing to send
	usable bool   // false: what changed is not the same for all, each must make its own
}

// DiffFrame is the frame of Diff(from, to, viewer), nil where there is nothing to send. Viewers who only look on while
// others change, and who see the same of it, share one encoding.
func (m *Mapper) DiffFrame(from, to *state.View, viewer Viewer, compress bool, at time.Time) (frame []byte, gone bool) {
	is, was := to.Node(viewer.ID), from.Node(viewer.ID)
	if is == nil {
		return nil, true
	}
	if was == is && from.Domain == to.Domain && headDiff(from, to, viewer, was, is) == nil {
		if d := m.shared.delta(from, to, viewer.ID, compress); d != nil {
			d.once.Do(func() { d.make(m, from, to, viewer.ID, compress) })
			if d.usable {
				return d.frame, false
			}
		}
	}
	msg, gone := m.Diff(from, to, viewer, at)
	if msg.Empty() {
		return nil, gone
	}
	return m.Frame(msg, compress), gone
}

// make encodes the difference as the first viewer sees it. It holds for the others of the class if it speaks only of
// nodes that changed themselves: none of those who share it did, and none of them is spoken of.
func (d *delta) make(m *Mapper, from, to *state.View, viewer tailnet.NodeID, compress bool) {
	msg, resighted := m.peersDiff(from, to, viewer)
	if resighted {
		return
	}
	d.usable = true
	if !msg.Empty() {
		d.frame = m.Frame(msg, compress)
	}
}

// delta finds or makes the place of a shared difference; nil if to is not the newest view seen here.
func (s *sharedDeltas) delta(from, to *state.View, viewer tailnet.NodeID, compress bool) *delta {
	k := deltaKey{from: from, wasIn: from.Policy.Class(viewer), isIn: to.Policy.Class(viewer), compress: compress}
	if k.wasIn < 0 || k.isIn < 0 {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	r := s.byTailnet[to.Tailnet.ID]
	if r == nil || r.to.Seq < to.Seq {
		if s.byTailnet == nil {
			s.byTailnet = map[tailnet.ID]*recent{}
		}
		r = &recent{to: to, deltas: map[deltaKey]*delta{}}
		s.byTailnet[to.Tailnet.ID] = r
	}
	if r.to != to {
		return nil
	}
	d := r.deltas[k]
	if d == nil {
		d = &delta{}
		r.deltas[k] = d
	}
	return d
}
