package derp

import (
	"slices"
	"sync"
	"time"

	"tailscale.com/derp"
	"tailscale.com/types/key"
)

// forwarder takes packets to another relay of the mesh. A derphttp.Client is one.
type forwarder interface {
	ForwardPacket(src, dst key.NodePublic, payload []byte) error
}

// link is the way to another relay of the mesh. Readers put packets into its lane and never
// wait for it; one goroutine hands them to the forwarder.
type link struct {
	eng *engine
	to  forwarder

	mu     sync.Mutex
	more   *sync.Cond
	lane   lane
	closed bool
}

func newLink(e *engine, to forwarder) *link {
	l := &link{eng: e, to: to}
	l.more = sync.NewCond(&l.mu)
	return l
}

// push copies a packet into the lane.
func (l *link) push(src, dst *nodeKey, payload []byte, now time.Duration) {
	const head = derp.FrameHeaderLen + 2*derp.KeyLen
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return
	}
	b := l.lane.room(head+len(payload), now, l.dropHead)
	b = putHeader(b, derp.FrameForwardPacket, 2*derp.KeyLen+len(payload))
	copy(b, src[:])
	copy(b[derp.KeyLen:], dst[:])
	copy(b[2*derp.KeyLen:], payload)
	l.more.Signal()
}

func (l *link) dropHead(frames []byte) { l.eng.dropForwards(meshQueue, frames) }
func (l *link) dropOld(frames []byte)  { l.eng.dropForwards(queueAge, frames) }

// run forwards until close.
func (l *link) run() {
	for {
		l.mu.Lock()
		s := l.lane.take(l.eng.now(), l.dropOld)
		for s == nil && !l.closed {
			l.more.Wait()
			s = l.lane.take(l.eng.now(), l.dropOld)
		}
		closed := l.closed
		l.mu.Unlock()
		if closed {
			if s != nil {
				s.free()
			}
			return
		}
		l.forward(s.frames())
		s.free()
	}
}

func (l *link) forward(b []byte) {
	for len(b) > 0 {
		n := frameLen(b)
		body := b[derp.FrameHeaderLen:n]
		src, dst := nodeKey(body[:derp.KeyLen]), nodeKey(body[derp.KeyLen:2*derp.KeyLen])
		if err := l.to.ForwardPacket(src.public(), dst.public(), body[2*derp.KeyLen:]); err != nil {
			l.eng.dropForwards(writeError, b[:n])
		} else {
			l.eng.count.forwardedOut.Add(1)
		}
		b = b[n:]
	}
}

func (l *link) close() {
	l.mu.Lock()
	l.closed = true
	l.lane.clear(l.dropOld)
	l.mu.Unlock()
	l.more.Broadcast()
}

// forward sends packets for node by way of l.
func (e *engine) forward(node key.NodePublic, l *link) {
	k := rawKey(node)
	e.mu.Lock()
	defer e.mu.Unlock()
	p, ok := e.peers.Load(k)
	if !ok {
		p = &peer{}
		e.peers.Store(k, p)
	}
	if !slices.Contains(p.links, l) {
		p.links = append(p.links, l)
		p.via.Store(p.links[0])
	}
}

// unforward undoes forward. When nobody has the node any more, all that heard from it are
// told.
func (e *engine) unforward(node key.NodePublic, l *link) {
	k := rawKey(node)
	e.mu.Lock()
	defer e.mu.Unlock()
	p, ok := e.peers.Load(k)
	if !ok || !slices.Contains(p.links, l) {
		return
	}
	p.links = slices.DeleteFunc(p.links, func(other *link) bool { return other == l })
	if len(p.links) > 0 {
		p.via.Store(p.links[0])
		return
	}
	p.via.Store(nil)
	if len(p.conns) == 0 {
		e.forget(k)
	}
}
