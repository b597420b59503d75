package config

import (
	"net"
	"net/netip"
	"strings"
)

// Route finds the address that this machine sends from when it speaks to the internet over network,
// "udp4" or "udp6"; the zero Addr when there is no such route.
type Route func(network string) netip.Addr

// GuessServerURL makes a URL that clients near this machine probably reach: plain http, the address of the
// listener if it has one of its own, else the IPv4 address of the default route, else its IPv6 address, else
// loopback. A nil route asks the kernel; nothing is sent.
func GuessServerURL(listenAddr string, route Route) string {
	return guessURL("http", "", listenAddr, route)
}

// guess is GuessServerURL with what is known about certificates.
func (cfg *Config) guess(route Route) string {
	switch {
	case cfg.TLS.LetsEncryptHostname != "":
		return guessURL("https", cfg.TLS.LetsEncryptHostname, cfg.ListenAddr, route)
	case cfg.TLS.CertPath != "":
		return guessURL("https", "", cfg.ListenAddr, route)
	default:
		return guessURL("http", "", cfg.ListenAddr, route)
	}
}

func guessURL(scheme, host, listenAddr string, route Route) string {
	if route == nil {
		route = defaultRoute
	}
	listenHost, port, err := net.SplitHostPort(listenAddr)
	if err != nil {
		port = ""
	}
	if host == "" {
		host = guessHost(listenHost, route)
	}
	usual := map[string]string{"http": "80", "https": "443"}[scheme]
	if port == "" || port == usual || port == scheme {
		if strings.Contains(host, ":") {
			host = "[" + host + "]"
		}
		return scheme + "://" + host
	}
	return scheme + "://" + net.JoinHostPort(host, port)
}

func guessHost(listenHost string, route Route) string {
	if addr, err := netip.ParseAddr(listenHost); err == nil && !addr.IsUnspecified() {
		return addr.WithZone("").String()
	}
	for _, network := range []string{"udp4", "udp6"} {
		addr := route(network)
		// An address of the tailnet range is this machine's as a client, out of reach for those who want to join.
		if addr.IsGlobalUnicast() && !DefaultV4.Contains(addr) && !DefaultV6.Contains(addr) {
			return addr.WithZone("").String()
		}
	}
	return "127.0.0.1"
}

// defaultRoute connects a UDP socket to an address of the documentation ranges (RFC 5737, RFC 3849): the kernel
// picks the interface and our address, and no packet leaves.
func defaultRoute(network string) netip.Addr {
	target := map[string]string{"udp4": "192.0.2.1:9", "udp6": "[2001:db8::1]:9"}[network]
	conn, err := net.Dial(network, target)
	if err != nil {
		return netip.Addr{}
	}
	defer conn.Close()
	local, err := netip.ParseAddrPort(conn.LocalAddr().String())
	if err != nil {
		return netip.Addr{}
	}
	return local.Addr().Unmap()
}
