package control_test

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/netip"
	"strings"
	"testing"

	"tailscale.com/tailcfg"
	"tailscale.com/types/key"

	"github.com/keelscale/keelscale/hscontrol/control"
	"github.com/keelscale/keelscale/hscontrol/hstest"
	"github.com/keelscale/keelscale/hscontrol/tailnet"
)

func TestOldestClientIsServed(t *testing.T) {
	s := hstest.Start(t)
	secret := s.Key(s.User("alice"))
	old, today := s.Node("old"), s.Node("today")
	old.Cap = control.MinCapVersion
	old.Join(secret)
	today.Join(secret)
	pa, pb := old.Poll(), today.Poll()
	if len(pa.Netmap.Node.Capabilities) == 0 || pa.Netmap.Node.CapMap != nil {
		t.Errorf("capabilities of an old client: got list %v, map %v; want the list only", pa.Netmap.Node.Capabilities, pa.Netmap.Node.CapMap)
	}
	old.Hostinfo.NetInfo = &tailcfg.NetInfo{PreferredDERP: 7}
	old.Update("192.0.2.1:1")
	pb.Await("the old node's region", func(m *hstest.Netmap) bool {
		p := m.Peer("old")
		return p != nil && p.HomeDERP == 7 && p.LegacyDERPString == "127.3.3.40:7"
	})
}

func TestTooOldClientIsTold(t *testing.T) {
	s := hstest.Start(t)
	n := s.Node("ancient")
	n.Cap = control.MinCapVersion - 1
	resp, err := n.Register(hstest.Context(t), hstest.WithKey(s.Key(s.User("alice"))))
	if err != nil || !strings.Contains(resp.Error, "too old") {
		t.Errorf("register: got %+v, %v; want to be told", resp, err)
	}
	if status, text := n.TryUpdate(hstest.Context(t)); status != http.StatusBadRequest || !strings.Contains(text, "too old") {
		t.Errorf("map: got %d %q; want 400 and to be told", status, text)
	}
}

// A stream only reads: what it says of the node is for clients that this server does not serve.
func TestStreamWritesNothing(t *testing.T) {
	s := hstest.Start(t)
	secret := s.Key(s.User("alice"))
	a, b := s.Node("alpha"), s.Node("beta")
	a.Join(secret)
	b.Join(secret)
	a.Update("192.0.2.1:1")
	pb := b.Poll()
	a.Hostinfo = &tailcfg.Hostinfo{Hostname: "renamed", OS: "plan9"}
	a.Disco = key.NewDisco()
	a.Poll()
	pb.Await("alpha to come", online("alpha", true))
	if p := pb.Netmap.Peer("alpha"); p == nil || p.Hostinfo.OS() != "linux" || p.DiscoKey == a.Disco.Public() {
		t.Errorf("after a stream that says other things: got %+v, want what the update said", p)
	}
}

func TestHostinfoWithoutNetInfoKeepsIt(t *testing.T) {
	s := hstest.Start(t)
	secret := s.Key(s.User("alice"))
	a, b := s.Node("alpha"), s.Node("beta")
	a.Join(secret)
	b.Join(secret)
	pb := b.Poll()
	a.Hostinfo.NetInfo = &tailcfg.NetInfo{PreferredDERP: 3}
	a.Update()
	a.Hostinfo.NetInfo = nil
	a.Update("192.0.2.1:1")
	pb.Await("alpha's endpoint", func(m *hstest.Netmap) bool { return len(m.Peer("alpha").Endpoints) == 1 })
	if got := pb.Netmap.Peer("alpha").HomeDERP; got != 3 {
		t.Errorf("home region: got %d, want 3 as before", got)
	}
}

// An update whose body is late was overtaken: it must not undo what a newer one said.
func TestLateUpdateIsStale(t *testing.T) {
	s := hstest.Start(t)
	secret := s.Key(s.User("alice"))
	a, b := s.Node("alpha"), s.Node("beta")
	a.Join(secret)
	b.Join(secret)
	pb := b.Poll()

	body, late := io.Pipe()
	req, err := http.NewRequestWithContext(hstest.Context(t), "POST", "https://control/machine/map", body)
	if err != nil {
		t.Fatal(err)
	}
	type answer struct {
		resp *http.Response
		err  error
	}
	answers := make(chan answer, 1)
	go func() {
		resp, err := a.Do(req)
		answers <- answer{resp, err}
	}()
	old, _ := json.Marshal(&tailcfg.MapRequest{
		Version: a.Cap, NodeKey: a.Key.Public(), DiscoKey: a.Disco.Public(), OmitPeers: true, Hostinfo: a.Hostinfo,
		Endpoints: []netip.AddrPort{netip.MustParseAddrPort("192.0.2.1:1")},
	})
	blank := bytes.Repeat([]byte(" "), 512<<10) // more than waits for a handler: this one began to read
	if _, err := late.Write(append(blank, old[:10]...)); err != nil {
		t.Fatal(err)
	}
	a.Update("192.0.2.2:2")
	late.Write(old[10:])
	late.Close()
	got := <-answers
	if got.err != nil || got.resp.StatusCode != http.StatusConflict {
		t.Fatalf("the late update: got %+v, want 409", got)
	}
	got.resp.Body.Close()
	pb.Await("the newer endpoint", func(m *hstest.Netmap) bool {
		p := m.Peer("alpha")
		return len(p.Endpoints) == 1 && p.Endpoints[0].Port() == 2
	})
}

func TestBadRequests(t *testing.T) {
	s := hstest.Start(t)
	n := s.Node("alpha")
	n.Join(s.Key(s.User("alice")))
	post := func(path string, body []byte) (int, string) {
		req, err := http.NewRequestWithContext(hstest.Context(t), "POST", "https://control"+path, bytes.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		resp, err := n.Do(req)
		if err != nil {
			t.Fatalf("%s: %v", path, err)
		}
		defer resp.Body.Close()
		text, _ := io.ReadAll(resp.Body)
		return resp.StatusCode, string(text)
	}
	unknown := func(edit func(*tailcfg.MapRequest)) []byte {
		r := &tailcfg.MapRequest{Version: n.Cap, NodeKey: key.NewNode().Public(), Hostinfo: n.Hostinfo}
		edit(r)
		text, _ := json.Marshal(r)
		return text
	}
	cases := []struct {
		name, path string
		body       []byte
		status     int
		says       string
	}{
		{"no JSON", "/machine/map", []byte("hello"), 400, "JSON"},
		{"register without JSON", "/machine/register", []byte("{"), 400, "JSON"},
		{"too large", "/machine/register", bytes.Repeat([]byte("x"), 2<<20), 413, "larger"},
		{"map before register", "/machine/map", unknown(func(r *tailcfg.MapRequest) { r.OmitPeers = true }), 404, "register"},
		{"map once before register", "/machine/map", unknown(func(r *tailcfg.MapRequest) { r.ReadOnly = true }), 404, "register"},
		{"certificates", "/machine/set-dns", []byte("{}"), 403, "certificates"},
		{"tailnet lock", "/machine/tka/init/begin", []byte("{}"), 403, "tailnet lock"},
		{"nonsense", "/machine/nonsense", nil, 404, ""},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			status, text := post(c.path, c.body)
			if status != c.status || !strings.Contains(text, c.says) {
				t.Errorf("got %d %q, want %d and %q", status, text, c.status, c.says)
			}
		})
	}
	if resp, err := n.Register(hstest.Context(t), func(r *tailcfg.RegisterRequest) { r.NodeKey = key.NodePublic{} }); err != nil || resp.Error == "" {
		t.Errorf("register without a node key: got %+v, %v; want a refusal", resp, err)
	}
	n.Update("192.0.2.1:1") // and the node still works
}

func TestSmallRequestsAreAnswered(t *testing.T) {
	s := hstest.Start(t)
	n := s.Node("alpha")
	n.Join(s.Key(s.User("alice")))
	n.Poll()
	for _, c := range []struct {
		method, path, body string
		status             int
	}{
		{"GET", "/machine/whoami", "", 200},
		{"POST", "/machine/update-health", "{}", 204},
		{"POST", "/machine/c2n/abc", "HTTP/1.1 200 OK\r\n\r\n", 204},
		{"POST", "/machine/feature/query", `{"Feature":"serve"}`, 200},
	} {
		req, err := http.NewRequestWithContext(hstest.Context(t), c.method, "https://unused"+c.path, strings.NewReader(c.body))
		if err != nil {
			t.Fatal(err)
		}
		resp, err := n.Do(req)
		if err != nil {
			t.Fatalf("%s: %v", c.path, err)
		}
		text, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		if resp.StatusCode != c.status {
			t.Errorf("%s %s: got %d %q, want %d", c.method, c.path, resp.StatusCode, text, c.status)
		}
	}
}

func TestOutsideNoise(t *testing.T) {
	s := hstest.Start(t)
	n := s.Node("alpha")
	n.Join(s.Key(s.User("alice")))
	verify := func(k key.NodePublic) string {
		text, _ := json.Marshal(tailcfg.DERPAdmitClientRequest{NodePublic: k, Source: netip.MustParseAddr("192.0.2.1")})
		resp, err := http.Post(s.URL+"/verify", "application/json", bytes.NewReader(text))
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		body, _ := io.ReadAll(resp.Body)
		return strings.TrimSpace(string(body))
	}
	if got := verify(n.Key.Public()); got != `{"Allow":true}` {
		t.Errorf("verify a node: got %s", got)
	}
	if got := verify(key.NewNode().Public()); got != `{"Allow":false}` {
		t.Errorf("verify a stranger: got %s", got)
	}
	for path, want := range map[string]int{"/key": 400, "/key?v=142": 200, "/health": 200, "/version": 200, "/ts2021": http.StatusUpgradeRequired} {
		resp, err := http.Get(s.URL + path)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != want {
			t.Errorf("GET %s: got %d, want %d", path, resp.StatusCode, want)
		}
	}
}

// A node whose routes are approved serves them to others, and not before.
func TestRoutesWaitForApproval(t *testing.T) {
	s := hstest.Start(t)
	secret := s.Key(s.User("alice"))
	a, b := s.Node("alpha"), s.Node("beta")
	a.Join(secret)
	b.Join(secret)
	pb := b.Poll()
	pa := a.Poll()
	route := netip.MustParsePrefix("192.168.100.0/24")
	a.Hostinfo.RoutableIPs = []netip.Prefix{route}
	a.Update("192.0.2.1:1")
	pb.Await("alpha's endpoint", func(m *hstest.Netmap) bool { return len(m.Peer("alpha").Endpoints) == 1 })
	if got := pb.Netmap.Peer("alpha").AllowedIPs; len(got) != 2 {
		t.Errorf("before approval: got AllowedIPs %v, want its own two addresses", got)
	}
	id := tailnet.NodeID(pa.Netmap.Node.ID)
	if _, err := s.Store().ApproveRoutes(context.Background(), id, []netip.Prefix{route}); err != nil {
		t.Fatal(err)
	}
	pb.Await("the route", func(m *hstest.Netmap) bool {
		p := m.Peer("alpha")
		return len(p.AllowedIPs) == 3 && p.AllowedIPs[2] == route && len(p.PrimaryRoutes) == 1
	})
	pa.Await("its own route", func(m *hstest.Netmap) bool { return len(m.Node.AllowedIPs) == 3 })
	if _, err := s.Store().ApproveRoutes(context.Background(), id, nil); err != nil {
		t.Fatal(err)
	}
	pb.Await("the route to go", func(m *hstest.Netmap) bool { return len(m.Peer("alpha").AllowedIPs) == 2 })
}
