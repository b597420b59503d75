package enrol_test

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"google.golang.org/protobuf/proto"
	"tailscale.com/control/controlhttp/controlhttpserver"
	ts "tailscale.com/derp"
	"tailscale.com/derp/derphttp"
	"tailscale.com/net/netmon"
	"tailscale.com/tailcfg"
	"tailscale.com/types/key"

	"github.com/keelscale/keelscale/derp"
	"github.com/keelscale/keelscale/derp/enrol"
	relayv1 "github.com/keelscale/keelscale/proto/relay/v1"
)

// patience bounds what a test waits for; nothing waits that long unless it is broken.
const patience = 2 * time.Minute

// soon is when a node that is none any more is gone. It is two seconds for real, and more for a machine that is busy with
// other tests.
const soon = 20 * time.Second

// server is a control server that knows nothing but relays, over real Noise.
type server struct {
	t        *testing.T
	key      key.MachinePrivate
	http     *httptest.Server
	sessions chan *session

	early string // said before HTTP/2
	mute  bool   // says nothing but what the test orders
	mu    sync.Mutex
	conns []io.Closer // all that there ever were

	refuses func(w http.ResponseWriter) bool // answers instead of a session
}

// session is one relay's.
type session struct {
	t       *testing.T
	machine key.MachinePublic
	first   *relayv1.Report
	reports chan *relayv1.Report // what came after the first
	mu      sync.Mutex
	w       http.ResponseWriter
	spoke   bool // the first order was given
	hang    context.CancelFunc
	over    chan struct{} // closed when the relay is gone
}

type machineOf struct{}

func newServer(t *testing.T) *server {
	s := &server{t: t, key: key.NewMachine(), sessions: make(chan *session, 16)}
	s.start(false)
	return s
}

func (s *server) start(overTLS bool) {
	s.http = httptest.NewUnstartedServer(s.handler())
	s.http.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	if overTLS {
		s.http.StartTLS()
	} else {
		s.http.Start()
	}
	s.t.Cleanup(s.http.Close)
}

// cut breaks all connections, and stop ends the server.
func (s *server) cut() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range s.conns {
		c.Close()
	}
	s.conns = nil
}

func (s *server) stop() {
	s.http.Listener.Close()
	s.cut()
	s.http.Close()
}

func (s *server) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("/key", func(w http.ResponseWriter, _ *http.Request) {
		json.NewEncoder(w).Encode(tailcfg.OverTLSPublicKeyResponse{PublicKey: s.key.Public()})
	})
	inner := http.NewServeMux()
	inner.HandleFunc("POST /relay/v1/session", s.serveSession)
	mux.HandleFunc("/ts2021", func(w http.ResponseWriter, r *http.Request) {
		var early func(int, io.Writer) error
		if s.early != "" {
			early = func(_ int, w io.Writer) error {
				_, err := io.WriteString(w, s.early)
				return err
			}
		}
		conn, err := controlhttpserver.AcceptHTTP(context.WithoutCancel(r.Context()), w, r, s.key, early)
		if err != nil {
			return
		}
		defer conn.Close()
		s.mu.Lock()
		s.conns = append(s.conns, conn)
		s.mu.Unlock()
		(&http2.Server{}).ServeConn(conn, &http2.ServeConnOpts{
			Context:    context.WithValue(context.Background(), machineOf{}, conn.Peer()),
			BaseConfig: &http.Server{Handler: inner},
		})
	})
	return mux
}

func (s *server) serveSession(w http.ResponseWriter, r *http.Request) {
	if s.refuses != nil && s.refuses(w) {
		return
	}
	http.NewResponseController(w).Flush()
	first, err := enrol.ReadReport(r.Body)
	if err != nil {
		return
	}
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	me := &session{t: s.t, machine: r.Context().Value(machineOf{}).(key.MachinePublic), first: first,
		reports: make(chan *relayv1.Report, 1000), w: w, hang: cancel, over: make(chan struct{})}
	defer func() { // whoever writes later finds nothing
		me.mu.Lock()
		defer me.mu.Unlock()
		me.w = nil
	}()
	s.sessions <- me
	if !s.mute {
		go me.live(ctx)
	}
	go func() {
		defer close(me.over)
		defer cancel()
		for {
			m, err := enrol.ReadReport(r.Body)
			if err != nil {
				return
			}
			me.reports <- m
		}
	}()
	<-ctx.Done()
}

// next is the next session that a relay opens.
func (s *server) next() *session {
	s.t.Helper()
	select {
	case me := <-s.sessions:
		return me
	case <-time.After(patience):
		s.t.Fatal("no relay came")
		return nil
	}
}

// live gives a sign of life every second, once the test gave an order: a relay takes a silent line for dead.
func (s *session) live(ctx context.Context) {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		s.mu.Lock()
		spoke := s.spoke
		s.mu.Unlock()
		if spoke {
			s.order(&relayv1.Order{})
		}
	}
}

// order sends an order.
func (s *session) order(o *relayv1.Order) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.w == nil {
		return
	}
	s.spoke = true
	enrol.WriteMessage(s.w, o)
	http.NewResponseController(s.w).Flush()
}

// report waits for one that fits.
func (s *session) report(what string, fits func(*relayv1.Report) bool) *relayv1.Report {
	s.t.Helper()
	limit := time.After(patience)
	for {
		select {
		case m := <-s.reports:
			if fits(m) {
				return m
			}
		case <-limit:
			s.t.Fatalf("no report with %s came", what)
		}
	}
}

// welcome is a first order: the relay is home-1 and serves these nodes.
func welcome(number uint64, nodes ...key.NodePublic) *relayv1.Order {
	return &relayv1.Order{
		Enrolment: &relayv1.Enrolment{Id: 1, Name: "home-1", RegionId: 901, RegionCode: "home", RegionName: "Home",
			Published: []string{"203.0.113.7:443"}},
		Admission: admission(number, true, nodes...),
		Settings:  &relayv1.Settings{},
	}
}

func admission(number uint64, whole bool, nodes ...key.NodePublic) *relayv1.Admission {
	m := &relayv1.Admission{Number: number, Whole: whole}
	for _, k := range nodes {
		m.Nodes = append(m.Nodes, &relayv1.Node{Key: k.AppendTo(nil)})
	}
	return m
}

// keyText is an enrolment key of this server.
func (s *server) keyText() string {
	return keyText + "-" + strings.TrimPrefix(s.key.Public().String(), "mkey:")
}

var keyText = "hskey-relay-0123456789ab-" + strings.Repeat("5a", 32)

// logBook is a log that a test can read while it is written.
type logBook struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *logBook) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *logBook) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

// host is a relay that enrols.
type host struct {
	t     *testing.T
	agent *enrol.Agent
	relay *derp.Relay
	url   string // of the relay, /derp
	log   *logBook
	end   func() error // ends Run, and gives what it returned
	ended chan struct{}
	cfg   enrol.Config
}

// newHost runs a relay that enrols at s. cfg may leave out what a test does not care for.
func newHost(s *server, cfg enrol.Config) *host {
	s.t.Helper()
	h, err := openHost(s, cfg)
	if err != nil {
		s.t.Fatal(err)
	}
	return h
}

// newHostWith is a relay of which the server hears these things.
func newHostWith(s *server, cfg enrol.Config, what enrol.Host) *host {
	s.t.Helper()
	h, err := openHostWith(s, cfg, what)
	if err != nil {
		s.t.Fatal(err)
	}
	return h
}

func openHost(s *server, cfg enrol.Config) (*host, error) {
	s.t.Helper()
	return openHostWith(s, cfg, enrol.Host{})
}

func openHostWith(s *server, cfg enrol.Config, what enrol.Host) (*host, error) {
	t := s.t
	t.Helper()
	relayKey := key.NewNode()
	h := &host{t: t, log: &logBook{}, ended: make(chan struct{})}
	cfg.Log = slog.New(slog.NewTextHandler(h.log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	cfg.RelayKey = relayKey.Public()
	if cfg.Control == "" {
		cfg.Control = s.http.URL
	}
	if cfg.StateFile == "" {
		cfg.StateFile = filepath.Join(t.TempDir(), "enrolment.json")
	}
	h.cfg = cfg
	var err error
	if h.agent, err = enrol.Open(cfg); err != nil {
		return nil, err
	}
	if h.relay, err = derp.New(derp.Config{Key: relayKey, Admit: h.agent.Admit, Log: cfg.Log}); err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewServer(h.relay.Handler())
	h.url = srv.URL + "/derp"
	ctx, cancel := context.WithCancel(context.Background())
	var result error
	go func() {
		defer close(h.ended)
		what.Relay = h.relay
		result = h.agent.Run(ctx, what)
	}()
	h.end = func() error {
		cancel()
		select {
		case <-h.ended:
		case <-time.After(patience):
			t.Fatalf("Run did not end; the log is\n%s", h.log)
		}
		return result
	}
	t.Cleanup(func() {
		h.end()
		h.relay.Close()
		srv.Close()
	})
	return h, nil
}

// again is the relay after a restart, without its key.
func (h *host) again(s *server) *host {
	h.t.Helper()
	if err := h.end(); err != nil {
		h.t.Fatal(err)
	}
	h.relay.Close()
	cfg := h.cfg
	cfg.Key = ""
	return newHost(s, cfg)
}

// connect connects a client, which is then read from until its connection ends.
func (h *host) connect(k key.NodePrivate) (*client, error) {
	h.t.Helper()
	c, err := derphttp.NewClient(k, h.url, func(string, ...any) {}, netmon.NewStatic())
	if err != nil {
		h.t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := c.Connect(ctx); err != nil {
		return nil, err
	}
	if _, err := c.Recv(); err != nil { // ServerInfo: the relay admits us
		c.Close()
		return nil, err
	}
	me := &client{Client: c, gone: make(chan struct{})}
	go func() {
		defer close(me.gone)
		for {
			if _, err := c.Recv(); err != nil {
				return
			}
		}
	}()
	h.t.Cleanup(func() {
		c.Close()
		<-me.gone
	})
	return me, nil
}

type serverInfo = ts.ServerInfoMessage

type client struct {
	*derphttp.Client
	gone chan struct{} // closed when the connection has ended
}

// admitted and refused say how it must go for a node.
func (h *host) admitted(k key.NodePrivate) *client {
	h.t.Helper()
	c, err := h.connect(k)
	if err != nil {
		h.t.Fatalf("a node was refused: %v; the log is\n%s", err, h.log)
	}
	return c
}

func (h *host) refused(k key.NodePrivate, why string) {
	h.t.Helper()
	if _, err := h.connect(k); err == nil {
		h.t.Fatalf("a node was admitted that should not be; the log is\n%s", h.log)
	}
	h.logged(why)
}

// logged waits for a line of the log.
func (h *host) logged(what string) {
	h.t.Helper()
	h.await("the log to say "+what, func() bool { return strings.Contains(h.log.String(), what) })
}

func (h *host) await(what string, ok func() bool) {
	h.t.Helper()
	limit := time.After(patience)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-limit:
			h.t.Fatalf("waited in vain for %s; the log is\n%s", what, h.log)
		case <-tick.C:
		}
	}
}

func (c *client) sentAway(t *testing.T, within time.Duration) time.Duration {
	t.Helper()
	began := time.Now()
	select {
	case <-c.gone:
		return time.Since(began)
	case <-time.After(within):
		t.Fatalf("the connection lives on after %v", within)
		return 0
	}
}

func (c *client) stays(t *testing.T) {
	t.Helper()
	select {
	case <-c.gone:
		t.Fatal("the connection ended")
	default:
	}
}

func hasLoad(m *relayv1.Report) bool { return proto.Size(m.GetLoad()) > 0 }
