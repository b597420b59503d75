package store

import (
	"context"
	"net"
	"sync"
	"syscall"
	"time"
)

// Times after which a database that says nothing is taken for gone: one whose machine lost its power sends no goodbye,
// and those who wait for it shall be told, and go to its successor.
const (
	dialTime    = 10 * time.Second
	silenceTime = 10 * time.Second // of one that owes us an acknowledgement (TCP_USER_TIMEOUT)
	answerTime  = 30 * time.Second // of one that owes us an answer: a pooler acknowledges for a database that hangs
)

// dial connects to PostgreSQL.
func dial(ctx context.Context, network, addr string) (net.Conn, error) {
	d := net.Dialer{
		Timeout:         dialTime,
		KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: 5 * time.Second, Interval: 2 * time.Second, Count: 3},
		Control: func(network, _ string, c syscall.RawConn) error {
			if network == "unix" {
				return nil
			}
			return c.Control(func(fd uintptr) { limitSilence(fd, silenceTime) })
		},
	}
	return d.DialContext(ctx, network, addr)
}

// dialImpatiently connects to a PostgreSQL that says something within a time whenever we wait for it.
func dialImpatiently(patience time.Duration) func(ctx context.Context, network, addr string) (net.Conn, error) {
	return func(ctx context.Context, network, addr string) (net.Conn, error) {
		c, err := dial(ctx, network, addr)
		if err != nil {
			return nil, err
		}
		return &impatientConn{Conn: c, patience: patience}, nil
	}
}

// impatientConn gives up a Read that waits for too long. A deadline that is set from outside comes first.
type impatientConn struct {
	net.Conn
	patience time.Duration

	mu       sync.Mutex
	deadline bool // one was set
}

func (c *impatientConn) Read(b []byte) (int, error) {
	c.mu.Lock()
	if !c.deadline {
		if err := c.Conn.SetReadDeadline(time.Now().Add(c.patience)); err != nil {
			c.mu.Unlock()
			return 0, err
		}
	}
	c.mu.Unlock()
	return c.Conn.Read(b)
}

func (c *impatientConn) SetDeadline(t time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.deadline = !t.IsZero()
	return c.Conn.SetDeadline(t)
}

func (c *impatientConn) SetReadDeadline(t time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.deadline = !t.IsZero()
	return c.Conn.SetReadDeadline(t)
}
