package config_test

import (
	"errors"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/keelscale/keelscale/hscontrol/config"
)

func TestEnvironment(t *testing.T) {
	file := write(t, head+"dns: {base_domain: file.example}\nderp: {urls: [https://a.example/map]}\ndb_path: /file/db.sqlite\n")
	dir := filepath.Dir(file)
	env := []string{
		"PATH=/bin", "HOME=/home/ada", "CREDENTIALS_DIRECTORY=/run/credentials",
		"HEADSCALE_DNS_BASE_DOMAIN=env.example",
		"HEADSCALE_DNS_SEARCH_DOMAINS=a.example, b.example\tc.example",
		`HEADSCALE_DNS_NAMESERVERS_GLOBAL=["1.1.1.1", "9.9.9.9"]`,
		`HEADSCALE_DNS_NAMESERVERS_SPLIT={"corp.example": ["10.0.0.53"]}`,
		`HEADSCALE_DNS_EXTRA_RECORDS=[{"name": "a.example", "type": "A", "value": "1.2.3.4"}]`,
		"HEADSCALE_TRUSTED_PROXIES=127.0.0.1 10.0.0.0/8",
		"HEADSCALE_NODE_EXPIRY=90d",
		"HEADSCALE_NODE_EPHEMERAL_INACTIVITY_TIMEOUT=1w",
		"HEADSCALE_LOG_LEVEL=", // empty: not set
		"HEADSCALE_DERP_PATHS=more.yaml,~/mine.yaml",
		"HEADSCALE_NOISE_PRIVATE_KEY_PATH=${CREDENTIALS_DIRECTORY}/noise",
		"HEADSCALE_DATABASE_SQLITE_PATH=/env/db.sqlite",
		"HEADSCALE_CLI_TIMEOUT=1m",
		"HEADSCALE_CONFIG=/elsewhere",
		// What Kubernetes tells every container about a service named headscale.
		"HEADSCALE_SERVICE_HOST=10.43.0.9", "HEADSCALE_SERVICE_PORT=8080", "HEADSCALE_SERVICE_PORT_HTTP=8080",
		"HEADSCALE_PORT=tcp://10.43.0.9:8080", "HEADSCALE_PORT_8080_TCP=tcp://10.43.0.9:8080", "HEADSCALE_PORT_8080_TCP_ADDR=10.43.0.9",
		"HEADSCALE_UI_SERVICE_HOST=10.43.0.10", "HEADSCALE_UI_PORT=tcp://10.43.0.10:80",
	}
	got, warnings, err := config.LoadAs(true, nil, file, env)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"db_path"}, keysOf(warnings)); diff != "" {
		t.Errorf("got (+) other warnings than wanted (-):\n%s", diff)
	}
	want := config.Default("/env")
	want.File, want.ServerURL = file, "https://head.example.com"
	want.DERP.Server.Enabled = false
	want.DERP.URLs = []string{"https://a.example/map"}
	want.DERP.Paths = []string{filepath.Join(dir, "more.yaml"), "/home/ada/mine.yaml"}
	want.Noise.PrivateKeyPath = "/run/credentials/noise"
	want.TrustedProxies = []netip.Prefix{netip.MustParsePrefix("127.0.0.1/32"), netip.MustParsePrefix("10.0.0.0/8")}
	want.Node.Expiry, want.Node.EphemeralTimeout = 90*24*time.Hour, 7*24*time.Hour
	want.CLI.Timeout = time.Minute
	want.DNS = config.DNS{
		MagicDNS: true, BaseDomain: "env.example", OverrideLocalDNS: true,
		Nameservers: config.Nameservers{
			Global: []string{"1.1.1.1", "9.9.9.9"},
			Split:  map[string][]string{"corp.example": {"10.0.0.53"}},
		},
		SearchDomains: []string{"a.example", "b.example", "c.example"},
		ExtraRecords:  []config.ExtraRecord{{Name: "a.example", Type: "A", Value: netip.MustParseAddr("1.2.3.4")}},
	}
	if diff := cmp.Diff(want, got, cmpopts.EquateEmpty(), comparePrefixes); diff != "" {
		t.Errorf("got (+) another configuration than wanted (-):\n%s", diff)
	}
}

func TestEnvironmentProblems(t *testing.T) {
	for _, tt := range []struct{ env, want string }{
		{"HEADSCALE_DNS_BASE_DOMIAN=a", "environment variable HEADSCALE_DNS_BASE_DOMIAN: no key of the configuration has this name; did you mean HEADSCALE_DNS_BASE_DOMAIN?"},
		{"HEADSCALE_DATABSE_POSTGRES_PORT=5432", "environment variable HEADSCALE_DATABSE_POSTGRES_PORT: no key of the configuration has this name; did you mean HEADSCALE_DATABASE_POSTGRES_PORT?"},
		{"HEADSCALE_CLI_APIKEY=hunter2", "environment variable HEADSCALE_CLI_APIKEY: no key of the configuration has this name; did you mean HEADSCALE_CLI_API_KEY?"},
		{"HEADSCALE_QUUX_OF_THE_DAY=a", "environment variable HEADSCALE_QUUX_OF_THE_DAY: no key of the configuration has this name"},
		{"HEADSCALE_NODE_EXPIRY=soon", `environment variable HEADSCALE_NODE_EXPIRY: node.expiry: expected a duration like 30m, 24h, 90d or 1y, got "soon"`},
		{"HEADSCALE_DNS_NAMESERVERS_SPLIT=a.example", `environment variable HEADSCALE_DNS_NAMESERVERS_SPLIT: dns.nameservers.split: expected names with their values below it, as in name: value, got "a.example"`},
		{"HEADSCALE_DNS_NAMESERVERS_SPLIT={", `environment variable HEADSCALE_DNS_NAMESERVERS_SPLIT: not YAML: could not find flow mapping end token '}'`},
		{"HEADSCALE_LOG_LEVEL=loud", `environment variable HEADSCALE_LOG_LEVEL: log.level: expected trace, debug, info, warn or error, got "loud"`},
	} {
		_, _, err := config.Load(write(t, head), []string{tt.env})
		var invalid *config.Error
		if !errors.As(err, &invalid) || err.Error() != tt.want {
			t.Errorf("%s: got error\n%v, want\n%s", tt.env, err, tt.want)
		}
	}
}

func TestEnvironmentWarnings(t *testing.T) {
	for _, tt := range []struct{ env, want string }{
		{"HEADSCALE_DEBUG_DUMP_CONFIG=1", "environment variable HEADSCALE_DEBUG_DUMP_CONFIG: has no effect here; remove it"},
		{"HEADSCALE_POLICY_V1=1", "environment variable HEADSCALE_POLICY_V1: has no effect here; remove it"},
		{"HEADSCALE_TUNING_BATCHER_WORKERS=3", "environment variable HEADSCALE_TUNING_BATCHER_WORKERS: has no effect here; remove it"},
		{"HEADSCALE_PREAUTH_KEYS_REVOKED_RETENTION=1h", "environment variable HEADSCALE_PREAUTH_KEYS_REVOKED_RETENTION: has no effect here; remove it"},
		{"HEADSCALE_DATABASE_GORM_SLOW_THRESHOLD=250", "environment variable HEADSCALE_DATABASE_GORM_SLOW_THRESHOLD: has no effect here; remove it"},
		{"HEADSCALE_DATABASE_DEBUG=true", `environment variable HEADSCALE_DATABASE_DEBUG: "database.debug" has no effect here; remove it`},
		{"HEADSCALE_DISABLE_CHECK_UPDATES=true", `environment variable HEADSCALE_DISABLE_CHECK_UPDATES: "disable_check_updates" has no effect here, this server never looks for updates; remove it`},
		{"HEADSCALE_NODE_UPDATE_CHECK_INTERVAL=10s", `environment variable HEADSCALE_NODE_UPDATE_CHECK_INTERVAL: "node_update_check_interval" has no effect here, changes are sent when they happen; remove it`},
		{"HEADSCALE_IP_PREFIXES=100.64.0.0/10 fd7a:115c:a1e0::/48",
			"environment variable HEADSCALE_IP_PREFIXES: \"ip_prefixes\" is the older spelling of \"prefixes.v4\" and \"prefixes.v6\"; it works, but write:\n" +
				"    HEADSCALE_PREFIXES_V4=...\n    HEADSCALE_PREFIXES_V6=..."},
		{"HEADSCALE_DB_PASS=hunter2", "environment variable HEADSCALE_DB_PASS: \"db_pass\" is the older spelling of \"database.postgres.pass\"; it works, but write:\n" +
			"    HEADSCALE_DATABASE_POSTGRES_PASS=..."},
	} {
		_, warnings, err := config.Load(write(t, head), []string{tt.env})
		if err != nil || len(warnings) != 1 || warnings[0].String() != tt.want {
			t.Errorf("%s: got error %v and warnings %v, want\n%s", tt.env, err, warnings, tt.want)
		}
	}
}

// Two keys must not share a variable, but for two older ones that leave theirs to today's key.
func TestEnvironmentIsUnambiguous(t *testing.T) {
	seen := map[string]string{}
	for _, key := range allKeys() {
		if other, taken := seen[envName(key)]; taken {
			t.Errorf("got one variable for %q and %q, want two", key, other)
		}
		seen[envName(key)] = key
	}
	yields := map[string]string{"log_level": "log.level", "auto_update_enabled": "auto_update.enabled"}
	for older := range config.OlderKeys() {
		if key, taken := seen[envName(older)]; taken && yields[older] != key {
			t.Errorf("got one variable for %q and %q, want two", older, key)
		}
	}
}

func envName(key string) string {
	return "HEADSCALE_" + strings.ToUpper(strings.ReplaceAll(key, ".", "_"))
}

// Every key of an older release that has a successor names one that exists.
func TestOlderKeysHaveSuccessors(t *testing.T) {
	keys := map[string]bool{"": true}
	for _, k := range allKeys() {
		keys[k] = true
	}
	for older, now := range config.OlderKeys() {
		if !keys[now] {
			t.Errorf("got %q as the successor of %q, want a key that exists", now, older)
		}
	}
}
