package main

import (
	"bufio"
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"tailscale.com/derp"
	"tailscale.com/types/key"
)

// node is a client of a relay.
type node struct {
	*derp.Client
	conn net.Conn
	key  key.NodePublic
}

// patience is how long a client may take to connect.
const patience = time.Minute

// dial connects a new node, as clients do that have no fast start.
func (r *relay) dial(ctx context.Context) (*node, error) {
	d := net.Dialer{Timeout: patience}
	conn, err := d.DialContext(ctx, "tcp", r.addr)
	if err != nil {
		return nil, err
	}
	conn.SetDeadline(time.Now().Add(patience))
	n, err := r.join(ctx, conn)
	if err != nil {
		conn.Close()
		return nil, err
	}
	conn.SetDeadline(time.Time{})
	return n, nil
}

func (r *relay) join(ctx context.Context, conn net.Conn) (*node, error) {
	if r.tls {
		sealed := tls.Client(conn, &tls.Config{ServerName: "127.0.0.1", InsecureSkipVerify: true, MinVersion: tls.VersionTLS13})
		if err := sealed.HandshakeContext(ctx); err != nil {
			return nil, err
		}
		conn = sealed
	}
	_, err := fmt.Fprintf(conn, "GET /derp HTTP/1.1\r\nHost: %s\r\nConnection: Upgrade\r\nUpgrade: DERP\r\n\r\n", r.addr)
	if err != nil {
		return nil, err
	}
	in := bufio.NewReader(conn)
	res, err := http.ReadResponse(in, nil)
	if err != nil {
		return nil, err
	}
	if res.StatusCode != http.StatusSwitchingProtocols {
		return nil, fmt.Errorf("the relay answers %s", res.Status)
	}
	self := key.NewNode()
	c, err := derp.NewClient(self, conn, bufio.NewReadWriter(in, bufio.NewWriter(conn)), func(string, ...any) {}, derp.CanAckPings(true))
	if err != nil {
		return nil, err
	}
	if m, err := c.Recv(); err != nil {
		return nil, err
	} else if _, ok := m.(derp.ServerInfoMessage); !ok {
		return nil, fmt.Errorf("got a %T first, want the welcome", m)
	}
	return &node{c, conn, self.Public()}, nil
}

// packet is the next packet; it is good until the next call.
func (n *node) packet() (derp.ReceivedPacket, error) {
	for {
		m, err := n.Recv()
		if err != nil {
			return derp.ReceivedPacket{}, err
		}
		switch m := m.(type) {
		case derp.ReceivedPacket:
			return m, nil
		case derp.PingMessage:
			if err := n.SendPong(m); err != nil {
				return derp.ReceivedPacket{}, err
			}
		}
	}
}

// arrival is how n nodes came to be connected.
type arrival struct {
	nodes   []*node
	slowest time.Duration
	broken  int64 // connections that broke off, after which the node came again
}

// connect dials n nodes, at most so many at a time.
func (r *relay) connect(ctx context.Context, n, atOnce int) ([]*node, time.Duration, error) {
	a, err := r.arrive(ctx, n, atOnce, 1)
	return a.nodes, a.slowest, err
}

// arrive dials n nodes, at most so many at a time. Each tries so often, as real ones do.
func (r *relay) arrive(ctx context.Context, n, atOnce, tries int) (arrival, error) {
	nodes := make([]*node, n)
	var next, worst, broken atomic.Int64
	var first atomic.Pointer[error]
	var wg sync.WaitGroup
	for range min(n, atOnce) {
		wg.Go(func() {
			for i := next.Add(1) - 1; i < int64(n) && first.Load() == nil; i = next.Add(1) - 1 {
				began := time.Now()
				c, err := r.dial(ctx)
				for try := 1; err != nil && try < tries && ctx.Err() == nil; try++ {
					broken.Add(1)
					c, err = r.dial(ctx)
				}
				if err != nil {
					err = fmt.Errorf("client %d of %d: %w", i+1, n, err)
					first.CompareAndSwap(nil, &err)
					return
				}
				nodes[i] = c
				took := int64(time.Since(began))
				for old := worst.Load(); took > old && !worst.CompareAndSwap(old, took); old = worst.Load() {
				}
			}
		})
	}
	wg.Wait()
	if err := first.Load(); err != nil {
		hangUp(nodes)
		return arrival{}, *err
	}
	return arrival{nodes, time.Duration(worst.Load()), broken.Load()}, nil
}

func hangUp(nodes []*node) {
	for _, n := range nodes {
		if n != nil {
			n.conn.Close()
		}
	}
}
