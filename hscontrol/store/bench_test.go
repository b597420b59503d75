package store_test

import (
	"fmt"
	"net/netip"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"tailscale.com/tailcfg"
	"tailscale.com/types/key"

	"github.com/keelscale/keelscale/hscontrol/store"
	"github.com/keelscale/keelscale/hscontrol/tailnet"
)

// cpu is the processor time that this process has used.
func cpu(b *testing.B) time.Duration {
	b.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// measure runs op b.N times, by one caller after the other or by 64 at once, and tells operations a second and
// processor time an operation.
func measure(b *testing.B, w *world, callers int, op func(i int) error) {
	b.Helper()
	var next atomic.Int64
	var wg sync.WaitGroup
	groups := w.Stats().Groups
	b.ResetTimer()
	start, used := time.Now(), cpu(b)
	for range callers {
		wg.Go(func() {
			for i := next.Add(1) - 1; i < int64(b.N); i = next.Add(1) - 1 {
				if err := op(int(i)); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	b.StopTimer()
	b.ReportMetric(float64(b.N)/time.Since(start).Seconds(), "ops/s")
	b.ReportMetric(float64((cpu(b)-used).Microseconds())/float64(b.N), "µs-cpu/op")
	if groups = w.Stats().Groups - groups; groups > 0 {
		b.ReportMetric(float64(b.N)/float64(groups), "ops/commit")
	}
}

// eachWay runs a benchmark on both engines, alone and with 64 callers, in a tailnet of a thousand nodes.
func eachWay(b *testing.B, prepare func(*testing.B, *world, []*tailnet.Node) func(i int) error) {
	eachEngine(b, func(b *testing.B, w *world, nodes []*tailnet.Node) {
		for _, callers := range []int{1, 64} {
			b.Run(fmt.Sprintf("callers=%d", callers), func(b *testing.B) {
				measure(b, w, callers, prepare(b, w, nodes))
			})
		}
	})
}

func eachEngine(b *testing.B, run func(*testing.B, *world, []*tailnet.Node)) {
	for _, engine := range []struct {
		name string
		cfg  func(testing.TB) store.Config
	}{{"sqlite", sqliteConfig}, {"postgres", postgresConfig}} {
		b.Run(engine.name, func(b *testing.B) {
			w := newWorld(b, engine.cfg(b))
			run(b, w, crowd(b, w, 1000))
		})
	}
}

func crowd(b *testing.B, w *world, n int) []*tailnet.Node {
	b.Helper()
	nodes := make([]*tailnet.Node, n)
	var wg sync.WaitGroup
	for i := range nodes {
		wg.Go(func() {
			var err error
			if nodes[i], err = w.JoinWithKey(w.ctx, w.secret, talkative(fmt.Sprint("host-", i))); err != nil {
				b.Error(err)
			}
		})
	}
	wg.Wait()
	return nodes
}

// talkative is a client that says as much of itself as real ones do.
func talkative(hostname string) store.Join {
	j := client(hostname)
	j.Hostinfo = &tailcfg.Hostinfo{
		Hostname: hostname, IPNVersion: "1.102.5-t0123456789-g0123456789", BackendLogID: "0123456789abcdef0123456789abcdef",
		OS: "linux", OSVersion: "6.1.0-18-amd64", Distro: "debian", DistroVersion: "12", DistroCodeName: "bookworm",
		GoArch: "amd64", GoVersion: "go1.26.8", Machine: "x86_64",
		Services: []tailcfg.Service{{Proto: tailcfg.PeerAPI4, Port: 4711}, {Proto: tailcfg.PeerAPI6, Port: 4711}},
		NetInfo: &tailcfg.NetInfo{PreferredDERP: 1, WorkingUDP: "true", WorkingIPv6: "false", MappingVariesByDestIP: "false",
			DERPLatency: map[string]float64{"1-v4": 0.01, "2-v4": 0.05, "3-v4": 0.1}},
	}
	return j
}

func BenchmarkJoin(b *testing.B) {
	eachWay(b, func(b *testing.B, w *world, _ []*tailnet.Node) func(int) error {
		clients := make([]store.Join, b.N)
		for i := range clients {
			clients[i] = talkative(fmt.Sprint("new-", i))
		}
		return func(i int) error {
			_, err := w.JoinWithKey(w.ctx, w.secret, clients[i%len(clients)])
			return err
		}
	})
}

func BenchmarkUpdateNode(b *testing.B) {
	eachWay(b, func(_ *testing.B, w *world, nodes []*tailnet.Node) func(int) error {
		disco := key.NewDisco().Public()
		return func(i int) error {
			_, _, err := w.UpdateNode(w.ctx, nodes[i%len(nodes)].ID, store.NodeUpdate{
				Arrived: w.clock.advance(time.Millisecond), DiscoKey: disco,
				Endpoints: []netip.AddrPort{netip.AddrPortFrom(netip.MustParseAddr("192.0.2.1"), uint16(w.clock.now().UnixMilli())),
					netip.MustParseAddrPort("10.0.0.1:41641")},
				Hostinfo: nodes[i%len(nodes)].Hostinfo,
			})
			return err
		}
	})
}

func BenchmarkUpdateNodeUnchanged(b *testing.B) {
	eachWay(b, func(_ *testing.B, w *world, nodes []*tailnet.Node) func(int) error {
		return func(i int) error {
			n := nodes[i%len(nodes)]
			_, _, err := w.UpdateNode(w.ctx, n.ID, store.NodeUpdate{Arrived: w.clock.now(), Hostinfo: n.Hostinfo})
			return err
		}
	})
}

// BenchmarkSession opens a session of a node that is offline, and closes it: two operations in one.
func BenchmarkSession(b *testing.B) {
	eachWay(b, func(_ *testing.B, w *world, nodes []*tailnet.Node) func(int) error {
		return func(i int) error {
			ref := store.SessionRef{NodeID: nodes[i%len(nodes)].ID, SessionID: fmt.Sprint(i)}
			if err := w.OpenSession(w.ctx, ref.NodeID, ref.SessionID); err != nil {
				return err
			}
			return w.CloseSessions(w.ctx, []store.SessionRef{ref})
		}
	})
}

func BenchmarkSince(b *testing.B) {
	eachEngine(b, func(b *testing.B, w *world, nodes []*tailnet.Node) {
		at := w.revision()
		w.online(nodes[0].ID)
		for _, c := range []struct {
			name string
			from tailnet.Revision
		}{{"nothing", at + 1}, {"one-node", at}, {"all-1000-nodes", 0}} {
			b.Run(c.name, func(b *testing.B) {
				measure(b, w, 1, func(int) error {
					_, err := w.Since(w.ctx, w.user.TailnetID, c.from)
					return err
				})
			})
		}
	})
}
