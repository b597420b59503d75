package store

import (
	"context"
	"net"
	"syscall"
	"time"
)

// Times after which a database that says nothing is taken for gone: one whose machine lost its power sends no goodbye,
// and those who wait for it shall be told, and go to its successor.
const (
	dialTime    = 10 * time.Second
	silenceTime = 10 * time.Second // of one that owes us an acknowledgement (TCP_USER_TIMEOUT)
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
