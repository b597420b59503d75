package state_test

import (
	"context"
	"log/slog"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"tailscale.com/tailcfg"
	"tailscale.com/types/key"

	"github.com/keelscale/keelscale/hscontrol/state"
	"github.com/keelscale/keelscale/hscontrol/store"
	"github.com/keelscale/keelscale/hscontrol/tailnet"
)

var settings = &state.Settings{
	BaseDomain: "example.net", MagicDNS: true,
	PrefixV4: netip.MustParsePrefix("100.64.0.0/10"), PrefixV6: netip.MustParsePrefix("fd7a:115c:a1e0::/48"),
}

func openStore(t *testing.T, path string) *store.Store {
	t.Helper()
	s, err := store.Open(t.Context(), store.Config{
		Type: "sqlite", SQLite: store.SQLiteConfig{Path: path, WAL: true},
		PrefixV4: settings.PrefixV4, PrefixV6: settings.PrefixV6, Log: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func follow(t *testing.T, s *store.Store, set *state.Settings, m *tailcfg.DERPMap) *state.State {
	t.Helper()
	st, err := state.New(t.Context(), state.Config{Store: s, Settings: set, DERPMap: m, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- st.Run(ctx) }()
	t.Cleanup(func() {
		stop()
		if err := <-ended; err != nil {
			t.Errorf("following: %v", err)
		}
	})
	return st
}

func defaultTailnet(t *testing.T, s *store.Store) *tailnet.Tailnet {
	t.Helper()
	tn, err := s.FindTailnet(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	return tn
}

func join(t *testing.T, s *store.Store, expiry *time.Time) *tailnet.Node {
	t.Helper()
	tn := defaultTailnet(t, s)
	u, err := s.FindUser(t.Context(), tn.ID, "alice")
	if err != nil {
		if u, err = s.CreateUser(t.Context(), tailnet.User{TailnetID: tn.ID, Name: "alice"}); err != nil {
			t.Fatal(err)
		}
	}
	_, secret, err := s.CreatePreAuthKey(t.Context(), tailnet.PreAuthKey{TailnetID: tn.ID, UserID: u.ID})
	if err != nil {
		t.Fatal(err)
	}
	n, err := s.JoinWithKey(t.Context(), secret.Reveal(), store.Join{
		MachineKey: key.NewMachine().Public(), NodeKey: key.NewNode().Public(), Hostinfo: &tailcfg.Hostinfo{Hostname: "box"}, Expiry: expiry,
	})
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// await waits for a round of views until ok holds.
func await(t *testing.T, s *state.State, what string, ok func() bool) {
	t.Helper()
	late := time.After(3 * time.Minute)
	for {
		round := s.Round()
		if ok() {
			return
		}
		select {
		case <-round:
		case <-late:
			t.Fatalf("waiting for %s", what)
		}
	}
}

func TestViewsFollowTheStore(t *testing.T) {
	s := openStore(t, filepath.Join(t.TempDir(), "db"))
	st := follow(t, s, settings, &tailcfg.DERPMap{})
	id := defaultTailnet(t, s).ID
	before := st.Feed(id).Load()
	n := join(t, s, nil)
	newer(t, st.Feed(id), before, "the node")
	await(t, st, "the node", func() bool { v, found := st.Find(n.NodeKey); return found != nil && v.Rev > before.Rev })

	// What did not change is shared.
	_, was := st.Find(n.NodeKey)
	if _, err := s.CreateUser(t.Context(), tailnet.User{TailnetID: id, Name: "bob"}); err != nil {
		t.Fatal(err)
	}
	await(t, st, "the user", func() bool { return len(st.View(id).Users) == 2 })
	if _, is := st.Find(n.NodeKey); is != was {
		t.Error("a node that did not change has another pointer")
	}

	if err := s.DeleteNode(t.Context(), n.ID); err != nil {
		t.Fatal(err)
	}
	await(t, st, "the node to go", func() bool { _, found := st.Find(n.NodeKey); return found == nil })
	if _, found, err := st.FindFresh(t.Context(), n.NodeKey); found != nil || err != nil {
		t.Errorf("a deleted node, asked of the store: got %v, %v", found, err)
	}
}

func TestTailnetsComeAndGo(t *testing.T) {
	s := openStore(t, filepath.Join(t.TempDir(), "db"))
	st := follow(t, s, settings, &tailcfg.DERPMap{})
	tn, err := s.CreateTailnet(t.Context(), "lab", netip.MustParsePrefix("10.9.0.0/16"), netip.Prefix{})
	if err != nil {
		t.Fatal(err)
	}
	await(t, st, "the tailnet", func() bool { return st.View(tn.ID) != nil })
	v := st.View(tn.ID)
	if v.Domain != "lab.example.net" || len(v.Prefixes) != 1 || v.DNS.Routes["9.10.in-addr.arpa"] == nil {
		t.Errorf("got domain %q, prefixes %v, DNS routes %v", v.Domain, v.Prefixes, v.DNS.Routes)
	}
	feed := st.Feed(tn.ID)
	edition := feed.Load()
	if err := s.DeleteTailnet(t.Context(), "lab"); err != nil {
		t.Fatal(err)
	}
	newer(t, feed, edition, "the tailnet to go")
	await(t, st, "the tailnet to go", func() bool { return st.View(tn.ID) == nil })
}

func TestDNS(t *testing.T) {
	s := openStore(t, filepath.Join(t.TempDir(), "db"))
	set := *settings
	set.Nameservers, set.OverrideLocalDNS = []string{"192.0.2.53"}, true
	set.SplitDNS = map[string][]string{"corp.example": {"10.0.0.53"}, "local.example": nil}
	set.SearchDomains = []string{"corp.example"}
	st := follow(t, s, &set, &tailcfg.DERPMap{})
	id := defaultTailnet(t, s).ID
	dns := st.View(id).DNS
	if !dns.Proxied || !slices.Equal(dns.Domains, []string{"example.net", "corp.example"}) || len(dns.Resolvers) != 1 || len(dns.FallbackResolvers) != 0 {
		t.Errorf("got %+v", dns)
	}
	for _, name := range []string{"example.net", "corp.example", "local.example", "64.100.in-addr.arpa", "127.100.in-addr.arpa", "0.e.1.a.c.5.1.1.a.7.d.f.ip6.arpa"} {
		if dns.Routes[name] == nil {
			t.Errorf("DNS route %q: got nil, want a list, if an empty one", name)
		}
	}
	if dns.Routes["128.100.in-addr.arpa"] != nil {
		t.Error("a reverse zone that is not ours is among the routes")
	}
	set2 := set
	set2.MagicDNS = false
	st.SetSettings(&set2)
	await(t, st, "MagicDNS to end", func() bool { return !st.View(id).DNS.Proxied })
	if got := st.View(id).DNS.Routes; len(got) != 2 {
		t.Errorf("without MagicDNS: got routes %v, want the split ones only", got)
	}
}

func TestOldClientsGetNoPins(t *testing.T) {
	pinned := &tailcfg.DERPMap{Regions: map[int]*tailcfg.DERPRegion{
		1: {RegionID: 1, Nodes: []*tailcfg.DERPNode{{Name: "1a", RegionID: 1, HostName: "203.0.113.7", CertName: "sha256-raw:00"}}},
		2: {RegionID: 2, Nodes: []*tailcfg.DERPNode{{Name: "2a", RegionID: 2, HostName: "derp.example", CertName: "derp.example"}}},
		3: nil,
	}}
	st := follow(t, openStore(t, filepath.Join(t.TempDir(), "db")), settings, pinned)
	v := st.Views()[0]
	one, two := v.Pinless.Regions[1].Nodes[0], v.Pinless.Regions[2].Nodes[0]
	if one.CertName != "" || !one.InsecureForTests || two.CertName != "derp.example" || two.InsecureForTests {
		t.Errorf("got %+v and %+v; want the pin gone, and nothing else", one, two)
	}
	if v.DERPMap.Regions[1].Nodes[0].InsecureForTests {
		t.Error("the map of new clients was changed too")
	}
}

// A policy in the store that cannot be used leaves the one before it in force, also over a restart.
func TestBadStoredPolicyKeepsTheGoodOne(t *testing.T) {
	path := filepath.Join(t.TempDir(), "db")
	s := openStore(t, path)
	st := follow(t, s, settings, &tailcfg.DERPMap{})
	tn := defaultTailnet(t, s)
	a, b := join(t, s, nil), join(t, s, nil)
	put := func(text string) {
		t.Helper()
		if _, err := s.PutPolicy(t.Context(), tn.ID, text, "test"); err != nil {
			t.Fatal(err)
		}
	}
	put(`{"acls": []}`)
	sees := func(st *state.State) bool { return st.View(tn.ID).Policy.Sees(a.ID, b.ID) }
	await(t, st, "nobody to be seen", func() bool { v, n := st.Find(b.NodeKey); return n != nil && v.Snapshot.Policy != nil && !sees(st) })
	put(`{"acls": [{"action": "accept", "src": ["*"], "dst": ["*:*"]}], "surprise": true}`)
	await(t, st, "the problem", func() bool { return len(st.Problems()) == 1 })
	if p := st.Problems()[0]; sees(st) || !strings.Contains(p.Text, "surprise") || !strings.Contains(p.Text, "stays in force") {
		t.Errorf("got %+v, and nodes see each other: %v", p, sees(st))
	}
	// A server that starts anew finds the same.
	again := follow(t, s, settings, &tailcfg.DERPMap{})
	if ps := again.Problems(); len(ps) != 1 || sees(again) || !strings.Contains(ps[0].Text, "in force instead") {
		t.Errorf("after a restart: got %+v, and nodes see each other: %v", ps, sees(again))
	}
	put(`{"acls": [{"action": "accept", "src": ["*"], "dst": ["*:*"]}]}`)
	await(t, st, "the end of the problem", func() bool { return len(st.Problems()) == 0 && sees(st) })
}

func TestKeysLapseByThemselves(t *testing.T) {
	s := openStore(t, filepath.Join(t.TempDir(), "db"))
	st := follow(t, s, settings, &tailcfg.DERPMap{})
	soon := time.Now().Add(300 * time.Millisecond)
	n := join(t, s, &soon)
	await(t, st, "the node", func() bool { _, found := st.Find(n.NodeKey); return found != nil })
	await(t, st, "its key to lapse", func() bool { _, found := st.Find(n.NodeKey); return found.Lapsed })
	if time.Now().Before(soon) {
		t.Error("the key lapsed before its time")
	}
	later := time.Now().Add(time.Hour)
	if _, err := s.ExpireNode(t.Context(), n.ID, &later); err != nil {
		t.Fatal(err)
	}
	await(t, st, "its key to be good again", func() bool { _, found := st.Find(n.NodeKey); return !found.Lapsed })
}
