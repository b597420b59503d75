package control_test

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go4.org/mem"
	"google.golang.org/protobuf/proto"
	"tailscale.com/control/ts2021"
	"tailscale.com/control/tsp"
	"tailscale.com/health"
	"tailscale.com/net/tsdial"
	"tailscale.com/tailcfg"
	"tailscale.com/types/key"

	"github.com/keelscale/keelscale/hscontrol/config"
	"github.com/keelscale/keelscale/hscontrol/hstest"
	"github.com/keelscale/keelscale/hscontrol/tailnet"
	relayv1 "github.com/keelscale/keelscale/proto/relay/v1"
)

// relay speaks the protocol of an enrolled relay, and answers probes as one.
type relay struct {
	t       testing.TB
	machine key.MachinePrivate
	derp    key.NodePrivate
	from    string // the address that it connects from
	region  string
	secret  string // enrolment key
	port    int
	pin     string

	answers atomic.Bool
	client  *ts2021.Client
}

// newRelay is a relay that answers at all addresses of the loopback network.
func newRelay(t testing.TB, secret string) *relay {
	t.Helper()
	r := &relay{t: t, machine: key.NewMachine(), derp: key.NewNode(), from: "127.0.0.1", region: "home", secret: secret}
	r.answers.Store(true)
	l, err := net.Listen("tcp4", "0.0.0.0:0")
	if err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if !r.answers.Load() || req.URL.Path != "/derp/probe" {
			http.NotFound(w, req)
		}
	}))
	srv.Listener.Close()
	srv.Listener = l
	srv.StartTLS()
	t.Cleanup(srv.Close)
	t.Cleanup(func() { r.hangUp() })
	r.port = l.Addr().(*net.TCPAddr).Port
	sum := sha256.Sum256(srv.TLS.Certificates[0].Certificate[0])
	r.pin = "sha256-raw:" + hex.EncodeToString(sum[:])
	return r
}

func (r *relay) hangUp() {
	if r.client != nil {
		r.client.Close()
		r.client = nil
	}
}

func (r *relay) hello() *relayv1.Report {
	return &relayv1.Report{
		Hello:       &relayv1.Hello{Version: "v9", EnrollKey: r.secret, DerpKey: r.derp.Public().AppendTo(nil), Region: r.region},
		Description: r.description(),
	}
}

func (r *relay) description() *relayv1.Description {
	return &relayv1.Description{
		DerpPort: uint32(r.port), Addresses: []string{r.from},
		Certificates: []*relayv1.Certificate{{Name: "r-1.relay.invalid", Pin: r.pin, Expires: 1 << 40}},
	}
}

// link is a session, and what the relay was told in it.
type link struct {
	t        testing.TB
	stop     context.CancelFunc
	out      *io.PipeWriter
	in       io.ReadCloser
	orders   int
	admitted map[key.NodePublic]uint32
	number   uint64
	enrolled *relayv1.Enrolment
	settings *relayv1.Settings
	refused  *relayv1.Refusal
}

// connect opens a session that begins with first.
func (r *relay) connect(url string, first *relayv1.Report) *link {
	r.t.Helper()
	r.hangUp()
	ctx, stop := context.WithCancel(context.Background())
	r.t.Cleanup(stop)
	serverKey, err := tsp.DiscoverServerKey(ctx, url)
	if err != nil {
		r.t.Fatal(err)
	}
	dialer := &net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(r.from)}}
	quiet := func(string, ...any) {}
	r.client, err = ts2021.NewClient(ts2021.ClientOpts{
		ServerURL: url, PrivKey: r.machine, ServerPubKey: serverKey,
		Dialer: tsdial.NewFromFuncForDebug(quiet, dialer.DialContext), Logf: quiet, HealthTracker: new(health.Tracker),
	})
	if err != nil {
		r.t.Fatal(err)
	}
	body, out := io.Pipe()
	req, err := http.NewRequestWithContext(ctx, "POST", "https://control/relay/v1/session", body)
	if err != nil {
		r.t.Fatal(err)
	}
	l := &link{t: r.t, stop: stop, out: out}
	go l.say(first)
	timer := time.AfterFunc(patience, stop)
	resp, err := r.client.Do(req)
	if err != nil {
		r.t.Fatal(err)
	}
	timer.Stop()
	if resp.StatusCode != http.StatusOK {
		r.t.Fatalf("session: got %s", resp.Status)
	}
	l.in = resp.Body
	return l
}

// patience is how long a test waits for what should take milliseconds.
const patience = hstest.Patience

// gone is how long a node may be admitted that is none any more. It is two seconds for real, and more for a machine that
// is busy with other tests.
const gone = 20 * time.Second

func (l *link) say(r *relayv1.Report) error {
	text, err := proto.Marshal(r)
	if err != nil {
		return err
	}
	_, err = l.out.Write(append(binary.BigEndian.AppendUint32(nil, uint32(len(text))), text...))
	return err
}

// next takes in one order.
func (l *link) next() error {
	var length [4]byte
	if _, err := io.ReadFull(l.in, length[:]); err != nil {
		return err
	}
	text := make([]byte, binary.BigEndian.Uint32(length[:]))
	if _, err := io.ReadFull(l.in, text); err != nil {
		return err
	}
	o := new(relayv1.Order)
	if err := proto.Unmarshal(text, o); err != nil {
		return err
	}
	if l.orders++; l.orders == 1 && o.Refusal == nil && (o.Admission == nil || !o.Admission.Whole || o.Settings == nil || o.Enrolment == nil) {
		return fmt.Errorf("the first order is %v", o)
	}
	if o.Refusal != nil {
		l.refused = o.Refusal
	}
	if o.Enrolment != nil {
		l.enrolled = o.Enrolment
	}
	if o.Settings != nil {
		l.settings = o.Settings
	}
	return l.admit(o.Admission)
}

func (l *link) admit(a *relayv1.Admission) error {
	if a == nil {
		return nil
	}
	if a.Number < l.number || a.Number == l.number && a.Whole {
		return fmt.Errorf("admission %d comes after %d", a.Number, l.number)
	}
	l.number = a.Number
	if a.Whole {
		l.admitted = map[key.NodePublic]uint32{}
	}
	for _, raw := range a.Gone {
		k := key.NodePublicFromRaw32(mem.B(raw))
		if _, known := l.admitted[k]; !known {
			return fmt.Errorf("%v is gone, but was not there", k)
		}
		delete(l.admitted, k)
	}
	for _, n := range a.Nodes {
		l.admitted[key.NodePublicFromRaw32(mem.B(n.Key))] = n.Class
	}
	return nil
}

// await reads orders until ok holds, and says how long that took.
func (l *link) await(what string, ok func() bool) time.Duration {
	l.t.Helper()
	began := time.Now()
	timer := time.AfterFunc(patience, l.stop)
	defer timer.Stop()
	for !ok() {
		if err := l.next(); err != nil {
			l.t.Fatalf("waiting for %s: %v (told %v, admitted %d, refused %v)", what, err, l.enrolled, len(l.admitted), l.refused)
		}
	}
	return time.Since(began)
}

// awaitEnd reads orders until the server ends the session.
func (l *link) awaitEnd() {
	l.t.Helper()
	timer := time.AfterFunc(patience, l.stop)
	for l.next() == nil {
	}
	if !timer.Stop() {
		l.t.Fatal("the session does not end")
	}
}

func (l *link) awaitPublished(at string) time.Duration {
	l.t.Helper()
	return l.await("being published at "+at, func() bool { return l.enrolled != nil && slices.Equal(l.enrolled.Published, []string{at}) })
}

func (r *relay) at(host string) string { return fmt.Sprintf("%s:%d", host, r.port) }

// probing makes a server probe relays all the time, and have no relay of its own.
func probing(cfg *config.Config) { cfg.DERP.Relays.ProbeInterval = 100 * time.Millisecond }

func relayKey(t testing.TB, s *hstest.Server, edit ...func(*tailnet.RelayKey)) string {
	t.Helper()
	k := tailnet.RelayKey{}
	for _, e := range edit {
		e(&k)
	}
	_, secret, err := s.Store().CreateRelayKey(hstest.Context(t), k)
	if err != nil {
		t.Fatal(err)
	}
	return secret.Reveal()
}

// The relay of a map, by its number; nil for none.
func derpNode(m *hstest.Netmap, region int) string {
	if m.DERP == nil || m.DERP.Regions[region] == nil {
		return ""
	}
	n := m.DERP.Regions[region].Nodes[0]
	return fmt.Sprintf("%s %s %s %s:%d", n.HostName, n.CertName, n.IPv6, n.IPv4, n.DERPPort)
}

func TestRelayEnrols(t *testing.T) {
	s := hstest.Start(t, probing)
	a := s.Node("alpha")
	a.Join(s.Key(s.User("alice")))
	p := a.Poll()
	r := newRelay(t, relayKey(t, s))
	l := r.connect(s.URL, r.hello())
	l.awaitPublished(r.at("127.0.0.1"))
	if l.enrolled.Name != "home-1" || l.enrolled.RegionCode != "home" || l.enrolled.RegionId != 901 {
		t.Errorf("got enrolment %v, want home-1 in region 901 home", l.enrolled)
	}
	if _, ok := l.admitted[a.Key.Public()]; !ok || len(l.admitted) != 1 {
		t.Errorf("got %d nodes admitted, want alpha", len(l.admitted))
	}
	want := fmt.Sprintf("r-1.relay.invalid %s none 127.0.0.1:%d", r.pin, r.port)
	p.Await("the relay", func(m *hstest.Netmap) bool { return derpNode(m, 901) == want })

	// Known by its machine key it comes again without the key, and takes the place of its former session.
	r.secret = ""
	again := (&relay{t: t, machine: r.machine, derp: r.derp, from: r.from, port: r.port, pin: r.pin}).connect(s.URL, r.hello())
	again.awaitPublished(r.at("127.0.0.1"))
	l.awaitEnd()
	if err := again.say(&relayv1.Report{}); err != nil {
		t.Fatal(err)
	}
}

func TestRelayRefused(t *testing.T) {
	s := hstest.Start(t, probing)
	once := relayKey(t, s)
	first := newRelay(t, once)
	first.connect(s.URL, first.hello()).awaitPublished(first.at("127.0.0.1"))
	for name, c := range map[string]struct {
		edit func(*relay, *relayv1.Report)
		want string
	}{
		"unknown":            {func(r *relay, h *relayv1.Report) { h.Hello.EnrollKey = "" }, "does not know"},
		"a used key":         {func(r *relay, h *relayv1.Report) { h.Hello.EnrollKey = once }, "has been used"},
		"no key at all":      {func(r *relay, h *relayv1.Report) { h.Hello.EnrollKey = "hskey-relay-x" }, "key"},
		"no hello":           {func(r *relay, h *relayv1.Report) { h.Hello = nil }, "who it is"},
		"a short DERP key":   {func(r *relay, h *relayv1.Report) { h.Hello.DerpKey = []byte{1} }, "32 bytes"},
		"no description":     {func(r *relay, h *relayv1.Report) { h.Description = nil }, "describe"},
		"a bad port":         {func(r *relay, h *relayv1.Report) { h.Description.DerpPort = 70000 }, "ports"},
		"a bad address":      {func(r *relay, h *relayv1.Report) { h.Description.Addresses = []string{"x"} }, "address"},
		"a bad hostname":     {func(r *relay, h *relayv1.Report) { h.Description.Hostname = "a b" }, "hostname"},
		"a bad pin":          {func(r *relay, h *relayv1.Report) { h.Description.Certificates[0].Pin = "sha256:00" }, "certificate"},
		"a bad region":       {func(r *relay, h *relayv1.Report) { h.Hello.Region = "Upper Case" }, "region"},
		"another's DERP key": {func(r *relay, h *relayv1.Report) { h.Hello.DerpKey = first.derp.Public().AppendTo(nil) }, "same DERP key"},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRelay(t, relayKey(t, s))
			h := r.hello()
			c.edit(r, h)
			l := r.connect(s.URL, h)
			l.await("the refusal", func() bool { return l.refused != nil })
			if !strings.Contains(l.refused.Reason, c.want) || l.refused.Removed {
				t.Errorf("got %v, want it to say %q", l.refused, c.want)
			}
			l.awaitEnd()
		})
	}
}

// A node that is deleted, logged out, expired or has another key is gone at the relay within two seconds.
func TestRelayAdmission(t *testing.T) {
	s := hstest.Start(t, probing)
	ctx := hstest.Context(t)
	secret := s.Key(s.User("alice"))
	r := newRelay(t, relayKey(t, s))
	l := r.connect(s.URL, r.hello())
	for _, c := range []struct {
		name string
		do   func(n *hstest.Node, id tailnet.NodeID) error
		stay bool // with another key
	}{
		{"deleted", func(_ *hstest.Node, id tailnet.NodeID) error { return s.Store().DeleteNode(ctx, id) }, false},
		{"expired by an administrator", func(_ *hstest.Node, id tailnet.NodeID) error {
			now := time.Now()
			_, err := s.Store().ExpireNode(ctx, id, &now)
			return err
		}, false},
		{"expires by the clock", func(_ *hstest.Node, id tailnet.NodeID) error {
			soon := time.Now().Add(300 * time.Millisecond)
			_, err := s.Store().ExpireNode(ctx, id, &soon)
			return err
		}, false},
		{"logged out", func(n *hstest.Node, _ tailnet.NodeID) error {
			_, err := n.Register(ctx, func(r *tailcfg.RegisterRequest) { r.Expiry = time.Unix(123, 0) })
			return err
		}, false},
		{"with a new key", func(n *hstest.Node, _ tailnet.NodeID) error {
			old := n.Key.Public()
			n.Key = key.NewNode()
			_, err := n.Register(ctx, hstest.WithKey(secret), func(r *tailcfg.RegisterRequest) { r.OldNodeKey = old })
			return err
		}, true},
	} {
		n := s.Node("n")
		n.Join(secret)
		k := n.Key.Public()
		took := l.await("the node", func() bool { _, ok := l.admitted[k]; return ok })
		found, err := s.Store().FindNodeByKey(ctx, k)
		if err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		if err := c.do(n, found.ID); err != nil {
			t.Fatalf("%s: %v", c.name, err)
		}
		l.await("the node to be gone", func() bool { _, ok := l.admitted[k]; return !ok })
		after := time.Since(began)
		t.Logf("%s: admitted within %v, gone within %v", c.name, took, after)
		if after > gone {
			t.Errorf("%s: gone after %v, want %v at most", c.name, after, gone)
		}
		if _, ok := l.admitted[n.Key.Public()]; ok != c.stay {
			t.Errorf("%s: admitted by its own key: got %v, want %v", c.name, ok, c.stay)
		}
	}
}

// Out of the map while it does not answer, back when it does; and its address is followed.
func TestRelayHealth(t *testing.T) {
	s := hstest.Start(t, probing)
	a := s.Node("alpha")
	a.Join(s.Key(s.User("alice")))
	p := a.Poll()
	r := newRelay(t, relayKey(t, s))
	l := r.connect(s.URL, r.hello())
	l.awaitPublished(r.at("127.0.0.1"))

	r.answers.Store(false)
	l.await("being taken out", func() bool { return len(l.enrolled.Published) == 0 })
	if !strings.Contains(l.enrolled.OutBecause, "404") {
		t.Errorf("got out because %q, want the status", l.enrolled.OutBecause)
	}
	p.Await("the relay to be out", func(m *hstest.Netmap) bool { return derpNode(m, 901) == "" })
	if faults := s.Faults(hstest.Context(t)); !slices.ContainsFunc(faults, func(f string) bool { return strings.Contains(f, "home-1") }) {
		t.Errorf("health: got %q, want the relay", faults)
	}
	r.answers.Store(true)
	l.awaitPublished(r.at("127.0.0.1"))

	// The line gets another address: the relay comes from there.
	r.from, r.secret = "127.0.0.2", ""
	began := time.Now()
	l = r.connect(s.URL, r.hello())
	l.awaitPublished(r.at("127.0.0.2"))
	p.Await("the new address", func(m *hstest.Netmap) bool {
		return m.DERP.Regions[901] != nil && m.DERP.Regions[901].Nodes[0].IPv4 == "127.0.0.2"
	})
	t.Logf("the new address is in clients' maps after %v", time.Since(began))

	// A certificate is changed in two phases; the map follows the first.
	d := r.description()
	d.Certificates = slices.Insert(d.Certificates, 0, &relayv1.Certificate{Name: "r-2.relay.invalid", Pin: r.pin})
	if err := l.say(&relayv1.Report{Description: d}); err != nil {
		t.Fatal(err)
	}
	p.Await("the new certificate", func(m *hstest.Netmap) bool {
		return m.DERP.Regions[901] != nil && m.DERP.Regions[901].Nodes[0].HostName == "r-2.relay.invalid"
	})

	// A relay that stops says so, and is out if it does not come again, though it still answers.
	if err := l.say(&relayv1.Report{Leaving: true}); err != nil {
		t.Fatal(err)
	}
	p.Await("the relay to have left", func(m *hstest.Netmap) bool { return derpNode(m, 901) == "" })
	l.await("to be told", func() bool { return strings.Contains(l.enrolled.OutBecause, "stopped") })
	l = r.connect(s.URL, r.hello())
	l.awaitPublished(r.at("127.0.0.2"))
}

// A relay that lost its server stays in the map as long as it answers.
func TestRelayOutage(t *testing.T) {
	s := hstest.Start(t, probing)
	a := s.Node("alpha")
	a.Join(s.Key(s.User("alice")))
	r := newRelay(t, relayKey(t, s))
	l := r.connect(s.URL, r.hello())
	l.awaitPublished(r.at("127.0.0.1"))
	if err := l.say(&relayv1.Report{Load: &relayv1.Load{Started: 1e15, Clients: 3, SentBytes: 1000, ReceivedBytes: 10}}); err != nil {
		t.Fatal(err)
	}
	l.stop()
	r.hangUp()
	s.End()
	s.Begin()
	p := a.Poll()
	if derpNode(p.Netmap, 901) == "" {
		t.Error("after a restart of the server: got no relay in the map, want the one that was there")
	}
	// The counters go on where they were.
	r.secret = ""
	h := r.hello()
	h.Load = &relayv1.Load{Started: 1e15, Clients: 2, SentBytes: 1500, ReceivedBytes: 10}
	l = r.connect(s.URL, h)
	l.awaitPublished(r.at("127.0.0.1"))
	eventually(t, "the traffic", func() bool {
		traffic, err := s.Store().RelayTraffic(context.Background())
		if err != nil {
			t.Fatal(err)
		}
		return traffic[1].Month == tailnet.Traffic{Sent: 1500, Received: 10}
	})
	l.stop()
	r.hangUp()
	r.answers.Store(false)
	p.Await("the relay to be out", func(m *hstest.Netmap) bool { return derpNode(m, 901) == "" })
	r.answers.Store(true)
	p.Await("the relay to be back", func(m *hstest.Netmap) bool { return derpNode(m, 901) != "" })
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !ok(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("waiting for %s: it does not come", what)
		}
	}
}

func TestRelayRemoved(t *testing.T) {
	s := hstest.Start(t, probing)
	ctx := hstest.Context(t)
	r := newRelay(t, relayKey(t, s))
	l := r.connect(s.URL, r.hello())
	l.awaitPublished(r.at("127.0.0.1"))

	if _, err := s.Store().DrainRelay(ctx, 1, true); err != nil {
		t.Fatal(err)
	}
	l.await("the order to drain", func() bool { return l.settings.Drain && len(l.enrolled.Published) == 0 })
	if _, err := s.Store().DrainRelay(ctx, 1, false); err != nil {
		t.Fatal(err)
	}
	l.await("being back", func() bool { return !l.settings.Drain && len(l.enrolled.Published) == 1 })

	if err := s.Store().RemoveRelay(ctx, 1); err != nil {
		t.Fatal(err)
	}
	l.await("the refusal", func() bool { return l.refused != nil })
	if !l.refused.Removed {
		t.Errorf("got %v, want to be told that it was removed", l.refused)
	}
	l.awaitEnd()
	l = r.connect(s.URL, r.hello()) // with the key of before
	l.await("the refusal", func() bool { return l.refused != nil })
}

// Bounds come from the configuration, by tag, live; relays of one region are told of each other.
func TestRelaySettings(t *testing.T) {
	s := hstest.Start(t, probing, func(c *config.Config) {
		c.DERP.Limits.PerNode = config.Bound{Rate: 1e6}
		c.DERP.Limits.PerTag = map[string]config.Bound{"tag:nas": {Rate: 5e6, Burst: 9e6}, "tag:slow": {Rate: 1e5}}
		c.DERP.Limits.MonthlyQuota = 1e12
	})
	plain, nas := s.Node("plain"), s.Node("nas")
	plain.Join(s.Key(s.User("alice")))
	nas.Join(s.Key(nil, func(k *tailnet.PreAuthKey) { k.Tags = []string{"tag:nas", "tag:slow"} }))
	r := newRelay(t, relayKey(t, s))
	l := r.connect(s.URL, r.hello())
	l.await("both nodes", func() bool { return len(l.admitted) == 2 })
	bound := func(n *hstest.Node) string {
		b := l.settings.Classes[l.admitted[n.Key.Public()]]
		return fmt.Sprintf("%d %d", b.Rate, b.Burst)
	}
	if got := bound(plain) + ", " + bound(nas); got != "1000000 0, 5000000 9000000" || l.settings.MonthlyQuota != 1e12 || l.settings.OutageSeconds != 7*86400 {
		t.Errorf("got bounds %s and settings %v", got, l.settings)
	}
	s.Next = func(c *config.Config) {
		c.DERP.Limits.PerTag = map[string]config.Bound{"tag:slow": {Rate: 1e5}}
		c.DERP.Relays.ProbeInterval = time.Second
	}
	if err := s.Reload(hstest.Context(t)); err != nil {
		t.Fatal(err)
	}
	l.await("the new bounds", func() bool { return len(l.settings.Classes) == 2 && bound(nas) == "100000 0" })

	other := newRelay(t, relayKey(t, s))
	m := other.connect(s.URL, other.hello())
	l.await("the other relay", func() bool { return len(l.settings.Mesh) == 1 && len(l.settings.MeshKey) == 64 })
	m.await("the first relay", func() bool { return m.settings != nil && len(m.settings.Mesh) == 1 })
	peer := m.settings.Mesh[0]
	if peer.Pin != r.pin || peer.Name != "r-1.relay.invalid" || !slices.Equal(peer.Addresses, []string{r.at("127.0.0.1")}) || m.settings.MeshKey != l.settings.MeshKey {
		t.Errorf("got mesh peer %v", peer)
	}

	s.Next = func(c *config.Config) { c.DERP.Relays.Enabled = false; c.DERP.Relays.ProbeInterval = time.Second }
	if err := s.Reload(hstest.Context(t)); err != nil {
		t.Fatal(err)
	}
	l.await("the refusal", func() bool { return l.refused != nil })
	if l.refused.Removed {
		t.Error("relays that are switched off were told that they were removed")
	}
}

// A relay of one tailnet serves its nodes only.
func TestRelayOfOneTailnet(t *testing.T) {
	s := hstest.Start(t, probing)
	ctx := hstest.Context(t)
	other, err := s.Store().CreateTailnet(ctx, "other", netip.Prefix{}, netip.Prefix{})
	if err != nil {
		t.Fatal(err)
	}
	u, err := s.Store().CreateUser(ctx, tailnet.User{TailnetID: other.ID, Name: "bob"})
	if err != nil {
		t.Fatal(err)
	}
	a, b := s.Node("alpha"), s.Node("beta")
	a.Join(s.Key(s.User("alice")))
	b.Join(s.Key(u))
	r := newRelay(t, relayKey(t, s, func(k *tailnet.RelayKey) { k.TailnetID = other.ID }))
	l := r.connect(s.URL, r.hello())
	l.awaitPublished(r.at("127.0.0.1"))
	if _, ok := l.admitted[b.Key.Public()]; !ok || len(l.admitted) != 1 {
		t.Errorf("got %d nodes admitted, want beta only", len(l.admitted))
	}
	if derpNode(a.Poll().Netmap, 901) != "" || derpNode(b.Poll().Netmap, 901) == "" {
		t.Error("the relay is to be in the map of its tailnet only")
	}
}

// A relay that says nothing is gone after fifteen seconds.
func TestSilentRelay(t *testing.T) {
	t.Parallel()
	s := hstest.Start(t)
	r := newRelay(t, relayKey(t, s))
	l := r.connect(s.URL, r.hello())
	l.awaitPublished(r.at("127.0.0.1"))
	began := time.Now()
	l.awaitEnd()
	if took := time.Since(began); took < 10*time.Second || took > time.Minute || l.orders < 3 {
		t.Errorf("ended after %v and %d orders, want 15 s and signs of life before that", took, l.orders)
	}
}
