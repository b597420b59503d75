package config_test

import (
	"net/netip"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/keelscale/keelscale/hscontrol/config"
)

// Files of every release that users may still have. Each tells what differs from the defaults, and which keys
// are warned about, once each, in the order of the file.
func TestGenerations(t *testing.T) {
	dir, err := filepath.Abs("testdata")
	if err != nil {
		t.Fatal(err)
	}
	v4, v6 := config.DefaultV4, config.DefaultV6
	tests := []struct {
		file     string
		want     func(c *config.Config)
		dataDir  string
		warnings []string
	}{
		{
			file:    "guide.yaml",
			dataDir: "/var/lib/headscale",
			warnings: []string{"private_key_path", "ip_prefixes", "prefixes.v4", "disable_check_updates", "ephemeral_node_inactivity_timeout",
				"db_type", "db_path", "log_level", "acl_policy_path", "dns_config.nameservers", "dns_config.domains", "dns_config.magic_dns", "dns_config.base_domain"},
			want: func(c *config.Config) {
				c.ServerURL = "http://198.51.100.20:8080"
				c.GRPCListenAddr = "0.0.0.0:50443"
				c.Prefixes.V4, c.Prefixes.V6 = netip.MustParsePrefix("10.1.0.0/16"), netip.Prefix{}
				c.DERP.Server.Enabled = false
				c.DERP.URLs = []string{"https://relay.example.net/derp.json"}
				c.DERP.Paths = []string{"/etc/headscale/derp.yaml"}
				c.DERP.UpdateFrequency = 24 * time.Hour
				c.DNS.BaseDomain = "vpn.example.net"
				c.DNS.Nameservers.Global = []string{"223.5.5.5"}
				c.DNS.OverrideLocalDNS = true
			},
		},
		{
			file:    "v0.15.yaml",
			dataDir: "/var/lib/headscale",
			warnings: []string{"private_key_path", "ip_prefixes", "ephemeral_node_inactivity_timeout", "db_type", "db_host", "db_port", "db_name",
				"db_user", "db_pass", "tls_client_auth_mode", "log_level", "acl_policy_path"},
			want: func(c *config.Config) {
				c.ServerURL, c.ListenAddr = "https://head.example.org", "127.0.0.1:8085"
				c.Noise.PrivateKeyPath = dir + "/keys/noise_private.key"
				c.DERP.Server.Enabled = false
				c.DERP.URLs = []string{"https://maps.example.org/derp"}
				c.DERP.UpdateFrequency = 24 * time.Hour
				c.Node.EphemeralTimeout = 45 * time.Minute
				c.Database.Type = config.DatabasePostgres
				pg := &c.Database.Postgres
				pg.Host, pg.Port, pg.Name, pg.User, pg.Pass = "db.example.org", 5433, "hs", "hs", "0123"
				c.Log.Level = "debug"
				c.Policy.Mode, c.Policy.Path = config.PolicyFile, dir+"/acl.hujson"
				c.UnixSocket = "/run/hs.sock"
			},
		},
		{
			file:    "v0.16.yaml",
			dataDir: "/srv/hs",
			warnings: []string{"ip_prefixes", "private_key_path", "node_update_check_interval", "db_type", "db_path", "dns_config.override_local_dns",
				"dns_config.nameservers", "dns_config.restricted_nameservers", "dns_config.domains", "dns_config.magic_dns",
				"dns_config.base_domain", "oidc.domain_map"},
			want: func(c *config.Config) {
				c.ServerURL = "https://head.example.org"
				c.Prefixes.V6 = netip.Prefix{}
				c.DNS.MagicDNS, c.DNS.BaseDomain, c.DNS.OverrideLocalDNS = false, "hs.example.org", true
				c.DNS.Nameservers.Global = []string{"9.9.9.9"}
				c.DNS.Nameservers.Split = map[string][]string{"corp.example.org": {"10.0.0.53"}}
				c.DNS.SearchDomains = []string{"corp.example.org"}
				c.RandomizeClientPort = true
			},
		},
		{
			file:    "v0.18.yaml",
			dataDir: "/srv/hs",
			warnings: []string{"ip_prefixes", "private_key_path", "db_type", "db_path", "dns_config.nameservers", "dns_config.magic_dns",
				"dns_config.base_domain", "oidc.strip_email_domain", "oidc.expiry"},
			want: func(c *config.Config) {
				c.ServerURL = "https://head.example.org"
				c.Prefixes.V6 = netip.Prefix{}
				c.Noise.PrivateKeyPath = "/srv/hs/noise.key"
				c.Node.Expiry = 180 * 24 * time.Hour
				c.Log = config.Log{Level: "warn", Format: "json"}
				c.DNS.BaseDomain, c.DNS.OverrideLocalDNS = "hs.example.org", true
				c.DNS.Nameservers.Global = []string{"2620:fe::fe"}
			},
		},
		{
			file:    "v0.22.yaml",
			dataDir: "/srv/hs",
			warnings: []string{"ip_prefixes", "private_key_path", "db_type", "db_path", "dns_config.override_local_dns", "dns_config.nameservers",
				"dns_config.magic_dns", "dns_config.base_domain", "dns_config.extra_records", "node_update_check_interval"},
			want: func(c *config.Config) {
				c.ServerURL = "https://head.example.org"
				c.Prefixes.V4, c.Prefixes.V6 = netip.MustParsePrefix("100.64.0.0/16"), netip.MustParsePrefix("fd7a:115c:a1e0::/64")
				c.Noise.PrivateKeyPath = "/srv/hs/noise.key"
				s := &c.DERP.Server
				s.RegionID, s.RegionCode, s.RegionName, s.STUNListenAddr = 901, "home", "Home", "0.0.0.0:3479"
				c.DNS.BaseDomain = "hs.example.org"
				c.DNS.Nameservers.Global = []string{"1.1.1.1"}
				c.DNS.ExtraRecords = []config.ExtraRecord{{Name: "grafana.hs.example.org", Type: "A", Value: netip.MustParseAddr("100.64.0.3")}}
			},
		},
		{
			file:     "v0.23.yaml",
			dataDir:  "/srv/hs",
			warnings: []string{"database.debug", "database.gorm", "dns.use_username_in_magic_dns", "ephemeral_node_inactivity_timeout"},
			want: func(c *config.Config) {
				c.ServerURL = "https://head.example.org"
				c.Prefixes = config.Prefixes{V4: v4, Allocation: config.AllocationRandom}
				c.Noise.PrivateKeyPath = "/srv/hs/noise.key"
				c.Policy.Mode, c.Policy.Path = config.PolicyFile, "/srv/hs/acl.hujson"
				c.DNS.BaseDomain, c.DNS.OverrideLocalDNS = "hs.example.org", true
				c.DNS.Nameservers.Global = []string{"1.1.1.1"}
			},
		},
		{
			file:     "v0.26.yaml",
			dataDir:  "/var/lib/headscale",
			warnings: []string{"oidc.map_legacy_users", "tuning"},
			want: func(c *config.Config) {
				c.ServerURL = "https://head.example.org"
				c.Noise.PrivateKeyPath = "/srv/hs/noise.key"
				s := &c.DERP.Server
				s.VerifyClients, s.AutoAddRegion, s.PrivateKeyPath = false, false, "/srv/hs/derp.key"
				s.IPv4, s.IPv6 = netip.MustParseAddr("203.0.113.9"), netip.MustParseAddr("2001:db8::9")
				c.DERP.URLs = []string{"https://controlplane.tailscale.com/derpmap/default"}
				c.Database.Type = config.DatabasePostgres
				pg := &c.Database.Postgres
				pg.Host, pg.Name, pg.User, pg.SSLMode, pg.ConnMaxIdleTime = "/var/run/postgresql", "hs", "hs", "require", time.Minute
				c.DNS.BaseDomain = "hs.example.org"
				c.DNS.ExtraRecordsPath = dir + "/records.json"
			},
		},
		{
			file:    "head.yaml",
			dataDir: "/srv/hs",
			want: func(c *config.Config) {
				c.ServerURL, c.ListenAddr = "https://head.example.org", "127.0.0.1:8080"
				c.TrustedProxies = []netip.Prefix{netip.MustParsePrefix("127.0.0.1/32"), netip.MustParsePrefix("10.0.0.0/24")}
				c.Prefixes.V4, c.Prefixes.V6 = netip.Prefix{}, v6
				c.Noise.PrivateKeyPath = "/srv/hs/noise.key"
				c.DERP.Server.Enabled = false
				c.DERP.URLs = []string{"https://controlplane.tailscale.com/derpmap/default"}
				c.DERP.AutoUpdateEnabled = false
				c.Node.Expiry, c.Node.EphemeralTimeout, c.Node.HAProbeInterval = 180*24*time.Hour, 90*time.Minute, 0
				c.DNS.BaseDomain, c.DNS.OverrideLocalDNS = "hs.example.org", true
				c.DNS.Nameservers.Global = []string{"1.1.1.1", "https://dns.nextdns.io/abc123"}
				c.DNS.Nameservers.Split = map[string][]string{"corp.example.org": {"10.0.0.53", "10.0.0.54:5353"}}
				c.TaildropEnabled, c.AutoUpdateEnabled = false, true
			},
		},
	}
	for _, tt := range tests {
		t.Run(tt.file, func(t *testing.T) {
			got, warnings, err := config.LoadAs(true, nil, filepath.Join("testdata", tt.file), nil)
			if err != nil {
				t.Fatalf("got error %v, want none", err)
			}
			want := config.Default(tt.dataDir)
			want.File = filepath.Join(dir, tt.file)
			tt.want(want)
			if diff := cmp.Diff(want, got, cmpopts.EquateEmpty(), comparePrefixes); diff != "" {
				t.Errorf("got (+) another configuration than wanted (-):\n%s", diff)
			}
			if diff := cmp.Diff(tt.warnings, keysOf(warnings), cmpopts.EquateEmpty()); diff != "" {
				t.Errorf("got (+) other warnings than wanted (-):\n%s", diff)
			}
			for _, w := range warnings {
				if w.Pos.Line == 0 || !strings.HasPrefix(w.Pos.String(), filepath.Join("testdata", tt.file)) {
					t.Errorf("got warning at %q, want a line of %s: %s", w.Pos, tt.file, w)
				}
			}
		})
	}
}

var comparePrefixes = cmp.Options{
	cmp.Comparer(func(a, b netip.Prefix) bool { return a == b }),
	cmp.Comparer(func(a, b netip.Addr) bool { return a == b }),
}

func keysOf(warnings []config.Warning) []string {
	var keys []string
	for _, w := range warnings {
		keys = append(keys, w.Key)
	}
	return keys
}

// What a warning shows can be written into the file in place of the older key, and means the same without a warning.
func TestNewSpellingMeansTheSame(t *testing.T) {
	for _, tt := range []struct{ older, spelling string }{
		{"ip_prefixes: [100.64.0.0/10, fd7a:115c:a1e0::/48]", "prefixes:\n  v4: 100.64.0.0/10\n  v6: fd7a:115c:a1e0::/48\n"},
		{"ip_prefixes: 100.64.0.0/12", "prefixes:\n  v4: 100.64.0.0/12\n"},
		{"ip_prefix: 100.64.0.0/12", "prefixes:\n  v4: 100.64.0.0/12\n"},
		{"db_path: my db.sqlite", "database:\n  sqlite:\n    path: \"my db.sqlite\"\n"},
		{"db_type: sqlite3", "database:\n  type: sqlite3\n"},
		{"log_level: trace", "log:\n  level: trace\n"},
		{"acl_policy_path: ~/acl.hujson", "policy:\n  path: ~/acl.hujson\n"},
		{"auto_update_enabled: true", "derp:\n  auto_update_enabled: true\n"},
		{"update_frequency: 24h", "derp:\n  update_frequency: 24h\n"},
		{"private_key_path: /srv/private.key", "noise:\n  private_key_path: /srv/noise_private.key\n"},
		{"ephemeral_node_inactivity_timeout: 2h", "node:\n  ephemeral:\n    inactivity_timeout: 2h\n"},
		{"oidc: {expiry: 30d}", "node:\n  expiry: 30d\n"},
		{"dns_config: {domains: []}", "dns:\n  search_domains: []\n"},
		{"dns_config: {restricted_nameservers: {a.example: [1.1.1.1, '2620:fe::fe']}}",
			"dns:\n  nameservers:\n    split:\n      a.example:\n        - 1.1.1.1\n        - 2620:fe::fe\n"},
		{"dns_config: {extra_records: [{name: a.example, type: A, value: 1.2.3.4}, {name: b.example, type: AAAA, value: '::1'}]}",
			"dns:\n  extra_records:\n    - name: a.example\n      type: A\n      value: 1.2.3.4\n    - name: b.example\n      type: AAAA\n      value: \"::1\"\n"},
	} {
		old, warnings, err := config.Load(write(t, head+tt.older), []string{"HOME=/home/ada"})
		if err != nil {
			t.Errorf("%s: got error %v, want none", tt.older, err)
			continue
		}
		if len(warnings) != 1 || warnings[0].YAML != tt.spelling {
			t.Errorf("%s: got warnings %v, want one that shows\n%s", tt.older, warnings, tt.spelling)
			continue
		}
		now, warnings, err := config.Load(write(t, head+warnings[0].YAML), []string{"HOME=/home/ada"})
		if err != nil || len(warnings) > 0 {
			t.Errorf("%s: got error %v and warnings %v for the new spelling, want none", tt.older, err, warnings)
			continue
		}
		// Paths start from the file's own directory, which is another for each.
		diff := cmp.Diff(clean(old), clean(now), cmpopts.EquateEmpty(), comparePrefixes)
		if diff != "" {
			t.Errorf("%s: the new spelling means something else:\n%s", tt.older, diff)
		}
	}
}

// clean leaves out what depends on the name of the file.
func clean(c *config.Config) *config.Config {
	dup, dir := *c, filepath.Dir(c.File)
	dup.File = ""
	for _, path := range []*string{&dup.DataDir, &dup.UnixSocket, &dup.Database.SQLite.Path, &dup.Database.SecretsKeyPath, &dup.Noise.PrivateKeyPath,
		&dup.DERP.Server.PrivateKeyPath, &dup.TLS.LetsEncryptCacheDir} {
		*path = strings.Replace(*path, dir, "DIR", 1)
	}
	return &dup
}

func TestSecretsAreNotShown(t *testing.T) {
	_, warnings, err := config.Load(write(t, "server_url: https://head.example.com\ndb_pass: hunter2\n"), nil)
	if err != nil {
		t.Fatal(err)
	}
	_, _, err = config.Load(write(t, "server_url: 7\ncli: {api_key: [hunter2]}\ndatabase: {postgres: {pass: {hunter2: x}}}\n"), nil)
	_, _, broken := config.Load(write(t, "cli: {api_key: hunter2\nserver_url: x\n"), nil)
	if err == nil || broken == nil {
		t.Fatalf("got errors %v and %v, want some", err, broken)
	}
	for _, text := range []string{warnings[0].String(), err.Error(), broken.Error()} {
		if strings.Contains(text, "hunter2") {
			t.Errorf("got a secret in %q", text)
		}
	}
}
