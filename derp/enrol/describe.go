package enrol

import (
	"net"
	"net/netip"
	"slices"
	"strings"

	"github.com/keelscale/keelscale/derp"
	relayv1 "github.com/keelscale/keelscale/proto/relay/v1"
)

// What a server reads of a description.
const (
	maxAddresses    = 32
	maxCertificates = 8
)

// proxyPort is where clients reach a relay that has a proxy in front.
const proxyPort = 443

// describe says how the relay is reached now.
func (a *Agent) describe(h Host) *relayv1.Description {
	d := &relayv1.Description{
		Hostname:  h.Hostname,
		Addresses: reachable(h.Ports.Relay.Addr()),
		DerpPort:  uint32(h.Ports.Relay.Port()),
		StunPort:  uint32(h.Ports.STUN.Port()),
		Port_80:   h.Ports.HTTP.Port() == 80,
	}
	if h.Cert == nil {
		d.DerpPort, d.Port_80 = proxyPort, false
		d.Certificates = []*relayv1.Certificate{{}}
		return d
	}
	certs := h.Cert.Certificates()
	for _, c := range certs[:min(len(certs), maxCertificates)] {
		out := &relayv1.Certificate{Name: c.Name, Pin: c.Pin}
		if named(h.Hostname) { // clients look its address up, so they must ask for a name that the DNS knows
			out.Name = c.Host
		}
		if !c.Expires.IsZero() {
			out.Expires = c.Expires.Unix()
		}
		d.Certificates = append(d.Certificates, out)
	}
	return d
}

// named reports whether hostname is a DNS name.
func named(hostname string) bool {
	_, err := netip.ParseAddr(strings.Trim(hostname, "[]"))
	return hostname != "" && err != nil
}

// reachable are the addresses at which a relay that listens at the given one may be reached.
func reachable(at netip.Addr) []string {
	if at.IsValid() && !at.IsUnspecified() {
		return []string{at.String()}
	}
	all, err := derp.MachineAddrs()
	if err != nil {
		return nil // the server sees one
	}
	var out []string
	for _, ip := range all[:min(len(all), maxAddresses)] {
		if !inTailnet(ip) && (at.Is6() || !at.IsValid() || ip.Is4()) {
			out = append(out, ip.String())
		}
	}
	return out
}

// tailnetIPv6 is where Tailscale gives addresses; one of them is no place to reach a relay by which a tailnet is to work.
var tailnetIPv6 = netip.MustParsePrefix("fd7a:115c:a1e0::/48")

func inTailnet(ip netip.Addr) bool { return tailnetIPv6.Contains(ip) }

// addrSet are the addresses of this machine's interfaces, sorted.
type addrSet []netip.Addr

// interfaceAddrs are those now; nil if they cannot be told.
func interfaceAddrs() addrSet {
	found, err := net.InterfaceAddrs()
	if err != nil {
		return nil
	}
	var out addrSet
	for _, f := range found {
		if p, err := netip.ParsePrefix(f.String()); err == nil {
			out = append(out, p.Addr().Unmap())
		}
	}
	slices.SortFunc(out, netip.Addr.Compare)
	return slices.Compact(out)
}

func (s addrSet) same(o addrSet) bool { return slices.Equal(s, o) }

// moved reports whether the line stands on an address that the machine has no more, or that it would not take any more.
// began are the addresses at the beginning.
func (l *line) moved(began addrSet) bool {
	now := interfaceAddrs()
	if now == nil || !l.local.IsValid() || now.same(began) {
		return false
	}
	if !slices.Contains(now, l.local.WithZone("")) {
		return true
	}
	probe, err := net.Dial("udp", l.remote.String()) // sends nothing; it asks the kernel for the way
	if err != nil {
		return false
	}
	defer probe.Close()
	local, ok := probe.LocalAddr().(*net.UDPAddr)
	return ok && local.AddrPort().Addr().Unmap().WithZone("") != l.local.WithZone("")
}
