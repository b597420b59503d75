package derp

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"runtime"
	"sync"
	"sync/atomic"
	"time"
)

// STUN tells those who ask which address they are seen at: binding requests as Tailscale
// clients send them, and as RFC 8489 describes them. Others get no answer, and no answer is
// much larger than its question.
//
// Where the system can, there is a socket for each processor, on the same port, and the system
// shares the clients out among them; each is read and written in batches (stun_linux.go).
type STUN struct {
	addr    netip.AddrPort
	sockets []*stunSocket
}

// STUNCounts are what a STUN server has done since it began, in datagrams.
type STUNCounts struct {
	IPv4, IPv6 uint64 // answered with the address
	Refused    uint64 // answered that an attribute is not known
	Ignored    uint64 // no binding requests
	Failed     uint64 // answers that could not be sent
}

// stunSocket is one of the sockets, served by a goroutine of its own.
type stunSocket struct {
	conn     *net.UDPConn
	wildcard bool         // it must be told from which address to answer
	silent   *atomic.Bool // nil, or whether to answer nobody
	counts   [stunOutcomes]atomic.Uint64
	_        [64]byte // keeps the next socket's counts out of this one's cache line
}

// stunOutcome is what became of a datagram.
type stunOutcome int

const (
	stunIgnored stunOutcome = iota
	stunIPv4
	stunIPv6
	stunRefused
	stunFailed
	stunOutcomes
)

const (
	maxSTUN     = 1500 // of a request that is read
	maxAnswer   = 128  // of an answer
	stunBuffer  = 1 << 20
	maxSockets  = 32
	stunRetries = 16 // of finding a port that all sockets can have
)

// ListenSTUN opens UDP sockets at addr. The caller then runs Serve.
func ListenSTUN(ctx context.Context, addr string) (*STUN, error) {
	var err error
	for range stunRetries { // a port that the system chose may be taken in the next moment
		var s *STUN
		if s, err = listenSTUN(ctx, addr); err == nil {
			return s, nil
		}
		if _, port, splitErr := net.SplitHostPort(addr); splitErr != nil || port != "0" {
			break
		}
	}
	return nil, fmt.Errorf("opening the STUN port: %w", err)
}

func listenSTUN(ctx context.Context, addr string) (*STUN, error) {
	// Sockets that share a port would also share it with another relay, unnoticed. So the
	// port is had alone first.
	var alone net.ListenConfig
	probe, err := alone.ListenPacket(ctx, "udp", addr)
	if err != nil {
		return nil, err
	}
	s := &STUN{addr: addrPort(probe.LocalAddr())}
	if !canShare {
		return s, s.add(probe.(*net.UDPConn))
	}
	at := probe.LocalAddr().String()
	probe.Close()
	if host, _, err := net.SplitHostPort(addr); err == nil && host == "" {
		at = fmt.Sprintf(":%d", s.addr.Port()) // of both families
	}
	shared := net.ListenConfig{Control: sharePort}
	for range min(runtime.GOMAXPROCS(0), maxSockets) {
		conn, err := shared.ListenPacket(ctx, "udp", at)
		if err == nil {
			err = s.add(conn.(*net.UDPConn))
		}
		if err != nil {
			s.Close()
			return nil, err
		}
	}
	return s, nil
}

func (s *STUN) add(conn *net.UDPConn) error {
	conn.SetReadBuffer(stunBuffer) // as much of it as the system allows
	socket := &stunSocket{conn: conn, wildcard: s.addr.Addr().IsUnspecified()}
	s.sockets = append(s.sockets, socket)
	if !socket.wildcard {
		return nil
	}
	return tellDestination(conn)
}

// Addr is the address that the sockets are bound to.
func (s *STUN) Addr() netip.AddrPort { return s.addr }

// Close ends Serve.
func (s *STUN) Close() error {
	var errs []error
	for _, socket := range s.sockets {
		errs = append(errs, socket.conn.Close())
	}
	return errors.Join(errs...)
}

// silentWhile has the server answer nobody while is holds, so that clients choose another
// relay. It is called before Serve.
func (s *STUN) silentWhile(is *atomic.Bool) {
	for _, socket := range s.sockets {
		socket.silent = is
	}
}

// Serve answers until Close; then it returns nil.
func (s *STUN) Serve() error {
	var wg sync.WaitGroup
	for _, socket := range s.sockets {
		wg.Go(socket.serve)
	}
	wg.Wait()
	return nil
}

// Counts are what the server has done so far.
func (s *STUN) Counts() (c STUNCounts) {
	for _, socket := range s.sockets {
		c.IPv4 += socket.counts[stunIPv4].Load()
		c.IPv6 += socket.counts[stunIPv6].Load()
		c.Refused += socket.counts[stunRefused].Load()
		c.Ignored += socket.counts[stunIgnored].Load()
		c.Failed += socket.counts[stunFailed].Load()
	}
	return c
}

// answer appends to out what is to be sent back for a datagram; nothing for most.
func (s *stunSocket) answer(out, in []byte, from netip.AddrPort) []byte {
	from = unmap(from)
	req, ok := parseSTUN(in)
	ok = ok && (s.silent == nil || !s.silent.Load())
	outcome := stunIgnored
	switch {
	case ok && req.unknowns > 0:
		outcome = stunRefused
	case ok && from.Addr().Is4():
		outcome = stunIPv4
	case ok:
		outcome = stunIPv6
	}
	s.counts[outcome].Add(1)
	if ok {
		out = req.appendAnswer(out, from)
	}
	return out
}

// serveSingly answers one datagram after the other, on systems that know nothing better.
func (s *stunSocket) serveSingly() {
	in := make([]byte, maxSTUN)
	out := make([]byte, 0, maxAnswer)
	for {
		n, from, err := s.conn.ReadFromUDPAddrPort(in)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil { // such as ECONNREFUSED for an answer sent earlier; never a reason to stop
			time.Sleep(time.Millisecond)
			continue
		}
		if answer := s.answer(out, in[:n], from); len(answer) > 0 {
			if _, err := s.conn.WriteToUDPAddrPort(answer, from); err != nil {
				s.counts[stunFailed].Add(1)
			}
		}
	}
}
