package h2

import (
	"bytes"
	"encoding/binary"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// writer is what goes out on a connection. Handlers write their answers by themselves, one at a time; what is said to
// the client in between waits in pending for a goroutine of its own, since the one that reads must never wait for a
// client that does not.
type writer struct {
	maxFrame, tableSize atomic.Uint32 // as the client set them

	mu     sync.Mutex // held while something is written
	header bytes.Buffer
	pack   *hpack.Encoder
	table  uint32

	pmu      sync.Mutex
	pending  bytes.Buffer
	framer   *http2.Framer // writes to pending
	flushing bool
	shut     bool // nothing more is said
}

func (w *writer) init() {
	w.table = 4096
	w.tableSize.Store(w.table)
	w.maxFrame.Store(maxFrame)
	w.pack = hpack.NewEncoder(&w.header)
	w.framer = http2.NewFramer(&w.pending, nil)
}

// say sends a frame that is no answer, soon. It never waits.
func (c *conn) say(frame func(*http2.Framer) error) error {
	w := &c.out
	w.pmu.Lock()
	defer w.pmu.Unlock()
	if w.shut {
		return nil
	}
	if w.pending.Len() > maxPending {
		return http2.ConnectionError(http2.ErrCodeEnhanceYourCalm)
	}
	if err := frame(w.framer); err != nil {
		return err
	}
	if !w.flushing {
		w.flushing = true
		c.work.Go(c.flushPending)
	}
	return nil
}

// flushPending writes what waits.
func (c *conn) flushPending() {
	w := &c.out
	w.mu.Lock()
	defer w.mu.Unlock()
	for {
		text := w.takePending(nil, true)
		if len(text) == 0 {
			return
		}
		if _, err := c.nc.Write(text); err != nil {
			c.fail(err)
		}
	}
}

// takePending appends what waits to b. last is for the goroutine that flushes it, which ends when that was nothing.
func (w *writer) takePending(b []byte, last bool) []byte {
	w.pmu.Lock()
	defer w.pmu.Unlock()
	if w.pending.Len() > 0 {
		b = append(b, w.pending.Bytes()...)
		w.pending = bytes.Buffer{}
	} else if last {
		w.flushing = false
	}
	return b
}

// shut has nothing more said.
func (c *conn) shut() {
	c.out.pmu.Lock()
	c.out.shut = true
	c.out.pmu.Unlock()
}

// fail has the connection end because nothing can be written to it.
func (c *conn) fail(err error) {
	c.mu.Lock()
	if c.ended == nil {
		c.ended = err
	}
	c.changed.Broadcast()
	c.mu.Unlock()
	c.nc.Close()
}

// pieces are what handlers gather their answers in, with room for a short message and its frames.
var pieces = sync.Pool{New: func() any { b := make([]byte, 0, 8<<10); return &b }}

// freePiece gives a piece back, unless it grew large.
func freePiece(b *[]byte) {
	if cap(*b) <= 128<<10 {
		*b = (*b)[:0]
		pieces.Put(b)
	}
}

// answer writes the header of an answer, if there is one, and a part of its body, in one piece. The windows were taken
// before.
func (c *conn) answer(id uint32, status int, header http.Header, body []byte, end bool) error {
	w := &c.out
	piece := pieces.Get().(*[]byte)
	defer freePiece(piece)
	b := *piece
	most := int(w.maxFrame.Load())
	w.mu.Lock()
	defer w.mu.Unlock()
	b = w.takePending(b, false) // the first of all is SETTINGS
	if status != 0 {
		b = w.appendHeaders(b, id, status, header, most, end && len(body) == 0)
	}
	for len(body) > 0 {
		n := min(len(body), most)
		flags := http2.Flags(0)
		if end && n == len(body) {
			flags = http2.FlagDataEndStream
		}
		b = append(appendFrame(b, n, http2.FrameData, flags, id), body[:n]...)
		body = body[n:]
		end = end && flags == 0
	}
	if end && status == 0 {
		b = appendFrame(b, 0, http2.FrameData, http2.FlagDataEndStream, id)
	}
	*piece = b
	if _, err := c.nc.Write(b); err != nil {
		c.fail(err)
		return err
	}
	return nil
}

// appendFrame appends the header of a frame, RFC 9113 4.1.
func appendFrame(b []byte, length int, t http2.FrameType, flags http2.Flags, id uint32) []byte {
	b = append(b, byte(length>>16), byte(length>>8), byte(length), byte(t), byte(flags))
	return binary.BigEndian.AppendUint32(b, id)
}

// appendHeaders appends HEADERS, and CONTINUATION where one frame is not enough. The caller holds the lock, as the
// table of the compression follows the order on the wire.
func (w *writer) appendHeaders(b []byte, id uint32, status int, header http.Header, most int, end bool) []byte {
	if size := w.tableSize.Load(); size != w.table {
		w.table = size
		w.pack.SetMaxDynamicTableSizeLimit(size)
	}
	w.header.Reset()
	w.pack.WriteField(hpack.HeaderField{Name: ":status", Value: strconv.Itoa(status)})
	for name, values := range header {
		name = strings.ToLower(name)
		if hopByHop[name] {
			continue
		}
		for _, v := range values {
			w.pack.WriteField(hpack.HeaderField{Name: name, Value: v})
		}
	}
	block := w.header.Bytes()
	for t := http2.FrameHeaders; t == http2.FrameHeaders || len(block) > 0; t = http2.FrameContinuation {
		n := min(len(block), most)
		flags := http2.Flags(0)
		if t == http2.FrameHeaders && end {
			flags |= http2.FlagHeadersEndStream
		}
		if n == len(block) {
			flags |= http2.FlagHeadersEndHeaders
		}
		b = append(appendFrame(b, n, t, flags, id), block[:n]...)
		block = block[n:]
	}
	if w.header.Cap() > 4<<10 {
		w.header = bytes.Buffer{}
	}
	return b
}

// hopByHop are headers that HTTP/2 does not have, RFC 9113 8.2.2.
var hopByHop = map[string]bool{"connection": true, "proxy-connection": true, "transfer-encoding": true, "upgrade": true, "keep-alive": true}
