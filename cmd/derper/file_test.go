package main

import (
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/keelscale/keelscale/derp"
)

func configFile(t testing.TB, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "derper.yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestFileBelowFlagsAndEnvironment(t *testing.T) {
	for _, tt := range []struct {
		name, file, args, env string
		want                  func(*settings)
	}{
		{"empty", "", "", "", func(*settings) {}},
		{"only a comment", "# nothing\n", "", "", func(*settings) {}},
		{"an empty group", "listen:\nhostname:\n", "", "", func(*settings) {}},
		{"groups", "hostname: 192.0.2.7\nlisten:\n  address: :12345\n  http-port: -1\n  stun: false\nlog: {log-format: json}\n", "", "", func(s *settings) {
			s.hostname, s.addr, s.httpPort, s.stun, s.logFormat = "192.0.2.7", ":12345", -1, false, "json"
		}},
		{"lists", "mesh:\n  mesh-with: [a.example, b.example]\npages:\n  bootstrap-dns-names:\n  - c.example\n  - d.example\n", "", "", func(s *settings) {
			s.meshWith, s.bootstrapDNS = "a.example,b.example", "c.example,d.example"
		}},
		{"limits", "limits:\n  node: 10MB/s\n  node-burst: 1MiB\n  total: 125000000\n  month: 1.5TB\n  accept-connection-limit: 50\n", "", "", func(s *settings) {
			s.limitNode, s.limitNodeBurst, s.limitTotal, s.limitMonth, s.acceptLimit = 10e6, 1<<20, 125e6, 1.5e12, 50
		}},
		{"times and quotes", "listen: {tcp-write-timeout: 5s}\nenrolment: {control: 'http://192.0.2.1:8080', name: \"attic\", control-outage: 24h}\n", "", "", func(s *settings) {
			s.writeTimeout, s.control, s.name, s.controlOutage = 5*time.Second, "http://192.0.2.1:8080", "attic", 24*time.Hour
		}},
		{"flags win", "hostname: a.example\nlisten: {stun-port: 1}\n", "-hostname b.example", "", func(s *settings) { s.hostname, s.stunPort = "b.example", 1 }},
		{"the environment wins", "hostname: a.example\nlog: {log-level: debug}\n", "", "DERP_HOST=c.example", func(s *settings) { s.hostname, s.logLevel = "c.example", "debug" }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			path := configFile(t, tt.file)
			env := append(strings.Fields(tt.env), "STATE_DIRECTORY=/state", "DERP_CONFIG="+path)
			got, err := parseSettings(strings.Fields(tt.args), env, io.Discard)
			if err != nil {
				t.Fatal(err)
			}
			want := defaults(t, func(s *settings) {
				s.config = path
				tt.want(s)
			})
			if diff := cmp.Diff(want, got, cmp.AllowUnexported(settings{}), cmpopts.IgnoreFields(settings{}, "values")); diff != "" {
				t.Errorf("settings (-want +got):\n%s", diff)
			}
		})
	}
}

func TestFileRefused(t *testing.T) {
	for _, tt := range []struct{ file, want string }{
		{"hostnam: x\n", `line 1: unknown key hostnam (did you mean "hostname"?)`},
		{"listen:\n  adress: :443\n", `line 2: unknown key listen.adress (did you mean "listen.address"?)`},
		{"listen:\n  a: :443\n", `did you mean "listen.address"?`},
		{"log:\n  log_level: debug\n", `did you mean "log.log-level"?`},
		{"verify-clients: true\n", `did you mean "admission.verify-clients"?`},
		{"listen: :443\n", "line 1: listen must be keys with values"},
		{"- a\n", "the file must be keys"},
		{"listen:\n  http-port: many\n", `derper.yaml:2: listen.http-port: "many": want a whole number`},
		{"limits: {node: fast}\n", "want a size such as"},
		{"limits: {node: [[1]]}\n", "want a list of words"},
		{"limits: {node: {rate: 1}}\n", "want a value or a list"},
		{"hostname: a\nhostname: b\n", "hostname"},
		{"a: [\n", "reading YAML"},
		{"hostname: a\n---\nhostname: b\n", "second document"},
		{"listen: {http-port: 70000}\n", "is not a port"},
		{"limits: {node-burst: 1MB}\n", "without -limit-node"},
	} {
		_, err := parseSettings([]string{"-config", configFile(t, tt.file)}, nil, io.Discard)
		if err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%q: got %v, want %q", tt.file, err, tt.want)
		}
	}
	if _, err := parseSettings([]string{"-config", "/nowhere"}, nil, io.Discard); err == nil || !strings.Contains(err.Error(), "-config") {
		t.Errorf("got %v for a file that is not there", err)
	}
}

func TestSizes(t *testing.T) {
	for text, want := range map[string]size{
		"0": 0, "1500": 1500, "10MB": 10e6, "10mb": 10e6, "1 MiB": 1 << 20, "1TiB": 1 << 40, "1.5k": 1500, "12.5MB/s": 12.5e6, "3B": 3, "2G": 2e9,
	} {
		var got size
		if err := got.Set(text); err != nil || got != want {
			t.Errorf("%s: got %d, %v, want %d", text, got, err, want)
		}
		var again size
		if err := again.Set(got.String()); err != nil || again != want {
			t.Errorf("%s, written as %s: got %d, %v, want %d", text, got.String(), again, err, want)
		}
	}
	for _, text := range []string{"", "MB", "-1", "10XB", "1e30", "NaN", "inf", "0x10", "9999999TiB"} {
		if err := new(size).Set(text); err == nil {
			t.Errorf("%q was taken for a size", text)
		}
	}
}

func TestMonthIsKept(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state", "month.json")
	at := time.Date(2026, 11, 30, 23, 0, 0, 0, time.UTC)
	if got, err := readMonth(path, at); got != 0 || err != nil {
		t.Errorf("got %d, %v before there is a file", got, err)
	}
	if err := derp.WriteMonth(path, at, 12345); err != nil {
		t.Fatal(err)
	}
	for later, want := range map[time.Duration]uint64{30 * time.Minute: 12345, 2 * time.Hour: 0} {
		if got, err := readMonth(path, at.Add(later)); got != want || err != nil {
			t.Errorf("after %v: got %d, %v, want %d", later, got, err, want)
		}
	}
	if err := os.WriteFile(path, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := readMonth(path, at); err == nil || !strings.Contains(err.Error(), "-limit-state") {
		t.Errorf("got %v for a broken file, want to be told which", err)
	}
}

func FuzzConfig(f *testing.F) {
	f.Add([]byte("hostname: 192.0.2.7\nlisten:\n  address: :12345\n"))
	f.Add([]byte("mesh: {mesh-with: [a, b]}\n"))
	f.Add([]byte("a: &x [*x]\n<<: *x\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		if len(text) > 4096 {
			t.Skip("long ones are only slow")
		}
		found, err := readConfig(text)
		if err != nil {
			return
		}
		for _, s := range found {
			if fileKey(s.flag) == "" {
				t.Fatalf("flag %q is not in the file", s.flag)
			}
		}
	})
}
