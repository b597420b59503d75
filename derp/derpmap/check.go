package derpmap

import (
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"tailscale.com/tailcfg"
)

// maxProblems bounds how many problems one error tells of.
const maxProblems = 10

// check reports what no client could use, each problem in a sentence.
func check(m *tailcfg.DERPMap) error {
	var found []string
	say := func(format string, args ...any) { found = append(found, fmt.Sprintf(format, args...)) }
	for _, id := range slices.Sorted(maps.Keys(m.Regions)) {
		if len(found) > maxProblems {
			break
		}
		r := m.Regions[id]
		switch {
		case id < 1:
			say("region %d: its number must be at least 1", id)
		case r == nil: // it removes a region
		case r.RegionID != id:
			say("region %d says that its RegionID is %d", id, r.RegionID)
		default:
			checkRegion(r, say)
		}
	}
	if m.HomeParams != nil {
		for id, score := range m.HomeParams.RegionScore {
			if score <= 0 {
				say("HomeParams.RegionScore of region %d is %v, want more than 0", id, score)
			}
		}
	}
	if len(found) > 0 {
		return errors.New(strings.Join(found, "; "))
	}
	return nil
}

func checkRegion(r *tailcfg.DERPRegion, say func(string, ...any)) {
	if bad := badWord(r.RegionCode); bad != "" {
		say("region %d: its RegionCode %q %s", r.RegionID, shorten(r.RegionCode), bad)
	}
	if len(r.RegionName) > 200 {
		say("region %d: its RegionName is longer than 200 bytes", r.RegionID)
	}
	if len(r.Nodes) == 0 {
		say("region %d (%s) has no nodes", r.RegionID, r.RegionCode)
	}
	seen := map[string]bool{}
	for _, n := range r.Nodes {
		if seen[n.Name] {
			say("region %d has two nodes with the name %q", r.RegionID, shorten(n.Name))
		}
		seen[n.Name] = true
		if n.RegionID != r.RegionID {
			say("node %q is in region %d and says that its RegionID is %d", shorten(n.Name), r.RegionID, n.RegionID)
		}
		checkNode(n, say)
	}
}

func checkNode(n *tailcfg.DERPNode, say func(string, ...any)) {
	name := shorten(n.Name)
	if bad := badWord(n.Name); bad != "" {
		say("a node of region %d: its Name %q %s", n.RegionID, name, bad)
	}
	if bad := badHost(n.HostName); bad != "" {
		say("node %q: its HostName %q %s", name, shorten(n.HostName), bad)
	}
	if n.DERPPort < 0 || n.DERPPort > 65535 {
		say("node %q: its DERPPort %d is not a port (1 to 65535, or 0 for 443)", name, n.DERPPort)
	}
	if n.STUNPort < -1 || n.STUNPort > 65535 {
		say("node %q: its STUNPort %d is not a port (1 to 65535, 0 for 3478, or -1 for none)", name, n.STUNPort)
	}
	if !isAddrOrNone(n.IPv4, netip.Addr.Is4) {
		say("node %q: its IPv4 %q is neither an IPv4 address nor \"none\"", name, shorten(n.IPv4))
	}
	if !isAddrOrNone(n.IPv6, netip.Addr.Is6) {
		say("node %q: its IPv6 %q is neither an IPv6 address nor \"none\"", name, shorten(n.IPv6))
	}
	if n.IPv4 == "none" && n.IPv6 == "none" {
		say("node %q: both IPv4 and IPv6 are \"none\"", name)
	}
	if n.STUNTestIP != "" && !isAddrOrNone(n.STUNTestIP, netip.Addr.IsValid) {
		say("node %q: its STUNTestIP %q is not an IP address", name, shorten(n.STUNTestIP))
	}
	if pin, ok := strings.CutPrefix(n.CertName, pinPrefix); ok {
		if raw, err := hex.DecodeString(pin); err != nil || len(raw) != 32 || pin != strings.ToLower(pin) {
			say("node %q: its CertName must have 64 lower-case hex digits after %q", name, pinPrefix)
		}
	} else if bad := badHost(n.CertName); n.CertName != "" && bad != "" {
		say("node %q: its CertName %q %s", name, shorten(n.CertName), bad)
	}
}

// pinPrefix begins a CertName that is the hash of a certificate.
const pinPrefix = "sha256-raw:"

func isAddrOrNone(s string, family func(netip.Addr) bool) bool {
	if s == "" || s == "none" {
		return true
	}
	ip, err := netip.ParseAddr(s)
	return err == nil && ip.Zone() == "" && family(ip)
}

// badWord says what is wrong with a name that people read and type.
func badWord(s string) string {
	switch {
	case s == "":
		return "is empty"
	case len(s) > 63:
		return "is longer than 63 bytes"
	case strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r == 0x7f || r == '"' || r == '\\' }):
		return "has a space or a sign that is hard to type"
	}
	return ""
}

// badHost says what is wrong with a host name or IP address.
func badHost(s string) string {
	if s == "" {
		return "is empty"
	}
	if _, err := netip.ParseAddr(s); err == nil {
		return ""
	}
	bad := func(r rune) bool {
		return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '-' || r == '.' || r == '_')
	}
	switch {
	case strings.Contains(s, "://"):
		return "is a URL, want only the host"
	case len(s) > 253 || strings.ContainsFunc(s, bad) || strings.HasPrefix(s, ".") || strings.Contains(s, ".."):
		return "is neither a host name nor an IP address"
	}
	return ""
}
