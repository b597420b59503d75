package hstest_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/keelscale/keelscale/hscontrol/config"
	"github.com/keelscale/keelscale/hscontrol/hstest"
	"github.com/keelscale/keelscale/hscontrol/store"
	"github.com/keelscale/keelscale/hscontrol/tailnet"
)

// setting is a number from the environment, for the runs that numbers are taken from.
func setting(t testing.TB, name string, usual int) int {
	t.Helper()
	text := os.Getenv(name)
	if text == "" {
		return usual
	}
	n, err := strconv.Atoi(text)
	if err != nil {
		t.Fatalf("%s=%s is no number", name, text)
	}
	return n
}

// settle joins and polls many nodes, the odd ones at the second server, until all know all.
func settle(t testing.TB, secret string, servers []*hstest.Server, nodes int) ([]*hstest.Node, []*hstest.Poll) {
	t.Helper()
	all, polls := make([]*hstest.Node, nodes), make([]*hstest.Poll, nodes)
	var wg sync.WaitGroup
	gate := make(chan bool, 16)
	for i := range nodes {
		wg.Go(func() {
			gate <- true
			defer func() { <-gate }()
			all[i] = servers[i%len(servers)].Node("node" + strconv.Itoa(i))
			all[i].Join(secret)
			polls[i] = all[i].Poll()
		})
	}
	wg.Wait()
	for _, p := range polls {
		p.Await("everybody online", func(m *hstest.Netmap) bool { return len(m.Peers) == nodes-1 && allOnline(m) })
	}
	return all, polls
}

func allOnline(m *hstest.Netmap) bool {
	for _, p := range m.Peers {
		if p.Online == nil || !*p.Online {
			return false
		}
	}
	return true
}

// BenchmarkChangeAcross prints how long an endpoint change at one server takes to reach the nodes of another.
func BenchmarkChangeAcross(b *testing.B) {
	nodes := setting(b, "NODES", 400)
	db := hstest.StartPostgres(b)
	use := db.Database()
	first := hstest.Start(b, use)
	second := hstest.Start(b, use, shareSecrets(first))
	all, polls := settle(b, first.Key(first.User("bench")), []*hstest.Server{first, second}, nodes)
	var here, there []time.Duration
	for round := 0; b.Loop(); round++ {
		port := 1000 + round
		took := make([]time.Duration, nodes)
		ready := make(chan bool, nodes)
		var begun atomic.Int64
		var wg sync.WaitGroup
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
		for i := 1; i < nodes; i++ {
			if i%2 == 0 {
				here = append(here, took[i])
			} else {
				there = append(there, took[i])
			}
		}
	}
	b.ReportMetric(quantile(here, 0.5), "here-p50-ms")
	b.ReportMetric(quantile(here, 0.99), "here-p99-ms")
	b.ReportMetric(quantile(there, 0.5), "there-p50-ms")
	b.ReportMetric(quantile(there, 0.99), "there-p99-ms")
}

// section is what the configuration file of a server says of a database.
func section(edit func(*config.Config), secrets string) string {
	cfg := config.Default("/")
	edit(cfg)
	pg := cfg.Database.Postgres
	return fmt.Sprintf("database:\n  type: postgres\n  secrets_key_path: %s\n  postgres: {host: %s, port: %d, name: %s, user: %s}\n", secrets, pg.Host, pg.Port, pg.Name, pg.User)
}

// servedAgain is how long the nodes of a server that was killed may be without one. It is seconds where nothing else has
// to be done.
const servedAgain = time.Minute

// One of two servers is killed: its nodes are served by the other, without a new login, and nothing is lost.
func TestKilledServerIsReplaced(t *testing.T) {
	nodes := setting(t, "NODES", 60)
	db := hstest.StartPostgres(t)
	text := section(db.Database(), filepath.Join(t.TempDir(), "secrets.key"))
	first := hstest.StartProcess(t, text)
	second := hstest.StartProgram(t, first.Program, text)
	all, polls := settle(t, first.ProcessKey(), []*hstest.Server{&first.Server, &second.Server}, nodes)

	begun := time.Now()
	first.End(syscall.SIGKILL)
	took := make([]time.Duration, nodes)
	var wg sync.WaitGroup
	for i := 0; i < nodes; i += 2 {
		wg.Go(func() {
			polls[i].AwaitEnd()
			polls[i].Close()
			for pause := 10 * time.Millisecond; ; pause = min(2*pause, time.Second) {
				all[i].Use(&second.Server)
				if p, err := all[i].TryPoll(); err == nil {
					polls[i] = p
					break
				}
				time.Sleep(pause/2 + rand.N(pause)) // the client's backoff
			}
			took[i] = time.Since(begun)
		})
	}
	wg.Wait()
	served := slices.Max(took)
	for i, p := range polls {
		if p.Netmap.Node.Expired || len(p.Netmap.Peers) != nodes-1 {
			t.Errorf("node %d: expired %v, %d peers, want all as before", i, p.Netmap.Node.Expired, len(p.Netmap.Peers))
		}
	}
	all[0].Update("192.0.2.1:4242")
	for _, p := range polls[1:] {
		p.Await("the new endpoint, and everybody online", func(m *hstest.Netmap) bool {
			n := m.Peers[polls[0].Netmap.Node.ID]
			return n != nil && len(n.Endpoints) == 1 && n.Endpoints[0].Port() == 4242 && allOnline(m)
		})
	}
	t.Logf("%d of %d nodes were at the server that was killed: all served again after %v, all seen by all after %v", nodes/2, nodes, served, time.Since(begun))
	if served > servedAgain {
		t.Errorf("got %v until all were served, want %v at most", served, servedAgain)
	}
}

// A node of a server that was killed, which does not come back, is offline after a few seconds, and its routes go to
// another: the servers that live see to it.
func TestKilledServerLeavesNoGhosts(t *testing.T) {
	db := hstest.StartPostgres(t)
	text := section(db.Database(), filepath.Join(t.TempDir(), "secrets.key"))
	first := hstest.StartProcess(t, text)
	second := hstest.StartProgram(t, first.Program, text)
	secret := first.ProcessKey()
	ghost, watcher := first.Node("ghost"), second.Node("watcher")
	ghost.Join(secret)
	ghost.Poll()
	watcher.Join(secret)
	poll := watcher.Poll()
	online := func(want bool) func(*hstest.Netmap) bool {
		return func(m *hstest.Netmap) bool {
			p := m.Peer("ghost")
			return p != nil && p.Online != nil && *p.Online == want
		}
	}
	poll.Await("the node to be online", online(true))
	begun := time.Now()
	first.End(syscall.SIGKILL)
	poll.Await("the node to be offline", online(false))
	t.Logf("offline after %v", time.Since(begun))
}

// follow takes what a store tells, change by change, until it knows want users.
func follow(ctx context.Context, s *store.Store, id tailnet.ID, from tailnet.Revision, want int) (map[tailnet.UserID]bool, error) {
	seen := map[tailnet.UserID]bool{}
	for {
		moved := s.Moved()
		d, err := s.Since(ctx, id, from)
		if err != nil {
			return seen, err
		}
		if d.Full {
			return seen, errors.New("got everything instead of what changed")
		}
		from = d.Rev
		for _, u := range d.Users {
			seen[u.ID] = true
		}
		if len(seen) >= want {
			return seen, nil
		}
		select {
		case <-moved:
		case <-ctx.Done():
			return seen, ctx.Err()
		}
	}
}

// Many writes at once at both servers: each follower sees each of them.
func TestFollowersMissNothing(t *testing.T) {
	const writes, workers = 2000, 16
	p := startPair(t)
	ctx := hstest.Context(t) // for two thousand writes
	def := p.a.Tailnet("")
	from, err := p.a.Store().Revisions(ctx)
	if err != nil {
		t.Fatal(err)
	}
	servers := []*hstest.Server{p.a, p.b}
	var followers, writers sync.WaitGroup
	for i, s := range servers {
		followers.Go(func() {
			seen, err := follow(ctx, s.Store(), def.ID, from[def.ID], writes)
			t.Logf("follower %d: missed %d of %d", i, writes-len(seen), writes)
			if err != nil || len(seen) != writes {
				t.Errorf("follower %d saw %d of %d changes: %v", i, len(seen), writes, err)
			}
		})
	}
	begun := time.Now()
	for w := range workers {
		writers.Go(func() {
			for i := w; i < writes; i += workers {
				if _, err := servers[i%2].Store().CreateUser(ctx, tailnet.User{TailnetID: def.ID, Name: fmt.Sprintf("u%d", i)}); err != nil {
					t.Error(err)
				}
			}
		})
	}
	writers.Wait()
	t.Logf("%d writes in %v", writes, time.Since(begun))
	followers.Wait()
}

// churn is a node that changes its endpoint all the time.
type churn struct {
	node *hstest.Node
	port atomic.Uint32 // what it said last, and was heard
	said atomic.Uint32 // how often it was refused because the database was away
}

func (c *churn) run(t *testing.T, ctx context.Context, i int) {
	for n := uint32(1); ctx.Err() == nil; n++ {
		port := 1 + n%60000
		switch status, text := c.node.TryUpdate(ctx, fmt.Sprintf("192.0.2.%d:%d", i+1, port)); {
		case status == http.StatusOK:
			c.port.Store(port)
		case status == http.StatusServiceUnavailable:
			c.said.Add(1)
		case ctx.Err() == nil:
			t.Errorf("node %d updates: got status %d: %s", i, status, text)
		}
		time.Sleep(50*time.Millisecond + rand.N(100*time.Millisecond))
	}
}

// The database goes away under load, and comes back: meanwhile the servers serve maps and refuse to write, afterwards
// every client has the right picture.
func TestDatabaseGoesAwayAndComesBack(t *testing.T) {
	nodes, away := setting(t, "NODES", 40), time.Duration(setting(t, "AWAY", 6))*time.Second
	p := startPair(t)
	secret := p.a.Key(p.a.User("anna"))
	servers := []*hstest.Server{p.a, p.b}
	all, polls := settle(t, secret, servers, nodes)
	ctx, stop := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	churns := make([]*churn, nodes)
	for i, n := range all {
		churns[i] = &churn{node: n}
		if i%2 == 0 { // the others come and go, see below
			wg.Go(func() { churns[i].run(t, ctx, i) })
		}
	}
	time.Sleep(time.Second)
	p.db.End(syscall.SIGQUIT)
	begun := time.Now()

	// Meanwhile: maps from the snapshot, also for those who come anew; a clear word to those who want to write.
	for i := 1; i < nodes; i += 2 {
		polls[i].Close()
		all[i].Disconnect()
		fresh, err := all[i].TryPoll()
		if err != nil {
			t.Fatalf("node %d polls while the database is away: %v", i, err)
		}
		if len(fresh.Netmap.Peers) != nodes-1 {
			t.Errorf("node %d polls while the database is away: got %d peers, want %d", i, len(fresh.Netmap.Peers), nodes-1)
		}
		polls[i] = fresh
	}
	for _, s := range servers {
		if _, err := s.Store().CreateUser(ctx, tailnet.User{TailnetID: 1, Name: "late"}); !errors.Is(err, tailnet.ErrReadOnly) {
			t.Errorf("creating a user while the database is away: got %v, want %v", err, tailnet.ErrReadOnly)
		}
	}
	time.Sleep(time.Until(begun.Add(away)))
	await(t, "some updates are refused", func() bool {
		return slices.ContainsFunc(churns, func(c *churn) bool { return c.said.Load() > 0 })
	})
	p.db.Begin()
	back := time.Now()
	time.Sleep(3 * time.Second)
	stop()
	wg.Wait()
	refused := 0
	for i, c := range churns {
		refused += int(c.said.Load())
		await(t, fmt.Sprintf("node %d updates", i), func() bool {
			status, _ := all[i].TryUpdate(hstest.Context(t), fmt.Sprintf("192.0.2.%d:61000", i+1))
			return status == http.StatusOK
		})
	}
	wrong := awaitPictures(polls, func(m *hstest.Netmap) bool {
		if len(m.Peers) != nodes-1 || !allOnline(m) {
			return false
		}
		for _, p := range m.Peers {
			if len(p.Endpoints) != 1 || p.Endpoints[0].Port() != 61000 {
				return false
			}
		}
		return true
	})
	t.Logf("away for %v under churn, %d updates refused; views wrong afterwards: %d of %d; right %v after it came back", away, refused, wrong, nodes, time.Since(back))
	if wrong > 0 {
		t.Errorf("%d of %d views are wrong", wrong, nodes)
	}
}

// awaitPictures reads each poll until its picture is right, and counts those that do not become so in time.
func awaitPictures(polls []*hstest.Poll, right func(*hstest.Netmap) bool) (wrong int) {
	var bad atomic.Int32
	var wg sync.WaitGroup
	for _, p := range polls {
		wg.Go(func() {
			timer := time.AfterFunc(hstest.Patience, p.Close)
			defer timer.Stop()
			for !right(p.Netmap) {
				if p.Next() != nil {
					bad.Add(1)
					return
				}
			}
		})
	}
	wg.Wait()
	return int(bad.Load())
}
