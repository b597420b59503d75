// Package control is what Tailscale clients speak with: the server's key, the Noise upgrade (noise/), registration, network
// maps, and the small requests around them.
//
// The way of a client:
//
//	GET /key -> POST or GET /ts2021 (Noise, noise.go) -> HTTP/2 inside it ->
//	POST /machine/register (register.go) -> POST /machine/map (map.go): an open stream (session.go) and short updates.
//	GET /machine/ssh/action/... (sshcheck.go): a login at the client waits for a person.
package control

import (
	"context"
	"log/slog"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"tailscale.com/tailcfg"
	"tailscale.com/types/key"

	"github.com/keelscale/keelscale/hscontrol/auth"
	"github.com/keelscale/keelscale/hscontrol/control/h2"
	"github.com/keelscale/keelscale/hscontrol/control/noise"
	"github.com/keelscale/keelscale/hscontrol/mapper"
	"github.com/keelscale/keelscale/hscontrol/state"
	"github.com/keelscale/keelscale/hscontrol/store"
	"github.com/keelscale/keelscale/hscontrol/tailnet"
)

// MinCapVersion is the oldest client that is served: v1.48, the first that splits its map request into a stream that
// only reads and updates that only write.
const MinCapVersion tailcfg.CapabilityVersion = 68

// Config says what a Control serves.
type Config struct {
	Key    key.MachinePrivate // the server's Noise key
	Store  *store.Store
	State  *state.State
	Auth   *auth.Auth
	Mapper *mapper.Mapper

	// Grace is how long a node whose stream ended still counts as online: clients often come back at once.
	// 0 means three seconds.
	Grace time.Duration

	// ProbeEvery is how often routers that share a route are asked whether they are there, and ProbeTime how long they
	// may take to answer. ProbeEvery 0 asks nobody.
	ProbeEvery, ProbeTime time.Duration

	// Relays are the rules for relays that enrol, until SetRelayRules. Nil: no bounds, and a probe every five seconds.
	Relays *RelayRules

	Now func() time.Time // nil: time.Now
	Log *slog.Logger
}

// Control serves clients. Handle gives its handlers; Run must be running meanwhile.
type Control struct {
	Config

	key    *noise.Key
	h2     *h2.Server // of requests inside Noise
	live   live
	newest atomic.Int64 // microseconds since 1970 of the newest map request, never twice the same

	arriving, wholes gate // bounds on connections before their first request, and on whole maps in the making

	encoded, sent stage
	sentBytes     atomic.Uint64

	alive  struct{ plain, packed mapper.Frame }
	probes probes
	relays relays

	conns struct {
		sync.Mutex
		open   map[closer]bool
		closed bool
		wait   sync.WaitGroup
	}
	life context.Context // ends with Run, and with it every stream
	end  context.CancelFunc
}

type closer interface{ Close() error }

// New is a Control that serves nobody yet.
func New(cfg Config) *Control {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Grace == 0 {
		cfg.Grace = 3 * time.Second
	}
	if cfg.Relays == nil {
		cfg.Relays = &RelayRules{ProbeEvery: 5 * time.Second, ProbeTime: 3 * time.Second}
	}
	c := &Control{Config: cfg, key: noise.NewKey(cfg.Key)}
	c.life, c.end = context.WithCancel(context.Background())
	c.alive.plain = mapper.FrameOf(mapper.KeepAlive(), false)
	c.alive.packed = mapper.FrameOf(mapper.KeepAlive(), true)
	c.conns.open = map[closer]bool{}
	c.live.open = map[nodeID]*session{}
	c.live.left = map[nodeID]departed{}
	c.live.wake = make(chan struct{}, 1)
	c.arriving, c.wholes = newGate(16), newGate(2)
	c.relays.open, c.relays.stops = map[tailnet.RelayID]*relaySession{}, map[tailnet.RelayID]time.Time{}
	c.relays.kick = make(chan struct{}, 1)
	c.SetRelayRules(cfg.Relays)
	c.h2 = &h2.Server{Handler: c.arrived(c.machineRoutes()), MaxStreams: 64, Idle: 5 * time.Minute, Patience: writeTime, Log: cfg.Log}
	return c
}

// Handle registers what clients ask for outside Noise.
func (c *Control) Handle(mux *http.ServeMux) {
	mux.HandleFunc("GET /key", c.serveKey)
	mux.HandleFunc("POST /ts2021", c.serveNoise)
	mux.HandleFunc("GET /ts2021", c.serveNoise) // WebSocket, from browsers
	mux.HandleFunc("POST /verify", c.serveVerify)
}

// machineRoutes are the requests inside Noise.
func (c *Control) machineRoutes() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST /machine/register", c.serveRegister)
	mux.HandleFunc("POST /machine/map", c.serveMap)
	mux.HandleFunc("/machine/ping-response", c.servePingResponse)
	mux.HandleFunc("GET /machine/ssh/action/{src}/to/{dst}", c.serveSSHAction)
	mux.HandleFunc("POST /relay/v1/session", c.serveRelay)
	c.handleSmall(mux)
	return mux
}

// Run closes the sessions of nodes that left, until ctx ends; then it ends every stream, closes every connection and
// waits for them.
func (c *Control) Run(ctx context.Context) error {
	var wait sync.WaitGroup
	wait.Go(func() { c.probeRouters(ctx) })
	wait.Go(func() { c.watchRelays(ctx) })
	wait.Go(func() { c.restoreSessions(ctx) })
	c.watchDepartures(ctx)
	wait.Wait()
	c.end()
	c.closeConns()
	return nil
}
