package state

import (
	"fmt"
	"net/netip"
	"slices"

	"tailscale.com/tailcfg"
	"tailscale.com/types/dnstype"
)

// dnsConfig is what the nodes of a tailnet are told of DNS. Values of Routes are never nil: clients take nil for
// "leave it alone" and an empty list for "answer it yourself". More are the records of the policy.
func (s *Settings) dnsConfig(domain string, prefixes []netip.Prefix, more []tailcfg.DNSRecord) *tailcfg.DNSConfig {
	cfg := &tailcfg.DNSConfig{Proxied: s.MagicDNS, ExtraRecords: s.ExtraRecords}
	if len(more) > 0 {
		cfg.ExtraRecords = slices.Concat(s.ExtraRecords, more)
	}
	if s.MagicDNS && domain != "" {
		cfg.Domains = append(cfg.Domains, domain)
	}
	cfg.Domains = append(cfg.Domains, s.SearchDomains...)
	if s.OverrideLocalDNS {
		cfg.Resolvers = s.globalResolvers()
	} else {
		cfg.FallbackResolvers = s.globalResolvers()
	}
	cfg.Routes = s.splitResolvers()
	if s.MagicDNS {
		if domain != "" {
			cfg.Routes[domain] = []*dnstype.Resolver{}
		}
		for _, zone := range reverseZones(prefixes) {
			cfg.Routes[zone] = []*dnstype.Resolver{}
		}
	}
	return cfg
}

func resolvers(addrs []string) []*dnstype.Resolver {
	out := make([]*dnstype.Resolver, 0, len(addrs))
	for _, a := range addrs {
		out = append(out, &dnstype.Resolver{Addr: a})
	}
	return out
}

// reverseZones are the in-addr.arpa and ip6.arpa zones that cover prefixes: up to 256 of them for an IPv4 prefix that
// ends within an octet, one for an IPv6 prefix, cut at the nibble above.
func reverseZones(prefixes []netip.Prefix) []string {
	var zones []string
	for _, p := range prefixes {
		switch {
		case p.Addr().Is4():
			zones = append(zones, reverseZones4(p)...)
		default:
			zones = append(zones, reverseZone6(p))
		}
	}
	slices.Sort(zones)
	return slices.Compact(zones)
}

func reverseZones4(p netip.Prefix) []string {
	octets := max((p.Bits()+7)/8, 1)
	a := p.Masked().Addr().As4()
	count := 1 << (octets*8 - p.Bits())
	if p.Bits() == 0 {
		return []string{"in-addr.arpa"}
	}
	zones := make([]string, 0, count)
	for i := range count {
		b := a
		b[octets-1] += byte(i)
		zone := "in-addr.arpa"
		for j := range octets {
			zone = fmt.Sprintf("%d.%s", b[j], zone)
		}
		zones = append(zones, zone)
	}
	return zones
}

func reverseZone6(p netip.Prefix) string {
	zone := "ip6.arpa"
	a := p.Masked().Addr().As16()
	for i := range p.Bits() / 4 {
		nibble := a[i/2] >> 4
		if i%2 == 1 {
			nibble = a[i/2] & 0xf
		}
		zone = fmt.Sprintf("%x.%s", nibble, zone)
	}
	return zone
}
