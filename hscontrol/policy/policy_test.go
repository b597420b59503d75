package policy_test

import (
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/keelscale/keelscale/hscontrol/policy"
	"github.com/keelscale/keelscale/hscontrol/tailnet"
	"tailscale.com/tailcfg"
)

func prefix(s string) netip.Prefix { return netip.MustParsePrefix(s) }

// TestNoPolicy: everyone sees everyone, in one class, with the routes of primaries and exit nodes.
func TestNoPolicy(t *testing.T) {
	s := madeTailnet(100)
	s.Prefixes = []netip.Prefix{prefix("10.1.0.0/16")}
	s.Nodes[0].IPv4 = netip.MustParseAddr("10.1.0.1")
	c, err := policy.Compile(nil, s)
	if err != nil {
		t.Fatal(err)
	}
	if !c.Sees(1, 2) || c.Sees(1, 1) || c.Class(1) != c.Class(100) {
		t.Error("everyone should see everyone else, as one class")
	}
	want := []tailcfg.FilterRule{{
		SrcIPs: []string{
			"10.1.0.0/16", "10.2.0.0/16", "100.115.94.0-100.127.255.255", "100.64.0.0-100.115.91.255", "fd7a:115c:a1e0::/48",
		},
		DstPorts: []tailcfg.NetPortRange{{IP: "*", Ports: tailcfg.PortRangeAny}},
	}}
	if diff := cmp.Diff(want, c.Filter(7)); diff != "" {
		t.Errorf("filter (-want +got):\n%s", diff)
	}
	if got, want := c.Routes(1, 100), []netip.Prefix{prefix("0.0.0.0/0"), prefix("::/0")}; !slices.Equal(got, want) {
		t.Errorf("routes of the exit node: got %v, want %v", got, want)
	}
	if got, want := c.Routes(1, 40), []netip.Prefix{prefix("10.1.0.0/16")}; !slices.Equal(got, want) {
		t.Errorf("routes of the router: got %v, want %v", got, want)
	}
	if _, ok := c.PeerCaps(1, 100)[tailcfg.NodeAttrSuggestExitNode]; !ok || c.PeerCaps(1, 2) != nil {
		t.Error("just the exit node should be suggested")
	}
	if c.SSH(1) != nil || c.Caps(1) != nil || c.TagExists("tag:a") || c.MayTag(s.Users[1], nil, "tag:a") || c.AutoApproves(s.Nodes[0], s, prefix("10.0.0.0/8")) {
		t.Error("without a policy there is no SSH, no capability, no tag and no approval")
	}
}

// TestOwnPrefixes is the guide's case: "*" holds the tailnet's own range where it is not Tailscale's.
func TestOwnPrefixes(t *testing.T) {
	s := madeTailnet(2)
	s.Tailnet.PrefixV4 = prefix("10.1.0.0/16")
	for i, n := range s.Nodes {
		n.IPv4, n.IPv6 = netip.AddrFrom4([4]byte{10, 1, 0, byte(i + 1)}), netip.Addr{}
	}
	c := compiled(t, `{"acls": [{"action": "accept", "src": ["*"], "dst": ["*:*"]}]}`, s)
	if !c.Sees(1, 2) {
		t.Error("the nodes do not see each other")
	}
	if got := c.Filter(1)[0].SrcIPs; !slices.Contains(got, "10.1.0.0/16") {
		t.Errorf("sources: got %v, want 10.1.0.0/16 among them", got)
	}
	a, err := c.Explain(s, policy.Question{From: "node1", To: "node2", Port: 22})
	if err != nil || !a.Allowed {
		t.Errorf("explain: got %+v, %v, want it allowed", a, err)
	}
}

func TestMissingAndEmptyRules(t *testing.T) {
	s := madeTailnet(3)
	for text, sees := range map[string]bool{
		`{}`: true, `{"acls": null}`: true, `{"ssh": []}`: true,
		`{"acls": []}`: false, `{"grants": []}`: false, `{"acls": [], "grants": []}`: false,
	} {
		c := compiled(t, text, s)
		if got := c.Sees(1, 2); got != sees {
			t.Errorf("%s: nodes see each other: got %v, want %v", text, got, sees)
		}
		if f := c.Filter(1); f == nil || (len(f) > 0) != sees {
			t.Errorf("%s: got filter %v", text, f)
		}
	}
	c := compiled(t, `{"acls": []}`, s)
	if c.Class(99) != -1 || c.Sees(1, 99) || c.Routes(99, 1) != nil || len(c.Filter(99)) != 0 || c.Caps(99) != nil {
		t.Error("a node that is not there is told nothing")
	}
}

func TestApprovalsAndTags(t *testing.T) {
	s := madeTailnet(8) // node3 is tag:t3, node6 tag:t6; two users
	c := compiled(t, `{
		"groups": {"group:net": ["user1@example.com"]},
		"tagOwners": {"tag:t3": ["group:net"], "tag:t6": ["tag:t3"], "tag:loop": ["tag:loop"], "tag:none": []},
		"autoApprovers": {"routes": {"10.0.0.0/8": ["tag:t3", "group:net"], "0.0.0.0/0": ["tag:t6"]}, "exitNode": ["tag:t6"]},
	}`, s)
	newcomer := func(user tailnet.UserID, tags ...string) *tailnet.Node {
		return &tailnet.Node{ID: 99, UserID: user, Tags: tags}
	}
	for _, test := range []struct {
		node  *tailnet.Node
		route string
		want  bool
	}{
		{newcomer(0, "tag:t3"), "10.1.0.0/16", true},
		{newcomer(0, "tag:t3"), "11.0.0.0/8", false},
		{newcomer(0, "tag:t3"), "0.0.0.0/0", false},
		{newcomer(1), "10.0.0.0/8", true},
		{newcomer(2), "10.0.0.0/8", false},
		{newcomer(0, "tag:t6"), "192.168.0.0/24", true},
		{newcomer(0, "tag:t6"), "::/0", true},
		{newcomer(0, "tag:t6"), "fd00::/64", false},
		{newcomer(1, "tag:none"), "10.0.0.0/8", false}, // tagged: nobody owns it
	} {
		if got := c.AutoApproves(test.node, s, prefix(test.route)); got != test.want {
			t.Errorf("route %s of user %d with tags %v: got approved %v, want %v", test.route, test.node.UserID, test.node.Tags, got, test.want)
		}
	}
	addrs := func(i int) []netip.Addr { return s.Nodes[i-1].Addrs() }
	for _, test := range []struct {
		user  tailnet.UserID
		addrs []netip.Addr
		tag   string
		want  bool
	}{
		{1, nil, "tag:t3", true},
		{2, nil, "tag:t3", false},
		{1, nil, "tag:t6", true}, // an owner of an owner
		{2, addrs(3), "tag:t6", true},
		{2, addrs(6), "tag:t6", false},
		{1, nil, "tag:loop", false},
		{1, nil, "tag:none", false},
		{1, nil, "tag:unknown", false},
	} {
		if got := c.MayTag(s.Users[test.user], test.addrs, test.tag); got != test.want {
			t.Errorf("user %d at %v, %s: got %v, want %v", test.user, test.addrs, test.tag, got, test.want)
		}
	}
	if !c.TagExists("tag:none") || c.TagExists("tag:unknown") {
		t.Error("tags that exist are those of tagOwners")
	}
}

func TestSSHSelfAndCheck(t *testing.T) {
	s := madeTailnet(8)
	s.Users[1].Email, s.Users[2].Email = "alice@example.com", "bob@example.org"
	s.Users[1].Name, s.Users[2].Name = "alice", "bob"
	c := compiled(t, `{
		"acls": [],
		"tagOwners": {"tag:t3": [], "tag:t6": []},
		"ssh": [
			{"action": "accept", "src": ["autogroup:member"], "dst": ["autogroup:self"], "users": ["root"]},
			{"action": "check", "checkPeriod": "1h", "src": ["alice@"], "dst": ["tag:t3"], "users": ["localpart:*@example.com"], "recorder": ["tag:t6"]},
		],
	}`, s)
	// Nodes 1, 5 and 7 are bob's (user 2); 2, 4 and 8 alice's.
	self := c.SSH(1)
	if len(self.Rules) != 1 || len(self.Rules[0].Principals) != 6 || self.Rules[0].SSHUsers["root"] != "root" || !self.Rules[0].Action.Accept {
		t.Errorf("autogroup:self: got %+v", self.Rules)
	}
	if c.SSH(5) != self || c.SSH(2) == self {
		t.Error("nodes of one user should share their SSH policy, those of two should not")
	}
	server := c.SSH(3)
	if len(server.Rules) != 2 || server.Rules[1].SSHUsers["alice"] != "alice" || server.Rules[0].Action.HoldAndDelegate != policy.CheckURL {
		t.Errorf("check with localpart: got %+v", server.Rules)
	}
	check, ok := c.SSHCheck(2, 3, "alice")
	if !ok || check.Period != time.Hour || !check.Accept.Accept || len(check.Accept.Recorders) != 2 || check.Rule != "ssh[1], line 6" {
		t.Errorf("check: got %+v, %v", check, ok)
	}
	for _, no := range []struct {
		src, dst tailnet.NodeID
		login    string
	}{{1, 3, "bob"}, {2, 3, "root"}, {2, 4, "root"}, {2, 99, "alice"}} {
		if check, ok := c.SSHCheck(no.src, no.dst, no.login); ok {
			t.Errorf("%+v: got %+v, want no check", no, check)
		}
	}
	if got := c.SSH(6); got == nil || len(got.Rules) != 0 {
		t.Errorf("a node that is no destination: got %+v, want no rules", got)
	}
}

// TestViaSteers: with via a viewer goes to the first router that has the tag and is online.
func TestViaSteers(t *testing.T) {
	s := madeTailnet(9)
	for _, i := range []int{2, 5, 8} { // nodes 3, 6 and 9
		serve(s.Nodes[i], "10.0.0.0/16")
	}
	s.Nodes[5].Tags, s.Nodes[8].Tags = []string{"tag:way"}, []string{"tag:way"}
	elect(s)
	text := `{
		"tagOwners": {"tag:t3": [], "tag:way": []},
		"grants": [
			{"src": ["user1@example.com"], "dst": ["10.0.1.0/24"], "ip": ["*"], "via": ["tag:way"]},
			{"src": ["user2@example.com"], "dst": ["10.0.0.0/8"], "ip": ["*"]},
		],
	}`
	routers := func(viewer tailnet.NodeID) (ids []tailnet.NodeID) {
		c := compiled(t, text, s)
		for _, n := range s.Nodes {
			if len(c.Routes(viewer, n.ID)) > 0 {
				ids = append(ids, n.ID)
			}
		}
		return ids
	}
	if got := routers(2); !slices.Equal(got, []tailnet.NodeID{6}) {
		t.Errorf("by way of a tag: got routers %v, want 6", got)
	}
	if got := routers(1); !slices.Equal(got, []tailnet.NodeID{3}) {
		t.Errorf("without a way: got routers %v, want the primary, 3", got)
	}
	s.Nodes[5].Online = false
	if got := routers(2); !slices.Equal(got, []tailnet.NodeID{9}) {
		t.Errorf("with router 6 offline: got routers %v, want 9", got)
	}
}

func TestCapabilities(t *testing.T) {
	s := madeTailnet(8)
	s.Nodes[1].Hostinfo.OS = "macOS"
	c := compiled(t, `{
		"tagOwners": {"tag:t3": []},
		"OneCGNATRoute": "mac-always", "randomizeClientPort": true,
		"nodeAttrs": [
			{"target": ["user1@example.com"], "attr": ["funnel"], "ipPool": ["100.81.0.0/16"]},
			{"target": ["tag:t3", "user1@example.com"], "app": {"example.com/cap/x": [{"a": 1}]}},
			{"target": ["100.64.0.3"], "attr": ["disable-ipv4"]},
		],
	}`, s)
	want := tailcfg.NodeCapMap{"randomize-client-port": nil, "disable-ipv4": nil, "example.com/cap/x": {`{"a":1}`}}
	if diff := cmp.Diff(want, c.Caps(3)); diff != "" {
		t.Errorf("node 3 (-want +got):\n%s", diff)
	}
	for _, name := range []tailcfg.NodeCapability{"funnel", "https://tailscale.com/cap/funnel-ports?ports=443,8443,10000"} {
		if _, ok := c.Caps(4)[name]; !ok {
			t.Errorf("node 4 lacks %s: got %v", name, c.Caps(4))
		}
	}
	if _, ok := c.Caps(2)[tailcfg.NodeAttrOneCGNATEnable]; !ok {
		t.Errorf("the Mac: got %v, want one CGNAT route", c.Caps(2))
	}
	if !c.HidesIPv4(1, 3) || !c.HidesIPv4(3, 1) || !c.HidesIPv4(3, 3) || c.HidesIPv4(1, 2) {
		t.Error("disable-ipv4 of node 3 should hold for it and for what it sees, and for no others")
	}
	if got := c.AddressPools(&tailnet.Node{UserID: 1}, s); !slices.Equal(got, []netip.Prefix{prefix("100.81.0.0/16")}) {
		t.Errorf("pools of user 1: got %v", got)
	}
}

func TestVerify(t *testing.T) {
	s := madeTailnet(8)
	const head = `{
		"tagOwners": {"tag:t3": [], "tag:empty": []}, "hosts": {"web": "10.0.0.7"},
		"acls": [
			{"action": "accept", "src": ["user1@example.com"], "dst": ["tag:t3:22", "web:80", "autogroup:self:*", "tag:empty:1"]},
			{"action": "accept", "proto": "udp", "src": ["tag:t3"], "dst": ["100.64.0.2:53"]},
		],
		"ssh": [
			{"action": "accept", "src": ["user1@example.com"], "dst": ["tag:t3"], "users": ["autogroup:nonroot"]},
			{"action": "check", "src": ["user1@example.com"], "dst": ["tag:t3"], "users": ["root"]},
		],`
	for _, test := range []struct{ tests, says string }{
		{`"tests": [{"src": "user1@example.com", "accept": ["tag:t3:22", "web:80", "node@:1"]}]`, `dst "node@:1"`},
		{`"tests": [{"src": "user1@example.com", "accept": ["tag:t3:22", "web:80", "tag:empty:1"], "deny": ["tag:t3:23"]}]`, ""},
		{`"tests": [{"src": "user2@example.com", "deny": ["tag:t3:22", "user1@example.com:22"]}]`, ""},
		{`"tests": [{"src": "user1@example.com", "accept": ["user1@example.com:22"]}]`, ""},
		{`"tests": [{"src": "tag:t3", "proto": "udp", "accept": ["user1@example.com:53"]}]`, "user1@example.com:53"}, // one of its nodes only
		{`"tests": [{"src": "100.64.0.3", "proto": "udp", "accept": ["100.64.0.2:53"]}]`, ""},
		{`"tests": [{"src": "tag:t3", "proto": "smtp", "deny": ["web:80"]}]`, "unknown protocol"},
		{`"sshTests": [{"src": "user1@example.com", "dst": ["tag:t3"], "accept": ["ubuntu"], "check": ["root"], "deny": []}]`, ""},
		{`"sshTests": [{"src": "user2@example.com", "dst": ["tag:t3"], "accept": ["ubuntu"]}]`, "deny, want accept"},
		{`"sshTests": [{"src": "user1@example.com", "dst": ["web"], "accept": ["ubuntu"]}]`, "no node's address"},
	} {
		err := compiled(t, head+test.tests+"}", s).Test(s)
		if got := ""; err != nil {
			got = err.Error()
			if test.says == "" || !strings.Contains(got, test.says) || !strings.Contains(got, "test(s) failed") {
				t.Errorf("%s: got %q, want %q", test.tests, got, test.says)
			}
		} else if test.says != "" {
			t.Errorf("%s: got no error, want %q", test.tests, test.says)
		}
	}
}

// TestSharedByGoroutines asks everything at once; the race detector listens.
func TestSharedByGoroutines(t *testing.T) {
	s := madeTailnet(60)
	c := compiled(t, madePolicy(20, len(s.Users)), s)
	var wg sync.WaitGroup
	for g := range 8 {
		wg.Go(func() {
			for i := range s.Nodes {
				n := s.Nodes[(i*7+g)%len(s.Nodes)]
				c.Filter(n.ID)
				c.SSH(n.ID)
				c.Caps(n.ID)
				for _, p := range s.Nodes {
					c.Routes(n.ID, p.ID)
				}
				if err := c.Test(s); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	for _, n := range s.Nodes {
		if a, b := c.Filter(n.ID), c.Filter(n.ID); len(a) > 0 && &a[0] != &b[0] {
			t.Errorf("node %d: the filter is made anew at each question", n.ID)
		}
	}
}
