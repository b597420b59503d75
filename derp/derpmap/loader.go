package derpmap

import (
	"context"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"reflect"
	"sync"
	"sync/atomic"
	"time"

	"tailscale.com/tailcfg"
)

// Config says where the DERP map comes from.
type Config struct {
	// Sources are URLs (https, http, file) and paths. A later one wins over an earlier one.
	Sources []string

	// Embedded, if set, returns the regions of relays inside servers, which win over all
	// sources. It is called at every load.
	Embedded func() []*tailcfg.DERPRegion

	// CacheDir keeps the last good copy of each source over a restart. "" keeps none.
	CacheDir string

	// Every is how long to wait before sources are read again, give or take a tenth. Zero
	// reads them only at the start and in Reload. Sources that fail are tried sooner, also
	// when it is zero.
	Every time.Duration

	// Changed, if set, is called with each map that differs from the one before, one call at
	// a time, the first from the first load. It must not call the Loader, except for Map.
	Changed func(*tailcfg.DERPMap)

	// Client reads URLs. Nil means a client that follows the proxy settings of the environment.
	Client *http.Client

	// Log receives what fails. Nil means slog.Default().
	Log *slog.Logger
}

// Status tells of one source.
type Status struct {
	Source   string    // URL or path, without a password
	Regions  int       // in the copy in use
	Loaded   time.Time // when that was read from the source; zero if never
	Cached   bool      // it is a copy from before the last start
	Err      error     // why it is not newer; nil if the last reading went well
	Warnings []string  // such as keys that are not known
}

// Loader gathers the DERP map. Its methods may be called at any time.
type Loader struct {
	cfg     Config
	sources []*source
	current atomic.Pointer[tailcfg.DERPMap]

	pass struct { // held by one load at a time
		sync.Mutex
		last time.Time // when the sources were last read
	}
	status atomic.Pointer[[]Status]
}

// New makes a Loader, with an empty map so far. It fails only for sources that can never be
// read, such as a malformed URL.
func New(cfg Config) (*Loader, error) {
	if cfg.Log == nil {
		cfg.Log = slog.Default()
	}
	if cfg.Client == nil {
		cfg.Client = &http.Client{Timeout: fetchTimeout}
	}
	l := &Loader{cfg: cfg}
	for _, s := range cfg.Sources {
		src, err := parseSource(s, cfg)
		if err != nil {
			return nil, err
		}
		l.sources = append(l.sources, src)
	}
	l.current.Store(Merge())
	l.status.Store(&[]Status{})
	return l, nil
}

// Map is the map in use. It is never nil and must not be changed.
func (l *Loader) Map() *tailcfg.DERPMap { return l.current.Load() }

// Status tells of every source, in their order.
func (l *Loader) Status() []Status { return *l.status.Load() }

// Reload reads all sources now and returns the map. Sources that fail leave their last good
// copy in use; Status tells of them.
func (l *Loader) Reload(ctx context.Context) *tailcfg.DERPMap {
	l.pass.Lock()
	defer l.pass.Unlock()
	l.readAll(ctx)
	return l.publish()
}

// Refresh asks Embedded again and publishes, without reading the sources.
func (l *Loader) Refresh() *tailcfg.DERPMap {
	l.pass.Lock()
	defer l.pass.Unlock()
	return l.publish()
}

func (l *Loader) readAll(ctx context.Context) {
	var wg sync.WaitGroup
	now := time.Now()
	before := make([]string, len(l.sources)) // what was wrong, to tell of it once
	for i, s := range l.sources {
		before[i] = complaint(s)
		wg.Go(func() { s.load(ctx, now) })
	}
	wg.Wait()
	l.pass.last = now
	status := make([]Status, len(l.sources))
	for i, s := range l.sources {
		status[i] = Status{Source: s.name, Loaded: s.loaded, Cached: s.cached, Err: s.err, Warnings: s.warnings}
		if s.last != nil {
			status[i].Regions = len(s.last.Regions)
		}
		if complaint(s) != before[i] {
			l.tell(status[i], s.last != nil)
		}
	}
	l.status.Store(&status)
}

func complaint(s *source) string {
	if s.err != nil {
		return s.err.Error()
	}
	if len(s.warnings) > 0 {
		return s.warnings[0]
	}
	return ""
}

func (l *Loader) tell(s Status, usable bool) {
	log := l.cfg.Log.With("source", s.Source)
	switch {
	case s.Err != nil && usable:
		log.Warn("a DERP map cannot be read, its last good copy stays in use", "err", s.Err, "from", s.Loaded)
	case s.Err != nil:
		log.Warn("a DERP map cannot be read, and there is no earlier copy of it", "err", s.Err)
	default:
		log.Info("a DERP map was read", "regions", s.Regions)
	}
	for _, w := range s.Warnings {
		log.Warn("a DERP map was read, but not all of it was understood", "warning", w)
	}
}

// publish merges what is known, and tells when that is something new.
func (l *Loader) publish() *tailcfg.DERPMap {
	parts := make([]*tailcfg.DERPMap, 0, len(l.sources)+1)
	for _, s := range l.sources {
		parts = append(parts, s.last)
	}
	if l.cfg.Embedded != nil {
		for _, r := range l.cfg.Embedded() {
			parts = append(parts, &tailcfg.DERPMap{Regions: map[int]*tailcfg.DERPRegion{r.RegionID: r}})
		}
	}
	next := Merge(parts...)
	if reflect.DeepEqual(next, l.current.Load()) {
		return l.current.Load()
	}
	l.current.Store(next)
	if l.cfg.Changed != nil {
		l.cfg.Changed(next)
	}
	return next
}

// firstRetry and maxRetry bound the wait before failed sources are tried again.
const (
	firstRetry = 10 * time.Second
	maxRetry   = 30 * time.Minute
)

// Run reads the sources now, unless that has just been done, and then again and again, until
// ctx ends. It returns nil.
func (l *Loader) Run(ctx context.Context) error {
	retry := firstRetry
	for first := true; ; first = false {
		if !first || !l.fresh() {
			l.Reload(ctx)
		}
		wait := l.cfg.Every
		if l.failing() {
			if wait == 0 || retry < wait {
				wait = retry
			}
			retry = min(2*retry, maxRetry)
		} else {
			retry = firstRetry
		}
		if !sleep(ctx, jitter(wait)) {
			return nil
		}
	}
}

// fresh reports whether the sources were read a moment ago, all with success.
func (l *Loader) fresh() bool {
	l.pass.Lock()
	defer l.pass.Unlock()
	return time.Since(l.pass.last) < firstRetry && !l.failing()
}

func (l *Loader) failing() bool {
	for _, s := range l.Status() {
		if s.Err != nil {
			return true
		}
	}
	return false
}

// jitter is d, give or take a tenth, so that many servers do not ask in the same second.
func jitter(d time.Duration) time.Duration {
	if d <= 0 {
		return 0
	}
	return d - d/10 + rand.N(d/5+1)
}

// sleep waits for d, or for ever when d is zero, and reports whether ctx is still alive.
func sleep(ctx context.Context, d time.Duration) bool {
	var tick <-chan time.Time
	if d > 0 {
		timer := time.NewTimer(d)
		defer timer.Stop()
		tick = timer.C
	}
	select {
	case <-ctx.Done():
		return false
	case <-tick:
		return true
	}
}
