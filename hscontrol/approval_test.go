package hscontrol_test

import (
	"testing"

	"tailscale.com/tailcfg"

	headscalev1 "github.com/keelscale/keelscale/proto/headscale/v1"

	"github.com/keelscale/keelscale/hscontrol/hstest"
)

// Where devices need approval, a node waits until it is authorized, and none of a preauthorized key does.
func TestDevicesApproval(t *testing.T) {
	s := hstest.Start(t)
	ctx := hstest.Context(t)
	cli := admin(t, s)
	s.User("alice")
	yes := true
	if _, err := cli.SetSettings(ctx, &headscalev1.SetSettingsRequest{DevicesApproval: &yes}); err != nil {
		t.Fatal(err)
	}
	key := func(preauthorized bool) string {
		t.Helper()
		resp, err := cli.CreatePreAuthKey(ctx, &headscalev1.CreatePreAuthKeyRequest{UserRef: "alice", Preauthorized: preauthorized})
		if err != nil {
			t.Fatal(err)
		}
		if got := resp.GetPreAuthKey().GetPreauthorized(); got != preauthorized {
			t.Errorf("the key: got preauthorized %v, want %v", got, preauthorized)
		}
		return resp.GetPreAuthKey().GetKey()
	}
	in, waits := s.Node("in"), s.Node("waits")
	in.Join(key(true))
	p := in.Poll()
	defer p.Close()

	secret := key(false)
	resp, err := waits.Register(ctx, func(r *tailcfg.RegisterRequest) { r.Auth = &tailcfg.RegisterResponseAuth{AuthKey: secret} })
	if err != nil || resp.Error != "" || resp.MachineAuthorized {
		t.Fatalf("joining where approval is needed: got %+v, %v, want the node to wait", resp, err)
	}
	list := func() (waiting []uint64) {
		t.Helper()
		resp, err := cli.ListNodes(ctx, &headscalev1.ListNodesRequest{})
		if err != nil {
			t.Fatal(err)
		}
		for _, n := range resp.GetNodes() {
			if n.GetUnauthorized() {
				waiting = append(waiting, n.GetId())
			}
		}
		return waiting
	}
	waiting := list()
	if len(waiting) != 1 {
		t.Fatalf("got %v waiting, want one", waiting)
	}
	if p.Netmap.Peer("waits") != nil {
		t.Error("a node that waits: got it as a peer")
	}
	done, err := cli.AuthorizeNode(ctx, &headscalev1.AuthorizeNodeRequest{NodeId: waiting[0]})
	if err != nil || done.GetNode().GetUnauthorized() {
		t.Fatalf("authorizing: got %v, %v", done, err)
	}
	p.Await("the node that was authorized", func(m *hstest.Netmap) bool { return m.Peer("waits") != nil })
	if _, err := cli.AuthorizeNode(ctx, &headscalev1.AuthorizeNodeRequest{NodeId: waiting[0], Withdraw: true}); err != nil {
		t.Fatal(err)
	}
	p.Await("it to be gone", func(m *hstest.Netmap) bool { return m.Peer("waits") == nil })
	if again := list(); len(again) != 1 {
		t.Errorf("got %v waiting, want it once more", again)
	}
}
