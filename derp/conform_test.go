package derp_test

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"go4.org/mem"
	ts "tailscale.com/derp"
	"tailscale.com/derp/derphttp"
	"tailscale.com/derp/derpserver"
	"tailscale.com/net/netmon"
	"tailscale.com/types/key"

	"github.com/keelscale/keelscale/derp"
)

// The same cases against our relay and against derpserver, through the wire only.

var psk = strings.Repeat("0f", 32)

// reference is derpserver behind a plain HTTP server.
func reference(t testing.TB, self key.NodePrivate) (*derpserver.Server, string) {
	t.Helper()
	s := derpserver.New(self, func(string, ...any) {})
	if err := s.SetMeshKey(psk); err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewServer(derpserver.Handler(s))
	t.Cleanup(srv.Close)
	t.Cleanup(func() { s.Close() })
	return s, srv.URL + "/derp"
}

// raw is a client that speaks in frames.
type raw struct {
	t    testing.TB
	key  key.NodePrivate
	conn net.Conn
	br   *bufio.Reader
}

// enter connects and introduces itself; mesh says whether it knows the mesh key.
func enter(t testing.TB, url string, relay key.NodePublic, self key.NodePrivate, mesh bool) *raw {
	t.Helper()
	conn, err := net.Dial("tcp", strings.TrimSuffix(strings.TrimPrefix(url, "http://"), "/derp"))
	if err != nil {
		t.Fatal(err)
	}
	return greet(t, conn, relay, self, mesh)
}

// enterTLS is enter for a relay that speaks TLS, whatever its certificate.
func enterTLS(t testing.TB, addr string, relay key.NodePublic, self key.NodePrivate) *raw {
	t.Helper()
	conn, err := tls.Dial("tcp", addr, &tls.Config{InsecureSkipVerify: true})
	if err != nil {
		t.Fatal(err)
	}
	return greet(t, conn, relay, self, false)
}

func greet(t testing.TB, conn net.Conn, relay key.NodePublic, self key.NodePrivate, mesh bool) *raw {
	t.Helper()
	var err error
	t.Cleanup(func() { conn.Close() })
	conn.SetDeadline(time.Now().Add(patience))
	fmt.Fprint(conn, "GET /derp HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: DERP\r\nDerp-Fast-Start: 1\r\n\r\n")
	r := &raw{t, self, conn, bufio.NewReader(conn)}
	if got := r.expect(ts.FrameServerKey); string(got) != ts.Magic+string(relay.AppendTo(nil)) {
		t.Fatalf("got server key %x", got)
	}
	info := ts.ClientInfo{Version: ts.ProtocolVersion, CanAckPings: true}
	if mesh {
		if info.MeshKey, err = key.ParseDERPMesh(psk); err != nil {
			t.Fatal(err)
		}
	}
	text, err := json.Marshal(info)
	if err != nil {
		t.Fatal(err)
	}
	r.send(ts.FrameClientInfo, self.Public().AppendTo(nil), self.SealTo(relay, text))
	sealed := r.expect(ts.FrameServerInfo)
	if text, ok := self.OpenFrom(relay, sealed); !ok || !bytes.Contains(text, []byte(`"version":2`)) {
		t.Fatalf("got welcome %q, %v", text, ok)
	}
	return r
}

func frame(kind ts.FrameType, parts ...[]byte) []byte {
	body := bytes.Join(parts, nil)
	return append(binary.BigEndian.AppendUint32([]byte{byte(kind)}, uint32(len(body))), body...)
}

func (r *raw) raw() []byte { return r.key.Public().AppendTo(nil) }

func (r *raw) send(kind ts.FrameType, parts ...[]byte) {
	r.t.Helper()
	if _, err := r.conn.Write(frame(kind, parts...)); err != nil {
		r.t.Fatalf("sending: %v", err)
	}
}

// expect returns the body of the next frame, which must be of that type.
func (r *raw) expect(kind ts.FrameType) []byte {
	r.t.Helper()
	got, n, err := ts.ReadFrameHeader(r.br)
	if err != nil {
		r.t.Fatalf("got %v, want a frame of type %#x", err, kind)
	}
	body := make([]byte, n)
	if _, err := io.ReadFull(r.br, body); err != nil {
		r.t.Fatal(err)
	}
	if got != kind {
		r.t.Fatalf("got a frame of type %#x %x, want %#x", got, body, kind)
	}
	return body
}

func (r *raw) expectPacket(from *raw, payload []byte) {
	r.t.Helper()
	if got := r.expect(ts.FrameRecvPacket); !bytes.Equal(got, append(from.raw(), payload...)) {
		r.t.Fatalf("got %.80x, want %.80x", got, append(from.raw(), payload...))
	}
}

// settled waits until the relay has handled all that r sent.
func (r *raw) settled() {
	r.t.Helper()
	r.send(ts.FramePing, []byte("settled!"))
	if got := r.expect(ts.FramePong); string(got) != "settled!" {
		r.t.Fatalf("got pong %q", got)
	}
}

func (r *raw) expectEnd() {
	r.t.Helper()
	for {
		_, n, err := ts.ReadFrameHeader(r.br)
		if err == nil {
			_, err = r.br.Discard(int(n))
		}
		if e, ok := err.(net.Error); ok && e.Timeout() {
			r.t.Fatal("the connection survived")
		}
		if err != nil {
			return
		}
	}
}

func discoPacket() []byte { return append([]byte("TS💬"), make([]byte, 32+24+16)...) }

// hall is a relay under test.
type hall struct {
	url  string
	self key.NodePublic
}

func (h hall) node(t testing.TB) *raw { return enter(t, h.url, h.self, key.NewNode(), false) }
func (h hall) mesh(t testing.TB) *raw { return enter(t, h.url, h.self, key.NewNode(), true) }

var cases = map[string]func(*testing.T, hall){
	"packets of all sizes": func(t *testing.T, h hall) {
		a, b := h.node(t), h.node(t)
		for _, n := range []int{0, 1, 31, 64, 1280, 16 << 10, 32 << 10, 40_000, ts.MaxPacketSize} {
			payload := bytes.Repeat([]byte{byte(n)}, n)
			a.send(ts.FrameSendPacket, b.raw(), payload)
			b.expectPacket(a, payload)
		}
	},
	"in order, and in odd pieces": func(t *testing.T, h hall) {
		a, b := h.node(t), h.node(t)
		for round := range 40 { // bounded, as queues drop
			var all []byte
			for i := range 20 {
				all = append(all, frame(ts.FrameSendPacket, b.raw(), fmt.Appendf(nil, "%d/%d", round, i))...)
			}
			for len(all) > 0 {
				n := min(len(all), 1+(round*7)%300)
				if _, err := a.conn.Write(all[:n]); err != nil {
					t.Fatal(err)
				}
				all = all[n:]
			}
			for i := range 20 {
				b.expectPacket(a, fmt.Appendf(nil, "%d/%d", round, i))
			}
		}
	},
	"to oneself": func(t *testing.T, h hall) {
		a := h.node(t)
		a.send(ts.FrameSendPacket, a.raw(), []byte("me"))
		a.expectPacket(a, []byte("me"))
	},
	"nobody there": func(t *testing.T, h hall) {
		a := h.node(t)
		absent := key.NewNode().Public().AppendTo(nil)
		a.send(ts.FrameSendPacket, absent, []byte("data is lost in silence"))
		a.settled()
		a.send(ts.FrameSendPacket, absent, discoPacket())
		want := append(bytes.Clone(absent), byte(ts.PeerGoneReasonNotHere))
		if got := a.expect(ts.FramePeerGone); !bytes.Equal(got, want) {
			t.Errorf("got %x, want %x", got, want)
		}
	},
	"who heard from a node is told when it is gone": func(t *testing.T, h hall) {
		a, b := h.node(t), h.node(t)
		a.send(ts.FrameSendPacket, b.raw(), []byte("hello"))
		b.expectPacket(a, []byte("hello"))
		again := enter(t, h.url, h.self, a.key, false)
		a.conn.Close()
		again.settled()
		again.conn.Close() // only now it is gone
		want := append(a.raw(), byte(ts.PeerGoneReasonDisconnected))
		if got := b.expect(ts.FramePeerGone); !bytes.Equal(got, want) {
			t.Errorf("got %x, want %x", got, want)
		}
	},
	"of several connections the one that spoke last": func(t *testing.T, h hall) {
		a, old := h.node(t), h.node(t)
		young := enter(t, h.url, h.self, old.key, false)
		to := func(b *raw, payload string) {
			t.Helper()
			a.send(ts.FrameSendPacket, b.raw(), []byte(payload))
			b.expectPacket(a, []byte(payload))
		}
		to(young, "to the new one")
		old.settled() // speaks
		to(old, "to the old one")
		old.conn.Close()
		young.settled()
		to(young, "to the one that is left")
	},
	"unknown frames are skipped": func(t *testing.T, h hall) {
		a := h.node(t)
		a.send(0x77, make([]byte, 300_000))
		a.send(ts.FramePong, make([]byte, 8))
		a.send(0x78)
		a.settled()
	},
	"preference": func(t *testing.T, h hall) {
		a := h.node(t)
		for _, v := range []byte{1, 1, 0} {
			a.send(ts.FrameNotePreferred, []byte{v})
		}
		a.settled()
	},
	"watching": func(t *testing.T, h hall) {
		early := h.node(t)
		w := h.mesh(t)
		w.send(ts.FrameWatchConns)
		seen := map[string][]byte{}
		for range 2 { // early, and w itself
			got := w.expect(ts.FramePeerPresent)
			seen[string(got[:32])] = got
		}
		check := func(got []byte, r *raw, flags byte) {
			t.Helper()
			addr := r.conn.LocalAddr().(*net.TCPAddr).AddrPort()
			ip := addr.Addr().As16()
			want := append(append(r.raw(), ip[:]...), byte(addr.Port()>>8), byte(addr.Port()), flags)
			if !bytes.Equal(got, want) && !bytes.Equal(got[32+12:], want[32+12:]) {
				t.Errorf("got %x, want %x", got, want)
			}
		}
		check(seen[string(early.raw())], early, ts.PeerPresentIsRegular)
		check(seen[string(w.raw())], w, ts.PeerPresentIsMeshPeer)
		late := h.node(t)
		check(w.expect(ts.FramePeerPresent), late, ts.PeerPresentIsRegular)
		w.send(ts.FrameClosePeer, late.raw())
		late.expectEnd()
		if got := w.expect(ts.FramePeerGone); !bytes.Equal(got[:32], late.raw()) {
			t.Errorf("got %x gone, want %x", got, late.raw())
		}
	},
	"forwarded packets": func(t *testing.T, h hall) {
		m, b := h.mesh(t), h.node(t)
		far := key.NewNode().Public()
		m.send(ts.FrameForwardPacket, far.AppendTo(nil), b.raw(), []byte("from far"))
		if got := b.expect(ts.FrameRecvPacket); string(got) != string(far.AppendTo(nil))+"from far" {
			t.Errorf("got %q", got)
		}
		absent := key.NewNode().Public().AppendTo(nil)
		m.send(ts.FrameForwardPacket, far.AppendTo(nil), absent, discoPacket())
		if got := m.expect(ts.FramePeerGone); !bytes.Equal(got, append(absent, byte(ts.PeerGoneReasonNotHere))) {
			t.Errorf("got %x", got)
		}
	},
}

// Each of these ends the connection.
var bad = map[string][]byte{
	"packet without a receiver":   frame(ts.FrameSendPacket, make([]byte, 31)),
	"packet too large":            append([]byte{byte(ts.FrameSendPacket), 0, 1, 0, 33}, make([]byte, 64)...),
	"packet of four gigabytes":    append([]byte{byte(ts.FrameSendPacket), 0xff, 0xff, 0xff, 0xff}, make([]byte, 64)...),
	"ping too short":              frame(ts.FramePing, make([]byte, 7)),
	"ping too long":               frame(ts.FramePing, make([]byte, 1001)),
	"preference of two bytes":     frame(ts.FrameNotePreferred, make([]byte, 2)),
	"watching without the key":    frame(ts.FrameWatchConns),
	"closing without the key":     frame(ts.FrameClosePeer, make([]byte, 32)),
	"forwarding without the key":  frame(ts.FrameForwardPacket, make([]byte, 65)),
	"garbage that looks like one": append([]byte{byte(ts.FrameForwardPacket), 0, 0, 0, 1}, "GET / HTTP/1.1"...),
}

func TestConformance(t *testing.T) {
	eachHall(t, func(t *testing.T, h hall) {
		for name, run := range cases {
			t.Run(name, func(t *testing.T) { run(t, h) })
		}
		for name, in := range bad {
			t.Run(name, func(t *testing.T) {
				a := h.node(t)
				a.conn.Write(in)
				a.expectEnd()
			})
		}
	})
}

// eachHall runs a test against derpserver and against ours.
func eachHall(t *testing.T, run func(*testing.T, hall)) {
	t.Run("derpserver", func(t *testing.T) {
		s, url := reference(t, key.NewNode())
		run(t, hall{url, s.PublicKey()})
	})
	t.Run("ours", func(t *testing.T) {
		r := newRelay(t, derp.Config{Mesh: derp.Mesh{Key: psk}})
		run(t, hall{serve(t, r), r.PublicKey()})
	})
}

// A relay of ours in a mesh with one of Tailscale's: packets go both ways.
func TestMeshWithDerpserver(t *testing.T) {
	theirs, theirURL := reference(t, key.NewNode())
	ours := newRelay(t, derp.Config{Mesh: derp.Mesh{Key: psk, With: []string{strings.TrimSuffix(theirURL, "/derp")}}})
	ourURL := serve(t, ours)

	link, err := derphttp.NewClient(theirs.PrivateKey(), ourURL, t.Logf, netmon.NewStatic())
	if err != nil {
		t.Fatal(err)
	}
	if link.MeshKey, err = key.ParseDERPMesh(psk); err != nil {
		t.Fatal(err)
	}
	link.WatchConnectionChanges = true
	done := make(chan struct{})
	go func() {
		defer close(done)
		link.RunWatchConnectionLoop(t.Context(), theirs.PublicKey(), t.Logf,
			func(m ts.PeerPresentMessage) { theirs.AddPacketForwarder(m.Key, link) },
			func(m ts.PeerGoneMessage) { theirs.RemovePacketForwarder(m.Peer, link) }, func(error) {})
	}()
	t.Cleanup(func() { link.Close(); <-done })

	a := hall{ourURL, ours.PublicKey()}.node(t)
	b := hall{theirURL, theirs.PublicKey()}.node(t)
	across := func(from, to *raw) {
		t.Helper()
		waitFor(t, "the relays to know each other's clients", func() bool {
			from.send(ts.FrameSendPacket, to.raw(), []byte("across"))
			from.settled()
			to.conn.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
			defer to.conn.SetReadDeadline(time.Now().Add(patience))
			_, err := to.br.Peek(1)
			return err == nil
		})
		to.expectPacket(from, []byte("across"))
	}
	across(a, b)
	across(b, a)
	b.conn.Close() // whose end a hears of over two relays
	for {
		kind, n, err := ts.ReadFrameHeader(a.br)
		if err != nil {
			t.Fatal(err)
		}
		body := make([]byte, n)
		io.ReadFull(a.br, body)
		if kind == ts.FramePeerGone {
			if got := key.NodePublicFromRaw32(mem.B(body[:32])); got != b.key.Public() {
				t.Errorf("got %v gone, want %v", got, b.key.Public())
			}
			return
		}
	}
}

// A client that does not read keeps nobody else from getting packets, and is dropped.
func TestSlowReaderHarmsNobody(t *testing.T) {
	r := newRelay(t, derp.Config{WriteTimeout: 500 * time.Millisecond})
	h := hall{serve(t, r), r.PublicKey()}
	a, slow, b := h.node(t), h.node(t), h.node(t)
	payload := make([]byte, 60_000)
	for i := range 400 {
		a.send(ts.FrameSendPacket, slow.raw(), payload)
		if i%20 == 0 {
			a.send(ts.FrameSendPacket, b.raw(), []byte{byte(i)})
			b.expectPacket(a, []byte{byte(i)})
		}
	}
	waitFor(t, "the slow reader to be dropped", func() bool {
		a.send(ts.FrameSendPacket, slow.raw(), discoPacket())
		a.conn.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
		_, err := a.br.Peek(1)
		return err == nil
	})
}

// Two machines with one key are told so.
func TestFightersAreTold(t *testing.T) {
	r := newRelay(t, derp.Config{})
	h := hall{serve(t, r), r.PublicKey()}
	one := h.node(t)
	two := enter(t, h.url, h.self, one.key, false)
	one.settled()
	two.settled()
	one.settled()
	two.send(ts.FramePing, make([]byte, 8))
	if text := one.expect(ts.FrameHealth); !strings.Contains(string(text), "same node key") {
		t.Errorf("got %q", text)
	}
	two.conn.Close()
	if text := one.expect(ts.FrameHealth); len(text) > 0 {
		t.Errorf("got %q, want the all-clear", text)
	}
}
