package control

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go4.org/mem"
	"google.golang.org/protobuf/proto"
	"tailscale.com/types/key"

	"github.com/keelscale/keelscale/hscontrol/state"
	"github.com/keelscale/keelscale/hscontrol/tailnet"
	relayv1 "github.com/keelscale/keelscale/proto/relay/v1"
)

func TestPublishedAddresses(t *testing.T) {
	const pin = "sha256-raw:00"
	for _, c := range []struct{ name, host, pin, seen, own, want string }{
		{"a public address", "", pin, "203.0.113.7", "192.168.1.5", "[203.0.113.7]"},
		{"and one of the other family", "", pin, "203.0.113.7", "192.168.1.5 fd00::5 2001:db8::5", "[203.0.113.7 2001:db8::5]"},
		{"seen over IPv6, IPv4 behind a NAT", "", pin, "2001:db8::5", "192.168.1.5 2001:db8::5", "[2001:db8::5]"},
		{"seen over a new IPv6 address", "", pin, "2001:db8::6", "203.0.113.7 2001:db8::5", "[203.0.113.7 2001:db8::6]"},
		{"an address was given", "203.0.113.9", pin, "203.0.113.7", "", "[203.0.113.9]"},
		{"a name with a certificate of an authority", "relay.example.com", "", "203.0.113.7", "", "[]"},
		{"a name with one of its own", "relay.example.com", pin, "203.0.113.7", "", "[203.0.113.7]"},
		{"in the server's network", "", pin, "192.168.1.5", "192.168.1.5 fd00::5", "[192.168.1.5 fd00::5]"},
		{"behind the server's own gateway", "", pin, "192.168.1.1", "10.9.9.9 192.168.1.5", "[192.168.1.5]"},
		{"behind a NAT of its host, with a public address", "", pin, "172.17.0.1", "198.51.100.4 172.17.0.2", "[198.51.100.4]"},
		{"in another private network", "", pin, "10.0.0.1", "192.168.7.5", "[10.0.0.1]"},
		{"through a carrier's NAT", "", pin, "100.64.3.4", "10.0.0.5", "[100.64.3.4]"},
		{"on the server's machine", "", pin, "127.0.0.1", "203.0.113.7 10.0.0.5", "[203.0.113.7]"},
		{"on the server's machine, without a public address", "", pin, "127.0.0.1", "10.0.0.5 127.0.0.1", "[10.0.0.5]"},
		{"bound to loopback", "", pin, "127.0.0.1", "127.0.0.1", "[127.0.0.1]"},
		{"nothing known", "", pin, "", "", "[]"},
		{"nothing seen", "", pin, "", "10.0.0.5 203.0.113.7", "[203.0.113.7]"},
	} {
		d := &tailnet.RelayDescription{Hostname: c.host, Certificates: []tailnet.RelayCertificate{{Pin: c.pin}}}
		if c.seen != "" {
			d.SeenFrom = netip.MustParseAddr(c.seen)
		}
		for _, text := range bytes.Fields([]byte(c.own)) {
			d.Addresses = append(d.Addresses, netip.MustParseAddr(string(text)))
		}
		if got := fmt.Sprint(publish(d)); got != c.want {
			t.Errorf("%s: got %s, want %s", c.name, got, c.want)
		}
	}
}

// The law of admission: what a relay was told, and the difference, make what it is to know. However views come, and
// wherever keys move.
func TestAdmissionLaw(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	keys := make([]key.NodePublic, 12)
	for i := range keys {
		keys[i] = key.NewNode().Public()
	}
	rules := []*RelayRules{
		{},
		{PerTag: map[string]RelayBound{"tag:a": {Rate: 5}, "tag:b": {Rate: 9}}},
		{PerTag: map[string]RelayBound{"tag:b": {}, "tag:c": {Rate: 1}}},
	}
	var was admission
	told := map[key.NodePublic]uint32{}
	nodes := map[tailnet.NodeID]*tailnet.Node{}
	for round := range 3000 {
		now := admission{rules: rules[random.IntN(len(rules))]}
		now.tags = now.rules.tags()
		for range random.IntN(4) { // nodes come, go, change keys, expire, move
			id := tailnet.NodeID(random.IntN(8) + 1)
			if random.IntN(4) == 0 {
				delete(nodes, id)
				continue
			}
			n := &tailnet.Node{ID: id, TailnetID: tailnet.ID(random.IntN(2) + 1), NodeKey: keys[random.IntN(len(keys))], Lapsed: random.IntN(4) == 0}
			for _, tag := range []string{"tag:a", "tag:b", "tag:c"} {
				if random.IntN(3) == 0 {
					n.Tags = append(n.Tags, tag)
				}
			}
			for other, o := range nodes { // a key is one node's
				if o.NodeKey == n.NodeKey {
					delete(nodes, other)
				}
			}
			nodes[id] = n
		}
		want := map[key.NodePublic]uint32{}
		for id := range tailnet.ID(2) {
			v := &state.View{Snapshot: &tailnet.Snapshot{Tailnet: &tailnet.Tailnet{ID: id + 1}}}
			for nid := range tailnet.NodeID(10) {
				if n := nodes[nid]; n != nil && n.TailnetID == id+1 {
					v.Nodes = append(v.Nodes, n)
					if !n.Lapsed {
						want[n.NodeKey] = now.rules.classOf(n, now.tags)
					}
				}
			}
			if len(v.Nodes) > 0 || random.IntN(2) == 0 { // without nodes the tailnet may be gone
				now.views = append(now.views, v)
			}
		}
		come, gone := now.since(was)
		for _, a := range chunks(1, false, come, gone) {
			for _, raw := range a.Gone {
				delete(told, key.NodePublicFromRaw32(mem.B(raw)))
			}
			for _, n := range a.Nodes {
				told[key.NodePublicFromRaw32(mem.B(n.Key))] = n.Class
			}
		}
		if diff := cmp.Diff(want, told, cmp.Comparer(func(a, b key.NodePublic) bool { return a == b })); diff != "" {
			t.Fatalf("round %d: want (-), told (+):\n%s", round, diff)
		}
		was = now
	}
}

// A server that wrote down the health of a relay gives way to another one that says the contrary, and not to a view from
// before.
func TestOverruled(t *testing.T) {
	for name, c := range map[string]struct {
		session string
		views   []bool // after it wrote that the relay is not healthy
		want    bool
	}{
		"as it wrote":                  {"", []bool{false, false}, false},
		"late views":                   {"", []bool{true, true, false}, false},
		"another server":               {"", []bool{false, true}, true},
		"another server, after a late": {"", []bool{true, false, true, false}, true},
		"connected here":               {"x", []bool{false, true}, false},
	} {
		h := &relayHealth{session: c.session}
		h.sees(true)
		h.wrote(false)
		for _, healthy := range c.views {
			h.sees(healthy)
		}
		if h.overruled != c.want {
			t.Errorf("%s: got overruled %v, want %v", name, h.overruled, c.want)
		}
	}
}

func TestAdmissionInChunks(t *testing.T) {
	nodes := make([]*relayv1.Node, 3*admissionChunk/2)
	gone := make([][]byte, 2*admissionChunk+1)
	got := chunks(7, true, nodes, gone)
	n, g := 0, 0
	for i, a := range got {
		n, g = n+len(a.Nodes), g+len(a.Gone)
		if a.Number != 7 || a.Whole != (i == 0) || a.Partial != (i < len(got)-1) {
			t.Errorf("chunk %d: got number %d, whole %v, partial %v", i, a.Number, a.Whole, a.Partial)
		}
	}
	if len(got) != 3 || n != len(nodes) || g != len(gone) {
		t.Errorf("got %d chunks with %d nodes and %d gone", len(got), n, g)
	}
	if got := chunks(1, true, nil, nil); len(got) != 1 || !got[0].Whole {
		t.Errorf("nobody at all: got %v, want it said", got)
	}
	if got := chunks(1, false, nil, nil); got != nil {
		t.Errorf("nothing new: got %v, want silence", got)
	}
}

func FuzzReport(f *testing.F) {
	seed := &relayv1.Report{
		Hello: &relayv1.Hello{DerpKey: make([]byte, 32), Region: "home"},
		Description: &relayv1.Description{Hostname: "[2001:db8::1]", Addresses: []string{"::1"}, DerpPort: 443,
			Certificates: []*relayv1.Certificate{{Name: "x", Expires: 1 << 60}}},
		Load: &relayv1.Load{Started: -1, Cpu: 1e300, Troubles: []string{"x"}},
	}
	text, err := proto.Marshal(seed)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(append(binary.BigEndian.AppendUint32(nil, uint32(len(text))), text...))
	f.Add([]byte{0, 0, 0, 0})
	f.Add([]byte{255, 255, 255, 255})
	f.Fuzz(func(t *testing.T, raw []byte) {
		r, err := readReport(bytes.NewReader(raw))
		if err != nil {
			return
		}
		if _, err := readHello(r.Hello); err == nil && r.Hello == nil {
			t.Error("a hello that is none")
		}
		if d, err := readDescription(r.Description); err == nil {
			d.SeenFrom = netip.MustParseAddr("203.0.113.7")
			if got := publish(&d); len(got) > 2 {
				t.Errorf("published %v, want one address a family", got)
			}
			for _, c := range d.Certificates {
				if _, err := c.Expires.MarshalText(); err != nil {
					t.Errorf("a time that cannot be stored: %v", err)
				}
			}
		}
		if r.Load != nil {
			if l := readLoad(r.Load); l != nil && l.Started != nil && l.Started.Year() > 9999 {
				t.Error("a load of the far future")
			}
		}
	})
}

func BenchmarkAdmissionSince(b *testing.B) {
	const size = 10_000
	v := &state.View{Snapshot: &tailnet.Snapshot{Tailnet: &tailnet.Tailnet{ID: 1}}}
	for i := range size {
		v.Nodes = append(v.Nodes, &tailnet.Node{ID: tailnet.NodeID(i + 1), NodeKey: key.NewNode().Public()})
	}
	w := &state.View{Snapshot: &tailnet.Snapshot{Tailnet: v.Tailnet, Nodes: append([]*tailnet.Node{}, v.Nodes...)}}
	c := *v.Nodes[5000]
	c.Lapsed = true
	w.Nodes[5000] = &c
	rules := &RelayRules{}
	was, now := admission{views: []*state.View{v}, rules: rules}, admission{views: []*state.View{w}, rules: rules}
	b.ReportAllocs()
	for b.Loop() {
		if _, gone := now.since(was); len(gone) != 1 {
			b.Fatal("want one gone")
		}
	}
}
