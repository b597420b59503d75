package mapper

import (
	"sync"
	"time"

	"github.com/keelscale/keelscale/hscontrol/state"
	"github.com/keelscale/keelscale/hscontrol/tailnet"
)

// shared keeps what many sessions are about to send, per tailnet and for the newest views only.
type shared struct {
	mu        sync.Mutex
	byTailnet map[tailnet.ID]*recent
}

// recent is what leads to one view. Sessions that lag lead to older ones and do without.
type recent struct {
	to    *state.View
	news  map[newsKey]*news
	looks map[int]*look // by class
}

// newsKey names those who are told the same of others: they last had the same view and are of the same classes in both.
type newsKey struct {
	from        *state.View
	wasIn, isIn int
}

// DiffFrame is the frame of Diff(from, to, viewer), nil where there is nothing to send. Viewers who only look on while
// others change, and who see the same of it, share one encoding; and the rest share what is in blocks.
func (m *Mapper) DiffFrame(from, to *state.View, viewer Viewer, compress bool, at time.Time) (frame Frame, gone bool) {
	is, was := to.Node(viewer.ID), from.Node(viewer.ID)
	if is == nil {
		return nil, true
	}
	if was == nil || from.Domain != to.Domain {
		return m.Frame(m.Full(to, viewer, at), compress), false
	}
	h := headDiff(from, to, viewer, was, is)
	t := m.shared.newsFor(from, to, viewer.ID).of(m, from, to, viewer.ID)
	if _, spokenOf := t.about(viewer.ID); h == nil && !spokenOf {
		return t.frame(to, compress), false
	}
	msg := t.messageFor(from, to, viewer, h)
	if msg.Empty() {
		return nil, false
	}
	return m.Frame(msg, compress), false
}

// newsFor finds or makes the place of shared news.
func (s *shared) newsFor(from, to *state.View, viewer tailnet.NodeID) *news {
	k := newsKey{from: from, wasIn: from.Policy.Class(viewer), isIn: to.Policy.Class(viewer)}
	if k.wasIn < 0 || k.isIn < 0 {
		return &news{maker: viewer}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	r := s.recent(to)
	if r == nil {
		return &news{maker: viewer}
	}
	n := r.news[k]
	if n == nil {
		n = &news{maker: viewer}
		r.news[k] = n
	}
	return n
}

// lookOf finds or makes the place of a shared look.
func (s *shared) lookOf(v *state.View, viewer tailnet.NodeID) *look {
	class := v.Policy.Class(viewer)
	if class < 0 {
		return &look{maker: viewer}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	r := s.recent(v)
	if r == nil {
		return &look{maker: viewer}
	}
	l := r.looks[class]
	if l == nil {
		l = &look{maker: viewer}
		r.looks[class] = l
	}
	return l
}

// recent is what is kept for a view; nil if there was a newer one. The lock is held.
func (s *shared) recent(to *state.View) *recent {
	r := s.byTailnet[to.Tailnet.ID]
	if r == nil || r.to.Seq < to.Seq {
		if s.byTailnet == nil {
			s.byTailnet = map[tailnet.ID]*recent{}
		}
		r = &recent{to: to, news: map[newsKey]*news{}, looks: map[int]*look{}}
		s.byTailnet[to.Tailnet.ID] = r
	}
	if r.to != to {
		return nil
	}
	return r
}
