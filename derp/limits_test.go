package derp_test

import (
	"bytes"
	"context"
	"encoding/json"
	"net/http"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	ts "tailscale.com/derp"
	"tailscale.com/types/key"

	"github.com/keelscale/keelscale/derp"
)

// hallOf is a relay of ours that tests speak to in frames.
func hallOf(t testing.TB, cfg derp.Config) (hall, *derp.Relay) {
	t.Helper()
	r := newRelay(t, cfg)
	return hall{serve(t, r), r.PublicKey()}, r
}

// rushed is how long a sends n packets of 60 kB to b.
func rushed(t *testing.T, a, b *raw, n int) time.Duration {
	t.Helper()
	began := time.Now()
	for i := range n {
		payload := bytes.Repeat([]byte{byte(i)}, 60_000)
		a.send(ts.FrameSendPacket, b.raw(), payload)
		b.expectPacket(a, payload)
	}
	return time.Since(began)
}

// So many packets take a minute at 200 kB/s. Without a bound they take a moment, also on a machine that is busy.
const (
	many      = 200
	unbounded = 30 * time.Second
)

func TestNodesHaveBoundsOfTheirOwn(t *testing.T) {
	slow := key.NewNode()
	h, r := hallOf(t, derp.Config{Limits: derp.Limits{Node: func(k key.NodePublic) derp.Bound {
		if k == slow.Public() {
			return derp.Bound{Rate: 200_000}
		}
		return derp.Bound{}
	}}})
	one, two := enter(t, h.url, h.self, slow, false), enter(t, h.url, h.self, slow, false)
	free, to := h.node(t), h.node(t)
	if took := rushed(t, free, to, many); took > unbounded {
		t.Errorf("who has no bound took %v", took)
	}
	// Four packets of 60 kB at 200 kB/s, of which one is the burst; the last is paid afterwards.
	// Both connections of the node have the bound together.
	began := time.Now()
	rushed(t, one, to, 2)
	rushed(t, two, to, 2)
	if took := time.Since(began); took < 500*time.Millisecond {
		t.Errorf("the bounded node took %v by two connections", took)
	}
	// Nor does it help to come back.
	one.conn.Close()
	two.conn.Close()
	to.expect(ts.FramePeerGone)
	one = enter(t, h.url, h.self, slow, false)
	if took := rushed(t, one, to, 4); took < 500*time.Millisecond {
		t.Errorf("the bounded node took %v when it came back", took)
	}
	r.SetLimits(derp.Limits{})
	one.expect(ts.FrameServerInfo)
	if took := rushed(t, one, to, many); took > unbounded {
		t.Errorf("it took %v when the bound was gone", took)
	}
}

func TestTotalIsSharedAndMeshIsExempt(t *testing.T) {
	h, _ := hallOf(t, derp.Config{
		Mesh:   derp.Mesh{Key: psk},
		Limits: derp.Limits{Total: derp.Bound{Rate: 200_000}},
	})
	a, b, to, m := h.node(t), h.node(t), h.node(t), h.mesh(t)
	began := time.Now()
	rushed(t, a, to, 2)
	rushed(t, b, to, 2)
	if took := time.Since(began); took < 500*time.Millisecond {
		t.Errorf("two nodes took %v together", took)
	}
	if took := rushed(t, m, to, many); took > unbounded {
		t.Errorf("another relay took %v", took)
	}
}

// A waiting reader takes notice when its bound is lifted.
func TestNewLimitsReachWhoWaits(t *testing.T) {
	h, r := hallOf(t, derp.Config{Limits: derp.Limits{Node: derp.Each(derp.Bound{Rate: 1000})}})
	a, b := h.node(t), h.node(t)
	for range 3 { // which is minutes' worth
		a.send(ts.FrameSendPacket, b.raw(), make([]byte, 60_000))
	}
	a.send(ts.FrameSendPacket, b.raw(), []byte("last"))
	b.expect(ts.FrameRecvPacket)
	r.SetLimits(derp.Limits{})
	for got := 1; got < 4; {
		kind, n, err := ts.ReadFrameHeader(b.br)
		if err != nil {
			t.Fatal(err)
		}
		b.br.Discard(int(n))
		if kind == ts.FrameRecvPacket {
			got++
		}
	}
}

// Clients shape what they send; they are told when that changes, and only then.
func TestClientsAreToldOfTheirBounds(t *testing.T) {
	h, r := hallOf(t, derp.Config{})
	a := h.node(t)
	told := func(want int) {
		t.Helper()
		text, ok := a.key.OpenFrom(h.self, a.expect(ts.FrameServerInfo))
		var info ts.ServerInfo
		if err := json.Unmarshal(text, &info); !ok || err != nil || info.TokenBucketBytesPerSecond != want {
			t.Errorf("told %s, %v, want %d bytes per second", text, ok, want)
		}
	}
	r.SetLimits(derp.Limits{Total: derp.Bound{Rate: 5_000_000}})
	told(5_000_000)
	r.SetLimits(derp.Limits{Total: derp.Bound{Rate: 5_000_000}, UsedThisMonth: 7})
	r.SetLimits(derp.Limits{Total: derp.Bound{Rate: 5_000_000}, Node: derp.Each(derp.Bound{Rate: 1_000_000})})
	told(1_000_000)
	r.SetLimits(derp.Limits{})
	told(0)
	a.settled() // nothing else came
}

func TestStricter(t *testing.T) {
	k := key.NewNode().Public()
	fast, slow := derp.Bound{Rate: 9, Burst: 2}, derp.Bound{Rate: 3, Burst: 5}
	for _, tt := range []struct {
		name       string
		a, b, want derp.Limits
		node       derp.Bound
	}{
		{"none", derp.Limits{}, derp.Limits{}, derp.Limits{}, derp.Bound{}},
		{"one", derp.Limits{Total: fast, MonthlyQuota: 5, ConnectionsPerSecond: 2}, derp.Limits{Node: derp.Each(slow)},
			derp.Limits{Total: fast, MonthlyQuota: 5, ConnectionsPerSecond: 2}, slow},
		{"both", derp.Limits{Node: derp.Each(fast), Total: fast, MonthlyQuota: 5, UsedThisMonth: 1, ConnectionsPerSecond: 2, ConnectionBurst: 4},
			derp.Limits{Node: derp.Each(slow), Total: slow, MonthlyQuota: 4, UsedThisMonth: 3, ConnectionsPerSecond: 3, ConnectionBurst: 1},
			derp.Limits{Total: derp.Bound{Rate: 3, Burst: 2}, MonthlyQuota: 4, UsedThisMonth: 3, ConnectionsPerSecond: 2, ConnectionBurst: 1},
			derp.Bound{Rate: 3, Burst: 2}},
	} {
		for _, got := range []derp.Limits{derp.Stricter(tt.a, tt.b), derp.Stricter(tt.b, tt.a)} {
			node := derp.Bound{}
			if got.Node != nil {
				node = got.Node(k)
			}
			got.Node = nil
			if diff := cmp.Diff(tt.want, got); diff != "" || node != tt.node {
				t.Errorf("%s: each node %v, want %v; (-want +got)\n%s", tt.name, node, tt.node, diff)
			}
		}
	}
}

func TestSpentQuotaSendsClientsAway(t *testing.T) {
	var log logBook
	h, r := hallOf(t, derp.Config{Log: log.logger(), Limits: derp.Limits{MonthlyQuota: 1 << 30, UsedThisMonth: 1 << 20}})
	a, b := h.node(t), h.node(t)
	if took := rushed(t, a, b, 2); took > unbounded {
		t.Errorf("the quota alone made it take %v", took)
	}
	if got := r.Load().Clients; got != 2 {
		t.Errorf("%d clients are counted, want 2", got)
	}
	const used = 1<<20 + 2*(60_000+ts.KeyLen+ts.FrameHeaderLen)
	waitFor(t, "both packets to be counted", func() bool { return r.Load().SentThisMonth == used })
	r.SetLimits(derp.Limits{MonthlyQuota: 1 << 20})
	if text := a.expect(ts.FrameHealth); !strings.Contains(string(text), "traffic for the month") {
		t.Errorf("the client is told %q", text)
	}
	a.expectEnd()
	b.expectEnd()
	if got := r.Load().Troubles; len(got) != 1 || !strings.Contains(got[0], "traffic of this month") {
		t.Errorf("the operator is told %q", got)
	}
	if err := introduce(newClient(t, h.url, key.NewNode())); err == nil {
		t.Error("a client was taken")
	}
	waitFor(t, "the refusal in the log", func() bool { return strings.Contains(log.String(), "traffic of this month") })
	probe := func(want int) {
		t.Helper()
		res, err := http.Get(h.url + "/latency-check")
		if err != nil {
			t.Fatal(err)
		}
		res.Body.Close()
		if res.StatusCode != want {
			t.Errorf("a probe got %d, want %d", res.StatusCode, want)
		}
	}
	probe(http.StatusServiceUnavailable)
	r.SetLimits(derp.Limits{MonthlyQuota: 1 << 40})
	probe(http.StatusOK)
	connect(t, newClient(t, h.url, key.NewNode()))
	if load := r.Load(); len(load.Troubles) != 0 || load.Refused != 1 {
		t.Errorf("got troubles %q and %d refused, want none and one", load.Troubles, load.Refused)
	}
}

func TestDrainingAndBack(t *testing.T) {
	h, r := hallOf(t, derp.Config{Mesh: derp.Mesh{Key: psk}})
	a, m := h.node(t), h.mesh(t)
	r.SetDraining(true)
	r.SetDraining(true)
	if text := a.expect(ts.FrameHealth); !strings.Contains(string(text), "out of service") {
		t.Errorf("the client is told %q", text)
	}
	a.expectEnd()
	if err := introduce(newClient(t, h.url, key.NewNode())); err == nil {
		t.Error("a client was taken")
	}
	m.settled() // other relays stay, and may come
	h.mesh(t).settled()
	r.SetDraining(false)
	b := h.node(t)
	b.settled()
	if got := r.Clients(); len(got) != 1 || got[0] != b.key.Public() {
		t.Errorf("got clients %v, want %v", got, b.key.Public())
	}
	r.SetDraining(true) // and the relay is closed meanwhile
}

// prompt is how soon an evicted node is off: it is milliseconds, and more on a machine that is busy with other tests.
const prompt = 10 * time.Second

func TestEvict(t *testing.T) {
	h, r := hallOf(t, derp.Config{WriteTimeout: -1})
	real := newClient(t, h.url, key.NewNode())
	connect(t, real)
	other := h.node(t)
	ended := make(chan time.Time, 1)
	go func() {
		for {
			if _, err := real.Recv(); err != nil {
				ended <- time.Now()
				return
			}
		}
	}()
	began := time.Now()
	if n := r.Evict(real.SelfPublicKey()); n != 1 {
		t.Errorf("%d connections were ended, want 1", n)
	}
	if took := (<-ended).Sub(began); took > prompt {
		t.Errorf("it took %v", took)
	}
	other.settled()
	if n := r.Evict(real.SelfPublicKey()); n != 0 {
		t.Errorf("%d connections were ended again", n)
	}
}

// One that takes no data: the writer is stuck in the socket.
func TestEvictWhoTakesNothing(t *testing.T) {
	h, plain := hallOf(t, derp.Config{WriteTimeout: -1})
	sealed := join(t, derp.Config{WriteTimeout: -1})
	for name, tt := range map[string]struct {
		relay *derp.Relay
		enter func(key.NodePrivate) *raw
	}{
		"plain": {plain, func(k key.NodePrivate) *raw { return enter(t, h.url, h.self, k, false) }},
		"TLS":   {sealed.Relay, func(k key.NodePrivate) *raw { return enterTLS(t, sealed.ports.Relay.String(), sealed.PublicKey(), k) }},
	} {
		t.Run(name, func(t *testing.T) {
			node := key.NewNode()
			other, again, stuck := tt.enter(key.NewNode()), tt.enter(node), tt.enter(node)
			for range 400 {
				other.send(ts.FrameSendPacket, stuck.raw(), make([]byte, 60_000))
			}
			other.settled()
			began := time.Now()
			if n := tt.relay.Evict(node.Public()); n != 2 {
				t.Errorf("%d connections were ended, want both", n)
			}
			waitFor(t, "the stuck client to be gone", func() bool { return len(tt.relay.Clients()) == 1 })
			if took := time.Since(began); took > prompt {
				t.Errorf("it took %v", took)
			}
			again.expectEnd()
			stuck.expectEnd()
		})
	}
}

// A node may be taken off the list while it is being admitted by an answer of before.
func TestEvictReachesTheHandshake(t *testing.T) {
	asked, answer := make(chan struct{}), make(chan struct{})
	var slow atomic.Bool
	slow.Store(true)
	h, r := hallOf(t, derp.Config{Admit: func(context.Context, key.NodePublic, netip.Addr) (bool, error) {
		if slow.Load() {
			close(asked)
			<-answer
		}
		return true, nil
	}})
	node := key.NewNode()
	failed := make(chan error, 1)
	c := newClient(t, h.url, node)
	go func() { failed <- introduce(c) }()
	<-asked
	began := time.Now()
	if n := r.Evict(node.Public()); n != 1 {
		t.Errorf("%d connections were ended, want 1", n)
	}
	if err := <-failed; err == nil {
		t.Error("the node came in")
	}
	if took := time.Since(began); took > prompt {
		t.Errorf("it took %v", took)
	}
	slow.Store(false)
	close(answer)
	enter(t, h.url, h.self, node, false).settled() // it may come again, Admit permitting
	if got := r.Load().Clients; got != 1 {
		t.Errorf("%d clients are here, want 1", got)
	}
}
