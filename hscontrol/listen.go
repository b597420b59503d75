package hscontrol

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"net/http/pprof"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	"github.com/keelscale/keelscale/derp"
	v2 "github.com/keelscale/keelscale/hscontrol/api/v2"
	"github.com/keelscale/keelscale/hscontrol/config"
	"github.com/keelscale/keelscale/hscontrol/console"
)

// Times of the listeners.
const (
	headerTime   = 15 * time.Second
	idleTime     = 2 * time.Minute
	shutdownTime = 3 * time.Second
)

// door is an open socket and what is served at it.
type door struct {
	name     string // for the log: what it is for
	listener net.Listener
	serve    func(net.Listener) error
	stop     func(ctx context.Context)
}

type doors []*door

func (d doors) close() {
	for _, each := range d {
		each.listener.Close()
	}
}

// serveDoors serves at every door until ctx ends, then shuts them within shutdownTime.
func (s *Server) serveDoors(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	for _, d := range s.doors {
		group.Go(func() error {
			if err := d.serve(d.listener); err != nil && !errors.Is(err, http.ErrServerClosed) && !errors.Is(err, grpc.ErrServerStopped) && !errors.Is(err, net.ErrClosed) {
				return fmt.Errorf("serving %s: %w", d.name, err)
			}
			return nil
		})
		group.Go(func() error {
			<-ctx.Done()
			last, cancel := context.WithTimeout(context.WithoutCancel(ctx), shutdownTime)
			defer cancel()
			d.stop(last)
			return nil
		})
	}
	if s.stun != nil {
		group.Go(s.stun.Serve)
		group.Go(func() error { <-ctx.Done(); return s.stun.Close() })
	}
	if s.relay != nil {
		group.Go(func() error {
			<-ctx.Done()
			last, cancel := context.WithTimeout(context.WithoutCancel(ctx), shutdownTime)
			defer cancel()
			s.relay.Drain(last)
			return s.relay.Close()
		})
	}
	return group.Wait()
}

// listen opens every socket.
func (s *Server) listen(ctx context.Context) error {
	for _, open := range []func(context.Context) error{s.listenClients, s.listen443, s.listenChallenge, s.listenLocal, s.listenRemote, s.listenMetrics} {
		if err := open(ctx); err != nil {
			return err
		}
	}
	return nil
}

func (s *Server) add(name string, l net.Listener, serve func(net.Listener) error, stop func(context.Context)) {
	s.doors = append(s.doors, &door{name: name, listener: l, serve: serve, stop: stop})
}

func (s *Server) addHTTP(name string, l net.Listener, h http.Handler) {
	srv := &http.Server{
		Handler: h, ReadHeaderTimeout: headerTime, IdleTimeout: idleTime, MaxHeaderBytes: 32 << 10,
		ErrorLog: slog.NewLogLogger(s.log.Handler(), slog.LevelDebug),
	}
	srv.RegisterOnShutdown(s.api.EndEvents)
	s.add(name, l, srv.Serve, func(ctx context.Context) {
		if srv.Shutdown(ctx) != nil {
			srv.Close()
		}
	})
}

func (s *Server) addGRPC(name string, l net.Listener, g *grpc.Server) {
	s.add(name, l, g.Serve, func(ctx context.Context) {
		stopped := context.AfterFunc(ctx, g.Stop)
		g.GracefulStop()
		stopped()
	})
}

// tcp opens a TCP port, with a sentence about the key that names it.
func tcp(ctx context.Context, key, addr string) (net.Listener, error) {
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("listening at %s: %w; set %s to an address that is free", addr, err, key)
	}
	return l, nil
}

// listenClients opens the port that clients and browsers come to. With a certificate that an authority vouches for it
// speaks TLS; else it takes plain HTTP and TLS alike.
func (s *Server) listenClients(ctx context.Context) error {
	l, err := tcp(ctx, "listen_addr", s.config().ListenAddr)
	if err != nil {
		return err
	}
	s.addHTTP("clients", s.secured(l, !s.cert.trusted()), s.clientRoutes())
	return nil
}

// secured puts the server's certificate before a listener; either also lets plain HTTP through.
func (s *Server) secured(l net.Listener, either bool) net.Listener {
	tlsConfig := s.cert.tlsConfig()
	// Connections are upgraded to other protocols, which HTTP/2 cannot.
	tlsConfig.NextProtos = withoutHTTP2(tlsConfig.NextProtos)
	if s.relay != nil {
		tlsConfig = s.relay.TLSConfig(tlsConfig)
	}
	if either {
		return derp.Either(l, tlsConfig)
	}
	return tls.NewListener(derp.Buffered(l, true), tlsConfig)
}

// clientRoutes are all that is asked of the main port.
func (s *Server) clientRoutes() http.Handler {
	mux := http.NewServeMux()
	s.control.Handle(mux)
	if s.relay != nil {
		s.relay.Routes(mux)
	}
	mux.HandleFunc("GET /health", s.serveHealth)
	mux.HandleFunc("GET /version", s.serveVersion)
	rest := s.api.REST()
	mux.Handle("/api/v1/", rest)
	mux.Handle("/api/v2/", v2.New(s.apiV2Config()))
	mux.Handle("/swagger", rest)
	mux.Handle("/swagger/", rest)
	mux.Handle("/", console.New(console.Config{ServerURL: s.config().ServerURL, Registration: s.store.FindRegistration, Login: s.waitingLogin, Log: s.log}))
	return trusting(s.config().TrustedProxies, s.withPages(s.withOrigins(mux)))
}

func (s *Server) serveHealth(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "application/health+json")
	status := "pass"
	if err := s.store.Ping(r.Context()); err != nil {
		status = "fail"
		w.WriteHeader(http.StatusServiceUnavailable)
	}
	json.NewEncoder(w).Encode(map[string]string{"status": status})
}

func (s *Server) serveVersion(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	json.NewEncoder(w).Encode(map[string]string{"version": s.opts.Version})
}

// listen443 opens port 443 beside a plain http server_url: a client that has dialled such a server twice within two
// minutes insists on TLS there from then on, and takes any certificate, since Noise proves who answers.
func (s *Server) listen443(ctx context.Context) error {
	cfg := s.config()
	u, err := url.Parse(cfg.ServerURL)
	if err != nil {
		return fmt.Errorf("reading server_url: %w", err)
	}
	_, port, err := net.SplitHostPort(cfg.ListenAddr)
	if err != nil {
		return fmt.Errorf("reading listen_addr: %w", err)
	}
	if u.Scheme != "http" || port == "443" || !needs443(u.Hostname()) {
		return nil
	}
	why := ""
	if cfg.Noise.AlsoOn443 {
		var lc net.ListenConfig
		l, err := lc.Listen(ctx, "tcp", net.JoinHostPort(hostOf(cfg.ListenAddr), "443"))
		if err == nil {
			s.addHTTP("clients that insist on TLS", s.secured(l, true), s.clientRoutes())
			return nil
		}
		why = err.Error()
	} else {
		why = "noise.also_on_443 is off"
	}
	text := fmt.Sprintf("port 443 of %s is not answered by this server (%s): clients that reconnect twice within two minutes insist on it and stay away; free the port, let the program bind it (setcap cap_net_bind_service=+ep, or AmbientCapabilities in systemd), or forward it to %s", u.Hostname(), why, cfg.ListenAddr)
	s.setFault("port-443", text, false)
	s.log.Warn(text)
	return nil
}

// needs443 reports whether clients would turn to port 443 of a host: not of a private or loopback address.
func needs443(host string) bool {
	ip := net.ParseIP(host)
	return ip == nil && host != "localhost" || ip != nil && !ip.IsPrivate() && !ip.IsLoopback() && !ip.IsLinkLocalUnicast()
}

// listenChallenge opens the port where an ACME authority asks.
func (s *Server) listenChallenge(ctx context.Context) error {
	cfg := s.config()
	if s.cert.acme == nil || cfg.TLS.LetsEncryptChallenge != config.ChallengeHTTP01 {
		return nil
	}
	addr := cfg.TLS.LetsEncryptListen
	if strings.HasSuffix(addr, ":http") {
		addr = strings.TrimSuffix(addr, "http") + "80"
	}
	l, err := tcp(ctx, "tls_letsencrypt_listen", addr)
	if err != nil {
		return err
	}
	s.addHTTP("the ACME challenge", l, s.cert.challenge())
	return nil
}

// listenLocal opens the unix socket of the CLI.
func (s *Server) listenLocal(ctx context.Context) error {
	cfg := s.config()
	if err := os.MkdirAll(filepath.Dir(cfg.UnixSocket), 0o755); err != nil {
		return fmt.Errorf("making the directory of unix_socket: %w; set unix_socket to a path that can be written", err)
	}
	if err := clearSocket(ctx, cfg.UnixSocket); err != nil {
		return err
	}
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "unix", cfg.UnixSocket)
	if err != nil {
		return fmt.Errorf("opening unix_socket: %w", err)
	}
	s.addGRPC("the unix socket", l, s.api.Local())
	if err := os.Chmod(cfg.UnixSocket, cfg.UnixSocketPermission); err != nil {
		return fmt.Errorf("setting unix_socket_permission: %w", err)
	}
	return nil
}

// clearSocket removes a socket that nobody listens at any more.
func clearSocket(ctx context.Context, path string) error {
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("looking at unix_socket: %w", err)
	}
	if info.Mode()&fs.ModeSocket == 0 {
		return fmt.Errorf("unix_socket %s is there already and is no socket: remove it or set another path", path)
	}
	var d net.Dialer
	if conn, err := d.DialContext(ctx, "unix", path); err == nil {
		conn.Close()
		return fmt.Errorf("another server answers at unix_socket %s: stop it, or set another unix_socket and data_dir", path)
	}
	if err := os.Remove(path); err != nil {
		return fmt.Errorf("removing the old unix_socket: %w", err)
	}
	return nil
}

// listenRemote opens gRPC over TCP, for command lines elsewhere.
func (s *Server) listenRemote(ctx context.Context) error {
	cfg := s.config()
	if cfg.GRPCListenAddr == "" {
		return nil
	}
	l, err := tcp(ctx, "grpc_listen_addr", cfg.GRPCListenAddr)
	if err != nil {
		return err
	}
	var opts []grpc.ServerOption
	if !cfg.GRPCAllowInsecure || s.cert.trusted() {
		opts = append(opts, grpc.Creds(credentials.NewTLS(s.cert.tlsConfig())))
	}
	s.addGRPC("remote command lines", l, s.api.Remote(opts...))
	return nil
}

// listenMetrics opens the only port where metrics, profiles and other insides can be seen.
func (s *Server) listenMetrics(ctx context.Context) error {
	cfg := s.config()
	if cfg.MetricsListenAddr == "" {
		return nil
	}
	l, err := tcp(ctx, "metrics_listen_addr", cfg.MetricsListenAddr)
	if err != nil {
		if cfg.File != "" {
			return err
		}
		s.log.Warn("no metrics", "err", err) // nobody asked for them
		return nil
	}
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(s.metrics(), promhttp.HandlerOpts{}))
	mux.HandleFunc("/debug/pprof/", pprof.Index)
	mux.HandleFunc("/debug/pprof/cmdline", pprof.Cmdline)
	mux.HandleFunc("/debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("/debug/pprof/symbol", pprof.Symbol)
	mux.HandleFunc("/debug/pprof/trace", pprof.Trace)
	s.addHTTP("metrics", l, mux)
	return nil
}
