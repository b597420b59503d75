package derp

import (
	"bytes"
	"context"
	"encoding/binary"
	"io"
	"net"
	"net/netip"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"tailscale.com/derp"
	"tailscale.com/types/key"
)

// The parts of the engine that have no door: the parser, the queues, and what they cost.

func testEngine(t testing.TB) *engine {
	t.Helper()
	e, err := newEngine(Config{Key: key.NewNode(), Admit: Anyone})
	if err != nil {
		t.Fatal(err)
	}
	return e
}

// present is a client that has joined and whose outbox nobody empties.
func present(t testing.TB, e *engine) *client {
	t.Helper()
	near, far := net.Pipe()
	t.Cleanup(func() { near.Close(); far.Close() })
	c := newClient(e, accepted{conn: near, abort: near.Close, remote: near.RemoteAddr()})
	c.key = rawKey(key.NewNode().Public())
	c.out.state = running
	e.open[c] = struct{}{}
	e.join(c)
	return c
}

// batch is n packets of one size, for dst.
func batch(dst *client, n, size int) []byte {
	var b []byte
	for i := range n {
		payload := make([]byte, size)
		binary.BigEndian.PutUint32(payload, uint32(i))
		b = appendFrame(b, derp.FrameSendPacket, dst.key[:], payload)
	}
	return b
}

// empty takes all that waits for c and returns how many packets that was.
func empty(c *client) (packets int) {
	for {
		c.out.mu.Lock()
		c.out.carried = true
		c.out.mu.Unlock()
		_, s, _ := c.next()
		if s == nil {
			c.out.state = running
			return packets
		}
		n, _ := countFrames(s.frames())
		packets += n
		s.free()
	}
}

func TestRelayedPacketCostsNoAllocation(t *testing.T) {
	e := testEngine(t)
	a, b := present(t, e), present(t, e)
	in := batch(b, 20, 1200)
	got := testing.AllocsPerRun(200, func() {
		if used, _, err := a.frames(in); used != len(in) || err != nil {
			t.Fatal(used, err)
		}
		if n := empty(b); n != 20 {
			t.Fatalf("got %d packets, want 20", n)
		}
	})
	if got != 0 {
		t.Errorf("got %v allocations for 20 packets, want none", got)
	}
}

func BenchmarkRelay(b *testing.B) {
	e := testEngine(b)
	from, to := present(b, e), present(b, e)
	in := batch(to, 20, 1200)
	b.SetBytes(1200)
	b.ReportAllocs()
	for i := 0; i < b.N; i += 20 {
		from.frames(in)
		empty(to)
	}
}

func BenchmarkFind(b *testing.B) {
	e := testEngine(b)
	c := present(b, e)
	for range 1000 {
		k := rawKey(key.NewNode().Public())
		e.peers.Store(k, &peer{})
	}
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if got, _ := e.find(&c.key); got != c {
				b.Fatal("not found")
			}
		}
	})
}

func TestFullQueueDropsTheOldest(t *testing.T) {
	e := testEngine(t)
	a, b := present(t, e), present(t, e)
	const sent = 1000
	for i := 0; i < sent; i++ {
		payload := binary.BigEndian.AppendUint32(make([]byte, 0, 1200), uint32(i))[:1200]
		a.frames(appendFrame(nil, derp.FrameSendPacket, b.key[:], payload))
	}
	var seen []uint32
	for {
		_, s, _ := b.next()
		if s == nil {
			break
		}
		for f := s.frames(); len(f) > 0; f = f[frameLen(f):] {
			seen = append(seen, binary.BigEndian.Uint32(f[derp.FrameHeaderLen+derp.KeyLen:]))
		}
	}
	dropped := int(e.count.dropped[queueHead][0].Load())
	if dropped == 0 || dropped+len(seen) != sent {
		t.Errorf("%d were dropped and %d delivered of %d", dropped, len(seen), sent)
	}
	if !slices.IsSorted(seen) || seen[0] != uint32(dropped) || seen[len(seen)-1] != sent-1 {
		t.Errorf("got %d to %d, want the newest in order", seen[0], seen[len(seen)-1])
	}
	if got := int(e.count.droppedBytes[queueHead][0].Load()); got != dropped*1200 {
		t.Errorf("got %d bytes dropped, want %d", got, dropped*1200)
	}
	if !a.full {
		t.Error("the sender does not notice")
	}
}

func TestOldPacketsAreDropped(t *testing.T) {
	e := testEngine(t)
	c := present(t, e)
	now := e.now()
	c.push(&c.key, nil, []byte("old"), false, now-maxAge-time.Second)
	c.push(&c.key, nil, []byte("new"), false, now)
	_, s, _ := c.next()
	if s == nil || !bytes.Contains(s.frames(), []byte("new")) || bytes.Contains(s.frames(), []byte("old")) {
		t.Errorf("got %v, want only the new packet", s)
	}
	if got := e.count.dropped[queueAge][0].Load(); got != 1 {
		t.Errorf("got %d dropped for their age, want 1", got)
	}
}

func TestDiscoveryGoesFirst(t *testing.T) {
	e := testEngine(t)
	a, b := present(t, e), present(t, e)
	a.frames(batch(b, 100, 1200))
	found := append([]byte("TS💬"), make([]byte, 32+24+16)...)
	a.frames(appendFrame(nil, derp.FrameSendPacket, b.key[:], found))
	if _, s, _ := b.next(); !bytes.HasSuffix(s.frames(), found) {
		t.Error("the discovery packet waits behind the others")
	}
}

func TestHeadOfLargestPackets(t *testing.T) {
	e := testEngine(t)
	a, b := present(t, e), present(t, e)
	for range 20 {
		a.frames(batch(b, 1, derp.MaxPacketSize))
	}
	if b.out.bulk.bytes > laneBytes {
		t.Errorf("%d bytes wait, want at most %d", b.out.bulk.bytes, laneBytes)
	}
	if n := empty(b); n < 2 {
		t.Errorf("got %d packets, want those that fit", n)
	}
}

// startPipe serves one end of a pipe and returns the other after the handshake.
func startPipe(t *testing.T, e *engine, done chan<- error) (net.Conn, key.NodePrivate) {
	t.Helper()
	near, far := net.Pipe()
	go func() {
		c, err := e.begin(context.Background(), accepted{conn: near, abort: near.Close, remote: net.TCPAddrFromAddrPort(netip.MustParseAddrPort("192.0.2.1:1"))})
		if err == nil {
			err = e.run(c)
		}
		done <- err
	}()
	self := key.NewNode()
	skipFrame(t, far, derp.FrameServerKey)
	if _, err := far.Write(hello(t, self, e.key.Public(), derp.ClientInfo{Version: 2})); err != nil {
		t.Fatal(err)
	}
	skipFrame(t, far, derp.FrameServerInfo)
	return far, self
}

func skipFrame(t *testing.T, r io.Reader, want derp.FrameType) []byte {
	t.Helper()
	var head [derp.FrameHeaderLen]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		t.Fatalf("got %v, want a frame of type %#x", err, want)
	}
	body := make([]byte, binary.BigEndian.Uint32(head[1:]))
	if _, err := io.ReadFull(r, body); err != nil {
		t.Fatal(err)
	}
	if got := derp.FrameType(head[0]); got != want {
		t.Fatalf("got a frame of type %#x, want %#x", got, want)
	}
	return body
}

func TestKeepAlive(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := testEngine(t)
		done := make(chan error, 1)
		conn, _ := startPipe(t, e, done)
		for range 3 {
			began := time.Now()
			skipFrame(t, conn, derp.FrameKeepAlive)
			if d := time.Since(began); d < derp.KeepAlive || d > derp.KeepAlive+5*time.Second {
				t.Errorf("a keep-alive after %v, want 60 to 65 s", d)
			}
		}
		conn.Close()
		if err := <-done; err != nil {
			t.Errorf("got %v at the client's end, want nothing", err)
		}
	})
}

func TestSilentStrangerIsCutOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := testEngine(t)
		near, far := net.Pipe()
		defer far.Close()
		go io.Copy(io.Discard, far)
		began := time.Now()
		_, err := e.begin(t.Context(), accepted{conn: near, abort: near.Close, remote: near.RemoteAddr()})
		if err == nil || time.Since(began) != helloTimeout {
			t.Errorf("got %v after %v, want the end after %v", err, time.Since(began), helloTimeout)
		}
	})
}

func TestDrainIsSpread(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := testEngine(t)
		const n = 1000
		done := make(chan error, n)
		ends := make(chan time.Time, n)
		for range n {
			conn, _ := startPipe(t, e, done)
			go func() {
				for {
					if _, err := io.CopyN(io.Discard, conn, derp.FrameHeaderLen+8); err != nil {
						ends <- time.Now()
						return
					}
				}
			}()
		}
		began := time.Now()
		e.drain(t.Context(), 2*time.Second)
		if took := time.Since(began); took < time.Second || took > 3*time.Second {
			t.Errorf("it took %v to send all away", took)
		}
		early := 0
		for range n {
			<-done
			if (<-ends).Sub(began) < time.Second {
				early++
			}
		}
		if early < n/4 || early > 3*n/4 {
			t.Errorf("%d of %d left within the first second", early, n)
		}
	})
}

func FuzzFrames(f *testing.F) {
	var zero nodeKey
	f.Add(appendFrame(nil, derp.FrameSendPacket, zero[:], []byte("x")), 7, false)
	f.Add(appendFrame(appendFrame(nil, 0x55, make([]byte, 100)), derp.FramePing, make([]byte, 8)), 3, false)
	f.Add(appendFrame(nil, derp.FrameForwardPacket, zero[:], zero[:], []byte("x")), 64, true)
	f.Add(appendFrame(nil, derp.FrameWatchConns), 1, true)
	f.Add([]byte{byte(derp.FrameSendPacket), 0xff, 0xff, 0xff, 0xff}, 2, false)
	f.Fuzz(func(t *testing.T, in []byte, piece int, meshed bool) {
		e := testEngine(t)
		whole, pieces := present(t, e), present(t, e)
		whole.meshed, pieces.meshed = meshed, meshed
		used, need, err := whole.frames(in)
		if used < 0 || used > len(in) || need > maxFrame {
			t.Fatalf("used %d of %d bytes, needs %d", used, len(in), need)
		}
		var have []byte
		all, perr := 0, error(nil)
		for rest := in; len(rest) > 0 && perr == nil; {
			n := min(max(1, piece), len(rest))
			have, rest = append(have, rest[:n]...), rest[n:]
			var k int
			k, _, perr = pieces.frames(have)
			have, all = have[k:], all+k
		}
		if all != used || (err == nil) != (perr == nil) || whole.gotPackets.Load() != pieces.gotPackets.Load() {
			t.Fatalf("in one piece: %d bytes, %v; in pieces of %d: %d bytes, %v", used, err, piece, all, perr)
		}
	})
}
