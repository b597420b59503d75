package api_test

import (
	"fmt"
	"testing"

	"google.golang.org/protobuf/proto"
	"tailscale.com/tailcfg"
	"tailscale.com/types/key"

	headscalev1 "github.com/keelscale/keelscale/proto/headscale/v1"

	"github.com/keelscale/keelscale/hscontrol/store"
	"github.com/keelscale/keelscale/hscontrol/tailnet"
)

// BenchmarkListNodes is what user interfaces ask for again and again.
func BenchmarkListNodes(b *testing.B) {
	const nodes = 1000
	d := newBench(b)
	ctx := b.Context()
	if _, err := d.CreateUser(ctx, &headscalev1.CreateUserRequest{Name: "alice"}); err != nil {
		b.Fatal(err)
	}
	made, err := d.CreatePreAuthKey(ctx, &headscalev1.CreatePreAuthKeyRequest{UserRef: "alice", Reusable: true})
	if err != nil {
		b.Fatal(err)
	}
	for i := range nodes {
		_, err := d.store.JoinWithKey(ctx, made.GetPreAuthKey().GetKey(), store.Join{
			MachineKey: key.NewMachine().Public(), NodeKey: key.NewNode().Public(), CapVersion: 113,
			Method: tailnet.RegisterByAuthKey, Hostinfo: &tailcfg.Hostinfo{Hostname: fmt.Sprintf("box%d", i), OS: "linux"},
		})
		if err != nil {
			b.Fatal(err)
		}
	}
	b.ReportAllocs()
	var size int
	for b.Loop() {
		resp, err := d.ListNodes(ctx, &headscalev1.ListNodesRequest{})
		if err != nil || len(resp.GetNodes()) != nodes {
			b.Fatalf("got %d nodes, %v, want %d", len(resp.GetNodes()), err, nodes)
		}
		size = proto.Size(resp)
	}
	b.ReportMetric(float64(size)/nodes, "bytes/node")
}
