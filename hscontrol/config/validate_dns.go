package config

import (
	"maps"
	"net/netip"
	"slices"
	"strings"
)

func (v *validator) dns() {
	dns := &v.cfg.DNS
	if !validDomain(dns.BaseDomain) {
		v.problem("dns.base_domain", "%q is no domain; write a name like %s", dns.BaseDomain, DefaultBaseDomain)
	}
	if dns.OverrideLocalDNS && len(dns.Nameservers.Global) == 0 {
		v.problem("dns.override_local_dns", "is true, and dns.nameservers.global has no server to ask instead; name one, or write false")
	}
	for _, server := range dns.Nameservers.Global {
		v.nameserver("dns.nameservers.global", server)
	}
	for _, domain := range slices.Sorted(maps.Keys(dns.Nameservers.Split)) {
		if !validDomain(strings.TrimSuffix(domain, ".")) {
			v.problem("dns.nameservers.split", "%q is no domain; write a name like corp.example.com above its servers", domain)
		}
		for _, server := range dns.Nameservers.Split[domain] {
			v.nameserver("dns.nameservers.split", server)
		}
	}
	for _, domain := range dns.SearchDomains {
		if !validDomain(domain) {
			v.problem("dns.search_domains", "%q is no domain; write names like corp.example.com", domain)
		}
	}
	if len(dns.ExtraRecords) > 0 && dns.ExtraRecordsPath != "" {
		v.problem("dns.extra_records_path", "is set beside dns.extra_records; keep the records in one place")
	}
	for _, record := range dns.ExtraRecords {
		if fault := record.fault(dns.BaseDomain); fault != "" {
			v.problem("dns.extra_records", "%s", fault)
		}
	}
}

// nameserver takes an address, an address with a port, or a DNS over HTTPS URL.
func (v *validator) nameserver(path, server string) {
	if _, err := netip.ParseAddr(server); err == nil {
		return
	}
	if _, err := netip.ParseAddrPort(server); err == nil {
		return
	}
	if _, err := parseURL(server, "https"); err == nil {
		return
	}
	v.problem(path, "%q is no nameserver; write an address like 1.1.1.1, or a URL like https://dns.nextdns.io/abc123", server)
}

// validDomain takes names of letters, digits, hyphens and underscores, of a size that DNS allows (RFC 1035, 2.3.4).
func validDomain(name string) bool {
	if name == "" || len(name) > 253 {
		return false
	}
	for label := range strings.SplitSeq(name, ".") {
		if label == "" || len(label) > 63 || label[0] == '-' || label[len(label)-1] == '-' {
			return false
		}
		for i := range len(label) {
			c := label[i]
			if !('a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || c == '-' || c == '_') {
				return false
			}
		}
	}
	return true
}
