package derp_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"tailscale.com/types/key"

	"github.com/keelscale/keelscale/derp"
	"github.com/keelscale/keelscale/derp/derpmap"
)

const day = 24 * time.Hour

// lockedClock is a clock that the relay reads while the test sets it.
type lockedClock struct {
	mu sync.Mutex
	at time.Time
}

func (c *lockedClock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.at
}

func (c *lockedClock) add(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.at = c.at.Add(d)
}

// rotating is a relay with a self-signed certificate, and a clock.
type rotating struct {
	*derp.Cert
	clock *lockedClock
	cfg   derp.CertConfig
	port  int // of the relay
	told  int // calls of Changed
}

func newRotating(t *testing.T, hostname string, validity time.Duration) *rotating {
	r := &rotating{clock: &lockedClock{at: time.Now()}}
	r.cfg = derp.CertConfig{Mode: derp.SelfSigned, Hostname: hostname, Dir: t.TempDir(), Validity: validity, Now: r.clock.now, Changed: func() { r.told++ }}
	r.Cert = openCert(t, r.cfg)
	b, _ := start(t, derp.Config{Listen: derp.Listen{Cert: r.Cert, HTTPPort: -1, STUNPort: -1}})
	r.port = int(b.Relay.Port())
	return r
}

// pass lets time go by, and the certificate notice.
func (r *rotating) pass(t *testing.T, d time.Duration) {
	t.Helper()
	r.clock.add(d)
	if err := r.Reload(); err != nil {
		t.Fatal(err)
	}
}

// entry is what the DERP map says now. Names lead to loopback here, as the DNS would.
func (r *rotating) entry() derpmap.Relay {
	info := r.Certificates()[0]
	n := derpmap.Relay{CertName: info.Pin, DERPPort: r.port}
	n.HostName, n.IPv4, n.IPv6 = info.Published(r.cfg.Hostname, netip.Addr{}, netip.Addr{})
	if n.IPv4 == "" {
		n.IPv4 = "127.0.0.1"
	}
	return n
}

func reaches(t *testing.T, n derpmap.Relay) error {
	return introduce(regionClient(t, n, key.NewNode()))
}

// A client with the old DERP map and one with the new both find a relay that they trust, from
// the moment that there is a new one until the old one ends.
func TestRotationLeavesNobodyBehind(t *testing.T) {
	for _, hostname := range []string{"127.0.0.1", "home.example.net"} {
		t.Run(hostname, func(t *testing.T) {
			// All within a day: the clients' clock stands still, and new certificates are
			// good for it as their time begins a day early.
			r := newRotating(t, hostname, 10*time.Hour)
			entries := []derpmap.Relay{r.entry()}
			for _, step := range []struct {
				after time.Duration
				serve int // how many certificates
				fresh bool
			}{
				{8 * time.Hour, 1, false},
				{90 * time.Minute, 2, true}, // the last tenth
				{25 * time.Minute, 2, false},
				{10 * time.Minute, 1, false}, // past the end
				{9 * time.Hour, 2, true},
				{time.Hour, 1, false},
			} {
				told := r.told
				r.pass(t, step.after)
				last := entries[len(entries)-1]
				if fresh := r.entry().CertName != last.CertName; fresh != step.fresh {
					t.Fatalf("after %v: another certificate is published: got %v, want %v", step.after, fresh, step.fresh)
				}
				if r.entry() != last {
					entries = append(entries, r.entry())
				}
				list := r.Certificates()
				if len(list) != step.serve {
					t.Fatalf("after %v: got %d certificates, want %d", step.after, len(list), step.serve)
				}
				if r.told > told+1 || r.told == told && step.fresh {
					t.Errorf("after %v: told %d times", step.after, r.told-told)
				}
				for _, n := range entries {
					served := slices.ContainsFunc(list, func(i derp.CertInfo) bool { return i.Pin == n.CertName })
					if err := reaches(t, n); (err == nil) != served {
						t.Errorf("after %v: a client that knows %s, %.20s: got %v, want that it is served: %v", step.after, n.HostName, n.CertName, err, served)
					}
				}
				again := openCert(t, r.cfg)
				if got, want := again.Certificates(), list; len(got) != len(want) || got[0] != want[0] {
					t.Errorf("after a restart: got %v, want %v", got, want)
				}
			}
			files, _ := filepath.Glob(filepath.Join(r.cfg.Dir, "*"))
			if len(files) != 2 {
				t.Errorf("got the files %v, want only those of the last certificate", files)
			}
		})
	}
}

// Without SNI, and for the plain name, the old certificate is served until its end: so do
// those ask whose DERP map is from before there were names.
func TestRotationOfAnOlderCertificate(t *testing.T) {
	r := &rotating{clock: &lockedClock{at: time.Now()}}
	dir := t.TempDir()
	storePlainPair(t, filepath.Join(dir, "127.0.0.1"), r.clock.at.Add(2*time.Hour))
	r.cfg = derp.CertConfig{Mode: derp.SelfSigned, Hostname: "127.0.0.1", Dir: dir, Validity: 10 * time.Hour, Now: r.clock.now}
	r.Cert = openCert(t, r.cfg)
	b, _ := start(t, derp.Config{Listen: derp.Listen{Cert: r.Cert, HTTPPort: -1, STUNPort: -1}})
	r.port = int(b.Relay.Port())
	old := r.entry()
	if info := r.Certificates()[0]; info.Name != "" || old.HostName != "127.0.0.1" {
		t.Fatalf("got %v published as %s, want a nameless one, published as before", info, old.HostName)
	}
	r.pass(t, 90*time.Minute)
	next := r.entry()
	if !strings.HasSuffix(next.HostName, ".relay.invalid") || next.IPv4 != "127.0.0.1" || next.IPv6 != "none" {
		t.Fatalf("got the next entry %+v, want one with a name of its own", next)
	}
	for _, n := range []derpmap.Relay{old, next} {
		if err := reaches(t, n); err != nil {
			t.Errorf("a client that knows %s: %v", n.HostName, err)
		}
	}
	r.pass(t, time.Hour)
	if err := reaches(t, next); err != nil {
		t.Error(err)
	}
	if err := reaches(t, old); err == nil {
		t.Error("the old certificate is served after its end")
	}
}

// storePlainPair puts a certificate into base.crt and .key as they were made before there were
// names, and as ip_derper makes them.
func storePlainPair(t *testing.T, base string, end time.Time) {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1),
		Subject:      pkix.Name{CommonName: filepath.Base(base)},
		NotBefore:    end.Add(-365 * day),
		NotAfter:     end,
		IPAddresses:  []net.IP{net.ParseIP(filepath.Base(base))},
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, k.Public(), k)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		t.Fatal(err)
	}
	for ext, b := range map[string]*pem.Block{".crt": {Type: "CERTIFICATE", Bytes: der}, ".key": {Type: "PRIVATE KEY", Bytes: keyDER}} {
		if err := os.WriteFile(base+ext, pem.EncodeToMemory(b), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// -certmode manual with an address and no files makes some; after a restart they are still
// ours to renew, while files of somebody else's are left alone.
func TestManualAddressStaysOurs(t *testing.T) {
	dir := t.TempDir()
	cfg := derp.CertConfig{Mode: derp.Manual, Hostname: "192.0.2.7", Dir: dir}
	for range 2 {
		if got := openCert(t, cfg).Mode(); got != derp.SelfSigned {
			t.Errorf("got mode %s for our own files, want %s", got, derp.SelfSigned)
		}
	}
	storePlainPair(t, filepath.Join(dir, "192.0.2.7"), time.Now().Add(day))
	if got := openCert(t, cfg).Mode(); got != derp.Manual {
		t.Errorf("got mode %s for somebody's files, want %s", got, derp.Manual)
	}
}

func TestSelfSignedIsRenewedAMonthEarly(t *testing.T) {
	now := &lockedClock{at: time.Now()}
	told := 0
	c := openCert(t, derp.CertConfig{Hostname: "192.0.2.7", Dir: t.TempDir(), Now: now.now, Changed: func() { told++ }})
	for _, tt := range []struct {
		after time.Duration
		serve int
		told  int
	}{{day, 1, 0}, {333 * day, 1, 0}, {2 * day, 2, 1}, {day, 2, 1}, {29 * day, 1, 2}, {800 * day, 1, 3}} {
		now.add(tt.after)
		if err := c.Reload(); err != nil {
			t.Fatal(err)
		}
		if got := len(c.Certificates()); got != tt.serve || told != tt.told {
			t.Errorf("on %s: got %d certificates and %d changes, want %d and %d", now.now().Format(time.DateOnly), got, told, tt.serve, tt.told)
		}
		if leaf := mustHandshake(t, c, ""); now.now().After(leaf.NotAfter) {
			t.Errorf("on %v the certificate of %v is served", now.now(), leaf.NotAfter)
		}
	}
}

func TestPublished(t *testing.T) {
	named := derp.CertInfo{Name: "r-0123456789ab.relay.invalid", Pin: "sha256-raw:00"}
	spelled := derp.CertInfo{Name: named.Name, Host: "Home.example.net", Pin: named.Pin}
	v4, v6 := netip.MustParseAddr("192.0.2.7"), netip.MustParseAddr("2001:db8::7")
	var none netip.Addr
	for _, tt := range []struct {
		info     derp.CertInfo
		hostname string
		v4, v6   netip.Addr
		want     [3]string
	}{
		{named, "192.0.2.7", none, none, [3]string{named.Name, "192.0.2.7", "none"}},
		{named, "[2001:db8::7]", none, none, [3]string{named.Name, "none", "2001:db8::7"}},
		{named, "192.0.2.7", v4, v6, [3]string{named.Name, "192.0.2.7", "2001:db8::7"}},
		{spelled, "home.example.net", none, none, [3]string{"Home.example.net", "", ""}},
		{spelled, "home.example.net", v4, none, [3]string{named.Name, "192.0.2.7", "none"}},
		{derp.CertInfo{Pin: "sha256-raw:00"}, "192.0.2.7", none, none, [3]string{"192.0.2.7", "192.0.2.7", "none"}},
		{derp.CertInfo{}, "derp.example.org", v4, none, [3]string{"derp.example.org", "192.0.2.7", ""}},
		{derp.CertInfo{Host: "derp.example.org"}, "derp.example.org", none, none, [3]string{"derp.example.org", "", ""}},
	} {
		var got [3]string
		if got[0], got[1], got[2] = tt.info.Published(tt.hostname, tt.v4, tt.v6); got != tt.want {
			t.Errorf("%+v as %s, %v, %v: got %v, want %v", tt.info, tt.hostname, tt.v4, tt.v6, got, tt.want)
		}
	}
}
