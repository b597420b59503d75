package derp

import (
	"net"
	"net/http/httptest"
	"net/netip"
	"testing"
)

// AnswerSTUN is what a server sends back for a datagram; nil for nothing.
func AnswerSTUN(in []byte, from netip.AddrPort) []byte {
	req, ok := parseSTUN(in)
	if !ok {
		return nil
	}
	return req.appendAnswer(make([]byte, 0, 128), from)
}

// ServeSTUNSingly serves one socket, one datagram at a time, until the test ends.
func ServeSTUNSingly(t testing.TB) netip.AddrPort {
	conn, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.MustParseAddrPort("127.0.0.1:0")))
	if err != nil {
		t.Fatal(err)
	}
	conn.SetReadBuffer(stunBuffer)
	done := make(chan struct{})
	go func() {
		defer close(done)
		(&stunSocket{conn: conn}).serveSingly()
	}()
	t.Cleanup(func() {
		conn.Close()
		<-done
	})
	return addrPort(conn.LocalAddr())
}

// RedirectOf is where the http port sends a request for target at host.
func RedirectOf(tlsPort uint16, host, target string) string {
	req := httptest.NewRequest("GET", target, nil)
	req.Host = host
	w := httptest.NewRecorder()
	plainPages(tlsPort).ServeHTTP(w, req)
	return w.Header().Get("Location")
}
