package derp_test

import (
	"context"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"time"

	ts "tailscale.com/derp"
	"tailscale.com/derp/derphttp"
	"tailscale.com/net/netmon"
	"tailscale.com/net/stun"
	"tailscale.com/tailcfg"
	"tailscale.com/types/key"

	"github.com/keelscale/keelscale/derp"
	"github.com/keelscale/keelscale/derp/derpmap"
)

// start runs a relay on loopback and returns where it listens, and a function that ends it
// and returns what Run returned.
func start(t testing.TB, cfg derp.Config) (derp.Ports, func() error) {
	t.Helper()
	if cfg.Listen.Addr == "" {
		cfg.Listen.Addr = "127.0.0.1:0"
	}
	ready := make(chan derp.Ports, 1)
	cfg.Listen.Ready = func(b derp.Ports) { ready <- b }
	r := newRelay(t, cfg)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- r.Run(ctx) }()
	var result error
	ended := false
	end := func() error {
		cancel()
		if !ended {
			result, ended = <-done, true
		}
		return result
	}
	t.Cleanup(func() { end() })
	select {
	case b := <-ready:
		return b, end
	case err := <-done:
		ended = true
		t.Fatalf("Run: %v", err)
	}
	panic("unreachable")
}

// regionClient is a client that knows the relay from the DERP map, as real ones do.
func regionClient(t testing.TB, n derpmap.Relay, k key.NodePrivate) *derphttp.Client {
	t.Helper()
	n.RegionID = 900
	region, err := derpmap.Embedded(n)
	if err != nil {
		t.Fatal(err)
	}
	c := derphttp.NewRegionClient(k, t.Logf, netmon.NewStatic(), func() *tailcfg.DERPRegion { return region })
	t.Cleanup(func() { c.Close() })
	return c
}

func TestClientsTrustThePin(t *testing.T) {
	for _, tt := range []struct{ name, hostname, dial string }{
		{"by address", "127.0.0.1", "127.0.0.1"},
		{"by name", "relay.example.org", "relay.example.org"},
		{"without a hostname", "", "127.0.0.1"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			cert := openCert(t, derp.CertConfig{Mode: derp.SelfSigned, Hostname: tt.hostname, Dir: t.TempDir()})
			b, end := start(t, derp.Config{Listen: derp.Listen{Cert: cert, HTTPPort: -1, STUNPort: -1}})
			node := derpmap.Relay{HostName: tt.dial, IPv4: "127.0.0.1", DERPPort: int(b.Relay.Port()), CertName: cert.Pin()}
			a, z := regionClient(t, node, key.NewNode()), regionClient(t, node, key.NewNode())
			connect(t, a)
			connect(t, z)
			exchange(t, a, z, []byte("through TLS"))
			if cs, ok := a.TLSConnectionState(); !ok || len(cs.PeerCertificates) != 2 {
				t.Errorf("got %d certificates, want ours and the one with the relay's key", len(cs.PeerCertificates))
			}
			wrong := node
			wrong.CertName = "sha256-raw:" + strings.Repeat("ab", 32)
			if err := introduce(regionClient(t, wrong, key.NewNode())); err == nil || !strings.Contains(err.Error(), "hash") {
				t.Errorf("got %v with another pin, want a complaint about the hash", err)
			}
			if err := end(); err != nil {
				t.Errorf("Run: %v", err)
			}
		})
	}
}

func TestRunEndsWithClientsConnected(t *testing.T) {
	b, end := start(t, derp.Config{Listen: derp.Listen{HTTPPort: -1, STUNPort: -1}})
	c := newClient(t, "http://"+b.Relay.String()+"/derp", key.NewNode())
	connect(t, c)
	silent, err := net.Dial("tcp", b.Relay.String()) // a client that never says anything
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	began := time.Now()
	if err := end(); err != nil {
		t.Errorf("Run: %v", err)
	}
	if took := time.Since(began); took > 30*time.Second {
		t.Errorf("it took %v to end", took)
	}
	m, err := c.Recv()
	if _, told := m.(ts.ServerRestartingMessage); !told {
		t.Errorf("got %#v, %v, want to be told that the relay restarts", m, err)
	}
	if m, err := c.Recv(); err == nil {
		t.Errorf("got %#v: the connection survived", m)
	}
}

func TestRunOpensAllPorts(t *testing.T) {
	cert := openCert(t, derp.CertConfig{Mode: derp.SelfSigned, Hostname: "127.0.0.1", Dir: t.TempDir()})
	b, end := start(t, derp.Config{Listen: derp.Listen{Cert: cert, DebugAddr: "127.0.0.1:0", KeepAlive: time.Minute, UserTimeout: 15 * time.Second}})
	insecure := &http.Client{
		Transport:     &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	defer insecure.CloseIdleConnections()
	get := func(url string) (*http.Response, string) {
		res, err := insecure.Get(url)
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		body, _ := io.ReadAll(res.Body)
		return res, string(body)
	}
	if res, body := get("https://" + b.Relay.String() + "/"); res.StatusCode != 200 || !strings.Contains(body, "DERP") {
		t.Errorf("relay: got %s %q", res.Status, body)
	}
	if res, _ := get("http://" + b.HTTP.String() + "/generate_204"); res.StatusCode != 204 {
		t.Errorf("captive portal check: got %s", res.Status)
	}
	want := "https://" + b.Relay.String() + "/debug/?x=1"
	if res, _ := get("http://" + b.HTTP.String() + "/debug/?x=1"); res.Header.Get("Location") != want {
		t.Errorf("got a redirect to %q, want %q", res.Header.Get("Location"), want)
	}
	if res, body := get("http://" + b.Debug.String() + "/debug/vars"); res.StatusCode != 200 || !strings.Contains(body, "accepts") {
		t.Errorf("debug: got %s %.100q", res.Status, body)
	}
	conn, err := net.Dial("udp", b.STUN.String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(patience))
	if _, addr, err := stun.ParseResponse(ask(t, conn.(*net.UDPConn), stun.Request(stun.NewTxID()))); err != nil || addr.Port() == 0 {
		t.Errorf("STUN: got %v, %v", addr, err)
	}
	if err := end(); err != nil {
		t.Errorf("Run: %v", err)
	}
}

func TestRedirects(t *testing.T) {
	for _, tt := range []struct {
		port       uint16
		host, want string
	}{
		{443, "derp.example.org", "https://derp.example.org/x?y=1"},
		{443, "derp.example.org:80", "https://derp.example.org/x?y=1"},
		{12345, "derp.example.org:28080", "https://derp.example.org:12345/x?y=1"},
		{443, "[2001:db8::1]", "https://[2001:db8::1]/x?y=1"},
		{12345, "[2001:db8::1]:80", "https://[2001:db8::1]:12345/x?y=1"},
	} {
		if got := derp.RedirectOf(tt.port, tt.host, "/x?y=1"); got != tt.want {
			t.Errorf("%s to port %d: got %q, want %q", tt.host, tt.port, got, tt.want)
		}
	}
}

// A port that somebody else has is fatal only when there is no other way to a certificate.
func TestHTTPPortTaken(t *testing.T) {
	other, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	taken := int(netip.MustParseAddrPort(other.Addr().String()).Port())
	var log logBook
	own := openCert(t, derp.CertConfig{Mode: derp.SelfSigned, Hostname: "127.0.0.1", Dir: t.TempDir()})
	b, end := start(t, derp.Config{Log: log.logger(), Listen: derp.Listen{Cert: own, HTTPPort: taken, STUNPort: -1}})
	if b.HTTP.IsValid() || !strings.Contains(log.String(), "http port cannot be had") {
		t.Errorf("got %v for http, want none and a warning in the log:\n%s", b.HTTP, &log)
	}
	if err := end(); err != nil {
		t.Error(err)
	}
	acme := openCert(t, derp.CertConfig{Hostname: "derp.example.org", Dir: t.TempDir()})
	r := newRelay(t, derp.Config{Listen: derp.Listen{Addr: "127.0.0.1:0", Cert: acme, HTTPPort: taken, STUNPort: -1}})
	if err := r.Run(t.Context()); err == nil || !strings.Contains(err.Error(), "Let's Encrypt needs") {
		t.Errorf("got %v, want that Let's Encrypt needs the port", err)
	}
}

func TestRunRefusesAddresses(t *testing.T) {
	for _, addr := range []string{"", "443", "localhost", ":https", ":70000", "256.0.0.1:0"} {
		r := newRelay(t, derp.Config{Listen: derp.Listen{Addr: addr, HTTPPort: -1, STUNPort: -1}})
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		if err := r.Run(ctx); err == nil {
			t.Errorf("address %q was accepted", addr)
		}
		cancel()
	}
}

// cmd/derper exits when clients come faster than the limit. Here they wait.
func TestAcceptLimitSlowsDown(t *testing.T) {
	b, end := start(t, derp.Config{
		Limits: derp.Limits{ConnectionsPerSecond: 50, ConnectionBurst: 2},
		Listen: derp.Listen{HTTPPort: -1, STUNPort: -1},
	})
	began := time.Now()
	const clients = 12
	for range clients {
		connect(t, newClient(t, "http://"+b.Relay.String()+"/derp", key.NewNode()))
	}
	if took, least := time.Since(began), (clients-3)*time.Second/50; took < least {
		t.Errorf("%d clients came within %v, want at least %v", clients, took, least)
	}
	if err := end(); err != nil {
		t.Errorf("Run: %v", err)
	}
}
