package main

import (
	"fmt"
	"net/netip"
	"net/url"
	"strings"
	"time"

	"github.com/keelscale/keelscale/derp"
	"github.com/keelscale/keelscale/derp/derpmap"
)

// ready prints everything once, when all is open.
func (a *announcer) ready(b derp.Ports) {
	a.bound.Store(&b)
	if cert := a.cert.Load(); cert != nil {
		if list := cert.Certificates(); len(list) > 0 {
			a.published.Store(&list[0])
		}
	}
	entry, note := a.entry()
	if a.settings.logFormat == "json" {
		a.log.Info("ready", "key", a.key.String(), "relay", text(b.Relay), "http", text(b.HTTP),
			"stun", text(b.STUN), "debug", text(b.Debug), "tls", a.tls(), "admits", a.admits(), "derp_map", entry, "note", note)
		return
	}
	var p strings.Builder
	fmt.Fprintf(&p, "derper %s is ready, key %s\n", versionText(), a.key)
	line := func(what string, at netip.AddrPort, proto, say string) {
		if at.IsValid() {
			fmt.Fprintf(&p, "  %-6s %s/%s  %s\n", what, at, proto, say)
		}
	}
	line("relay", b.Relay, "tcp", a.tls())
	line("http", b.HTTP, "tcp", "captive portal checks, redirect to https")
	line("stun", b.STUN, "udp", "tells clients how the world sees them")
	line("debug", b.Debug, "tcp", "status page, /metrics, /healthz, /debug/vars, /debug/pprof/")
	fmt.Fprintf(&p, "  admits %s\n", a.admits())
	if entry != "" {
		fmt.Fprintf(&p, "For the DERP map of the control server (headscale: a file in derp.paths):\n%s\n", entry)
	}
	if note != "" {
		fmt.Fprintln(&p, note)
	}
	fmt.Fprint(a.out, p.String())
}

// changed tells of another certificate, and until when the entry that is in the DERP map now
// will do; and of an old one that has ended.
func (a *announcer) changed() {
	if a.bound.Load() == nil || a.settings.control != "" { // a control server hears of it
		return
	}
	list := a.cert.Load().Certificates()
	if len(list) == 0 || list[0].Pin == "" {
		return
	}
	entry, _ := a.entry()
	switch before := a.published.Swap(&list[0]); {
	case before != nil && before.Pin == list[0].Pin:
		a.log.Info("the old certificate has ended: clients whose DERP map still has its pin stay away", "cert_name", list[0].Pin)
	case len(list) > 1:
		a.log.Warn("the next certificate is served beside the old one: put its entry into the DERP map before the old one ends",
			"old_ends", list[1].Expires.UTC(), "cert_name", list[0].Pin, "derp_map", entry)
	default:
		a.log.Warn("the certificate has another pin: put its entry into the DERP map now, or clients stay away", "cert_name", list[0].Pin, "derp_map", entry)
	}
}

func text(a netip.AddrPort) string {
	if !a.IsValid() {
		return ""
	}
	return a.String()
}

func (a *announcer) tls() string {
	cert := a.cert.Load()
	if cert == nil {
		return "plain HTTP: put a TLS proxy in front, clients insist on TLS"
	}
	say := "TLS, certificate " + cert.Mode()
	if end := cert.Expires(); !end.IsZero() {
		say += " until " + end.UTC().Format(time.DateOnly)
	}
	return say
}

func (a *announcer) admits() string {
	s := a.settings
	var by []string
	if s.control != "" {
		by = append(by, "whom the control server "+withoutPassword(s.control)+" names")
	}
	if s.verifyClients {
		by = append(by, "whom the local tailscaled knows")
	}
	if s.verifyURL != "" {
		by = append(by, "whom "+withoutPassword(s.verifyURL)+" admits")
	}
	if s.verifyFailOpen {
		by[len(by)-1] += " (and everybody while it cannot be reached)"
	}
	if len(by) == 0 {
		return "anybody who knows it (see -verify-clients and -verify-client-url)"
	}
	return strings.Join(by, ", and ")
}

func withoutPassword(raw string) string {
	u, err := url.Parse(raw)
	if err != nil {
		return "the verify URL"
	}
	return u.Redacted()
}

// entry is the region to paste into the DERP map, "" if there is none to tell, and a note
// about it.
func (a *announcer) entry() (entry, note string) {
	s, cert, bound := a.settings, a.cert.Load(), a.bound.Load()
	if cert == nil || !s.derp || s.control != "" { // a control server makes the entry itself
		return "", ""
	}
	hostname, v4, v6 := s.hostname, netip.Addr{}, netip.Addr{}
	var notes []string
	if hostname == "" {
		if len(a.addrs) == 0 {
			return "", "This machine has no address of its own: say with -hostname what clients connect to."
		}
		hostname = a.addrs[0].String()
		v4, v6 = firstOf(a.addrs, netip.Addr.Is4), firstOf(a.addrs, netip.Addr.Is6)
		if !derp.IsPublic(a.addrs[0]) {
			notes = append(notes, "This machine has only private addresses. If clients reach it by another, give that as -hostname.")
		}
	}
	r := derpmap.Relay{
		RegionID: s.regionID, RegionCode: s.regionCode, RegionName: s.regionName,
		DERPPort: int(bound.Relay.Port()), STUNPort: -1,
		CanPort80: bound.HTTP.Port() == 80,
	}
	if bound.STUN.IsValid() {
		r.STUNPort = int(bound.STUN.Port())
	}
	list := append(cert.Certificates(), derp.CertInfo{}) // there may be none yet
	r.CertName = list[0].Pin
	r.HostName, r.IPv4, r.IPv6 = list[0].Published(hostname, v4, v6)
	region, err := derpmap.Embedded(r)
	if err != nil {
		return "", "No entry for the DERP map: " + err.Error()
	}
	return derpmap.Entry(region), strings.Join(append(notes, certNotes(list[:len(list)-1], r.HostName)...), "\n")
}

// certNotes say what to know about certificates that are known by their pins.
func certNotes(list []derp.CertInfo, host string) (notes []string) {
	if len(list) == 0 || list[0].Pin == "" {
		return nil
	}
	notes = append(notes, "Clients know this certificate by its pin (CertName), from v1.84 on.")
	for _, old := range list[1:] {
		notes = append(notes, fmt.Sprintf("An entry with the old pin, %s, works until %s: replace it before.", old.Pin, old.Expires.UTC().Format(time.RFC1123)))
	}
	if list[0].Name == host {
		notes = append(notes, "HostName is the certificate's own name: clients dial the address, and the name says which certificate they know.")
	}
	return notes
}

func firstOf(addrs []netip.Addr, is func(netip.Addr) bool) netip.Addr {
	for _, a := range addrs {
		if is(a) {
			return a
		}
	}
	return netip.Addr{}
}
