package noise_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coder/websocket"
	"tailscale.com/control/controlbase"
	"tailscale.com/control/controlhttp/controlhttpcommon"
	"tailscale.com/net/wsconn"
	"tailscale.com/types/key"

	"github.com/keelscale/keelscale/hscontrol/control/noise"
)

const version = 142

// served is a server that upgrades and hands over what it got.
type served struct {
	addr  string
	key   key.MachinePrivate
	conns chan *noise.Conn
	errs  chan error
}

func serve(t testing.TB) *served {
	s := &served{key: key.NewMachine(), conns: make(chan *noise.Conn, 1), errs: make(chan error, 1)}
	k := noise.NewKey(s.key)
	ctx, cancel := context.WithCancel(t.Context())
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c, err := k.Upgrade(ctx, w, r)
		if err != nil {
			s.errs <- err
			return
		}
		s.conns <- c
	}))
	t.Cleanup(func() {
		cancel()
		server.Close()
	})
	s.addr = server.Listener.Addr().String()
	return s
}

// dial is a real client over TCP.
func (s *served) dial(t testing.TB) (client *controlbase.Conn, server *noise.Conn, machine key.MachinePublic) {
	t.Helper()
	private := key.NewMachine()
	init, resume, err := controlbase.ClientDeferred(private, s.key.Public(), version)
	if err != nil {
		t.Fatal(err)
	}
	conn, err := net.Dial("tcp", s.addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	fmt.Fprintf(conn, "POST /ts2021 HTTP/1.1\r\nHost: a\r\nUpgrade: %s\r\nConnection: upgrade\r\n%s: %s\r\n\r\n",
		controlhttpcommon.UpgradeHeaderValue, controlhttpcommon.HandshakeHeaderName, base64.StdEncoding.EncodeToString(init))
	// The header ends with an empty line; what follows is the handshake's.
	var head []byte
	for b := make([]byte, 1); !bytes.HasSuffix(head, []byte("\r\n\r\n")); head = append(head, b[0]) {
		if _, err := io.ReadFull(conn, b); err != nil {
			t.Fatalf("after %q: %v", head, err)
		}
	}
	if !bytes.HasPrefix(head, []byte("HTTP/1.1 101 ")) {
		t.Fatalf("got %q, want 101", head)
	}
	if client, err = resume(t.Context(), conn); err != nil {
		t.Fatal(err)
	}
	server = <-s.conns
	t.Cleanup(func() { server.Close() })
	return client, server, private.Public()
}

// The bytes of a real client arrive as they were sent, and those for it, in whatever pieces they are written.
func TestBytesBothWays(t *testing.T) {
	client, server, machine := serve(t).dial(t)
	if server.Peer() != machine {
		t.Errorf("the peer: got %v, want %v", server.Peer(), machine)
	}
	both(t, client, server)
	both(t, server, client)
}

func both(t *testing.T, to io.Writer, from io.Reader) {
	t.Helper()
	r := rand.New(rand.NewPCG(1, 2))
	sizes := []int{1, 16, 125, 126, 4076, 4077, 4078, 64 << 10, 200_000}
	for range 50 {
		sizes = append(sizes, 1+r.IntN(9000))
	}
	var sent []byte
	for i, n := range sizes {
		sent = append(sent, bytes.Repeat([]byte{byte(i)}, n)...)
	}
	var work sync.WaitGroup
	defer work.Wait()
	work.Go(func() {
		for at, rest := 0, sent; at < len(sizes); at++ {
			if n, err := to.Write(rest[:sizes[at]]); n != sizes[at] || err != nil {
				t.Errorf("writing %d bytes: got %d, %v", sizes[at], n, err)
				return
			}
			rest = rest[sizes[at]:]
		}
	})
	got := make([]byte, len(sent))
	if _, err := io.ReadFull(from, got); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, sent) {
		t.Error("other bytes arrived than were sent")
	}
}

// Several goroutines may write at once: each write arrives in one piece.
func TestWritesDoNotMix(t *testing.T) {
	client, server, _ := serve(t).dial(t)
	const writers, size = 8, 6000
	var work sync.WaitGroup
	for i := range writers {
		work.Go(func() {
			if _, err := server.Write(bytes.Repeat([]byte{byte(i)}, size)); err != nil {
				t.Error(err)
			}
		})
	}
	got := make([]byte, writers*size)
	if _, err := io.ReadFull(client, got); err != nil {
		t.Fatal(err)
	}
	work.Wait()
	for piece := got; len(piece) > 0; piece = piece[size:] {
		if !bytes.Equal(piece[:size], bytes.Repeat(piece[:1], size)) {
			t.Fatal("two writes are mixed")
		}
	}
}

func TestWebSocket(t *testing.T) {
	s := serve(t)
	private := key.NewMachine()
	init, resume, err := controlbase.ClientDeferred(private, s.key.Public(), version)
	if err != nil {
		t.Fatal(err)
	}
	query := url.Values{controlhttpcommon.HandshakeHeaderName: {base64.StdEncoding.EncodeToString(init)}}
	ws, _, err := websocket.Dial(t.Context(), "ws://"+s.addr+"/ts2021?"+query.Encode(), &websocket.DialOptions{Subprotocols: []string{controlhttpcommon.UpgradeHeaderValue}})
	if err != nil {
		t.Fatal(err)
	}
	client, err := resume(t.Context(), wsconn.NetConn(t.Context(), ws, websocket.MessageBinary, s.addr))
	if err != nil {
		t.Fatal(err)
	}
	server := <-s.conns
	if server.Peer() != private.Public() {
		t.Errorf("the peer: got %v, want %v", server.Peer(), private.Public())
	}
	both(t, client, server)
	both(t, server, client)
}

func TestUpgradeRefuses(t *testing.T) {
	s := serve(t)
	other, _, err := controlbase.ClientDeferred(key.NewMachine(), key.NewMachine().Public(), version)
	if err != nil {
		t.Fatal(err)
	}
	right, _, err := controlbase.ClientDeferred(key.NewMachine(), s.key.Public(), version)
	if err != nil {
		t.Fatal(err)
	}
	newer := bytes.Clone(right)
	newer[1]++ // what was sealed for one version is not for another
	lowOrder := bytes.Clone(right)
	clear(lowOrder[5:37])
	for _, c := range []struct{ name, upgrade, init, says string }{
		{"another protocol", "h2c", "", "upgrades to"},
		{"no handshake", controlhttpcommon.UpgradeHeaderValue, "", "no Noise handshake"},
		{"no base64", controlhttpcommon.UpgradeHeaderValue, "!", "base64"},
		{"short", controlhttpcommon.UpgradeHeaderValue, encoded(right[:100]), "no Noise handshake"},
		{"another type", controlhttpcommon.UpgradeHeaderValue, encoded(append([]byte{0, 142, 4}, right[3:]...)), "no Noise handshake"},
		{"another server's key", controlhttpcommon.UpgradeHeaderValue, encoded(other), "another server's key"},
		{"another version", controlhttpcommon.UpgradeHeaderValue, encoded(newer), "reading the Noise handshake"},
		{"a key of low order", controlhttpcommon.UpgradeHeaderValue, encoded(lowOrder), "reading the Noise handshake"},
		{"a WebSocket without handshake", "websocket", "", "no Noise handshake"},
	} {
		t.Run(c.name, func(t *testing.T) {
			req, err := http.NewRequest("POST", "http://"+s.addr+"/ts2021", nil)
			if err != nil {
				t.Fatal(err)
			}
			req.Header.Set("Connection", "upgrade")
			req.Header.Set("Upgrade", c.upgrade)
			req.Header.Set(controlhttpcommon.HandshakeHeaderName, c.init)
			resp, err := http.DefaultClient.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			text, _ := io.ReadAll(resp.Body)
			if resp.StatusCode != http.StatusBadRequest || !strings.Contains(string(text), c.says) {
				t.Errorf("got %d %q, want 400 and %q", resp.StatusCode, text, c.says)
			}
			if err := <-s.errs; err == nil {
				t.Error("the server took the connection")
			}
		})
	}
}

func encoded(b []byte) string { return base64.StdEncoding.EncodeToString(b) }

// A client that sends what is no record, or an altered one, is not read any further.
func TestRecordsThatAreNone(t *testing.T) {
	for _, c := range []struct {
		name string
		sent []byte
	}{
		{"another type", []byte{3, 0, 16, 0}},
		{"too large", []byte{4, 0xff, 0xff}},
		{"torn", []byte{4, 0, 20, 1, 2, 3}},
		{"too short for a tag", []byte{4, 0, 3, 1, 2, 3}},
		{"altered", append([]byte{4, 0, 20}, make([]byte, 20)...)},
	} {
		t.Run(c.name, func(t *testing.T) {
			a, b := net.Pipe()
			server := accept(t, b)
			go func() {
				a.Write(c.sent)
				a.Close()
			}()
			n, err := server.Read(make([]byte, 10))
			if n != 0 || err == nil || err == io.EOF {
				t.Errorf("got %d bytes, %v; want none and an error", n, err)
			}
		})
	}
}

func TestEndOfConnection(t *testing.T) {
	client, server, _ := serve(t).dial(t)
	if err := client.Close(); err != nil {
		t.Fatal(err)
	}
	if n, err := server.Read(make([]byte, 10)); n != 0 || err != io.EOF {
		t.Errorf("got %d bytes, %v; want EOF", n, err)
	}
}

// A client that does not read ends its connection, and nothing is sent to it afterwards.
func TestPatienceEnds(t *testing.T) {
	_, b := net.Pipe()
	server := accept(t, b)
	server.Patience = 20 * time.Millisecond
	var timeout net.Error
	if _, err := server.Write([]byte("hello")); !errors.As(err, &timeout) || !timeout.Timeout() {
		t.Fatalf("got %v, want a timeout", err)
	}
	if _, err := server.Write([]byte("again")); err == nil {
		t.Error("a second write went through")
	}
}

// accept is the server's end over conn, after the handshake of a client that then goes away.
func accept(t testing.TB, conn net.Conn) *noise.Conn {
	t.Helper()
	t.Cleanup(func() { conn.Close() })
	s := serve(t)
	_, server, _ := s.dial(t)
	server.Conn.Close()
	server.Conn = conn
	return server
}

func FuzzUpgrade(f *testing.F) {
	private := key.NewMachine()
	k := noise.NewKey(private)
	init, _, err := controlbase.ClientDeferred(key.NewMachine(), private.Public(), version)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(init[:50])
	f.Add(append(bytes.Clone(init[:100]), 1))
	f.Fuzz(func(t *testing.T, init []byte) {
		r := httptest.NewRequest("POST", "/ts2021", nil)
		r.Header.Set("Upgrade", controlhttpcommon.UpgradeHeaderValue)
		r.Header.Set(controlhttpcommon.HandshakeHeaderName, encoded(init))
		w := httptest.NewRecorder()
		if _, err := k.Upgrade(t.Context(), w, r); err == nil || w.Code != http.StatusBadRequest {
			t.Errorf("got %d, %v; want 400", w.Code, err)
		}
	})
}

func FuzzRecords(f *testing.F) {
	f.Add([]byte{4, 0, 16})
	f.Add([]byte{4, 0x0f, 0xfd, 1, 2, 3})
	f.Fuzz(func(t *testing.T, sent []byte) {
		a, b := net.Pipe()
		server := accept(t, b)
		go func() {
			a.Write(sent)
			a.Close()
		}()
		if n, err := server.Read(make([]byte, 10)); n != 0 || err == nil {
			t.Errorf("got %d bytes, %v; want none and an error", n, err)
		}
		b.Close()
	})
}

// BenchmarkHandshake is the server's part of it, beside the client library's server.
func BenchmarkHandshake(b *testing.B) {
	private := key.NewMachine()
	init, _, err := controlbase.ClientDeferred(key.NewMachine(), private.Public(), version)
	if err != nil {
		b.Fatal(err)
	}
	b.Run("ours", func(b *testing.B) {
		k := noise.NewKey(private)
		for b.Loop() {
			if err := noise.Accept(k, init); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("controlbase", func(b *testing.B) {
		for b.Loop() {
			if _, err := controlbase.Server(b.Context(), discard{}, private, init); err != nil {
				b.Fatal(err)
			}
		}
	})
}

// BenchmarkWrite is a short message, and a map of 1,000 peers.
func BenchmarkWrite(b *testing.B) {
	for _, size := range []int{200, 150_000} {
		b.Run(fmt.Sprint(size), func(b *testing.B) {
			_, server, _ := serve(b).dial(b)
			server.Conn = discard{}
			text := make([]byte, size)
			b.SetBytes(int64(size))
			for b.Loop() {
				if _, err := server.Write(text); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// discard is a connection to nobody.
type discard struct{ net.Conn }

func (discard) Write(p []byte) (int, error)      { return len(p), nil }
func (discard) SetWriteDeadline(time.Time) error { return nil }
func (discard) SetDeadline(time.Time) error      { return nil }
func (discard) Close() error                     { return nil }
