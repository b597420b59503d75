package config_test

import (
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/keelscale/keelscale/hscontrol/config"
)

// Whatever a file and a variable say, Load returns: a configuration that passes its own checks, or problems.
func FuzzLoad(f *testing.F) {
	files, err := filepath.Glob("testdata/*.yaml")
	if err != nil {
		f.Fatal(err)
	}
	for _, file := range append(files, exampleFile) {
		data, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data, "DNS_NAMESERVERS_SPLIT", `{"a.example": ["1.1.1.1"]}`)
	}
	f.Add([]byte("a: &a {b: *a}\n<<: *a\n? [x]\n: y\n"), "IP_PREFIXES", "10.0.0.0/8,[")
	f.Add([]byte(`{"server_url": "http://[::1]:8080", "dns": {"extra_records": [{}]}}`), "TRUSTED_PROXIES", "::/0")
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, data []byte, name, text string) {
		if len(data) > 4<<10 || len(text) > 4<<10 {
			t.Skip("skipping: too long to be fast")
		}
		file := filepath.Join(dir, "config.yaml")
		if err := os.WriteFile(file, data, 0o600); err != nil {
			t.Fatal(err)
		}
		cfg, _, err := config.LoadAs(true, routes("203.0.113.7", ""), file, []string{"HEADSCALE_" + name + "=" + text, "HOME=/root"})
		if err != nil {
			var invalid *config.Error
			if !errors.As(err, &invalid) || len(invalid.Problems) == 0 {
				t.Fatalf("got error %v, want problems", err)
			}
			return
		}
		checkLoaded(t, cfg)
	})
}

// checkLoaded holds Load to the promises of Config's comments.
func checkLoaded(t *testing.T, cfg *config.Config) {
	t.Helper()
	if _, err := cfg.Validate(); err != nil {
		t.Errorf("got a configuration that is not valid: %v", err)
	}
	for name, path := range map[string]string{
		"data_dir": cfg.DataDir, "noise.private_key_path": cfg.Noise.PrivateKeyPath, "unix_socket": cfg.UnixSocket,
		"derp.server.private_key_path": cfg.DERP.Server.PrivateKeyPath,
	} {
		if !filepath.IsAbs(path) && path != ":memory:" && !strings.HasPrefix(path, "file:") {
			t.Errorf("got %s %q, want an absolute path", name, path)
		}
	}
	for _, p := range []netip.Prefix{cfg.Prefixes.V4, cfg.Prefixes.V6} {
		if p.IsValid() && p != p.Masked() {
			t.Errorf("got prefix %s, want %s", p, p.Masked())
		}
	}
	if cfg.DNS.OverrideLocalDNS && len(cfg.DNS.Nameservers.Global) == 0 {
		t.Error("got override_local_dns without nameservers")
	}
	if strings.HasSuffix(cfg.ServerURL, "/") || cfg.DNS.BaseDomain == "" {
		t.Errorf("got server_url %q and base_domain %q", cfg.ServerURL, cfg.DNS.BaseDomain)
	}
}
