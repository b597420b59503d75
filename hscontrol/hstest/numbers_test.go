package hstest_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/keelscale/keelscale/hscontrol/hstest"
)

// quantile is the value below which the share q of all lies, in milliseconds.
func quantile(all []time.Duration, q float64) float64 {
	slices.Sort(all)
	return float64(all[min(int(q*float64(len(all))), len(all)-1)].Microseconds()) / 1000
}

// BenchmarkJoin prints what a user waits for: from `register` being sent to the first full map, and how long after the
// answer to `register` a node that is connected already sees the new one.
func BenchmarkJoin(b *testing.B) {
	s := hstest.Start(b)
	secret := s.Key(s.User("bench"))
	watcher := s.Node("watcher")
	watcher.Join(secret)
	poll := watcher.Poll()
	var toMap, toPeer []time.Duration
	for i := 0; b.Loop(); i++ {
		n := s.Node("node" + strconv.Itoa(i))
		if err := n.Connect(hstest.Context(b)); err != nil {
			b.Fatal(err)
		}
		begun := time.Now()
		n.Join(secret)
		answered := time.Now()
		seen := make(chan time.Time, 1)
		go func() {
			poll.Await("the new node", func(m *hstest.Netmap) bool { return m.Peer(n.Name) != nil })
			seen <- time.Now()
		}()
		n.Poll().Close()
		toMap = append(toMap, time.Since(begun))
		toPeer = append(toPeer, max((<-seen).Sub(answered), 0))
		n.Disconnect()
	}
	b.ReportMetric(quantile(toMap, 0.5), "join-p50-ms")
	b.ReportMetric(quantile(toMap, 0.99), "join-p99-ms")
	b.ReportMetric(quantile(toPeer, 0.5), "visible-p50-ms")
	b.ReportMetric(quantile(toPeer, 0.99), "visible-p99-ms")
}

// BenchmarkHerd prints how long 50 nodes take that join at once until all know all.
func BenchmarkHerd(b *testing.B) {
	const nodes = 50
	var took []time.Duration
	for b.Loop() {
		s := hstest.Start(b)
		secret := s.Key(s.User("bench"))
		begun := time.Now()
		var wg sync.WaitGroup
		for i := range nodes {
			wg.Go(func() {
				n := s.Node("node" + strconv.Itoa(i))
				n.Join(secret)
				n.Poll().Await("all others", func(m *hstest.Netmap) bool { return len(m.Peers) == nodes-1 })
			})
		}
		wg.Wait()
		took = append(took, time.Since(begun))
		s.End()
	}
	b.ReportMetric(quantile(took, 0.5), "all-know-all-p50-ms")
}

// BenchmarkChange prints how long one endpoint change takes to reach 500 connected nodes.
func BenchmarkChange(b *testing.B) {
	const nodes = 500
	s := hstest.Start(b)
	secret := s.Key(s.User("bench"))
	all := make([]*hstest.Node, nodes)
	polls := make([]*hstest.Poll, nodes)
	var wg sync.WaitGroup
	gate := make(chan bool, 32)
	for i := range nodes {
		wg.Go(func() {
			gate <- true
			defer func() { <-gate }()
			all[i] = s.Node("node" + strconv.Itoa(i))
			all[i].Join(secret)
			polls[i] = all[i].Poll()
		})
	}
	wg.Wait()
	for _, p := range polls {
		p.Await("everybody", func(m *hstest.Netmap) bool {
			return len(m.Peers) == nodes-1 && !slices.ContainsFunc(m.Names(), func(n string) bool { return !*m.Peer(n).Online })
		})
	}
	var each []time.Duration
	for round := 0; b.Loop(); round++ {
		port := 1000 + round
		took := make([]time.Duration, nodes)
		ready := make(chan bool, nodes)
		var begun atomic.Int64 // the watchers are at their streams before it is set, so that only the way is measured
		for i := 1; i < nodes; i++ {
			wg.Go(func() {
				ready <- true
				polls[i].Await("the new endpoint", func(m *hstest.Netmap) bool {
					p := m.Peers[polls[0].Netmap.Node.ID]
					return len(p.Endpoints) == 1 && int(p.Endpoints[0].Port()) == port
				})
				took[i] = time.Duration(time.Now().UnixNano() - begun.Load())
			})
		}
		for range nodes - 1 {
			<-ready
		}
		begun.Store(time.Now().UnixNano())
		all[0].Update(fmt.Sprintf("192.0.2.1:%d", port))
		wg.Wait()
		each = append(each, took[1:]...)
	}
	b.ReportMetric(quantile(each, 0.5), "change-p50-ms")
	b.ReportMetric(quantile(each, 0.99), "change-p99-ms")
}

// BenchmarkRestart prints how long it takes from kill -9 of the server, and its start again at once, until each of 200
// clients is served. A client comes back as real ones do, after a moment that grows and varies.
func BenchmarkRestart(b *testing.B) {
	const nodes = 200
	p := hstest.StartProcess(b)
	secret := p.ProcessKey()
	all := make([]*hstest.Node, nodes)
	polls := make([]*hstest.Poll, nodes)
	var wg sync.WaitGroup
	gate := make(chan bool, 32)
	for i := range nodes {
		wg.Go(func() {
			gate <- true
			defer func() { <-gate }()
			all[i] = p.Node("node" + strconv.Itoa(i))
			all[i].Join(secret)
			polls[i] = all[i].Poll()
		})
	}
	wg.Wait()
	var took []time.Duration
	for b.Loop() {
		begun := time.Now()
		p.End(syscall.SIGKILL)
		for i := range nodes {
			wg.Go(func() { polls[i] = comeBack(b, all[i], polls[i]) })
		}
		p.Begin()
		wg.Wait()
		took = append(took, time.Since(begun))
		for i, poll := range polls {
			if poll.Netmap.Node.Expired || len(poll.Netmap.Peers) != nodes-1 {
				b.Fatalf("node %d after the restart: expired %v, %d peers; want all as before", i, poll.Netmap.Node.Expired, len(poll.Netmap.Peers))
			}
		}
	}
	b.ReportMetric(quantile(took, 1), "all-served-max-ms")
}

func comeBack(b *testing.B, n *hstest.Node, old *hstest.Poll) *hstest.Poll {
	old.AwaitEnd()
	old.Close()
	for pause := 10 * time.Millisecond; ; pause = min(2*pause, time.Second) {
		n.Disconnect()
		if p, err := n.TryPoll(); err == nil {
			return p
		}
		time.Sleep(pause/2 + rand.N(pause)) // the client's backoff
	}
}

// kills is how often TestKilledServerKeepsRegistrations kills the server: 50 where the numbers are taken.
func kills(t *testing.T) int {
	if text := os.Getenv("KILLS"); text != "" {
		n, err := strconv.Atoi(text)
		if err != nil {
			t.Fatalf("KILLS=%s is no number", text)
		}
		return n
	}
	return 5
}

// A registration that was answered is there after kill -9 at any moment.
func TestKilledServerKeepsRegistrations(t *testing.T) {
	p := hstest.StartProcess(t)
	secret := p.ProcessKey()
	var mu sync.Mutex
	answered := map[string]*hstest.Node{}
	rounds := kills(t)
	for round := range rounds {
		ctx, cancel := context.WithCancel(hstest.Context(t))
		var wg sync.WaitGroup
		begun := make(chan bool, 8)
		for worker := range 8 {
			wg.Go(func() {
				for i := 0; ctx.Err() == nil; i++ {
					n := p.Node(fmt.Sprintf("n%d-%d-%d", round, worker, i))
					resp, err := n.Register(ctx, hstest.WithKey(secret))
					if err == nil && resp.MachineAuthorized {
						mu.Lock()
						answered[n.Name] = n
						mu.Unlock()
						select {
						case begun <- true:
						default:
						}
					}
					n.Disconnect()
				}
			})
		}
		select {
		case <-begun:
		case <-ctx.Done():
			t.Error("nobody is let in")
		}
		time.Sleep(time.Duration(rand.IntN(250)) * time.Millisecond) // a random moment of the storm
		p.End(syscall.SIGKILL)
		cancel()
		wg.Wait()
		p.Begin()
	}
	lost := 0
	for name, n := range answered {
		resp, err := n.Register(hstest.Context(t))
		if err != nil || !resp.MachineAuthorized {
			lost++
			t.Errorf("%s was let in before the server was killed, and is not known after it: %+v, %v", name, resp, err)
		}
		n.Disconnect()
	}
	t.Logf("%d kills, %d answered registrations, %d lost", rounds, len(answered), lost)
	if len(answered) < rounds {
		t.Errorf("only %d registrations were answered over %d kills: this proved little", len(answered), rounds)
	}
	if status, _ := p.Node("last").TryUpdate(hstest.Context(t)); status != http.StatusNotFound {
		t.Errorf("an unknown node: got status %d, want 404 of a server that lives", status)
	}
}
