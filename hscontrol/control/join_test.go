package control_test

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"tailscale.com/tailcfg"
	"tailscale.com/types/key"

	"github.com/keelscale/keelscale/hscontrol/hstest"
	"github.com/keelscale/keelscale/hscontrol/store"
	"github.com/keelscale/keelscale/hscontrol/tailnet"
)

// online waits until the peer counts as connected.
func online(name string, want bool) func(*hstest.Netmap) bool {
	return func(m *hstest.Netmap) bool {
		p := m.Peer(name)
		return p != nil && p.Online != nil && *p.Online == want
	}
}

func TestNodesJoinAndSeeEachOther(t *testing.T) {
	s := hstest.Start(t)
	secret := s.Key(s.User("alice"))
	a, b := s.Node("alpha"), s.Node("beta")
	a.Join(secret)
	pa := a.Poll()
	if got := pa.Netmap.Names(); len(got) != 0 {
		t.Errorf("peers of the first node: got %v, want none", got)
	}
	b.Join(secret)
	pb := b.Poll()
	pa.Await("beta to be online", online("beta", true))
	pb.Await("alpha to be online", online("alpha", true))

	b.Update("192.0.2.7:41641")
	pa.Await("beta's endpoint", func(m *hstest.Netmap) bool {
		p := m.Peer("beta")
		return len(p.Endpoints) == 1 && p.Endpoints[0].String() == "192.0.2.7:41641" && p.DiscoKey == b.Disco.Public()
	})

	n := pa.Netmap
	if n.Node.Name != "alpha."+s.Config.DNS.BaseDomain+"." {
		t.Errorf("own name: got %q", n.Node.Name)
	}
	if rules, ok := n.Filters["base"]; !ok || len(rules) == 0 {
		t.Errorf("packet filter: got %v, want one that lets peers through", n.Filters)
	}
	for domain, resolvers := range n.DNS.Routes {
		if resolvers == nil {
			t.Errorf("DNS route %q is nil, want an empty list", domain)
		}
	}
	if got := n.Profiles[n.Node.User].LoginName; got != "alice" {
		t.Errorf("own profile: got %q, want alice", got)
	}
}

// Whoever is offline has been seen some time; whoever is online has no such time.
func TestLastSeenOnlyWhenOffline(t *testing.T) {
	s := hstest.Start(t)
	secret := s.Key(s.User("alice"))
	a, b := s.Node("alpha"), s.Node("beta")
	a.Join(secret)
	b.Join(secret)
	pa, pb := a.Poll(), b.Poll()
	pa.Await("beta to come", online("beta", true))
	if p := pa.Netmap.Peer("beta"); p.LastSeen != nil {
		t.Errorf("an online peer was last seen at %v, want nothing", p.LastSeen)
	}
	pb.Close()
	b.Disconnect()
	pa.Await("beta to go", online("beta", false))
	if p := pa.Netmap.Peer("beta"); p.LastSeen == nil {
		t.Error("an offline peer has no LastSeen")
	}
}

func TestDeletedPeerIsRemovedAndSteeredToLogin(t *testing.T) {
	s := hstest.Start(t)
	secret := s.Key(s.User("alice"))
	a, b := s.Node("alpha"), s.Node("beta")
	a.Join(secret)
	b.Join(secret)
	pa, pb := a.Poll(), b.Poll()
	pa.Await("beta to come", online("beta", true))
	id := tailnet.NodeID(pb.Netmap.Node.ID)
	if err := s.Store().DeleteNode(hstest.Context(t), id); err != nil {
		t.Fatal(err)
	}
	pa.Await("beta to vanish", func(m *hstest.Netmap) bool { return len(m.Peers) == 0 })
	pb.Await("its own end", func(m *hstest.Netmap) bool {
		return m.Node.Expired && m.Node.KeyExpiry.Before(time.Now()) && len(m.Peers) == 0
	})
	// Whoever polls with the key of a deleted node is told the same, and not with an error that makes it ask for ever.
	again := b.Poll()
	if !again.Netmap.Node.Expired {
		t.Errorf("a poll of a deleted node: got %+v, want an expired node", again.Netmap.Node)
	}
}

func TestInteractiveLogin(t *testing.T) {
	s := hstest.Start(t)
	alice := s.User("alice")
	n := s.Node("alpha")
	ctx := hstest.Context(t)
	resp, err := n.Register(ctx)
	if err != nil {
		t.Fatal(err)
	}
	url, id, ok := strings.Cut(resp.AuthURL, "/register/")
	if !ok || url != s.URL {
		t.Fatalf("got AuthURL %q, want %s/register/…", resp.AuthURL, s.URL)
	}
	answered := make(chan *tailcfg.RegisterResponse, 1)
	go func() {
		r, err := n.Register(ctx, func(r *tailcfg.RegisterRequest) { r.Followup = resp.AuthURL })
		if err != nil {
			t.Errorf("followup: %v", err)
		}
		answered <- r
	}()
	if _, err := s.Store().Approve(ctx, id, alice.ID, store.ApproveOptions{Method: tailnet.RegisterByCLI}); err != nil {
		t.Fatal(err)
	}
	r := <-answered
	if r == nil || !r.MachineAuthorized || r.Login.LoginName != "alice" {
		t.Fatalf("got %+v, want to be let in as alice", r)
	}
	if got := n.Poll().Netmap.Node.User; got != tailcfg.UserID(alice.ID) {
		t.Errorf("owner: got %d, want %d", got, alice.ID)
	}
}

func TestRefusedLoginIsTold(t *testing.T) {
	s := hstest.Start(t)
	n := s.Node("alpha")
	ctx := hstest.Context(t)
	resp, err := n.Register(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Store().Reject(ctx, resp.AuthURL[strings.LastIndex(resp.AuthURL, "/")+1:]); err != nil {
		t.Fatal(err)
	}
	r, err := n.Register(ctx, func(r *tailcfg.RegisterRequest) { r.Followup = resp.AuthURL })
	if err != nil || !strings.Contains(r.Error, "refused") {
		t.Errorf("got %+v, %v; want to be refused in words", r, err)
	}
}

func TestLogoutAndBack(t *testing.T) {
	s := hstest.Start(t)
	secret := s.Key(s.User("alice"))
	n := s.Node("alpha")
	n.Join(secret)
	before := n.Poll().Netmap.Node
	ctx := hstest.Context(t)
	logout := func(r *tailcfg.RegisterRequest) { r.Expiry = time.Unix(123, 0) }
	if resp, err := n.Register(ctx, logout); err != nil || !resp.NodeKeyExpired {
		t.Fatalf("logout: got %+v, %v; want an expired key", resp, err)
	}
	if resp, err := n.Register(ctx); err != nil || !resp.NodeKeyExpired {
		t.Fatalf("the old key after logout: got %+v, %v; want to be told to make a new one", resp, err)
	}
	n.Key = key.NewNode()
	n.Join(secret)
	after := n.Poll().Netmap.Node
	if after.ID != before.ID || !slices.Equal(after.Addresses, before.Addresses) {
		t.Errorf("after logging in again: got node %d %v, want %d %v", after.ID, after.Addresses, before.ID, before.Addresses)
	}
}

func TestEphemeralNodeGoesAtLogout(t *testing.T) {
	s := hstest.Start(t)
	alice := s.User("alice")
	a, b := s.Node("alpha"), s.Node("beta")
	a.Join(s.Key(alice))
	b.Join(s.Key(alice, func(k *tailnet.PreAuthKey) { k.Ephemeral = true }))
	pa := a.Poll()
	pa.Await("beta to join", func(m *hstest.Netmap) bool { return m.Peer("beta") != nil })
	if _, err := b.Register(hstest.Context(t), func(r *tailcfg.RegisterRequest) { r.Expiry = time.Unix(123, 0) }); err != nil {
		t.Fatal(err)
	}
	pa.Await("beta to vanish", func(m *hstest.Netmap) bool { return len(m.Peers) == 0 })
}

func TestKeyRotation(t *testing.T) {
	s := hstest.Start(t)
	secret := s.Key(s.User("alice"))
	a, b := s.Node("alpha"), s.Node("beta")
	a.Join(secret)
	b.Join(secret)
	pa, old := a.Poll(), b.Poll()
	was := b.Key.Public()
	b.Key = key.NewNode()
	resp, err := b.Register(hstest.Context(t), hstest.WithKey(secret), func(r *tailcfg.RegisterRequest) { r.OldNodeKey = was })
	if err != nil || !resp.MachineAuthorized {
		t.Fatalf("rotation: got %+v, %v", resp, err)
	}
	pa.Await("beta's new key", func(m *hstest.Netmap) bool { p := m.Peer("beta"); return p != nil && p.Key == b.Key.Public() })
	old.Await("the end of the old key", func(m *hstest.Netmap) bool { return m.Node.Expired })
	b.Poll().Await("its peer", func(m *hstest.Netmap) bool { return len(m.Peers) == 1 && !m.Node.Expired })
}

func TestOneShotKey(t *testing.T) {
	s := hstest.Start(t)
	secret := s.Key(s.User("alice"), func(k *tailnet.PreAuthKey) { k.Reusable = false })
	a, b := s.Node("alpha"), s.Node("beta")
	a.Join(secret)
	a.Join(secret) // the same machine, restarted
	// A client that is told to log in anew first sends the key with its old node key.
	fresh := s.Key(s.User("bob"), func(k *tailnet.PreAuthKey) { k.Reusable = false })
	c := s.Node("gamma")
	c.Join(fresh)
	was := c.Key.Public()
	c.Key = key.NewNode()
	if resp, err := c.Register(hstest.Context(t), hstest.WithKey(fresh), func(r *tailcfg.RegisterRequest) { r.OldNodeKey = was }); err != nil || !resp.MachineAuthorized {
		t.Errorf("the machine that used the key, with a new node key: got %+v, %v; want to be let in", resp, err)
	}
	resp, err := b.Register(hstest.Context(t), hstest.WithKey(secret))
	if err != nil || !strings.Contains(resp.Error, "used") {
		t.Errorf("a second machine with a used key: got %+v, %v; want it refused", resp, err)
	}
	for _, bad := range []string{"hskey-auth-nonsense", "tskey-auth-x", strings.Repeat("x", 5000)} {
		if resp, err := b.Register(hstest.Context(t), hstest.WithKey(bad)); err != nil || resp.Error == "" || strings.Contains(resp.Error, bad) {
			t.Errorf("key %.20q: got %+v, %v; want a refusal that does not repeat it", bad, resp, err)
		}
	}
}

func TestExpiredKeyIsRefused(t *testing.T) {
	s := hstest.Start(t)
	past := time.Now().Add(-time.Minute)
	secret := s.Key(s.User("alice"), func(k *tailnet.PreAuthKey) { k.Expiration = &past })
	resp, err := s.Node("alpha").Register(hstest.Context(t), hstest.WithKey(secret))
	if err != nil || !strings.Contains(resp.Error, "expired") {
		t.Errorf("got %+v, %v; want to be told that the key expired", resp, err)
	}
}

func TestTaggedKeyMakesTaggedNode(t *testing.T) {
	s := hstest.Start(t)
	n := s.Node("alpha")
	n.Join(s.Key(nil, func(k *tailnet.PreAuthKey) { k.Tags = []string{"tag:server"} }))
	m := n.Poll().Netmap
	if !slices.Equal(m.Node.Tags, []string{"tag:server"}) || !m.Node.KeyExpiry.IsZero() {
		t.Errorf("got tags %v, expiry %v; want tag:server and none", m.Node.Tags, m.Node.KeyExpiry)
	}
	if got := m.Profiles[m.Node.User].LoginName; got != "tagged-devices" {
		t.Errorf("owner: got %q, want tagged-devices", got)
	}
	n.Hostinfo.RequestTags = []string{"tag:other"}
	if resp, err := n.Register(hstest.Context(t), hstest.WithKey(s.Key(s.User("alice")))); err != nil || !strings.Contains(resp.Error, "tag:other") {
		t.Errorf("advertising a tag that the key does not give: got %+v, %v; want a refusal that names it", resp, err)
	}
}

func TestNodeKeyBelongsToOneMachine(t *testing.T) {
	s := hstest.Start(t)
	secret := s.Key(s.User("alice"))
	owner, thief := s.Node("owner"), s.Node("thief")
	owner.Join(secret)
	thief.Key = owner.Key
	if resp, err := thief.Register(hstest.Context(t), hstest.WithKey(secret)); err != nil || !strings.Contains(resp.Error, "another machine") {
		t.Errorf("registering with another machine's node key: got %+v, %v; want a refusal", resp, err)
	}
	if status, text := thief.TryUpdate(hstest.Context(t)); status != http.StatusForbidden {
		t.Errorf("updating with another machine's node key: got %d %q, want 403", status, text)
	}
}

func TestTwoTailnetsNeverMeet(t *testing.T) {
	s := hstest.Start(t)
	ctx := hstest.Context(t)
	other, err := s.Store().CreateTailnet(ctx, "other", s.Config.Prefixes.V4, s.Config.Prefixes.V6)
	if err != nil {
		t.Fatal(err)
	}
	bob, err := s.Store().CreateUser(ctx, tailnet.User{TailnetID: other.ID, Name: "alice"}) // the same name
	if err != nil {
		t.Fatal(err)
	}
	a, b := s.Node("twin"), s.Node("twin")
	a.Join(s.Key(s.User("alice")))
	b.Join(s.Key(bob))
	pa, pb := a.Poll(), b.Poll()
	if !slices.Equal(pa.Netmap.Node.Addresses, pb.Netmap.Node.Addresses) {
		t.Errorf("got addresses %v and %v, want the same ones in both tailnets", pa.Netmap.Node.Addresses, pb.Netmap.Node.Addresses)
	}
	if len(pa.Netmap.Peers)+len(pb.Netmap.Peers) != 0 {
		t.Errorf("nodes of two tailnets see each other: %v, %v", pa.Netmap.Names(), pb.Netmap.Names())
	}
	if got := pb.Netmap.Node.Name; !strings.HasPrefix(got, "twin.other.") {
		t.Errorf("name in the other tailnet: got %q, want twin.other.…", got)
	}
}

func TestNewPollReplacesOld(t *testing.T) {
	s := hstest.Start(t)
	secret := s.Key(s.User("alice"))
	a, b := s.Node("alpha"), s.Node("beta")
	a.Join(secret)
	b.Join(secret)
	pa := a.Poll()
	first := b.Poll()
	pa.Await("beta to come", online("beta", true))
	second := b.Poll()
	first.AwaitEnd()
	b.Update("192.0.2.1:1")
	pa.Await("beta's endpoint", func(m *hstest.Netmap) bool { return len(m.Peer("beta").Endpoints) == 1 })
	if p := pa.Netmap.Peer("beta"); !*p.Online {
		t.Error("the end of the older poll made the node go offline")
	}
	second.Close()
}

func TestRestartLosesNothing(t *testing.T) {
	s := hstest.Start(t)
	secret := s.Key(s.User("alice"))
	a, b := s.Node("alpha"), s.Node("beta")
	a.Join(secret)
	b.Join(secret)
	before := a.Poll().Netmap
	s.End()
	a.Disconnect()
	b.Disconnect()
	s.Begin()
	after := a.Poll().Netmap
	if after.Node.ID != before.Node.ID || len(after.Peers) != 1 {
		t.Errorf("after a restart: got node %d with %d peers, want %d with 1", after.Node.ID, len(after.Peers), before.Node.ID)
	}
}

func TestEndIsQuick(t *testing.T) {
	s := hstest.Start(t)
	secret := s.Key(s.User("alice"))
	for _, name := range []string{"alpha", "beta", "gamma"} {
		n := s.Node(name)
		n.Join(secret)
		n.Poll()
	}
	waiting := s.Node("waiting")
	resp, err := waiting.Register(hstest.Context(t))
	if err != nil {
		t.Fatal(err)
	}
	held := make(chan error, 1)
	go func() {
		_, err := waiting.Register(context.Background(), func(r *tailcfg.RegisterRequest) { r.Followup = resp.AuthURL })
		held <- err
	}()
	begun := time.Now()
	s.End()
	if took := time.Since(begun); took > 30*time.Second {
		t.Errorf("the server took %v to end with clients connected, want seconds", took)
	}
	if err := <-held; err == nil || errors.Is(err, context.Canceled) {
		t.Errorf("a held registration at the end: got %v, want an error that the client tries again after", err)
	}
}
