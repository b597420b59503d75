// Package hstest is the test kit: a whole server on loopback, and nodes that speak with it through the client's own
// Noise code.
package hstest

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/keelscale/keelscale/hscontrol"
	"github.com/keelscale/keelscale/hscontrol/config"
	"github.com/keelscale/keelscale/hscontrol/hstest/pgtest"
	"github.com/keelscale/keelscale/hscontrol/store"
	"github.com/keelscale/keelscale/hscontrol/tailnet"
)

// Server is a running server with a database of its own.
type Server struct {
	URL    string
	Config *config.Config

	// Next, if set, is what Reload finds changed in the configuration.
	Next func(*config.Config)

	t      testing.TB
	server *hscontrol.Server
	stop   context.CancelFunc
	ended  chan error
}

// Start runs a server until the test ends, with the configuration of a server that has none, after edit.
func Start(t testing.TB, edit ...func(*config.Config)) *Server {
	t.Helper()
	s := Prepare(t, edit...)
	s.Begin()
	return s
}

// Prepare is a server that has not begun yet.
func Prepare(t testing.TB, edit ...func(*config.Config)) *Server {
	t.Helper()
	dir, err := os.MkdirTemp("", "hstest") // short: a unix socket's path has 108 bytes
	if err != nil {
		t.Fatalf("making the data directory: %v", err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	cfg := config.Default(dir)
	cfg.DataDir = dir
	cfg.ListenAddr = freePort(t)
	cfg.ServerURL = "http://" + cfg.ListenAddr
	cfg.MetricsListenAddr, cfg.GRPCListenAddr = "", ""
	cfg.UnixSocket = filepath.Join(dir, "hs.sock")
	cfg.DERP.Server.Enabled = false
	cfg.Noise.AlsoOn443 = false
	for _, e := range edit {
		e(cfg)
	}
	s := &Server{URL: cfg.ServerURL, Config: cfg, t: t}
	t.Cleanup(s.End)
	return s
}

// freePort is an address on loopback that nobody listens at.
func freePort(t testing.TB) string {
	t.Helper()
	port, err := pgtest.FreePort()
	if err != nil {
		t.Fatalf("finding a free port: %v", err)
	}
	return fmt.Sprintf("127.0.0.1:%d", port)
}

// Begin starts the server, again after End.
func (s *Server) Begin() {
	s.t.Helper()
	if err := s.TryBegin(); err != nil {
		s.t.Fatalf("opening the server: %v", err)
	}
}

// TryBegin is Begin where the server may refuse.
func (s *Server) TryBegin() error {
	ctx, stop := context.WithCancel(context.Background())
	log := slog.New(slog.NewTextHandler(testWriter{s.t}, &slog.HandlerOptions{Level: slog.LevelWarn}))
	server, err := hscontrol.Open(ctx, hscontrol.Options{Config: s.Config, Load: s.load, Version: "v0.0.0-test", Log: log})
	if err != nil {
		stop()
		return err
	}
	s.server, s.stop, s.ended = server, stop, make(chan error, 1)
	go func() { s.ended <- server.Run(ctx) }()
	return nil
}

// End stops the server and waits for it. It may be called twice.
func (s *Server) End() {
	s.t.Helper()
	if s.stop == nil {
		return
	}
	s.stop()
	select {
	case err := <-s.ended:
		if err != nil {
			s.t.Errorf("the server ended: %v", err)
		}
	case <-time.After(Patience):
		s.t.Fatal("the server does not end")
	}
	s.stop = nil
}

// Store is the server's store, for what a test sets up or looks at behind the door.
func (s *Server) Store() *store.Store { return s.server.Store() }

// Reload does what SIGHUP does.
func (s *Server) Reload(ctx context.Context) error {
	_, err := s.server.Reload(ctx)
	return err
}

// load is the configuration as the file would have it now.
func (s *Server) load() (*config.Config, []config.Warning, error) {
	next := *s.Config
	if s.Next != nil {
		s.Next(&next)
	}
	return &next, nil, nil
}

// Faults are what `headscale health` tells, beside the database.
func (s *Server) Faults(ctx context.Context) (texts []string) {
	for _, f := range s.server.Health(ctx) {
		texts = append(texts, f.Text)
	}
	return texts
}

// Tailnet is the tailnet of that name; empty for the default one.
func (s *Server) Tailnet(name string) *tailnet.Tailnet {
	s.t.Helper()
	t, err := s.Store().FindTailnet(context.Background(), name)
	if err != nil {
		s.t.Fatalf("finding tailnet %q: %v", name, err)
	}
	return t
}

// User makes a user in the default tailnet.
func (s *Server) User(name string) *tailnet.User {
	s.t.Helper()
	u, err := s.Store().CreateUser(context.Background(), tailnet.User{TailnetID: s.Tailnet("").ID, Name: name})
	if err != nil {
		s.t.Fatalf("creating user %q: %v", name, err)
	}
	return u
}

// Key makes a reusable pre-auth key of a user, after edit, and gives its text.
func (s *Server) Key(u *tailnet.User, edit ...func(*tailnet.PreAuthKey)) string {
	s.t.Helper()
	k := tailnet.PreAuthKey{Reusable: true}
	if u != nil {
		k.TailnetID, k.UserID = u.TailnetID, u.ID
	} else {
		k.TailnetID = s.Tailnet("").ID
	}
	for _, e := range edit {
		e(&k)
	}
	_, secret, err := s.Store().CreatePreAuthKey(context.Background(), k)
	if err != nil {
		s.t.Fatalf("creating a pre-auth key: %v", err)
	}
	return secret.Reveal()
}

// SetPolicy makes text the policy of the default tailnet.
func (s *Server) SetPolicy(text string) {
	s.t.Helper()
	if _, err := s.Store().PutPolicy(context.Background(), s.Tailnet("").ID, text, "test"); err != nil {
		s.t.Fatalf("setting the policy: %v", err)
	}
}

// testWriter sends log lines to the test they belong to.
type testWriter struct{ t testing.TB }

func (w testWriter) Write(p []byte) (int, error) {
	if os.Getenv("HSTEST_LOG") == "" {
		return io.Discard.Write(p)
	}
	fmt.Fprintf(os.Stderr, "%s: %s", w.t.Name(), p)
	return len(p), nil
}
