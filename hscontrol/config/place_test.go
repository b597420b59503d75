package config_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/keelscale/keelscale/hscontrol/config"
)

// Without a file the configuration is Default, below the directory that fits the user.
func TestDefaultWithoutFile(t *testing.T) {
	for _, tt := range []struct {
		name         string
		root         bool
		env          []string
		want, socket string
	}{
		{"root", true, []string{"HOME=/root"}, "/var/lib/headscale", "/var/run/headscale/headscale.sock"},
		{"user", false, []string{"HOME=/home/ada"}, "/home/ada/.local/share/headscale", "/home/ada/.local/share/headscale/headscale.sock"},
		{"user with XDG", false, []string{"HOME=/home/ada", "XDG_DATA_HOME=/home/ada/data"}, "/home/ada/data/headscale", "/home/ada/data/headscale/headscale.sock"},
		{"service", false, []string{"HOME=/home/ada", "STATE_DIRECTORY=/var/lib/hs:/b"}, "/var/lib/hs", "/var/lib/hs/headscale.sock"},
		{"data_dir", true, []string{"HEADSCALE_DATA_DIR=/srv/hs"}, "/srv/hs", "/srv/hs/headscale.sock"},
		{"database elsewhere", true, []string{"HEADSCALE_DATABASE_SQLITE_PATH=/srv/hs/db.sqlite"}, "/srv/hs", "/srv/hs/headscale.sock"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, warnings, err := config.LoadAs(tt.root, routes("203.0.113.7", ""), "", tt.env)
			if err != nil || len(warnings) > 0 {
				t.Fatalf("got error %v and warnings %v, want none", err, warnings)
			}
			want := config.Default(tt.want)
			want.ServerURL, want.ServerURLGuessed = "http://203.0.113.7:8080", true
			if diff := cmp.Diff(want, got, cmpopts.EquateEmpty(), comparePrefixes); diff != "" {
				t.Errorf("got (+) another configuration than wanted (-):\n%s", diff)
			}
			if got.UnixSocket != tt.socket {
				t.Errorf("got socket %s, want %s", got.UnixSocket, tt.socket)
			}
		})
	}
}

// Default passes its own checks once it has a URL.
func TestDefaultIsValid(t *testing.T) {
	cfg := config.Default("/srv/hs")
	if _, err := cfg.Validate(); err == nil {
		t.Error("got no error without server_url, want one")
	}
	cfg.ServerURL = "http://203.0.113.7:8080"
	if warnings, err := cfg.Validate(); err != nil || len(warnings) > 0 {
		t.Errorf("got error %v and warnings %v, want none", err, warnings)
	}
}

func TestPaths(t *testing.T) {
	env := []string{"HOME=/home/ada", "DIR=/run/dir"}
	file := write(t, head+`
data_dir: ./data
policy: {path: ../acl.hujson}
tls_cert_path: ~/c.pem
tls_key_path: ${DIR}/${DIR}/k.pem
derp: {paths: [a//b.yaml, /etc/c.yaml]}
database: {sqlite: {path: ":memory:"}}
`)
	dir := filepath.Dir(file)
	cfg, _, err := config.Load(file, env)
	if err != nil {
		t.Fatal(err)
	}
	got := []string{cfg.DataDir, cfg.Noise.PrivateKeyPath, cfg.Policy.Path, cfg.TLS.CertPath, cfg.TLS.KeyPath, cfg.DERP.Paths[0], cfg.DERP.Paths[1], cfg.Database.SQLite.Path}
	want := []string{dir + "/data", dir + "/data/noise_private.key", filepath.Dir(dir) + "/acl.hujson", "/home/ada/c.pem", "/run/dir/run/dir/k.pem",
		dir + "/a/b.yaml", "/etc/c.yaml", ":memory:"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("got (+) other paths than wanted (-):\n%s", diff)
	}
}

// Anchors, merge keys and JSON are YAML too.
func TestForms(t *testing.T) {
	want, _, err := config.Load(write(t, head+"derp: {server: {enabled: true, region_id: 7}}\nnode: {expiry: 1d}\n"), nil)
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{
		"JSON":     `{"server_url": "https://head.example.com", "derp": {"server": {"enabled": true, "region_id": 7}}, "node": {"expiry": "1d"}}`,
		"quotes":   "server_url: 'https://head.example.com/'\nderp: {server: {enabled: \"true\", region_id: \"7\"}}\nnode: {expiry: '24h'}\n",
		"merge":    head + "derp:\n  server:\n    <<: {enabled: true, region_id: 8}\n    region_id: 7\nnode: {expiry: 1d}\n",
		"anchor":   head + "derp: {server: {region_id: &seven 7, enabled: &on true}}\nnode: {expiry: 1d}\ngrpc_allow_insecure: false\ntaildrop: {enabled: *on}\n",
		"null":     head + "derp: {server: {region_id: 7}, urls: , paths: ~}\nnode: {expiry: 1d, ephemeral: }\ntls_cert_path: null\npolicy:\n",
		"document": "---\n" + head + "derp: {server: {region_id: 7}}\nnode: {expiry: 1d}\n...\n",
	} {
		got, warnings, err := config.Load(write(t, text), nil)
		if err != nil || len(warnings) > 0 {
			t.Errorf("%s: got error %v and warnings %v, want none", name, err, warnings)
			continue
		}
		if diff := cmp.Diff(clean(want), clean(got), cmpopts.EquateEmpty(), comparePrefixes); diff != "" {
			t.Errorf("%s: got (+) another configuration than wanted (-):\n%s", name, diff)
		}
	}
}

func TestSearch(t *testing.T) {
	if _, err := os.Stat("/etc/headscale"); err == nil {
		t.Skip("skipping: this machine has an /etc/headscale of its own, which comes first")
	}
	home, work, given := t.TempDir(), t.TempDir(), t.TempDir()
	t.Chdir(work)
	env := []string{"HOME=" + home}
	check := func(name, flag string, env []string, want string) {
		t.Helper()
		if got := config.Search(flag, env); got != want {
			t.Errorf("%s: got %q, want %q", name, got, want)
		}
	}
	touch := func(path string) {
		t.Helper()
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	check("nowhere", "", env, "")
	touch(filepath.Join(work, "config.json"))
	check("working directory", "", env, "config.json")
	touch(filepath.Join(work, "config.yaml"))
	check("YAML before JSON", "", env, "config.yaml")
	touch(filepath.Join(home, ".headscale", "config.yaml"))
	check("home before working directory", "", env, filepath.Join(home, ".headscale", "config.yaml"))
	check("environment", "", append(env, "HEADSCALE_CONFIG=/e.yaml"), "/e.yaml")
	check("flag before environment", "/f.yaml", append(env, "HEADSCALE_CONFIG=/e.yaml"), "/f.yaml")
	touch(filepath.Join(given, "config.yaml"))
	check("directory", given, env, filepath.Join(given, "config.yaml"))
}

func TestLoadClient(t *testing.T) {
	broken := write(t, "server_url: nonsense\nquux: 1\nunix_socket: s.sock\ncli: {address: 'head.example.com:50443', api_key: k, timeout: 9s}\n")
	got, err := config.LoadClient(broken, []string{"HEADSCALE_CLI_INSECURE=true", "HEADSCALE_QUUX=1"})
	if err != nil {
		t.Fatal(err)
	}
	want := config.Client{UnixSocket: filepath.Join(filepath.Dir(broken), "s.sock")}
	want.CLI.Address, want.CLI.APIKey, want.CLI.Timeout, want.CLI.Insecure = "head.example.com:50443", "k", 9e9, true
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("got (+) another client than wanted (-):\n%s", diff)
	}
	for _, bad := range []string{"cli: {timeout: soon}\n", "unix_socket: [a]\n", "cli: [\n"} {
		if got, err := config.LoadClient(write(t, bad), nil); err == nil {
			t.Errorf("got %+v for %q, want an error", got, bad)
		}
	}
}
