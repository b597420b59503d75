package api_test

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/known/timestamppb"
	"tailscale.com/tailcfg"
	"tailscale.com/types/key"

	headscalev1 "github.com/keelscale/keelscale/proto/headscale/v1"

	"github.com/keelscale/keelscale/hscontrol/store"
	"github.com/keelscale/keelscale/hscontrol/tailnet"
)

// TestNodeMessage holds a node's message as a whole: this is what every program written for the API reads.
func TestNodeMessage(t *testing.T) {
	b := newBench(t)
	ctx := t.Context()
	alice := b.user(t, "alice", "")
	made, err := b.CreatePreAuthKey(ctx, &headscalev1.CreatePreAuthKeyRequest{User: alice.GetId(), Reusable: true, Ephemeral: true})
	if err != nil {
		t.Fatal(err)
	}
	machine, node := key.NewMachine().Public(), key.NewNode().Public()
	joined, err := b.store.JoinWithKey(ctx, made.GetPreAuthKey().GetKey(), store.Join{
		MachineKey: machine, NodeKey: node, CapVersion: 113, Method: tailnet.RegisterByAuthKey,
		Hostinfo: &tailcfg.Hostinfo{Hostname: "Big Box", OS: "linux", IPNVersion: "1.80.0"},
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := b.store.OpenSession(ctx, joined.ID, "s1"); err != nil {
		t.Fatal(err)
	}
	got, err := b.GetNode(ctx, &headscalev1.GetNodeRequest{NodeId: 1})
	if err != nil {
		t.Fatal(err)
	}
	shown := made.GetPreAuthKey()
	shown.Key = shown.GetKey()[:len("hskey-auth-0123456789ab-")] + "***"
	want := &headscalev1.Node{
		Id:                1,
		MachineKey:        machine.String(),
		NodeKey:           node.String(),
		IpAddresses:       []string{"100.64.0.1", "fd7a:115c:a1e0::1"},
		Name:              "Big Box",
		GivenName:         "big-box",
		User:              alice,
		PreAuthKey:        shown,
		CreatedAt:         timestamppb.New(start),
		LastSeen:          timestamppb.New(start), // it is here
		RegisterMethod:    headscalev1.RegisterMethod_REGISTER_METHOD_AUTH_KEY,
		Online:            true,
		Tailnet:           "default",
		Ephemeral:         true,
		Os:                "linux",
		ClientVersion:     "1.80.0",
		CapabilityVersion: 113,
	}
	if diff := cmp.Diff(want, got.GetNode(), protocmp.Transform(), protocmp.IgnoreFields(&headscalev1.PreAuthKey{}, "used")); diff != "" {
		t.Errorf("node (-want +got):\n%s", diff)
	}
}

func TestTaggedNode(t *testing.T) {
	b := newBench(t)
	b.user(t, "alice", "")
	n := b.node(t, "box", "alice", "")
	resp, err := b.SetTags(t.Context(), &headscalev1.SetTagsRequest{NodeId: n.GetId(), Tags: []string{"tag:web", "tag:db", "tag:web"}})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"tag:db", "tag:web"}, resp.GetNode().GetTags()); diff != "" {
		t.Errorf("tags (-want +got):\n%s", diff)
	}
	if got := resp.GetNode().GetUser(); got.GetName() != "tagged-devices" || got.GetId() != uint64(tailnet.TaggedDevices) {
		t.Errorf("user of a tagged node: got %v, want tagged-devices", got)
	}
	for name, tags := range map[string][]string{
		"a node cannot be left without tags": nil,
		"the policy has no tag:other":        {"tag:other"},
		`tag "other"`:                        {"other"},
	} {
		_, err := b.SetTags(t.Context(), &headscalev1.SetTagsRequest{NodeId: n.GetId(), Tags: tags})
		refused(t, err, codes.InvalidArgument, name)
	}
}

func TestExpireNode(t *testing.T) {
	b := newBench(t)
	b.user(t, "alice", "")
	id := b.node(t, "box", "alice", "").GetId()
	later := timestamppb.New(start.Add(time.Hour))
	for _, c := range []struct {
		name    string
		req     *headscalev1.ExpireNodeRequest
		want    *timestamppb.Timestamp
		expired bool
	}{
		{"now", &headscalev1.ExpireNodeRequest{NodeId: id}, timestamppb.New(start), true},
		{"later", &headscalev1.ExpireNodeRequest{NodeId: id, Expiry: later}, later, false},
		{"never", &headscalev1.ExpireNodeRequest{NodeId: id, DisableExpiry: true}, nil, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			resp, err := b.ExpireNode(t.Context(), c.req)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(c.want, resp.GetNode().GetExpiry(), protocmp.Transform()); diff != "" || resp.GetNode().GetExpired() != c.expired {
				t.Errorf("got expired %v, want %v; expiry (-want +got):\n%s", resp.GetNode().GetExpired(), c.expired, diff)
			}
		})
	}
	_, err := b.ExpireNode(t.Context(), &headscalev1.ExpireNodeRequest{NodeId: id, Expiry: later, DisableExpiry: true})
	refused(t, err, codes.InvalidArgument, "not both")
	_, err = b.ExpireNode(t.Context(), &headscalev1.ExpireNodeRequest{NodeId: id, Expiry: &timestamppb.Timestamp{Nanos: -1}})
	refused(t, err, codes.InvalidArgument, "is no time")
}

func TestRoutes(t *testing.T) {
	b := newBench(t)
	ctx := t.Context()
	b.user(t, "alice", "")
	b.node(t, "box", "alice", "", "10.0.0.0/8", "192.168.0.0/16", "0.0.0.0/0", "::/0")
	list := func() map[string]*headscalev1.Route {
		t.Helper()
		resp, err := b.GetNodeRoutes(ctx, &headscalev1.GetNodeRoutesRequest{NodeId: 1})
		if err != nil {
			t.Fatal(err)
		}
		routes := map[string]*headscalev1.Route{}
		for _, r := range resp.GetRoutes() {
			routes[r.GetPrefix()] = r
		}
		return routes
	}
	ids := map[string]uint64{}
	for prefix, r := range list() {
		if !r.GetAdvertised() || r.GetEnabled() || r.GetIsPrimary() {
			t.Errorf("%s: got %v, want it advertised only", prefix, r)
		}
		ids[prefix] = r.GetId()
	}
	for _, step := range []struct {
		what string
		do   func() error
		want []string // enabled
	}{
		{"enable one", func() error {
			_, err := b.EnableRoute(ctx, &headscalev1.EnableRouteRequest{RouteId: ids["10.0.0.0/8"]})
			return err
		}, []string{"10.0.0.0/8"}},
		{"enable an exit route", func() error {
			_, err := b.EnableRoute(ctx, &headscalev1.EnableRouteRequest{RouteId: ids["::/0"]})
			return err
		}, []string{"0.0.0.0/0", "10.0.0.0/8", "::/0"}},
		{"approve what is not announced", func() error {
			_, err := b.SetApprovedRoutes(ctx, &headscalev1.SetApprovedRoutesRequest{NodeId: 1, Routes: []string{"172.16.0.0/12", "0.0.0.0/0"}})
			return err
		}, []string{"0.0.0.0/0", "172.16.0.0/12", "::/0"}},
		{"disable an exit route", func() error {
			_, err := b.DisableRoute(ctx, &headscalev1.DisableRouteRequest{RouteId: ids["0.0.0.0/0"]})
			return err
		}, []string{"172.16.0.0/12"}},
		{"withdraw all", func() error {
			_, err := b.SetApprovedRoutes(ctx, &headscalev1.SetApprovedRoutesRequest{NodeId: 1})
			return err
		}, nil},
	} {
		if err := step.do(); err != nil {
			t.Fatalf("%s: %v", step.what, err)
		}
		var enabled []string
		for _, prefix := range []string{"0.0.0.0/0", "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "::/0"} {
			r := list()[prefix]
			if r.GetEnabled() {
				enabled = append(enabled, prefix)
			}
			if r != nil && ids[prefix] != 0 && r.GetId() != ids[prefix] {
				t.Errorf("%s: the ID of %s went from %d to %d", step.what, prefix, ids[prefix], r.GetId())
			}
		}
		if diff := cmp.Diff(step.want, enabled); diff != "" {
			t.Errorf("%s: enabled routes (-want +got):\n%s", step.what, diff)
		}
	}
	_, err := b.DeleteRoute(ctx, &headscalev1.DeleteRouteRequest{RouteId: 12})
	refused(t, err, codes.NotFound, "see headscale routes list")
	_, err = b.SetApprovedRoutes(ctx, &headscalev1.SetApprovedRoutesRequest{NodeId: 1, Routes: []string{"10.1.1.1/8"}})
	refused(t, err, codes.InvalidArgument, "write 10.0.0.0/8")
}
