package derp

import (
	"encoding/binary"
	"sync"
	"sync/atomic"
	"time"

	"tailscale.com/derp"
)

// What waits for a client lies in slabs, as the frames that will be sent: a packet is copied
// once, from the reader's buffer to its place in the receiver's slab, and a slab is written
// as it is. Slabs come from a pool and go back to it as soon as they are written, so that
// nobody who is idle holds one.

const (
	slabSize  = 32 << 10 // two full TLS records
	laneBytes = 8 * slabSize
	laneSlabs = 12                     // so that slabs closed by age cannot pile up either
	slabSpan  = 250 * time.Millisecond // between the first and the last packet of a slab
	maxAge    = 2 * time.Second        // of what is still sent

	maxWaiting = 256 << 20 // bytes, for all clients together
)

// slab holds whole frames, one after the other.
type slab struct {
	buf  []byte
	off  int           // of the first frame that still counts
	born time.Duration // when the first frame came, on the engine's clock
	from *stock
}

var slabs = sync.Pool{New: func() any { return &slab{buf: make([]byte, 0, slabSize)} }}

// stock is how many bytes the slabs of a relay have room for. When that is the most, as when
// the line that all clients share is too slow, a queue that has something gives that up before
// it gets more.
type stock struct {
	atomic.Int64
	most int64
}

func (k *stock) take(need int, now time.Duration) *slab {
	k.Add(int64(max(need, slabSize)))
	if need > slabSize { // a packet of the largest sizes, which WireGuard does not send
		return &slab{buf: make([]byte, 0, need), born: now, from: k}
	}
	s := slabs.Get().(*slab)
	s.buf, s.off, s.born, s.from = s.buf[:0], 0, now, k
	return s
}

func (s *slab) free() {
	s.from.Add(-int64(cap(s.buf)))
	if cap(s.buf) == slabSize {
		slabs.Put(s)
	}
}

// frames are what the slab still holds.
func (s *slab) frames() []byte { return s.buf[s.off:] }

// lane is a queue of packets for one receiver, bounded in bytes and in age.
type lane struct {
	slabs []*slab // oldest first
	bytes int
	stock *stock
	width int // how many times laneBytes it may hold
}

// full reports whether there is no room for n bytes more.
func (l *lane) full(n int) bool { return l.bytes+n > l.width*laneBytes }

// room returns n bytes at the end of the lane. Where there is none, the oldest packets go, and
// dropped hears of them.
func (l *lane) room(n int, now time.Duration, dropped func(frames []byte)) []byte {
	for l.bytes > 0 && (l.full(n) || len(l.slabs) >= l.width*laneSlabs) {
		if len(l.slabs) >= l.width*laneSlabs {
			l.dropSlab(dropped)
		} else {
			l.dropFrame(dropped)
		}
	}
	var s *slab
	if k := len(l.slabs); k > 0 {
		s = l.slabs[k-1]
	}
	if s == nil || cap(s.buf)-len(s.buf) < n || now-s.born > slabSpan {
		for len(l.slabs) > 0 && l.stock.Load() >= l.stock.most {
			l.dropSlab(dropped)
		}
		s = l.stock.take(n, now)
		l.slabs = append(l.slabs, s)
	}
	l.bytes += n
	at := len(s.buf)
	s.buf = s.buf[:at+n]
	return s.buf[at:]
}

func (l *lane) dropFrame(dropped func([]byte)) {
	s := l.slabs[0]
	n := frameLen(s.frames())
	dropped(s.frames()[:n])
	s.off += n
	l.bytes -= n
	if s.off == len(s.buf) {
		l.shift().free()
	}
}

func (l *lane) dropSlab(dropped func([]byte)) {
	s := l.shift()
	dropped(s.frames())
	l.bytes -= len(s.frames())
	s.free()
}

func (l *lane) shift() *slab {
	s := l.slabs[0]
	n := copy(l.slabs, l.slabs[1:])
	l.slabs[n] = nil
	l.slabs = l.slabs[:n]
	return s
}

// take hands over the oldest slab that is not too old; nil when there is none.
func (l *lane) take(now time.Duration, dropped func([]byte)) *slab {
	for len(l.slabs) > 0 {
		if now-l.slabs[0].born > maxAge {
			l.dropSlab(dropped)
			continue
		}
		s := l.shift()
		l.bytes -= len(s.frames())
		return s
	}
	return nil
}

// clear drops all.
func (l *lane) clear(dropped func([]byte)) {
	for len(l.slabs) > 0 {
		l.dropSlab(dropped)
	}
	l.slabs = nil
}

// frameLen is the length of the first frame, header included.
func frameLen(b []byte) int {
	return derp.FrameHeaderLen + int(binary.BigEndian.Uint32(b[1:derp.FrameHeaderLen]))
}

// putHeader writes a frame's header and returns what follows it.
func putHeader(b []byte, t derp.FrameType, n int) []byte {
	b[0] = byte(t)
	binary.BigEndian.PutUint32(b[1:derp.FrameHeaderLen], uint32(n))
	return b[derp.FrameHeaderLen:]
}

// appendFrame appends a whole frame.
func appendFrame(b []byte, t derp.FrameType, parts ...[]byte) []byte {
	n := 0
	for _, p := range parts {
		n += len(p)
	}
	b = append(b, byte(t))
	b = binary.BigEndian.AppendUint32(b, uint32(n))
	for _, p := range parts {
		b = append(b, p...)
	}
	return b
}
