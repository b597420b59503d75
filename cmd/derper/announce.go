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
func (a *announcer) ready(b derp.Bound) {
	a.bound.Store(&b)
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
	line("debug", b.Debug, "tcp", "/debug/vars, /debug/pprof/")
	fmt.Fprintf(&p, "  admits %s\n", a.admits())
	if entry != "" {
		fmt.Fprintf(&p, "For the DERP map of the control server (headscale: a file in derp.paths):\n%s\n", entry)
	}
	if note != "" {
		fmt.Fprintln(&p, note)
	}
	fmt.Fprint(a.out, p.String())
}

// changed tells of a new certificate, which clients that know the old one's pin will refuse.
func (a *announcer) changed(pin string) {
	if a.bound.Load() == nil || pin == "" {
		return
	}
	entry, _ := a.entry()
	a.log.Warn("the certificate has another pin: put it into the DERP map, or clients stay away", "cert_name", pin, "derp_map", entry)
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
	if cert == nil || !s.derp {
		return "", ""
	}
	r := derpmap.Relay{
		RegionID: s.regionID, RegionCode: s.regionCode, RegionName: s.regionName,
		HostName: s.hostname, CertName: cert.Pin(),
		DERPPort: int(bound.Relay.Port()), STUNPort: -1,
		CanPort80: bound.HTTP.Port() == 80,
	}
	if bound.STUN.IsValid() {
		r.STUNPort = int(bound.STUN.Port())
	}
	var notes []string
	if r.HostName == "" {
		if len(a.addrs) == 0 {
			return "", "This machine has no address of its own: say with -hostname what clients connect to."
		}
		r.HostName = a.addrs[0].String()
		for _, ip := range a.addrs {
			switch {
			case ip.Is4() && r.IPv4 == "":
				r.IPv4 = ip.String()
			case ip.Is6() && r.IPv6 == "":
				r.IPv6 = ip.String()
			}
		}
		if !derp.IsPublic(a.addrs[0]) {
			notes = append(notes, "This machine has only private addresses. If clients reach it by another, give that as -hostname.")
		}
	}
	if r.CertName != "" {
		notes = append(notes, "Clients know this certificate by its pin (CertName), from v1.84 on.")
	}
	region, err := derpmap.Embedded(r)
	if err != nil {
		return "", "No entry for the DERP map: " + err.Error()
	}
	return derpmap.Entry(region), strings.Join(notes, "\n")
}
