package config

import (
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
)

func (v *validator) server() {
	if v.cfg.ServerURL == "" {
		v.problem("server_url", `is missing; set it to the URL that clients use, as in "https://head.example.com" or "http://203.0.113.7:8080"`)
		return
	}
	u, err := parseURL(v.cfg.ServerURL, "https", "http")
	switch {
	case err != nil:
		v.problem("server_url", `%v; write it like "https://head.example.com" or "http://203.0.113.7:8080"`, err)
		return
	case u.Path != "" || u.RawQuery != "" || u.Fragment != "" || u.User != nil:
		v.problem("server_url", "%q is more than clients can use; keep %q", v.cfg.ServerURL, u.Scheme+"://"+u.Host)
		return
	}
	base, host := v.cfg.DNS.BaseDomain, strings.ToLower(u.Hostname())
	if host == base || strings.HasSuffix(host, "."+base) {
		v.problem("dns.base_domain", "%q holds the server's own name %s, so clients would look for the server inside the tailnet that it makes; "+
			"choose a name that the server's does not end in, %s for instance", base, host, DefaultBaseDomain)
	}
}

// parseURL wants an absolute URL of one of the schemes. Its error does not repeat the URL, which may hold a secret.
func parseURL(s string, schemes ...string) (*url.URL, error) {
	u, err := url.Parse(s)
	if err != nil {
		return nil, fmt.Errorf("this is no URL")
	}
	if !slices.Contains(schemes, u.Scheme) {
		return nil, fmt.Errorf("expected a URL that begins with %s", strings.Join(schemes, ":// or ")+"://")
	}
	if port := u.Port(); u.Hostname() == "" || port != "" && !validPort(port) || strings.HasSuffix(u.Host, ":") {
		return nil, fmt.Errorf("the URL has no valid host or port")
	}
	return u, nil
}

func validPort(port string) bool {
	n, err := strconv.ParseUint(port, 10, 16)
	return err == nil && n > 0
}

// listeners checks every TCP address that is listened on, and that no two are the same.
func (v *validator) listeners() {
	cfg := v.cfg
	if cfg.ListenAddr == "" {
		v.problem("listen_addr", "is empty; clients need an address to reach, 0.0.0.0:8080 for instance")
	}
	acme := ""
	if cfg.TLS.LetsEncryptHostname != "" && cfg.TLS.LetsEncryptChallenge == ChallengeHTTP01 {
		acme = cfg.TLS.LetsEncryptListen
	}
	type listener struct{ path, addr string }
	var taken []listener
	for _, l := range []listener{
		{"listen_addr", cfg.ListenAddr},
		{"metrics_listen_addr", cfg.MetricsListenAddr},
		{"grpc_listen_addr", cfg.GRPCListenAddr},
		{"tls_letsencrypt_listen", acme},
	} {
		if l.addr == "" || !v.listenAddr(l.path, l.addr) {
			continue
		}
		for _, t := range taken {
			if sameListener(l.addr, t.addr) {
				v.problem(l.path, "%s is taken by %s already (%s); give each its own port", l.addr, t.path, t.addr)
				break
			}
		}
		taken = append(taken, l)
	}
	if len(cfg.UnixSocket) > 107 {
		v.problem("unix_socket", "the path has %d bytes and sockets allow 107; choose a shorter one", len(cfg.UnixSocket))
	}
	for _, p := range cfg.TrustedProxies {
		if p.Bits() == 0 {
			v.problem("trusted_proxies", "%s believes everybody about their address; name the proxies only", p)
		}
	}
}

func (v *validator) listenAddr(path, addr string) bool {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		v.problem(path, "%q is no host:port; write it like 0.0.0.0:8080 or [::]:8080", addr)
		return false
	}
	if _, err := strconv.ParseUint(port, 10, 16); err != nil && port != "http" && port != "https" {
		v.problem(path, "%q has no port between 0 and 65535; write it like 0.0.0.0:8080", addr)
		return false
	}
	if _, err := netip.ParseAddr(host); err != nil && host != "" && !validDomain(host) {
		v.problem(path, "%q is neither an address nor a name of this machine; write it like 0.0.0.0:8080", addr)
		return false
	}
	return true
}

// sameListener tells whether the kernel would refuse the second of two valid addresses.
func sameListener(a, b string) bool {
	hostA, portA, _ := net.SplitHostPort(a)
	hostB, portB, _ := net.SplitHostPort(b)
	number := strings.NewReplacer("https", "443", "http", "80")
	if portA, portB = number.Replace(portA), number.Replace(portB); portA != portB || portA == "0" {
		return false
	}
	return hostA == hostB || anyHost(hostA) || anyHost(hostB)
}

func anyHost(host string) bool {
	addr, err := netip.ParseAddr(host)
	return host == "" || err == nil && addr.IsUnspecified()
}

func (v *validator) tls() {
	tls := &v.cfg.TLS
	if (tls.CertPath == "") != (tls.KeyPath == "") {
		have, lack := "tls_cert_path", "tls_key_path"
		if tls.CertPath == "" {
			have, lack = lack, have
		}
		v.problem(have, "is set and %s is not; a certificate and its key go together", lack)
	}
	if tls.LetsEncryptHostname != "" {
		v.letsEncrypt()
	}
	ownTLS := tls.CertPath != "" || tls.LetsEncryptHostname != ""
	if ownTLS && strings.HasPrefix(v.cfg.ServerURL, "http://") {
		v.warn("server_url", "begins with http://, and a certificate is set, so listen_addr answers TLS only; write https://")
	}
}

func (v *validator) letsEncrypt() {
	tls := &v.cfg.TLS
	if tls.CertPath != "" {
		v.problem("tls_letsencrypt_hostname", "is set beside tls_cert_path; keep one way to a certificate")
	}
	if !validDomain(tls.LetsEncryptHostname) || !strings.Contains(tls.LetsEncryptHostname, ".") {
		v.problem("tls_letsencrypt_hostname", "%q is no public name; certificates are given for names like head.example.com", tls.LetsEncryptHostname)
	}
	if _, err := parseURL(tls.ACMEURL, "https", "http"); err != nil {
		v.problem("acme_url", "%v; remove the key to use Let's Encrypt", err)
	}
	v.oneOf("tls_letsencrypt_challenge_type", tls.LetsEncryptChallenge, ChallengeHTTP01, ChallengeTLSALPN01)
	_, port, _ := net.SplitHostPort(v.cfg.ListenAddr)
	if tls.LetsEncryptChallenge == ChallengeTLSALPN01 && port != "443" && port != "https" {
		v.warn("tls_letsencrypt_challenge_type", "TLS-ALPN-01 is asked at port 443; unless something leads that port to %s, make listen_addr end in :443", v.cfg.ListenAddr)
	}
	if tls.LetsEncryptChallenge == ChallengeHTTP01 && tls.LetsEncryptListen == "" {
		v.problem("tls_letsencrypt_listen", "is empty; the HTTP-01 challenge is asked at port 80, write :http")
	}
}

func (v *validator) prefixes() {
	p := &v.cfg.Prefixes
	if !p.V4.IsValid() && !p.V6.IsValid() && !v.bad["prefixes.v6"] {
		v.problem("prefixes.v4", "nodes need addresses; set prefixes.v4 to %s, or prefixes.v6 to %s, or both", DefaultV4, DefaultV6)
	}
	v.oneOf("prefixes.allocation", p.Allocation, AllocationSequential, AllocationRandom)
	var outside []string
	for _, f := range []struct {
		path   string
		prefix netip.Prefix
	}{{"prefixes.v4", p.V4}, {"prefixes.v6", p.V6}} {
		if f.prefix.IsValid() && v.prefix(f.path, f.prefix) && !within(f.prefix) {
			outside = append(outside, f.path)
		}
	}
	if len(outside) > 0 {
		v.warn(outside[0], "the addresses of %s lie outside of %s and %s, the ranges that Tailscale clients know as theirs; they work, "+
			"but `tailscale status` prints no address for peers, and clients take them for somebody else's network",
			strings.Join(outside, " and "), DefaultV4, DefaultV6)
	}
}

// within tells whether clients take all of a range for the tailnet's.
func within(p netip.Prefix) bool {
	for _, all := range []netip.Prefix{DefaultV4, DefaultV6} {
		if all.Contains(p.Addr()) && p.Bits() >= all.Bits() {
			return true
		}
	}
	return false
}

func (v *validator) prefix(path string, p netip.Prefix) bool {
	addr, least, most := p.Addr(), 8, 30
	if path == "prefixes.v6" {
		least, most = 16, 126
	}
	switch {
	case addr.Is4() != (path == "prefixes.v4") || addr.Is4In6():
		v.problem(path, "%s is of the other family; IPv4 ranges belong to prefixes.v4, IPv6 ranges to prefixes.v6", p)
	case p != p.Masked():
		v.problem(path, "%s has bits behind its length; write %s", p, p.Masked())
	case p.Bits() < least || p.Bits() > most:
		v.problem(path, "/%d does not do; choose a length between /%d and /%d", p.Bits(), least, most)
	case addr.IsLoopback() || addr.IsMulticast() || addr.IsLinkLocalUnicast() || addr.IsUnspecified():
		v.problem(path, "%s is not routed between machines; %s and %s are made for this", p, DefaultV4, DefaultV6)
	default:
		return true
	}
	return false
}

func (v *validator) derp() {
	derp := &v.cfg.DERP
	if derp.Server.Enabled {
		v.derpServer()
	} else if len(derp.URLs) == 0 && len(derp.Paths) == 0 {
		v.warn("derp.server.enabled", "there is no relay: nodes that cannot reach each other directly will not reach each other at all; "+
			"turn derp.server.enabled on, name relays in derp.urls or derp.paths, or enrol some (headscale derp enroll-keys create)")
	}
	for _, u := range derp.URLs {
		if _, err := parseURL(u, "https", "http"); err != nil {
			v.problem("derp.urls", "%v; write it like https://relay.example.com/derp.json", err)
		}
	}
	if slices.Contains(derp.Paths, "") {
		v.problem("derp.paths", "one of the paths is empty; remove it")
	}
	if derp.AutoUpdateEnabled && derp.UpdateFrequency < time.Second {
		v.problem("derp.update_frequency", "%v is too often; write 3h, or set derp.auto_update_enabled to false", derp.UpdateFrequency)
	}
	v.derpLimits()
	v.derpRelays()
}

func (v *validator) derpServer() {
	s := &v.cfg.DERP.Server
	if s.RegionID < 1 || s.RegionID > 65535 {
		v.problem("derp.server.region_id", "%d is no region; choose a number between 1 and 65535, from 900 on they are free to use", s.RegionID)
	}
	if s.RegionCode == "" || strings.ContainsAny(s.RegionCode, " \t\n") {
		v.problem("derp.server.region_code", "%q does not do; choose one short word", s.RegionCode)
	}
	if s.RegionName == "" {
		v.problem("derp.server.region_name", "is empty; people see it in `tailscale netcheck`")
	}
	if s.STUNListenAddr == "" {
		v.warn("derp.server.stun_listen_addr", "is empty: clients learn their public address from other relays only, or not at all; write 0.0.0.0:3478")
	} else {
		v.listenAddr("derp.server.stun_listen_addr", s.STUNListenAddr)
	}
	if s.Port < 0 || s.Port > 65535 {
		v.problem("derp.server.port", "%d is no port; write 1 to 65535, or 0 for that of server_url", s.Port)
	}
	if s.IPv4.IsValid() && !s.IPv4.Is4() {
		v.problem("derp.server.ipv4", "%s is no IPv4 address", s.IPv4)
	}
	if s.IPv6.IsValid() && (!s.IPv6.Is6() || s.IPv6.Is4In6()) {
		v.problem("derp.server.ipv6", "%s is no IPv6 address", s.IPv6)
	}
}
