package derp

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/pprof"
	"net/netip"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
)

// Listen says what Run opens.
type Listen struct {
	// Addr is the TCP address of the relay, such as ":443" or "[2001:db8::1]:12345".
	Addr string

	// Cert is the certificate of Addr. Nil serves plain HTTP, for a TLS proxy in front.
	Cert *Cert

	// HTTPPort is a second TCP port, at the same IP address as Addr, that answers captive
	// portal checks and ACME challenges and sends all else to https. Zero picks a free one,
	// negative opens none, and so does a relay without Cert. A port that cannot be had is
	// fatal only when Cert needs it.
	HTTPPort int

	// STUNPort is the UDP port of STUN, at the same IP address as Addr. Zero picks a free
	// one, negative opens none.
	STUNPort int

	// DebugAddr is the TCP address for the operator: a status page, /metrics, /healthz,
	// /debug/vars and /debug/pprof/. "" opens none.
	DebugAddr string

	// KeepAlive is the time between TCP keep-alives; UserTimeout is how long data may stay
	// unacknowledged. Zero leaves them to the system.
	KeepAlive, UserTimeout time.Duration

	// Notes, if set, gives more lines for the status page of DebugAddr.
	Notes func() []Note

	// Ready, if set, is called once when everything is open.
	Ready func(Ports)
}

// Ports says where a running relay listens. What is not open is the zero AddrPort.
type Ports struct {
	Relay, HTTP, STUN, Debug netip.AddrPort
}

// shutdownGrace is how long plain requests may take to finish, and over how long clients are
// sent away.
const shutdownGrace = 3 * time.Second

// service is something open that serves until it is stopped.
type service struct {
	addr  netip.AddrPort
	serve func() error
	stop  func(context.Context)
}

// Run opens what Config.Listen names and serves until ctx ends, then closes the relay. It
// returns nil when ctx ended it.
func (r *Relay) Run(ctx context.Context) error {
	defer r.Close()
	if err := checkAddr(r.cfg.Listen.Addr); err != nil {
		return err
	}
	services, bound, err := r.open(ctx)
	r.ports = bound
	stop := func() {
		grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), shutdownGrace)
		defer cancel()
		var wg sync.WaitGroup
		for _, s := range services {
			wg.Go(func() { s.stop(grace) })
		}
		r.Drain(grace)
		r.Close()
		wg.Wait()
	}
	if err != nil {
		stop()
		return err
	}
	group, gctx := errgroup.WithContext(ctx)
	for _, s := range services {
		group.Go(s.serve)
	}
	group.Go(func() error {
		<-gctx.Done()
		stop()
		return nil
	})
	if r.cfg.Listen.Cert != nil {
		group.Go(func() error { return r.cfg.Listen.Cert.Run(gctx) })
	}
	if ready := r.cfg.Listen.Ready; ready != nil {
		ready(bound)
	}
	return group.Wait()
}

// open opens all listeners; on an error it returns those that it had opened.
func (r *Relay) open(ctx context.Context) (services []*service, bound Ports, err error) {
	for _, step := range []struct {
		open func(context.Context, Ports) (*service, error)
		at   *netip.AddrPort
	}{
		{r.openRelay, &bound.Relay},
		{r.openHTTP, &bound.HTTP},
		{r.openSTUN, &bound.STUN},
		{r.openDebug, &bound.Debug},
	} {
		s, err := step.open(ctx, bound)
		if err != nil {
			return services, bound, err
		}
		if s != nil {
			*step.at = s.addr
			services = append(services, s)
		}
	}
	return services, bound, nil
}

func (r *Relay) openRelay(ctx context.Context, _ Ports) (*service, error) {
	l := r.cfg.Listen
	ln, err := listenTCP(ctx, l)
	if err != nil {
		return nil, fmt.Errorf("opening the relay's port: %w", err)
	}
	r.gate.atDoor.Store(true)
	ln = newWireListener(gateListener{ln, r.gate, ctx}, l.Cert != nil)
	srv := r.httpServer(r.Handler())
	if l.Cert == nil {
		return httpService(ln, srv, srv.Serve), nil
	}
	srv.TLSConfig = r.TLSConfig(l.Cert.TLSConfig())
	return httpService(ln, srv, func(ln net.Listener) error { return srv.ServeTLS(ln, "", "") }), nil
}

func (r *Relay) openHTTP(ctx context.Context, bound Ports) (*service, error) {
	l := r.cfg.Listen
	if l.Cert == nil || l.HTTPPort < 0 {
		return nil, nil
	}
	port := bound.Relay.Port()
	l.Addr = sameHost(l.Addr, l.HTTPPort)
	ln, err := listenTCP(ctx, l)
	if err != nil {
		if l.Cert.needsHTTP(port) {
			return nil, fmt.Errorf("opening the http port, which Let's Encrypt needs for an address, and where the relay is not on port 443: %w", err)
		}
		r.log.Warn("the http port cannot be had: no captive portal checks, no redirect to https", "addr", l.Addr, "err", err)
		return nil, nil
	}
	pages := plainPages(port)
	pages.HandleFunc("/healthz", r.servePublicHealth)
	srv := r.httpServer(l.Cert.HTTPHandler(pages))
	return httpService(ln, srv, srv.Serve), nil
}

func (r *Relay) openSTUN(ctx context.Context, _ Ports) (*service, error) {
	l := r.cfg.Listen
	if l.STUNPort < 0 {
		return nil, nil
	}
	s, err := ListenSTUN(ctx, sameHost(l.Addr, l.STUNPort))
	if err != nil {
		return nil, err
	}
	s.silentWhile(&r.engine.takesNone)
	r.stun = s
	return &service{s.Addr(), s.Serve, func(context.Context) { s.Close() }}, nil
}

func (r *Relay) openDebug(ctx context.Context, _ Ports) (*service, error) {
	addr := r.cfg.Listen.DebugAddr
	if addr == "" {
		return nil, nil
	}
	ln, err := listenTCP(ctx, Listen{Addr: addr})
	if err != nil {
		return nil, fmt.Errorf("opening the debug port: %w", err)
	}
	srv := r.httpServer(r.debugPages())
	return httpService(ln, srv, srv.Serve), nil
}

// httpServer is a server whose readers are bounded and whose complaints about clients that
// break off are not news.
func (r *Relay) httpServer(h http.Handler) *http.Server {
	var protocols http.Protocols
	protocols.SetHTTP1(true) // DERP takes over the connection, which HTTP/2 does not let it
	return &http.Server{
		Handler:           h,
		Protocols:         &protocols,
		ReadHeaderTimeout: 30 * time.Second, // also to begin to speak, for many that come at once are slow themselves
		ReadTimeout:       30 * time.Second,
		WriteTimeout:      30 * time.Second,
		IdleTimeout:       time.Minute,
		MaxHeaderBytes:    16 << 10,
		ErrorLog:          slog.NewLogLogger(r.log.Handler(), slog.LevelDebug),
	}
}

func httpService(ln net.Listener, srv *http.Server, serve func(net.Listener) error) *service {
	return &service{
		addr: addrPort(ln.Addr()),
		serve: func() error {
			err := serve(ln)
			if errors.Is(err, http.ErrServerClosed) || errors.Is(err, net.ErrClosed) {
				return nil
			}
			return err
		},
		stop: func(ctx context.Context) {
			if srv.Shutdown(ctx) != nil {
				srv.Close()
			}
			ln.Close()
		},
	}
}

// plainPages answers on the http port: the captive portal check, and a redirect of all else
// to the relay's https port.
func plainPages(tlsPort uint16) *http.ServeMux {
	mux := http.NewServeMux()
	mux.HandleFunc("/generate_204", serveNoContent)
	mux.HandleFunc("/", func(w http.ResponseWriter, req *http.Request) {
		host := req.Host
		if h, _, err := net.SplitHostPort(host); err == nil {
			host = h
		}
		if host == "" || req.Method != http.MethodGet && req.Method != http.MethodHead {
			http.Error(w, "use https", http.StatusBadRequest)
			return
		}
		host = trimBrackets(host)
		if tlsPort != 443 {
			host = net.JoinHostPort(host, strconv.Itoa(int(tlsPort)))
		} else if isIPv6(host) {
			host = "[" + host + "]"
		}
		http.Redirect(w, req, "https://"+host+req.URL.RequestURI(), http.StatusFound)
	})
	return mux
}

// debugPages are for the operator; they are served at an address of their own.
func (r *Relay) debugPages() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("/{$}", r.serveStatus)
	mux.HandleFunc("/healthz", r.serveHealth)
	mux.HandleFunc("/metrics", r.serveMetrics)
	mux.HandleFunc("/debug/varz", r.serveMetrics) // where cmd/derper has them
	mux.HandleFunc("/debug/vars", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprintf(w, "{\"derp\": %s}\n", r.engine.vars())
	})
	mux.HandleFunc("/debug/pprof/", pprof.Index)
	mux.HandleFunc("/debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("/debug/pprof/symbol", pprof.Symbol)
	mux.HandleFunc("/debug/pprof/trace", pprof.Trace)
	return mux
}
