package policy_test

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"tailscale.com/tailcfg"

	"github.com/keelscale/keelscale/hscontrol/policy"
	"github.com/keelscale/keelscale/hscontrol/tailnet"
)

// relays is a DERP map with regions 1 (near), 2 (far) and 901 (home).
var relays = &tailcfg.DERPMap{Regions: map[int]*tailcfg.DERPRegion{
	1: {RegionID: 1, RegionCode: "near"}, 2: {RegionID: 2, RegionCode: "far"}, 901: {RegionID: 901, RegionCode: "home"},
}}

func cameras() *tailnet.Snapshot {
	s := &tailnet.Snapshot{Tailnet: &tailnet.Tailnet{ID: 1, Name: "default"}, Users: map[tailnet.UserID]*tailnet.User{
		1: {ID: 1, TailnetID: 1, Name: "alice"}, 2: {ID: 2, TailnetID: 1, Name: "bob"},
	}}
	for i, n := range []tailnet.Node{
		{GivenName: "laptop", UserID: 1}, {GivenName: "phone", UserID: 2},
		{GivenName: "cam1", Tags: []string{"tag:cam"}}, {GivenName: "cam2", Tags: []string{"tag:cam", "tag:yard"}},
	} {
		n.ID, n.TailnetID = tailnet.NodeID(i+1), 1
		n.IPv4 = netip.MustParseAddr(fmt.Sprintf("100.64.0.%d", i+1))
		s.Nodes = append(s.Nodes, &n)
	}
	return s
}

func TestRegions(t *testing.T) {
	for _, c := range []struct {
		name, rules string
		want        string // regions of laptop, phone, cam1, cam2
	}{
		{"no rules", `[]`, "[1 2 901] [1 2 901] [1 2 901] [1 2 901]"},
		{"by code and by number", `[{"target": ["tag:cam"], "allow": ["home", 2]}]`, "[1 2 901] [1 2 901] [2 901] [2 901]"},
		{"deny", `[{"target": ["alice@"], "deny": [1]}]`, "[2 901] [1 2 901] [1 2 901] [1 2 901]"},
		{"allows add up", `[{"target": ["tag:cam"], "allow": [1]}, {"target": ["tag:yard"], "allow": [2]}]`, "[1 2 901] [1 2 901] [1] [1 2]"},
		{"a deny counts wherever it stands", `[{"target": ["*"], "deny": ["far"]}, {"target": ["tag:yard"], "allow": [1, 2]}]`, "[1 901] [1 901] [1 901] [1]"},
		{"both in one rule", `[{"target": ["group:x"], "allow": [1, 2], "deny": [2]}]`, "[1 2 901] [1] [1 2 901] [1 2 901]"},
		{"autogroups", `[{"target": ["autogroup:member"], "allow": ["near"]}, {"target": ["autogroup:tagged"], "allow": ["home"]}]`, "[1] [1] [901] [901]"},
		{"addresses", `[{"target": ["100.64.0.3/32", "yard"], "allow": ["home"]}]`, "[1 2 901] [1 2 901] [901] [901]"},
		{"a region that is not there", `[{"target": ["alice@"], "allow": ["hme", "near"]}]`, "[1] [1 2 901] [1 2 901] [1 2 901]"},
		{"none left", `[{"target": ["alice@"], "allow": ["hme"]}]`, "[] [1 2 901] [1 2 901] [1 2 901]"},
		{"codes are no numbers", `[{"target": ["alice@"], "allow": ["901", "home"]}]`, "[901] [1 2 901] [1 2 901] [1 2 901]"},
	} {
		compiled := compiledFor(t, regionPolicy(c.rules))
		var got []string
		for _, n := range cameras().Nodes {
			got = append(got, fmt.Sprint(slices.Sorted(maps.Keys(compiled.Selection(n.ID).Of(relays).Regions))))
		}
		if have := strings.Join(got, " "); have != c.want {
			t.Errorf("%s: got %s, want %s", c.name, have, c.want)
		}
	}
}

func regionPolicy(rules string) string {
	return "{\n" + `"groups": {"group:x": ["bob@"]}, "tagOwners": {"tag:cam": [], "tag:yard": []}, "hosts": {"yard": "100.64.0.4"},` +
		"\n" + `"derpMap": {"Rules": ` + rules + "}}"
}

func compiledFor(t *testing.T, text string) *policy.Compiled {
	t.Helper()
	compiled, err := policy.Compile(parsed(t, text), cameras())
	if err != nil {
		t.Fatal(err)
	}
	return compiled
}

// Nodes with the same rules share what they see; what is not selected stays as it is.
func TestSelectionsAreShared(t *testing.T) {
	text := regionPolicy(`[{"target": ["tag:cam"], "allow": ["home"]}]`)
	a, b := compiledFor(t, text), compiledFor(t, text)
	if a.Selection(3) == nil || a.Selection(3) != a.Selection(4) {
		t.Error("two nodes with the same rules have different selections")
	}
	if a.Selection(3).Key() != b.Selection(3).Key() {
		t.Errorf("the same rules have keys %q and %q", a.Selection(3).Key(), b.Selection(3).Key())
	}
	if a.Selection(1) != nil || a.Selection(99) != nil || a.Selection(1).Of(relays) != relays {
		t.Error("a node without rules has a selection")
	}
	if got := fmt.Sprint(a.Selections()[0].Nodes); got != "[3 4]" {
		t.Errorf("nodes of the selection: got %s", got)
	}
	if got := a.Selection(3).Of(relays); got.Regions[901] != relays.Regions[901] || len(relays.Regions) != 3 {
		t.Error("a selection has copied, or changed, the map that it is of")
	}
}

func TestRegionRulesRefused(t *testing.T) {
	for rules, want := range map[string]string{
		`{}`:                                            "line 3: derpMap.rules: this must be a list",
		`[7]`:                                           "line 3: derpMap.rules[0]: this must be an object",
		`[{"allow": [1]}]`:                              "derpMap.rules[0]: the rule has no target",
		`[{"target": ["*"]}]`:                           "derpMap.rules[0]: the rule neither allows nor denies a region",
		`[{"target": ["*"], "allow": []}]`:              "derpMap.rules[0].allow: the list is empty",
		`[{"target": ["*"], "allow": [0]}]`:             "derpMap.rules[0].allow[0]: 0 is no number of a region",
		`[{"target": ["*"], "allow": [1.5]}]`:           "derpMap.rules[0].allow[0]: 1.5 is no number of a region",
		`[{"target": ["*"], "deny": [" "]}]`:            "derpMap.rules[0].deny[0]: the code of a region is empty",
		`[{"target": ["*"], "deny": [true]}]`:           "derpMap.rules[0].deny[0]: this must be a region",
		`[{"target": ["*"], "deny": "home"}]`:           "derpMap.rules[0].deny: this must be a list",
		`[{"target": ["*"], "alow": ["home"]}]`:         `derpMap.rules[0]: unknown field "alow": did you mean "allow"?`,
		`[{"target": ["tag:x"], "deny": [1]}]`:          `derpMap.rules[0].target[0]: tag not found: "tag:x"`,
		`[{"target": ["tag:kam"], "deny": [1]}]`:        `did you mean "tag:cam"?`,
		`[{"target": ["group:y"], "deny": [1]}]`:        `derpMap.rules[0].target[0]: group not found: "group:y"`,
		`[{"target": ["autogroup:self"], "deny": [1]}]`: `"autogroup:self" cannot be used as a target`,
		`[], "rules": []`:                               `derpMap: "rules" is given twice`,
	} {
		_, err := policy.Parse(regionPolicy(rules))
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %q", rules, err, want)
		}
	}
	many := "[" + strings.Repeat(`{"target": ["*"], "deny": [1]},`, 1001) + "]"
	if _, err := policy.Parse(regionPolicy(many)); err == nil || !strings.Contains(err.Error(), "more than 1000 rules") {
		t.Errorf("1001 rules: got %v, want them refused", err)
	}
}

func TestRegionsBesideRules(t *testing.T) {
	p := parsed(t, `{"derpMap": {"rules": [{"target": ["*"], "deny": [1]}], // for everybody
		"Regions": {"1": null}}}`)
	if text, line := p.DERPMap(); text != `{"Regions":{"1":null}}` || line != 1 {
		t.Errorf("the map beside the rules: got %s in line %d", text, line)
	}
	if text, _ := parsed(t, regionPolicy("[]")).DERPMap(); text != "" {
		t.Errorf("the map where there are only rules: got %s", text)
	}
}

func TestStrayRegions(t *testing.T) {
	p := parsed(t, regionPolicy(`[{"target": ["*"], "allow": ["home", "hme", 7]}, {"target": ["*"], "deny": ["901"]}]`))
	want := []string{
		`line 3: derpMap.rules[0]: no relay is in region "hme" now: did you mean "home"?`,
		`line 3: derpMap.rules[0]: no relay is in region 7 now`,
		`line 3: derpMap.rules[1]: no relay is in region "901" now: a number stands without quotes`,
	}
	if got := p.StrayRegions(relays); !slices.Equal(got, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

func TestRegionDiff(t *testing.T) {
	before := parsed(t, regionPolicy(`[{"target": ["tag:cam"], "deny": [1]}]`))
	after := parsed(t, regionPolicy(`[{"target": ["tag:yard"], "allow": ["home"]}]`))
	got, err := policy.Diff(before, after, cameras())
	if err != nil {
		t.Fatal(err)
	}
	want := []policy.RegionChange{
		{Lost: true, Nodes: []string{"cam2"}, Region: "any other region"},
		{Nodes: []string{"cam1"}, Region: "1"},
	}
	if diff := cmp.Diff(want, got.Regions); diff != "" || got.IsEmpty() || !got.HasLoss() {
		t.Errorf("regions (-want +got):\n%s", diff)
	}
	gain, err := policy.Diff(before, nil, cameras())
	if err != nil || gain.HasLoss() || len(gain.Regions) != 1 {
		t.Errorf("from rules to no policy: got %+v, %v", gain.Regions, err)
	}
}

func TestLeavesWithout(t *testing.T) {
	c := compiledFor(t, regionPolicy(`[{"target": ["alice@"], "deny": [1]}, {"target": ["tag:cam"], "allow": ["hme"]}]`))
	want := `line 3: derpMap.rules: no relay is left for cam1, cam2: allow them a region that has a relay: see headscale derp`
	if r := c.LeavesWithout(relays, cameras(), nil); r == nil || r.Error() != want {
		t.Errorf("got %v, want %s", r, want)
	}
	but := func(id tailnet.NodeID) bool { return id == 3 }
	if r := c.LeavesWithout(relays, cameras(), but); r == nil || !strings.Contains(r.Error(), "no relay is left for cam2:") {
		t.Errorf("but for cam1: got %v", r)
	}
	if r := c.LeavesWithout(&tailcfg.DERPMap{}, cameras(), nil); r != nil {
		t.Errorf("without any relay: got %v, want nothing", r)
	}
	c = compiledFor(t, regionPolicy(`[{"target": ["alice@"], "deny": [1]}]`))
	if r := c.LeavesWithout(relays, cameras(), nil); r != nil {
		t.Errorf("got %v, want nothing", r)
	}
}
