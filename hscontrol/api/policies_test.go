package api_test

import (
	"context"
	"log/slog"
	"net/netip"
	"os/user"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/testing/protocmp"
	"tailscale.com/tailcfg"

	headscalev1 "github.com/keelscale/keelscale/proto/headscale/v1"

	"github.com/keelscale/keelscale/hscontrol/api"
	"github.com/keelscale/keelscale/hscontrol/state"
	"github.com/keelscale/keelscale/hscontrol/tailnet"
)

// myName is the user who runs the tests, as the unix socket tells it.
func myName(t *testing.T) string {
	t.Helper()
	u, err := user.Current()
	if err != nil {
		t.Fatal(err)
	}
	return u.Username
}

// withState has the service look at real tailnets, with real policies.
func withState(t *testing.T) func(*api.Config) {
	return func(c *api.Config) {
		ctx, cancel := context.WithCancel(t.Context())
		st, err := state.New(ctx, state.Config{
			Store: c.Store, DERPMap: &tailcfg.DERPMap{}, Log: slog.New(slog.DiscardHandler),
			Settings: &state.Settings{PrefixV4: netip.MustParsePrefix("100.64.0.0/10"), PrefixV6: netip.MustParsePrefix("fd7a:115c:a1e0::/48")},
		})
		if err != nil {
			t.Fatal(err)
		}
		done := make(chan error, 1)
		go func() { done <- st.Run(ctx) }()
		t.Cleanup(func() {
			cancel()
			if err := <-done; err != nil {
				t.Error(err)
			}
		})
		c.View, c.AwaitPolicy, c.Problems = st.View, st.AwaitPolicy, st.Problems
		c.CheckPolicy = func(ctx context.Context, id tailnet.ID, text string) ([]string, error) {
			if _, err := st.Fresh(ctx, id); err != nil {
				return nil, err
			}
			return st.CheckPolicy(id, text)
		}
	}
}

const before = `{
	"groups": {"group:dev": ["alice@"]},
	"acls": [{"action": "accept", "src": ["group:dev"], "dst": ["alice@:22,443"]}],
	"tests": [{"src": "alice@", "accept": ["alice@:22"], "deny": ["alice@:80"]}],
	"autoApprovers": {"routes": {"10.0.0.0/8": ["alice@"]}},
}`

const after = `{
	"acls": [{"action": "accept", "proto": "tcp", "src": ["alice@"], "dst": ["alice@:443"]}],
	"tests": [{"src": "alice@", "accept": ["alice@:22"]}],
}`

func TestPolicyHistory(t *testing.T) {
	b := newBench(t, withState(t))
	ctx := t.Context()
	b.user(t, "alice", "")
	first, err := b.SetPolicy(ctx, &headscalev1.SetPolicyRequest{Policy: before, Note: "at first"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := b.remote.SetPolicy(b.withKey(t, ""), &headscalev1.SetPolicyRequest{Policy: `{"acls": []}`}); err != nil {
		t.Fatal(err)
	}
	keys, err := b.ListApiKeys(ctx, &headscalev1.ListApiKeysRequest{})
	if err != nil {
		t.Fatal(err)
	}
	back, err := b.RollbackPolicy(ctx, &headscalev1.RollbackPolicyRequest{Version: first.GetVersion()})
	if err != nil {
		t.Fatal(err)
	}
	got, err := b.ListPolicyVersions(ctx, &headscalev1.ListPolicyVersionsRequest{})
	if err != nil {
		t.Fatal(err)
	}
	me := myName(t)
	want := []*headscalev1.PolicyVersion{
		{Version: back.GetVersion(), Source: "cli", Author: me, Origin: "unix socket", Note: "rollback to version 1", InForce: true},
		{Version: 2, Source: "grpc", Author: "apikey:" + keys.GetApiKeys()[0].GetPrefix(), Origin: "@"},
		{Version: 1, Source: "cli", Author: me, Origin: "unix socket", Note: "at first"},
	}
	if diff := cmp.Diff(want, got.GetVersions(), protocmp.Transform(), protocmp.IgnoreFields(&headscalev1.PolicyVersion{}, "created_at")); diff != "" {
		t.Errorf("history (-want +got):\n%s", diff)
	}
	if got, err := b.GetPolicy(ctx, &headscalev1.GetPolicyRequest{Version: 2}); err != nil || got.GetPolicy() != `{"acls": []}` {
		t.Errorf("version 2: got %v, %v", got, err)
	}
	if got, err := b.GetPolicy(ctx, &headscalev1.GetPolicyRequest{}); err != nil || got.GetPolicy() != before || got.GetVersion() != back.GetVersion() {
		t.Errorf("in force: got %v, %v, want the text of version 1", got, err)
	}
	_, err = b.RollbackPolicy(ctx, &headscalev1.RollbackPolicyRequest{Version: 99})
	refused(t, err, codes.NotFound, "headscale policy history")
	_, err = b.RollbackPolicy(ctx, &headscalev1.RollbackPolicyRequest{})
	refused(t, err, codes.InvalidArgument, "say which version")

	b.tailnet(t, "lab")
	_, err = b.GetPolicy(ctx, &headscalev1.GetPolicyRequest{Version: 1, Tailnet: "lab"})
	refused(t, err, codes.NotFound, "")
	_, err = b.remote.RollbackPolicy(b.withKey(t, "lab"), &headscalev1.RollbackPolicyRequest{Version: 1, Tailnet: "default"})
	refused(t, err, codes.NotFound, "")
}

// A version that was right once may be refused today.
func TestRollbackIsChecked(t *testing.T) {
	b := newBench(t, withState(t))
	ctx := t.Context()
	u := b.user(t, "alice", "")
	if _, err := b.SetPolicy(ctx, &headscalev1.SetPolicyRequest{Policy: `{"acls": [{"action": "accept", "src": ["alice"], "dst": ["*:*"]}]}`}); err != nil {
		t.Fatal(err)
	}
	if _, err := b.SetPolicy(ctx, &headscalev1.SetPolicyRequest{Policy: `{"acls": []}`}); err != nil {
		t.Fatal(err)
	}
	if _, err := b.DeleteUser(ctx, &headscalev1.DeleteUserRequest{Id: u.GetId()}); err != nil {
		t.Fatal(err)
	}
	for {
		_, err := b.RollbackPolicy(ctx, &headscalev1.RollbackPolicyRequest{Version: 1})
		if err != nil {
			refused(t, err, codes.InvalidArgument, `"alice": invalid address`)
			return
		}
	}
}

func TestPolicyQuestions(t *testing.T) {
	b := newBench(t, withState(t))
	ctx := t.Context()
	b.user(t, "alice", "")
	b.node(t, "laptop", "alice", "")
	b.node(t, "desk", "alice", "")
	if _, err := b.SetPolicy(ctx, &headscalev1.SetPolicyRequest{Policy: before}); err != nil {
		t.Fatal(err)
	}
	tests, err := b.TestPolicy(ctx, &headscalev1.TestPolicyRequest{})
	if err != nil || tests.GetPassed() != 1 || tests.GetFailed() != 0 {
		t.Errorf("tests of the policy in force: got %v, %v, want one that passes", tests, err)
	}
	tests, err = b.TestPolicy(ctx, &headscalev1.TestPolicyRequest{Policy: after})
	if err != nil || tests.GetFailed() != 1 || !strings.Contains(strings.Join(tests.GetTests()[0].GetFailures(), ""), `"alice@:22" is not accepted`) {
		t.Errorf("tests of another: got %v, %v, want one that fails", tests, err)
	}

	diff, err := b.DiffPolicy(ctx, &headscalev1.DiffPolicyRequest{Policy: after})
	if err != nil || !diff.GetChanged() || !diff.GetLoss() || !strings.Contains(diff.GetRefusal(), "is not accepted") {
		t.Errorf("diff: got %v, %v, want losses, and that it would be refused", diff, err)
	}
	lost := slices.ContainsFunc(diff.GetPackets(), func(c *headscalev1.PacketChange) bool {
		return c.GetLost() && c.GetProtocols() == "tcp" && c.GetPorts() == "22" && slices.Contains(c.GetTo(), "desk") && slices.Contains(c.GetFrom(), "laptop")
	})
	if !lost {
		t.Errorf("diff: got %v, want tcp 22 from laptop to desk to be lost", diff.GetPackets())
	}
	if same, err := b.DiffPolicy(ctx, &headscalev1.DiffPolicyRequest{Version: 1}); err != nil || same.GetChanged() || same.GetLoss() {
		t.Errorf("diff with the version in force: got %v, %v, want no change", same, err)
	}
	_, err = b.DiffPolicy(ctx, &headscalev1.DiffPolicyRequest{Policy: "{", Version: 1})
	refused(t, err, codes.InvalidArgument, "one of the two")
	_, err = b.DiffPolicy(ctx, &headscalev1.DiffPolicyRequest{Policy: "{"})
	refused(t, err, codes.InvalidArgument, "line 1")

	why, err := b.ExplainPolicy(ctx, &headscalev1.ExplainPolicyRequest{From: "laptop", To: "desk:22"})
	if err != nil || !why.GetAllowed() || why.GetRule().GetLine() != 3 || !strings.Contains(strings.Join(why.GetSteps(), "\n"), "group:dev holds alice@ (line 2)") {
		t.Errorf("explain: got %v, %v, want yes by the rule of line 3", why, err)
	}
	why, err = b.ExplainPolicy(ctx, &headscalev1.ExplainPolicyRequest{From: "laptop", To: "desk:22", Policy: after})
	if err != nil || why.GetAllowed() || len(why.GetLacks()) == 0 {
		t.Errorf("explain with another text: got %v, %v, want no", why, err)
	}
	_, err = b.ExplainPolicy(ctx, &headscalev1.ExplainPolicyRequest{From: "laptpo", To: "desk:22"})
	refused(t, err, codes.InvalidArgument, `did you mean "laptop"`)

	// A key of another tailnet asks about that one only.
	b.tailnet(t, "lab")
	lab := b.withKey(t, "lab")
	_, err = b.remote.ExplainPolicy(lab, &headscalev1.ExplainPolicyRequest{From: "laptop", To: "desk:22", Tailnet: "default"})
	refused(t, err, codes.NotFound, "")
	_, err = b.remote.DiffPolicy(lab, &headscalev1.DiffPolicyRequest{Policy: after, Tailnet: "default"})
	refused(t, err, codes.NotFound, "")
	_, err = b.remote.TestPolicy(lab, &headscalev1.TestPolicyRequest{Tailnet: "default"})
	refused(t, err, codes.NotFound, "")
	_, err = b.remote.ListPolicyVersions(lab, &headscalev1.ListPolicyVersionsRequest{Tailnet: "default"})
	refused(t, err, codes.NotFound, "")
}

// Routes that nobody but the former policy approved lose their approval, if that is asked for.
func TestUnapprove(t *testing.T) {
	b := newBench(t, withState(t))
	ctx := t.Context()
	b.user(t, "alice", "")
	router := b.node(t, "router", "alice", "", "10.1.0.0/16", "192.168.1.0/24")
	if _, err := b.SetPolicy(ctx, &headscalev1.SetPolicyRequest{Policy: before}); err != nil {
		t.Fatal(err)
	}
	both := []string{"10.1.0.0/16", "192.168.1.0/24"}
	approve := func() {
		t.Helper()
		if _, err := b.SetApprovedRoutes(ctx, &headscalev1.SetApprovedRoutesRequest{NodeId: router.GetId(), Routes: both}); err != nil {
			t.Fatal(err)
		}
	}
	approved := func() []string {
		t.Helper()
		got, err := b.GetNode(ctx, &headscalev1.GetNodeRequest{NodeId: router.GetId()})
		if err != nil {
			t.Fatal(err)
		}
		return got.GetNode().GetApprovedRoutes()
	}
	approve()
	if _, err := b.SetPolicy(ctx, &headscalev1.SetPolicyRequest{Policy: `{"acls": []}`}); err != nil {
		t.Fatal(err)
	}
	if got := approved(); !slices.Equal(got, both) {
		t.Errorf("without being asked: got %v, want %v as before", got, both)
	}
	if _, err := b.RollbackPolicy(ctx, &headscalev1.RollbackPolicyRequest{Version: 1}); err != nil {
		t.Fatal(err)
	}
	done, err := b.SetPolicy(ctx, &headscalev1.SetPolicyRequest{Policy: `{"acls": []}`, Unapprove: true})
	if err != nil || len(done.GetUnapproved()) != 1 || done.GetUnapproved()[0].GetNode() != "router" || done.GetUnapproved()[0].GetRoute() != "10.1.0.0/16" {
		t.Errorf("un-approving: got %v, %v, want 10.1.0.0/16 at router", done.GetUnapproved(), err)
	}
	if got := approved(); !slices.Equal(got, []string{"192.168.1.0/24"}) {
		t.Errorf("after un-approving: got %v, want 192.168.1.0/24 alone", got)
	}
}
