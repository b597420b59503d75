package hscontrol

import (
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
)

// trusting makes RemoteAddr the address of the client where the request came through a proxy that is trusted
// (trusted_proxies). Of X-Forwarded-For the last entry counts that is not such a proxy itself: those before it are
// whatever the client wrote. Anybody else's headers are taken away.
func trusting(proxies []netip.Prefix, next http.Handler) http.Handler {
	trusted := func(a netip.Addr) bool {
		return slices.ContainsFunc(proxies, func(p netip.Prefix) bool { return p.Contains(a.Unmap()) })
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if from, err := netip.ParseAddrPort(r.RemoteAddr); err == nil && trusted(from.Addr()) {
			if client, ok := forwardedFor(r.Header, trusted); ok {
				r.RemoteAddr = net.JoinHostPort(client.String(), "0")
			}
		}
		for _, h := range []string{"X-Forwarded-For", "X-Real-Ip", "True-Client-Ip"} {
			r.Header.Del(h)
		}
		next.ServeHTTP(w, r)
	})
}

func forwardedFor(h http.Header, trusted func(netip.Addr) bool) (netip.Addr, bool) {
	hops := strings.Split(strings.Join(h.Values("X-Forwarded-For"), ","), ",")
	for _, hop := range slices.Backward(hops) {
		a, err := netip.ParseAddr(strings.TrimSpace(hop))
		if err != nil {
			break
		}
		if !trusted(a) {
			return a.Unmap(), true
		}
	}
	for _, name := range []string{"X-Real-Ip", "True-Client-Ip"} {
		if a, err := netip.ParseAddr(strings.TrimSpace(h.Get(name))); err == nil {
			return a.Unmap(), true
		}
	}
	return netip.Addr{}, false
}
