package hstest_test

import (
	"fmt"
	"net/http"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"tailscale.com/control/tsp"
	"tailscale.com/tailcfg"

	"github.com/keelscale/keelscale/hscontrol/config"
	"github.com/keelscale/keelscale/hscontrol/hstest"
	"github.com/keelscale/keelscale/hscontrol/tailnet"
)

// pair are two servers on one PostgreSQL.
type pair struct {
	db   *hstest.Postgres
	a, b *hstest.Server
}

// startPair starts both; the second has the first's key of the database's secrets.
func startPair(t testing.TB, edit ...func(*config.Config)) *pair {
	t.Helper()
	p := &pair{db: hstest.StartPostgres(t)}
	edit = append([]func(*config.Config){p.db.Database()}, edit...)
	p.a = hstest.Start(t, edit...)
	p.b = hstest.Prepare(t, append(edit, shareSecrets(p.a))...)
	p.b.Begin()
	return p
}

// shareSecrets copies the key file of another server.
func shareSecrets(from *hstest.Server) func(*config.Config) {
	return func(cfg *config.Config) { cfg.Database.SecretsKeyPath = from.Config.Database.SecretsKeyPath }
}

func noisePublic(t *testing.T, s *hstest.Server) string {
	t.Helper()
	k, err := tsp.DiscoverServerKey(hstest.Context(t), s.URL)
	if err != nil {
		t.Fatal(err)
	}
	return k.String()
}

// A server finds the Noise key in the database, or says what it misses.
func TestServersShareTheNoiseKey(t *testing.T) {
	db := hstest.StartPostgres(t)
	use := db.Database()
	a := hstest.Start(t, use)
	want := noisePublic(t, a)

	b := hstest.Prepare(t, use)
	if err := b.TryBegin(); err == nil || !strings.Contains(err.Error(), "copy "+b.Config.Database.SecretsKeyPath+" from a server that runs") {
		t.Errorf("without the key: got %v, want what to copy", err)
	}
	if err := os.WriteFile(b.Config.Database.SecretsKeyPath, []byte(strings.Repeat("0", 64)), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := b.TryBegin(); err == nil || !strings.Contains(err.Error(), "does not open") {
		t.Errorf("with a wrong key: got %v, want that it does not open", err)
	}
	text, err := os.ReadFile(a.Config.Database.SecretsKeyPath)
	if err != nil {
		t.Fatal(err)
	}
	b.Config.Database.SecretsKey = strings.TrimSpace(string(text)) // wins over the file
	b.Begin()
	if got := noisePublic(t, b); got != want {
		t.Errorf("got key %s at the second server, want %s", got, want)
	}
	for _, s := range []*hstest.Server{a, b} {
		if _, err := os.Stat(s.Config.Noise.PrivateKeyPath); err == nil {
			t.Errorf("%s was made, want the key in the database only", s.Config.Noise.PrivateKeyPath)
		}
	}
	if sealed := db.SQL("test1", "SELECT encode(sealed, 'escape') FROM secrets"); strings.Contains(sealed, "privkey") {
		t.Error("the database has the key readable")
	}

	// Another key in a file is not passed over.
	a.End()
	other := hstest.Start(t)
	a.Config.Noise.PrivateKeyPath = other.Config.Noise.PrivateKeyPath
	if err := a.TryBegin(); err == nil || !strings.Contains(err.Error(), "has another Noise key") {
		t.Errorf("with another key in the file: got %v, want a refusal", err)
	}
}

// Servers that start at the same time on an empty database, with the same key of its secrets, all take what the first
// brings.
func TestServersBeginTogether(t *testing.T) {
	use := hstest.StartPostgres(t).Database()
	var all []*hstest.Server
	var begun sync.WaitGroup
	for range 3 {
		s := hstest.Prepare(t, use, func(cfg *config.Config) {
			cfg.Database.SecretsKey = strings.Repeat("5e", 32)
			cfg.DERP.Server.Enabled, cfg.DERP.Server.STUNListenAddr = true, ""
		})
		all = append(all, s)
		begun.Go(func() {
			if err := s.TryBegin(); err != nil {
				t.Errorf("a server did not start: %v", err)
			}
		})
	}
	if begun.Wait(); t.Failed() {
		return
	}
	for _, s := range all[1:] {
		if got, want := noisePublic(t, s), noisePublic(t, all[0]); got != want {
			t.Errorf("got key %s, want %s as at the first", got, want)
		}
	}
	n := all[0].Node("n")
	n.Join(all[0].Key(all[0].User("anna")))
	n.Poll().Await("three relays", func(m *hstest.Netmap) bool {
		return m.DERP != nil && m.DERP.Regions[999] != nil && len(m.DERP.Regions[999].Nodes) == 3
	})
}

// An installation of before, with its key in a file, keeps it; a server that has not the file does not make another.
func TestNoiseKeyIsBroughtOnce(t *testing.T) {
	db := hstest.StartPostgres(t)
	use := db.Database()
	old := hstest.Start(t) // of an SQLite installation, for its key file
	want := noisePublic(t, old)
	a := hstest.Start(t, use)
	a.Node("n").Join(a.Key(a.User("anna")))
	a.End()
	db.SQL("test1", "DELETE FROM secrets") // as before there were any
	if err := a.TryBegin(); err == nil || !strings.Contains(err.Error(), "start that one first") {
		t.Errorf("nodes and no key: got %v, want a refusal", err)
	}
	a.Config.Noise.PrivateKeyPath = old.Config.Noise.PrivateKeyPath
	a.Begin()
	if got := noisePublic(t, a); got != want {
		t.Errorf("got key %s, want that of the file, %s", got, want)
	}
	b := hstest.Start(t, use, shareSecrets(a))
	if got := noisePublic(t, b); got != want {
		t.Errorf("got key %s at the second server, want %s", got, want)
	}
}

// Nodes of two servers see each other as those of one do: who is online, and which router serves a route.
func TestOnlineAndRoutesAcrossServers(t *testing.T) {
	p := startPair(t)
	secret := p.a.Key(p.a.User("anna"))
	route := netip.MustParsePrefix("10.9.0.0/24")
	router := func(s *hstest.Server, name string) *hstest.Poll {
		n := s.Node(name)
		n.Hostinfo.RoutableIPs = []netip.Prefix{route}
		n.Join(secret)
		poll := n.Poll()
		if _, err := p.a.Store().ApproveRoutes(hstest.Context(t), tailnet.NodeID(poll.Netmap.Node.ID), []netip.Prefix{route}); err != nil {
			t.Fatal(err)
		}
		return poll
	}
	viewer := p.a.Node("viewer")
	viewer.Join(secret) // at the first, and goes to the second at once
	viewer.Use(p.b)
	pv := viewer.Poll()
	serves := func(name string) func(*hstest.Netmap) bool {
		return func(m *hstest.Netmap) bool {
			r := m.Peer(name)
			return r != nil && r.Online != nil && *r.Online && slices.Contains(r.PrimaryRoutes, route)
		}
	}
	first := router(p.a, "first")
	pv.Await("the first router to serve", serves("first"))
	router(p.b, "second")
	first.Close()
	pv.Await("the second router to serve", serves("second"))
	pv.Await("the first to be offline", func(m *hstest.Netmap) bool { return !*m.Peer("first").Online })

	// The first server ends in order: its nodes are offline, and come back at the other.
	third := p.a.Node("third")
	third.Join(secret)
	third.Poll()
	pv.Await("the third to be online", func(m *hstest.Netmap) bool { n := m.Peer("third"); return n != nil && n.Online != nil && *n.Online })
	p.a.End()
	pv.Await("the third to be offline", func(m *hstest.Netmap) bool { return !*m.Peer("third").Online })
	third.Use(p.b)
	third.Poll()
	pv.Await("the third to be online again", func(m *hstest.Netmap) bool { return *m.Peer("third").Online })
}

// A client may answer the question whether it is there on another connection than it was asked on, which a load balancer
// gives to another server: it keeps its route all the same.
func TestRouterAnswersAtAnotherServer(t *testing.T) {
	p := startPair(t, func(cfg *config.Config) {
		cfg.Node.HAProbeInterval, cfg.Node.HAProbeTimeout = 100*time.Millisecond, 6*time.Second // for an answer of a busy machine
	})
	secret := p.a.Key(p.a.User("anna"))
	route := netip.MustParsePrefix("10.9.0.0/24")
	asked := make(chan string, 100)
	var wg sync.WaitGroup
	defer wg.Wait()
	for _, name := range []string{"first", "second"} {
		n := p.a.Node(name)
		n.Hostinfo.RoutableIPs = []netip.Prefix{route}
		n.Join(secret)
		poll := n.Poll()
		if _, err := p.a.Store().ApproveRoutes(hstest.Context(t), tailnet.NodeID(poll.Netmap.Node.ID), []netip.Prefix{route}); err != nil {
			t.Fatal(err)
		}
		elsewhere := p.b.Node(name) // the same machine
		elsewhere.Machine, elsewhere.Key = n.Machine, n.Key
		poll.Pings = func(url string) {
			req, err := http.NewRequestWithContext(hstest.Context(t), http.MethodHead, url, nil)
			if err != nil {
				t.Error(err)
				return
			}
			resp, err := elsewhere.Do(req)
			if err != nil {
				t.Error(err)
				return
			}
			resp.Body.Close()
			asked <- name
		}
		wg.Go(func() {
			for poll.Next() == nil {
			}
			asked <- name + " was given up"
		})
		defer poll.Close()
	}
	for range 6 { // three rounds: the first two were judged
		if got := <-asked; strings.Contains(got, "given up") {
			t.Fatalf("%s, although it answered at the other server", got)
		}
	}
	row, err := p.a.Store().GetNode(hstest.Context(t), 1)
	if err != nil || !slices.Contains(row.PrimaryRoutes, route) {
		t.Errorf("got primary routes %v and %v of the first router, want %v as before", row.PrimaryRoutes, err, route)
	}
	// A machine that serves no route leaves nothing behind, whatever it says.
	stranger := p.b.Node("stranger")
	stranger.Join(secret)
	req, err := http.NewRequestWithContext(hstest.Context(t), http.MethodHead, "https://unused/machine/ping-response?id=abc", nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := stranger.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if rows := p.db.SQL("test1", "SELECT count(*) FROM probe_answers"); rows != "2" {
		t.Errorf("got %s answers in the database, want one of each router", rows)
	}
}

// lateChange is how long a change at another server may take without notifications. Where nothing else has to be done it
// takes a quarter of a second.
const lateChange = 15 * time.Second

// heardWithin has a node change its endpoint at one server and gives how long a poll at the other waits for it.
func heardWithin(t *testing.T, changer *hstest.Node, id tailcfg.NodeID, poll *hstest.Poll, port uint16) time.Duration {
	t.Helper()
	begun := time.Now()
	changer.Update(fmt.Sprintf("192.0.2.1:%d", port))
	poll.Await("the endpoint", func(m *hstest.Netmap) bool {
		p := m.Peers[id]
		return p != nil && len(p.Endpoints) == 1 && p.Endpoints[0].Port() == port
	})
	return time.Since(begun)
}

// await looks again and again until ok holds.
func await(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(hstest.Patience); !ok(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not so within %v: %s", hstest.Patience, what)
		}
	}
}

func listening(s *hstest.Server) func() bool {
	return func() bool { ok, _ := s.Store().Listening(); return ok }
}

// The connection that listens is cut: what changes meanwhile comes a moment later, and then it listens again.
func TestListeningIsCut(t *testing.T) {
	p := startPair(t)
	secret := p.a.Key(p.a.User("anna"))
	changer, watcher := p.a.Node("changer"), p.b.Node("watcher")
	changer.Join(secret)
	watcher.Join(secret)
	id, poll := changer.Poll().Netmap.Node.ID, watcher.Poll()
	both := func() bool { // of their connections too, as a server hears a moment later that its own was cut
		open := p.db.SQL("test1", "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'LISTEN%'")
		return open == "2" && listening(p.a)() && listening(p.b)()
	}
	await(t, "both listen", both)
	for round := range uint16(3) {
		cut := p.db.SQL("test1", "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE query LIKE 'LISTEN%'")
		if cut != "2" {
			t.Fatalf("got %s connections that listen to cut, want 2", cut)
		}
		took := heardWithin(t, changer, id, poll, 1000+round)
		t.Logf("a change while nobody listens came after %v", took)
		if took > lateChange {
			t.Errorf("a change while nobody listens came after %v, want %v at most", took, lateChange)
		}
		await(t, "both listen again", both)
	}
}

// pgbouncer between: with pool_mode session all is as without it; with transaction notifications do not come through,
// which the server finds out, tells, and makes up for.
func TestBehindPgBouncer(t *testing.T) {
	for _, mode := range []string{"session", "transaction"} {
		t.Run(mode, func(t *testing.T) {
			db := hstest.StartPostgres(t)
			edits := []func(*config.Config){db.Database(), db.PgBouncer(mode)}
			a := hstest.Start(t, edits...)
			b := hstest.Start(t, append(edits, shareSecrets(a))...)
			secret := a.Key(a.User("anna"))
			changer, watcher := a.Node("changer"), b.Node("watcher")
			changer.Join(secret)
			watcher.Join(secret)
			id, poll := changer.Poll().Netmap.Node.ID, watcher.Poll()
			if mode == "session" {
				await(t, "both listen", func() bool { return listening(a)() && listening(b)() })
			} else {
				for _, s := range []*hstest.Server{a, b} {
					await(t, "it tells that it hears nothing", func() bool {
						return strings.Contains(strings.Join(s.Faults(t.Context()), " "), "pool_mode = session")
					})
				}
			}
			for port := range uint16(20) {
				if took := heardWithin(t, changer, id, poll, 1000+port); took > lateChange {
					t.Errorf("a change came after %v, want %v at most", took, lateChange)
				}
			}
		})
	}
}
