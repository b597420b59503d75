package derp

import (
	"errors"
	"os"
	"sync"
	"time"

	"tailscale.com/derp"
)

// The write side of a client. Readers of other clients put packets into its outbox, and when
// they have put all they have, they write what waits there (writeNow), as far as the socket
// takes it without waiting. Only what it does not take is left to a goroutine of the client's
// own, the writer, so that nobody waits for a slow client but that. The writer begins when it
// is needed and ends when a whole keep-alive period brought no packet, so that the idle have
// none.

const (
	maxControl     = 64 << 10 // bytes of answers that wait for a client
	maxMeshControl = 16 << 20 // of news that wait for a relay of the mesh
	meshPatience   = 30 * time.Second
)

// writerState says what an outbox's goroutine does.
type writerState uint8

const (
	absent  writerState = iota // nobody writes
	parked                     // the writer waits in <-wake
	running                    // somebody writes, and will look again before that ends
	ended                      // nothing is written any more
)

// outbox is what waits for one client. Control frames go first, then discovery packets,
// which are what gets nodes off the relay, then all else.
type outbox struct {
	mu      sync.Mutex
	state   writerState
	leaving bool // close the connection once all is written
	carried bool // a packet came since the last keep-alive
	control []byte
	disco   lane
	bulk    lane
	wake    chan struct{} // has room for one
}

// push copies a packet into c's outbox; goal is whom another relay is to deliver it to, nil if
// it is for c. It reports whether c has to be roused, which the caller does when it has pushed
// all it has, and whether older packets had to go.
func (c *client) push(src, goal *nodeKey, payload []byte, disco bool, now time.Duration) (rouse, full bool) {
	o := &c.out
	o.mu.Lock()
	if o.state == ended {
		o.mu.Unlock()
		c.eng.drop(goneDisconnected, disco, 1, len(payload))
		return false, false
	}
	l := &o.bulk
	if disco {
		l = &o.disco
	}
	t, n := derp.FrameRecvPacket, derp.KeyLen+len(payload)
	if goal != nil {
		t, n = derp.FrameForwardPacket, n+derp.KeyLen
	}
	full = l.full(derp.FrameHeaderLen + n)
	var b []byte
	if disco {
		b = l.room(derp.FrameHeaderLen+n, now, c.dropDiscoHead)
	} else {
		b = l.room(derp.FrameHeaderLen+n, now, c.dropBulkHead)
	}
	b = putHeader(b, t, n)
	b = b[copy(b, src[:]):]
	if goal != nil {
		b = b[copy(b, goal[:]):]
	}
	copy(b, payload)
	o.carried = true
	rouse = o.state != running
	o.mu.Unlock()
	return rouse, full
}

func (c *client) dropDiscoHead(frames []byte) { c.eng.dropFrames(c.headReason(), true, frames) }
func (c *client) dropBulkHead(frames []byte)  { c.eng.dropFrames(c.headReason(), false, frames) }
func (c *client) dropDiscoOld(frames []byte)  { c.eng.dropFrames(queueAge, true, frames) }
func (c *client) dropBulkOld(frames []byte)   { c.eng.dropFrames(queueAge, false, frames) }
func (c *client) dropDiscoGone(frames []byte) { c.eng.dropFrames(goneDisconnected, true, frames) }
func (c *client) dropBulkGone(frames []byte)  { c.eng.dropFrames(goneDisconnected, false, frames) }

// tell queues a control frame and sees to it that it is written.
func (c *client) tell(t derp.FrameType, parts ...[]byte) {
	if c.queue(t, parts...) {
		c.rouse()
	}
}

// queue queues a control frame. A client that lets more wait than it may is cut off when it
// is a relay, whose view of the region would be wrong for ever; another one just misses the
// frame, and false is returned.
func (c *client) queue(t derp.FrameType, parts ...[]byte) bool {
	limit := maxControl
	if c.meshed {
		limit = maxMeshControl
	}
	o := &c.out
	o.mu.Lock()
	over := len(o.control) > limit
	if !over && o.state != ended {
		o.control = appendFrame(o.control, t, parts...)
	}
	o.mu.Unlock()
	if over && c.meshed {
		c.cut()
	}
	return !over
}

// leave has the connection closed as soon as all that waits is written.
func (c *client) leave() {
	c.out.mu.Lock()
	c.out.leaving = true
	c.out.mu.Unlock()
	c.rouse()
}

// rouse makes sure that the writer looks at the outbox. It never blocks.
func (c *client) rouse() {
	o := &c.out
	o.mu.Lock()
	was := o.state
	if was == absent || was == parked {
		o.state = running
	}
	if was == absent {
		c.writer.Add(1) // under the lock, after which nobody begins to wait unnoticed
	}
	o.mu.Unlock()
	switch was {
	case absent:
		go c.write()
	case parked:
		o.wake <- struct{}{}
	}
}

// reserve has what is pushed only wait, as the welcome must come first. It reports false when
// the connection is being sent away already.
func (c *client) reserve() bool {
	c.out.mu.Lock()
	defer c.out.mu.Unlock()
	if c.out.state != absent {
		return false
	}
	c.out.state = running
	return true
}

// write is the writer's goroutine.
func (c *client) write() {
	defer c.writer.Done()
	for {
		if err := c.finish(); err != nil {
			c.fail(err)
			return
		}
		control, s, more := c.next()
		if !more {
			return
		}
		if control == nil && s == nil {
			<-c.out.wake
			continue
		}
		if _, err := c.send(control, s); err != nil {
			c.fail(err)
			return
		}
	}
}

// fail ends a connection that cannot be written to.
func (c *client) fail(err error) {
	if errors.Is(err, os.ErrDeadlineExceeded) {
		c.eng.count.writeTimeouts.Add(1)
	}
	c.cut()
	c.shut()
}

// next takes what is to be written now. Nothing at all means to park; more is false when the
// writer is to end.
func (c *client) next() (control []byte, s *slab, more bool) {
	o := &c.out
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.state == ended {
		return nil, nil, false
	}
	control, s = c.take()
	switch {
	case control != nil || s != nil:
		return control, s, true
	case o.leaving:
		o.state = ended
		c.cut()
		return nil, nil, false
	case o.carried:
		o.state = parked
		return nil, nil, true
	}
	o.state = absent
	return nil, nil, false
}

// take takes what goes first. The caller holds the outbox's lock.
func (c *client) take() (control []byte, s *slab) {
	o := &c.out
	control, o.control = o.control, nil
	if len(o.disco.slabs) == 0 && len(o.bulk.slabs) == 0 {
		return control, nil
	}
	now := c.eng.now()
	if s = o.disco.take(now, c.dropDiscoOld); s == nil {
		s = o.bulk.take(now, c.dropBulkOld)
	}
	if s != nil {
		if c.slabs++; c.slabs%ageEvery == 0 {
			c.eng.count.age.note(now - s.born)
		}
	}
	return control, s
}

// turnsNow is how many slabs one writes for another before the other's own writer has to.
const turnsNow = 4

// writeNow writes what waits for c, as far as the socket takes it at once; the rest is left
// to the writer. Who calls it never waits for c.
func (c *client) writeNow() {
	if c.under == nil {
		c.rouse()
		return
	}
	o := &c.out
	o.mu.Lock()
	was := o.state
	if was != absent && was != parked {
		o.mu.Unlock()
		return
	}
	o.state = running
	c.writer.Add(1) // this is one
	for range turnsNow {
		control, s := c.take()
		if control == nil && s == nil {
			if !o.leaving {
				o.state = was
				o.mu.Unlock()
				c.writer.Done()
				return
			}
			break
		}
		o.mu.Unlock()
		all, err := c.send(control, s)
		if err != nil {
			c.fail(err)
		}
		o.mu.Lock()
		if !all || o.state == ended {
			break
		}
	}
	o.mu.Unlock()
	if was == absent {
		go c.write() // counted above
		return
	}
	o.wake <- struct{}{}
	c.writer.Done()
}

// send writes control frames and a slab, which may both be absent. It reports whether the
// socket took all; finish waits for the rest.
func (c *client) send(control []byte, s *slab) (all bool, err error) {
	all = true
	if len(control) > 0 {
		if all, err = c.put(control); err != nil {
			return false, err
		}
	}
	if s == nil {
		return all, nil
	}
	defer s.free()
	b := s.frames()
	if all, err = c.put(b); err != nil {
		c.eng.dropFrames(writeError, false, b)
		return false, err
	}
	n, size := countFrames(b)
	c.sentPackets.Add(uint64(n))
	c.sentBytes.Add(uint64(size))
	return all, nil
}

// put writes b as far as the socket takes it at once, if there is a way to know that, and
// reports whether it was all.
func (c *client) put(b []byte) (all bool, err error) {
	switch {
	case c.under == nil:
		return true, c.putSlowly(b)
	case !c.sealed:
		return c.under.offer(b)
	}
	c.under.hold() // so that several TLS records go to the system in one piece
	if _, err := c.conn.Write(b); err != nil {
		return false, err
	}
	return c.under.offer(nil)
}

// putSlowly writes b with a deadline.
func (c *client) putSlowly(b []byte) error {
	for len(b) > 0 {
		n := len(b)
		if c.chunk > 0 {
			n = min(n, c.chunk)
		}
		c.setDeadline()
		if _, err := c.conn.Write(b[:n]); err != nil {
			return err
		}
		b = b[n:]
	}
	return nil
}

// finish waits until the socket has taken what send left.
func (c *client) finish() error {
	if c.under == nil || !c.under.holds() {
		return nil
	}
	c.setDeadline()
	err := c.under.let()
	c.conn.SetWriteDeadline(time.Time{}) // TLS may write on its own behalf later
	return err
}

// setDeadline has the writes that follow fail when they take too long.
func (c *client) setDeadline() {
	patience := c.eng.patience
	if c.meshed {
		patience = meshPatience
	}
	if patience > 0 {
		c.conn.SetWriteDeadline(time.Now().Add(patience))
	}
}

// shut ends the outbox: nothing is taken any more, and what waits is dropped.
func (c *client) shut() {
	o := &c.out
	o.mu.Lock()
	was := o.state
	o.state = ended
	o.control = nil
	o.disco.clear(c.dropDiscoGone)
	o.bulk.clear(c.dropBulkGone)
	o.mu.Unlock()
	if was == parked {
		o.wake <- struct{}{}
	}
}

// tick sends a keep-alive. It also lets the writer go that has had nothing to carry.
func (c *client) tick() {
	c.out.mu.Lock()
	over := c.out.state == ended
	c.out.carried = false
	c.out.mu.Unlock()
	if over {
		return
	}
	c.tell(derp.FrameKeepAlive)
	c.keepAlive.Reset(c.keepAliveEvery)
}

// headReason is why the oldest packets go when the queue is full.
func (c *client) headReason() dropReason {
	if c.line {
		return meshQueue
	}
	return queueHead
}

// countFrames counts the packets in RecvPacket or ForwardPacket frames, and their bytes.
func countFrames(b []byte) (n, size int) {
	for len(b) > 0 {
		k := frameLen(b)
		size += k - derp.FrameHeaderLen - derp.KeyLen
		if derp.FrameType(b[0]) == derp.FrameForwardPacket {
			size -= derp.KeyLen
		}
		b = b[k:]
		n++
	}
	return n, size
}
