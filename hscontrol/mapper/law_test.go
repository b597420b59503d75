package mapper_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"reflect"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"tailscale.com/tailcfg"
	"tailscale.com/types/dnstype"
	"tailscale.com/types/key"
	"tailscale.com/util/zstdframe"

	"github.com/keelscale/keelscale/hscontrol/hstest"
	"github.com/keelscale/keelscale/hscontrol/mapper"
	"github.com/keelscale/keelscale/hscontrol/policy"
	"github.com/keelscale/keelscale/hscontrol/state"
	"github.com/keelscale/keelscale/hscontrol/tailnet"
)

// policies are what the law is tried with; the empty one stands for none.
var policies = []string{
	"",
	`{"acls": []}`,
	`{"tagOwners": {"tag:a": ["u1"], "tag:b": ["u1"]}, "acls": [{"action": "accept", "src": ["tag:a"], "dst": ["tag:b:*"]}, {"action": "accept", "src": ["u1@"], "dst": ["192.168.0.0/16:22"]}]}`,
	`{"tagOwners": {"tag:a": ["u1@"], "tag:b": ["u1@"]}, "acls": [{"action": "accept", "src": ["autogroup:member"], "dst": ["autogroup:self:*", "tag:b:80"]}], "nodeAttrs": [{"target": ["tag:a"], "attr": ["funny"]}]}`,
	`{"tagOwners": {"tag:a": ["u1@"], "tag:b": ["u1@"]}, "derpMap": {"rules": [{"target": ["tag:a", "u2@"], "allow": ["x", 3]}, {"target": ["tag:b"], "deny": [1]}]}}`,
	`{"tagOwners": {"tag:a": ["u1@"]}, "derpMap": {"rules": [{"target": ["tag:a"], "allow": [3, "x"]}, {"target": ["u1@", "u2@"], "deny": ["y", 1]}]}}`,
	`{"groups": {"group:g": ["u1@", "u3@"]}, "tagOwners": {"tag:a": ["u1@"], "tag:b": ["u1@"]}, "grants": [
		{"src": ["group:g"], "dst": ["192.168.7.0/24"], "ip": ["tcp:443"], "via": ["tag:a"]},
		{"src": ["tag:b"], "dst": ["autogroup:internet"], "ip": ["*"], "via": ["tag:a"]},
		{"src": ["u2@"], "dst": ["tag:a", "tag:b"], "ip": ["22"], "app": {"example.com/cap/x": [{"may": "all"}]}},
		{"src": ["u3@"], "dst": ["tag:b"], "app": {"tailscale.com/cap/drive": [{"shares": ["*"], "access": "rw"}]}},
		{"src": ["autogroup:member"], "dst": ["autogroup:self"], "ip": ["*"]}]}`,
	`{"hosts": {"lan": "192.168.7.0/24"}, "tagOwners": {"tag:a": ["u1@"], "tag:b": ["u1@"]},
		"acls": [{"action": "accept", "src": ["autogroup:admin", "tag:b"], "dst": ["lan:*", "tag:a:22"]}, {"action": "accept", "src": ["u2@"], "dst": ["autogroup:internet:*"]}],
		"ssh": [{"action": "accept", "src": ["autogroup:member"], "dst": ["autogroup:self"], "users": ["autogroup:nonroot"]},
			{"action": "check", "src": ["u3@"], "dst": ["tag:a"], "users": ["root"]}],
		"nodeAttrs": [{"target": ["u1@"], "attr": ["funny"]}, {"target": ["*"], "attr": ["randomize-client-port"]}]}`,
}

// world makes views at random, each from the one before it.
type world struct {
	t    testing.TB
	rand *rand.Rand
	ids  uint64
	now  time.Time
	view *state.View
}

func newWorld(t testing.TB, seed uint64) *world {
	w := &world{t: t, rand: rand.New(rand.NewPCG(seed, 1)), now: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)}
	settings := &state.Settings{BaseDomain: "example.net", MagicDNS: true, Taildrop: true}
	w.view = &state.View{
		Snapshot: &tailnet.Snapshot{
			Tailnet: &tailnet.Tailnet{ID: 1, Name: "default"}, Rev: 1,
			Users: map[tailnet.UserID]*tailnet.User{
				1: {ID: 1, TailnetID: 1, Name: "u1"}, 2: {ID: 2, TailnetID: 1, Name: "u2"}, 3: {ID: 3, TailnetID: 1, Name: "u3", Role: "admin"},
			},
			Prefixes: []netip.Prefix{netip.MustParsePrefix("100.64.0.0/10"), netip.MustParsePrefix("fd7a:115c:a1e0::/48")},
		},
		Seq: 1, Settings: settings, Domain: "example.net",
		DERPMap: &tailcfg.DERPMap{}, Pinless: &tailcfg.DERPMap{}, DNS: &tailcfg.DNSConfig{Proxied: true},
	}
	w.compile("")
	for range 6 {
		w.step()
	}
	return w
}

func (w *world) compile(text string) {
	var p *policy.Policy
	var err error
	if text != "" {
		if p, err = policy.Parse(text); err != nil {
			w.t.Fatalf("parsing %s: %v", text, err)
		}
	}
	compiled, err := policy.Compile(p, w.view.Snapshot)
	if err != nil {
		w.t.Fatalf("compiling %s: %v", text, err)
	}
	w.view.Policy = compiled.Keep(w.view.Policy)
	w.view.Snapshot.Policy = &tailnet.PolicyVersion{Text: text}
}

// step publishes a next view in which a few things changed.
func (w *world) step() *state.View {
	was := w.view
	next := *was
	w.view = &next
	next.Seq++
	var d tailnet.Delta
	d.Rev = was.Rev + 1
	touched := map[tailnet.NodeID]bool{}
	for range 1 + w.rand.IntN(4) {
		switch nodes := was.Nodes; {
		case len(nodes) < 3 || w.rand.IntN(4) == 0:
			d.Nodes = append(d.Nodes, w.newNode())
		case w.rand.IntN(6) == 0:
			n := nodes[w.rand.IntN(len(nodes))]
			if !touched[n.ID] {
				d.NodesGone = append(d.NodesGone, n.ID)
			}
			touched[n.ID] = true
		default:
			n := *nodes[w.rand.IntN(len(nodes))]
			if touched[n.ID] {
				continue
			}
			touched[n.ID] = true
			w.change(&n)
			d.Nodes = append(d.Nodes, &n)
		}
	}
	if w.rand.IntN(8) == 0 {
		u := *was.Users[tailnet.UserID(1+w.rand.IntN(3))]
		u.DisplayName = fmt.Sprintf("name %d", w.rand.IntN(100))
		d.Users = append(d.Users, &u)
	}
	if w.rand.IntN(8) == 0 {
		next.DERPMap = &tailcfg.DERPMap{Regions: map[int]*tailcfg.DERPRegion{}}
		for id := 1; id <= 3; id++ {
			if w.rand.IntN(3) > 0 {
				next.DERPMap.Regions[id] = &tailcfg.DERPRegion{RegionID: id, RegionCode: []string{"x", "y"}[w.rand.IntN(2)]}
			}
		}
		if next.Pinless = next.DERPMap; w.rand.IntN(2) == 0 {
			next.Pinless = next.DERPMap.Clone()
		}
	}
	if w.rand.IntN(8) == 0 {
		next.DNS = &tailcfg.DNSConfig{Proxied: true, Domains: []string{fmt.Sprintf("d%d.example", w.rand.IntN(9))}, Routes: map[string][]*dnstype.Resolver{"x": {}}}
	}
	next.Snapshot = was.Snapshot.Next(d)
	switch text := next.Snapshot.Policy.Text; {
	case w.rand.IntN(6) == 0:
		w.compile(policies[w.rand.IntN(len(policies))])
	case !tailnet.SameIdentities(was.Snapshot, next.Snapshot):
		w.compile(text)
	}
	next.ChooseRegions(was)
	return w.view
}

func (w *world) newNode() *tailnet.Node {
	w.ids++
	n := &tailnet.Node{
		ID: tailnet.NodeID(w.ids), TailnetID: 1, MachineKey: key.NewMachine().Public(), NodeKey: key.NewNode().Public(), DiscoKey: key.NewDisco().Public(),
		Hostname: fmt.Sprintf("host%d", w.ids), GivenName: fmt.Sprintf("host%d", w.ids), UserID: tailnet.UserID(1 + w.rand.IntN(3)),
		IPv4:     netip.AddrFrom4([4]byte{100, 64, byte(w.ids >> 8), byte(w.ids)}),
		IPv6:     netip.MustParseAddr(fmt.Sprintf("fd7a:115c:a1e0::%x", w.ids)),
		Hostinfo: &tailcfg.Hostinfo{OS: "linux", Hostname: fmt.Sprintf("host%d", w.ids)}, CapVersion: 142, CreatedAt: w.now,
	}
	w.change(n)
	return n
}

// change does one thing that may happen to a node.
func (w *world) change(n *tailnet.Node) {
	switch w.rand.IntN(11) {
	case 0:
		n.Endpoints = nil
	case 1, 2:
		n.Endpoints = []netip.AddrPort{netip.AddrPortFrom(netip.AddrFrom4([4]byte{192, 0, 2, byte(w.rand.IntN(250))}), 41641)}
	case 3:
		n.Online = !n.Online
		if !n.Online {
			seen := w.now.Add(time.Duration(w.rand.IntN(1e6)) * time.Second)
			n.LastSeen = &seen
		}
	case 4:
		n.HomeDERP = w.rand.IntN(4)
	case 5:
		n.NodeKey, n.DiscoKey = key.NewNode().Public(), key.NewDisco().Public()
	case 6:
		if n.Tags = nil; w.rand.IntN(2) == 0 {
			n.Tags, n.UserID = []string{[]string{"tag:a", "tag:b"}[w.rand.IntN(2)]}, 0
		} else {
			n.UserID = tailnet.UserID(1 + w.rand.IntN(3))
		}
	case 7:
		routes := []netip.Prefix{netip.MustParsePrefix("192.168.7.0/24")}
		if w.rand.IntN(2) == 0 {
			routes = tailnet.ExitRoutes()
		}
		h := *n.Hostinfo
		h.RoutableIPs = routes
		n.Hostinfo, n.ApprovedRoutes, n.PrimaryRoutes = &h, routes, nil
		if !tailnet.IsExitRoute(routes[0]) {
			n.PrimaryRoutes = routes
		}
	case 8:
		n.ApprovedRoutes, n.PrimaryRoutes = nil, nil
	case 9:
		at := w.now.Add(time.Duration(w.rand.IntN(100)) * time.Hour)
		n.Expiry, n.Lapsed = &at, w.rand.IntN(3) == 0
	case 10:
		h := *n.Hostinfo
		h.NetInfo = &tailcfg.NetInfo{PreferredDERP: w.rand.IntN(5)} // seen by nobody
		n.Hostinfo = &h
	}
}

// decode reads a frame as a client does.
func decode(t testing.TB, text []byte) *tailcfg.MapResponse {
	t.Helper()
	r := new(tailcfg.MapResponse)
	if err := json.Unmarshal(text, r); err != nil {
		t.Fatalf("a message is not JSON: %v\n%s", err, text)
	}
	return r
}

// When the rules of the policy choose regions, only those are told whose map became another.
func TestOnlyThoseAreToldWhoseRelaysChanged(t *testing.T) {
	w := newWorld(t, 3)
	var d tailnet.Delta
	for _, tags := range [][]string{{"tag:a"}, {"tag:b"}} {
		n := w.newNode()
		n.Tags, n.UserID = tags, 0
		d.Nodes = append(d.Nodes, n)
	}
	w.view.Snapshot = w.view.Snapshot.Next(d)
	w.compile(`{"tagOwners": {"tag:a": [], "tag:b": []}, "derpMap": {"rules": [{"target": ["tag:a"], "allow": ["x"]}, {"target": ["tag:b"], "allow": ["y"]}]}}`)
	w.view.DERPMap = relayMap("x", "y")
	w.view.Pinless = w.view.DERPMap
	w.view.ChooseRegions(nil)
	to := *w.view
	to.Seq++
	to.DERPMap = relayMap("x", "y", "z")
	to.DERPMap.Regions[1].RegionName = "new"
	to.Pinless = to.DERPMap
	to.ChooseRegions(w.view)
	m := &mapper.Mapper{}
	for i, want := range []string{"[1]", ""} {
		got := ""
		frame, _ := m.DiffFrame(w.view, &to, mapper.Viewer{ID: d.Nodes[i].ID, Cap: 142}, false, w.now)
		if frame != nil {
			got = fmt.Sprint(decode(t, frame.Bytes()[4:]).DERPMap.RegionIDs())
		}
		if got != want {
			t.Errorf("%v is told of regions %q, want %q", d.Nodes[i].Tags, got, want)
		}
	}
	if to.DERPMapOf(d.Nodes[1].ID) != w.view.DERPMapOf(d.Nodes[1].ID) {
		t.Error("a map that is the same was made anew")
	}
}

func relayMap(codes ...string) *tailcfg.DERPMap {
	m := &tailcfg.DERPMap{Regions: map[int]*tailcfg.DERPRegion{}}
	for i, code := range codes {
		m.Regions[i+1] = &tailcfg.DERPRegion{RegionID: i + 1, RegionCode: code}
	}
	return m
}

// The law: what a node was sent, changed by the differences, is what it would be sent in whole.
func TestDifferencesLeadToTheWholeMap(t *testing.T) {
	for seed := range uint64(60) {
		checkLaw(t, seed, 12)
	}
}

// A whole map that is put together from shared blocks says what it says in one piece.
func TestBlocksAreTheWholeMap(t *testing.T) {
	for _, n := range []int{0, 1, 62, 63, 64, 65, 127, 128, 129, 300} {
		for _, text := range policies {
			w := newWorld(t, uint64(n))
			var d tailnet.Delta
			for range n {
				d.Nodes = append(d.Nodes, w.newNode())
			}
			w.view.Snapshot = w.view.Snapshot.Next(d)
			w.compile(text)
			m := &mapper.Mapper{}
			for i, node := range w.view.Nodes {
				if i%17 != n%17 && i != len(w.view.Nodes)-1 {
					continue // some of each block, and the last
				}
				msg := m.Full(w.view, mapper.Viewer{ID: node.ID, Cap: 142}, w.now)
				got, _, err := hstest.ReadFrame(bytes.NewReader(m.Frame(msg, true).Bytes()))
				if err != nil {
					t.Fatalf("%d nodes, viewer %d: %v", n, node.ID, err)
				}
				want := decode(t, msg.JSON())
				if !reflect.DeepEqual(got, want) {
					t.Fatalf("%d nodes, viewer %d: the map from blocks differs (-got +want):\n%s", n, node.ID, difference(netmapOf(t, got), netmapOf(t, want)))
				}
			}
		}
	}
}

func netmapOf(t *testing.T, r *tailcfg.MapResponse) *hstest.Netmap {
	t.Helper()
	m := hstest.NewNetmap()
	if err := m.Apply(r); err != nil {
		t.Fatal(err)
	}
	return m
}

func FuzzLaw(f *testing.F) {
	f.Add(uint64(1), uint8(3))
	f.Add(uint64(2), uint8(30))
	f.Fuzz(func(t *testing.T, seed uint64, steps uint8) { checkLaw(t, seed, int(steps%40)) })
}

func checkLaw(t testing.TB, seed uint64, steps int) {
	t.Helper()
	w := newWorld(t, seed)
	m := &mapper.Mapper{}
	at := w.now
	type client struct {
		sent *state.View
		has  *hstest.Netmap
	}
	clients := map[tailnet.NodeID]*client{}
	for step := range steps {
		v := w.step()
		for _, n := range v.Nodes {
			viewer := mapper.Viewer{ID: n.ID, Cap: generations[int(n.ID)%len(generations)]}
			c := clients[n.ID]
			if c == nil {
				c = &client{sent: v, has: hstest.NewNetmap()}
				clients[n.ID] = c
				apply(t, seed, step, c.has, m.Full(v, viewer, at).JSON())
				continue
			}
			if w.rand.IntN(3) == 0 {
				continue // slow: it skips this view
			}
			packed := n.ID%2 == 0 // its bytes are shared with all of its class
			frame, gone := m.DiffFrame(c.sent, v, viewer, packed, at)
			if gone {
				t.Fatalf("seed %d step %d: node %d is in the view, but gone", seed, step, n.ID)
			}
			if frame != nil {
				apply(t, seed, step, c.has, unpack(t, frame.Bytes()[4:], packed))
			}
			c.sent = v
			want := hstest.NewNetmap()
			apply(t, seed, step, want, m.Full(v, viewer, at).JSON())
			if d := difference(c.has, want); d != "" {
				t.Fatalf("seed %d step %d: node %d has another map than it would be sent in whole (-has +want):\n%s", seed, step, n.ID, d)
			}
		}
		for id := range clients {
			if v.Node(id) == nil {
				if _, gone := m.DiffFrame(clients[id].sent, v, mapper.Viewer{ID: id, Cap: 142}, false, at); !gone {
					t.Fatalf("seed %d step %d: deleted node %d is not gone", seed, step, id)
				}
				delete(clients, id)
			}
		}
	}
}

// generations are versions of the protocol that see different things of others.
var generations = []tailcfg.CapabilityVersion{142, 113, 90, 68}

// unpack is the text of a message.
func unpack(t testing.TB, b []byte, packed bool) []byte {
	t.Helper()
	if !packed {
		return b
	}
	text, err := zstdframe.AppendDecode(nil, b)
	if err != nil {
		t.Fatalf("decompressing a message: %v", err)
	}
	return text
}

func apply(t testing.TB, seed uint64, step int, to *hstest.Netmap, text []byte) {
	t.Helper()
	if err := to.Apply(decode(t, text)); err != nil {
		t.Fatalf("seed %d step %d: a client stumbles: %v\n%s", seed, step, err, text)
	}
}

// difference compares two maps; profiles that a client still remembers of peers that are gone do not count, and to have no
// rules of SSH is to have no policy of it.
func difference(has, want *hstest.Netmap) string {
	for _, m := range []*hstest.Netmap{has, want} {
		if m.SSH != nil && len(m.SSH.Rules) == 0 {
			m.SSH = nil
		}
	}
	for id := range has.Profiles {
		if _, ok := want.Profiles[id]; !ok {
			delete(has.Profiles, id)
		}
	}
	a, _ := json.Marshal(has)
	b, _ := json.Marshal(want)
	if slices.Equal(a, b) {
		return ""
	}
	var x, y any
	json.Unmarshal(a, &x)
	json.Unmarshal(b, &y)
	return cmp.Diff(x, y)
}

func BenchmarkDiffFrame(b *testing.B) {
	for _, n := range []int{100, 1000} {
		b.Run(fmt.Sprintf("nodes=%d", n), func(b *testing.B) {
			w := newWorld(b, 7)
			var d tailnet.Delta
			for range n {
				d.Nodes = append(d.Nodes, w.newNode())
			}
			w.view.Snapshot = w.view.Snapshot.Next(d)
			w.compile("")
			m := &mapper.Mapper{}
			from := *w.view
			for b.Loop() {
				changed := *from.Nodes[0]
				changed.Endpoints = []netip.AddrPort{netip.AddrPortFrom(netip.AddrFrom4([4]byte{192, 0, 2, 1}), 41641)}
				to := from
				to.Seq++
				to.Snapshot = from.Snapshot.Next(tailnet.Delta{Rev: from.Rev + 1, Nodes: []*tailnet.Node{&changed}})
				for _, viewer := range to.Nodes {
					m.DiffFrame(&from, &to, mapper.Viewer{ID: viewer.ID, Cap: 142}, true, w.now)
				}
				from.Seq++
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(len(from.Nodes)), "ns/viewer")
		})
	}
}

// BenchmarkFullFrame is a reconnect storm: everybody asks for the whole map, of which little has changed.
func BenchmarkFullFrame(b *testing.B) {
	for _, n := range []int{500, 2000} {
		b.Run(fmt.Sprintf("nodes=%d", n), func(b *testing.B) {
			w := newWorld(b, 7)
			var d tailnet.Delta
			for range n {
				d.Nodes = append(d.Nodes, w.newNode())
			}
			w.view.Snapshot = w.view.Snapshot.Next(d)
			w.compile("")
			m := &mapper.Mapper{}
			i, size := 0, 0
			for b.Loop() {
				viewer := mapper.Viewer{ID: w.view.Nodes[i%len(w.view.Nodes)].ID, Cap: 142}
				size += len(m.Frame(m.Full(w.view, viewer, w.now), true).Bytes())
				i++
			}
			b.ReportMetric(float64(size)/float64(b.N)/float64(n), "bytes/peer")
		})
	}
}
