package config_test

import (
	"errors"
	"io/fs"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/keelscale/keelscale/hscontrol/config"
)

const head = "server_url: https://head.example.com\n"

// Each configuration is refused with exactly these sentences; FILE stands for the file's name.
func TestProblems(t *testing.T) {
	tests := []struct {
		name, yaml string
		want       []string
	}{
		{"empty file", "", []string{
			`FILE: server_url: is missing; set it to the URL that clients use, as in "https://head.example.com" or "http://203.0.113.7:8080"`}},
		{"not YAML", "server_url: [\n", []string{`FILE:1:13: not YAML: sequence end token ']' not found`}},
		{"key twice", head + "log:\n  level: info\n  level: debug\n", []string{`FILE:4:3: not YAML: mapping key "level" already defined at [3:3]`}},
		{"two documents", head + "---\na: 1\n", []string{`FILE:3:1: a second document begins here; keep one, and no line of three dashes but at the top`}},
		{"no keys", "- a\n", []string{`FILE:1:1: expected keys and values, as in server_url: https://head.example.com`}},
		{"bad alias", head + "log: *x\n", []string{`FILE:2:6: *x refers to nothing: there is no &x above it`}},

		{"merge of a text", head + "log:\n  <<: debug\n", []string{`FILE:3:7: << merges sections only`}},
		{"key that is a list", head + "? [a]\n: b\n", []string{`FILE:3:1: not YAML: found an invalid key for this map`}},
		{"deep", head + "log: " + strings.Repeat("[", 70) + strings.Repeat("]", 70) + "\n", []string{
			`FILE:2:70: too many values, or too deep: more than 20000 values or 64 levels`}},
		{"durations", head + "node: {expiry: -1h}\ndatabase: {postgres: {conn_max_idle_time_secs: -1}}\ncli: {timeout: 0}\n", []string{
			`FILE:2:16: node.expiry: expected a duration like 30m, 24h, 90d or 1y; a duration cannot be negative, got "-1h"`,
			`FILE:3:48: database.postgres.conn_max_idle_time_secs: expected a duration like 30m, 24h, 90d or 1y; a duration cannot be negative, got "-1"`,
			`FILE:4:7: cli.timeout: must be longer than nothing; 5s is usual`}},
		{"long value", head + "log: {level: [x], format: " + strings.Repeat("x", 80) + "}\ntaildrop: {enabled: " + strings.Repeat("é", 80) + "}\n", []string{
			`FILE:2:14: log.level: expected one text, got a list`,
			`FILE:2:19: log.format: expected text or json, got "` + strings.Repeat("x", 80) + `"`,
			`FILE:3:21: taildrop.enabled: expected true or false, got "` + strings.Repeat("é", 60) + `…"`}},
		{"typing error", head + "dns:\n  base_domian: a.example\n", []string{`FILE:3:3: unknown key "dns.base_domian"; did you mean "dns.base_domain"?`}},
		{"capitals", "Server_URL: https://head.example.com\n" + head, []string{`FILE:1:1: unknown key "Server_URL"; did you mean "server_url"?`}},
		{"section misspelt", head + "databse:\n  type: sqlite\n", []string{`FILE:2:1: unknown key "databse"; did you mean "database"?`}},
		{"wrong section", head + "magic_dns: true\n", []string{`FILE:2:1: unknown key "magic_dns"; it belongs below another section: "dns.magic_dns"`}},
		{"section too deep", head + "dns: {derp: {urls: []}}\n", []string{`FILE:2:7: unknown key "dns.derp"; "derp" stands at the top of the file`}},
		{"flat", head + "dns.magic_dns: true\n", []string{`FILE:2:1: unknown key "dns.magic_dns"; write its sections one below the other: dns: magic_dns`}},
		{"nothing near", head + "log: {rotation_of_files: 7}\n", []string{`FILE:2:7: unknown key "log.rotation_of_files"; "log" knows level, format`}},
		{"nothing like it", head + "quux_of_the_day: 7\n", []string{`FILE:2:1: unknown key "quux_of_the_day"`}},
		{"older section, typing error", head + "dns_config: {nameserver: [1.1.1.1]}\n", []string{
			`FILE:2:14: unknown key "dns_config.nameserver"; did you mean "dns_config.nameservers", today "dns.nameservers.global"?`}},

		{"types, all at once", head + `
listen_addr: [a]
grpc_allow_insecure: perhaps
dns: no
derp:
  urls: https://relay.example.com/map
  update_frequency: 24
  server: {region_id: many, ipv4: relay}
database: {postgres: {pass: {a: b}}}
unix_socket_permission: rwx
`, []string{
			`FILE:3:14: listen_addr: expected one text, got a list`,
			`FILE:4:22: grpc_allow_insecure: expected true or false, got "perhaps"`,
			`FILE:5:6: "dns" is a section with keys below it (magic_dns, base_domain, override_local_dns, nameservers, search_domains, extra_records, extra_records_path), not "no"`,
			`FILE:7:9: derp.urls: expected a list, as in ["one", "two"] or one line each behind a dash, got "https://relay.example.com/map"`,
			`FILE:8:21: derp.update_frequency: expected a duration like 30m, 24h, 90d or 1y; say the unit, 24h or 24s, got "24"`,
			`FILE:9:23: derp.server.region_id: expected a whole number, got "many"`,
			`FILE:9:35: derp.server.ipv4: expected an IP address, got "relay"`,
			`FILE:10:23: database.postgres.pass: expected one text, got keys with values`,
			`FILE:11:25: unix_socket_permission: expected an octal mode like "0770", got "rwx"`,
		}},

		{"scheme", "server_url: head.example.com\n", []string{
			`FILE:1:1: server_url: expected a URL that begins with https:// or http://; write it like "https://head.example.com" or "http://203.0.113.7:8080"`}},
		{"path in URL", "server_url: https://head.example.com/hs/\n", []string{
			`FILE:1:1: server_url: "https://head.example.com/hs" is more than clients can use; keep "https://head.example.com"`}},
		{"base domain is the server", head + "dns: {base_domain: head.example.com}\n", []string{
			`FILE:2:7: dns.base_domain: "head.example.com" holds the server's own name head.example.com, so clients would look for the server inside the tailnet that it makes; choose a name that the server's does not end in, tailnet.internal for instance`}},
		{"base domain is above the server", head + "dns: {base_domain: Example.com.}\n", []string{
			`FILE:2:7: dns.base_domain: "example.com" holds the server's own name head.example.com, so clients would look for the server inside the tailnet that it makes; choose a name that the server's does not end in, tailnet.internal for instance`}},
		{"override without servers", head + "dns: {override_local_dns: true}\n", []string{
			`FILE:2:7: dns.override_local_dns: is true, and dns.nameservers.global has no server to ask instead; name one, or write false`}},
		{"nameservers", head + "dns: {nameservers: {global: [dns.example.com, 'http://1.1.1.1', 'https://'], split: {'a b': [1.1.1.1]}}}\n", []string{
			`FILE:2:21: dns.nameservers.global: "dns.example.com" is no nameserver; write an address like 1.1.1.1, or a URL like https://dns.nextdns.io/abc123`,
			`FILE:2:21: dns.nameservers.global: "http://1.1.1.1" is no nameserver; write an address like 1.1.1.1, or a URL like https://dns.nextdns.io/abc123`,
			`FILE:2:21: dns.nameservers.global: "https://" is no nameserver; write an address like 1.1.1.1, or a URL like https://dns.nextdns.io/abc123`,
			`FILE:2:78: dns.nameservers.split: "a b" is no domain; write a name like corp.example.com above its servers`}},
		{"records", head + `
dns:
  extra_records:
    - {name: a.example, type: CNAME, value: 1.2.3.4}
    - {name: b.example, type: AAAA, value: 1.2.3.4}
    - {name: "*.example", value: 1.2.3.4}
    - {name: c.example}
  extra_records_path: r.json
`, []string{
			`FILE:4:3: dns.extra_records: a.example is of type CNAME; clients answer A and AAAA only`,
			`FILE:4:3: dns.extra_records: b.example: 1.2.3.4 is no address for type AAAA; A takes IPv4, AAAA takes IPv6`,
			`FILE:4:3: dns.extra_records: "*.example" is no name; write a full one like grafana.tailnet.internal`,
			`FILE:4:3: dns.extra_records: c.example has no address; write it behind value`,
			`FILE:9:3: dns.extra_records_path: is set beside dns.extra_records; keep the records in one place`}},
		{"record's key", head + "dns: {extra_records: [{nmae: a.example, value: 1.2.3.4}]}\n", []string{
			`FILE:2:24: unknown key "nmae" in a record of dns.extra_records; did you mean "name"?`}},

		{"prefix with host bits", head + "prefixes: {v4: 100.64.0.1/10}\n", []string{`FILE:2:12: prefixes.v4: 100.64.0.1/10 has bits behind its length; write 100.64.0.0/10`}},
		{"prefix too small", head + "prefixes: {v4: 100.64.0.0/31, v6: 'fd7a:115c:a1e0::/127'}\n", []string{
			`FILE:2:12: prefixes.v4: /31 does not do; choose a length between /8 and /30`,
			`FILE:2:31: prefixes.v6: /127 does not do; choose a length between /16 and /126`}},
		{"prefix of the other family", head + "prefixes: {v4: 'fd7a:115c:a1e0::/48'}\n", []string{
			`FILE:2:12: prefixes.v4: fd7a:115c:a1e0::/48 is of the other family; IPv4 ranges belong to prefixes.v4, IPv6 ranges to prefixes.v6`}},
		{"prefix of loopback", head + "prefixes: {v4: 127.0.0.0/8}\n", []string{
			`FILE:2:12: prefixes.v4: 127.0.0.0/8 is not routed between machines; 100.64.0.0/10 and fd7a:115c:a1e0::/48 are made for this`}},
		{"no prefix", head + "prefixes: {v4: '', v6: ''}\n", []string{
			`FILE:2:12: prefixes.v4: nodes need addresses; set prefixes.v4 to 100.64.0.0/10, or prefixes.v6 to fd7a:115c:a1e0::/48, or both`}},
		{"no prefix that can be read", head + "prefixes: {v4: ten, allocation: rand}\n", []string{
			`FILE:2:16: prefixes.v4: expected an address range like 100.64.0.0/10, got "ten"`,
			`FILE:2:21: prefixes.allocation: expected sequential or random, got "rand"; did you mean "random"?`}},
		{"two prefixes of a family", head + "ip_prefixes: [100.64.0.0/10, 10.0.0.0/8]\n", []string{
			`FILE:2:30: ip_prefixes: 100.64.0.0/10 and 10.0.0.0/8 are of one family, and nodes get one address of each; keep one`}},

		{"listeners", head + "listen_addr: '8080'\nmetrics_listen_addr: 127.0.0.1:99999\ngrpc_listen_addr: a b:1\n", []string{
			`FILE:2:1: listen_addr: "8080" is no host:port; write it like 0.0.0.0:8080 or [::]:8080`,
			`FILE:3:1: metrics_listen_addr: "127.0.0.1:99999" has no port between 0 and 65535; write it like 0.0.0.0:8080`,
			`FILE:4:1: grpc_listen_addr: "a b:1" is neither an address nor a name of this machine; write it like 0.0.0.0:8080`}},
		{"one port twice", head + "listen_addr: ':9090'\n", []string{
			`FILE: metrics_listen_addr: 127.0.0.1:9090 is taken by listen_addr already (:9090); give each its own port`}},
		{"proxies", head + "trusted_proxies: [0.0.0.0/0]\n", []string{
			`FILE:2:1: trusted_proxies: 0.0.0.0/0 believes everybody about their address; name the proxies only`}},

		{"half a pair", head + "tls_cert_path: a.pem\n", []string{
			`FILE:2:1: tls_cert_path: is set and tls_key_path is not; a certificate and its key go together`}},
		{"two certificates", head + "tls_cert_path: a.pem\ntls_key_path: b.pem\ntls_letsencrypt_hostname: head.example.com\ntls_letsencrypt_challenge_type: DNS-01\n", []string{
			`FILE:4:1: tls_letsencrypt_hostname: is set beside tls_cert_path; keep one way to a certificate`,
			`FILE:5:1: tls_letsencrypt_challenge_type: expected HTTP-01 or TLS-ALPN-01, got "DNS-01"`}},

		{"a short memory", head + "audit: {retention: 23h}\n", []string{
			`FILE:2:9: audit.retention: 23h0m0s is too short; make it 1d or longer, or 0 to keep the log for good`}},
		{"times", head + "node: {ephemeral: {inactivity_timeout: 65s}, routes: {ha: {probe_interval: 3s}}}\n", []string{
			`FILE:2:20: node.ephemeral.inactivity_timeout: 1m5s is too short, connected nodes are heard of once a minute only; make it longer than 65s`,
			`FILE: node.routes.ha.probe_timeout: 5s does not fit; make it 1s or longer, and shorter than node.routes.ha.probe_interval (3s)`}},
		{"database", head + "database: {type: postgres, postgres: {user: hs, port: 0, ssl: maybe}}\n", []string{
			`FILE:2:49: database.postgres.port: 0 is no port; PostgreSQL usually listens on 5432`,
			`FILE:2:58: database.postgres.ssl: expected disable, allow, prefer, require, verify-ca or verify-full, got "maybe"`,
			`FILE: database.postgres.host: is missing; database.type postgres needs host, name and user`,
			`FILE: database.postgres.name: is missing; database.type postgres needs host, name and user`}},
		{"database type", head + "database: {type: postgresql}\n", []string{
			`FILE:2:12: database.type: expected sqlite or postgres, got "postgresql"; did you mean "postgres"?`}},
		{"log", head + "log: {level: verbose, format: logfmt}\npolicy: {mode: db}\n", []string{
			`FILE:2:7: log.level: expected trace, debug, info, warn or error, got "verbose"`,
			`FILE:2:23: log.format: expected text or json, got "logfmt"`,
			`FILE:3:10: policy.mode: expected file or database, got "db"`}},

		{"relay", head + "derp: {urls: [relay.example.com], update_frequency: 0, server: {enabled: true, region_id: 0, region_code: ''}}\n", []string{
			`FILE:2:8: derp.urls: expected a URL that begins with https:// or http://; write it like https://relay.example.com/derp.json`,
			`FILE:2:35: derp.update_frequency: 0s is too often; write 3h, or set derp.auto_update_enabled to false`,
			`FILE:2:80: derp.server.region_id: 0 is no region; choose a number between 1 and 65535, from 900 on they are free to use`,
			`FILE:2:94: derp.server.region_code: "" does not do; choose one short word`}},

		{"identity provider", head + "oidc: {issuer: 'https://sso.example.com', client_id: hs, client_secret: s}\n", []string{
			`FILE:2:8: oidc.issuer: signing in through an identity provider is not supported by this version yet; remove the oidc section, and let nodes join by pre-auth key or ` + "`headscale nodes register`"}},
		{"identity provider, half", head + "oidc: {issuer: sso, client_secret: s, client_secret_path: t}\n", []string{
			`FILE:2:8: oidc.issuer: signing in through an identity provider is not supported by this version yet; remove the oidc section, and let nodes join by pre-auth key or ` + "`headscale nodes register`",
			`FILE:2:8: oidc.issuer: expected a URL that begins with https:// or http://; write the provider's URL, as in https://sso.example.com`,
			`FILE:2:39: oidc.client_secret_path: is set beside oidc.client_secret; keep one of them`,
			`FILE: oidc.client_id: is missing; the provider gives it together with the secret`}},

		{"old against new", head + "db_path: /a\ndatabase: {sqlite: {path: /b}}\nip_prefixes: [10.1.0.0/16]\nprefixes: {v4: 10.2.0.0/16}\n", []string{
			`FILE:2:1: "db_path" says something else than "database.sqlite.path" (FILE:3:21), which took its place; keep "database.sqlite.path" only`,
			`FILE:4:1: "ip_prefixes" says something else than "prefixes.v4" (FILE:5:12), which took its place; keep "prefixes.v4" only`}},
		{"client certificates", head + "tls_client_auth_mode: enforced\n", []string{
			`FILE:2:1: "tls_client_auth_mode": certificates of clients are not asked for here; have a proxy before the server ask for them, and remove the key`}},
		{"variable", head + "policy: {path: '${NOWHERE}/acl'}\n", []string{
			`FILE:2:16: policy.path: the environment has no NOWHERE; set it or write the path out`}},
		{"long socket", head + "unix_socket: /" + strings.Repeat("s", 120) + "\n", []string{
			`FILE:2:1: unix_socket: the path has 121 bytes and sockets allow 107; choose a shorter one`}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			file := write(t, tt.yaml)
			cfg, _, err := config.Load(file, nil)
			var invalid *config.Error
			if !errors.As(err, &invalid) || !errors.Is(err, config.ErrInvalid) {
				t.Fatalf("got %+v and error %v, want problems", cfg, err)
			}
			var got []string
			for _, p := range invalid.Problems {
				got = append(got, strings.ReplaceAll(p.String(), file, "FILE"))
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("got (+) other problems than wanted (-):\n%s", diff)
			}
		})
	}
}

func TestUnreadableFile(t *testing.T) {
	if _, _, err := config.Load(filepath.Join(t.TempDir(), "none.yaml"), nil); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("got error %v, want %v", err, fs.ErrNotExist)
	}
	big := write(t, strings.Repeat("#", 300<<10))
	if _, _, err := config.Load(big, nil); err == nil || !strings.Contains(err.Error(), "larger than 256 KiB") {
		t.Errorf("got error %v for a huge file, want one about its size", err)
	}
}

// Aliases must not make a small file large.
func TestAliasBomb(t *testing.T) {
	bomb := "a: &a [x, x, x, x, x, x, x, x, x, x]\n"
	for c := 'b'; c <= 'k'; c++ {
		prev := string(c - 1)
		bomb += string(c) + ": &" + string(c) + " [" + strings.TrimSuffix(strings.Repeat("*"+prev+", ", 10), ", ") + "]\n"
	}
	_, _, err := config.Load(write(t, bomb), nil)
	if err == nil || !strings.Contains(err.Error(), "more than 20000 values") {
		t.Errorf("got error %.200v, want one about too many values", err)
	}
}

// What works and is worth a word.
func TestWarnings(t *testing.T) {
	for _, tt := range []struct{ name, yaml, want string }{
		{"older and newer agree", head + "db_path: /a/b\ndatabase: {sqlite: {path: /a/./b}}\n", `"db_path" is the older spelling of "database.sqlite.path"; it works, but write`},
		{"foreign prefix", head + "prefixes: {v4: 10.1.0.0/16, v6: 'fd00::/64'}\n", "prefixes.v4: the addresses of prefixes.v4 and prefixes.v6 lie outside of"},
		{"no relay", head + "derp: {server: {enabled: false}}\n", "derp.server.enabled: there is no relay"},
		{"no STUN", head + "derp: {server: {stun_listen_addr: ''}}\n", "derp.server.stun_listen_addr: is empty"},
		{"http with a certificate", "server_url: http://head.example.com\ntls_cert_path: a\ntls_key_path: b\n", "server_url: begins with http://, and a certificate is set"},
		{"TLS-ALPN-01 elsewhere", head + "tls_letsencrypt_hostname: head.example.com\ntls_letsencrypt_challenge_type: TLS-ALPN-01\n", "tls_letsencrypt_challenge_type: TLS-ALPN-01 is asked at port 443"},
		{"policy path without use", head + "policy: {mode: database, path: /a}\n", "policy.path: is not read, since policy.mode is database"},
		{"log level above error", head + "log: {level: panic}\n", `log.level: "panic" would hide errors; taken as error`},
		{"retired", head + "preauth_keys: {revoked_retention: 1h}\n", `"preauth_keys" has no effect here; remove it`},
		{"statements in the log", head + "database: {debug: true}\n", `"database.debug" has no effect here; remove it`},
		{"the mapper's section", head + "database: {gorm: {prepare_stmt: false, slow_threshold: 1s}}\n", `"database.gorm" has no effect here; remove it`},
		{"updates", head + "disable_check_updates: true\n", `"disable_check_updates" has no effect here, this server never looks for updates; remove it`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, warnings, err := config.Load(write(t, tt.yaml), nil)
			if err != nil {
				t.Fatal(err)
			}
			if len(warnings) != 1 || !strings.HasPrefix(warnings[0].Text, tt.want) {
				t.Errorf("got warnings %v, want one that begins with %q", warnings, tt.want)
			}
		})
	}
}
