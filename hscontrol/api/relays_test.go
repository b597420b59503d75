package api_test

import (
	"context"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/known/timestamppb"
	"tailscale.com/tailcfg"
	"tailscale.com/types/key"

	headscalev1 "github.com/keelscale/keelscale/proto/headscale/v1"

	"github.com/keelscale/keelscale/hscontrol/api"
	"github.com/keelscale/keelscale/hscontrol/state"
	"github.com/keelscale/keelscale/hscontrol/store"
	"github.com/keelscale/keelscale/hscontrol/tailnet"
)

var serverKey = key.NewMachine().Public()

// withRelays lets relays enrol at the service, whose nodes measured them.
func withRelays(t testing.TB, more ...func(*api.Config)) *bench {
	return newBench(t, append([]func(*api.Config){func(c *api.Config) {
		c.ServerKey, c.ControlURL = serverKey, "http://203.0.113.5:8080"
		c.View = func(id tailnet.ID) *state.View {
			d, err := c.Store.Since(context.Background(), id, 0)
			if err != nil || d.Gone {
				return nil
			}
			v := &state.View{Snapshot: (*tailnet.Snapshot)(nil).Next(d), DERPMap: &tailcfg.DERPMap{Regions: map[int]*tailcfg.DERPRegion{}}}
			for _, r := range v.Relays {
				if r.Healthy && r.RegionID != 903 { // as if the server's own map had that one
					v.DERPMap.Regions[int(r.RegionID)] = &tailcfg.DERPRegion{Nodes: []*tailcfg.DERPNode{state.RelayNode(r)}}
				}
			}
			return v
		}
	}}, more...)...)
}

// enrol lets a relay in by a key of the service.
func (b *bench) enrol(t *testing.T, tailnetName, region string) *tailnet.Relay {
	t.Helper()
	made, err := b.CreateRelayKey(t.Context(), &headscalev1.CreateRelayKeyRequest{Tailnet: tailnetName})
	if err != nil {
		t.Fatal(err)
	}
	addr := netip.MustParseAddr("192.0.2.7")
	r, err := b.store.EnrolRelay(t.Context(), store.RelayEnrolment{
		Key: made.GetRelayKey().GetKey(), MachineKey: key.NewMachine().Public(), Region: region, Taken: []tailnet.RegionID{901},
		Description: tailnet.RelayDescription{
			Version: "1.2", DERPKey: key.NewNode().Public(), Addresses: []netip.Addr{addr}, SeenFrom: addr, Published: []netip.Addr{addr},
			DERPPort: 8443, STUNPort: 3478,
			Certificates: []tailnet.RelayCertificate{{Name: "r-1.relay.invalid", Pin: "sha256-raw:12", Expires: start.AddDate(0, 3, 0)}},
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// measured is a connected node that measured regions, in seconds.
func (b *bench) measured(t *testing.T, name string, latency map[string]float64) {
	t.Helper()
	n := b.node(t, name, "alice", "")
	id := tailnet.NodeID(n.GetId())
	_, _, err := b.store.UpdateNode(t.Context(), id, store.NodeUpdate{
		Arrived: start, Hostinfo: &tailcfg.Hostinfo{Hostname: name, NetInfo: &tailcfg.NetInfo{PreferredDERP: 902, DERPLatency: latency}},
	})
	if err == nil {
		err = b.store.OpenSession(t.Context(), id, name)
	}
	if err != nil {
		t.Fatal(err)
	}
}

func TestRelays(t *testing.T) {
	b := withRelays(t)
	r := b.enrol(t, "", "home")
	b.user(t, "alice", "")
	b.measured(t, "near", map[string]float64{"902-v4": 0.010, "902-v6": 0.008, "901-v4": 0.5})
	b.measured(t, "far", map[string]float64{"902-v6": 0.2})
	b.measured(t, "middle", map[string]float64{"902-v4": 0.030, "9-v4": 0.001})
	b.measured(t, "liar", map[string]float64{"902-v4": -1, "902-v6": 1e9})
	ctx := t.Context()
	began := start.Add(-time.Hour)
	for _, err := range []error{
		b.store.OpenRelaySession(ctx, r.ID, "s"),
		b.store.NoteRelayLoad(ctx, tailnet.RelayLoad{RelayID: r.ID, Clients: 3, Troubles: []string{"the clock is slow"}, Started: &began, SentBytes: 1 << 33, ReceivedBytes: 7}),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	want := &headscalev1.Relay{
		Id: uint64(r.ID), Name: "home-1", RegionId: 902, RegionCode: "home", RegionName: "home",
		Addresses: []string{"192.0.2.7"}, SeenFrom: "192.0.2.7", DerpPort: 8443, StunPort: 3478,
		Certificates: []*headscalev1.RelayCertificate{{Name: "r-1.relay.invalid", Pin: "sha256-raw:12", Expires: timestamppb.New(start.AddDate(0, 3, 0))}},
		Version:      "1.2", DerpKey: r.DERPKey.String(), MachineKey: r.MachineKey.String(),
		Online: true, OutBecause: "it has not answered a probe yet", Troubles: []string{"the clock is slow"},
		Clients: 3, Today: &headscalev1.RelayTraffic{Sent: 1 << 33, Received: 7}, Month: &headscalev1.RelayTraffic{Sent: 1 << 33, Received: 7},
		SeenAt: timestamppb.New(start), LatencyMs: 30, LatencyNodes: 3, CreatedAt: timestamppb.New(start),
	}
	if diff := cmp.Diff([]*headscalev1.Relay{want}, b.relays(t, ctx, ""), protocmp.Transform()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if err := b.store.SetRelayHealth(ctx, r.ID, true, ""); err != nil {
		t.Fatal(err)
	}
	if got := b.relays(t, ctx, "")[0]; !got.GetHealthy() || !slices.Equal(got.GetPublished(), []string{"192.0.2.7:8443"}) {
		t.Errorf("in the map: got %v", got)
	}

	drained, err := b.DrainRelay(ctx, &headscalev1.DrainRelayRequest{Relay: "home-1"})
	if err != nil || !drained.GetRelay().GetDraining() {
		t.Errorf("draining: got %v, %v", drained, err)
	}
	if drained, err = b.DrainRelay(ctx, &headscalev1.DrainRelayRequest{Relay: "1", Undo: true}); err != nil || drained.GetRelay().GetDraining() {
		t.Errorf("taking that back: got %v, %v", drained, err)
	}
	renamed, err := b.RenameRelay(ctx, &headscalev1.RenameRelayRequest{Relay: "1", Name: "attic", Region: "fra", RegionName: "Frankfurt"})
	if healthErr := b.store.SetRelayHealth(ctx, r.ID, true, ""); healthErr != nil { // it answered a second time
		t.Fatal(healthErr)
	}
	if got := b.relays(t, ctx, "")[0]; len(got.GetPublished()) > 0 || !strings.Contains(got.GetOutBecause(), "region 903 is another one") {
		t.Errorf("in a region of the server's own map: got %v", got)
	}
	if got := renamed.GetRelay(); err != nil || got.GetName() != "attic" || got.GetRegionId() != 903 || got.GetRegionName() != "Frankfurt" || got.GetLatencyNodes() != 0 {
		t.Errorf("renaming: got %v, %v", got, err)
	}
	for _, wrong := range []*headscalev1.RenameRelayRequest{{Relay: "attic"}, {Name: "x"}, {Relay: "attic", Name: "A B"}, {Relay: "attic", Region: "FRA"}} {
		_, err := b.RenameRelay(ctx, wrong)
		refused(t, err, codes.InvalidArgument, "")
	}
	if _, err := b.RemoveRelay(ctx, &headscalev1.RemoveRelayRequest{Relay: "attic"}); err != nil {
		t.Fatal(err)
	}
	_, err = b.RemoveRelay(ctx, &headscalev1.RemoveRelayRequest{Relay: "attic"})
	refused(t, err, codes.NotFound, "see headscale derp list")
	if got := b.relays(t, ctx, ""); len(got) != 0 {
		t.Errorf("after the removal: got %v", got)
	}
}

func (b *bench) relays(t *testing.T, ctx context.Context, tailnetName string) []*headscalev1.Relay {
	t.Helper()
	resp, err := b.ListRelays(ctx, &headscalev1.ListRelaysRequest{Tailnet: tailnetName})
	if err != nil {
		t.Fatal(err)
	}
	return resp.GetRelays()
}

func TestRelayKeys(t *testing.T) {
	b := withRelays(t)
	ctx := t.Context()
	made, err := b.CreateRelayKey(ctx, &headscalev1.CreateRelayKeyRequest{Description: "home"})
	if err != nil {
		t.Fatal(err)
	}
	k := made.GetRelayKey()
	if _, server, err := tailnet.ParseRelayKey(k.GetKey()); err != nil || server != serverKey || made.GetControlUrl() != "http://203.0.113.5:8080" ||
		k.GetReusable() || !k.GetExpiration().AsTime().Equal(start.Add(24*time.Hour)) || k.GetTailnet() != "" {
		t.Errorf("got %v, %v", made, err)
	}
	listed, err := b.ListRelayKeys(ctx, &headscalev1.ListRelayKeysRequest{})
	if err != nil || len(listed.GetRelayKeys()) != 1 || !strings.HasSuffix(listed.GetRelayKeys()[0].GetKey(), "-***") || listed.GetRelayKeys()[0].GetDescription() != "home" {
		t.Errorf("list: got %v, %v", listed, err)
	}
	for _, wrong := range []*headscalev1.DeleteRelayKeyRequest{{}, {Id: 1, Key: "x"}} {
		_, err := b.DeleteRelayKey(ctx, wrong)
		refused(t, err, codes.InvalidArgument, "say which key")
	}
	if _, err := b.DeleteRelayKey(ctx, &headscalev1.DeleteRelayKeyRequest{Key: listed.GetRelayKeys()[0].GetKey()}); err != nil {
		t.Error(err)
	}
	_, err = b.DeleteRelayKey(ctx, &headscalev1.DeleteRelayKeyRequest{Id: k.GetId()})
	refused(t, err, codes.NotFound, "enroll-keys list")
	_, err = newBench(t).CreateRelayKey(ctx, &headscalev1.CreateRelayKeyRequest{})
	refused(t, err, codes.Unimplemented, "enrolment")
}

// TestRelaysOfOneTailnet: an API key of one tailnet is about that one's own relays.
func TestRelaysOfOneTailnet(t *testing.T) {
	b := withRelays(t, func(c *api.Config) {
		c.Embedded = func() []*api.EmbeddedRelay {
			return []*api.EmbeddedRelay{{Name: "embedded", RegionID: 999, Clients: 5}}
		}
	})
	b.tailnet(t, "lab")
	global, own := b.enrol(t, "", "fra"), b.enrol(t, "lab", "home")
	other := b.enrol(t, "default", "home")
	names := func(relays []*headscalev1.Relay) (names []string) {
		for _, r := range relays {
			names = append(names, r.GetName())
		}
		return names
	}
	for _, c := range []struct {
		tailnet string
		want    []string
	}{
		{"", []string{"embedded", global.Name, own.Name, other.Name}},
		{"*", []string{"embedded", global.Name, own.Name, other.Name}},
		{"lab", []string{"embedded", global.Name, own.Name}},
	} {
		if diff := cmp.Diff(c.want, names(b.relays(t, t.Context(), c.tailnet))); diff != "" {
			t.Errorf("relays of %q (-want +got):\n%s", c.tailnet, diff)
		}
	}
	_, err := b.DrainRelay(t.Context(), &headscalev1.DrainRelayRequest{Relay: "embedded"})
	refused(t, err, codes.InvalidArgument, "derp.server")

	ctx := b.withKey(t, "lab")
	listed, err := b.remote.ListRelays(ctx, &headscalev1.ListRelaysRequest{})
	if diff := cmp.Diff([]string{own.Name}, names(listed.GetRelays())); diff != "" || err != nil {
		t.Errorf("for a key of lab: %v (-want +got):\n%s", err, diff)
	}
	for _, ref := range []string{global.Name, other.Name, "1"} {
		_, err := b.remote.RemoveRelay(ctx, &headscalev1.RemoveRelayRequest{Relay: ref})
		refused(t, err, codes.NotFound, "")
	}
	made, err := b.remote.CreateRelayKey(ctx, &headscalev1.CreateRelayKeyRequest{})
	if err != nil || made.GetRelayKey().GetTailnet() != "lab" {
		t.Errorf("a key made with it: got %v, %v, want one for lab", made, err)
	}
	_, err = b.remote.CreateRelayKey(ctx, &headscalev1.CreateRelayKeyRequest{Tailnet: "default"})
	refused(t, err, codes.NotFound, "")
	keys, err := b.remote.ListRelayKeys(ctx, &headscalev1.ListRelayKeysRequest{})
	if err != nil || len(keys.GetRelayKeys()) != 2 {
		t.Errorf("keys that it sees: got %v, %v, want two of lab", keys, err)
	}
	_, err = b.remote.DeleteRelayKey(ctx, &headscalev1.DeleteRelayKeyRequest{Id: 1})
	refused(t, err, codes.NotFound, "")
}
