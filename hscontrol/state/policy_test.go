package state_test

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"tailscale.com/tailcfg"
	"tailscale.com/types/key"

	"github.com/keelscale/keelscale/hscontrol/state"
	"github.com/keelscale/keelscale/hscontrol/store"
	"github.com/keelscale/keelscale/hscontrol/tailnet"
)

// world is a store with users and nodes, and what follows it.
type world struct {
	*store.Store
	t      *testing.T
	ctx    context.Context
	id     tailnet.ID
	secret string
	log    *bytes.Buffer
}

func newWorld(t *testing.T) *world {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	t.Cleanup(cancel)
	db, err := store.Open(ctx, store.Config{
		Type: "sqlite", SQLite: store.SQLiteConfig{Path: filepath.Join(t.TempDir(), "db.sqlite"), WAL: true},
		PrefixV4: netip.MustParsePrefix("100.64.0.0/10"), Log: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	w := &world{Store: db, t: t, ctx: ctx, log: &bytes.Buffer{}}
	def, err := db.FindTailnet(ctx, "")
	if err != nil {
		t.Fatal(err)
	}
	w.id = def.ID
	u, err := db.CreateUser(ctx, tailnet.User{TailnetID: w.id, Name: "alice"})
	if err != nil {
		t.Fatal(err)
	}
	_, secret, err := db.CreatePreAuthKey(ctx, tailnet.PreAuthKey{TailnetID: w.id, UserID: u.ID, Reusable: true})
	if err != nil {
		t.Fatal(err)
	}
	w.secret = secret.Reveal()
	return w
}

func (w *world) join(name string) *tailnet.Node {
	w.t.Helper()
	n, err := w.JoinWithKey(w.ctx, w.secret, store.Join{
		MachineKey: key.NewMachine().Public(), NodeKey: key.NewNode().Public(), CapVersion: 113,
		Hostinfo: &tailcfg.Hostinfo{Hostname: name, OS: "linux"},
	})
	if err != nil {
		w.t.Fatal(err)
	}
	return n
}

func (w *world) put(text string) uint64 {
	w.t.Helper()
	v, err := w.PutPolicy(w.ctx, w.id, text, "test")
	if err != nil {
		w.t.Fatal(err)
	}
	return v.ID
}

// follow starts a state; the log may be read once the state has ended.
func (w *world) follow() (s *state.State, end func()) {
	w.t.Helper()
	return w.followWith(state.Config{DERPMap: &tailcfg.DERPMap{}, Settings: &state.Settings{PrefixV4: netip.MustParsePrefix("100.64.0.0/10")}})
}

func (w *world) followWith(cfg state.Config) (s *state.State, end func()) {
	w.t.Helper()
	ctx, cancel := context.WithCancel(w.ctx)
	cfg.Store, cfg.Log = w.Store, slog.New(slog.NewTextHandler(w.log, nil))
	s, err := state.New(ctx, cfg)
	if err != nil {
		cancel()
		w.t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	return s, func() {
		cancel()
		if err := <-done; err != nil {
			w.t.Error(err)
		}
	}
}

// await waits until ok holds of the view.
func (w *world) await(s *state.State, what string, ok func(*state.View) bool) *state.View {
	w.t.Helper()
	for {
		done := s.Round()
		if v := s.View(w.id); ok(v) {
			return v
		}
		select {
		case <-done:
		case <-w.ctx.Done():
			w.t.Fatalf("waiting for %s: %v", what, w.ctx.Err())
		}
	}
}

// What no policy can tell apart is no reason to compile it again.
func TestPolicyIsKept(t *testing.T) {
	w := newWorld(t)
	n := w.join("box")
	w.put(`{"acls": [{"action": "accept", "src": ["alice@"], "dst": ["autogroup:self:*"]}]}`)
	s, end := w.follow()
	defer end()
	compiled := s.View(w.id).Policy
	for i := range 3 {
		endpoint := netip.MustParseAddrPort(fmt.Sprintf("192.0.2.1:%d", 1000+i))
		_, _, err := w.UpdateNode(w.ctx, n.ID, store.NodeUpdate{Arrived: time.Now(), Endpoints: []netip.AddrPort{endpoint}, EndpointTypes: []tailcfg.EndpointType{tailcfg.EndpointLocal}, CapVersion: 113})
		if err != nil {
			t.Fatal(err)
		}
		v := w.await(s, "the endpoint", func(v *state.View) bool {
			e := v.Node(n.ID).Endpoints
			return len(e) == 1 && e[0] == endpoint
		})
		if v.Policy != compiled {
			t.Fatal("the policy was compiled again after a change of an endpoint")
		}
	}
	w.join("desk")
	if v := w.await(s, "another node", func(v *state.View) bool { return len(v.Nodes) == 2 }); v.Policy == compiled {
		t.Error("the policy was not compiled again although a node came")
	}
}

func TestWarningsAreLogged(t *testing.T) {
	w := newWorld(t)
	w.put(`{"acls": [{"action": "accept", "src": ["ghost@example.com"], "dst": ["*:*"]}]}`)
	_, end := w.follow()
	end()
	if got := w.log.String(); !strings.Contains(got, `line 1: user \"ghost@example.com\" does not exist yet`) {
		t.Errorf("log: got %q, want the user who is not there", got)
	}
}

// The last version that can be used is in force while the newer ones cannot; without one, everything is denied.
func TestBadVersions(t *testing.T) {
	const bad = `{"acls": [{"action": "perhaps"}]}`
	w := newWorld(t)
	a, b := w.join("box"), w.join("desk")
	w.put(bad)
	s, end := w.follow()
	sees := func(v *state.View) bool { return v.Policy.Sees(a.ID, b.ID) }
	if p := s.Problems(); sees(s.View(w.id)) || len(p) != 1 || p[0].Stored != 1 || p[0].InForce != 0 || !strings.Contains(p[0].Text, "everything is denied") {
		t.Errorf("a bad first version: got problems %+v, want it told, and everything denied", p)
	}
	good := w.put(`{"acls": [{"action": "accept", "src": ["*"], "dst": ["*:*"]}]}`)
	w.await(s, "the good version", sees)
	if p := s.Problems(); len(p) != 0 {
		t.Errorf("after a good version: got %+v, want no problem", p)
	}
	for i, text := range []string{bad, bad + "//"} {
		version := w.put(text)
		if err := s.AwaitPolicy(w.ctx, w.id, version); err != nil {
			t.Fatal(err)
		}
		if p := s.Problems(); !sees(s.View(w.id)) || len(p) != 1 || p[0].Stored != version || p[0].InForce != good {
			t.Errorf("bad version %d after the good one: got problems %+v, want version %d in force", i, p, good)
		}
	}
	end()
	s, end = w.follow()
	defer end()
	if p := s.Problems(); !sees(s.View(w.id)) || len(p) != 1 || p[0].InForce != good || p[0].Tailnet != "default" {
		t.Errorf("after a restart: got problems %+v, want version %d in force", p, good)
	}
	warnings, err := s.CheckPolicy(w.id, `{"ssh": [{"action": "check", "src": ["alice@"], "dst": ["autogroup:self"], "users": ["root"]}]}`)
	if err != nil || len(warnings) != 0 {
		t.Errorf("a rule with action check: got %v, %v, want it accepted", warnings, err)
	}
}

// What a policy says of relays and names comes beside what the configuration says, and goes with it.
func TestPolicyExtras(t *testing.T) {
	w := newWorld(t)
	region := func(id int, code string) *tailcfg.DERPRegion {
		return &tailcfg.DERPRegion{RegionID: id, RegionCode: code, RegionName: code, Nodes: []*tailcfg.DERPNode{{Name: code, RegionID: id, HostName: code + ".example.com"}}}
	}
	base := &tailcfg.DERPMap{Regions: map[int]*tailcfg.DERPRegion{1: region(1, "one"), 2: region(2, "two")}}
	settings := &state.Settings{PrefixV4: netip.MustParsePrefix("100.64.0.0/10"), ExtraRecords: []tailcfg.DNSRecord{{Name: "a.example.com", Type: "A", Value: "192.0.2.1"}}}
	s, end := w.followWith(state.Config{DERPMap: base, Settings: settings})
	defer end()
	if v := s.View(w.id); v.DERPMap != base || len(v.DNS.ExtraRecords) != 1 {
		t.Errorf("without a policy: got %v, %v, want what is configured", v.DERPMap, v.DNS.ExtraRecords)
	}
	codes := func(v *state.View) (list []string) {
		for _, id := range v.DERPMap.RegionIDs() {
			list = append(list, v.DERPMap.Regions[id].RegionCode)
		}
		return list
	}
	for text, want := range map[string]string{
		`{"derpMap": {"Regions": {"1": null, "900": {"Nodes": [{"HostName": "r.example.com", "CertName": "sha256-raw:` + strings.Repeat("ab", 32) + `"}]}}}}`: "[two r900]",
		`{"derpMap": {"OmitDefaultRegions": true, "Regions": {"901": {"Nodes": [{"HostName": "r.example.com"}]}}}}`:                                           "[r901]",
		`{"derpMap": {"OmitDefaultRegions": true}}`: "[one two]",
		`{"derpMap": {}}`: "[one two]",
	} {
		if err := s.AwaitPolicy(w.ctx, w.id, w.put(text)); err != nil {
			t.Fatal(err)
		}
		v := s.View(w.id)
		if got := fmt.Sprint(codes(v)); got != want {
			t.Errorf("%s: got regions %s, want %s", text, got, want)
		}
		if strings.Contains(text, "sha256") && v.Pinless.Regions[900].Nodes[0].CertName != "" {
			t.Error("clients that know no pins are told one")
		}
	}
	if err := s.AwaitPolicy(w.ctx, w.id, w.put(`{"extraDNSRecords": [{"Name": "b.example.com", "Value": "192.0.2.2"}]}`)); err != nil {
		t.Fatal(err)
	}
	v := s.View(w.id)
	if got := fmt.Sprint(v.DNS.ExtraRecords); got != "[{a.example.com A 192.0.2.1} {b.example.com  192.0.2.2}]" {
		t.Errorf("records: got %s", got)
	}
	w.join("box")
	if next := w.await(s, "a node", func(v *state.View) bool { return len(v.Nodes) == 1 }); next.DNS != v.DNS || next.DERPMap != v.DERPMap {
		t.Error("what did not change was made anew")
	}
	if _, err := s.CheckPolicy(w.id, "{\n\"derpMap\": {\"Regions\": {\"900\": {\"Nodes\": []}}}}"); err == nil || !strings.Contains(err.Error(), "line 2: derpMap: region 900 (r900) has no nodes") {
		t.Errorf("a map that no client could use: got %v, want it refused", err)
	}
}
