package state_test

import (
	"net/netip"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
	"tailscale.com/tailcfg"
	"tailscale.com/types/key"

	"github.com/keelscale/keelscale/hscontrol/state"
	"github.com/keelscale/keelscale/hscontrol/store"
	"github.com/keelscale/keelscale/hscontrol/tailnet"
)

// Relays that enrolled stand beside the server's own regions, while they are healthy; and the map is the same pointer
// while it says the same.
func TestRelaysInTheMap(t *testing.T) {
	s := openStore(t, filepath.Join(t.TempDir(), "db"))
	base := &tailcfg.DERPMap{Regions: map[int]*tailcfg.DERPRegion{900: {RegionID: 900, RegionCode: "own", Nodes: []*tailcfg.DERPNode{{Name: "900a", RegionID: 900, HostName: "own.example"}}}}}
	st := follow(t, s, settings, base)
	tn := defaultTailnet(t, s)
	feed := st.Feed(tn.ID)
	if got := feed.Load().DERPMap; got != base {
		t.Error("without relays: got another map than the server's own")
	}
	_, secret, err := s.CreateRelayKey(t.Context(), tailnet.RelayKey{})
	if err != nil {
		t.Fatal(err)
	}
	r, err := s.EnrolRelay(t.Context(), store.RelayEnrolment{Key: secret.Reveal(), MachineKey: key.NewMachine().Public(), Region: "home", Description: tailnet.RelayDescription{
		DERPKey: key.NewNode().Public(), DERPPort: 8443, STUNPort: 3478, Published: []netip.Addr{netip.MustParseAddr("203.0.113.7")},
		Certificates: []tailnet.RelayCertificate{{Name: "r-1.relay.invalid", Pin: "sha256-raw:00"}, {Name: "r-0.relay.invalid", Pin: "sha256-raw:11"}},
	}})
	if err != nil {
		t.Fatal(err)
	}
	await := func(what string, ok func(*state.View) bool) *state.View {
		t.Helper()
		for {
			e := feed.Load()
			if ok(e.View) {
				return e.View
			}
			newer(t, feed, e, what)
		}
	}
	health := func(healthy bool) {
		t.Helper()
		if err := s.SetRelayHealth(t.Context(), r.ID, healthy, "it was asked to"); err != nil {
			t.Fatal(err)
		}
	}
	v := await("the relay", func(v *state.View) bool { return len(v.Relays) == 1 })
	if v.DERPMap != base {
		t.Error("a relay that has not answered yet is in the map")
	}
	health(true)
	v = await("the map", func(v *state.View) bool { return v.DERPMap != base })
	want := &tailcfg.DERPNode{Name: "home-1", RegionID: 901, HostName: "r-1.relay.invalid", CertName: "sha256-raw:00", IPv4: "203.0.113.7", IPv6: "none", DERPPort: 8443}
	if diff := cmp.Diff(want, v.DERPMap.Regions[901].Nodes[0]); diff != "" || v.DERPMap.Regions[900] == nil {
		t.Errorf("the relay in the map (-want +got):\n%s", diff)
	}
	if n := v.Pinless.Regions[901].Nodes[0]; n.CertName != "" || !n.InsecureForTests {
		t.Errorf("for clients that know no pins: got %+v", n)
	}
	if err := s.OpenRelaySession(t.Context(), r.ID, "x"); err != nil {
		t.Fatal(err)
	}
	if next := await("the session", func(v *state.View) bool { return v.Relays[0].Online }); next.DERPMap != v.DERPMap || next.Pinless != v.Pinless {
		t.Error("a change that the map does not show: got another map, want the same pointers")
	}
	off := *settings
	off.NoRelays = true
	st.SetSettings(&off)
	await("the relays to be switched off", func(v *state.View) bool { return v.DERPMap.Regions[901] == nil })
	st.SetSettings(settings)
	await("the relays to be back", func(v *state.View) bool { return v.DERPMap.Regions[901] != nil })

	// A region of the operator's with the same number goes first, and the clash is told.
	clash := base.Clone()
	clash.Regions[901] = &tailcfg.DERPRegion{RegionID: 901, RegionCode: "other", Nodes: []*tailcfg.DERPNode{{Name: "901a", RegionID: 901, HostName: "other.example"}}}
	st.SetDERPMap(clash)
	await("the operator's region", func(v *state.View) bool { return v.DERPMap.Regions[901].RegionCode == "other" })
	if got := st.Clashes(); len(got) != 1 || got[0].Code != "home" {
		t.Errorf("got clashes %v, want home", got)
	}
	st.SetDERPMap(base)
	await("the relay's region", func(v *state.View) bool { return v.DERPMap.Regions[901].RegionCode == "home" })
	health(false)
	await("the relay to be out", func(v *state.View) bool { return v.DERPMap == base })

	// It returns in two steps: first its region, which clients cannot use, then itself.
	if err := s.SetRelayHealth(t.Context(), r.ID, false, tailnet.RelayReturns); err != nil {
		t.Fatal(err)
	}
	v = await("its region", func(v *state.View) bool { return v.DERPMap != base })
	want = &tailcfg.DERPNode{Name: "home-1", RegionID: 901, HostName: "home-1.invalid", IPv4: "none", IPv6: "none", STUNPort: -1, STUNOnly: true}
	if diff := cmp.Diff([]*tailcfg.DERPNode{want}, v.DERPMap.Regions[901].Nodes); diff != "" {
		t.Errorf("a relay that returns (-want +got):\n%s", diff)
	}
	health(true)
	await("the relay again", func(v *state.View) bool { return v.DERPMap.Regions[901].Nodes[0].IPv4 == "203.0.113.7" })
	for _, drain := range []bool{true, false} {
		if _, err := s.DrainRelay(t.Context(), r.ID, drain); err != nil {
			t.Fatal(err)
		}
		await("the relay to be drained, and to return", func(v *state.View) bool { return (v.DERPMap == base) == drain })
	}
	if n := feed.Load().DERPMap.Regions[901].Nodes[0]; !n.STUNOnly {
		t.Errorf("a relay that is drained no more returns as %+v, want in two steps", n)
	}
}

// How relays of all kinds are found.
func TestRelayNodes(t *testing.T) {
	addrs := []netip.Addr{netip.MustParseAddr("203.0.113.7"), netip.MustParseAddr("2001:db8::7")}
	for name, c := range map[string]struct {
		d    tailnet.RelayDescription
		want *tailcfg.DERPNode
	}{
		"a name, and an authority": {tailnet.RelayDescription{Hostname: "r.example.com", DERPPort: 443, STUNPort: 3478, Port80: true, Certificates: []tailnet.RelayCertificate{{}}},
			&tailcfg.DERPNode{HostName: "r.example.com", CanPort80: true}},
		"behind a TLS proxy": {tailnet.RelayDescription{Hostname: "r.example.com", DERPPort: 443}, &tailcfg.DERPNode{HostName: "r.example.com", STUNPort: -1}},
		"an address, and an authority": {tailnet.RelayDescription{Hostname: "203.0.113.7", DERPPort: 443, STUNPort: 9, Published: addrs[:1], Certificates: []tailnet.RelayCertificate{{}}},
			&tailcfg.DERPNode{HostName: "203.0.113.7", IPv4: "203.0.113.7", IPv6: "none", STUNPort: 9}},
		"both families": {tailnet.RelayDescription{DERPPort: 443, STUNPort: 3478, Published: addrs, Certificates: []tailnet.RelayCertificate{{Name: "n", Pin: "p"}}},
			&tailcfg.DERPNode{HostName: "n", CertName: "p", IPv4: "203.0.113.7", IPv6: "2001:db8::7"}},
		"no address":                 {tailnet.RelayDescription{DERPPort: 443, Certificates: []tailnet.RelayCertificate{{Name: "n", Pin: "p"}}}, nil},
		"no certificate and no name": {tailnet.RelayDescription{DERPPort: 443}, nil},
	} {
		if c.want != nil {
			c.want.Name, c.want.RegionID = "x", 901
		}
		got := state.RelayNode(&tailnet.Relay{Name: "x", RegionID: 901, RelayDescription: c.d})
		if diff := cmp.Diff(c.want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}
