package api_test

import (
	"fmt"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/testing/protocmp"
	"tailscale.com/tailcfg"
	"tailscale.com/types/key"

	headscalev1 "github.com/keelscale/keelscale/proto/headscale/v1"

	"github.com/keelscale/keelscale/hscontrol/api"
	"github.com/keelscale/keelscale/hscontrol/state"
	"github.com/keelscale/keelscale/hscontrol/store"
	"github.com/keelscale/keelscale/hscontrol/tailnet"
)

// TestListsAreCurrent changes things while the view stands still, as on a busy server. Lists show each change at once,
// and the same as one node or user alone, which are read from the store.
func TestListsAreCurrent(t *testing.T) {
	var still *state.View
	b := newBench(t, withState(t), func(c *api.Config) {
		view := c.View
		c.View = func(id tailnet.ID) *state.View {
			if still == nil {
				still = view(id)
			}
			return still
		}
	})
	ctx := t.Context()
	check := func(what string, nodes, users int) {
		t.Helper()
		n, err := b.ListNodes(ctx, &headscalev1.ListNodesRequest{})
		must(t, err)
		u, err := b.ListUsers(ctx, &headscalev1.ListUsersRequest{})
		must(t, err)
		if len(n.GetNodes()) != nodes || len(u.GetUsers()) != users {
			t.Fatalf("%s: got %d nodes and %d users, want %d and %d", what, len(n.GetNodes()), len(u.GetUsers()), nodes, users)
		}
		for _, node := range n.GetNodes() {
			alone, err := b.GetNode(ctx, &headscalev1.GetNodeRequest{NodeId: node.GetId()})
			must(t, err)
			if diff := cmp.Diff(alone.GetNode(), node, protocmp.Transform()); diff != "" {
				t.Errorf("%s: node %d (-alone +in the list):\n%s", what, node.GetId(), diff)
			}
		}
	}
	check("nothing there", 0, 0)
	alice := b.user(t, "alice", "")
	b.user(t, "bob", "")
	check("users made", 0, 2)
	made, err := b.CreatePreAuthKey(ctx, &headscalev1.CreatePreAuthKeyRequest{UserRef: "alice", Reusable: true})
	must(t, err)
	var wg sync.WaitGroup
	for i := range 5 {
		wg.Go(func() { // with others who ask meanwhile
			_, err := b.store.JoinWithKey(ctx, made.GetPreAuthKey().GetKey(), store.Join{
				MachineKey: key.NewMachine().Public(), NodeKey: key.NewNode().Public(), CapVersion: 113, Method: tailnet.RegisterByAuthKey,
				Hostinfo: &tailcfg.Hostinfo{Hostname: fmt.Sprintf("box%d", i)},
			})
			if err != nil {
				t.Error(err)
			}
			if _, err := b.ListNodes(ctx, &headscalev1.ListNodesRequest{}); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	check("nodes joined", 5, 2)
	_, err = b.RenameNode(ctx, &headscalev1.RenameNodeRequest{NodeId: 2, NewName: "web"})
	must(t, err)
	_, err = b.RenameUser(ctx, &headscalev1.RenameUserRequest{OldId: alice.GetId(), NewName: "anna"})
	must(t, err)
	check("renamed", 5, 2)
	_, err = b.DeleteNode(ctx, &headscalev1.DeleteNodeRequest{NodeId: 3})
	must(t, err)
	_, err = b.DeleteUser(ctx, &headscalev1.DeleteUserRequest{Id: 2})
	must(t, err)
	check("deleted", 4, 1)
	if still == nil || len(still.Nodes) != 0 {
		t.Errorf("the view did not stand still")
	}
}
