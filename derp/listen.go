package derp

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"tailscale.com/net/ktimeout"
)

// listenTCP opens l.Addr with what l says about its connections.
func listenTCP(ctx context.Context, l Listen) (net.Listener, error) {
	var lc net.ListenConfig
	if l.KeepAlive > 0 {
		lc.KeepAliveConfig = net.KeepAliveConfig{Enable: true, Idle: l.KeepAlive, Interval: l.KeepAlive}
	}
	if l.UserTimeout > 0 {
		lc.Control = ktimeout.UserTimeout(l.UserTimeout) // accepted sockets inherit it
	}
	ln, err := lc.Listen(ctx, "tcp", l.Addr)
	if err != nil {
		return nil, err
	}
	return ln, nil
}

// TLSConfig returns a copy of base that also hands clients the relay's key within the TLS
// handshake, which saves them a round trip. base needs GetCertificate or a certificate.
func (r *Relay) TLSConfig(base *tls.Config) *tls.Config {
	cfg := base.Clone()
	cfg.DynamicRecordSizingDisabled = true // we write when there is nothing more to add
	cfg.SessionTicketsDisabled = true      // no client of ours keeps one, and each costs a write
	get := base.GetCertificate
	if get == nil {
		get = func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
			if len(base.Certificates) == 0 {
				return nil, errors.New("no certificate")
			}
			return &base.Certificates[0], nil
		}
	}
	cfg.GetCertificate = func(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
		cert, err := get(hello)
		if err != nil || cert == nil || slices.Contains(hello.SupportedProtos, acmeProto) {
			return cert, err
		}
		with := *cert // which may be shared
		with.Certificate = append(slices.Clip(cert.Certificate), r.engine.metaCert)
		return &with, nil
	}
	return cfg
}

// acmeProto is the ALPN name of a TLS-ALPN-01 challenge (RFC 8737), whose certificate must
// stand alone.
const acmeProto = "acme-tls/1"

// wireListener makes connections that are read in large pieces.
type wireListener struct {
	net.Listener
	turns turns // nil unless TLS is spoken
}

func newWireListener(ln net.Listener, overTLS bool) net.Listener {
	if overTLS {
		return wireListener{ln, newTurns()}
	}
	return wireListener{ln, nil}
}

// Accept implements net.Listener.
func (l wireListener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	wire := newWire(conn, l.turns != nil)
	if l.turns != nil {
		takeTurns(wire, l.turns)
	}
	return wire, nil
}

// sameHost is addr with another port.
func sameHost(addr string, port int) string {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		host = addr
	}
	return net.JoinHostPort(trimBrackets(host), strconv.Itoa(port))
}

// addrPort is what a socket is bound to.
func addrPort(a net.Addr) netip.AddrPort {
	switch a := a.(type) {
	case *net.TCPAddr:
		return unmap(a.AddrPort())
	case *net.UDPAddr:
		return unmap(a.AddrPort())
	}
	return netip.AddrPort{}
}

func unmap(a netip.AddrPort) netip.AddrPort { return netip.AddrPortFrom(a.Addr().Unmap(), a.Port()) }

func trimBrackets(host string) string {
	return strings.TrimSuffix(strings.TrimPrefix(host, "["), "]")
}

func isIPv6(host string) bool {
	ip, err := netip.ParseAddr(host)
	return err == nil && ip.Is6()
}

// checkAddr reports, in a sentence, what is wrong with a listen address.
func checkAddr(addr string) error {
	_, port, err := net.SplitHostPort(addr)
	if err != nil {
		return fmt.Errorf("listen address %q must be like :443 or 192.0.2.1:443: %w", addr, err)
	}
	if _, err := strconv.ParseUint(port, 10, 16); err != nil {
		return fmt.Errorf("listen address %q has no numeric port", addr)
	}
	return nil
}
