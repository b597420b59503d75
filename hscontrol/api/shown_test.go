package api_test

import (
	"testing"
	"time"

	headscalev1 "github.com/keelscale/keelscale/proto/headscale/v1"

	"github.com/keelscale/keelscale/hscontrol/api"
	"github.com/keelscale/keelscale/hscontrol/tailnet"
)

// TestSeenMoves asks for a connected node again while nothing of it changes: it was seen in the minute of each answer.
func TestSeenMoves(t *testing.T) {
	now := start
	b := newBench(t, withState(t), func(c *api.Config) { c.Now = func() time.Time { return now } })
	ctx := t.Context()
	b.user(t, "alice", "")
	node := b.node(t, "box", "alice", "")
	must(t, b.store.OpenSession(ctx, tailnet.NodeID(node.GetId()), "x"))
	for range 3 {
		now = now.Add(time.Minute)
		want := now.Truncate(time.Minute)
		list, err := b.ListNodes(ctx, &headscalev1.ListNodesRequest{})
		must(t, err)
		alone, err := b.GetNode(ctx, &headscalev1.GetNodeRequest{NodeId: node.GetId()})
		must(t, err)
		for what, n := range map[string]*headscalev1.Node{"in a list": list.GetNodes()[0], "alone": alone.GetNode()} {
			if got := n.GetLastSeen().AsTime(); !n.GetOnline() || !got.Equal(want) {
				t.Errorf("%s at %s: got online %v, seen %s; want seen %s", what, now, n.GetOnline(), got, want)
			}
		}
	}
}
