package noise

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"github.com/flynn/noise"
	"golang.org/x/crypto/chacha20poly1305"
	"tailscale.com/types/key"
)

// Conn is a connection to a client whose machine key is proven. One goroutine reads; any may write.
type Conn struct {
	net.Conn
	Patience time.Duration // a write that does not get through in it ends the connection; zero: any time

	peer key.MachinePublic
	in   incoming
	out  outgoing
}

// Peer is the machine key of the client.
func (c *Conn) Peer() key.MachinePublic { return c.peer }

const (
	maxRecord   = 4096 // bytes of a record with its header
	maxContents = maxRecord - headerSize - chacha20poly1305.Overhead
)

var errRecord = errors.New("this is no record of the Noise protocol")

// incoming is what has come and was not read yet.
type incoming struct {
	cipher  *noise.CipherState
	plain   []byte    // decrypted, in buf
	small   [128]byte // for a connection at rest, and for what clients say most: that they took so and so much
	large   *[]byte   // while a larger record comes
	buf     []byte    // one of the two
	at, end int       // what of buf is not decrypted yet
}

var large = sync.Pool{New: func() any { b := make([]byte, maxRecord); return &b }}

// Read reads what the client sent.
func (c *Conn) Read(p []byte) (int, error) {
	in := &c.in
	for len(in.plain) == 0 {
		record, err := in.record(c.Conn)
		if err != nil {
			return 0, err
		}
		if in.plain, err = in.cipher.Decrypt(record[:0], nil, record); err != nil {
			return 0, fmt.Errorf("decrypting a record: %w", err)
		}
	}
	n := copy(p, in.plain)
	in.plain = in.plain[n:]
	return n, nil
}

// record is the next record without its header. It is overwritten by the next call.
func (in *incoming) record(from io.Reader) ([]byte, error) {
	if in.at == in.end {
		in.rest()
	}
	if err := in.fill(from, headerSize); err != nil {
		return nil, err
	}
	header := in.buf[in.at:]
	size := headerSize + int(binary.BigEndian.Uint16(header[1:]))
	if header[0] != typeRecord || size > maxRecord {
		return nil, errRecord
	}
	if err := in.fill(from, size); err != nil {
		if err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		return nil, err
	}
	record := in.buf[in.at+headerSize : in.at+size]
	in.at += size
	return record, nil
}

// rest gives the large buffer back: everything in it was read.
func (in *incoming) rest() {
	if in.large != nil {
		large.Put(in.large)
		in.large = nil
	}
	in.buf, in.at, in.end = in.small[:], 0, 0
}

// fill reads until size bytes are there. io.EOF, if there is no end of a record missing.
func (in *incoming) fill(from io.Reader, size int) error {
	if in.at+size > len(in.buf) {
		in.move(size)
	}
	for in.end-in.at < size {
		n, err := from.Read(in.buf[in.end:])
		in.end += n
		if err != nil && in.end-in.at < size {
			if err == io.EOF && in.end > in.at {
				err = io.ErrUnexpectedEOF
			}
			return err
		}
	}
	return nil
}

// move makes room for a record that does not fit behind what was read.
func (in *incoming) move(size int) {
	to := in.buf
	if size > len(to) {
		in.large = large.Get().(*[]byte)
		to = *in.large
	}
	in.end = copy(to, in.buf[in.at:in.end])
	in.buf, in.at = to, 0
}

// outgoing encrypts what goes out.
type outgoing struct {
	mu      sync.Mutex
	cipher  *noise.CipherState
	expires time.Time
	err     error // of an earlier write: the client cannot decrypt what comes after it
}

// gathered are buffers for what becomes one system call. Most messages are short.
var gathered = sync.Pool{New: func() any { b := make([]byte, 0, 20<<10); return &b }}

// maxGathered is how much goes into one system call at most, in bytes. Browsers take no larger message of a WebSocket.
const maxGathered = 32 << 10

// Write sends p. After an error every write fails.
func (c *Conn) Write(p []byte) (n int, err error) {
	out := &c.out
	out.mu.Lock()
	defer out.mu.Unlock()
	if out.err != nil {
		return 0, out.err
	}
	defer func() { out.err = err }()
	buf := gathered.Get().(*[]byte)
	defer gathered.Put(buf)
	for b := (*buf)[:0]; len(p) > 0; b = b[:0] {
		whole := n
		for len(p) > 0 && len(b)+maxRecord <= maxGathered {
			piece := p[:min(len(p), maxContents)]
			b = binary.BigEndian.AppendUint16(append(b, typeRecord), uint16(len(piece)+chacha20poly1305.Overhead))
			if b, err = out.cipher.Encrypt(b, nil, piece); err != nil {
				return whole, fmt.Errorf("encrypting a record: %w", err)
			}
			p, n = p[len(piece):], n+len(piece)
		}
		*buf = b
		if err := c.through(b); err != nil {
			return whole, err
		}
	}
	return n, nil
}

// through writes to the connection, whose deadline it moves now and then.
func (c *Conn) through(b []byte) error {
	if now := time.Now(); c.Patience > 0 && c.out.expires.Sub(now) < c.Patience-c.Patience/8 {
		c.out.expires = now.Add(c.Patience)
		if err := c.Conn.SetWriteDeadline(c.out.expires); err != nil {
			return err
		}
	}
	_, err := c.Conn.Write(b)
	return err
}
