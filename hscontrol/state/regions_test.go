package state_test

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"tailscale.com/tailcfg"

	"github.com/keelscale/keelscale/hscontrol/state"
)

func homeAnd(codes ...string) *tailcfg.DERPMap {
	m := &tailcfg.DERPMap{Regions: map[int]*tailcfg.DERPRegion{}}
	for i, code := range append([]string{"home"}, codes...) {
		m.Regions[i+1] = &tailcfg.DERPRegion{RegionID: i + 1, RegionCode: code, Nodes: []*tailcfg.DERPNode{{Name: code, RegionID: i + 1, HostName: code + ".example.com"}}}
	}
	return m
}

// What the policy chooses follows the relays as they come and go, and is loud when nothing is left.
func TestRegionRules(t *testing.T) {
	w := newWorld(t)
	s, end := w.followWith(state.Config{DERPMap: homeAnd("far"), Settings: &state.Settings{PrefixV4: netip.MustParsePrefix("100.64.0.0/10")}})
	defer func() {
		end()
		if log := w.log.String(); !strings.Contains(log, `no relay is in region \"third\" now`) || !strings.Contains(log, "some nodes have no relay") {
			t.Errorf("the log does not tell of the region and the nodes:\n%s", log)
		}
	}()
	box := w.join("box")
	text := `{"derpMap": {"rules": [{"target": ["alice@"], "allow": ["far", "third"]}]}}`
	warnings, err := s.CheckPolicy(w.id, text)
	if err != nil || len(warnings) != 1 || !strings.Contains(warnings[0], `line 1: derpMap.rules[0]: no relay is in region "third" now`) {
		t.Errorf("a region that is not there: got %v, %v, want a warning", warnings, err)
	}
	if err := s.AwaitPolicy(w.ctx, w.id, w.put(text)); err != nil {
		t.Fatal(err)
	}
	regions := func(v *state.View) string { return fmt.Sprint(v.DERPMapOf(box.ID).RegionIDs()) }
	v := w.await(s, "the node", func(v *state.View) bool { return len(v.Nodes) == 1 })
	if got := regions(v); got != "[2]" {
		t.Errorf("got regions %s, want [2]", got)
	}
	w.join("other")
	next := w.await(s, "another node", func(v *state.View) bool { return len(v.Nodes) == 2 })
	if next.DERPMapOf(box.ID) != v.DERPMapOf(box.ID) || next.DERPMapOf(next.Nodes[1].ID) != v.DERPMapOf(box.ID) {
		t.Error("a map that did not change was made anew, or is not shared")
	}
	s.SetDERPMap(homeAnd("far"))
	s.SetDERPMap(homeAnd("far", "third"))
	w.await(s, "a third region", func(v *state.View) bool { return regions(v) == "[2 3]" })

	s.SetDERPMap(homeAnd())
	w.await(s, "the relays gone", func(v *state.View) bool { return regions(v) == "[]" })
	if p := s.Problems(); len(p) != 1 || !strings.Contains(p[0].Text, "line 1: derpMap.rules: no relay is left for box, other: allow them") || p[0].Tailnet != "default" || p[0].Stored != 0 {
		t.Errorf("nodes without a relay: got problems %+v", p)
	}
	if warnings, err := s.CheckPolicy(w.id, text+"\n"); err != nil || len(warnings) != 3 || !strings.Contains(warnings[2], "no relay is left for box, other") {
		t.Errorf("a policy that leaves nodes without a relay, as it is: got %q, %v, want warnings", warnings, err)
	}
	s.SetDERPMap(homeAnd("far"))
	w.await(s, "a relay again", func(v *state.View) bool { return regions(v) == "[2]" })
	if p := s.Problems(); len(p) != 0 {
		t.Errorf("with a relay again: got problems %+v", p)
	}
	if _, err := s.CheckPolicy(w.id, `{"derpMap": {"rules": [{"target": ["box"], "deny": [1, 2]}], "Regions": {}}, "hosts": {"box": "100.64.0.1"}}`); err == nil ||
		!strings.Contains(err.Error(), "line 1: derpMap.rules: no relay is left for box:") {
		t.Errorf("a policy that takes the last relay from a node: got %v, want it refused", err)
	}
}
