package hstest_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"tailscale.com/tailcfg"

	"github.com/keelscale/keelscale/hscontrol/hstest"
)

// TestSoakMesh lets a server live through what clients do to it, for SOAK (such as 10m): they move, come, die without a
// word, stop reading, never read, and leave connections half open, while the policy changes. All the while its memory
// stays bounded and it ends no poll of its own; afterwards every client knows what is true.
func TestSoakMesh(t *testing.T) {
	text := os.Getenv("SOAK")
	if text == "" {
		t.Skip("SOAK is not set: make soak-mesh runs this for ten minutes")
	}
	span, err := time.ParseDuration(text)
	if err != nil {
		t.Fatalf("SOAK: %v", err)
	}
	m := startMeshSoak(t)
	ctx, stop := context.WithTimeout(t.Context(), span)
	defer stop()
	var wait sync.WaitGroup
	for _, n := range m.steady {
		wait.Go(func() { m.move(ctx, n) })
	}
	for _, n := range m.comers {
		wait.Go(func() { m.comeAndGo(ctx, n) })
	}
	for _, n := range m.halfOpen {
		wait.Go(func() { m.leaveHalfOpen(ctx, n) })
	}
	for _, n := range m.blind {
		wait.Go(func() { m.neverRead(ctx, n) })
	}
	wait.Go(func() { m.freeze(ctx) })
	wait.Go(func() { m.changePolicy(ctx) })
	wait.Go(func() { m.watch(ctx, span) })
	wait.Wait()
	m.judge()
}

const (
	meshSteady = 30 // poll all the time and move
	meshComers = 20 // come and go
	meshSlow   = 6  // poll all the time, and do not read for seconds
	meshHalf   = 4  // leave connections open that lead nowhere
	meshBlind  = 4  // ask for maps and never read
	meshAll    = meshSteady + meshComers + meshSlow + meshHalf + meshBlind
	meshRSS    = 256 << 20 // bytes, whatever happens
	meshPause  = 600 * time.Millisecond
)

// meshSoak is a server, its clients, and what happened to them.
type meshSoak struct {
	t      *testing.T
	server *hstest.Process
	frozen *freezer // between the slow ones and the server

	steady, comers, slow, halfOpen, blind, all []*hstest.Node

	ending    atomic.Bool // the last changes are being made: readers end when they know them
	keepers   []*keeper   // of the steady and the slow ones
	reading   sync.WaitGroup
	holes     []*freezer
	holesLock sync.Mutex

	moves, visits, freezes, lost, policies, unread atomic.Int64
	early, late                                    int64 // bytes: the most memory in the first and the last third
}

// keeper is a node whose poll stays open from the beginning to the end.
type keeper struct {
	node *hstest.Node
	poll *hstest.Poll
}

// openPolicy lets everyone see everyone; the soak ends with it.
const openPolicy = `{"acls": [{"action": "accept", "src": ["*"], "dst": ["*:*"]}]}`

func startMeshSoak(t *testing.T) *meshSoak {
	m := &meshSoak{t: t, server: hstest.StartProcess(t, "policy: {mode: database}\n")}
	m.frozen = newFreezer(t, m.server.URL)
	key := m.server.ProcessKey()
	for i := range meshAll {
		n := m.server.Node("n" + strconv.Itoa(i))
		n.Join(key)
		m.all = append(m.all, n)
	}
	rest := m.all
	m.steady, rest = rest[:meshSteady], rest[meshSteady:]
	m.comers, rest = rest[:meshComers], rest[meshComers:]
	m.slow, rest = rest[:meshSlow], rest[meshSlow:]
	m.halfOpen, m.blind = rest[:meshHalf], rest[meshHalf:]
	near := m.server.Server
	near.URL = "http://" + m.frozen.listener.Addr().String()
	for _, n := range m.slow {
		n.Use(&near)
	}
	for _, list := range [][]*hstest.Node{m.steady, m.slow} {
		for _, n := range list {
			k := &keeper{node: n, poll: n.Poll()}
			m.keepers = append(m.keepers, k)
			m.reading.Go(func() { m.read(k) })
		}
	}
	return m
}

// read reads a poll until the end, when it has to know everything.
func (m *meshSoak) read(k *keeper) {
	for !m.ending.Load() || !m.right(k.poll.Netmap) {
		if err := k.poll.Next(); err != nil {
			m.t.Errorf("the poll of %s ended: %v (its picture: %s)", k.node.Name, err, m.wrong(k.poll.Netmap))
			return
		}
	}
}

// finalPort is where each node is at the end.
const finalPort = 61000

func (m *meshSoak) right(n *hstest.Netmap) bool { return m.wrong(n) == "" }

// wrong says what is not as it is at the end, empty if all is.
func (m *meshSoak) wrong(n *hstest.Netmap) string {
	if got := len(n.Peers); got != meshAll-1 {
		return fmt.Sprintf("got %d peers, want %d", got, meshAll-1)
	}
	for _, p := range n.Peers {
		switch {
		case len(p.Endpoints) != 1 || p.Endpoints[0].Port() != finalPort:
			return fmt.Sprintf("%s is at %v, want port %d", p.Hostinfo.Hostname(), p.Endpoints, finalPort)
		case p.Online == nil || !*p.Online:
			return p.Hostinfo.Hostname() + " is not online"
		}
	}
	return ""
}

// pause waits for about d, and says whether the soak goes on.
func pause(ctx context.Context, d time.Duration) bool {
	select {
	case <-time.After(d/2 + rand.N(d)):
	case <-ctx.Done():
	}
	return ctx.Err() == nil
}

// update tells the server where a node is.
func (m *meshSoak) update(n *hstest.Node, port int) {
	if status, text := n.TryUpdate(hstest.Context(m.t), "192.0.2.1:"+strconv.Itoa(port)); status != http.StatusOK {
		m.t.Errorf("%s updates: got status %d: %s", n.Name, status, text)
	}
}

// move changes a node's endpoint again and again.
func (m *meshSoak) move(ctx context.Context, n *hstest.Node) {
	for pause(ctx, meshPause) {
		m.update(n, 1+rand.N(60000))
		m.moves.Add(1)
	}
}

// comeAndGo has a node poll for a while, and leave in one of the ways in which nodes do.
func (m *meshSoak) comeAndGo(ctx context.Context, n *hstest.Node) {
	for pause(ctx, meshPause) {
		p, err := n.TryPoll()
		if err != nil {
			m.t.Errorf("%s polls: %v", n.Name, err)
			return
		}
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			for p.Next() == nil {
			}
		}()
		pause(ctx, 2*meshPause)
		select {
		case <-ended:
			m.t.Errorf("the poll of %s ended", n.Name)
		default:
		}
		if rand.N(2) == 0 {
			p.Close() // the request ends first, the connection stays a moment
			<-ended
		}
		n.Disconnect() // killed
		<-ended
		p.Close()
		m.visits.Add(1)
	}
}

// freeze has the slow ones not read for seconds.
func (m *meshSoak) freeze(ctx context.Context) {
	for pause(ctx, 3*time.Second) {
		m.frozen.gate.Lock()
		pause(ctx, 6*time.Second)
		m.frozen.gate.Unlock()
		m.freezes.Add(1)
	}
}

// leaveHalfOpen has a node poll over a connection that then leads nowhere, though neither side hears of it, and come
// again over another.
func (m *meshSoak) leaveHalfOpen(ctx context.Context, n *hstest.Node) {
	for pause(ctx, 5*time.Second) {
		hole := newFreezer(m.t, m.server.URL)
		near := m.server.Server
		near.URL = "http://" + hole.listener.Addr().String()
		n.Use(&near)
		p, err := n.TryPoll()
		if err != nil {
			m.t.Errorf("%s polls: %v", n.Name, err)
			return
		}
		hole.gate.Lock()
		m.holesLock.Lock()
		m.holes = append(m.holes, hole)
		m.holesLock.Unlock()
		defer p.Close()
		m.lost.Add(1)
	}
}

// neverRead asks for maps and leaves what comes to whoever is in between.
func (m *meshSoak) neverRead(ctx context.Context, n *hstest.Node) {
	for pause(ctx, 10*time.Second) {
		body := &tailcfg.MapRequest{
			Version: n.Cap, Compress: "zstd", KeepAlive: true, Stream: true,
			NodeKey: n.Key.Public(), DiscoKey: n.Disco.Public(), Hostinfo: n.Hostinfo,
		}
		resp, err := n.Post(ctx, "/machine/map", body)
		if err != nil {
			if ctx.Err() == nil {
				m.t.Errorf("%s polls: %v", n.Name, err)
			}
			return
		}
		defer resp.Body.Close()
		m.unread.Add(1)
	}
}

// changePolicy puts other policies in force: ones that hide nodes from one another among them.
func (m *meshSoak) changePolicy(ctx context.Context) {
	for i := 0; pause(ctx, 4*time.Second); i++ {
		m.putPolicy([]string{
			fmt.Sprintf(`{"acls": [{"action": "accept", "src": ["bench@"], "dst": ["bench@:%d"]}]}`, 1+i%60000),
			fmt.Sprintf(`{"hosts": {"one": "100.64.0.%d"}, "acls": [{"action": "accept", "src": ["one"], "dst": ["*:22"]}]}`, 1+i%meshAll),
			`{"acls": [{"action": "accept", "src": ["autogroup:member"], "dst": ["autogroup:self:*"]}]}`,
		}[i%3])
	}
}

func (m *meshSoak) putPolicy(text string) {
	path := filepath.Join(m.t.TempDir(), "policy.json")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		m.t.Error(err)
		return
	}
	m.server.CLI("policy", "set", "-f", path)
	m.policies.Add(1)
}

// watch measures the server each second.
func (m *meshSoak) watch(ctx context.Context, span time.Duration) {
	began := time.Now()
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		rss, err := residentBytes(m.server.PID())
		if err != nil {
			m.t.Errorf("measuring the server: %v", err)
			return
		}
		switch at := time.Since(began); {
		case at < span/3:
			m.early = max(m.early, rss)
		case at > 2*span/3:
			m.late = max(m.late, rss)
		}
		if rss > meshRSS {
			m.t.Errorf("the server has %d MB, want at most %d", rss>>20, meshRSS>>20)
			return
		}
	}
}

// judge makes the last changes, and says what came of it all.
func (m *meshSoak) judge() {
	t := m.t
	for what, n := range map[string]int64{"move": m.moves.Load(), "visit": m.visits.Load(), "freeze": m.freezes.Load(),
		"half-open connection": m.lost.Load(), "policy": m.policies.Load(), "map that nobody reads": m.unread.Load()} {
		if n == 0 {
			t.Errorf("not one %s in all the time", what)
		}
	}
	for _, hole := range m.holes {
		hole.gate.Unlock()
	}
	m.ending.Store(true)
	m.putPolicy(openPolicy)
	for _, list := range [][]*hstest.Node{m.comers, m.halfOpen, m.blind} {
		for _, n := range list {
			n.Use(&m.server.Server)
			p := n.Poll()
			defer p.Close()
			go io.Copy(io.Discard, reading{p})
		}
	}
	for _, n := range m.all {
		m.update(n, finalPort)
	}
	late := time.AfterFunc(time.Minute, func() {
		for _, k := range m.keepers {
			k.poll.Close()
		}
	})
	defer late.Stop()
	m.reading.Wait()
	t.Logf("%d moves, %d visits, %d freezes, %d half-open connections, %d maps unread, %d policies; memory at most %d MB in the first third, %d MB in the last",
		m.moves.Load(), m.visits.Load(), m.freezes.Load(), m.lost.Load(), m.unread.Load(), m.policies.Load(), m.early>>20, m.late>>20)
	if m.late > m.early+m.early/2+16<<20 {
		t.Errorf("memory grew from %d MB to %d MB", m.early>>20, m.late>>20)
	}
	if !t.Failed() {
		m.compare()
	}
}

// compare holds what was put together from all the differences against a map that is made afresh.
func (m *meshSoak) compare() {
	for _, k := range m.keepers {
		fresh, err := k.node.TryPoll()
		if err != nil {
			m.t.Errorf("%s polls anew: %v", k.node.Name, err)
			continue
		}
		if diff := cmp.Diff(plain(m.t, fresh.Netmap), plain(m.t, k.poll.Netmap)); diff != "" {
			m.t.Errorf("%s knows something else than a fresh map says (-fresh +known):\n%s", k.node.Name, diff)
		}
		defer fresh.Close() // not before all are compared: the node would go offline
	}
}

// plain is a netmap as it can be compared: without the profiles, of which a client keeps those of users that are gone.
func plain(t *testing.T, n *hstest.Netmap) (out map[string]any) {
	c := *n
	c.Profiles = nil
	text, err := json.Marshal(&c)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(text, &out); err != nil {
		t.Fatal(err)
	}
	return out
}
