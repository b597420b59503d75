package hscontrol_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"tailscale.com/derp"
	"tailscale.com/derp/derphttp"
	"tailscale.com/net/netmon"
	"tailscale.com/tailcfg"
	"tailscale.com/types/key"

	"github.com/keelscale/keelscale/hscontrol/config"
	"github.com/keelscale/keelscale/hscontrol/hstest"
)

// relayNames are the relays of region 999 in a map, in its order.
func relayNames(m *tailcfg.DERPMap) (names []string) {
	if m == nil || m.Regions[999] == nil {
		return nil
	}
	for _, n := range m.Regions[999].Nodes {
		if n.STUNOnly {
			names = append(names, "no "+n.Name)
			continue
		}
		names = append(names, n.Name)
	}
	return names
}

func awaitRelays(poll *hstest.Poll, want ...string) {
	poll.Await(fmt.Sprintf("the relays %v", want), func(m *hstest.Netmap) bool { return slices.Equal(relayNames(m.DERP), want) })
}

// at connects a node to one relay of the region, over TLS and with the pin, as clients do.
func at(t *testing.T, n *hstest.Node, region *tailcfg.DERPRegion, name string) (*derphttp.Client, error) {
	t.Helper()
	one := *region
	one.Nodes = slices.DeleteFunc(slices.Clone(region.Nodes), func(n *tailcfg.DERPNode) bool { return n.Name != name })
	return introduce(t, derphttp.NewRegionClient(n.Key, t.Logf, netmon.NewStatic(), func() *tailcfg.DERPRegion { return &one }))
}

func mustAt(t *testing.T, n *hstest.Node, region *tailcfg.DERPRegion, name string) *derphttp.Client {
	t.Helper()
	c, err := at(t, n, region, name)
	if err != nil {
		t.Fatalf("at %s: %v", name, err)
	}
	return c
}

// inbox gives the packets that a client gets.
func inbox(c *derphttp.Client) <-chan []byte {
	packets := make(chan []byte, 100)
	go func() {
		defer close(packets)
		for {
			switch m, err := c.Recv(); {
			case err != nil:
				return
			default:
				if p, ok := m.(derp.ReceivedPacket); ok {
					packets <- bytes.Clone(p.Data)
				}
			}
		}
	}()
	return packets
}

// reaches sends a text until it arrives.
func reaches(t *testing.T, text string, from *derphttp.Client, to key.NodePublic, in <-chan []byte) {
	t.Helper()
	again := time.NewTicker(50 * time.Millisecond)
	defer again.Stop()
	for deadline := time.After(hstest.Patience); ; {
		if err := from.Send(to, []byte(text)); err != nil {
			t.Logf("%s: %v", text, err)
		}
		select {
		case got := <-in:
			if string(got) == text {
				return
			}
		case <-again.C:
		case <-deadline:
			t.Fatalf("%.20q did not arrive within %v", text, hstest.Patience)
		}
	}
}

// The relays inside two servers are one region: clients of one reach those of the other, only nodes come in, and who is
// a node no more has to go everywhere.
func TestRelaysOfServersMeet(t *testing.T) {
	db := hstest.StartPostgres(t)
	use := db.Database()
	a := hstest.Start(t, use, embedded)
	b := hstest.Start(t, use, embedded, shareSecrets(a))
	c := hstest.Start(t, use, shareSecrets(a), func(cfg *config.Config) { cfg.DERP.Server.Enabled = false })
	secret := a.Key(a.User("anna"))
	x, y, z := a.Node("x"), b.Node("y"), c.Node("z")
	for _, n := range []*hstest.Node{x, y, z} {
		n.Join(secret)
	}
	px, py, pz := x.Poll(), y.Poll(), z.Poll()
	awaitRelays(px, "999a", "999b") // each server names its own first
	awaitRelays(py, "999b", "999a")
	awaitRelays(pz, "999a", "999b") // and one without names all

	region := pz.Netmap.DERP.Regions[999]
	cx, cy := mustAt(t, x, region, "999a"), mustAt(t, y, region, "999b")
	ix, iy := inbox(cx), inbox(cy)
	reaches(t, "there", cx, y.Key.Public(), iy)
	reaches(t, "back", cy, x.Key.Public(), ix)

	stranger := a.Node("stranger")
	for _, name := range []string{"999a", "999b"} {
		if _, err := at(t, stranger, region, name); err == nil {
			t.Errorf("a stranger came in at %s", name)
		}
	}
	if faults := slices.Concat(a.Faults(t.Context()), b.Faults(t.Context())); strings.Contains(fmt.Sprint(faults), "relay") {
		t.Errorf("got faults %q, want none of relays", faults)
	}
	if sealed := db.SQL("test1", "SELECT count(*) FROM secrets WHERE name = 'relay_mesh_key' AND length(sealed) = 93"); strings.TrimSpace(sealed) != "1" {
		t.Errorf("got %s keys of 64 digits that are sealed, want 1", sealed)
	}

	// Deleted at one, it is gone from the other within two seconds.
	found, err := a.Store().FindNodeByKey(t.Context(), y.Key.Public())
	if err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	if err := a.Store().DeleteNode(t.Context(), found.ID); err != nil {
		t.Fatal(err)
	}
	for range iy {
	}
	took := time.Since(began)
	t.Logf("gone after %v", took)
	if took > gone {
		t.Errorf("gone after %v, want %v at most", took, gone)
	}

	// The second ends in order, and is back before the others miss it: nobody gets a new map.
	b.End()
	b.Begin()
	y2 := b.Node("y2")
	y2.Join(secret)
	awaitRelays(y2.Poll(), "999b", "999a")
	cy2 := mustAt(t, y2, region, "999b")
	reaches(t, "again", cx, y2.Key.Public(), inbox(cy2))
	if got := relayNames(px.Netmap.DERP); !slices.Equal(got, []string{"999a", "999b"}) {
		t.Errorf("got relays %v meanwhile, want both", got)
	}
}

// A server is killed: its relay leaves the map, its clients go on at the other's, and when it is back so is its relay,
// under its name. A server without a relay keeps the place of the region.
func TestKilledServersRelayComesBack(t *testing.T) {
	db := hstest.StartPostgres(t)
	cfg := config.Default("/")
	db.Database()(cfg)
	pg := cfg.Database.Postgres
	text := fmt.Sprintf("database:\n  type: postgres\n  secrets_key_path: %s\n  postgres: {host: %s, port: %d, name: %s, user: %s}\n",
		filepath.Join(t.TempDir(), "secrets.key"), pg.Host, pg.Port, pg.Name, pg.User)
	first := hstest.StartProcess(t, text)
	second := hstest.StartProcess(t, text)
	secret := first.ProcessKey()
	x, y := first.Node("x"), second.Node("y")
	x.Join(secret)
	y.Join(secret)
	py := y.Poll()
	awaitRelays(py, "999b", "999a")
	region := py.Netmap.DERP.Regions[999]
	cy := mustAt(t, y, region, "999b")
	iy := inbox(cy)
	cx := mustAt(t, x, region, "999a")
	reaches(t, "before", cx, y.Key.Public(), iy)
	for i := range 20 { // 1 MB by way of both
		reaches(t, fmt.Sprintf("%d %s", i, strings.Repeat("x", 50_000)), cx, y.Key.Public(), iy)
	}
	awaitSent(t, second, "embedded-999a", 1_000_000)
	awaitSent(t, second, "embedded-999b", 1_000_000)
	list := second.CLI("derp", "list")
	for _, want := range []string{"embedded-999a", "embedded-999b", "healthy", "127.0.0.1:"} {
		if !strings.Contains(list, want) {
			t.Errorf("got\n%s\nwithout %q", list, want)
		}
	}

	began := time.Now()
	first.End(syscall.SIGKILL)
	cx = mustAt(t, x, region, "999b")
	reaches(t, "meanwhile", cx, y.Key.Public(), iy)
	awaitRelays(py, "999b")
	t.Logf("out of the map after %v", time.Since(began))
	if got := second.CLI("health"); !strings.Contains(got, "embedded-999a is out of the DERP map") {
		t.Errorf("got health %s, want that the relay is away", got)
	}
	first.Begin()
	began = time.Now()
	awaitRelays(py, "999b", "999a")
	t.Logf("back in the map after %v", time.Since(began))
	cx = mustAt(t, x, py.Netmap.DERP.Regions[999], "999a")
	reaches(t, "after", cx, y.Key.Public(), iy)

	second.End(syscall.SIGTERM)
	second.Begin()
	awaitSent(t, second, "embedded-999b", 1_000_000)
}

// awaitSent waits until a relay says that it has sent so many bytes today, and in this month.
func awaitSent(t *testing.T, s *hstest.Process, relay string, least uint64) {
	t.Helper()
	type traffic struct {
		Sent uint64 `json:",string"`
	}
	for deadline := time.Now().Add(hstest.Patience); ; time.Sleep(200 * time.Millisecond) {
		var list []struct {
			Name         string
			Today, Month traffic
		}
		text := s.CLI("derp", "list", "-o", "json")
		if err := json.Unmarshal([]byte(text), &list); err != nil {
			t.Fatalf("reading %s: %v", text, err)
		}
		for _, r := range list {
			if r.Name == relay && r.Today.Sent >= least && r.Month.Sent >= r.Today.Sent {
				return
			}
		}
		if time.Now().After(deadline) {
			t.Fatalf("relay %s did not say within %v that it sent %d bytes: %s", relay, hstest.Patience, least, text)
		}
	}
}

// Behind a proxy that speaks TLS, each server says where its relay is past the proxy. Where two say nothing of their own,
// health tells.
func TestRelaysBehindOneName(t *testing.T) {
	db := hstest.StartPostgres(t)
	use := db.Database()
	past := func(cfg *config.Config) {
		cfg.ServerURL = "https://head.example.com"
		at := netip.MustParseAddrPort(cfg.ListenAddr)
		cfg.DERP.Server.IPv4, cfg.DERP.Server.Port = at.Addr(), int(at.Port())
	}
	a := hstest.Start(t, use, embedded, past)
	b := hstest.Start(t, use, embedded, past, shareSecrets(a))
	a.URL, b.URL = "http://"+a.Config.ListenAddr, "http://"+b.Config.ListenAddr
	secret := a.Key(a.User("anna"))
	x, y := a.Node("x"), b.Node("y")
	x.Join(secret)
	y.Join(secret)
	poll := x.Poll()
	awaitRelays(poll, "999a", "999b")
	region := poll.Netmap.DERP.Regions[999]
	in := inbox(mustAt(t, y, region, "999b"))
	reaches(t, "past the proxy", mustAt(t, x, region, "999a"), y.Key.Public(), in)

	same := func(cfg *config.Config) { cfg.ServerURL = "http://head.example.com" }
	use = db.Database()
	c := hstest.Start(t, use, embedded, same)
	d := hstest.Start(t, use, embedded, same, shareSecrets(c))
	faultsWith(t, d, "at the same address, head.example.com, with different certificates")
	// And where one has the other's key.
	e := hstest.Prepare(t, use, embedded, same, shareSecrets(c), func(cfg *config.Config) {
		cfg.DERP.Server.PrivateKeyPath = c.Config.DERP.Server.PrivateKeyPath
	})
	e.Begin()
	faultsWith(t, c, "another server has the same relay key")
}

// A server without a relay keeps the place of the region while all relays of the others are away: a client whose home
// it was connects again only when it sees the region change.
func TestRegionKeepsItsPlace(t *testing.T) {
	db := hstest.StartPostgres(t)
	use := db.Database()
	a := hstest.Start(t, use, embedded)
	b := hstest.Start(t, use, shareSecrets(a))
	n := b.Node("n")
	n.Join(a.Key(a.User("anna")))
	poll := n.Poll()
	awaitRelays(poll, "999a")
	a.End()
	awaitRelays(poll, "no 999a")
	faultsWith(t, b, "the DERP map is empty")
	a.Begin()
	awaitRelays(poll, "999a")
}
