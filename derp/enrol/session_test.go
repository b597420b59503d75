package enrol_test

import (
	"bytes"
	"encoding/binary"
	"net/http"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"tailscale.com/derp/derphttp"
	"tailscale.com/net/netmon"
	"tailscale.com/types/key"

	"github.com/keelscale/keelscale/derp"
	"github.com/keelscale/keelscale/derp/enrol"
	relayv1 "github.com/keelscale/keelscale/proto/relay/v1"
)

// However the server is reached, it is the one whose key we know.
func TestWaysToTheServer(t *testing.T) {
	for _, tt := range []struct {
		name    string
		tls     bool
		key     func(*server) string
		early   string
		warning string
	}{
		{name: "http", key: (*server).keyText},
		{name: "https with a certificate of its own", tls: true, key: (*server).keyText},
		{name: "a key that names no server", key: func(*server) string { return keyText }, warning: "taken on trust"},
		{name: "the same over https", tls: true, key: func(*server) string { return keyText }, warning: "taken on trust"},
		{name: "a server that speaks first", key: (*server).keyText, early: "\xff\xff\xffTS\x00\x00\x00\x02{}"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := newServer(t)
			if tt.tls {
				s.http.Close()
				s.start(true)
			}
			s.early = tt.early
			h := newHost(s, enrol.Config{Key: tt.key(s)})
			s.next().order(welcome(1))
			h.logged("admits 0 nodes")
			if tt.warning == "" && strings.Contains(h.log.String(), "level=WARN") || !strings.Contains(h.log.String(), tt.warning) {
				t.Errorf("the log is\n%s\nwant the warning %q", h.log, tt.warning)
			}
			// From now on no other server will do.
			s.key = key.NewMachine()
			s.cut()
			h.logged("another control server than the one that this relay trusts")
		})
	}
}

// After the server restarts, the relay is back in seconds, with what changed meanwhile.
func TestComesBack(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	a, b := key.NewNode(), key.NewNode()
	h := newHost(s, enrol.Config{Key: s.keyText()})
	s.next().order(welcome(1, a.Public()))
	h.logged("admits 1 node")
	c := h.admitted(a)
	s.cut()
	began := time.Now()
	in := s.next()
	if took := time.Since(began); took > soon {
		t.Errorf("the relay came back after %v", took)
	}
	if got := in.first.GetHello().GetAdmission(); got != 1 {
		t.Errorf("it keeps admission %d, want 1", got)
	}
	c.stays(t)
	in.order(welcome(2, b.Public()))
	c.sentAway(t, soon)
	h.admitted(b)
}

// A line on which nothing comes any more is given up.
func TestDeadLine(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	s.mute = true
	h := newHost(s, enrol.Config{Key: s.keyText()})
	s.next().order(welcome(1))
	began := time.Now()
	s.next()
	if took := time.Since(began); took < 5*time.Second || took > time.Minute {
		t.Errorf("the relay gave the line up after %v", took)
	}
	h.logged("the line to the control server is dead")
}

// What makes no sense ends the session; the list stays.
func TestNonsense(t *testing.T) {
	t.Parallel()
	node := key.NewNode()
	short := admission(3, false)
	short.Nodes = []*relayv1.Node{{Key: []byte("short")}}
	zero := &relayv1.Admission{Number: 3, Gone: [][]byte{make([]byte, 32)}}
	part := admission(3, false)
	part.Partial = true
	for _, tt := range []struct {
		name  string
		first *relayv1.Order
		then  []*relayv1.Admission
		want  string
	}{
		{name: "a list without a name", first: &relayv1.Order{Admission: admission(1, true)}, want: "not what we are called"},
		{name: "a part first", first: &relayv1.Order{Admission: admission(2, false)}, want: "began with a part"},
		{name: "an old number", first: welcome(2, node.Public()), then: []*relayv1.Admission{admission(2, false)}, want: "admission 2 came after 2"},
		{name: "a short key", first: welcome(2, node.Public()), then: []*relayv1.Admission{short}, want: "a node key of 5 bytes"},
		{name: "no key", first: welcome(2, node.Public()), then: []*relayv1.Admission{zero}, want: "a node key of 32 bytes"},
		{name: "two lists at once", first: welcome(2, node.Public()), then: []*relayv1.Admission{part, admission(4, false)}, want: "before the end of 3"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := newServer(t)
			h := newHost(s, enrol.Config{Key: s.keyText()})
			in := s.next()
			in.order(tt.first)
			for _, m := range tt.then {
				in.order(&relayv1.Order{Admission: m})
			}
			h.logged(tt.want)
			s.next()
			if len(tt.then) > 0 {
				h.admitted(node)
			}
		})
	}
}

func TestSettings(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	slow, fast := key.NewNode(), key.NewNode()
	h := newHost(s, enrol.Config{Key: s.keyText(), Limits: derp.Limits{Node: derp.Each(derp.Bound{Rate: 5_000_000})}})
	in := s.next()
	o := welcome(1, fast.Public(), slow.Public())
	o.Admission.Nodes[1].Class = 1
	o.Settings = &relayv1.Settings{Classes: []*relayv1.Bound{{Rate: 9_000_000}, {Rate: 1_000_000}}, UsedThisMonth: 12345}
	in.order(o)
	h.logged("admits 2 nodes")
	for _, tt := range []struct {
		node key.NodePrivate
		want int
	}{{fast, 5_000_000}, {slow, 1_000_000}} {
		if got := h.bucket(tt.node); got != tt.want {
			t.Errorf("a node may send %d bytes per second, want %d", got, tt.want)
		}
	}
	if got := h.relay.Load().SentThisMonth; got < 12345 {
		t.Errorf("got %d bytes sent in this month, want at least 12345", got)
	}
	h.agent.SetLimits(derp.Limits{})
	if got := h.bucket(fast); got != 9_000_000 {
		t.Errorf("without own limits, a node may send %d bytes per second, want 9000000", got)
	}
	// Another class, live.
	m := admission(2, false, fast.Public())
	m.Nodes[0].Class = 1
	in.order(&relayv1.Order{Admission: m})
	h.await("the new class", func() bool { return h.bucket(fast) == 1_000_000 })

	c := h.admitted(slow)
	o.Settings.Drain = true
	in.order(&relayv1.Order{Settings: o.Settings})
	c.sentAway(t, patience)
	if _, err := h.connect(slow); err == nil {
		t.Error("a relay that drains took a client")
	}
	// It is as it was after a restart, also without the server.
	s.stop()
	h = h.again(s)
	if _, err := h.connect(slow); err == nil {
		t.Error("after a restart, a relay that drains took a client")
	}
	if got := h.relay.Load().SentThisMonth; got < 12345 {
		t.Errorf("after a restart, got %d bytes sent in this month, want at least 12345", got)
	}
}

// bucket is how many bytes per second a node is told that it may send.
func (h *host) bucket(k key.NodePrivate) int {
	h.t.Helper()
	c, err := derphttp.NewClient(k, h.url, func(string, ...any) {}, netmon.NewStatic())
	if err != nil {
		h.t.Fatal(err)
	}
	defer c.Close()
	m, err := c.Recv()
	if err != nil {
		h.t.Fatal(err)
	}
	info, ok := m.(serverInfo)
	if !ok {
		h.t.Fatalf("got %T first", m)
	}
	return info.TokenBucketBytesPerSecond
}

// A relay tells when its certificates change, and where it listens.
func TestDescription(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	cert, err := derp.OpenCert(derp.CertConfig{Mode: derp.SelfSigned, Dir: t.TempDir(), Addrs: []netip.Addr{netip.MustParseAddr("203.0.113.7")}})
	if err != nil {
		t.Fatal(err)
	}
	ports := derp.Ports{Relay: netip.MustParseAddrPort("[::]:8443"), STUN: netip.MustParseAddrPort("[::]:3478"), HTTP: netip.MustParseAddrPort("[::]:80")}
	h := newHostWith(s, enrol.Config{Key: s.keyText()}, enrol.Host{Ports: ports, Cert: cert, Troubles: func() []string { return []string{strings.Repeat("é", 300)} }})
	in := s.next()
	in.order(welcome(1))
	h.logged("admits 0 nodes")
	d := in.first.GetDescription()
	list := cert.Certificates()
	if d.GetHostname() != "" || d.GetDerpPort() != 8443 || d.GetStunPort() != 3478 || !d.GetPort_80() || len(d.GetCertificates()) != 1 ||
		d.GetCertificates()[0].GetPin() != list[0].Pin || d.GetCertificates()[0].GetName() != list[0].Name || d.GetCertificates()[0].GetExpires() != list[0].Expires.Unix() {
		t.Errorf("got the description %v", d)
	}
	if got := in.first.GetLoad().GetTroubles(); len(got) != 1 || len(got[0]) > 253 {
		t.Errorf("got the troubles %q", got)
	}
}

func TestClock(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	s.refuses = func(w http.ResponseWriter) bool {
		w.Header().Set("Date", time.Now().Add(-time.Hour).UTC().Format(http.TimeFormat))
		return false
	}
	h := newHost(s, enrol.Config{Key: s.keyText()})
	in := s.next()
	in.order(welcome(1))
	h.logged("the clock of this relay is 1h0m")
	in.report("the clock among the troubles", func(m *relayv1.Report) bool {
		return strings.Contains(strings.Join(m.GetLoad().GetTroubles(), "\n"), "ahead of")
	})
}

// The log says when the relay is published elsewhere, or no more.
func TestPublished(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	h := newHost(s, enrol.Config{Key: s.keyText()})
	in := s.next()
	o := welcome(1)
	o.Enrolment.Published, o.Enrolment.OutBecause = nil, "it has not answered a probe yet"
	in.order(o)
	h.logged("enrolled as home-1 (region 901 home), not in the DERP map: it has not answered a probe yet, admits 0 nodes")
	in.order(&relayv1.Order{Enrolment: welcome(1).Enrolment})
	h.logged(`msg="published as 203.0.113.7:443"`)
	moved := welcome(1).Enrolment
	moved.Name, moved.RegionId, moved.RegionCode = "lab-1", 902, "lab"
	in.order(&relayv1.Order{Enrolment: moved})
	h.logged("the control server knows this relay as lab-1 (region 902 lab)")
}

// A long list comes in parts, and is kept.
func TestLongList(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	const nodes, part = 100_000, 8192
	h := newHost(s, enrol.Config{Key: s.keyText()})
	in := s.next()
	var raw [32]byte
	began := time.Now()
	for i := 0; i < nodes; {
		o := &relayv1.Order{Admission: admission(1, i == 0)}
		if i == 0 {
			o.Enrolment = welcome(1).Enrolment
		}
		for range min(part, nodes-i) {
			i++
			binary.BigEndian.PutUint32(raw[:], uint32(i))
			o.Admission.Nodes = append(o.Admission.Nodes, &relayv1.Node{Key: bytes.Clone(raw[:]), Class: uint32(i % 3)})
		}
		o.Admission.Partial = i < nodes
		in.order(o)
	}
	h.logged("admits 100000 nodes")
	t.Logf("a list of %d nodes came in %v", nodes, time.Since(began))
	s.stop()
	h = h.again(s)
	if got := h.agent.Status().Nodes; got != nodes {
		t.Errorf("after a restart, got %d nodes, want %d", got, nodes)
	}
	info, err := os.Stat(h.cfg.StateFile)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("the state file has %d bytes", info.Size())
}
