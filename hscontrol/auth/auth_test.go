package auth_test

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"tailscale.com/tailcfg"
	"tailscale.com/types/key"

	"github.com/keelscale/keelscale/hscontrol/auth"
	"github.com/keelscale/keelscale/hscontrol/state"
	"github.com/keelscale/keelscale/hscontrol/store"
	"github.com/keelscale/keelscale/hscontrol/tailnet"
)

const policyText = `{
	"tagOwners": {"tag:web": ["alice@"]},
	"autoApprovers": {"routes": {"10.0.0.0/8": ["tag:web"]}, "exitNode": ["alice@"]},
	"acls": [{"action": "accept", "src": ["*"], "dst": ["*:*"]}],
}`

// room is the auth room with a real store and state around it.
type room struct {
	*auth.Auth
	t *testing.T
}

func newRoom(t *testing.T) *room {
	t.Helper()
	log := slog.New(slog.DiscardHandler)
	v4, v6 := netip.MustParsePrefix("100.64.0.0/10"), netip.MustParsePrefix("fd7a:115c:a1e0::/48")
	s, err := store.Open(t.Context(), store.Config{
		Type: "sqlite", SQLite: store.SQLiteConfig{Path: filepath.Join(t.TempDir(), "db"), WAL: true}, PrefixV4: v4, PrefixV6: v6, Log: log,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	for _, name := range []string{"alice", "bob"} {
		if _, err := s.CreateUser(t.Context(), tailnet.User{Name: name}); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := s.PutPolicy(t.Context(), 0, policyText, "test"); err != nil {
		t.Fatal(err)
	}
	st, err := state.New(t.Context(), state.Config{Store: s, Settings: &state.Settings{PrefixV4: v4, PrefixV6: v6}, Log: log})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- st.Run(ctx) }()
	t.Cleanup(func() { stop(); <-ended })
	return &room{t: t, Auth: auth.New(auth.Config{Store: s, State: st, ServerURL: "http://192.0.2.1:8080", NodeExpiry: 24 * time.Hour, Log: log})}
}

// ask registers a machine that has no key, and gives what it is called while it waits.
func (r *room) ask(machine key.MachinePublic, edit ...func(*tailcfg.RegisterRequest)) (*tailcfg.RegisterRequest, string) {
	r.t.Helper()
	req := &tailcfg.RegisterRequest{Version: 142, NodeKey: key.NewNode().Public(), Hostinfo: &tailcfg.Hostinfo{Hostname: "box"}}
	for _, e := range edit {
		e(req)
	}
	resp, err := r.Register(r.t.Context(), machine, req)
	if err != nil || resp.Error != "" {
		r.t.Fatalf("registering: %+v, %v", resp, err)
	}
	id, ok := strings.CutPrefix(resp.AuthURL, "http://192.0.2.1:8080/register/")
	if !ok {
		r.t.Fatalf("got AuthURL %q", resp.AuthURL)
	}
	return req, id
}

func TestApproveByAnyName(t *testing.T) {
	r := newRoom(t)
	machine := key.NewMachine().Public()
	req, id := r.ask(machine)
	// A client that asks again while it waits keeps its page.
	if again, err := r.Register(t.Context(), machine, req); err != nil || !strings.HasSuffix(again.AuthURL, id) {
		t.Errorf("asking again: got %+v, %v; want the same page", again, err)
	}
	if _, err := r.Approve(t.Context(), id, "carol", ""); !errors.Is(err, tailnet.ErrNotFound) {
		t.Errorf("a user that does not exist: got %v, want ErrNotFound", err)
	}
	if _, err := r.Approve(t.Context(), "nonsense", "alice", ""); !errors.Is(err, tailnet.ErrInvalid) {
		t.Errorf("a key that is none: got %v, want ErrInvalid", err)
	}
	digits := strings.TrimPrefix(req.NodeKey.String(), "nodekey:")
	n, err := r.Approve(t.Context(), digits, "alice", "")
	if err != nil {
		t.Fatalf("by the digits of the node key: %v", err)
	}
	if n.Expiry == nil || time.Until(*n.Expiry) > 24*time.Hour {
		t.Errorf("got expiry %v, want that of the configuration", n.Expiry)
	}
	resp, err := r.Register(t.Context(), machine, req)
	if err != nil || !resp.MachineAuthorized {
		t.Errorf("after approval: got %+v, %v; want to be in", resp, err)
	}
}

func TestRequestedTagsNeedAnOwner(t *testing.T) {
	r := newRoom(t)
	tagged := func(tag string) func(*tailcfg.RegisterRequest) {
		return func(req *tailcfg.RegisterRequest) { req.Hostinfo.RequestTags = []string{tag} }
	}
	_, id := r.ask(key.NewMachine().Public(), tagged("tag:web"))
	if _, err := r.Approve(t.Context(), id, "bob", ""); !errors.Is(err, tailnet.ErrTagRefused) || !strings.Contains(err.Error(), "tag:web") {
		t.Errorf("a user who does not own the tag: got %v, want it refused by name", err)
	}
	n, err := r.Approve(t.Context(), id, "alice", "")
	if err != nil || !slices.Equal(n.Tags, []string{"tag:web"}) || n.UserID != 0 || n.Expiry != nil {
		t.Errorf("a user who owns it: got %+v, %v; want a tagged node that never expires", n, err)
	}
	_, id = r.ask(key.NewMachine().Public(), tagged("tag:unknown"))
	if _, err := r.Approve(t.Context(), id, "alice", ""); !errors.Is(err, tailnet.ErrTagRefused) {
		t.Errorf("a tag that does not exist: got %v, want it refused", err)
	}
}

func TestPolicyApprovesRoutes(t *testing.T) {
	r := newRoom(t)
	_, id := r.ask(key.NewMachine().Public(), func(req *tailcfg.RegisterRequest) {
		req.Hostinfo.RequestTags = []string{"tag:web"}
		req.Hostinfo.RoutableIPs = []netip.Prefix{netip.MustParsePrefix("10.1.0.0/16"), netip.MustParsePrefix("192.168.0.0/24")}
	})
	n, err := r.Approve(t.Context(), id, "alice", "")
	if err != nil || !slices.Equal(n.ApprovedRoutes, []netip.Prefix{netip.MustParsePrefix("10.1.0.0/16")}) {
		t.Errorf("got %v, %v; want the route approved that the policy names", n.ApprovedRoutes, err)
	}
	_, id = r.ask(key.NewMachine().Public(), func(req *tailcfg.RegisterRequest) { req.Hostinfo.RoutableIPs = tailnet.ExitRoutes() })
	if n, err := r.Approve(t.Context(), id, "alice", ""); err != nil || !n.IsExitNode() {
		t.Errorf("alice's exit node: got %v, %v; want it approved", n.ApprovedRoutes, err)
	}
	_, id = r.ask(key.NewMachine().Public(), func(req *tailcfg.RegisterRequest) { req.Hostinfo.RoutableIPs = tailnet.ExitRoutes() })
	if n, err := r.Approve(t.Context(), id, "bob", ""); err != nil || n.IsExitNode() {
		t.Errorf("bob's exit node: got %v, %v; want it to wait", n.ApprovedRoutes, err)
	}
}

func TestOwnKeyMayExpireSooner(t *testing.T) {
	r := newRoom(t)
	machine := key.NewMachine().Public()
	req, id := r.ask(machine)
	n, err := r.Approve(t.Context(), id, "alice", "")
	if err != nil {
		t.Fatal(err)
	}
	req.Expiry = n.Expiry.Add(time.Hour)
	if resp, err := r.Register(t.Context(), machine, req); err != nil || !strings.Contains(resp.Error, "extend") {
		t.Errorf("later: got %+v, %v; want a refusal", resp, err)
	}
	req.Expiry = time.Now().Add(time.Hour).UTC().Truncate(time.Second)
	if resp, err := r.Register(t.Context(), machine, req); err != nil || resp.Error != "" {
		t.Fatalf("sooner: got %+v, %v", resp, err)
	}
	if n, err = r.Store.GetNode(t.Context(), n.ID); err != nil || !n.Expiry.Equal(req.Expiry) {
		t.Errorf("got expiry %v, %v; want %v", n.Expiry, err, req.Expiry)
	}
}

func TestFollowupOfAnotherMachine(t *testing.T) {
	r := newRoom(t)
	_, id := r.ask(key.NewMachine().Public())
	thief := &tailcfg.RegisterRequest{Version: 142, NodeKey: key.NewNode().Public(), Followup: "http://192.0.2.1:8080/register/" + id, Hostinfo: &tailcfg.Hostinfo{}}
	resp, err := r.Register(t.Context(), key.NewMachine().Public(), thief)
	if err != nil || !strings.Contains(resp.Error, "another machine") {
		t.Errorf("got %+v, %v; want a refusal", resp, err)
	}
	// One whose page is no more gets a new one.
	thief.Followup = "http://192.0.2.1:8080/register/" + tailnet.RegistrationPrefix + strings.Repeat("0", 24)
	if resp, err = r.Register(t.Context(), key.NewMachine().Public(), thief); err != nil || resp.AuthURL == "" {
		t.Errorf("an unknown page: got %+v, %v; want a new one", resp, err)
	}
}
