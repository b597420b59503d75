package hstest_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/url"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"tailscale.com/tailcfg"

	"github.com/keelscale/keelscale/hscontrol/hstest"
)

// balanced are two server processes on one PostgreSQL behind one haproxy, and the only address that clients know.
type balanced struct {
	*hstest.Balancer
	t             *testing.T
	db            *hstest.Postgres
	first, second *hstest.Process
	key           string // of the API
}

func startBalanced(t *testing.T, mode string) *balanced {
	t.Helper()
	db := hstest.StartPostgres(t)
	text := section(db.Database(), filepath.Join(t.TempDir(), "secrets.key"))
	b := &balanced{t: t, db: db, first: hstest.StartProcess(t, text)}
	b.second = hstest.StartProgram(t, b.first.Program, text)
	b.Balancer = hstest.StartBalancer(t, mode, b.first, b.second)
	b.key = b.first.CLI("apikeys", "create")
	return b
}

// call asks the API through the balancer, on a connection of its own.
func (b *balanced) call(method, path, body string) string {
	b.t.Helper()
	req, err := http.NewRequestWithContext(hstest.Context(b.t), method, b.URL+path, bytes.NewBufferString(body))
	if err != nil {
		b.t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+b.key)
	req.Close = true
	resp, err := http.DefaultTransport.RoundTrip(req)
	if err != nil {
		b.t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		b.t.Fatalf("%s %s: got %s and %v: %s", method, path, resp.Status, err, text)
	}
	return string(text)
}

var authID = regexp.MustCompile(`hskey-authreq-[0-9a-f]{24}`)

// Each step of a registration, of a login by SSH and of what administrators do lands at another server than the one
// before, through a real load balancer.
func TestStepsBehindBalancer(t *testing.T) {
	for _, mode := range []string{"tcp", "http"} {
		t.Run(mode, func(t *testing.T) {
			b := startBalanced(t, mode)
			b.first.CLI("users", "create", "alice")
			b.register()
			b.administer()
			b.login()
		})
	}
}

// register begins at the first server, is shown by the second and approved there; the client waits at the first and
// polls at the second.
func (b *balanced) register() {
	t, ctx := b.t, hstest.Context(b.t)
	n := b.Node("newcomer")
	b.Only(0)
	asked, err := n.Register(ctx)
	if err != nil || !strings.HasPrefix(asked.AuthURL, b.URL+"/register/") {
		t.Fatalf("got %+v and %v, want a page of the balancer's address", asked, err)
	}
	b.Only(1)
	id := authID.FindString(b.call(http.MethodGet, strings.TrimPrefix(asked.AuthURL, b.URL), ""))
	if id == "" {
		t.Fatal("got no ID at the page of the second server")
	}
	done := make(chan *tailcfg.RegisterResponse, 1)
	go func() {
		resp, err := n.Register(ctx, func(r *tailcfg.RegisterRequest) { r.Followup = asked.AuthURL })
		if err != nil {
			t.Error(err)
		}
		done <- resp
	}()
	b.second.CLI("nodes", "register", "--user", "alice", "--key", id)
	if resp := <-done; resp == nil || !resp.MachineAuthorized {
		t.Fatalf("the waiting client: got %+v, want it let in", resp)
	}
	n.Disconnect()
	n.Poll().Close()
	if open := b.Connections(); open[1] == 0 {
		t.Errorf("got connections %v, want the poll at the second server", open)
	}
}

// administer changes at one server and reads at the other at once.
func (b *balanced) administer() {
	type node struct{ ID, GivenName string }
	list := func() (n struct{ Nodes []node }) {
		if err := json.Unmarshal([]byte(b.call(http.MethodGet, "/api/v1/node", "")), &n); err != nil {
			b.t.Fatal(err)
		}
		return n
	}
	for round := range 10 {
		b.Only(round % 2)
		found := list().Nodes
		if len(found) != 1 {
			b.t.Fatalf("got nodes %+v, want one", found)
		}
		want := fmt.Sprintf("name%d", round)
		b.call(http.MethodPost, "/api/v1/node/"+found[0].ID+"/rename/"+want, "")
		b.Only((round + 1) % 2)
		if got := list().Nodes[0].GivenName; got != want {
			b.t.Errorf("renamed at one server, read at the other: got %s, want %s", got, want)
		}
	}
}

// login waits at the first server for an approval that comes to the second.
func (b *balanced) login() {
	t := b.t
	policy, err := json.Marshal(map[string]string{"policy": `{
		"tagOwners": {"tag:db": ["alice@"]},
		"acls": [{"action": "accept", "src": ["*"], "dst": ["*:*"]}],
		"ssh": [{"action": "check", "checkPeriod": "1h", "src": ["alice@"], "dst": ["tag:db"], "users": ["root"]}],
	}`})
	if err != nil {
		t.Fatal(err)
	}
	b.Only(1)
	b.call(http.MethodPut, "/api/v1/policy", string(policy))
	b.Only(0)
	laptop, db := b.Node("laptop"), b.Node("db")
	laptop.Join(b.first.CLI("preauthkeys", "create", "--user", "alice"))
	db.Join(b.second.CLI("preauthkeys", "create", "--tags", "tag:db"))
	src, dst := laptop.Poll(), db.Poll()
	dst.Await("the rules of SSH", func(m *hstest.Netmap) bool { return m.SSH != nil && len(m.SSH.Rules) > 0 && m.Peer("laptop") != nil })
	ask := func(address string) *tailcfg.SSHAction {
		req, err := http.NewRequestWithContext(hstest.Context(t), http.MethodGet, address, nil)
		if err != nil {
			t.Error(err)
			return new(tailcfg.SSHAction)
		}
		resp, err := db.Do(req)
		if err != nil {
			t.Error(err)
			return new(tailcfg.SSHAction)
		}
		defer resp.Body.Close()
		text, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Error(err)
		}
		action := new(tailcfg.SSHAction)
		if err := json.Unmarshal(text, action); err != nil {
			t.Errorf("asking %s: got %s and %q: %v", address, resp.Status, text, err)
		}
		return action
	}
	held := ask(strings.NewReplacer(
		"$SRC_NODE_ID", fmt.Sprint(int64(src.Netmap.Node.ID)), "$DST_NODE_ID", fmt.Sprint(int64(dst.Netmap.Node.ID)),
		"$SSH_USER", url.QueryEscape("root"), "$LOCAL_USER", url.QueryEscape("root"),
	).Replace(dst.Netmap.SSH.Rules[0].Action.HoldAndDelegate))
	id := authID.FindString(held.Message)
	if id == "" || held.Accept || !strings.Contains(held.Message, b.URL) {
		t.Fatalf("got %+v, want the login to wait, and a page of the balancer's address", held)
	}
	done := make(chan *tailcfg.SSHAction, 1)
	go func() { done <- ask(held.HoldAndDelegate) }()
	b.Only(1)
	b.call(http.MethodPost, "/api/v1/auth/approve", `{"auth_id": "`+id+`"}`)
	if action := <-done; !action.Accept {
		t.Errorf("approved at the second server: got %+v, want the login to go on", action)
	}
}

// One of two servers behind a balancer is killed: its clients come back through the balancer, which has to notice.
func TestServerIsKilledBehindBalancer(t *testing.T) {
	for _, mode := range []string{"tcp", "http"} {
		t.Run(mode, func(t *testing.T) {
			nodes := setting(t, "NODES", 60)
			b := startBalanced(t, mode)
			all, polls := settle(t, b.first.ProcessKey(), []*hstest.Server{&b.first.Server, &b.second.Server}, nodes)
			for i, n := range all { // every other one to each server
				b.Only(i % 2)
				polls[i].Close()
				n.Use(&b.Server)
				polls[i] = n.Poll()
			}
			b.All()
			if open := b.Connections(); open[0] < nodes/2 || open[1] < nodes/2 {
				t.Fatalf("got %v connections at the servers, want %d at each", open, nodes/2)
			}
			begun := time.Now()
			b.first.End(syscall.SIGKILL)
			served := findAnother(t, all, polls, nodes/2)
			t.Logf("%d of %d nodes were at the server that was killed: all served again after %v, all seen by all after %v",
				nodes/2, nodes, served, time.Since(begun))
			if served > servedAgain {
				t.Errorf("got %v until all were served, want %v at most", served, servedAgain)
			}
		})
	}
}

// While the database is away the balancer leaves everybody where he is, and sends those who come to servers that serve
// maps.
func TestDatabaseIsAwayBehindBalancer(t *testing.T) {
	b := startBalanced(t, "http")
	all, polls := settle(t, b.first.ProcessKey(), []*hstest.Server{&b.Server}, 6)
	ended := make(chan int, len(all))
	var wg sync.WaitGroup
	for i, p := range polls {
		wg.Go(func() {
			for p.Next() == nil {
			}
			ended <- i
		})
	}
	b.db.End(syscall.SIGQUIT)
	select {
	case i := <-ended:
		t.Errorf("the poll of node %d ended", i)
	case <-time.After(4 * time.Second): // longer than the balancer takes to give servers up
	}
	b.call(http.MethodGet, "/version", "") // which is what the balancer asks
	if status, _ := all[0].TryUpdate(hstest.Context(t), "192.0.2.1:1"); status != http.StatusServiceUnavailable {
		t.Errorf("an update while the database is away: got status %d, want 503", status)
	}
	for range 4 {
		late := b.Node("late")
		late.Machine, late.Key = all[5].Machine, all[5].Key
		p, err := late.TryPoll()
		if err != nil || len(p.Netmap.Peers) != len(all)-1 {
			t.Fatalf("a poll while the database is away: %v", err)
		}
		p.Close()
		late.Disconnect()
	}
	b.db.Begin()
	await(t, "an update is taken", func() bool {
		status, _ := all[0].TryUpdate(hstest.Context(t), "192.0.2.1:2")
		return status == http.StatusOK
	})
	for _, p := range polls {
		p.Close()
	}
	wg.Wait()
}

// findAnother has the nodes whose streams end poll again, and says how long it took until all who are cut off had their
// maps. Then one that was not, the last node, changes its endpoint, which all must learn, and see all online.
func findAnother(t *testing.T, all []*hstest.Node, polls []*hstest.Poll, cutOff int) time.Duration {
	t.Helper()
	begun, last := time.Now(), len(all)-1
	changer := polls[last].Netmap.Node.ID
	served := make(chan time.Duration, len(all))
	right := func(m *hstest.Netmap) bool {
		n := m.Peers[changer]
		return len(m.Peers) == last && allOnline(m) && len(n.Endpoints) == 1 && n.Endpoints[0].Port() == 4242
	}
	var wg sync.WaitGroup
	for i, n := range all[:last] {
		wg.Go(func() {
			p, pause := polls[i], 10*time.Millisecond
			deadline := begun.Add(hstest.Patience)
			var open atomic.Pointer[hstest.Poll]
			open.Store(p)
			timer := time.AfterFunc(time.Until(deadline), func() { open.Load().Close() })
			defer timer.Stop()
			for ended := false; ended || !right(p.Netmap); {
				if !ended && p.Next() == nil {
					continue
				}
				if time.Now().After(deadline) {
					t.Errorf("node %d is not served, or has not the right picture, within %v", i, hstest.Patience)
					return
				}
				ended = true
				p.Close()
				n.Disconnect()
				if again, err := n.TryPoll(); err == nil {
					p, ended = again, false
					open.Store(p)
					served <- time.Since(begun)
					if p.Netmap.Node.Expired || len(p.Netmap.Peers) != last {
						t.Errorf("node %d: expired %v, %d peers, want all as before", i, p.Netmap.Node.Expired, len(p.Netmap.Peers))
					}
					continue
				}
				time.Sleep(pause/2 + rand.N(pause)) // the client's backoff
				pause = min(2*pause, time.Second)
			}
			polls[i] = p
		})
	}
	var took []time.Duration
	for range cutOff {
		select {
		case d := <-served:
			took = append(took, d)
		case <-time.After(hstest.Patience):
			t.Fatalf("%d of %d nodes were served again, and no more", len(took), cutOff)
		}
	}
	all[last].Update("192.0.2.1:4242")
	polls[last].Await("everybody online", func(m *hstest.Netmap) bool { return len(m.Peers) == last && allOnline(m) })
	wg.Wait()
	return slices.Max(took)
}
