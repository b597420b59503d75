package config_test

import (
	"net/netip"
	"net/url"
	"testing"

	"github.com/keelscale/keelscale/hscontrol/config"
)

// routes answers like a machine with these source addresses.
func routes(v4, v6 string) config.Route {
	return func(network string) netip.Addr {
		addr, _ := netip.ParseAddr(map[string]string{"udp4": v4, "udp6": v6}[network])
		return addr
	}
}

func TestGuessServerURL(t *testing.T) {
	for _, tt := range []struct {
		name, listen string
		route        config.Route
		want         string
	}{
		{"public", "0.0.0.0:8080", routes("203.0.113.7", "2001:db8::7"), "http://203.0.113.7:8080"},
		{"private", ":8080", routes("192.168.1.5", "2001:db8::7"), "http://192.168.1.5:8080"},
		{"no IPv4", "[::]:8080", routes("", "2001:db8::7"), "http://[2001:db8::7]:8080"},
		{"no IPv4, usual port", "[::]:80", routes("", "2001:db8::7"), "http://[2001:db8::7]"},
		{"no network", "0.0.0.0:8080", routes("", ""), "http://127.0.0.1:8080"},
		{"link-local only", "0.0.0.0:8080", routes("169.254.3.4", "fe80::1"), "http://127.0.0.1:8080"},
		{"behind an exit node", "0.0.0.0:8080", routes("100.64.0.3", "fd7a:115c:a1e0::3"), "http://127.0.0.1:8080"},
		{"own address", "127.0.0.1:8080", routes("203.0.113.7", ""), "http://127.0.0.1:8080"},
		{"own IPv6 address", "[2001:db8::9]:8080", routes("203.0.113.7", ""), "http://[2001:db8::9]:8080"},
		{"usual port", "0.0.0.0:80", routes("203.0.113.7", ""), "http://203.0.113.7"},
		{"usual port by name", ":http", routes("203.0.113.7", ""), "http://203.0.113.7"},
	} {
		if got := config.GuessServerURL(tt.listen, tt.route); got != tt.want {
			t.Errorf("%s: got %s, want %s", tt.name, got, tt.want)
		}
	}
}

// The machine's own routes give something that a client can parse, whatever they are.
func TestGuessOfThisMachine(t *testing.T) {
	got := config.GuessServerURL("0.0.0.0:8080", nil)
	u, err := url.Parse(got)
	if err != nil || u.Scheme != "http" || u.Port() != "8080" {
		t.Fatalf("got %q, want http, an address and port 8080", got)
	}
	if _, err := netip.ParseAddr(u.Hostname()); err != nil {
		t.Errorf("got host %q, want an address", u.Hostname())
	}
}

// Without a file the URL follows from what the environment says about certificates and listeners.
func TestGuessWithoutFile(t *testing.T) {
	for _, tt := range []struct {
		env     []string
		want    string
		guessed bool
	}{
		{nil, "http://203.0.113.7:8080", true},
		{[]string{"HEADSCALE_SERVER_URL=http://10.0.0.1:8080/"}, "http://10.0.0.1:8080", false},
		{[]string{"HEADSCALE_LISTEN_ADDR=:443", "HEADSCALE_TLS_LETSENCRYPT_HOSTNAME=head.example.com"}, "https://head.example.com", true},
		{[]string{"HEADSCALE_TLS_CERT_PATH=/c", "HEADSCALE_TLS_KEY_PATH=/k"}, "https://203.0.113.7:8080", true},
	} {
		cfg, warnings, err := config.LoadAs(true, routes("203.0.113.7", ""), "", tt.env)
		if err != nil || len(warnings) > 0 {
			t.Errorf("%v: got error %v and warnings %v, want none", tt.env, err, warnings)
			continue
		}
		if cfg.ServerURL != tt.want || cfg.ServerURLGuessed != tt.guessed {
			t.Errorf("%v: got %s (guessed: %v), want %s (%v)", tt.env, cfg.ServerURL, cfg.ServerURLGuessed, tt.want, tt.guessed)
		}
	}
}
