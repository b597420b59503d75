package derp

import (
	"context"
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"tailscale.com/derp"
)

// What has no door: sources that no test machine has, and the turn of the month.

func TestStrangersAreBoundedBySource(t *testing.T) {
	g := newGate(testEngine(t))
	now := g.strange.began
	addr := netip.MustParseAddr
	for _, tt := range []struct {
		name    string
		from    func(i int) netip.Addr
		bounded bool
	}{
		{"one address", func(int) netip.Addr { return addr("203.0.113.7") }, true},
		{"the same, mapped", func(int) netip.Addr { return addr("::ffff:203.0.113.8") }, true},
		{"a network of IPv6", func(i int) netip.Addr {
			a := addr("2001:db8:1:2::").As16()
			binary.BigEndian.PutUint32(a[12:], uint32(i))
			return netip.AddrFrom16(a)
		}, true},
		{"many networks of IPv6", func(i int) netip.Addr {
			a := addr("2001:db8::").As16()
			binary.BigEndian.PutUint32(a[4:], uint32(i))
			return netip.AddrFrom16(a)
		}, false},
		{"loopback", func(int) netip.Addr { return addr("127.0.0.1") }, false},
		{"a proxy nearby", func(int) netip.Addr { return addr("172.17.0.1") }, false},
		{"no address", func(int) netip.Addr { return netip.Addr{} }, false},
	} {
		passed := 0
		for i := range 3 * sourceBurst {
			if g.strange.take(tt.from(i), now) {
				passed++
			}
		}
		want := 3 * sourceBurst
		if tt.bounded {
			want = sourceBurst
		}
		if passed != want {
			t.Errorf("%s: %d passed, want %d", tt.name, passed, want)
		}
	}
	from := addr("203.0.113.7")
	if now = now.Add(time.Second); !g.strange.take(from, now) {
		t.Error("nobody passed a second later")
	}
	for i := range 10 * sourceBurst { // those who are admitted do not count
		if !g.strange.take(addr("203.0.113.9"), now) {
			t.Fatalf("client %d of an office did not pass", i)
		}
		g.strange.giveBack(addr("203.0.113.9"), now)
	}
}

// crowd is a listener at which everybody comes from one address.
type crowd struct {
	net.Listener
	from net.Addr
	left int
	end  chan struct{}
}

type crowdConn struct {
	net.Conn
	from net.Addr
}

func (c crowdConn) RemoteAddr() net.Addr { return c.from }

func (c *crowd) Accept() (net.Conn, error) {
	if c.left == 0 {
		<-c.end
		return nil, net.ErrClosed
	}
	c.left--
	near, far := net.Pipe()
	far.Close()
	return crowdConn{near, c.from}, nil
}

func TestGateWaitsForAllAndClosesStrangers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := testEngine(t)
		e.limits.Store(newLimits(Limits{ConnectionsPerSecond: 50, ConnectionBurst: 10}))
		c := &crowd{from: &net.TCPAddr{IP: net.IPv4(203, 0, 113, 7), Port: 1}, left: 1000, end: make(chan struct{})}
		ctx, cancel := context.WithCancel(t.Context())
		l := gateListener{c, newGate(e), ctx}
		began, passed := time.Now(), 0
		done := make(chan error)
		go func() {
			for {
				if _, err := l.Accept(); err != nil {
					done <- err
					return
				}
				passed++
			}
		}()
		time.Sleep(time.Hour)
		synctest.Wait()
		// Each second that the first wait gives the source ten more, at most 240 of them.
		took := time.Since(began) - time.Hour
		if closed := e.count.strangers.Load(); passed+int(closed) != 1000 || passed < sourceBurst || passed > sourceBurst+100 {
			t.Errorf("%d passed and %d were closed within %v, want 1000 together and about %d", passed, closed, took, sourceBurst)
		}
		cancel()
		close(c.end)
		if err := <-done; !errors.Is(err, net.ErrClosed) {
			t.Errorf("got %v at the end", err)
		}
	})
}

// Whoever waits takes notice when the limit is lifted.
func TestGateHearsOfNewLimits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := testEngine(t)
		e.setLimits(Limits{ConnectionsPerSecond: 0.001, ConnectionBurst: 1})
		g := newGate(e)
		from := netip.MustParseAddr("203.0.113.7")
		g.pass(t.Context(), from)
		done := make(chan bool)
		go func() { done <- g.pass(t.Context(), from) }()
		synctest.Wait()
		began := time.Now()
		e.setLimits(Limits{})
		if ok := <-done; !ok || time.Since(began) > 0 {
			t.Errorf("got %v after %v", ok, time.Since(began))
		}
	})
}

func TestQuotaComesBackWithTheMonth(t *testing.T) {
	e := testEngine(t)
	at := func(text string) time.Time {
		v, err := time.Parse(time.RFC3339, text)
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
	total := uint64(0)
	m := &e.month
	for _, tt := range []struct {
		at   string
		send uint64 // since the line before
		told uint64 // what somebody knows of
		want uint64
	}{
		{"2026-01-31T22:00:00Z", 100, 0, 0}, // begins with the first look
		{"2026-01-31T23:00:00Z", 100, 0, 100},
		{"2026-01-31T23:00:01Z", 0, 1000, 1000}, // from before a restart
		{"2026-01-31T23:59:59Z", 10, 500, 1010},
		{"2026-02-01T01:00:00+02:00", 1, 0, 1011}, // it is still January
		{"2026-02-01T00:00:00Z", 7, 0, 0},
		{"2026-02-28T00:00:00Z", 7, 0, 7},
		{"2027-02-01T00:00:00Z", 0, 0, 0},
	} {
		total += tt.send
		if got := m.atLeast(at(tt.at), total, tt.told); got != tt.want {
			t.Errorf("%s: got %d, want %d", tt.at, got, tt.want)
		}
	}
	e = testEngine(t)
	e.month.count(at("2027-02-01T00:00:00Z"), 0)
	c := present(t, e)
	c.sentPackets.Add(1)
	c.sentBytes.Add(5000)
	e.limits.Store(newLimits(Limits{MonthlyQuota: 5000 + derp.FrameHeaderLen + derp.KeyLen}))
	e.checkQuota(at("2027-02-01T00:00:00Z"))
	if why := e.closedTo(); why == "" {
		t.Error("the quota is spent, and clients are taken")
	}
	if err := e.join(c); err == nil {
		t.Error("a client joined a relay that takes none")
	}
	e.checkQuota(at("2027-03-01T00:00:00Z"))
	if why := e.closedTo(); why != "" {
		t.Errorf("a month later no clients are taken: %s", why)
	}
	e.close()
}

// However many receivers are slow, what waits for them stays within bounds, and each still has
// something of its own.
func TestWhatWaitsIsBoundedForAllTogether(t *testing.T) {
	e := testEngine(t)
	a := present(t, e)
	e.stock.most = 8 << 20
	receivers := 2 * int(e.stock.most) / laneBytes
	var list []*client
	for range receivers {
		c := present(t, e)
		list = append(list, c)
		in := batch(c, laneBytes/1200, 1200)
		for len(in) > 0 {
			used, _, err := a.frames(in[:min(len(in), readSize)])
			if err != nil {
				t.Fatal(err)
			}
			in = in[used:]
		}
	}
	if got, most := e.stock.Load(), e.stock.most+int64(receivers*slabSize); got > most {
		t.Errorf("%d MiB wait, want at most %d MiB", got>>20, most>>20)
	}
	for i, c := range list {
		if c.out.bulk.bytes == 0 {
			t.Fatalf("receiver %d has nothing", i)
		}
		c.shut()
	}
	if got := e.stock.Load(); got != 0 {
		t.Errorf("%d bytes are counted when nothing waits", got)
	}
}
