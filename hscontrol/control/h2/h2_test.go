package h2_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/keelscale/keelscale/hscontrol/control/h2"
)

// serve serves connections with ours or, for comparison, with golang.org/x/net/http2, until the test ends.
func serve(t testing.TB, ours bool, handler http.Handler) (address string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &h2.Server{Handler: handler, MaxStreams: 100, Idle: time.Minute, Patience: time.Minute, Log: slog.New(slog.DiscardHandler)}
	var wait sync.WaitGroup
	var mu sync.Mutex
	var open []net.Conn
	wait.Go(func() {
		for {
			nc, err := l.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			open = append(open, nc)
			mu.Unlock()
			wait.Go(func() {
				if ours {
					s.ServeConn(context.Background(), nc, nc.RemoteAddr().String())
				} else {
					(&http2.Server{MaxConcurrentStreams: 100}).ServeConn(nc, &http2.ServeConnOpts{Handler: handler, BaseConfig: &http.Server{ErrorLog: slog.NewLogLogger(slog.DiscardHandler, 0)}})
				}
			})
		}
	})
	t.Cleanup(func() {
		l.Close()
		mu.Lock()
		for _, nc := range open {
			nc.Close()
		}
		mu.Unlock()
		wait.Wait()
	})
	return l.Addr().String()
}

// client speaks HTTP/2 over one connection to the address.
func client(t testing.TB, address string) *http2.ClientConn {
	t.Helper()
	nc, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	c, err := (&http2.Transport{AllowHTTP: true}).NewClientConn(nc)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func request(t testing.TB, method, path string, body io.Reader) *http.Request {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, "http://host.example"+path, body)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// both runs a test against ours, and against the library as the reference.
func both(t *testing.T, handler http.HandlerFunc, test func(*testing.T, *http2.ClientConn)) {
	for name, ours := range map[string]bool{"ours": true, "x/net": false} {
		t.Run(name, func(t *testing.T) { test(t, client(t, serve(t, ours, handler))) })
	}
}

// Requests and answers of every shape look the same on the other side as from the library.
func TestAnswers(t *testing.T) {
	large := bytes.Repeat([]byte("0123456789abcdef"), 1<<16) // 1 MiB
	handler := func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/echo":
			body, err := io.ReadAll(r.Body)
			if err != nil {
				t.Errorf("reading the body: %v", err)
			}
			w.Write(body)
		case "/large":
			w.Header().Set("Content-Type", "application/octet-stream")
			w.Write(large)
		case "/nothing":
		case "/status":
			w.Header().Add("X-Two", "1")
			w.Header().Add("X-Two", "2")
			w.WriteHeader(http.StatusTeapot)
			io.WriteString(w, "short and stout")
		case "/204":
			w.WriteHeader(http.StatusNoContent)
		case "/ignored": // the body is not read
			io.WriteString(w, "early")
		case "/panic":
			panic(http.ErrAbortHandler)
		case "/header":
			w.Header().Set("X-Long", strings.Repeat("x", 40<<10))
		default:
			fmt.Fprintf(w, "%s %s %s %q %q %d %s", r.Method, r.Host, r.RequestURI, r.URL.RawQuery, r.Header["X-In"], r.ContentLength, r.Proto)
		}
	}
	for _, c := range []struct {
		method, path string
		body         func() io.Reader
	}{
		{"GET", "/plain?a=b%20c", nil},
		{"POST", "/plain", func() io.Reader { return strings.NewReader("abc") }},
		{"HEAD", "/status", nil},
		{"GET", "/status", nil},
		{"GET", "/204", nil},
		{"GET", "/nothing", nil},
		{"GET", "/large", nil},
		{"GET", "/header", nil},
		{"POST", "/echo", func() io.Reader { return bytes.NewReader(large) }},
		{"POST", "/echo", func() io.Reader { return io.MultiReader(bytes.NewReader(large), strings.NewReader("!")) }}, // no Content-Length
		{"POST", "/echo", func() io.Reader { return http.NoBody }},
		{"POST", "/ignored", func() io.Reader { return bytes.NewReader(large) }},
		{"GET", "/panic", nil},
	} {
		t.Run(c.method+c.path, func(t *testing.T) {
			answers := map[bool]string{}
			for _, ours := range []bool{true, false} {
				cc := client(t, serve(t, ours, http.HandlerFunc(handler)))
				for range 2 { // the second meets the table of the compression
					var body io.Reader
					if c.body != nil {
						body = c.body()
					}
					r := request(t, c.method, c.path, body)
					r.Header["X-In"] = []string{"one", "two"}
					resp, err := cc.RoundTrip(r)
					if err != nil {
						answers[ours] = "error"
						continue
					}
					text, err := io.ReadAll(resp.Body)
					resp.Body.Close()
					resp.Header.Del("Date")
					answers[ours] = fmt.Sprintf("%s %v %d %x %v", resp.Status, resp.Header, resp.ContentLength, text, err)
				}
			}
			if got, want := answers[true], answers[false]; got != want {
				t.Errorf("got  %.300s\nwant %.300s", got, want)
			}
		})
	}
}

// What is flushed arrives at once, and the request ends when the client leaves.
func TestStreaming(t *testing.T) {
	next, left := make(chan string), make(chan error, 1)
	both(t, func(w http.ResponseWriter, r *http.Request) {
		rc := http.NewResponseController(w)
		for {
			select {
			case text := <-next:
				io.WriteString(w, text)
				io.WriteString(w, "\n")
				if err := rc.Flush(); err != nil {
					t.Errorf("flushing: %v", err)
				}
			case <-r.Context().Done():
				left <- r.Context().Err()
				return
			}
		}
	}, func(t *testing.T, cc *http2.ClientConn) {
		ctx, cancel := context.WithCancel(t.Context())
		first := make(chan struct{})
		go func() { next <- "first"; close(first) }()
		resp, err := cc.RoundTrip(request(t, "GET", "/", nil).WithContext(ctx))
		if err != nil {
			t.Fatal(err)
		}
		<-first
		lines := bufio.NewReader(resp.Body)
		for i := range 50 {
			want := "first"
			if i > 0 {
				want = strconv.Itoa(i)
				next <- want
			}
			got, err := lines.ReadString('\n')
			if err != nil || got != want+"\n" {
				t.Fatalf("got %q, %v, want %q", got, err, want)
			}
		}
		cancel()
		if err := <-left; !errors.Is(err, context.Canceled) {
			t.Errorf("got %v, want that the request was ended", err)
		}
	})
}

// A client that does not read one answer still gets others on the same connection, and the handler of the first waits.
func TestFlowControl(t *testing.T) {
	large := bytes.Repeat([]byte("x"), 16<<20)
	both(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/large" {
			w.Write(large)
			return
		}
		io.WriteString(w, "ok")
	}, func(t *testing.T, cc *http2.ClientConn) {
		slow, err := cc.RoundTrip(request(t, "GET", "/large", nil))
		if err != nil {
			t.Fatal(err)
		}
		for range 20 {
			resp, err := cc.RoundTrip(request(t, "GET", "/small", nil))
			if err != nil {
				t.Fatal(err)
			}
			if text, err := io.ReadAll(resp.Body); string(text) != "ok" || err != nil {
				t.Fatalf("beside a slow one: got %q, %v", text, err)
			}
		}
		if n, err := io.Copy(io.Discard, slow.Body); n != int64(len(large)) || err != nil {
			t.Errorf("got %d bytes, %v, want %d", n, err, len(large))
		}
	})
}

// Deadlines end what waits.
func TestDeadlines(t *testing.T) {
	was := make(chan error, 1)
	both(t, func(w http.ResponseWriter, r *http.Request) {
		rc := http.NewResponseController(w)
		if r.URL.Path == "/read" {
			rc.SetReadDeadline(time.Now().Add(10 * time.Millisecond))
			_, err := io.ReadAll(r.Body)
			was <- err
			return
		}
		rc.SetWriteDeadline(time.Now().Add(10 * time.Millisecond))
		<-r.Context().Done()
		_, err := w.Write(make([]byte, 1<<20))
		was <- err
	}, func(t *testing.T, cc *http2.ClientConn) {
		pr, pw := io.Pipe()
		defer pw.Close()
		go cc.RoundTrip(request(t, "POST", "/read", pr))
		if err := <-was; !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("reading: got %v, want that its time is over", err)
		}
		if resp, err := cc.RoundTrip(request(t, "GET", "/write", nil)); err == nil {
			t.Errorf("got %s, want that the request is ended", resp.Status)
		}
		if err := <-was; err == nil {
			t.Error("writing went on after its time")
		}
	})
}

// Many requests at once on one connection, with bodies both ways.
func TestManyAtOnce(t *testing.T) {
	both(t, func(w http.ResponseWriter, r *http.Request) {
		rc := http.NewResponseController(w)
		rc.EnableFullDuplex()
		io.Copy(writerFunc(func(p []byte) (int, error) {
			n, err := w.Write(p)
			rc.Flush()
			return n, err
		}), r.Body)
	}, func(t *testing.T, cc *http2.ClientConn) {
		var wait sync.WaitGroup
		for i := range 60 {
			wait.Go(func() {
				want := bytes.Repeat([]byte{byte(i)}, 10_000*(i+1))
				resp, err := cc.RoundTrip(request(t, "POST", "/", bytes.NewReader(want)))
				if err != nil {
					t.Error(err)
					return
				}
				if got, err := io.ReadAll(resp.Body); err != nil || !bytes.Equal(got, want) {
					t.Errorf("got %d bytes, %v, want %d", len(got), err, len(want))
				}
			})
		}
		wait.Wait()
	})
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

// raw is a client that writes what it likes.
type raw struct {
	t    testing.TB
	conn net.Conn
	*http2.Framer
}

func dialRaw(t testing.TB, address string) *raw {
	t.Helper()
	nc, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { nc.Close() })
	nc.SetDeadline(time.Now().Add(2 * time.Minute))
	io.WriteString(nc, http2.ClientPreface)
	r := &raw{t, nc, http2.NewFramer(nc, nc)}
	r.AllowIllegalWrites = true
	r.WriteSettings()
	return r
}

func (r *raw) get(id uint32, end bool, fields ...string) {
	var b bytes.Buffer
	e := hpack.NewEncoder(&b)
	for i := 0; i < len(fields); i += 2 {
		e.WriteField(hpack.HeaderField{Name: fields[i], Value: fields[i+1]})
	}
	r.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: b.Bytes(), EndHeaders: true, EndStream: end})
}

// ends is how the server ends a stream or the connection.
func (r *raw) ends() string {
	for {
		f, err := r.ReadFrame()
		if err != nil {
			return "closed"
		}
		switch f := f.(type) {
		case *http2.GoAwayFrame:
			return "GOAWAY " + f.ErrCode.String()
		case *http2.RSTStreamFrame:
			return "RST_STREAM " + f.ErrCode.String()
		}
	}
}

// What no client should do gets the answer that RFC 9113 has for it.
func TestBadClients(t *testing.T) {
	address := serve(t, true, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { io.Copy(io.Discard, r.Body); <-r.Context().Done() }))
	request := []string{":method", "POST", ":scheme", "http", ":authority", "a", ":path", "/"}
	for name, c := range map[string]struct {
		do   func(*raw)
		want string
	}{
		"an even stream":             {func(r *raw) { r.get(2, true, request...) }, "GOAWAY PROTOCOL_ERROR"},
		"data before a request":      {func(r *raw) { r.WriteData(1, true, nil) }, "GOAWAY PROTOCOL_ERROR"},
		"a window that overflows":    {func(r *raw) { r.WriteWindowUpdate(0, 1<<31-1) }, "GOAWAY FLOW_CONTROL_ERROR"},
		"a window of zero":           {func(r *raw) { r.WriteWindowUpdate(0, 0) }, "GOAWAY PROTOCOL_ERROR"},
		"a frame that is too large":  {func(r *raw) { r.WriteRawFrame(http2.FrameData, 0, 1, make([]byte, 1<<17)) }, "GOAWAY FRAME_SIZE_ERROR"},
		"a push":                     {func(r *raw) { r.WritePushPromise(http2.PushPromiseParam{StreamID: 1, PromiseID: 2, EndHeaders: true}) }, "GOAWAY PROTOCOL_ERROR"},
		"no path":                    {func(r *raw) { r.get(1, true, request[:6]...) }, "RST_STREAM PROTOCOL_ERROR"},
		"a relative path":            {func(r *raw) { r.get(1, true, append(request[:6:6], ":path", "a")...) }, "RST_STREAM PROTOCOL_ERROR"},
		"a header of HTTP/1":         {func(r *raw) { r.get(1, true, append(request[:8:8], "connection", "close")...) }, "RST_STREAM PROTOCOL_ERROR"},
		"a length that is no number": {func(r *raw) { r.get(1, false, append(request[:8:8], "content-length", "-1")...) }, "RST_STREAM PROTOCOL_ERROR"},
		"more than the length": {func(r *raw) {
			r.get(1, false, append(request[:8:8], "content-length", "1")...)
			r.WriteData(1, true, []byte("ab"))
		}, "RST_STREAM PROTOCOL_ERROR"},
		"data after the end": {func(r *raw) {
			r.get(1, true, request...)
			r.WriteData(1, true, []byte("ab"))
		}, "RST_STREAM STREAM_CLOSED"},
		"too many streams": {func(r *raw) {
			for i := range uint32(101) {
				r.get(2*i+1, false, request...)
			}
		}, "RST_STREAM REFUSED_STREAM"},
	} {
		t.Run(name, func(t *testing.T) {
			r := dialRaw(t, address)
			c.do(r)
			if got := r.ends(); got != c.want {
				t.Errorf("got %s, want %s", got, c.want)
			}
		})
	}
}

// Bytes that are no HTTP/2 end the connection and nothing else.
func FuzzServeConn(f *testing.F) {
	f.Add([]byte(""))
	f.Add([]byte("\x00\x00\x00\x04\x00\x00\x00\x00\x00"))
	f.Add([]byte("\x00\x00\x00\x04\x00\x00\x00\x00\x00\x00\x00\x04\x01\x05\x00\x00\x00\x01\x83\x86\x84\x41"))
	s := &h2.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.Copy(w, r.Body) }), MaxStreams: 4, Idle: time.Second, Patience: time.Second, Log: slog.New(slog.DiscardHandler)}
	f.Fuzz(func(t *testing.T, text []byte) {
		here, there := net.Pipe()
		var wait sync.WaitGroup
		wait.Go(func() { s.ServeConn(context.Background(), there, "fuzz") })
		wait.Go(func() { io.Copy(io.Discard, here) })
		io.WriteString(here, http2.ClientPreface)
		here.Write(text)
		here.Close()
		wait.Wait()
	})
}
