package derp

import (
	"context"
	"hash/maphash"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"
)

// gate bounds new connections, before TLS costs anything: all together (Limits), where what
// comes faster waits in the kernel, and by source those that do not end in an admitted client,
// where what comes faster is closed. So a stranger cannot have us compute handshakes all day,
// and an office behind one address is not bounded by how many its machines are.
type gate struct {
	count   *counters
	limits  *atomic.Pointer[limits]
	atDoor  atomic.Bool // connections pass when they are accepted; else, when they ask for an upgrade
	strange sources
}

func newGate(e *engine) *gate {
	return &gate{count: &e.count, limits: &e.limits, strange: sources{seed: maphash.MakeSeed(), began: e.start}}
}

// pass waits until one more connection fits the limits. It reports false when ctx ends first,
// or the source has had its share.
func (g *gate) pass(ctx context.Context, from netip.Addr) bool {
	if !g.strange.take(from, time.Now()) {
		g.count.strangers.Add(1)
		return false
	}
	for {
		l := g.limits.Load()
		if l.conns == nil {
			return true
		}
		r := l.conns.Reserve()
		d := r.Delay()
		if d <= 0 {
			return true
		}
		t := time.NewTimer(d)
		select {
		case <-t.C:
			return true
		case <-l.replaced: // by others, which may allow more
			t.Stop()
			r.Cancel()
		case <-ctx.Done():
			t.Stop()
			r.Cancel()
			return false
		}
	}
}

// admitted takes back what a connection counted, as it was not a stranger's.
func (g *gate) admitted(from netip.Addr) { g.strange.giveBack(from, time.Now()) }

// connLimiter is the bound on new connections; nil when there is none.
func (v Limits) connLimiter() *rate.Limiter {
	if v.ConnectionsPerSecond <= 0 {
		return nil
	}
	burst := v.ConnectionBurst
	if burst <= 0 {
		burst = int(min(v.ConnectionsPerSecond, 1<<20))
	}
	return rate.NewLimiter(rate.Limit(v.ConnectionsPerSecond), max(1, burst))
}

// gateListener accepts what the gate lets pass. It waits rather than fail: an error would end
// the HTTP server.
type gateListener struct {
	net.Listener
	gate *gate
	ctx  context.Context
}

// Accept implements net.Listener.
func (l gateListener) Accept() (net.Conn, error) {
	for {
		conn, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		if l.gate.pass(l.ctx, addrPort(conn.RemoteAddr()).Addr()) {
			return conn, nil
		}
		if tcp, ok := conn.(*net.TCPConn); ok {
			tcp.SetLinger(0) // what is refused is to leave nothing behind here
		}
		conn.Close()
		if l.ctx.Err() != nil {
			return nil, net.ErrClosed
		}
	}
}

const (
	sourceRate  = 10      // connections per second that a source may have refused
	sourceBurst = 200     // and that may be under way
	sourceCells = 1 << 13 // a power of two
)

// sources counts connections by where they come from, in cells that never grow in number.
// Each source has two of them, and the emptier one tells: only who shares both with a bad
// neighbour suffers from it.
type sources struct {
	seed  maphash.Seed
	began time.Time

	mu    sync.Mutex
	cells [sourceCells]sourceCell
}

// sourceCell is a bucket that leaks.
type sourceCell struct {
	level float64
	at    time.Duration // since the beginning, when level was right
}

// take counts one connection, unless its source has had its share.
func (s *sources) take(from netip.Addr, now time.Time) bool {
	if !counted(from) {
		return true
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	a, b := s.cellsOf(from, now)
	if a.level+1 > sourceBurst && b.level+1 > sourceBurst {
		return false
	}
	a.level, b.level = min(a.level+1, sourceBurst), min(b.level+1, sourceBurst)
	return true
}

func (s *sources) giveBack(from netip.Addr, now time.Time) {
	if !counted(from) {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	a, b := s.cellsOf(from, now)
	a.level, b.level = max(a.level-1, 0), max(b.level-1, 0)
}

// cellsOf finds the cells of a source, as they are now. An IPv6 network of 64 bits is one.
func (s *sources) cellsOf(from netip.Addr, now time.Time) (a, b *sourceCell) {
	raw := from.Unmap().As16()
	n := len(raw)
	if from.Unmap().Is6() {
		n = 8
	}
	h := maphash.Bytes(s.seed, raw[:n])
	a, b = &s.cells[h%sourceCells], &s.cells[(h>>32)%sourceCells]
	at := now.Sub(s.began)
	for _, c := range []*sourceCell{a, b} {
		c.level = max(0, c.level-(at-c.at).Seconds()*sourceRate)
		c.at = at
	}
	return a, b
}

// counted reports whether a source is one machine or household. Behind an address that is not
// public may be a proxy, and all the world behind that.
func counted(from netip.Addr) bool { return from.IsValid() && IsPublic(from.Unmap()) }
