//go:build linux

package lab

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"

	"golang.org/x/net/dns/dnsmessage"
)

// zone is the file, on the internet host, that the name service reads at every question: lines of
// NAME ADDRESS, of which the last one counts. So a host that moves is found at once, like with DDNS.
const zone = "/run/zone"

// register writes a public host into the zone.
func (l *Lab) register(name, addr string) {
	l.t.Helper()
	f, err := os.OpenFile(l.internet.inside(zone), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err == nil {
		_, err = fmt.Fprintf(f, "%s.example.net. %s\n", name, addr)
		f.Close()
	}
	if err != nil {
		l.t.Fatalf("writing %s into the zone: %v", name, err)
	}
}

// answer is the role of the name service, on UDP only: nothing in a lab asks for more than fits.
func answer(ctx context.Context, _ []string) error {
	conn, err := net.ListenPacket("udp", ":53")
	if err != nil {
		return err
	}
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	fmt.Println("serving names")
	buf := make([]byte, 1500)
	for {
		n, from, err := conn.ReadFrom(buf)
		if err != nil {
			return ctx.Err()
		}
		if reply, err := reply(buf[:n]); err == nil { // who asks nonsense gets no answer
			_, _ = conn.WriteTo(reply, from) // a lost answer is asked for again
		}
	}
}

// reply answers one question from the zone.
func reply(question []byte) ([]byte, error) {
	var m dnsmessage.Message
	if err := m.Unpack(question); err != nil || len(m.Questions) != 1 {
		return nil, fmt.Errorf("no question: %v", err)
	}
	q := m.Questions[0]
	m.Header = dnsmessage.Header{ID: m.ID, Response: true, Authoritative: true, RecursionDesired: m.RecursionDesired, RecursionAvailable: true}
	m.Additionals = nil
	addr, known := lookUp(strings.ToLower(q.Name.String()))
	switch {
	case !known:
		m.RCode = dnsmessage.RCodeNameError
	case q.Type == dnsmessage.TypeA:
		m.Answers = []dnsmessage.Resource{{
			Header: dnsmessage.ResourceHeader{Name: q.Name, Class: q.Class, TTL: 1},
			Body:   &dnsmessage.AResource{A: addr.As4()},
		}}
	}
	return m.Pack()
}

// lookUp is the last address that the zone has for a name.
func lookUp(name string) (addr netip.Addr, known bool) {
	f, err := os.Open(zone)
	if err != nil {
		return addr, false // no public host yet
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		if host, text, _ := strings.Cut(lines.Text(), " "); host == name {
			addr, known = netip.MustParseAddr(text), true
		}
	}
	return addr, known
}
