package derp_test

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"net"
	"net/netip"
	"runtime"
	"sync"
	"testing"
	"time"

	"tailscale.com/net/stun"

	"github.com/keelscale/keelscale/derp"
)

// newSTUN is a server on loopback and a client's socket.
func newSTUN(t testing.TB, network, addr string) (*derp.STUN, *net.UDPConn) {
	t.Helper()
	s, err := derp.ListenSTUN(t.Context(), addr)
	if err != nil {
		t.Skipf("no STUN on %s here: %v", addr, err)
	}
	done := make(chan error, 1)
	go func() { done <- s.Serve() }()
	t.Cleanup(func() {
		s.Close()
		if err := <-done; err != nil {
			t.Errorf("Serve: %v", err)
		}
	})
	target := s.Addr()
	if target.Addr().IsUnspecified() {
		target = netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), target.Port())
	}
	conn, err := net.DialUDP(network, nil, net.UDPAddrFromAddrPort(target))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	conn.SetDeadline(time.Now().Add(patience))
	return s, conn
}

func ask(t testing.TB, conn *net.UDPConn, request []byte) []byte {
	t.Helper()
	if _, err := conn.Write(request); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 1500)
	n, err := conn.Read(buf)
	if err != nil {
		t.Fatal(err)
	}
	return buf[:n]
}

// stunMessage is a message of RFC 8489 with the given attributes.
func stunMessage(kind uint16, attrs ...string) []byte {
	b := binary.BigEndian.AppendUint16(nil, kind)
	b = append(b, 0, 0, 0x21, 0x12, 0xa4, 0x42)
	b = append(b, "transaction!"...)
	for _, a := range attrs {
		raw, err := hex.DecodeString(a)
		if err != nil {
			panic(err)
		}
		b = append(b, raw...)
	}
	binary.BigEndian.PutUint16(b[2:], uint16(len(b)-20))
	return b
}

func TestSTUNAnswersTailscale(t *testing.T) {
	for _, tt := range []struct{ network, addr string }{
		{"udp4", "127.0.0.1:0"}, {"udp4", ":0"}, {"udp6", "[::1]:0"},
	} {
		t.Run(tt.network+" "+tt.addr, func(t *testing.T) {
			_, conn := newSTUN(t, tt.network, tt.addr)
			id := stun.NewTxID()
			gotID, got, err := stun.ParseResponse(ask(t, conn, stun.Request(id)))
			if err != nil {
				t.Fatal(err)
			}
			if want := conn.LocalAddr().(*net.UDPAddr).AddrPort(); gotID != id || got != want {
				t.Errorf("got %v, %v, want %v, %v", gotID, got, id, want)
			}
		})
	}
}

func TestSTUNAnswersOthers(t *testing.T) {
	_, conn := newSTUN(t, "udp4", "127.0.0.1:0")
	for name, request := range map[string][]byte{
		"bare":             stunMessage(1),
		"with software":    stunMessage(1, "8022000374657300"),
		"with credentials": stunMessage(1, "0006000475736572"),
	} {
		_, got, err := stun.ParseResponse(ask(t, conn, request))
		if want := conn.LocalAddr().(*net.UDPAddr).AddrPort(); err != nil || got != want {
			t.Errorf("%s: got %v, %v, want %v", name, got, err, want)
		}
	}
	// CHANGE-REQUEST must be understood or refused (RFC 8489, 6.3.1).
	got := ask(t, conn, stunMessage(1, "0003000400000006"))
	want := stunMessage(0x0111, "0009000400000414", "000a000200030000")
	if !bytes.Equal(got, want) {
		t.Errorf("got %x, want %x", got, want)
	}
}

func TestSTUNIgnoresTheRest(t *testing.T) {
	_, conn := newSTUN(t, "udp4", "127.0.0.1:0")
	tailscale := stun.Request(stun.NewTxID())
	wrongPrint := bytes.Clone(tailscale)
	wrongPrint[len(wrongPrint)-1]++
	for name, request := range map[string][]byte{
		"empty":              {},
		"short":              stunMessage(1)[:19],
		"longer than told":   append(stunMessage(1), 0, 0, 0, 0),
		"shorter than told":  stunMessage(1, "80220004")[:24],
		"a response":         stunMessage(0x0101),
		"an indication":      stunMessage(0x0011),
		"without the cookie": append(make([]byte, 2), make([]byte, 18)...),
		"wrong fingerprint":  wrongPrint,
		"after fingerprint":  append(bytes.Clone(tailscale), 0x80, 0x22, 0, 0),
		"WireGuard":          append([]byte{1, 0, 0, 0}, make([]byte, 144)...),
	} {
		if _, err := conn.Write(request); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
	}
	// The first answer that comes is for the one proper request.
	id := stun.NewTxID()
	if got, _, err := stun.ParseResponse(ask(t, conn, stun.Request(id))); err != nil || got != id {
		t.Errorf("got an answer to %v (%v), want one to %v", got, err, id)
	}
}

func FuzzSTUN(f *testing.F) {
	f.Add(stun.Request(stun.NewTxID()))
	f.Add(stunMessage(1))
	f.Add(stunMessage(1, "0003000400000006", "0003000400000006", "8022000374657300"))
	f.Add(stun.Response(stun.NewTxID(), netip.MustParseAddrPort("192.0.2.1:5")))
	v4, v6 := netip.MustParseAddrPort("192.0.2.1:12345"), netip.MustParseAddrPort("[2001:db8::1]:12345")
	f.Fuzz(func(t *testing.T, in []byte) {
		for _, addr := range []netip.AddrPort{v4, v6} {
			out := derp.AnswerSTUN(in, addr)
			if len(out) == 0 {
				if _, err := stun.ParseBindingRequest(in); err == nil && len(in) == 20+int(binary.BigEndian.Uint16(in[2:])) {
					// Tailscale's own parser lets unknown attributes pass; we answer those too.
					t.Fatalf("no answer to a request that Tailscale's server would answer: %x", in)
				}
				return
			}
			if len(out) > 3*len(in) {
				t.Fatalf("%d bytes answer %d", len(out), len(in))
			}
			id, got, err := stun.ParseResponse(out)
			if err == nil && (got != addr || !bytes.Equal(id[:], in[8:20])) {
				t.Fatalf("got %v, want %v", got, addr)
			}
			if err != nil && (out[0] != 1 || out[1] != 0x11) {
				t.Fatalf("got %x, which is neither an address nor an error (%v)", out, err)
			}
		}
	})
}

// Clients take no answer that comes from another address than they asked, and a wildcard
// socket on a machine with several addresses has to choose.
func TestSTUNAnswersFromTheAddressAsked(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("only Linux has all of 127.0.0.0/8, and tells a socket which address was asked")
	}
	for _, listen := range []string{":0", "0.0.0.0:0"} {
		s, _ := newSTUN(t, "udp4", listen)
		for _, at := range []string{"127.0.0.1", "127.0.0.2", "127.1.2.3"} {
			conn, err := net.DialUDP("udp4", nil, net.UDPAddrFromAddrPort(netip.AddrPortFrom(netip.MustParseAddr(at), s.Addr().Port())))
			if err != nil {
				t.Fatal(err)
			}
			conn.SetDeadline(time.Now().Add(patience))
			if _, got, err := stun.ParseResponse(ask(t, conn, stun.Request(stun.NewTxID()))); err != nil || got.String() != conn.LocalAddr().String() {
				t.Errorf("%s at %s: got %v, %v, want %v", listen, at, got, err, conn.LocalAddr())
			}
			conn.Close()
		}
	}
}

func TestSTUNCounts(t *testing.T) {
	s, conn := newSTUN(t, "udp4", "127.0.0.1:0")
	ask(t, conn, stun.Request(stun.NewTxID()))
	ask(t, conn, stunMessage(1, "0003000400000006"))
	if _, err := conn.Write([]byte("what is this")); err != nil {
		t.Fatal(err)
	}
	ask(t, conn, stunMessage(1)) // by now the others are done: one client, one socket
	if got, want := s.Counts(), (derp.STUNCounts{IPv4: 2, Refused: 1, Ignored: 1}); got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
}

// A port is shared only among our own sockets, never with another server.
func TestSTUNPortTaken(t *testing.T) {
	s, _ := newSTUN(t, "udp4", "127.0.0.1:0")
	if other, err := derp.ListenSTUN(t.Context(), s.Addr().String()); err == nil {
		other.Close()
		t.Error("two servers have one port")
	}
}

func TestSTUNAllocatesNothing(t *testing.T) {
	_, conn := newSTUN(t, "udp4", "127.0.0.1:0")
	request, buf := stun.Request(stun.NewTxID()), make([]byte, 1500)
	got := testing.AllocsPerRun(1000, func() {
		conn.Write(request)
		if _, err := conn.Read(buf); err != nil {
			t.Fatal(err)
		}
	})
	if got >= 1 {
		t.Errorf("a question and its answer allocate %v times", got)
	}
}

func BenchmarkSTUN(b *testing.B) {
	request := stun.Request(stun.NewTxID())
	addr := netip.MustParseAddrPort("192.0.2.1:12345")
	b.ReportAllocs()
	for b.Loop() {
		derp.AnswerSTUN(request, addr)
	}
}

// BenchmarkSTUNServer has 16 clients with 8 questions each under way, against the server as
// it is, and against one socket that is served one datagram at a time.
func BenchmarkSTUNServer(b *testing.B) {
	for name, listen := range map[string]func(testing.TB) netip.AddrPort{
		"batches": func(t testing.TB) netip.AddrPort { s, _ := newSTUN(t, "udp4", "127.0.0.1:0"); return s.Addr() },
		"singly":  derp.ServeSTUNSingly,
	} {
		b.Run(name, func(b *testing.B) {
			at := listen(b)
			b.ReportAllocs()
			b.ResetTimer()
			load(b, at)
		})
	}
}

// load sends b.N requests and waits for the answers; on loopback none is lost unless a buffer
// overflows, which the window does not let happen.
func load(b *testing.B, at netip.AddrPort) {
	const clients, window = 16, 8
	request := stun.Request(stun.NewTxID())
	var wg sync.WaitGroup
	for range clients {
		conn, err := net.DialUDP("udp4", nil, net.UDPAddrFromAddrPort(at))
		if err != nil {
			b.Fatal(err)
		}
		defer conn.Close()
		conn.SetDeadline(time.Now().Add(time.Minute))
		wg.Go(func() {
			buf := make([]byte, 1500)
			for sent, got, n := 0, 0, b.N/clients+1; got < n; got++ {
				for ; sent < n && sent < got+window; sent++ {
					conn.Write(request)
				}
				if _, err := conn.Read(buf); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
}
