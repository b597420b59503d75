package derp

import "net/netip"

// AnswerSTUN is what a server sends back for a datagram; nil for nothing.
func AnswerSTUN(in []byte, from netip.AddrPort) []byte {
	req, ok := parseSTUN(in)
	if !ok {
		return nil
	}
	return req.appendAnswer(make([]byte, 0, 128), from)
}
