package derp

import (
	"net/http/httptest"
	"net/netip"
)

// AnswerSTUN is what a server sends back for a datagram; nil for nothing.
func AnswerSTUN(in []byte, from netip.AddrPort) []byte {
	req, ok := parseSTUN(in)
	if !ok {
		return nil
	}
	return req.appendAnswer(make([]byte, 0, 128), from)
}

// RedirectOf is where the http port sends a request for target at host.
func RedirectOf(tlsPort uint16, host, target string) string {
	req := httptest.NewRequest("GET", target, nil)
	req.Host = host
	w := httptest.NewRecorder()
	plainPages(tlsPort).ServeHTTP(w, req)
	return w.Header().Get("Location")
}
