// Package console serves the small web pages of the server: how to connect, whom an administrator is about to let in
// and with which command, and the configuration files for Apple and Windows machines.
//
// A request goes console.go (which page) -> language.go (in which language) -> register.go, login.go, profile.go (what it says)
// -> page.go (how it is written). Pages change nothing: approving is done at the command line.
package console

import (
	"context"
	"log/slog"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/keelscale/keelscale/hscontrol/tailnet"
)

// Config says what the pages speak of. Its zero value serves pages that know no waiting machine.
type Config struct {
	// ServerURL is where clients reach the server, as in the configuration.
	ServerURL string

	// Registration finds a machine that waits for approval; the error wraps tailnet.ErrNotFound where there is none.
	// Nil means that none ever waits. The store's FindRegistration fits.
	Registration func(context.Context, tailnet.RegistrationRef) (*tailnet.Registration, error)

	// Login finds a login by SSH that waits for approval, by its ID in the form of a registration's; the error wraps
	// tailnet.ErrNotFound where there is none. Nil means that none ever waits.
	Login func(ctx context.Context, id string) (*Login, error)

	// Now is the clock. Nil means time.Now.
	Now func() time.Time

	// Log receives what a visitor cannot mend. Nil means slog.Default.
	Log *slog.Logger
}

// Console is the handler of all pages. It answers every path, so it is mounted at "/", behind the more specific ones.
type Console struct {
	cfg   Config
	pages pages
	mux   *http.ServeMux
}

// New makes the handler.
func New(cfg Config) *Console {
	cfg.ServerURL = strings.TrimRight(cfg.ServerURL, "/")
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Log == nil {
		cfg.Log = slog.Default()
	}
	c := &Console{cfg: cfg, pages: parsePages(), mux: http.NewServeMux()}
	c.mux.HandleFunc("GET /{$}", c.show("home"))
	c.mux.HandleFunc("GET /register", c.register)
	c.mux.HandleFunc("GET /register/{id}", c.register)
	c.mux.HandleFunc("GET /auth/{id}", c.register)
	c.mux.HandleFunc("GET /apple", c.show("apple"))
	c.mux.HandleFunc("GET /apple/{platform}", c.appleProfile)
	c.mux.HandleFunc("GET /windows", c.show("windows"))
	c.mux.HandleFunc("GET /windows/tailscale.reg", c.windowsRegistry)
	c.mux.HandleFunc("GET /robots.txt", c.robots)
	c.mux.HandleFunc("GET /favicon.ico", c.icon)
	c.mux.HandleFunc("GET /", c.missing)
	return c
}

// ServeHTTP answers one request. The headers keep a page from being framed, from loading anything from elsewhere, and
// from telling another site its address, which for a registration is as good as a ticket.
func (c *Console) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	h.Set("Content-Security-Policy", c.pages.policy)
	h.Set("X-Frame-Options", "DENY")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Referrer-Policy", "no-referrer")
	c.mux.ServeHTTP(w, r)
}

// show is the handler of a page that says the same to everyone.
func (c *Console) show(name string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		c.render(w, r, http.StatusOK, name, nil)
	}
}

func (c *Console) missing(w http.ResponseWriter, r *http.Request) {
	c.render(w, r, http.StatusNotFound, "missing", nil)
}

func (c *Console) robots(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	_, _ = w.Write([]byte("User-agent: *\nDisallow: /\n"))
}

func (c *Console) icon(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "image/svg+xml")
	w.Header().Set("Cache-Control", "public, max-age=86400")
	_, _ = w.Write(icon)
}

// host is the name or address of the server, for the names of files and profiles.
func (c *Console) host() string {
	u, err := url.Parse(c.cfg.ServerURL)
	if err != nil || u.Hostname() == "" {
		return "headscale"
	}
	return u.Hostname()
}
