package derp_test

import (
	"context"
	"io"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	"tailscale.com/net/stun"
	"tailscale.com/types/key"

	"github.com/keelscale/keelscale/derp"
	"github.com/keelscale/keelscale/derp/derpmap"
)

// page is what the operator, or anybody, gets.
func page(t *testing.T, url string) (status int, body string) {
	t.Helper()
	res, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	text, err := io.ReadAll(io.LimitReader(res.Body, 1<<20))
	if err != nil {
		t.Fatal(err)
	}
	return res.StatusCode, string(text)
}

// scrape reads the metrics as Prometheus does.
func scrape(t *testing.T, b derp.Ports) map[string]*dto.MetricFamily {
	t.Helper()
	_, text := page(t, "http://"+b.Debug.String()+"/metrics")
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err := parser.TextToMetricFamilies(strings.NewReader(text))
	if err != nil {
		t.Fatalf("%v in\n%s", err, text)
	}
	return families
}

// value is that of a sample with the label value, which may be empty.
func value(f *dto.MetricFamily, labelled string) float64 {
	for _, m := range f.GetMetric() {
		found := labelled == ""
		for _, l := range m.GetLabel() {
			found = found || l.GetValue() == labelled
		}
		switch {
		case !found:
		case m.GetHistogram() != nil:
			return float64(m.GetHistogram().GetSampleCount())
		case m.GetCounter() != nil:
			return m.GetCounter().GetValue()
		default:
			return m.GetGauge().GetValue()
		}
	}
	return -1
}

func TestMetrics(t *testing.T) {
	stranger := key.NewNode()
	cert := openCert(t, derp.CertConfig{Mode: derp.SelfSigned, Hostname: "127.0.0.1", Dir: t.TempDir()})
	b, _ := start(t, derp.Config{Admit: allBut(stranger.Public()), Listen: derp.Listen{Addr: "127.0.0.1:0", Cert: cert, HTTPPort: -1, DebugAddr: "127.0.0.1:0"}})
	info := cert.Certificates()[0]
	node := nodeOf(b, info)
	a, z := regionClient(t, node, key.NewNode()), regionClient(t, node, key.NewNode())
	connect(t, a)
	connect(t, z)
	for range 20 {
		exchange(t, a, z, []byte("0123456789"))
	}
	if err := introduce(regionClient(t, node, stranger)); err == nil {
		t.Fatal("the stranger was admitted")
	}
	ask(t, stunClient(t, b), stun.Request(stun.NewTxID()))
	type sample struct {
		name, label string
		want        float64
	}
	samples := []sample{
		{"derp_current_connections", "", 2}, {"derp_clients_local", "", 2}, {"derp_accepts", "", 3},
		{"derp_handshakes", "admitted", 2}, {"derp_handshakes", "refused", 1}, {"derp_handshakes", "failed", 0},
		{"derp_packets_received", "", 20}, {"derp_bytes_received", "", 200}, {"derp_packets_sent", "", 20},
		{"derp_packets_dropped", "unknown_dest", 0}, {"derp_taking_clients", "", 1},
		{"derp_certificate_expiry_timestamp_seconds", "published", float64(info.Expires.Unix())},
		{"stun_requests", "success", 1}, {"stun_addrfamily", "ipv4", 1},
		{"derp_queue_age_seconds", "", 2}, // of twenty, one in eight
	}
	// A client hears how its handshake went before that is counted, and what it sent arrives before.
	got := scrape(t, b)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(patience); time.Now().Before(end); got = scrape(t, b) {
		if !slices.ContainsFunc(samples, func(s sample) bool { return value(got[s.name], s.label) != s.want }) {
			break
		}
		<-tick.C
	}
	for _, tt := range samples {
		if v := value(got[tt.name], tt.label); v != tt.want {
			t.Errorf("%s{%s}: got %v, want %v", tt.name, tt.label, v, tt.want)
		}
	}
	for _, name := range []string{"process_open_fds", "process_resident_memory_bytes", "go_goroutines", "go_memory_heap_objects_bytes"} {
		if v := value(got[name], ""); v < 1 {
			t.Errorf("%s: got %v", name, v)
		}
	}
}

func TestHealth(t *testing.T) {
	cert := openCert(t, derp.CertConfig{Mode: derp.SelfSigned, Hostname: "127.0.0.1", Dir: t.TempDir()})
	ready := make(chan derp.Ports, 1)
	r := newRelay(t, derp.Config{Listen: derp.Listen{Addr: "127.0.0.1:0", Cert: cert, STUNPort: -1, DebugAddr: "127.0.0.1:0", Ready: func(p derp.Ports) { ready <- p }}})
	done := make(chan error, 1)
	ctx, cancel := context.WithCancel(t.Context())
	go func() { done <- r.Run(ctx) }()
	b := <-ready
	for _, at := range []string{b.Debug.String(), b.HTTP.String()} {
		if status, body := page(t, "http://"+at+"/healthz"); status != 200 || body != "ok\n" {
			t.Errorf("%s: got %d %q, want ok", at, status, body)
		}
	}
	r.SetDraining(true)
	if status, body := page(t, "http://"+b.Debug.String()+"/healthz"); status != 503 || !strings.Contains(body, "draining") {
		t.Errorf("to the operator: got %d %q, want why it is not well", status, body)
	}
	if status, body := page(t, "http://"+b.HTTP.String()+"/healthz"); status != 503 || strings.Contains(body, "draining") {
		t.Errorf("to anybody: got %d %q, want only that it is not well", status, body)
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestStatusPage(t *testing.T) {
	cert := openCert(t, derp.CertConfig{Mode: derp.SelfSigned, Hostname: "127.0.0.1", Dir: t.TempDir()})
	quota := derp.Limits{MonthlyQuota: 1000, UsedThisMonth: 1500, Total: derp.Bound{Rate: 5e6}}
	b, _ := start(t, derp.Config{Limits: quota, Listen: derp.Listen{Addr: "127.0.0.1:0", Cert: cert, HTTPPort: -1, DebugAddr: "127.0.0.1:0",
		Notes: func() []derp.Note { return []derp.Note{{Name: "Enrolment", Text: "<home-1>", Bad: true}} }}})
	status, body := page(t, "http://"+b.Debug.String()+"/")
	for _, want := range []string{
		"needs attention", "the traffic of this month is used up", "1.5 kB of 1 kB (150 %)", "5 MB per second",
		cert.Pin(), cert.Expires().UTC().Format(time.DateOnly), b.Relay.String(), "&lt;home-1&gt;", "Nodes connected",
	} {
		if !strings.Contains(body, want) {
			t.Errorf("the page does not have %q", want)
		}
	}
	if status != 200 || strings.Contains(body, "<script") {
		t.Errorf("got %d, want a page without scripts", status)
	}
	if status, _ := page(t, "http://"+b.Debug.String()+"/nothing"); status != 404 {
		t.Errorf("got %d for a page that there is not", status)
	}
}

// nodeOf is the relay's entry in the DERP map.
func nodeOf(b derp.Ports, info derp.CertInfo) derpmap.Relay {
	n := derpmap.Relay{CertName: info.Pin, DERPPort: int(b.Relay.Port())}
	n.HostName, n.IPv4, n.IPv6 = info.Published(b.Relay.Addr().String(), netip.Addr{}, netip.Addr{})
	return n
}

// allBut admits everybody else.
func allBut(stranger key.NodePublic) derp.Admit {
	return func(_ context.Context, node key.NodePublic, _ netip.Addr) (bool, error) { return node != stranger, nil }
}

func stunClient(t *testing.T, b derp.Ports) *net.UDPConn {
	t.Helper()
	conn, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(b.STUN))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	conn.SetDeadline(time.Now().Add(patience))
	return conn
}
