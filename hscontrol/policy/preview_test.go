package policy_test

import (
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"testing"

	"github.com/keelscale/keelscale/hscontrol/policy"
	"github.com/keelscale/keelscale/hscontrol/tailnet"
)

func TestPreview(t *testing.T) {
	s := &tailnet.Snapshot{Users: map[tailnet.UserID]*tailnet.User{
		1: {ID: 1, Name: "odin", Email: "odin@example.com"}, 2: {ID: 2, Name: "thor", Email: "thor@example.com"},
	}, Nodes: []*tailnet.Node{
		{ID: 1, GivenName: "hlidskjalf", UserID: 1, IPv4: netip.MustParseAddr("100.64.0.1")},
		{ID: 2, GivenName: "web", Tags: []string{"tag:web"}, IPv4: netip.MustParseAddr("100.64.0.2")},
	}}
	c := compiled(t, `{
		"groups": {"group:gods": ["odin@example.com"]},
		"tagOwners": {"tag:web": []},
		"acls": [
			{"action": "accept", "src": ["group:gods", "tag:web"], "dst": ["tag:web:80,443", "10.0.0.0/8:*"]},
			{"action": "accept", "src": ["100.64.0.1"], "dst": ["100.64.0.2:22"]},
			{"action": "accept", "src": ["autogroup:member"], "dst": ["autogroup:self:*"]},
			{"action": "accept", "src": ["*"], "dst": ["autogroup:internet:*"]},
		],
		"grants": [
			{"src": ["thor@example.com"], "dst": ["tag:web"], "ip": ["tcp:8080", "udp:53"], "via": ["tag:web"]},
			{"src": ["*"], "dst": ["tag:web"], "app": {"example.com/cap": [{}]}},
		],
	}`, s)
	told := func(list []policy.Match) (texts []string) {
		for _, m := range list {
			text := fmt.Sprintf("%d %v %v", m.Line, m.Sources, m.Targets)
			if len(m.Via) > 0 {
				text += fmt.Sprint(" via ", m.Via)
			}
			texts = append(texts, text)
		}
		return texts
	}
	web := "5 [group:gods tag:web] [tag:web:80,443 10.0.0.0/8:*]"
	self := "7 [autogroup:member] [autogroup:self:*]"
	internet := "8 [*] [autogroup:internet:*]"
	byIP := "6 [100.64.0.1] [100.64.0.2:22]"
	byWay := "11 [thor@example.com] [tag:web:8080 tag:web:53] via [tag:web]"
	for from, want := range map[string][]string{
		"odin@example.com": {web, byIP, self, internet}, "thor@example.com": {byWay, self, internet},
		"tag:web": {web, internet}, "group:gods": {web, byIP, self, internet}, "100.64.0.9": {internet},
	} {
		if got, err := c.PreviewSource(s, from); err != nil || !reflect.DeepEqual(told(got), want) {
			t.Errorf("from %s: got %q %v, want %q", from, told(got), err, want)
		}
	}
	for to, want := range map[string][]string{
		"100.64.0.2:443": {"5 [group:gods tag:web] [tag:web:80,443]"}, "100.64.0.2:22": {byIP}, "100.64.0.2:23": nil, "100.64.0.1:5": {self},
		"10.9.8.7:1": {"5 [group:gods tag:web] [10.0.0.0/8:*]"}, "192.0.2.1:1": {internet}, "100.64.0.2:53": {"11 [thor@example.com] [tag:web:53] via [tag:web]"},
	} {
		if got := told(c.PreviewTarget(s, netip.MustParseAddrPort(to))); !reflect.DeepEqual(got, want) {
			t.Errorf("to %s: got %q, want %q", to, got, want)
		}
	}
	if got, err := c.PreviewSource(s, "loki@example.com"); err == nil {
		t.Errorf("a stranger: got %v, want it refused", told(got))
	}
	if got, err := compiled(t, `{}`, s).PreviewSource(s, "thor@"); err != nil || !reflect.DeepEqual(told(got), []string{"0 [*] [*:*]"}) {
		t.Errorf("without rules: got %q %v, want the one that holds then", told(got), err)
	}
}

// TestPreviewKnowsWhatDecides: the rule that lets a packet through is among those that are told of either end.
func TestPreviewKnowsWhatDecides(t *testing.T) {
	asked := 0
	for seed := range uint64(60) {
		r := seeded(seed)
		s := smallTailnet(r)
		grants, acls := randomRules(r)
		c := compiled(t, policyOf(append(grants, viaGrant(r)), acls), s)
		for range 60 {
			from, to := s.Nodes[r.IntN(len(s.Nodes))].IPv4, randomAddress(r, s)
			if !to.Is4() {
				continue
			}
			q := policy.Question{From: from.String(), To: to.String(), Port: uint16(1 + r.IntN(100))}
			a, err := c.Explain(s, q)
			if err != nil || !a.Allowed {
				continue
			}
			asked++
			out, err := c.PreviewSource(s, q.From)
			in := c.PreviewTarget(s, netip.AddrPortFrom(to, q.Port))
			isIt := func(m policy.Match) bool { return m.Section == a.Rule.Section && m.Index == a.Rule.Index }
			if err != nil || !slices.ContainsFunc(out, isIt) || !slices.ContainsFunc(in, isIt) {
				t.Fatalf("seed %d: %+v passes by %s, but of it are told %v %v (%v)", seed, q, a.Rule, out, in, err)
			}
		}
	}
	if asked < 100 {
		t.Errorf("only %d packets passed, which shows little", asked)
	}
}
