package derp_test

import (
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/keelscale/keelscale/derp"
)

// Whoever stops in the middle of a handshake holds up nobody, at either kind of listener, and
// many who come at once all get through.
func TestHandshakesTakeTurns(t *testing.T) {
	for _, tt := range []struct {
		name  string
		serve func(*httptest.Server, *tls.Config)
	}{
		{"TLS alone", func(s *httptest.Server, _ *tls.Config) {
			s.Listener = derp.Buffered(s.Listener, true)
			s.StartTLS()
		}},
		{"TLS or none", func(s *httptest.Server, cfg *tls.Config) {
			s.Listener = derp.Either(s.Listener, cfg)
			s.Start()
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			lender := httptest.NewTLSServer(nil)
			defer lender.Close()
			s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "here") }))
			tt.serve(s, &tls.Config{Certificates: lender.TLS.Certificates})
			defer s.Close()
			addr := s.Listener.Addr().String()

			hello := clientHello(t)
			for i := range 8 * runtime.GOMAXPROCS(0) {
				conn, err := net.Dial("tcp", addr)
				if err != nil {
					t.Fatal(err)
				}
				defer conn.Close()
				// Nothing, a byte, half a header, half a hello, all of it and no more, garbage.
				conn.Write([][]byte{nil, hello[:1], hello[:3], hello[:len(hello)/2], hello, []byte("\x16 no hello at all, and long enough to see that")}[i%6])
			}
			var wg sync.WaitGroup
			for range 50 {
				wg.Go(func() {
					d := tls.Dialer{NetDialer: &net.Dialer{Timeout: patience}, Config: &tls.Config{InsecureSkipVerify: true}}
					conn, err := d.Dial("tcp", addr)
					if err != nil {
						t.Errorf("got %v, want a handshake beside those that stopped", err)
						return
					}
					defer conn.Close()
					conn.SetDeadline(time.Now().Add(patience))
					io.WriteString(conn, "GET / HTTP/1.0\r\n\r\n")
					if got, err := io.ReadAll(conn); err != nil || len(got) < 4 || string(got[len(got)-4:]) != "here" {
						t.Errorf("got %q, %v, want the page", got, err)
					}
				})
			}
			wg.Wait()
		})
	}
}

// clientHello is the first that a TLS client sends.
func clientHello(t *testing.T) []byte {
	t.Helper()
	near, far := net.Pipe()
	defer near.Close()
	go func() {
		tls.Client(near, &tls.Config{InsecureSkipVerify: true}).Handshake() // until far is closed
	}()
	b := make([]byte, 4096)
	n, err := far.Read(b)
	if err != nil {
		t.Fatal(err)
	}
	far.Close()
	return b[:n]
}
