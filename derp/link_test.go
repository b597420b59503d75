package derp

import (
	"bufio"
	"bytes"
	"io"
	"log/slog"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"tailscale.com/derp"
	"tailscale.com/types/key"
)

func TestStaticTargets(t *testing.T) {
	for _, tt := range []struct{ with, host, path, addr string }{
		{"derp1.example", "derp1.example", "/derp", "derp1.example:443"},
		{"derp1.example:8443", "derp1.example:8443", "/derp", "derp1.example:8443"},
		{"derp1.example/10.0.0.1", "derp1.example", "/derp", "10.0.0.1:443"},
		{"derp1.example:8443/10.0.0.1", "derp1.example:8443", "/derp", "10.0.0.1:8443"},
		{"derp1.example/[2001:db8::1]", "derp1.example", "/derp", "[2001:db8::1]:443"},
		{"[2001:db8::1]:8443", "[2001:db8::1]:8443", "/derp", "[2001:db8::1]:8443"},
		{"http://derp1.example", "derp1.example", "/derp", "derp1.example:80"},
		{"https://derp1.example:1/x/", "derp1.example:1", "/x/derp", "derp1.example:1"},
	} {
		got, err := staticTarget(tt.with, key.DERPMesh{})
		if err != nil || got.host != tt.host || got.path != tt.path || len(got.addrs) != 1 || got.addrs[0] != tt.addr {
			t.Errorf("%s: got %+v, %v, want %s, %s at %s", tt.with, got, err, tt.host, tt.path, tt.addr)
		}
		if got != nil && got.plain != strings.HasPrefix(tt.with, "http:") {
			t.Errorf("%s: got plain %v", tt.with, got.plain)
		}
	}
}

// A relay that says nothing is given up, and what it had is forgotten.
func TestSilentRelayIsGivenUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := testEngine(t)
		l := newLink(e, &target{}, slog.New(slog.DiscardHandler))
		near, far := net.Pipe()
		c := newClient(e, accepted{conn: near, abort: near.Close, remote: near.RemoteAddr()})
		c.meshed, c.line = true, true
		there := rawKey(key.NewNode().Public())
		pings := 0
		done := make(chan struct{})
		go func() {
			defer close(done)
			far.Write(appendFrame(nil, derp.FramePeerPresent, there[:], make([]byte, 19)))
			br := bufio.NewReader(far)
			for {
				kind, n, err := derp.ReadFrameHeader(br)
				if err != nil {
					return
				}
				br.Discard(int(n))
				if kind == derp.FramePing {
					pings++
				}
			}
		}()
		began := time.Now()
		ended := make(chan error)
		go func() { ended <- l.serve(t.Context(), 0, c) }()
		synctest.Wait()
		if _, via := e.find(&there); via != l || via.pick(&there, &there) != c {
			t.Error("the node there cannot be reached")
		}
		if err := <-ended; err == nil {
			t.Error("the link ended without an error")
		}
		if took := time.Since(began); took < lineSilence || took > lineSilence+lineTick {
			t.Errorf("it took %v", took)
		}
		<-done
		if pings < 2 {
			t.Errorf("it was asked %d times", pings)
		}
		l.forget()
		if _, via := e.find(&there); via != nil || len(e.lines) != 0 {
			t.Error("something is left of the link")
		}
	})
}

// pipe is a connection that reads from one place and writes to another.
type pipe struct {
	io.Reader
	io.Writer
}

// welcoming is what a relay says to one that joins it.
func welcoming(t testing.TB, relay, client key.NodePrivate, after ...byte) []byte {
	t.Helper()
	pub := rawKey(relay.Public())
	b := []byte("HTTP/1.1 101 Switching Protocols\r\nUpgrade: DERP\r\nConnection: Upgrade\r\n\r\n")
	b = appendFrame(b, derp.FrameServerKey, []byte(derp.Magic), pub[:])
	b = appendFrame(b, derp.FrameServerInfo, relay.SealTo(client.Public(), []byte(`{"version":2}`)))
	return append(b, after...)
}

func TestIntroduce(t *testing.T) {
	relay, client := key.NewNode(), key.NewNode()
	whole := welcoming(t, relay, client, []byte("ahead")...)
	var sent bytes.Buffer
	got, ahead, err := (&target{path: "/derp", host: "x", key: relay.Public()}).introduce(pipe{bytes.NewReader(whole), &sent}, client, client.Public())
	if err != nil || got != relay.Public() || string(ahead) != "ahead" {
		t.Errorf("got %v, %q, %v", got, ahead, err)
	}
	if _, _, err := (&target{}).introduce(pipe{bytes.NewReader(whole), io.Discard}, client, relay.Public()); err != errSelf {
		t.Errorf("got %v from oneself", err)
	}
	for name, in := range map[string][]byte{
		"nothing":           nil,
		"a web server":      []byte("HTTP/1.1 200 OK\r\n\r\n<html>"),
		"endless lines":     bytes.Repeat([]byte("HTTP/1.1 101 x\r\nA: b"), 10_000),
		"no relay":          bytes.Replace(whole, []byte(derp.Magic), []byte("DERPDERP"), 1),
		"cut short":         whole[:len(whole)-20],
		"sealed to another": welcoming(t, relay, key.NewNode()),
	} {
		if _, _, err := (&target{}).introduce(pipe{bytes.NewReader(in), io.Discard}, client, client.Public()); err == nil {
			t.Errorf("%s was taken for a relay", name)
		}
	}
}

func FuzzIntroduce(f *testing.F) {
	relay, client := key.NewNode(), key.NewNode()
	f.Add(welcoming(f, relay, client))
	f.Add([]byte("HTTP/1.1 503 Service Unavailable\r\n\r\n"))
	f.Fuzz(func(t *testing.T, in []byte) {
		got, ahead, err := (&target{}).introduce(pipe{bytes.NewReader(in), io.Discard}, client, client.Public())
		if err == nil && (got.IsZero() || !bytes.HasSuffix(in, ahead)) {
			t.Errorf("got %v and %q of %q", got, ahead, in)
		}
	})
}

func FuzzNews(f *testing.F) {
	k := make([]byte, derp.KeyLen)
	f.Add(appendFrame(nil, derp.FramePeerPresent, k, make([]byte, 19)))
	f.Add(appendFrame(appendFrame(nil, derp.FrameKeepAlive), derp.FramePeerGone, k, []byte{0}))
	f.Add(appendFrame(appendFrame(nil, derp.FrameHealth, []byte("x")), derp.FramePing, make([]byte, 8)))
	f.Add([]byte{byte(derp.FrameRecvPacket), 0xff, 0, 0, 0})
	f.Fuzz(func(t *testing.T, in []byte) {
		br := bufio.NewReaderSize(bytes.NewReader(in), 64)
		for {
			kind, body, err := readNews(br)
			if err != nil {
				return
			}
			// Whatever is understood was in a frame of that type.
			i := bytes.Index(in, body)
			if want := map[derp.FrameType]int{derp.FramePing: 8, derp.FramePeerPresent: derp.KeyLen, derp.FramePeerGone: derp.KeyLen}[kind]; len(body) != want || i < 0 {
				t.Fatalf("got type %#x with %d bytes", kind, len(body))
			}
		}
	})
}

// A link on which nobody comes or goes lives by the other relay's pongs: each is told to who waits for a sign of life.
func TestEachFrameIsASignOfLife(t *testing.T) {
	in := appendFrame(appendFrame(nil, derp.FramePong, make([]byte, 8)), derp.FrameKeepAlive)
	br := bufio.NewReader(bytes.NewReader(in))
	for _, want := range []derp.FrameType{derp.FramePong, derp.FrameKeepAlive} {
		if got, _, err := readNews(br); got != want || err != nil {
			t.Errorf("got type %#x, %v; want %#x", got, err, want)
		}
	}
}
