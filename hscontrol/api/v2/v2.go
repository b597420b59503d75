// Package v2 answers programs that were written for Tailscale's own API: /api/v2 over the store.
//
// The way of a call through the files of this package:
//
//	routes.go    method and path -> operation, and the scope that it needs
//	call.go      who calls, which tailnet they mean, the body
//	devices.go, keys.go, users.go, ...   one use case of the store each
//	fault.go     errors -> status and {"message": …}, the only table
//
// Keys, scopes and limits are those of package access, as for REST v1 and gRPC. What makes no sense without Tailscale's
// cloud answers 501 with the reason.
package v2

import (
	"context"
	"log/slog"
	"net/http"
	"strings"
	"time"

	"github.com/keelscale/keelscale/hscontrol/api/access"
	"github.com/keelscale/keelscale/hscontrol/hooks"
	"github.com/keelscale/keelscale/hscontrol/state"
	"github.com/keelscale/keelscale/hscontrol/store"
	"github.com/keelscale/keelscale/hscontrol/tailnet"
)

// Config is what the API is built from. Store, Guard, View and CheckPolicy are needed.
type Config struct {
	Store *store.Store
	Guard *access.Guard
	// View is a tailnet as it is now; nil where there is no such tailnet.
	View func(id tailnet.ID) *state.View
	// Fresh is View, not older than what the store had when it was called.
	Fresh func(ctx context.Context, id tailnet.ID) (*state.View, error)

	// CheckPolicy says whether the text can be a tailnet's policy. Its errors are shown as they are.
	CheckPolicy func(ctx context.Context, id tailnet.ID, text string) (warnings []string, err error)
	// AwaitPolicy returns when this version of a tailnet's policy, or a later one, is known here.
	AwaitPolicy func(ctx context.Context, id tailnet.ID, version uint64) error
	// PolicyFile reports whether a file governs a tailnet now, so that its policy cannot be set here, and which one; the
	// path is empty where the configuration names none.
	PolicyFile func(t *tailnet.Tailnet) (path string, governs bool)

	// WebhookSecret is what requests to an endpoint are signed with.
	WebhookSecret func(*tailnet.Webhook) string
	// Hooks send the audit log to where administrators want it.
	Hooks *hooks.Hooks

	// NodeExpiry is how long keys of users' nodes are good where nothing is set for a tailnet; 0: for ever.
	NodeExpiry time.Duration

	Now func() time.Time // nil: time.Now
	Log *slog.Logger     // nil: slog.Default
}

// prefix is where all of it is.
const prefix = "/api/v2"

// Server answers /api/v2.
type Server struct {
	cfg Config
	mux *http.ServeMux
}

// New makes the server. It starts nothing.
func New(cfg Config) *Server {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Log == nil {
		cfg.Log = slog.Default()
	}
	s := &Server{cfg: cfg, mux: http.NewServeMux()}
	for _, op := range operations() {
		s.mux.Handle(op.method+" "+prefix+op.path, s.handle(op))
	}
	s.mux.HandleFunc("POST "+prefix+"/oauth/token", cfg.Guard.Token)
	s.mux.HandleFunc("POST "+prefix+"/oauth/token-exchange", cfg.Guard.Exchange)
	s.mux.HandleFunc("/", s.nothing)
	return s
}

func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	h.Set("Cache-Control", "no-store")
	h.Set("X-Content-Type-Options", "nosniff")
	s.mux.ServeHTTP(w, r)
}

// nothing answers where no operation is.
func (s *Server) nothing(w http.ResponseWriter, r *http.Request) {
	var others []string
	for _, method := range []string{http.MethodGet, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete} {
		probe := &http.Request{Method: method, URL: r.URL, Host: r.Host}
		if _, pattern := s.mux.Handler(probe); pattern != "/" && pattern != "" {
			others = append(others, method)
		}
	}
	if len(others) > 0 {
		w.Header().Set("Allow", strings.Join(others, ", "))
		refuse(w, &refusal{http.StatusMethodNotAllowed, r.Method + " does nothing here; " + strings.Join(others, " or ") + " does"})
		return
	}
	refuse(w, &refusal{http.StatusNotFound, "there is nothing at this address"})
}
