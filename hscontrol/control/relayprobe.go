package control

import (
	"bufio"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"syscall"
	"time"

	"tailscale.com/net/stun"
	"tailscale.com/tailcfg"

	"github.com/keelscale/keelscale/hscontrol/tailnet"
)

// errNoRoute says that this machine has no way to an address at all, as to IPv6 where it has none: nothing follows from
// that for the relay.
var errNoRoute = errors.New("this server has no route to its addresses")

// relayPath is what a relay answers everybody.
const relayPath = "/derp/probe"

// askRelay asks a relay as a client would: TLS with its certificate, then HTTP. It is there if one of its addresses
// answers.
func askRelay(ctx context.Context, n *tailcfg.DERPNode) error {
	addrs, err := nodeAddrs(ctx, n)
	if err != nil {
		return err
	}
	answers := make(chan error, len(addrs))
	for _, a := range addrs {
		go func() { answers <- askAddr(ctx, n, a) }()
	}
	var first error
	for range addrs { // all are waited for: they end with ctx
		err := <-answers
		if err == nil {
			return nil
		}
		if first == nil || errors.Is(first, errNoRoute) {
			first = err
		}
	}
	return first
}

// nodeAddrs is where clients look for a relay.
func nodeAddrs(ctx context.Context, n *tailcfg.DERPNode) ([]netip.AddrPort, error) {
	port := uint16(n.DERPPort)
	if port == 0 {
		port = 443
	}
	var out []netip.AddrPort
	for _, text := range []string{n.IPv4, n.IPv6} {
		if a, err := netip.ParseAddr(text); err == nil {
			out = append(out, netip.AddrPortFrom(a, port))
		}
	}
	if len(out) > 0 {
		return out, nil
	}
	found, err := net.DefaultResolver.LookupNetIP(ctx, "ip", n.HostName)
	if err != nil || len(found) == 0 {
		return nil, fmt.Errorf("its name %s is not in the DNS", n.HostName)
	}
	for _, a := range found[:min(len(found), 4)] {
		out = append(out, netip.AddrPortFrom(a.Unmap(), port))
	}
	return out, nil
}

// askAddr asks at one address.
func askAddr(ctx context.Context, n *tailcfg.DERPNode, at netip.AddrPort) error {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "tcp", at.String())
	switch {
	case errors.Is(err, syscall.ENETUNREACH), errors.Is(err, syscall.EADDRNOTAVAIL), errors.Is(err, syscall.EAFNOSUPPORT):
		return errNoRoute
	case err != nil:
		return fmt.Errorf("nobody answers at %s (%s)", at, plain(err))
	}
	defer conn.Close()
	if deadline, ok := ctx.Deadline(); ok {
		conn.SetDeadline(deadline)
	}
	over := tls.Client(conn, relayTLS(n))
	if err := over.HandshakeContext(ctx); err != nil {
		return fmt.Errorf("%s answers without the right certificate (%s)", at, plain(err))
	}
	if _, err := fmt.Fprintf(over, "GET %s HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n\r\n", relayPath, n.HostName); err != nil {
		return fmt.Errorf("%s answers, but not as a relay (%s)", at, plain(err))
	}
	resp, err := http.ReadResponse(bufio.NewReader(io.LimitReader(over, 16<<10)), nil)
	if err != nil {
		return fmt.Errorf("%s answers, but not as a relay (%s)", at, plain(err))
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s answers %s with %s", at, relayPath, resp.Status)
	}
	return nil
}

// relayTLS trusts what clients trust that have n: the pin, or an authority.
func relayTLS(n *tailcfg.DERPNode) *tls.Config {
	cfg := &tls.Config{ServerName: n.HostName, MinVersion: tls.VersionTLS12, NextProtos: []string{"http/1.1"}}
	if n.CertName == "" {
		return cfg
	}
	cfg.InsecureSkipVerify = true // VerifyConnection does it
	cfg.VerifyConnection = func(s tls.ConnectionState) error {
		sum := sha256.Sum256(s.PeerCertificates[0].Raw)
		if "sha256-raw:"+hex.EncodeToString(sum[:]) != n.CertName {
			return errors.New("another one than it said")
		}
		return nil
	}
	return cfg
}

// plain is the last part of an error, which says what happened.
func plain(err error) string {
	var timeout net.Error
	if errors.As(err, &timeout) && timeout.Timeout() || errors.Is(err, context.DeadlineExceeded) {
		return "timeout"
	}
	text := err.Error()
	if i := strings.LastIndex(text, ": "); i >= 0 && !strings.HasPrefix(text, "tls: ") && !strings.HasPrefix(text, "x509: ") {
		text = text[i+2:]
	}
	return text[:min(len(text), 100)]
}

// askSTUN reports whether the relay answers STUN at one of its addresses, or offers none.
func askSTUN(ctx context.Context, r *tailnet.Relay) bool {
	if r.STUNPort == 0 || len(r.Published) == 0 {
		return true
	}
	for _, a := range r.Published {
		if stunAnswers(ctx, net.JoinHostPort(a.String(), strconv.Itoa(int(r.STUNPort)))) {
			return true
		}
	}
	return false
}

// stunTries are how often a question is sent: UDP may get lost.
const stunTries = 3

func stunAnswers(ctx context.Context, at string) bool {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "udp", at)
	if err != nil {
		return errors.Is(err, syscall.ENETUNREACH) // nothing follows from that
	}
	defer conn.Close()
	answer := make([]byte, 1500)
	id := stun.NewTxID()
	for range stunTries {
		conn.SetDeadline(time.Now().Add(300 * time.Millisecond))
		if _, err := conn.Write(stun.Request(id)); err != nil {
			return false
		}
		for {
			n, err := conn.Read(answer)
			if err != nil {
				break
			}
			if got, _, err := stun.ParseResponse(answer[:n]); err == nil && got == id {
				return true
			}
		}
		if ctx.Err() != nil {
			return false
		}
	}
	return false
}
