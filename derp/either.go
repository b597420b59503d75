package derp

import (
	"crypto/tls"
	"net"
	"sync"
	"sync/atomic"
)

// Buffered makes the connections of a listener such that are read in large pieces, for a relay
// whose routes are served by a server of its own. TLS says that it is spoken over them from the
// first byte on.
func Buffered(l net.Listener, overTLS bool) net.Listener { return newWireListener(l, overTLS) }

// Either is Buffered for a port that takes connections with TLS and such without: what a client
// speaks is known by its first byte.
func Either(l net.Listener, cfg *tls.Config) net.Listener {
	return &eitherListener{Listener: l, tls: cfg, turns: newTurns()}
}

type eitherListener struct {
	net.Listener
	tls   *tls.Config
	turns turns
}

// Accept implements net.Listener. It never waits for a client to speak.
func (l *eitherListener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &eitherConn{Conn: newWire(conn, false), tls: l.tls, turns: l.turns}, nil
}

// eitherConn decides with the first Read. Deadlines are those of the socket in both cases.
type eitherConn struct {
	net.Conn // the socket
	tls      *tls.Config
	turns    turns
	once     sync.Once
	over     atomic.Pointer[net.Conn] // what is spoken over the socket, once that is known
	err      error                    // of the first byte
}

// tlsHandshake is the type of the first TLS record (RFC 8446, 5.1).
const tlsHandshake = 0x16

func (c *eitherConn) decide() {
	over := c.Conn
	first, err := byte(0), error(nil)
	if w, ok := c.Conn.(*wire); ok {
		if first, err = w.first(); err == nil {
			if w.records = first == tlsHandshake; w.records {
				takeTurns(w, c.turns)
			}
		}
	} else {
		begun := &begunConn{Conn: c.Conn}
		over = begun
		first, err = begun.begin()
	}
	if err != nil {
		c.err = err
		return
	}
	if first == tlsHandshake {
		over = tls.Server(over, c.tls)
	}
	c.over.Store(&over)
}

// decided is what is spoken over the socket, or the connection itself while nobody knows.
func decided(conn net.Conn) net.Conn {
	if c, ok := conn.(*eitherConn); ok {
		if over := c.over.Load(); over != nil {
			return *over
		}
	}
	return conn
}

// Read implements net.Conn.
func (c *eitherConn) Read(p []byte) (int, error) {
	c.once.Do(c.decide)
	if c.err != nil {
		return 0, c.err
	}
	return (*c.over.Load()).Read(p)
}

// Write implements net.Conn.
func (c *eitherConn) Write(p []byte) (int, error) {
	if over := c.over.Load(); over != nil {
		return (*over).Write(p)
	}
	return c.Conn.Write(p)
}

// Close implements net.Conn.
func (c *eitherConn) Close() error {
	if over := c.over.Load(); over != nil {
		return (*over).Close()
	}
	return c.Conn.Close()
}

// begunConn gives back the byte that was read to look at it, where the socket cannot be looked
// into.
type begunConn struct {
	net.Conn
	first [1]byte
	ahead bool
}

func (c *begunConn) begin() (byte, error) {
	for {
		n, err := c.Conn.Read(c.first[:])
		if n > 0 {
			c.ahead = true
			return c.first[0], nil
		}
		if err != nil {
			return 0, err
		}
	}
}

// Read implements net.Conn.
func (c *begunConn) Read(p []byte) (int, error) {
	if c.ahead && len(p) > 0 {
		p[0], c.ahead = c.first[0], false
		return 1, nil
	}
	return c.Conn.Read(p)
}
