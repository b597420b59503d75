package policy_test

import (
	"strings"
	"testing"

	"github.com/keelscale/keelscale/hscontrol/policy"
)

// FuzzPolicy reads any text as a policy. What is accepted compiles, tests, answers and evaluates without harm.
func FuzzPolicy(f *testing.F) {
	f.Add(`{}`)
	f.Add(madePolicy(12, 8))
	f.Add(policyOf([]string{`{"src": ["*"], "dst": ["10.33.0.0/16"], "ip": ["*"], "via": ["tag:t0"]}`}, nil))
	f.Add(`{"groups": {"group:a": ["group:a"]}, "tagOwners": {"tag:a": ["tag:b"], "tag:b": ["tag:a"]}}`)
	f.Add(`{"ssh": [{"action": "check", "checkPeriod": "always", "src": ["a@"], "dst": ["autogroup:self"], "users": ["localpart:*@b.c", "root"]}],
		"tests": [{"src": "a@", "accept": ["[::1]:1"]}], "sshTests": [{"src": "a@", "dst": ["b@"], "accept": ["c"]}]}`)
	f.Add(`{"derpMap": {"Regions": {"1": null}, "rules": [{"target": ["*", "a@", "1.2.3.4"], "allow": ["home", 901], "deny": [2]}]}}`)
	f.Add(`{"ipsets": {"ipset:a": ["add 0.0.0.0/0", "remove 1.2.3.4"]}, "acls": [{"action": "accept", "src": ["ipset:a"], "dst": ["ipset:a:*"]}]}`)
	f.Add("{\"acls\": [ // note\n /* more */ ],}")
	f.Add(strings.Repeat("[", 1000))
	s := madeTailnet(8)
	f.Fuzz(func(t *testing.T, text string) {
		p, err := policy.Parse(text)
		if err != nil {
			if err.Error() == "" {
				t.Error("a refusal says nothing")
			}
			return
		}
		c, err := policy.Compile(p, s)
		if err != nil {
			t.Fatalf("a policy that was read does not compile: %v", err)
		}
		for _, n := range s.Nodes {
			c.Filter(n.ID)
			c.SSH(n.ID)
			c.Caps(n.ID)
			if m := c.Selection(n.ID).Of(relays); m.Regions == nil || len(m.Regions) > len(relays.Regions) {
				t.Errorf("node %d is told of %v", n.ID, m.Regions)
			}
			if c.Filter(n.ID) == nil {
				t.Error("a filter is nil")
			}
			for _, peer := range s.Nodes {
				if c.Sees(n.ID, peer.ID) != c.Sees(peer.ID, n.ID) || n == peer && c.Sees(n.ID, peer.ID) {
					t.Errorf("visibility of %d and %d", n.ID, peer.ID)
				}
				c.Routes(n.ID, peer.ID)
			}
		}
		_ = c.Test(s)
		p.StrayRegions(relays)
		c.LeavesWithout(relays, s, nil)
		for _, q := range []policy.Question{{From: "node1", To: "node3", Port: 80}, {From: "node3", To: "node1", SSH: "root"}} {
			if a, err := c.Explain(s, q); err != nil || a.Allowed != (a.Outcome != "deny") {
				t.Errorf("%+v: got %+v, %v", q, a, err)
			}
		}
		if same, err := policy.Diff(p, p, s); err != nil || !same.IsEmpty() {
			t.Errorf("the policy differs from itself: %+v, %v", same, err)
		}
		if formatted, err := policy.Format(text); err != nil {
			t.Errorf("what was read cannot be formatted: %v", err)
		} else if _, err := policy.Parse(formatted); err != nil {
			t.Errorf("what was formatted is refused: %v", err)
		}
	})
}

// FuzzQuestion asks with any words.
func FuzzQuestion(f *testing.F) {
	f.Add("node1", "node3:80", "tcp", "")
	f.Add("[::1]", "[fd7a::1]:22", "17", "root")
	f.Add("tag:t3", ":", "icmp", "")
	s := madeTailnet(8)
	c := compiled(f, madePolicy(12, 2), s)
	f.Fuzz(func(t *testing.T, from, to, proto, ssh string) {
		q, err := policy.ParseQuestion(from, to, proto, ssh)
		if err != nil {
			return
		}
		if a, err := c.Explain(s, q); err == nil && (a.Allowed != (a.Outcome != "deny") || a.Allowed != (len(a.Lacks) == 0)) {
			t.Errorf("%+v: got %+v", q, a)
		}
	})
}

// FuzzInventory reads any text as an inventory.
func FuzzInventory(f *testing.F) {
	f.Add([]byte(`{"users": [{"id": "1", "name": "a"}], "nodes": [{"id": "1", "givenName": "n", "user": {"id": "1"}, "ipAddresses": ["100.64.0.1"], "availableRoutes": ["10.0.0.0/8"], "approvedRoutes": ["10.0.0.0/8"]}]}`))
	f.Add([]byte(`{"nodes": [{"id": 0}]}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		s, err := policy.ReadInventory(text)
		if err != nil {
			return
		}
		if _, err := policy.Eval(`{}`, s); err != nil {
			t.Errorf("evaluating the empty policy: %v", err)
		}
	})
}
