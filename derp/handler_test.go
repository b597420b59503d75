package derp_test

import (
	"bufio"
	"cmp"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/coder/websocket"
	ts "tailscale.com/derp"
	"tailscale.com/net/wsconn"
	"tailscale.com/types/key"

	"github.com/keelscale/keelscale/derp"
)

func TestPages(t *testing.T) {
	long := strings.Repeat("x", 65)
	for _, tt := range []struct {
		name, method, path string
		header             [2]string
		pages              derp.Pages
		status             int
		want               [2]string // a header of the answer
		body               string
	}{
		{name: "home", path: "/", status: 200, body: "DERP relay"},
		{name: "blank home", path: "/", pages: derp.Pages{Home: "blank"}, status: 200},
		{name: "home elsewhere", path: "/", pages: derp.Pages{Home: "https://example.org/"}, status: 302, want: [2]string{"Location", "https://example.org/"}},
		{name: "no such page", path: "/x", status: 404},
		{name: "no debugging in public", path: "/debug/vars", status: 404},
		{name: "robots", path: "/robots.txt", status: 200, body: "Disallow: /"},
		{name: "relay without upgrade", path: "/derp", status: 426},
		{name: "relay with another upgrade", path: "/derp", header: [2]string{"Upgrade", "h2c"}, status: 426},
		{name: "relay switched off", path: "/derp", header: [2]string{"Upgrade", "DERP"}, pages: derp.Pages{NoRelay: true}, status: 404},
		{name: "probe", path: "/derp/probe", status: 200, want: [2]string{"Access-Control-Allow-Origin", "*"}},
		{name: "latency", method: "HEAD", path: "/derp/latency-check", status: 200, want: [2]string{"Access-Control-Allow-Origin", "*"}},
		{name: "latency by POST", method: "POST", path: "/derp/latency-check", status: 405},
		{name: "captive portal", path: "/generate_204", header: [2]string{"X-Tailscale-Challenge", "ts_1.2-x:Y"}, status: 204, want: [2]string{"X-Tailscale-Response", "response ts_1.2-x:Y"}},
		{name: "a challenge with a trick", path: "/generate_204", header: [2]string{"X-Tailscale-Challenge", "a b"}, status: 204, want: [2]string{"X-Tailscale-Response", ""}},
		{name: "a long challenge", path: "/generate_204", header: [2]string{"X-Tailscale-Challenge", long}, status: 204, want: [2]string{"X-Tailscale-Response", ""}},
		{name: "bootstrap DNS of nothing", path: "/bootstrap-dns?q=example.org", status: 200, body: "{}"},
		{name: "bootstrap DNS", path: "/bootstrap-dns", pages: derp.Pages{BootstrapDNS: []string{"localhost."}, HiddenDNS: []string{"ip6-localhost"}}, status: 200, body: `{"localhost":["127.0.0.1"`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := newRelay(t, derp.Config{Pages: tt.pages})
			req := httptest.NewRequest(cmp.Or(tt.method, "GET"), tt.path, nil)
			if tt.header[0] != "" {
				req.Header.Set(tt.header[0], tt.header[1])
			}
			w := httptest.NewRecorder()
			r.Handler().ServeHTTP(w, req)
			if w.Code != tt.status {
				t.Errorf("got status %d, want %d", w.Code, tt.status)
			}
			if tt.want[0] != "" && w.Header().Get(tt.want[0]) != tt.want[1] {
				t.Errorf("got %s %q, want %q", tt.want[0], w.Header().Get(tt.want[0]), tt.want[1])
			}
			if !strings.Contains(w.Body.String(), tt.body) {
				t.Errorf("got body %q, want %q in it", w.Body, tt.body)
			}
		})
	}
}

func TestPagesRefused(t *testing.T) {
	for _, home := range []string{"example.org", "ftp://example.org", "https://"} {
		if _, err := derp.New(derp.Config{Key: key.NewNode(), Pages: derp.Pages{Home: home}}); err == nil {
			t.Errorf("home page %q was accepted", home)
		}
	}
}

// plainRequest asks for the relay as a client does that does not know its key yet.
func plainRequest(t *testing.T, url string, header ...string) (net.Conn, *bufio.Reader) {
	t.Helper()
	conn, err := net.Dial("tcp", strings.TrimSuffix(strings.TrimPrefix(url, "http://"), "/derp"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	fmt.Fprintf(conn, "GET /derp HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: DERP\r\n%s\r\n", strings.Join(header, ""))
	return conn, bufio.NewReader(conn)
}

func TestPlainUpgradeTellsTheKey(t *testing.T) {
	r := newRelay(t, derp.Config{})
	conn, br := plainRequest(t, serve(t, r))
	res, err := http.ReadResponse(br, nil)
	if err != nil {
		t.Fatal(err)
	}
	if res.StatusCode != 101 || res.Header.Get("Upgrade") != "DERP" || res.Header.Get("Derp-Version") != "2" {
		t.Errorf("got %s %v, want a switch to DERP 2", res.Status, res.Header)
	}
	if got, want := res.Header.Get("Derp-Public-Key"), r.PublicKey().UntypedHexString(); got != want {
		t.Errorf("got key %s, want %s", got, want)
	}
	speak(t, conn, bufio.NewReadWriter(br, bufio.NewWriter(conn)))
}

func TestFastStartNeedsNoAnswer(t *testing.T) {
	r := newRelay(t, derp.Config{})
	conn, br := plainRequest(t, serve(t, r), "Derp-Fast-Start: 1\r\n")
	speak(t, conn, bufio.NewReadWriter(br, bufio.NewWriter(conn)), ts.ServerPublicKey(r.PublicKey()))
}

// speak introduces a client over a connection that was upgraded and waits for the welcome.
func speak(t *testing.T, conn net.Conn, brw *bufio.ReadWriter, opts ...ts.ClientOpt) {
	t.Helper()
	c, err := ts.NewClient(key.NewNode(), conn, brw, t.Logf, opts...)
	if err != nil {
		t.Fatal(err)
	}
	if m, err := c.Recv(); err != nil {
		t.Fatal(err)
	} else if _, ok := m.(ts.ServerInfoMessage); !ok {
		t.Fatalf("got %T, want the welcome", m)
	}
}

func TestWebSocket(t *testing.T) {
	r := newRelay(t, derp.Config{})
	url := serve(t, r)
	dial := func() *ts.Client {
		ws, _, err := websocket.Dial(t.Context(), url, &websocket.DialOptions{Subprotocols: []string{"derp"}})
		if err != nil {
			t.Fatal(err)
		}
		conn := wsconn.NetConn(context.Background(), ws, websocket.MessageBinary, url)
		t.Cleanup(func() { conn.Close() })
		c, err := ts.NewClient(key.NewNode(), conn, bufio.NewReadWriter(bufio.NewReader(conn), bufio.NewWriter(conn)), t.Logf)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.Recv(); err != nil {
			t.Fatal(err)
		}
		return c
	}
	browser := dial()
	plain := newClient(t, url, key.NewNode())
	connect(t, plain)
	payload := strings.Repeat("p", ts.MaxPacketSize)
	if err := browser.Send(plain.SelfPublicKey(), []byte(payload)); err != nil {
		t.Fatal(err)
	}
	for {
		m, err := plain.Recv()
		if err != nil {
			t.Fatal(err)
		}
		if p, ok := m.(ts.ReceivedPacket); ok {
			if string(p.Data) != payload {
				t.Errorf("got %d bytes, want %d", len(p.Data), len(payload))
			}
			break
		}
	}
}

func TestGarbageIsRefused(t *testing.T) {
	r := newRelay(t, derp.Config{})
	url := serve(t, r)
	stranger := key.NewNode()
	for name, frame := range map[string]string{
		"another frame":    "\x04\x00\x00\x00\x20" + strings.Repeat("x", 32),
		"too short":        "\x02\x00\x00\x00\x10" + strings.Repeat("x", 16),
		"too long":         "\x02\x7f\xff\xff\xff",
		"not sealed to us": "\x02\x00\x00\x00\x80" + string(stranger.Public().AppendTo(nil)) + strings.Repeat("x", 96),
	} {
		t.Run(name, func(t *testing.T) {
			conn, br := plainRequest(t, url, "Derp-Fast-Start: 1\r\n")
			if _, err := io.CopyN(io.Discard, br, 5+40); err != nil { // the server's key
				t.Fatal(err)
			}
			io.WriteString(conn, frame)
			if rest, err := io.ReadAll(br); len(rest) > 0 {
				t.Errorf("got %q (%v), want the end of the connection", rest, err)
			}
		})
	}
}

func TestClosedRelayRefuses(t *testing.T) {
	r := newRelay(t, derp.Config{})
	url := serve(t, r)
	c := newClient(t, url, key.NewNode())
	connect(t, c)
	r.Close()
	if _, err := c.Recv(); err == nil {
		t.Error("the connection survived Close")
	}
	_, br := plainRequest(t, url)
	res, err := http.ReadResponse(br, nil)
	if err != nil {
		t.Fatal(err)
	}
	if res.StatusCode != http.StatusServiceUnavailable {
		t.Errorf("got %s, want 503", res.Status)
	}
}
