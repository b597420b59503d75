// Package enrol keeps a relay enrolled at a control server: it tells the server how the relay is reached and how it does,
// and admits exactly the nodes that the server names.
//
// A session's way, in the order of the files: enrol.go (Open; Run: one session after the other) -> dial.go (HTTP upgrade,
// Noise, HTTP/2) -> session.go (reports go out, orders come in) -> wire.go (frames) -> orders.go (what an order changes)
// -> roster.go (whom to serve) -> admit.go (who may come in now). Beside it: key.go (enrolment keys, server keys),
// state.go (what survives a restart), describe.go and load.go (what reports say), trouble.go (errors that people read).
package enrol

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/url"
	"strings"
	"sync"
	"time"

	"tailscale.com/types/key"

	"github.com/keelscale/keelscale/derp"
	relayv1 "github.com/keelscale/keelscale/proto/relay/v1"
)

// Week is how long known nodes are served without a control server, unless something says otherwise.
const Week = 7 * 24 * time.Hour

// Config says where to enrol. Control, StateFile and RelayKey are required.
type Config struct {
	// Control is the URL of the control server, such as http://203.0.113.5:8080.
	Control string
	// Key is what "headscale derp enroll-keys create" printed. It is needed until the relay is enrolled. Afterwards the
	// same key says nothing, and another one enrols the relay anew.
	Key string
	// StateFile keeps the enrolment and the list of nodes. It is made when it is missing.
	StateFile string
	// Region is the code of the region to be in, and Name the relay's; the server chooses what is "".
	Region, Name string
	// Version is that of the program, for the operator of the server.
	Version string
	// RelayKey is the relay's key as clients see it.
	RelayKey key.NodePublic
	// Outage is how long known nodes are served without a control server, at most; the server may want it shorter. Zero
	// means Week, negative not at all.
	Outage time.Duration
	// Limits are the relay's own, until SetLimits; the server's may be stricter.
	Limits derp.Limits
	// Log receives what the operator should know. Nil means slog.Default().
	Log *slog.Logger
}

// Host is the relay that an Agent serves.
type Host struct {
	Relay *derp.Relay
	// Hostname is what clients connect to, if the operator said so; "" leaves it to the server.
	Hostname string
	// Ports is where the relay listens.
	Ports derp.Ports
	// Cert is the relay's certificate. Nil means that a proxy in front has one for Hostname, at port 443.
	Cert *derp.Cert
	// Troubles, if set, gives sentences that the operator of the server should read.
	Troubles func() []string
}

// Agent speaks for a relay with its control server. Make one with Open.
type Agent struct {
	cfg    Config
	url    *url.URL
	key    enrolKey
	log    *slog.Logger
	file   *stateFile
	roster roster

	waiting waiters  // strangers that may be on the next list
	cpu     cpuMeter // of the session's reports

	mu struct {
		sync.Mutex
		state    state // what the file keeps, but for the list of nodes
		line     lineStatus
		showKey  bool // although the relay is enrolled
		keyed    bool // the session showed the key
		settings *relayv1.Settings
		own      derp.Limits
		relay    *derp.Relay // once it runs
		mesh     string      // of SetMesh, as last applied
		meshErr  string
		fileErr  string // why the file is behind
	}
}

// lineStatus is how it stands with the control server.
type lineStatus struct {
	published  []string
	outBecause string
	trouble    string // why there is no session
	skew       time.Duration
}

// Open reads the enrolment, or prepares one. Its errors are sentences for the operator: there is nothing to try again.
func Open(cfg Config) (*Agent, error) {
	cfg.Log = cmp.Or(cfg.Log, slog.Default())
	cfg.Outage = cmp.Or(cfg.Outage, Week)
	u, err := parseControl(cfg.Control)
	if err != nil {
		return nil, err
	}
	a := &Agent{cfg: cfg, url: u, log: cfg.Log, file: &stateFile{path: cfg.StateFile}, waiting: make(waiters, maxWaiting)}
	if cfg.Key != "" {
		if a.key, err = parseKey(cfg.Key); err != nil {
			return nil, err
		}
	}
	s, found, err := a.file.load()
	if err != nil {
		return nil, err
	}
	if !found {
		s.MachineKey = key.NewMachine()
	}
	if err := a.settle(&s); err != nil {
		return nil, err
	}
	a.mu.state, a.mu.own = s, cfg.Limits
	a.mu.showKey = s.Enrolment != nil && a.key.text != "" && a.key.prefix != s.KeyPrefix
	a.roster.restore(&s, time.Now())
	a.roster.setOutage(a.outage(nil))
	if err := a.restoreSettings(s.Settings); err != nil {
		return nil, fmt.Errorf("reading the enrolment from %s: %w", cfg.StateFile, err)
	}
	if !found { // before the server hears of the key: it must not be lost once it has
		if err := a.save(); err != nil {
			return nil, err
		}
	}
	return a, nil
}

// parseControl checks the URL of a control server.
func parseControl(text string) (*url.URL, error) {
	u, err := url.Parse(text)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "" {
		return nil, fmt.Errorf("control server %q: give its URL, such as http://203.0.113.5:8080", text)
	}
	if strings.Trim(u.Path, "/") != "" || u.RawQuery != "" || u.Fragment != "" {
		return nil, fmt.Errorf("control server %q: give its URL without a path", text)
	}
	return &url.URL{Scheme: u.Scheme, Host: u.Host}, nil
}

// settle makes the stored state and what was configured agree, or says why they cannot.
func (a *Agent) settle(s *state) error {
	if s.Enrolment == nil && a.cfg.Key == "" {
		return errors.New("this relay is not enrolled yet: give it an enrolment key (--enroll-key; headscale derp enroll-keys create makes one)")
	}
	if s.Enrolment != nil && !a.key.server.IsZero() && a.key.server != s.ServerKey {
		return fmt.Errorf("the enrolment key is of another control server (%s) than the one where this relay is enrolled (%s, %s): remove %s to enrol there",
			a.key.server.ShortString(), s.ServerKey.ShortString(), s.Control, a.cfg.StateFile)
	}
	if s.Enrolment == nil {
		s.ServerKey = a.key.server // what an attempt that failed may have left is not trusted
	}
	s.Control = a.url.String()
	return nil
}

// Run keeps up a session with the control server until ctx ends, and then takes leave. It returns nil when ctx ended it,
// and otherwise the sentence that says why it is of no use to go on: the server refuses to enrol the relay, or has
// removed it. From then on nobody is admitted.
func (a *Agent) Run(ctx context.Context, h Host) error {
	ctx, cancel := context.WithCancel(ctx)
	var keeping sync.WaitGroup
	keeping.Go(func() { a.keep(ctx, h) })
	defer func() {
		cancel()
		keeping.Wait()
		a.count(h.Relay.Load())
		if err := a.save(); err != nil {
			a.log.Error("the enrolment was not stored", "err", err)
		}
	}()
	a.mu.Lock()
	a.mu.relay = h.Relay
	a.mu.Unlock()
	a.applySettings(h)
	wait := firstPause
	for ctx.Err() == nil {
		began := time.Now()
		err := a.session(ctx, h)
		a.roster.down()
		if a.roster.dirty() { // who knows what ends next
			a.store()
		}
		if ctx.Err() != nil {
			break
		}
		var no *refusal
		switch {
		case errors.As(err, &no):
			if why := a.refused(h, no); why != nil {
				return why
			}
		case hopeless(err) && !a.enrolled():
			return err
		default:
			a.complain(err)
		}
		if time.Since(began) > steadyAfter {
			wait = firstPause
		}
		if !errors.Is(err, errMoved) && a.pause(ctx, wait) {
			wait = min(wait*2, lastPause)
		}
	}
	return nil
}

const (
	firstPause  = time.Second / 2  // before a second attempt
	lastPause   = 10 * time.Second // between attempts at the most
	steadyAfter = 20 * time.Second // a session that lasted so long begins anew with firstPause
	lookEvery   = 500 * time.Millisecond
)

// pause waits about d, less if the machine's addresses change meanwhile, for which it reports false.
func (a *Agent) pause(ctx context.Context, d time.Duration) bool {
	over := time.NewTimer(d/2 + rand.N(d))
	defer over.Stop()
	look := time.NewTicker(lookEvery)
	defer look.Stop()
	before := interfaceAddrs()
	for {
		select {
		case <-ctx.Done():
			return true
		case <-over.C:
			return true
		case <-look.C:
			if !before.same(interfaceAddrs()) {
				return false
			}
		}
	}
}

// complain logs why there is no session, each reason once.
func (a *Agent) complain(err error) {
	if errors.Is(err, errMoved) {
		a.log.Info("this machine has another address: calling the control server anew")
		return
	}
	text := err.Error()
	a.mu.Lock()
	said := a.mu.line.trouble == text
	a.mu.line.trouble = text
	a.mu.Unlock()
	if said {
		a.log.Debug("no session with the control server", "err", err)
		return
	}
	ok, until := a.roster.served(time.Now())
	if !ok {
		a.log.Warn("no session with the control server, trying again", "control", a.url.String(), "err", err)
		return
	}
	a.log.Warn("no session with the control server, trying again; known nodes are served meanwhile",
		"control", a.url.String(), "err", err, "until", until.UTC().Format(time.RFC3339))
}

// enrolled reports whether the server knows the relay, as far as we know.
func (a *Agent) enrolled() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.mu.state.Enrolment != nil
}

// outage is how long known nodes are served without a server that sent these settings, nil if none did.
func (a *Agent) outage(s *relayv1.Settings) time.Duration {
	wanted := Week
	if s.GetOutageSeconds() > 0 {
		wanted = time.Duration(s.GetOutageSeconds()) * time.Second
	}
	return max(0, min(a.cfg.Outage, wanted))
}

// How often an Agent looks after things that no message announces.
const (
	keepEvery  = time.Second
	storeEvery = 3 * time.Second  // at the least between two writes of the file
	noteEvery  = time.Minute      // between two writes if only the time of the last contact is newer
	sweepEvery = 5 * time.Second  // over those connected, for what no message announces
	tellEvery  = 10 * time.Second // about the number of nodes
)

// keep stores what changed, and ends what must not go on, until ctx ends.
func (a *Agent) keep(ctx context.Context, h Host) {
	tick := time.NewTicker(keepEvery)
	defer tick.Stop()
	var swept, told time.Time
	stored, nodes := time.Now(), -1
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		now := time.Now()
		a.endOutage(h, now)
		if now.Sub(swept) >= sweepEvery {
			swept = now
			a.sweep(h)
		}
		if since := now.Sub(stored); since >= noteEvery || since >= storeEvery && a.roster.dirty() {
			stored = now
			a.count(h.Relay.Load())
			a.store()
		}
		if n, up := a.roster.size(); up && n != nodes && now.Sub(told) >= tellEvery {
			if nodes >= 0 {
				a.log.Info(fmt.Sprintf("admits %s", counted(n, "node")))
			}
			nodes, told = n, now
		}
	}
}

// store saves, and logs a failure that is not the one before.
func (a *Agent) store() {
	text := ""
	err := a.save()
	if err != nil {
		text = err.Error()
	}
	a.mu.Lock()
	said := a.mu.fileErr == text
	a.mu.fileErr = text
	a.mu.Unlock()
	if err != nil && !said {
		a.log.Error("the enrolment was not stored: after a restart the relay would know an older list", "err", err)
	}
}

func counted(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}
