//go:build unix

package derp

import (
	"encoding/binary"
	"io"
	"net"
	"sync"
	"syscall"
	"time"
)

// wire is a TCP connection that is read in large pieces and yet holds no buffer while nothing
// comes: it waits for the socket first, and takes a buffer from the pool when there is
// something to put into it. It can also hold back what is written, so that several TLS
// records go in one piece.
type wire struct {
	*net.TCPConn
	raw     syscall.RawConn
	records bool // the stream is TLS: never hand out more than the rest of one record
	fill    func(fd uintptr) bool
	turn    turn // to compute the TLS handshake

	// The reader's:
	in       *[wireSize]byte // nil when there is nothing in it
	from, to int
	left     int // of the current record
	err      error
	brimful  bool // see full

	out struct {
		sync.Mutex
		held  *[]byte // nil unless writes are held back
		sent  int     // bytes of held that the socket took
		piece []byte  // what write gives to the socket
		err   error
		write func(fd uintptr)
	}
}

const (
	wireSize     = 64 << 10
	recordHeader = 5
)

var (
	wirePool = sync.Pool{New: func() any { return new([wireSize]byte) }}
	heldPool = sync.Pool{New: func() any { b := make([]byte, 0, wireSize); return &b }}
)

// takeTurns has the TLS handshake of a new connection, in which nothing was read yet, wait for
// its turn.
func takeTurns(conn net.Conn, of turns) {
	if w, ok := conn.(*wire); ok {
		w.turn.want(of)
	}
}

// newWire wraps a TCP connection; another one it returns as it is. records says that TLS
// runs over it, from its first byte.
func newWire(conn net.Conn, records bool) net.Conn {
	tcp, ok := conn.(*net.TCPConn)
	if !ok {
		return conn
	}
	raw, err := tcp.SyscallConn()
	if err != nil {
		return conn
	}
	w := &wire{TCPConn: tcp, raw: raw, records: records}
	w.fill = w.fillFrom
	w.out.write = w.writeTo
	return w
}

// fillFrom reads what the socket has. It returns false when that is nothing yet.
func (w *wire) fillFrom(fd uintptr) bool {
	if w.in == nil {
		w.in = wirePool.Get().(*[wireSize]byte)
	}
	if w.from > 0 {
		w.to = copy(w.in[:], w.in[w.from:w.to])
		w.from = 0
	}
	for {
		n, err := readNow(fd, w.in[w.to:])
		switch {
		case err == syscall.EINTR:
			continue
		case err == syscall.EAGAIN:
			w.release()
			w.turn.pause()
			return false
		case err != nil:
			w.err = err
		case n == 0:
			w.err = io.EOF
		default:
			w.to += n
			w.brimful = w.to == len(w.in)
		}
		return true
	}
}

// release gives the buffer back if it is empty.
func (w *wire) release() {
	if w.in != nil && w.from == w.to {
		wirePool.Put(w.in)
		w.in, w.from, w.to = nil, 0, 0
	}
}

// await blocks until n bytes are there.
func (w *wire) await(n int) error {
	for w.to-w.from < n {
		if err := w.raw.Read(w.fill); err != nil {
			return err
		}
		if w.err != nil {
			w.release()
			return w.err
		}
	}
	return nil
}

// first waits for the first byte, without a buffer. It stays to be read.
func (w *wire) first() (byte, error) {
	var b [1]byte
	var n int
	var failed error
	err := w.raw.Read(func(fd uintptr) bool {
		for failed = syscall.EINTR; failed == syscall.EINTR; {
			n, _, failed = syscall.Recvfrom(int(fd), b[:], syscall.MSG_PEEK)
		}
		return failed != syscall.EAGAIN
	})
	switch {
	case err != nil:
		return 0, err
	case failed != nil:
		return 0, failed
	case n == 0:
		return 0, io.EOF
	}
	return b[0], nil
}

// takeTurn waits until a TLS handshake that is to come may be computed.
func (w *wire) takeTurn() error {
	if w.turn.state.Load() != turnWanted {
		return nil
	}
	if !w.turn.begun {
		if _, err := w.first(); err != nil {
			return err
		}
	}
	if w.turn.take() {
		w.SetReadDeadline(time.Now().Add(handshakeTime))
		w.SetWriteDeadline(time.Time{}) // an answer always fits into the socket
	}
	return nil
}

// Read implements net.Conn.
func (w *wire) Read(b []byte) (int, error) {
	if len(b) == 0 {
		return 0, nil
	}
	if err := w.takeTurn(); err != nil {
		return 0, err
	}
	need := 1
	if w.records && w.left == 0 {
		need = recordHeader
	}
	if err := w.await(need); err != nil {
		return 0, err
	}
	if err := w.takeTurn(); err != nil { // which it gave back if it had to wait
		return 0, err
	}
	have := w.in[w.from:w.to]
	if w.records {
		if w.left == 0 {
			w.left = recordLen(have)
		}
		have = have[:min(len(have), w.left)]
	}
	n := copy(b, have)
	w.from += n
	w.left = max(0, w.left-n)
	w.release()
	return n, nil
}

// more reports whether the next Read, also one through TLS, gets something at once.
func (w *wire) more() bool {
	have := w.in
	if have == nil {
		return false
	}
	if !w.records {
		return w.from < w.to
	}
	if w.left > 0 {
		return w.to-w.from >= w.left
	}
	return w.to-w.from >= recordHeader && w.to-w.from >= recordLen(have[w.from:w.to])
}

// full reports whether the last piece from the socket was as large as one can be, so that there is likely more.
func (w *wire) full() bool { return w.brimful }

func recordLen(b []byte) int { return recordHeader + int(binary.BigEndian.Uint16(b[3:recordHeader])) }

// Write implements net.Conn. The first one is the answer to a ClientHello, or to what is none.
func (w *wire) Write(b []byte) (int, error) {
	w.turn.end()
	w.out.Lock()
	defer w.out.Unlock()
	if w.out.held != nil {
		*w.out.held = append(*w.out.held, b...)
		return len(b), nil
	}
	return w.TCPConn.Write(b)
}

// Close implements net.Conn.
func (w *wire) Close() error {
	w.turn.end()
	return w.TCPConn.Close()
}

// hold keeps back what is written until offer or let.
func (w *wire) hold() {
	w.out.Lock()
	if w.out.held == nil {
		w.out.held, w.out.sent = heldPool.Get().(*[]byte), 0
	}
	w.out.Unlock()
}

// offer gives what was kept back, and b after it, to the socket, as far as that takes it
// without waiting. It reports whether that was all; the rest stays for let.
func (w *wire) offer(b []byte) (all bool, err error) {
	w.out.Lock()
	defer w.out.Unlock()
	if w.out.held != nil {
		n, err := w.tryWrite((*w.out.held)[w.out.sent:])
		if w.out.sent += n; err != nil || w.out.sent < len(*w.out.held) {
			*w.out.held = append(*w.out.held, b...)
			return false, err
		}
		w.drop()
	}
	if len(b) == 0 {
		return true, nil
	}
	n, err := w.tryWrite(b)
	if err != nil || n == len(b) {
		return err == nil, err
	}
	held := heldPool.Get().(*[]byte)
	*held = append(*held, b[n:]...)
	w.out.held, w.out.sent = held, 0
	return false, nil
}

// holds reports whether something is kept back.
func (w *wire) holds() bool {
	w.out.Lock()
	defer w.out.Unlock()
	return w.out.held != nil
}

// let writes what was kept back, and waits until that is done. The lock keeps others, which
// come after it in the stream, from writing first.
func (w *wire) let() error {
	w.out.Lock()
	defer w.out.Unlock()
	if w.out.held == nil {
		return nil
	}
	_, err := w.TCPConn.Write((*w.out.held)[w.out.sent:])
	w.drop()
	return err
}

// drop gives the buffer of what was kept back to the pool.
func (w *wire) drop() {
	if held := w.out.held; cap(*held) <= 2*wireSize {
		*held = (*held)[:0]
		heldPool.Put(held)
	}
	w.out.held, w.out.sent = nil, 0
}

// tryWrite writes what the socket takes at once. It pays no heed to the write deadline.
func (w *wire) tryWrite(b []byte) (n int, err error) {
	w.out.piece, w.out.err = b, nil
	err = w.raw.Control(w.out.write)
	n = len(b) - len(w.out.piece)
	w.out.piece = nil
	if err == nil {
		err = w.out.err
	}
	return n, err
}

func (w *wire) writeTo(fd uintptr) {
	for len(w.out.piece) > 0 {
		n, err := writeNow(fd, w.out.piece)
		switch {
		case err == syscall.EINTR:
		case err == syscall.EAGAIN:
			return
		case err != nil:
			w.out.err = err
			return
		default:
			w.out.piece = w.out.piece[n:]
		}
	}
}
