// Package hooks tells others what happened: it delivers events to webhooks and sends the audit log to its receivers.
//
// What is to be told is in tables of the store, written by the transaction that made the change. So nothing is lost
// when a server ends, and of several servers each takes its part. The way of an event:
//
//	hooks.go     the loop: take deliveries that are due, a request for each endpoint
//	format.go    events -> the body that the endpoint's provider expects
//	deliver.go   the request: signature, timeout, no redirects; what its answer means
//	secret.go    the secrets of endpoints and receivers
//	stream.go    the audit log, sent on from where its receiver is: sinks.go (a file, HTTP), syslog.go
package hooks

import (
	"context"
	"log/slog"
	"net/http"
	"sync"
	"time"

	"github.com/keelscale/keelscale/hscontrol/store"
	"github.com/keelscale/keelscale/hscontrol/tailnet"
)

// Config is what hooks are built from. Store and Key are needed.
type Config struct {
	Store *store.Store
	Key   Key
	// OnlyPublic refuses to deliver to addresses of private networks and of this machine, but for Streams. Those of the
	// link, where clouds keep their secrets, are always refused.
	OnlyPublic bool
	// Streams are the receivers of the audit log that the configuration names.
	Streams []Stream
	// Machine tells this machine's files from those of other servers of the database. Empty: there is one.
	Machine string

	Timeout time.Duration // of one request; 0: 10 s
	Backoff Backoff
	Log     *slog.Logger // nil: slog.Default
}

// Backoff says when an attempt that failed is followed by another. Zero fields stand for 10 s, an hour and a day.
type Backoff struct {
	First, Most time.Duration // pause after the first failure, doubled by each, and its bound
	GiveUp      time.Duration // after the event
}

// Hooks deliver while Run runs.
type Hooks struct {
	cfg    Config
	client *http.Client // for what was set through the API
	own    *http.Client // for what the configuration names
}

const (
	batchSize = 100 // events in one request at most
	maxBusy   = 16  // requests at one time
	quietTime = 250 * time.Millisecond
	lookEvery = 2 * time.Second
)

// New makes hooks. It starts nothing.
func New(cfg Config) *Hooks {
	if cfg.Timeout == 0 {
		cfg.Timeout = 10 * time.Second
	}
	if cfg.Backoff.First == 0 {
		cfg.Backoff.First = 10 * time.Second
	}
	if cfg.Backoff.Most == 0 {
		cfg.Backoff.Most = time.Hour
	}
	if cfg.Backoff.GiveUp == 0 {
		cfg.Backoff.GiveUp = 24 * time.Hour
	}
	if cfg.Log == nil {
		cfg.Log = slog.Default()
	}
	return &Hooks{cfg: cfg, client: newClient(cfg.Timeout, cfg.OnlyPublic), own: newClient(cfg.Timeout, false)}
}

// Run delivers, and sends the audit log on, until ctx ends. It waits for the requests that are under way.
func (h *Hooks) Run(ctx context.Context) error {
	var work sync.WaitGroup
	defer work.Wait()
	work.Go(func() { h.runStreams(ctx) })
	busy := make(chan struct{}, maxBusy)
	for {
		moved := h.cfg.Store.Moved()
		if free := maxBusy - len(busy); free > 0 {
			h.round(ctx, free, busy, &work)
		}
		if !pause(ctx, quietTime) {
			return nil
		}
		select {
		case <-moved:
		case <-time.After(lookEvery):
		case <-ctx.Done():
			return nil
		}
	}
}

func pause(ctx context.Context, d time.Duration) bool {
	select {
	case <-time.After(d):
		return true
	case <-ctx.Done():
		return false
	}
}

// round takes what is due and starts a request for each endpoint.
func (h *Hooks) round(ctx context.Context, free int, busy chan struct{}, work *sync.WaitGroup) {
	due, err := h.cfg.Store.ClaimDeliveries(ctx, free*batchSize, h.lease())
	if err != nil {
		if ctx.Err() == nil {
			h.cfg.Log.Error("webhooks wait", "err", err)
		}
		return
	}
	var order []uint64
	byHook := map[uint64][]tailnet.Delivery{}
	for _, d := range due {
		if byHook[d.WebhookID] == nil {
			order = append(order, d.WebhookID)
		}
		byHook[d.WebhookID] = append(byHook[d.WebhookID], d)
	}
	for _, id := range order {
		w, err := h.cfg.Store.GetWebhook(ctx, id)
		if err != nil {
			continue // deleted, and its deliveries with it; if not, they are due again after the lease
		}
		select {
		case busy <- struct{}{}:
		case <-ctx.Done():
			return
		}
		work.Go(func() {
			defer func() { <-busy }()
			h.deliverAll(ctx, w, byHook[id])
		})
	}
}

// lease is for how long a delivery is this server's: longer than the requests of a round may take.
func (h *Hooks) lease() time.Duration { return maxBusy * 2 * (h.cfg.Timeout + time.Second) }

// deliverAll delivers to one endpoint, request by request, until one fails.
func (h *Hooks) deliverAll(ctx context.Context, w *tailnet.Webhook, all []tailnet.Delivery) {
	for len(all) > 0 {
		batch := all[:min(batchSizeOf(w), len(all))]
		all = all[len(batch):]
		status, err := h.deliver(ctx, w, batch)
		if ctx.Err() != nil && err != nil {
			return // the server ends: its next life, or another, delivers them
		}
		h.note(ctx, w, batch, status, err)
		if err != nil {
			h.note(ctx, w, all, status, err)
			return
		}
	}
}

// note writes what became of deliveries. It does so too when the server is ending: what was delivered is not to be
// delivered again.
func (h *Hooks) note(ctx context.Context, w *tailnet.Webhook, batch []tailnet.Delivery, status int, err error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), h.cfg.Timeout)
	defer cancel()
	for _, d := range batch {
		o := store.Outcome{ID: d.ID, Status: status}
		if err != nil {
			o.Trouble = err.Error()
			o.Next = h.next(d, time.Now())
			if o.Next.IsZero() {
				h.cfg.Log.Warn("an event was not delivered and is given up", "webhook", w.ID, "delivery", d.ID, "attempts", d.Attempts, "err", err)
			}
		}
		if noteErr := h.cfg.Store.NoteDelivery(ctx, o); noteErr != nil {
			h.cfg.Log.Error("what became of a delivery could not be written; it may be delivered twice", "delivery", d.ID, "err", noteErr)
			return
		}
	}
}

// next is when a delivery is tried again; zero: not any more.
func (h *Hooks) next(d tailnet.Delivery, now time.Time) time.Time {
	b := h.cfg.Backoff
	if now.Sub(d.CreatedAt) > b.GiveUp {
		return time.Time{}
	}
	wait := b.First
	for range d.Attempts - 1 {
		if wait *= 2; wait >= b.Most {
			wait = b.Most
			break
		}
	}
	return now.Add(wait)
}
