package hscontrol_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"tailscale.com/tailcfg"

	headscalev1 "github.com/keelscale/keelscale/proto/headscale/v1"

	"github.com/keelscale/keelscale/hscontrol/api"
	"github.com/keelscale/keelscale/hscontrol/config"
	"github.com/keelscale/keelscale/hscontrol/hstest"
	"github.com/keelscale/keelscale/hscontrol/tailnet"
)

// admin is a command line at the server's unix socket.
func admin(t *testing.T, s *hstest.Server) headscalev1.HeadscaleServiceClient {
	t.Helper()
	conn, err := grpc.NewClient("unix:"+s.Config.UnixSocket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return headscalev1.NewHeadscaleServiceClient(conn)
}

const checking = `{
	"tagOwners": {"tag:db": []},
	"acls": [{"action": "accept", "src": ["*"], "dst": ["*:*"]}],
	"ssh": [
		{"action": "check", "checkPeriod": "1h", "src": ["alice@"], "dst": ["tag:db"], "users": ["root"]},
		{"action": "check", "checkPeriod": "always", "src": ["alice@"], "dst": ["tag:db"], "users": ["postgres"]},
	],
}`

// checked is a tailnet in which alice's laptop may log in to db once somebody approves it.
type checked struct {
	*hstest.Server
	t          *testing.T
	laptop, db *hstest.Node
	src, dst   tailnet.NodeID
}

func newChecked(t *testing.T, edit ...func(*config.Config)) *checked {
	s := hstest.Start(t, edit...)
	c := &checked{Server: s, t: t, laptop: s.Node("laptop"), db: s.Node("db")}
	c.laptop.Join(s.Key(s.User("alice")))
	c.db.Join(s.Key(nil, func(k *tailnet.PreAuthKey) { k.Tags = []string{"tag:db"} }))
	if _, err := admin(t, s).SetPolicy(hstest.Context(t), &headscalev1.SetPolicyRequest{Policy: checking}); err != nil {
		t.Fatal(err)
	}
	c.src, c.dst = c.id(c.laptop), c.id(c.db)
	return c
}

func (c *checked) id(n *hstest.Node) tailnet.NodeID {
	c.t.Helper()
	found, err := c.Store().FindNodeByKey(hstest.Context(c.t), n.Key.Public())
	if err != nil {
		c.t.Fatal(err)
	}
	return found.ID
}

// address is that of the policy, with its variables filled in as a client does.
func (c *checked) address(login string) string {
	c.t.Helper()
	p := c.db.Poll()
	defer p.Close()
	p.Await("the rules of SSH", func(m *hstest.Netmap) bool { return m.SSH != nil && len(m.SSH.Rules) > 0 })
	return strings.NewReplacer(
		"$SRC_NODE_ID", fmt.Sprint(c.src), "$DST_NODE_ID", fmt.Sprint(c.dst),
		"$SSH_USER", url.QueryEscape(login), "$LOCAL_USER", url.QueryEscape(login),
	).Replace(p.Netmap.SSH.Rules[0].Action.HoldAndDelegate)
}

// fetch asks as a client does that holds a session.
func (c *checked) fetch(n *hstest.Node, address string) (int, *tailcfg.SSHAction) {
	c.t.Helper()
	req, err := http.NewRequestWithContext(hstest.Context(c.t), http.MethodGet, address, nil)
	if err != nil {
		c.t.Fatal(err)
	}
	resp, err := n.Do(req)
	if err != nil {
		c.t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		c.t.Fatal(err)
	}
	action := new(tailcfg.SSHAction)
	if resp.StatusCode == http.StatusOK {
		if err := json.Unmarshal(text, action); err != nil {
			c.t.Fatalf("reading %q: %v", text, err)
		}
	}
	return resp.StatusCode, action
}

var authID = regexp.MustCompile(`hskey-authreq-[0-9a-f]{24}`)

// hold begins a login, which must wait, and gives its ID and where the client waits.
func (c *checked) hold(login string) (id, address string) {
	c.t.Helper()
	_, action := c.fetch(c.db, c.address(login))
	id = authID.FindString(action.Message)
	if id == "" || action.HoldAndDelegate == "" || action.Accept || action.Reject {
		c.t.Fatalf("logging in as %s: got %+v, want it to wait, and to say for whom", login, action)
	}
	if !strings.Contains(action.Message, "headscale auth approve --auth-id "+id) || !strings.Contains(action.Message, c.URL+"/auth/"+id) {
		c.t.Errorf("got the message %q, want the command and the page in it", action.Message)
	}
	return id, action.HoldAndDelegate
}

func (c *checked) page(id string) string {
	c.t.Helper()
	resp, err := http.Get(c.URL + "/auth/" + id)
	if err != nil {
		c.t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		c.t.Fatal(err)
	}
	return string(text)
}

// later fetches while the test goes on.
func (c *checked) later(address string) <-chan *tailcfg.SSHAction {
	got := make(chan *tailcfg.SSHAction, 1)
	go func() {
		_, action := c.fetch(c.db, address)
		got <- action
	}()
	return got
}

func TestSSHCheck(t *testing.T) {
	c := newChecked(t)
	ctx := hstest.Context(t)
	cli := admin(t, c.Server)

	id, where := c.hold("root")
	for _, want := range []string{"laptop", "alice", "db", "headscale auth approve --auth-id <span>" + id} {
		if page := c.page(id); !strings.Contains(page, want) {
			t.Errorf("the page of the login: got no %q in\n%s", want, page)
		}
	}
	if again, _ := c.hold("root"); again != id {
		t.Errorf("the same login twice: got %s, want the ID of the first", again)
	}
	waiting := c.later(where)
	if _, err := cli.AuthApprove(ctx, &headscalev1.AuthApproveRequest{AuthId: id}); err != nil {
		t.Fatal(err)
	}
	if action := <-waiting; !action.Accept || !action.AllowLocalPortForwarding {
		t.Errorf("after the approval: got %+v, want it to go on", action)
	}
	if page := c.page(id); !strings.Contains(page, "The login was approved") {
		t.Errorf("the page after the approval:\n%s", page)
	}
	if _, action := c.fetch(c.db, c.address("root")); !action.Accept {
		t.Errorf("the next login: got %+v, want the approval remembered", action)
	}

	// A restart forgets nothing; taking the approval back does.
	c.End()
	c.Begin()
	c.db.Disconnect()
	if _, action := c.fetch(c.db, c.address("root")); !action.Accept {
		t.Errorf("after a restart: got %+v, want the approval remembered", action)
	}
	cli = admin(t, c.Server)
	if _, err := cli.AuthReject(ctx, &headscalev1.AuthRejectRequest{AuthId: id}); err != nil {
		t.Fatal(err)
	}
	id, where = c.hold("root")
	if _, err := cli.AuthReject(ctx, &headscalev1.AuthRejectRequest{AuthId: id}); err != nil {
		t.Fatal(err)
	}
	if status, action := c.fetch(c.db, where); status != http.StatusOK || !action.Reject || !strings.Contains(action.Message, "rejected") {
		t.Errorf("a login that was rejected: got status %d, %+v, want 200 and an end", status, action)
	}
}

func TestSSHCheckAtEveryLogin(t *testing.T) {
	c := newChecked(t)
	first, where := c.hold("postgres")
	if _, err := admin(t, c.Server).AuthApprove(hstest.Context(t), &headscalev1.AuthApproveRequest{AuthId: first}); err != nil {
		t.Fatal(err)
	}
	if _, action := c.fetch(c.db, where); !action.Accept {
		t.Errorf("got %+v, want it to go on", action)
	}
	if second, _ := c.hold("postgres"); second == first {
		t.Error("the second login got the ID of the first")
	}
}

func TestSSHCheckRefusals(t *testing.T) {
	c := newChecked(t)
	address := c.address("root")
	if status, _ := c.fetch(c.laptop, address); status != http.StatusForbidden {
		t.Errorf("asked by another machine than the one that is logged in to: got status %d, want 403", status)
	}
	for name, address := range map[string]string{
		"a name that no rule has":    strings.Replace(address, "ssh_user=root", "ssh_user=mallory", 1),
		"a node that is not there":   strings.Replace(address, fmt.Sprintf("action/%d/", c.src), "action/999/", 1),
		"the other way round":        strings.Replace(address, fmt.Sprintf("action/%d/", c.src), fmt.Sprintf("action/%d/", c.dst), 1),
		"an ID that nobody gave out": address + "&check=hskey-authreq-000000000000000000000000",
	} {
		if status, action := c.fetch(c.db, address); status != http.StatusOK || !action.Reject || action.Message == "" {
			t.Errorf("%s: got status %d, %+v, want 200 and an end", name, status, action)
		}
	}
	if status, _ := c.fetch(c.db, strings.Replace(address, "ssh_user=root", "ssh_user=", 1)); status != http.StatusBadRequest {
		t.Errorf("no login name: got status %d, want 400", status)
	}

	// An approval for one login is worth nothing for another, nor after the node has another owner.
	id, where := c.hold("root")
	if status, action := c.fetch(c.db, strings.Replace(where, "ssh_user=root", "ssh_user=postgres", 1)); status != http.StatusOK || !action.Reject {
		t.Errorf("another login's ID: got status %d, %+v, want an end", status, action)
	}
	if _, err := admin(t, c.Server).AuthApprove(hstest.Context(t), &headscalev1.AuthApproveRequest{AuthId: id}); err != nil {
		t.Fatal(err)
	}
	bob := c.User("bob")
	if _, err := c.Store().MoveNode(context.Background(), c.src, bob.ID); err != nil {
		t.Fatal(err)
	}
	policy := strings.ReplaceAll(checking, "alice@", "bob@")
	if _, err := admin(t, c.Server).SetPolicy(hstest.Context(t), &headscalev1.SetPolicyRequest{Policy: policy}); err != nil {
		t.Fatal(err)
	}
	if second, _ := c.hold("root"); second == id {
		t.Error("after the node was moved: got the former login")
	}

	// Without its rule a login ends.
	waiting := c.later(where)
	if _, err := admin(t, c.Server).SetPolicy(hstest.Context(t), &headscalev1.SetPolicyRequest{Policy: `{"ssh": []}`}); err != nil {
		t.Fatal(err)
	}
	if action := <-waiting; !action.Reject {
		t.Errorf("after the rule went: got %+v, want an end", action)
	}
}

// faultsWith is what the server says of its health once want is in it: a change in the store reaches it a moment later.
func faultsWith(t *testing.T, s *hstest.Server, want string) (said string) {
	t.Helper()
	for ctx := hstest.Context(t); !strings.Contains(said, want); time.Sleep(5 * time.Millisecond) {
		if ctx.Err() != nil {
			t.Fatalf("health: got %q, want %q in it", said, want)
		}
		said = strings.Join(s.Faults(ctx), "\n")
	}
	return said
}

// A stored policy that cannot be used leaves the one before it in force, over a restart too, and everybody is told.
func TestBadStoredPolicy(t *testing.T) {
	s := hstest.Start(t)
	ctx := hstest.Context(t)
	secret := s.Key(s.User("alice"))
	a, b := s.Node("alpha"), s.Node("beta")
	a.Join(secret)
	b.Join(secret)
	const good = `{"acls": [{"action": "accept", "src": ["alice@"], "dst": ["alice@:22"]}]}`
	if _, err := admin(t, s).SetPolicy(ctx, &headscalev1.SetPolicyRequest{Policy: good, Note: "only SSH"}); err != nil {
		t.Fatal(err)
	}
	s.SetPolicy(`{"acls": [{"action": "perhaps", "src": ["*"], "dst": ["*:*"]}]}`) // as a later release might have stored it
	for _, when := range []string{"while it runs", "after a restart"} {
		t.Run(when, func(t *testing.T) {
			if when == "after a restart" {
				s.End()
				s.Begin()
				a.Disconnect()
			}
			cli := admin(t, s)
			bad, err := s.Store().GetPolicy(ctx, 0)
			if err != nil {
				t.Fatal(err)
			}
			p := a.Poll()
			defer p.Close()
			p.Await("port 22 alone", func(m *hstest.Netmap) bool {
				f := m.Filters["base"]
				return len(f) == 1 && len(f[0].DstPorts) > 0 && f[0].DstPorts[0].Ports == tailcfg.PortRange{First: 22, Last: 22}
			})
			want := fmt.Sprintf("policy version %d from test cannot be used: line 1", bad.ID)
			said := faultsWith(t, s, want)
			if !strings.Contains(said, "version 1") {
				t.Errorf("health: got %q, want it to name version 1, which is in force", said)
			}
			var header metadata.MD
			got, err := cli.GetPolicy(ctx, &headscalev1.GetPolicyRequest{}, grpc.Header(&header))
			if err != nil || got.GetPolicy() != good || got.GetVersion() != 1 || got.GetNote() != "only SSH" {
				t.Errorf("the policy in force: got %v, %v, want version 1", got, err)
			}
			if told := strings.Join(header.Get(api.ProblemHeader), "\n"); !strings.Contains(told, "cannot be used") {
				t.Errorf("with the answer: got %q, want to be told", told)
			}
			if got, err := cli.GetPolicy(ctx, &headscalev1.GetPolicyRequest{Version: bad.ID}); err != nil || !strings.Contains(got.GetPolicy(), "perhaps") {
				t.Errorf("the bad version: got %v, %v", got, err)
			}
			list, err := cli.ListPolicyVersions(ctx, &headscalev1.ListPolicyVersionsRequest{})
			if err != nil || len(list.GetVersions()) != 2 || list.GetVersions()[0].GetInForce() || !list.GetVersions()[1].GetInForce() {
				t.Errorf("history: got %v, %v, want the older of two in force", list, err)
			}
		})
	}
	cli := admin(t, s)
	var header metadata.MD
	if _, err := cli.RollbackPolicy(ctx, &headscalev1.RollbackPolicyRequest{Version: 1}); err != nil {
		t.Fatal(err)
	}
	if _, err := cli.GetPolicy(ctx, &headscalev1.GetPolicyRequest{}, grpc.Header(&header)); err != nil || len(header.Get(api.ProblemHeader)) != 0 || len(s.Faults(ctx)) != 1 {
		t.Errorf("after the rollback: got %v, told %q, faults %q, want only the DERP map's", err, header.Get(api.ProblemHeader), s.Faults(ctx))
	}
}
