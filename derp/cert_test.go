package derp_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/keelscale/keelscale/derp"
)

// clock is a time that the test sets.
type clock struct{ at time.Time }

func (c *clock) now() time.Time { return c.at }

func openCert(t testing.TB, cfg derp.CertConfig) *derp.Cert {
	t.Helper()
	if cfg.Log == nil {
		cfg.Log = quiet()
	}
	c, err := derp.OpenCert(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// handshake is the certificate that a client gets who asks for name.
func handshake(c *derp.Cert, name string) (*x509.Certificate, error) {
	cert, err := c.TLSConfig().GetCertificate(&tls.ClientHelloInfo{ServerName: name})
	if err != nil {
		return nil, err
	}
	return x509.ParseCertificate(cert.Certificate[0])
}

func mustHandshake(t testing.TB, c *derp.Cert, name string) *x509.Certificate {
	t.Helper()
	leaf, err := handshake(c, name)
	if err != nil {
		t.Fatalf("handshake for %q: %v", name, err)
	}
	return leaf
}

func TestSelfSigned(t *testing.T) {
	for _, tt := range []struct {
		name, hostname, file string
		addrs                []netip.Addr
		good, refused        []string // names to ask for
		san                  []string // what the certificate is good for
	}{
		{name: "IPv4", hostname: "192.0.2.7", file: "192.0.2.7.crt", good: []string{"", "example.org"}, san: []string{"192.0.2.7"}},
		{name: "IPv6", hostname: "[2001:db8::7]", file: "2001-db8--7.crt", good: []string{""}, san: []string{"2001:db8::7"}},
		{name: "name", hostname: "Derp.example.org.", file: "Derp.example.org.crt", good: []string{"derp.example.org", "DERP.EXAMPLE.ORG"}, refused: []string{"", "example.org"}, san: []string{"derp.example.org"}},
		{name: "none", file: "selfsigned.crt", addrs: []netip.Addr{netip.MustParseAddr("192.0.2.8"), netip.MustParseAddr("2001:db8::8")}, good: []string{""}, san: []string{"192.0.2.8", "2001:db8::8"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "certs")
			now := &clock{time.Now()}
			cfg := derp.CertConfig{Mode: derp.SelfSigned, Hostname: tt.hostname, Dir: dir, Addrs: tt.addrs, Now: now.now}
			c := openCert(t, cfg)
			for _, name := range tt.good {
				leaf := mustHandshake(t, c, name)
				for _, san := range tt.san {
					if err := leaf.VerifyHostname(san); err != nil {
						t.Errorf("certificate for %q: %v", name, err)
					}
				}
				if len(leaf.DNSNames)+len(leaf.IPAddresses) != len(tt.san)+1 { // and the certificate's own

					t.Errorf("got names %v and %v, want %v", leaf.DNSNames, leaf.IPAddresses, tt.san)
				}
				if leaf.PublicKeyAlgorithm != x509.ECDSA || leaf.IsCA {
					t.Errorf("got a certificate of %v, CA %v, want ECDSA for a server", leaf.PublicKeyAlgorithm, leaf.IsCA)
				}
				if life := leaf.NotAfter.Sub(now.at).Round(time.Hour); life != 365*24*time.Hour {
					t.Errorf("it is valid for %v, want a year", life)
				}
			}
			for _, name := range tt.refused {
				if _, err := handshake(c, name); err == nil {
					t.Errorf("a client that asked for %q was served", name)
				}
			}
			for _, file := range []string{tt.file, strings.TrimSuffix(tt.file, "crt") + "key"} {
				info, err := os.Stat(filepath.Join(dir, file))
				if err != nil {
					t.Fatal(err)
				}
				if info.Mode() != 0o600 {
					t.Errorf("%s has mode %v, want 0600", file, info.Mode())
				}
			}
			if again := openCert(t, cfg); again.Pin() != c.Pin() {
				t.Errorf("after a restart the pin is %s, want %s", again.Pin(), c.Pin())
			}
			if !strings.HasPrefix(c.Pin(), "sha256-raw:") || len(c.Pin()) != len("sha256-raw:")+64 {
				t.Errorf("got pin %q", c.Pin())
			}
		})
	}
}

func TestSelfSignedSaysWhenItsFilesAreBroken(t *testing.T) {
	dir := t.TempDir()
	cfg := derp.CertConfig{Mode: derp.SelfSigned, Hostname: "192.0.2.7", Dir: dir, Log: quiet()}
	pin := openCert(t, cfg).Pin()
	if err := os.WriteFile(filepath.Join(dir, "192.0.2.7.crt"), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := derp.OpenCert(cfg); err == nil || !strings.Contains(err.Error(), "remove both files") {
		t.Errorf("got %v, want a hint", err)
	}
	if err := os.Remove(filepath.Join(dir, "192.0.2.7.crt")); err != nil {
		t.Fatal(err)
	}
	if openCert(t, cfg).Pin() == pin {
		t.Error("the pin is the same without its file")
	}
}

func TestModeFollowsFromTheHostname(t *testing.T) {
	for _, tt := range []struct{ mode, hostname, want, err string }{
		{"", "", derp.SelfSigned, ""},
		{"", "192.0.2.1", derp.SelfSigned, ""},
		{"", "[2001:db8::1]", derp.SelfSigned, ""},
		{"", "derp.example.org", derp.LetsEncrypt, ""},
		{derp.Manual, "192.0.2.1", derp.SelfSigned, ""},
		{derp.Manual, "2001:db8::1", derp.SelfSigned, ""},
		{derp.Manual, "derp.example.org", "", "looking for the certificate"},
		{derp.Manual, "", "", "needs a hostname"},
		{derp.LetsEncrypt, "192.168.2.1", "", "use -certmode selfsigned"},
		{derp.LetsEncrypt, "192.0.2.1", derp.LetsEncrypt, ""},
		{derp.LetsEncrypt, "", "", "needs a hostname"},
		{derp.LetsEncrypt, "localhost", "", "not a full domain name"},
		{"magic", "derp.example.org", "", "is not one of"},
		{"", "https://derp.example.org", "", "neither a host name nor an IP address"},
		{"", "derp.example.org:443", "", "neither a host name nor an IP address"},
		{"", "../etc/passwd", "", "neither a host name nor an IP address"},
	} {
		c, err := derp.OpenCert(derp.CertConfig{Mode: tt.mode, Hostname: tt.hostname, Dir: t.TempDir(), Log: quiet()})
		switch {
		case tt.err != "":
			if err == nil || !strings.Contains(err.Error(), tt.err) {
				t.Errorf("%q for %q: got %v, want %q", tt.mode, tt.hostname, err, tt.err)
			}
		case err != nil:
			t.Errorf("%q for %q: %v", tt.mode, tt.hostname, err)
		case c.Mode() != tt.want:
			t.Errorf("%q for %q: got %s, want %s", tt.mode, tt.hostname, c.Mode(), tt.want)
		}
	}
}

func TestACMEChallengesAreOurs(t *testing.T) {
	c := openCert(t, derp.CertConfig{Hostname: "derp.example.org", Dir: t.TempDir()})
	next := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusTeapot) })
	for _, tt := range []struct {
		host, path string
		want       int
	}{
		{"derp.example.org", "/.well-known/acme-challenge/unknown", http.StatusNotFound},
		{"derp.example.org:80", "/.well-known/acme-challenge/unknown", http.StatusNotFound},
		{"other.example.org", "/.well-known/acme-challenge/unknown", http.StatusForbidden},
		{"derp.example.org", "/x", http.StatusTeapot},
	} {
		req := httptest.NewRequest("GET", tt.path, nil)
		req.Host = tt.host
		w := httptest.NewRecorder()
		c.HTTPHandler(next).ServeHTTP(w, req)
		if w.Code != tt.want {
			t.Errorf("%s%s: got %d, want %d", tt.host, tt.path, w.Code, tt.want)
		}
	}
	if c.Pin() != "" || !c.Expires().IsZero() {
		t.Errorf("got pin %q until %v before there is a certificate", c.Pin(), c.Expires())
	}
}

// makePair puts a pair for host into dir under another name.
func makePair(t testing.TB, host, dir, base string) string {
	t.Helper()
	tmp := t.TempDir()
	c := openCert(t, derp.CertConfig{Mode: derp.SelfSigned, Hostname: host, Dir: tmp})
	for _, ext := range []string{".crt", ".key"} {
		moveFile(t, filepath.Join(tmp, host+ext), filepath.Join(dir, base+ext))
	}
	return c.Pin()
}

func moveFile(t testing.TB, from, to string) {
	t.Helper()
	if err := os.Rename(from, to); err != nil {
		t.Fatal(err)
	}
}

func TestManualFollowsItsFiles(t *testing.T) {
	dir, next := t.TempDir(), t.TempDir()
	first := makePair(t, "derp.example.org", dir, "derp.example.org")
	changes := make(chan string, 4)
	var c *derp.Cert
	c = openCert(t, derp.CertConfig{Mode: derp.Manual, Hostname: "derp.example.org", Dir: dir, Changed: func() { changes <- c.Pin() }})
	if c.Pin() != first {
		t.Fatalf("got pin %s, want %s", c.Pin(), first)
	}
	for _, name := range []string{"", "example.org"} {
		if _, err := handshake(c, name); err == nil {
			t.Errorf("a client that asked for %q was served", name)
		}
	}
	second := makePair(t, "derp.example.org", next, "derp.example.org")
	// One file after the other, as certbot's hooks and people do it.
	moveFile(t, filepath.Join(next, "derp.example.org.crt"), filepath.Join(dir, "derp.example.org.crt"))
	if err := c.Reload(); err == nil {
		t.Error("half of a new pair was accepted")
	}
	mustHandshake(t, c, "derp.example.org")
	if c.Pin() != first {
		t.Error("the old certificate did not stay")
	}
	moveFile(t, filepath.Join(next, "derp.example.org.key"), filepath.Join(dir, "derp.example.org.key"))
	if err := c.Reload(); err != nil {
		t.Fatal(err)
	}
	if c.Pin() != second || <-changes != second {
		t.Errorf("got pin %s, want %s, and to be told", c.Pin(), second)
	}
}

func TestRunFollowsTheFiles(t *testing.T) {
	dir := t.TempDir()
	makePair(t, "derp.example.org", dir, "derp.example.org")
	synctest.Test(t, func(t *testing.T) {
		c := openCert(t, derp.CertConfig{Mode: derp.Manual, Hostname: "derp.example.org", Dir: dir})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- c.Run(ctx) }()
		want := makePair(t, "derp.example.org", dir, "derp.example.org")
		time.Sleep(11 * time.Second) // of the bubble's time
		synctest.Wait()
		if c.Pin() != want {
			t.Errorf("after eleven seconds the pin is %s, want %s", c.Pin(), want)
		}
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
}

func TestManualFileNames(t *testing.T) {
	for _, tt := range []struct{ hostname, base string }{
		{"192.0.2.7", "192.0.2.7"},
		{"2001:db8::7", "2001-db8--7"},
		{"[2001:db8::7]", "2001:db8::7"},
		{"2001:db8::7", "2001db87"}, // as cmd/derper wrote it
	} {
		dir := t.TempDir()
		pin := makePair(t, "198.51.100.1", dir, tt.base)
		c := openCert(t, derp.CertConfig{Mode: derp.Manual, Hostname: tt.hostname, Dir: dir})
		if c.Mode() != derp.Manual || c.Pin() != pin {
			t.Errorf("%s in %s: got mode %s and pin %s, want %s", tt.hostname, tt.base, c.Mode(), c.Pin(), pin)
		}
		for _, name := range []string{"", "anything.example"} {
			mustHandshake(t, c, name)
		}
	}
}

func TestIsPublic(t *testing.T) {
	for addr, want := range map[string]bool{
		"203.0.113.5": true, "2001:db8::1": true, "10.0.0.1": false, "192.168.1.1": false, "100.64.0.1": false,
		"fd7a:115c:a1e0::1": false, "127.0.0.1": false, "169.254.1.1": false, "fe80::1": false,
	} {
		if got := derp.IsPublic(netip.MustParseAddr(addr)); got != want {
			t.Errorf("IsPublic(%s): got %v, want %v", addr, got, want)
		}
	}
}
