package main

import (
	"errors"
	"flag"
	"io"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

// defaults are the settings of a root user who says nothing.
func defaults(t *testing.T, change func(*settings)) *settings {
	t.Helper()
	s, err := parseSettings(nil, []string{"STATE_DIRECTORY=/state"}, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	change(s)
	return s
}

func TestDefaults(t *testing.T) {
	s := defaults(t, func(*settings) {})
	for _, tt := range []struct {
		name      string
		got, want any
	}{
		{"-a", s.addr, ":443"}, {"-http-port", s.httpPort, 80}, {"-stun-port", s.stunPort, 3478}, {"-stun", s.stun, true}, {"-derp", s.derp, true},
		{"-c", s.keyPath, "/state/derper.key"}, {"-certdir", s.certDir, "/state/certs"}, {"-hostname", s.hostname, ""},
		{"-verify-clients", s.verifyClients, false}, {"-verify-client-url-fail-open", s.verifyFailOpen, false},
		{"-tcp-write-timeout", s.writeTimeout, 2 * time.Second}, {"-accept-connection-limit", s.acceptLimit, math.Inf(+1)},
	} {
		if tt.got != tt.want {
			t.Errorf("%s: got %v, want %v", tt.name, tt.got, tt.want)
		}
	}
}

func TestFlagsAndEnvironment(t *testing.T) {
	for _, tt := range []struct {
		name, args, env string
		want            func(*settings)
	}{
		{"one dash", "-hostname 192.0.2.7 -stun=false", "", func(s *settings) { s.hostname, s.stun = "192.0.2.7", false }},
		{"two dashes, as the guide has it", "--hostname=derp.example.org --a :12345 --http-port 33445 --certmode manual --certdir /app/certs", "", func(s *settings) {
			s.hostname, s.addr, s.httpPort, s.certMode, s.certDir = "derp.example.org", ":12345", 33445, "manual", "/app/certs"
		}},
		{"derper-docker", "", "DERP_DOMAIN=derp.example.org DERP_CERT_MODE=letsencrypt DERP_CERT_DIR=/app/certs DERP_ADDR=:443 DERP_STUN=true DERP_STUN_PORT=3479 DERP_HTTP_PORT=80 DERP_VERIFY_CLIENTS=false DERP_VERIFY_CLIENT_URL=", func(s *settings) {
			s.hostname, s.certMode, s.certDir, s.stunPort = "derp.example.org", "letsencrypt", "/app/certs", 3479
		}},
		{"ip_derper", "", "DERP_HOST=192.0.2.7 DERP_CERTS=/app/certs/ DERP_ADDR=:12345 DERP_HTTP_PORT=-1 DERP_STUN=1 DERP_VERIFY_CLIENTS=true", func(s *settings) {
			s.hostname, s.certDir, s.addr, s.httpPort, s.verifyClients = "192.0.2.7", "/app/certs/", ":12345", -1, true
		}},
		{"the verify URL", "", "DERP_VERIFY_CLIENT_URL=https://c.example/verify", func(s *settings) { s.verifyURL = "https://c.example/verify" }},
		{"any flag", "", "DERP_MESH_WITH=a,b DERP_TCP_WRITE_TIMEOUT=5s DERP_LOG_FORMAT=json DERP_ACCEPT_CONNECTION_LIMIT=10", func(s *settings) {
			s.meshWith, s.writeTimeout, s.logFormat, s.acceptLimit = "a,b", 5*time.Second, "json", 10
		}},
		{"flags win", "-hostname a.example", "DERP_HOST=b.example DERP_DOMAIN=c.example", func(s *settings) { s.hostname = "a.example" }},
		{"the same twice", "", "DERP_HOST=b.example DERP_DOMAIN=b.example", func(s *settings) { s.hostname = "b.example" }},
		{"others' variables", "", "DERP_SERVICE_HOST=10.0.0.1 DERP_PORT=tcp://10.0.0.1:443 DERP_PORT_3478_UDP_ADDR=10.0.0.1 DERP_DEBUG_LOGS=1 DERP_NAME=/app/derp DERP_VERSION=v1.2 DERPER_X=1 PATH=/bin", func(*settings) {}},
		{"enrolment", "--control http://192.0.2.1:8080 --enroll-key k", "DERP_REGION=home DERP_NAME=attic", func(s *settings) {
			s.control, s.enrollKey, s.region, s.regionCode, s.name = "http://192.0.2.1:8080", "k", "home", "home", "attic"
		}},
		{"an address by Let's Encrypt", "-acme-ip-certs -hostname 192.0.2.7", "", func(s *settings) {
			s.acmeIPCerts, s.certMode, s.hostname = true, "letsencrypt", "192.0.2.7"
		}},
		{"development", "-dev", "", func(s *settings) { s.dev, s.addr, s.keyPath, s.certMode = true, ":3340", "", certOff }},
		{"development elsewhere", "-dev -a :1 -c k", "", func(s *settings) { s.dev, s.addr, s.keyPath, s.certMode = true, ":1", "k", certOff }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			env := append(strings.Fields(tt.env), "STATE_DIRECTORY=/state")
			got, err := parseSettings(strings.Fields(tt.args), env, io.Discard)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(defaults(t, tt.want), got, cmp.AllowUnexported(settings{}), cmpopts.IgnoreFields(settings{}, "values")); diff != "" {
				t.Errorf("settings (-want +got):\n%s", diff)
			}
		})
	}
}

func TestRefused(t *testing.T) {
	for _, tt := range []struct{ args, env, want string }{
		{"-hostnam x", "", `unknown flag -hostnam (did you mean "hostname"?)`},
		{"-quiet", "", "unknown flag -quiet; derper -h"},
		{"serve", "", `unexpected argument "serve"`},
		{"-ace", "", "-ace: the ACE proxy"},
		{"-secrets-url https://x", "", "-mesh-psk-file"},
		{"-acme-eab-kid x", "", "not supported"},
		{"-certmode gcp", "", "not supported"},
		{"", "DERP_ACE=1", "-ace: the ACE proxy"},
		{"", "DERP_VERIFY_CLIENT=true", `unknown environment variable DERP_VERIFY_CLIENT (did you mean "DERP_VERIFY_CLIENTS"?)`},
		{"", "DERP_STUN=perhaps", `DERP_STUN="perhaps" (flag -stun): want true or false`},
		{"", "DERP_HTTP_PORT=http", "want a whole number"},
		{"", "DERP_TCP_KEEPALIVE_TIME=5", "want a time"},
		{"", "DERP_HOST=a DERP_DOMAIN=b", "different values"},
		{"-http-port 70000", "", "is not a port"},
		{"-stun-port -5", "", "is not a port"},
		{"-verify-client-url-fail-open", "", "without -verify-client-url"},
		{"-accept-connection-limit 0", "", "more than 0"},
		{"-accept-connection-burst 0", "", "at least 1"},
		{"-enroll-key k", "", "without -control"},
		{"-log-format xml", "", "neither text nor json"},
		{"-log-level loud", "", "not one of debug"},
		{"-cert-validity 1s", "", "at least an hour"},
		{"-unpublished-bootstrap-dns-names a/b", "", "give the names alone"},
	} {
		_, err := parseSettings(strings.Fields(tt.args), strings.Fields(tt.env), io.Discard)
		if err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s %s: got %v, want %q", tt.env, tt.args, err, tt.want)
		}
	}
}

func TestUsageTellsOfEveryFlag(t *testing.T) {
	var out strings.Builder
	if _, err := parseSettings([]string{"-h"}, nil, &out); !errors.Is(err, flag.ErrHelp) {
		t.Fatalf("got %v, want help", err)
	}
	for _, want := range []string{"-hostname", "DERP_DOMAIN", "DERP_VERIFY_CLIENT_URL", "-mesh-psk-file", "cmd/derper this is on by default"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("the usage does not have %q", want)
		}
	}
	if strings.Contains(out.String(), "-ace") {
		t.Error("the usage tells of a flag that is refused")
	}
}

func TestStateDirs(t *testing.T) {
	got := findStateDirs([]string{"STATE_DIRECTORY=/var/lib/private/derper:/x", "HOME=/home/u"})
	want := stateDirs{key: "/var/lib/private/derper/derper.key", certs: "/var/lib/private/derper/certs", enrolment: "/var/lib/private/derper/enrolment.json", month: "/var/lib/private/derper/month.json"}
	if got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
}
