package hooks_test

import (
	"context"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/keelscale/keelscale/hscontrol/hooks"
	"github.com/keelscale/keelscale/hscontrol/store"
	"github.com/keelscale/keelscale/hscontrol/tailnet"
)

// patience is how long a test waits for what should take moments.
const patience = 2 * time.Minute

// got is a request that a receiver had.
type got struct {
	header http.Header
	body   []byte
	taken  bool // and not answered otherwise
}

// receiver is a real HTTP server that keeps what it is told.
type receiver struct {
	*httptest.Server
	told chan got

	sync.Mutex
	answer func(http.ResponseWriter, *http.Request)
}

func newReceiver(t *testing.T) *receiver {
	t.Helper()
	r := &receiver{told: make(chan got, 1000)}
	r.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		body, err := io.ReadAll(req.Body)
		if err != nil {
			t.Error(err)
		}
		r.Lock()
		answer := r.answer
		r.Unlock()
		if answer != nil {
			answer(w, req)
		}
		r.told <- got{req.Header, body, answer == nil}
	}))
	t.Cleanup(r.Close)
	return r
}

// answers has the receiver answer otherwise from now on.
func (r *receiver) answers(answer func(http.ResponseWriter, *http.Request)) {
	r.Lock()
	defer r.Unlock()
	r.answer = answer
}

func status(code int) func(http.ResponseWriter, *http.Request) {
	return func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(code) }
}

// next is the next request.
func (r *receiver) next(t *testing.T) got {
	t.Helper()
	select {
	case g := <-r.told:
		return g
	case <-time.After(patience):
		t.Fatalf("the receiver was told nothing for %v", patience)
		return got{}
	}
}

// site is a database, and the hooks that run over it.
type site struct {
	t     *testing.T
	ctx   context.Context
	dir   string
	store *store.Store
	hooks *hooks.Hooks
	key   hooks.Key
	stop  func()
	log   *slog.Logger
}

func newSite(t *testing.T) *site {
	t.Helper()
	key, err := hooks.KeyFrom([]byte("a secret of the server"))
	if err != nil {
		t.Fatal(err)
	}
	s := &site{t: t, ctx: context.Background(), dir: t.TempDir(), key: key, log: slog.New(slog.NewTextHandler(io.Discard, nil))}
	s.open()
	t.Cleanup(func() {
		s.end()
		if err := s.store.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func (s *site) open() {
	s.t.Helper()
	var err error
	s.store, err = store.Open(s.ctx, store.Config{Type: "sqlite", SQLite: store.SQLiteConfig{Path: filepath.Join(s.dir, "db.sqlite"), WAL: true},
		PrefixV4: netip.MustParsePrefix("100.64.0.0/10"), Log: s.log})
	if err != nil {
		s.t.Fatal(err)
	}
}

// run begins to deliver.
func (s *site) run(streams ...hooks.Stream) {
	s.t.Helper()
	s.runAs(hooks.Config{Streams: streams})
}

func (s *site) runAs(cfg hooks.Config) {
	s.t.Helper()
	cfg.Store, cfg.Key, cfg.Log = s.store, s.key, s.log
	if cfg.Timeout == 0 {
		cfg.Timeout = time.Minute
	}
	if cfg.Backoff.First == 0 {
		cfg.Backoff = hooks.Backoff{First: 50 * time.Millisecond, Most: 200 * time.Millisecond}
	}
	s.hooks = hooks.New(cfg)
	ctx, cancel := context.WithCancel(s.ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := s.hooks.Run(ctx); err != nil {
			s.t.Error(err)
		}
	}()
	s.stop = func() {
		cancel()
		<-done
	}
}

// end ends delivering, as the end of a server does.
func (s *site) end() {
	if s.stop != nil {
		s.stop()
		s.stop = nil
	}
}

// restart is the end of the server, and its next life.
func (s *site) restart() {
	s.t.Helper()
	s.end()
	if err := s.store.Close(); err != nil {
		s.t.Fatal(err)
	}
	s.open()
}

func (s *site) webhook(url, provider string, events ...string) *tailnet.Webhook {
	s.t.Helper()
	w, err := s.store.CreateWebhook(s.ctx, tailnet.Webhook{URL: url, Provider: provider, Events: events})
	if err != nil {
		s.t.Fatal(err)
	}
	return w
}

func (s *site) user(name string) *tailnet.User {
	s.t.Helper()
	u, err := s.store.CreateUser(s.ctx, tailnet.User{Name: name})
	if err != nil {
		s.t.Fatal(err)
	}
	return u
}

// until asks again and again, with the store's own signal between.
func (s *site) until(what string, is func() bool) {
	s.t.Helper()
	deadline := time.After(patience)
	for {
		moved := s.store.Moved()
		if is() {
			return
		}
		select {
		case <-moved:
		case <-time.After(100 * time.Millisecond):
		case <-deadline:
			s.t.Fatalf("%v passed before %s", patience, what)
		}
	}
}

func (s *site) deliveries(id uint64) []tailnet.Delivery {
	s.t.Helper()
	list, err := s.store.ListDeliveries(s.ctx, id, 1000)
	if err != nil {
		s.t.Fatal(err)
	}
	return list
}
