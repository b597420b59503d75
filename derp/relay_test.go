package derp_test

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	ts "tailscale.com/derp"
	"tailscale.com/derp/derphttp"
	"tailscale.com/net/netmon"
	"tailscale.com/types/key"

	"github.com/keelscale/keelscale/derp"
)

// patience bounds what a test waits for; nothing waits that long unless it is broken.
const patience = 2 * time.Minute

// logBook is a log that a test can read while it is written.
type logBook struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *logBook) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *logBook) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

func (b *logBook) logger() *slog.Logger { return slog.New(slog.NewTextHandler(b, nil)) }

func quiet() *slog.Logger { return slog.New(slog.NewTextHandler(io.Discard, nil)) }

// newRelay is a relay that is closed at the end of the test.
func newRelay(t testing.TB, cfg derp.Config) *derp.Relay {
	t.Helper()
	if cfg.Key.IsZero() {
		cfg.Key = key.NewNode()
	}
	if cfg.Log == nil {
		cfg.Log = quiet()
	}
	r, err := derp.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close() })
	return r
}

// serve puts a relay behind a plain HTTP server and returns its /derp URL.
func serve(t testing.TB, r *derp.Relay) string {
	t.Helper()
	srv := httptest.NewServer(r.Handler())
	t.Cleanup(srv.Close)
	t.Cleanup(func() { r.Close() }) // first, or the server waits for its clients
	return srv.URL + "/derp"
}

func newClient(t testing.TB, url string, k key.NodePrivate) *derphttp.Client {
	t.Helper()
	c, err := derphttp.NewClient(k, url, t.Logf, netmon.NewStatic())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func connect(t testing.TB, c *derphttp.Client) {
	t.Helper()
	if err := introduce(c); err != nil {
		t.Fatalf("connecting: %v", err)
	}
}

// introduce connects and waits for the relay's welcome, which only the admitted get.
func introduce(c *derphttp.Client) error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := c.Connect(ctx); err != nil {
		return err
	}
	_, err := c.Recv()
	return err
}

// exchange sends one packet from a to b and expects it to arrive as it was sent.
func exchange(t testing.TB, a, b *derphttp.Client, payload []byte) {
	t.Helper()
	if err := a.Send(b.SelfPublicKey(), payload); err != nil {
		t.Fatalf("sending: %v", err)
	}
	for {
		m, err := b.Recv()
		if err != nil {
			t.Fatalf("receiving: %v", err)
		}
		if p, ok := m.(ts.ReceivedPacket); ok {
			if p.Source != a.SelfPublicKey() || !bytes.Equal(p.Data, payload) {
				t.Fatalf("got %d bytes from %v, want %d from %v", len(p.Data), p.Source, len(payload), a.SelfPublicKey())
			}
			return
		}
	}
}

func TestRelayCarriesPackets(t *testing.T) {
	url := serve(t, newRelay(t, derp.Config{}))
	a, b := newClient(t, url, key.NewNode()), newClient(t, url, key.NewNode())
	connect(t, a)
	connect(t, b)
	exchange(t, a, b, []byte("hello"))
	exchange(t, b, a, bytes.Repeat([]byte("x"), ts.MaxPacketSize))
	exchange(t, a, b, nil)
}

func TestAdmission(t *testing.T) {
	member := key.NewNode()
	var log logBook
	var seen sync.Map
	admit := func(_ context.Context, node key.NodePublic, source netip.Addr) (bool, error) {
		seen.Store(node, source)
		return node == member.Public(), nil
	}
	url := serve(t, newRelay(t, derp.Config{Admit: admit, Log: log.logger()}))
	connect(t, newClient(t, url, member))
	if source, _ := seen.Load(member.Public()); source != netip.MustParseAddr("127.0.0.1") {
		t.Errorf("got source %v, want 127.0.0.1", source)
	}
	stranger := key.NewNode()
	if err := introduce(newClient(t, url, stranger)); err == nil {
		t.Fatal("a stranger was admitted")
	}
	waitFor(t, "the refusal in the log", func() bool {
		return strings.Contains(log.String(), "client refused") && strings.Contains(log.String(), stranger.Public().String())
	})
}

func TestRateIsBoundedAndCanChange(t *testing.T) {
	h, r := hallOf(t, derp.Config{Limits: derp.Limits{Node: derp.Each(derp.Bound{Rate: 100_000})}})
	a, b := h.node(t), h.node(t)
	if took := rushed(t, a, b, 4); took < time.Second { // the first fits into the burst, the last is waited for afterwards
		t.Errorf("four packets of 60 kB took %v at 100 kB/s", took)
	}
	r.SetLimits(derp.Limits{})
	a.expect(ts.FrameServerInfo)
	b.expect(ts.FrameServerInfo)
	if took := rushed(t, a, b, many); took > unbounded {
		t.Errorf("%d packets of 60 kB took %v without a bound", many, took)
	}
}

// waitFor polls what has no event to wait for, such as a line in a log.
func waitFor(t testing.TB, what string, ok func() bool) {
	t.Helper()
	deadline := time.After(patience)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-deadline:
			t.Fatalf("waited in vain for %s", what)
		case <-tick.C:
		}
	}
}
