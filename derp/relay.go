// Package derp is the relay that both binaries run: it carries sealed packets between nodes
// that cannot reach each other directly, and tells a node by STUN how the world sees it.
//
// A connection's way, in the order of the files: run.go (listeners) -> handler.go (the HTTP
// upgrade) -> handshake.go (who is it, and may it come in; the answers are made in admit.go) ->
// engine.go (its life from then on).
//
// A packet's way: wire*.go (the socket, read in large pieces) -> conn.go (frames, parsed where
// they lie) -> clients.go (who is here) -> queue.go (copied once, to where it waits) ->
// write.go (one write for all that waits), or link.go (to another relay of the mesh). Beside
// it: limits.go, metrics.go, expose.go and
// status.go (what the operator sees), cert*.go, stun*.go, mesh.go, bootstrap.go, key.go.
package derp

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"golang.org/x/time/rate"
	"tailscale.com/types/key"
)

// Config says what a relay is. Only Key is required.
type Config struct {
	// Key is the relay's identity; see LoadKey. A mesh needs it to be lasting.
	Key key.NodePrivate

	// Admit decides who may use the relay. Nil lets in anybody.
	Admit Admit

	// Log receives what the operator should know. Nil means slog.Default().
	Log *slog.Logger

	// Limits bound what the relay carries, until SetLimits. The zero value sets no bound.
	Limits Limits

	// WriteTimeout is how long a client may refuse to take data before it is dropped.
	// Zero means two seconds; negative means for ever.
	WriteTimeout time.Duration

	// Mesh joins the relays of one region. The zero value stands alone.
	Mesh Mesh

	// Pages says what is served to those who do not come to relay.
	Pages Pages

	// Listen says what Run opens. It is unused by a relay that is embedded by way of
	// Handler or Routes.
	Listen Listen
}

// Relay is a running relay. Make one with New, end it with Close or by ending Run.
type Relay struct {
	cfg       Config
	log       *slog.Logger
	engine    *engine
	bootstrap *bootstrap
	refusals  *rate.Limiter // of log lines about refused clients

	conns struct {
		sync.Mutex
		closed bool
		open   sync.WaitGroup
	}
	mesh  *mesh
	gate  *gate
	stun  *STUN // nil unless Run opened one
	ports Ports // what Run opened
}

// New makes a relay that is ready to serve. It opens no listener: that is Run's, or the
// embedding server's.
func New(cfg Config) (*Relay, error) {
	if cfg.Key.IsZero() {
		return nil, errors.New("the relay needs a private key (see LoadKey)")
	}
	if cfg.Log == nil {
		cfg.Log = slog.Default()
	}
	if cfg.Admit == nil {
		cfg.Admit = Anyone
	}
	if err := cfg.Pages.check(); err != nil {
		return nil, err
	}
	e, err := newEngine(cfg)
	if err != nil {
		return nil, err
	}
	r := &Relay{
		cfg:       cfg,
		log:       cfg.Log,
		engine:    e,
		bootstrap: newBootstrap(cfg.Pages),
		gate:      newGate(e),
		refusals:  rate.NewLimiter(rate.Every(time.Second), 20),
	}
	if r.mesh, err = startMesh(cfg, e); err != nil {
		e.close()
		return nil, fmt.Errorf("joining the mesh: %w", err)
	}
	e.checkQuota(e.start)
	e.tasks.Go(e.watchQuota)
	return r, nil
}

// PublicKey is the relay's identity as clients see it.
func (r *Relay) PublicKey() key.NodePublic { return r.engine.self.public() }

// Close ends every connection and returns when all have ended. A closed relay refuses new
// clients. It is safe to call it twice.
func (r *Relay) Close() error {
	r.conns.Lock()
	r.conns.closed = true
	r.conns.Unlock()
	r.mesh.close()
	r.engine.close()
	r.conns.open.Wait()
	return nil
}

// Drain refuses new clients, tells those that are here that the relay restarts, and sends them
// away one after the other, over a few seconds when there are many, or until ctx ends. Close
// ends what is left.
func (r *Relay) Drain(ctx context.Context) {
	r.conns.Lock()
	r.conns.closed = true
	r.conns.Unlock()
	over := shutdownGrace
	if end, ok := ctx.Deadline(); ok {
		over = time.Until(end)
	}
	r.engine.drain(ctx, over*3/4)
}

// enter counts a connection in and reports whether the relay still takes any. Whoever gets
// true calls r.conns.open.Done.
func (r *Relay) enter() bool {
	r.conns.Lock()
	defer r.conns.Unlock()
	if r.conns.closed {
		return false
	}
	r.conns.open.Add(1)
	return true
}

// noteRefused logs one refused client, within reason: a stranger may knock a thousand times
// a second, and the log is not his.
func (r *Relay) noteRefused(ctx context.Context, who *refusal) {
	r.engine.count.refused.Add(1)
	if !r.refusals.Allow() {
		return
	}
	r.log.WarnContext(ctx, "client refused", "node", who.node.ShortString(),
		"key", who.node.String(), "source", who.source, "reason", who.reason)
}
