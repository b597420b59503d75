package derp

import (
	"bytes"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"
	"tailscale.com/derp"
	"tailscale.com/disco"
	"tailscale.com/types/key"
)

// client is one connection of a node.
type client struct {
	eng    *engine
	id     uint64
	conn   net.Conn
	under  *wire         // below conn, or nil
	sealed bool          // by TLS, which is between the two
	gone   chan struct{} // closed when the connection is cut
	ended  chan struct{} // closed when nothing of it is left
	isCut  atomic.Bool
	abort  func() error // ends conn at once
	chunk  int          // the most bytes of one write; 0 for any
	in     source
	source netip.AddrPort
	began  time.Time

	key       nodeKey
	psk       key.DERPMesh // that it says it knows
	meshed    bool         // it is right: this is another relay
	line      bool         // we called it: its outbox holds what is for its clients
	flags     derp.PeerPresentFlags
	duplicate atomic.Bool            // others have the same key
	limit     atomic.Pointer[bounds] // nil when there are none
	told      Bound                  // what it was told to keep to; guarded by engine.mu

	// The reader's:
	first  [firstRead]byte
	dirty  []*client // those to rouse when the buffer is parsed
	heardN map[heardKey]struct{}
	lastTo heardKey
	skip   int           // bytes of a frame that nobody wants
	now    time.Duration // when what is handled was there to be read, on the engine's clock
	full   bool          // something had to be dropped for what was read
	last   struct {      // the node that it last sent to
		key   nodeKey
		peer  *peer
		since time.Duration
	}
	home  bool
	gones *rate.Limiter

	// Written by one goroutine each, read by whoever counts:
	gotPackets, gotBytes, gotDisco atomic.Uint64
	gotForwards, gotForwardBytes   atomic.Uint64
	sentPackets, sentBytes         atomic.Uint64

	heard map[nodeKey]struct{} // whose end it wants to be told; guarded by engine.mu

	out            outbox
	slabs          uint8 // that were taken from it, to look at some of them; guarded by out
	writer         sync.WaitGroup
	keepAlive      *time.Timer
	keepAliveEvery time.Duration
}

// heardKey is a pair of which the receiver is to be told when the sender is gone.
type heardKey struct {
	src nodeKey
	dst uint64 // the connection's number: a pointer would keep it from the collector
}

const (
	firstRead = 64       // bytes to wait for without a buffer
	readSize  = 32 << 10 // of the usual buffer
	maxFrame  = derp.FrameHeaderLen + 2*derp.KeyLen + derp.MaxPacketSize
	maxPing   = 1000 // bytes; all above eight are for the future
	maxHeardN = 4096 // pairs that a reader remembers to have registered
)

var (
	readPool  = sync.Pool{New: func() any { b := make([]byte, readSize); return &b }}
	largePool = sync.Pool{New: func() any { b := make([]byte, maxFrame); return &b }}
)

func freeRead(b *[]byte) {
	if b == nil {
		return
	}
	if len(*b) == readSize {
		readPool.Put(b)
	} else {
		largePool.Put(b)
	}
}

// source is a connection, after what was read from it ahead of time.
type source struct {
	ahead []byte
	conn  net.Conn
}

// Read implements io.Reader.
func (s *source) Read(b []byte) (int, error) {
	if len(s.ahead) == 0 {
		return s.conn.Read(b)
	}
	n := copy(b, s.ahead)
	if s.ahead = s.ahead[n:]; len(s.ahead) == 0 {
		s.ahead = nil
	}
	return n, nil
}

// underneath finds the wire below a connection.
func underneath(conn net.Conn) *wire {
	if t, ok := conn.(*tls.Conn); ok {
		conn = t.NetConn()
	}
	w, _ := conn.(*wire)
	return w
}

// cut ends the connection at once. It may be called from anywhere, and does not block.
func (c *client) cut() {
	if c.isCut.CompareAndSwap(false, true) {
		close(c.gone)
		c.abort()
	}
}

// read handles frames until the connection ends.
func (c *client) read() error {
	var buf *[]byte
	defer func() { freeRead(buf) }()
	n := 0 // bytes in buf
	waited := true
	for {
		var k int
		var err error
		if n == 0 && !c.more() {
			freeRead(buf)
			buf = nil
			if k, err = c.in.Read(c.first[:]); k > 0 {
				buf = readPool.Get().(*[]byte)
				copy(*buf, c.first[:k])
			}
		} else {
			if buf == nil {
				buf = readPool.Get().(*[]byte)
			}
			k, err = c.in.Read((*buf)[n:])
		}
		if waited {
			c.now, waited = c.eng.now(), false
		}
		if k > 0 {
			n += k
			used, need, ferr := c.frames((*buf)[:n])
			if ferr != nil {
				c.settle()
				return ferr
			}
			if b := c.limit.Load(); b != nil {
				if perr := c.pay(b, used); perr != nil {
					err = perr
				}
				waited = true
			}
			if need > len(*buf) {
				large := largePool.Get().(*[]byte)
				copy(*large, (*buf)[used:n])
				freeRead(buf)
				buf = large
			} else if used > 0 {
				copy(*buf, (*buf)[used:n])
			}
			n -= used
		}
		if err != nil {
			c.settle()
			if errors.Is(err, io.EOF) || errors.Is(err, net.ErrClosed) || c.isCut.Load() {
				return nil
			}
			return err
		}
		if !c.more() {
			c.settle()
			waited = true
			if c.under != nil && c.under.full() {
				runtime.Gosched() // a flood is not to keep others from their turn
			}
		}
	}
}

// more reports whether the next read gets something at once.
func (c *client) more() bool {
	return len(c.in.ahead) == 0 && c.under != nil && c.under.more()
}

// settle writes to all that got something. The one who makes another drop packets is made to
// wait a moment, so that it is TCP that holds it back, before its packets cost anything; unless
// it sends to others too, who are not to wait for the slow one.
func (c *client) settle() {
	for i, dst := range c.dirty {
		dst.writeNow()
		c.dirty[i] = nil
	}
	c.dirty = c.dirty[:0]
	full := c.full && !c.meshed && c.now-c.last.since > faithful
	c.full = false
	if full {
		t := time.NewTimer(overloadPause)
		select {
		case <-t.C:
		case <-c.gone:
			t.Stop()
		}
	}
}

// faithful is how long a sender must have sent to one node alone to be held back for it.
const faithful = 100 * time.Millisecond

// overloadPause is how long a sender waits whose receiver's queue is full, after each buffer
// that it filled.
const overloadPause = time.Millisecond

// frames handles the whole frames at the start of b. It returns how many bytes those were,
// and how many the next frame needs, if that is known.
func (c *client) frames(b []byte) (used, need int, err error) {
	if c.duplicate.Load() {
		c.eng.spoke(c)
	}
	for {
		if c.skip > 0 {
			n := min(c.skip, len(b)-used)
			c.skip -= n
			used += n
		}
		rest := b[used:]
		if len(rest) < derp.FrameHeaderLen {
			return used, 0, nil
		}
		t, n := derp.FrameType(rest[0]), int(binary.BigEndian.Uint32(rest[1:derp.FrameHeaderLen]))
		known, err := c.check(t, n)
		if err != nil {
			return used, 0, err
		}
		if known && len(rest) < derp.FrameHeaderLen+n {
			return used, derp.FrameHeaderLen + n, nil
		}
		if !known {
			c.eng.count.unknownFrames.Add(1)
			c.skip = n
			used += derp.FrameHeaderLen
			continue
		}
		c.handle(t, rest[derp.FrameHeaderLen:derp.FrameHeaderLen+n])
		used += derp.FrameHeaderLen + n
	}
}

// check reports whether a frame's type is known, and an error if its length is wrong or the
// client must not send it.
func (c *client) check(t derp.FrameType, n int) (known bool, err error) {
	atLeast, atMost := 0, 0
	switch t {
	case derp.FrameSendPacket:
		atLeast, atMost = derp.KeyLen, derp.KeyLen+derp.MaxPacketSize
	case derp.FrameForwardPacket:
		atLeast, atMost = 2*derp.KeyLen, 2*derp.KeyLen+derp.MaxPacketSize
	case derp.FramePing:
		atLeast, atMost = 8, maxPing
	case derp.FrameNotePreferred:
		atLeast, atMost = 1, 1
	case derp.FrameClosePeer:
		atLeast, atMost = derp.KeyLen, derp.KeyLen
	case derp.FrameWatchConns:
	default:
		return false, nil
	}
	if n < atLeast || n > atMost {
		return true, fmt.Errorf("frame of type %#x has %d bytes", t, n)
	}
	switch t {
	case derp.FrameForwardPacket, derp.FrameClosePeer, derp.FrameWatchConns:
		if !c.meshed {
			return true, fmt.Errorf("frame of type %#x is for the relays of a mesh", t)
		}
	}
	return true, nil
}

// handle acts on one frame whose length was checked.
func (c *client) handle(t derp.FrameType, body []byte) {
	switch t {
	case derp.FrameSendPacket:
		c.relay(&c.key, (*nodeKey)(body), body[derp.KeyLen:], false)
	case derp.FrameForwardPacket:
		c.relay((*nodeKey)(body), (*nodeKey)(body[derp.KeyLen:]), body[2*derp.KeyLen:], true)
	case derp.FramePing:
		c.eng.count.pings.Add(1)
		if c.queue(derp.FramePong, body[:8]) {
			c.dirty = append(c.dirty, c)
		}
	case derp.FrameNotePreferred:
		c.setHome(body[0] != 0)
	case derp.FrameClosePeer:
		c.eng.evict(nodeKey(body))
	case derp.FrameWatchConns:
		c.eng.watch(c)
	}
}

// relay passes one packet on. A forwarded one, which comes from another relay, goes to a
// client of ours or nowhere.
func (c *client) relay(src, dst *nodeKey, payload []byte, forwarded bool) {
	isDisco := disco.LooksLikeDiscoWrapper(payload)
	if forwarded {
		c.gotForwards.Add(1)
		c.gotForwardBytes.Add(uint64(len(payload)))
	} else {
		c.gotPackets.Add(1)
		c.gotBytes.Add(uint64(len(payload)))
		if isDisco {
			c.gotDisco.Add(1)
		}
	}
	to, via := c.findAgain(dst)
	var goal *nodeKey // of a packet that another relay is to deliver
	switch {
	case to != nil:
		c.noteSent(src, to)
	case via != nil && !forwarded:
		to, goal = via.pick(src, dst), dst
	}
	if to == nil {
		why := unknownDest
		if forwarded {
			why = unknownDestOnForward
		}
		c.eng.drop(why, isDisco, 1, len(payload))
		if isDisco && c.mayTellGone() {
			c.tellGone(*dst, derp.PeerGoneReasonNotHere)
		}
		return
	}
	rouse, full := to.push(src, goal, payload, isDisco, c.now)
	if full && !isDisco {
		c.full = true
	}
	if rouse && (len(c.dirty) == 0 || c.dirty[len(c.dirty)-1] != to) {
		c.dirty = append(c.dirty, to)
	}
}

// mayTellGone bounds how often a client hears that somebody is not here.
func (c *client) mayTellGone() bool {
	if c.gones == nil {
		c.gones = rate.NewLimiter(rate.Every(time.Second), 3)
	}
	return c.gones.Allow()
}

// noteSent has the receiver told when the sender is gone, which is registered once.
func (c *client) noteSent(src *nodeKey, to *client) {
	if c.lastTo.dst == to.id && bytes.Equal(c.lastTo.src[:], src[:]) {
		return
	}
	pair := heardKey{*src, to.id}
	c.lastTo = pair
	if _, known := c.heardN[pair]; known {
		return
	}
	if c.heardN == nil || len(c.heardN) >= maxHeardN {
		c.heardN = map[heardKey]struct{}{}
	}
	c.heardN[pair] = struct{}{}
	c.eng.noteHeard(*src, to)
}

// setHome counts a client that says whether this is its home.
func (c *client) setHome(home bool) {
	if c.home == home {
		return
	}
	c.home = home
	settled := time.Since(c.began) > 5*time.Second // what it says at first is no move
	if home {
		c.eng.count.homes.Add(1)
		if settled {
			c.eng.count.movesIn.Add(1)
		}
		return
	}
	c.eng.count.homes.Add(-1)
	if settled {
		c.eng.count.movesOut.Add(1)
	}
}
