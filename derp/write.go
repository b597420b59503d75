package derp

import (
	"errors"
	"os"
	"sync"
	"time"

	"tailscale.com/derp"
)

// The write side of a client. Readers of other clients put packets into its outbox; one
// goroutine takes all that waits and writes it. That goroutine begins with the first packet
// and ends when a whole keep-alive period brought none, so that the idle have none.

const (
	maxControl     = 64 << 10 // bytes of answers that wait for a client
	maxMeshControl = 16 << 20 // of news that wait for a relay of the mesh
	meshPatience   = 30 * time.Second
)

// writerState says what an outbox's goroutine does.
type writerState uint8

const (
	absent  writerState = iota // there is none
	parked                     // it waits in <-wake
	running                    // it will look again before it parks
	ended                      // there will be none
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

// push copies a packet into c's outbox. It reports whether c has to be roused, which the
// caller does when it has pushed all it has, and whether older packets had to go.
func (c *client) push(src *nodeKey, payload []byte, disco bool, now time.Duration) (rouse, full bool) {
	o := &c.out
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.state == ended {
		c.eng.drop(goneDisconnected, disco, 1, len(payload))
		return false, false
	}
	l := &o.bulk
	if disco {
		l = &o.disco
	}
	const head = derp.FrameHeaderLen + derp.KeyLen
	full = l.bytes+head+len(payload) > laneBytes
	var b []byte
	if disco {
		b = l.room(head+len(payload), now, c.dropDiscoHead)
	} else {
		b = l.room(head+len(payload), now, c.dropBulkHead)
	}
	b = putHeader(b, derp.FrameRecvPacket, derp.KeyLen+len(payload))
	copy(b, src[:])
	copy(b[derp.KeyLen:], payload)
	o.carried = true
	return o.state != running, full
}

func (c *client) dropDiscoHead(frames []byte) { c.eng.dropFrames(queueHead, true, frames) }
func (c *client) dropBulkHead(frames []byte)  { c.eng.dropFrames(queueHead, false, frames) }
func (c *client) dropDiscoOld(frames []byte)  { c.eng.dropFrames(queueAge, true, frames) }
func (c *client) dropBulkOld(frames []byte)   { c.eng.dropFrames(queueAge, false, frames) }
func (c *client) dropDiscoGone(frames []byte) { c.eng.dropFrames(goneDisconnected, true, frames) }
func (c *client) dropBulkGone(frames []byte)  { c.eng.dropFrames(goneDisconnected, false, frames) }

// tell queues a control frame and sees to it that it is written. A client that lets more wait
// than it may is cut off when it is a relay, whose view of the region would be wrong for ever;
// another one just misses the frame.
func (c *client) tell(t derp.FrameType, parts ...[]byte) {
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
	switch {
	case !over:
		c.rouse()
	case c.meshed:
		c.cut()
	}
}

// leave has the connection closed as soon as all that waits is written.
func (c *client) leave() {
	c.out.mu.Lock()
	c.out.leaving = true
	c.out.mu.Unlock()
	c.rouse()
}

// rouse makes sure that the writer looks at the outbox.
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
		control, s, more := c.next()
		if !more {
			return
		}
		if control == nil && s == nil {
			<-c.out.wake
			continue
		}
		if err := c.send(control, s); err != nil {
			if errors.Is(err, os.ErrDeadlineExceeded) {
				c.eng.count.writeTimeouts.Add(1)
			}
			c.cut()
			c.shut()
			return
		}
	}
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
	now := c.eng.now()
	control, o.control = o.control, nil
	if s = o.disco.take(now, c.dropDiscoOld); s == nil {
		s = o.bulk.take(now, c.dropBulkOld)
	}
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

// send writes control frames and a slab, which may both be absent.
func (c *client) send(control []byte, s *slab) error {
	if len(control) > 0 {
		if err := c.put(control); err != nil {
			return err
		}
	}
	if s == nil {
		return nil
	}
	defer s.free()
	b := s.frames()
	if err := c.put(b); err != nil {
		c.eng.dropFrames(writeError, false, b)
		return err
	}
	n, size := countFrames(b)
	c.sentPackets.Add(uint64(n))
	c.sentBytes.Add(uint64(size))
	return nil
}

// put writes b with a deadline.
func (c *client) put(b []byte) error {
	patience := c.eng.patience
	if c.meshed {
		patience = meshPatience
	}
	for len(b) > 0 {
		n := len(b)
		if c.chunk > 0 {
			n = min(n, c.chunk)
		}
		if patience > 0 {
			c.conn.SetWriteDeadline(time.Now().Add(patience))
		}
		if err := c.putOnce(b[:n]); err != nil {
			return err
		}
		b = b[n:]
	}
	return nil
}

// maxRecord is the most that one TLS record holds.
const maxRecord = 16 << 10

// putOnce writes b; several TLS records go to the system in one piece.
func (c *client) putOnce(b []byte) error {
	if c.under == nil || len(b) <= maxRecord || !c.sealed {
		_, err := c.conn.Write(b)
		return err
	}
	c.under.hold()
	_, err := c.conn.Write(b)
	return errors.Join(err, c.under.let())
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

// countFrames counts the packets in RecvPacket frames, and their bytes.
func countFrames(b []byte) (n, size int) {
	for len(b) > 0 {
		k := frameLen(b)
		size += k - derp.FrameHeaderLen - derp.KeyLen
		b = b[k:]
		n++
	}
	return n, size
}
