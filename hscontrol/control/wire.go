package control

import (
	"bufio"
	"net"
	"net/http"
	"sync"
	"time"

	"tailscale.com/control/controlbase"
)

// HTTP/2 writes up to 64 KiB at a time; Noise makes records of 4 KiB of it, and would write each by itself. The wire
// below Noise gathers what one write of HTTP/2 becomes, so that a message is one system call, and a whole map a few.
//
//	h2 -> noiseConn -> controlbase.Conn (encrypts) -> wire (gathers) -> TCP

// wire is the connection below Noise.
type wire struct {
	net.Conn

	mu      sync.Mutex
	held    *[]byte // what was written since hold; nil: writes go through
	expires time.Time
}

// A write that does not get through in writeTime ends the connection. The deadline is moved only now and then.
const deadlineEvery = writeTime / 8

var gathered = sync.Pool{New: func() any { b := make([]byte, 0, 20<<10); return &b }}

// maxGathered is how much is gathered at most, in bytes.
const maxGathered = 64 << 10

func (w *wire) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.held == nil {
		return w.through(p)
	}
	if len(*w.held)+len(p) > maxGathered {
		if err := w.flush(); err != nil {
			return 0, err
		}
	}
	*w.held = append(*w.held, p...)
	return len(p), nil
}

func (w *wire) through(p []byte) (int, error) {
	if now := time.Now(); w.expires.Sub(now) < writeTime-deadlineEvery {
		w.expires = now.Add(writeTime)
		w.Conn.SetWriteDeadline(w.expires)
	}
	return w.Conn.Write(p)
}

func (w *wire) flush() error {
	if len(*w.held) == 0 {
		return nil
	}
	_, err := w.through(*w.held)
	*w.held = (*w.held)[:0]
	return err
}

// hold gathers writes until release.
func (w *wire) hold() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.held = gathered.Get().(*[]byte)
}

func (w *wire) release() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	err := w.flush()
	gathered.Put(w.held)
	w.held = nil
	return err
}

// noiseConn is what HTTP/2 reads from and writes to.
type noiseConn struct {
	*controlbase.Conn
	wire *wire
}

// recordSize is how much fits into one Noise record for sure, in bytes.
const recordSize = 4000

func (c *noiseConn) Write(p []byte) (int, error) {
	if len(p) <= recordSize {
		return c.Conn.Write(p)
	}
	c.wire.hold()
	n, err := c.Conn.Write(p)
	if flushed := c.wire.release(); err == nil {
		err = flushed
	}
	return n, err
}

// upgrading is the answer to a request that will take over its connection.
type upgrading struct {
	http.ResponseWriter
	wire *wire
}

// Hijack gives the wire in place of the connection.
func (u *upgrading) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	conn, rw, err := http.NewResponseController(u.ResponseWriter).Hijack()
	if err != nil {
		return nil, nil, err
	}
	u.wire = &wire{Conn: conn}
	return u.wire, rw, nil
}
