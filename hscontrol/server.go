// Package hscontrol is the server: it builds the rooms from one configuration, opens the doors, and shuts them in
// order.
//
//	serve.go      what `headscale serve` does: banner, signals
//	server.go     the rooms and who needs whom
//	serverkey.go  the key by which clients know the server, in a file or shared by the servers of one database
//	listen.go     sockets: clients, administrators, metrics
//	tls.go        certificates, and both TLS and plain HTTP on one port
//	relay.go      the embedded relay and the DERP map
//	relaylimits.go  whom the embedded relay serves, and how much
//	neighbours.go the relays inside the other servers of the database
//	relaylist.go  how they do, for administrators
//	reload.go     SIGHUP
//	keeping.go    what happens by the clock
//	telling.go    webhooks, and the receivers of the audit log
package hscontrol

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/keelscale/keelscale/derp"
	"github.com/keelscale/keelscale/derp/derpmap"
	"github.com/keelscale/keelscale/hscontrol/api"
	"github.com/keelscale/keelscale/hscontrol/auth"
	"github.com/keelscale/keelscale/hscontrol/config"
	"github.com/keelscale/keelscale/hscontrol/control"
	"github.com/keelscale/keelscale/hscontrol/hooks"
	"github.com/keelscale/keelscale/hscontrol/mapper"
	"github.com/keelscale/keelscale/hscontrol/state"
	"github.com/keelscale/keelscale/hscontrol/store"
)

// Options are what a server needs beside its configuration.
type Options struct {
	Config *config.Config

	// Load reads the configuration again, for SIGHUP. Nil: it cannot be reloaded.
	Load func() (*config.Config, []config.Warning, error)

	Version string
	Log     *slog.Logger
	Level   *slog.LevelVar // what log.level sets; nil: it is fixed
}

// Server is a whole server. Open builds it; Run serves until its context ends, and takes everything down again.
type Server struct {
	opts Options
	log  *slog.Logger

	store   *store.Store
	state   *state.State
	auth    *auth.Auth
	control *control.Control
	relay   *derp.Relay // nil: none is embedded
	guests  guests
	near    neighbours
	stun    *derp.STUN
	api     *api.Server
	hooks   *hooks.Hooks
	hookKey hooks.Key
	cert    *certificate
	doors   doors

	mu       sync.Mutex
	cfg      *config.Config
	derpMap  *derpmap.Loader
	faults   map[string]api.Fault
	started  time.Time
	reloaded time.Time
	reloadAs string // the error of the last reload

	reloadDERP chan struct{} // the loader was replaced
	rewatch    chan struct{} // other files may be to be watched

	reading sync.Mutex // held while the configuration, or a file that it names, is read again
}

// Open builds the rooms and opens the sockets. On error nothing is left open.
func Open(ctx context.Context, opts Options) (_ *Server, err error) {
	cfg := opts.Config
	s := &Server{opts: opts, log: opts.Log, cfg: cfg, faults: map[string]api.Fault{}, started: time.Now(), reloadDERP: make(chan struct{}, 1), rewatch: make(chan struct{}, 1)}
	defer func() {
		if err != nil {
			s.close()
		}
	}()
	if err := os.MkdirAll(cfg.DataDir, 0o700); err != nil {
		return nil, fmt.Errorf("making the data directory: %w; set data_dir to one that can be written", err)
	}
	if s.store, err = openStore(ctx, cfg, s.log); err != nil {
		return nil, err
	}
	noiseKey, err := serverKey(ctx, s.store, cfg)
	if err != nil {
		return nil, err
	}
	settings, err := settingsOf(cfg)
	if err != nil {
		return nil, err
	}
	if s.cert, err = openCertificate(cfg, s.log, s.repinned); err != nil {
		return nil, err
	}
	if err := s.openRelay(ctx); err != nil {
		return nil, err
	}
	if s.state, err = state.New(ctx, state.Config{Store: s.store, Settings: settings, DERPMap: s.derpMap.Map(), Log: s.log}); err != nil {
		return nil, err
	}
	s.auth = auth.New(auth.Config{Store: s.store, State: s.state, ServerURL: cfg.ServerURL, NodeExpiry: cfg.Node.Expiry, Log: s.log})
	s.control = control.New(control.Config{Key: noiseKey, Store: s.store, State: s.state, Auth: s.auth, Mapper: &mapper.Mapper{},
		ProbeEvery: cfg.Node.HAProbeInterval, ProbeTime: cfg.Node.HAProbeTimeout, Relays: relayRules(cfg), Log: s.log})
	if err := s.startPolicy(ctx); err != nil {
		return nil, err
	}
	if err := s.openHooks(noiseKey); err != nil {
		return nil, err
	}
	s.api = api.NewServer(s.apiConfig(noiseKey.Public()))
	return s, s.listen(ctx)
}

// Run serves until ctx ends, or until a part cannot go on.
func (s *Server) Run(ctx context.Context) error {
	defer s.close()
	// Followers go on until the doors are shut, so that what still comes in is answered from a living state.
	inner, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	rooms, inner := errgroup.WithContext(inner)
	rooms.Go(func() error { return s.state.Run(inner) })
	rooms.Go(func() error { return s.keep(inner) })
	rooms.Go(func() error { return s.hooks.Run(inner) })
	rooms.Go(func() error { return s.followDERP(inner) })
	rooms.Go(func() error { return s.keepRelay(inner) })
	rooms.Go(func() error { return s.keepNeighbours(inner) })
	rooms.Go(func() error { return s.watch(inner) })
	rooms.Go(func() error { return s.cert.run(inner) })

	outer, ctx := errgroup.WithContext(ctx)
	outer.Go(func() error { return s.control.Run(ctx) })
	outer.Go(func() error { return s.serveDoors(ctx) })
	outer.Go(func() error {
		select {
		case <-inner.Done(): // a room failed: everything ends
			return context.Cause(inner)
		case <-ctx.Done():
			return nil
		}
	})
	err := outer.Wait()
	stop()
	if roomErr := rooms.Wait(); roomErr != nil && !errors.Is(roomErr, context.Canceled) {
		err = errors.Join(roomErr, err)
	}
	if errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}

// close gives back what Open took. It may be called twice.
func (s *Server) close() {
	s.doors.close()
	if s.relay != nil {
		s.relay.Close()
	}
	if s.stun != nil {
		s.stun.Close()
	}
	if s.store != nil {
		if err := s.store.Close(); err != nil {
			s.log.Error("closing the store", "err", err)
		}
		s.store = nil
	}
}

// config is the configuration in force.
func (s *Server) config() *config.Config {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.cfg
}

func openStore(ctx context.Context, cfg *config.Config, log *slog.Logger) (*store.Store, error) {
	return store.Open(ctx, storeConfig(cfg, log))
}

func storeConfig(cfg *config.Config, log *slog.Logger) store.Config {
	db := cfg.Database
	return store.Config{
		Type:   db.Type,
		SQLite: store.SQLiteConfig{Path: db.SQLite.Path, WAL: db.SQLite.WriteAheadLog, WALAutocheckpoint: db.SQLite.WALAutocheckpoint},
		Postgres: store.PostgresConfig{
			Host: db.Postgres.Host, Port: db.Postgres.Port, Name: db.Postgres.Name, User: db.Postgres.User, Pass: db.Postgres.Pass,
			SSL: db.Postgres.SSLMode, MaxOpenConns: db.Postgres.MaxOpenConns, MaxIdleConns: noneAtZero(db.Postgres.MaxIdleConns), ConnMaxIdleTime: noneAtZero(db.Postgres.ConnMaxIdleTime),
		},
		PrefixV4: cfg.Prefixes.V4, PrefixV6: cfg.Prefixes.V6,
		RandomAddresses: cfg.Prefixes.Allocation == config.AllocationRandom,
		Log:             log,
	}
}

// noneAtZero tells the store, for which zero is its default, of a zero that somebody wrote.
func noneAtZero[T int | time.Duration](n T) T {
	if n == 0 {
		return -1
	}
	return n
}

// Store is the server's store.
func (s *Server) Store() *store.Store { return s.store }
