package mapper

import (
	"net/url"
	"slices"
	"strings"

	"tailscale.com/tailcfg"
	"tailscale.com/types/dnstype"

	"github.com/keelscale/keelscale/hscontrol/state"
	"github.com/keelscale/keelscale/hscontrol/tailnet"
)

// nextDNS begins the address of a resolver that wants to know which device asks.
const nextDNS = "https://dns.nextdns.io/"

// dnsFor is the tailnet's DNS configuration, with the node's name added for resolvers that show it.
func dnsFor(v *state.View, n *tailnet.Node) *tailcfg.DNSConfig {
	isNextDNS := func(r *dnstype.Resolver) bool { return strings.HasPrefix(r.Addr, nextDNS) }
	if !slices.ContainsFunc(v.DNS.Resolvers, isNextDNS) && !slices.ContainsFunc(v.DNS.FallbackResolvers, isNextDNS) {
		return v.DNS
	}
	own := v.DNS.Clone()
	for _, r := range slices.Concat(own.Resolvers, own.FallbackResolvers) {
		if isNextDNS(r) {
			r.Addr = describeDevice(r.Addr, n)
		}
	}
	return own
}

func describeDevice(addr string, n *tailnet.Node) string {
	u, err := url.Parse(addr)
	if err != nil {
		return addr
	}
	q := u.Query()
	q.Set("device_name", n.GivenName)
	if n.Hostinfo != nil && n.Hostinfo.OS != "" {
		q.Set("device_model", n.Hostinfo.OS)
	}
	if n.IPv4.IsValid() {
		q.Set("device_ip", n.IPv4.String())
	}
	u.RawQuery = q.Encode()
	return u.String()
}
