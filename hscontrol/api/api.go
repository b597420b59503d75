// Package api answers administrators: the gRPC service of proto/headscale/v1 over the store.
//
// The way of a call through the files of this package:
//
//	listen.go    limits, deadline, log, recovery
//	access.go    who calls (an API key: access/guard.go, or someone on this machine: person.go), and which tailnets they
//	             may see
//	scopes.go    what each rpc needs
//	users.go, nodes.go, relays.go, ...   one use case of the store each
//	pages.go     a part of a list, and where the next one begins
//	current.go   tailnets as the store has them now
//	shown.go     nodes as they were shown before
//	convert.go   nouns -> messages, the only place; policymessages.go for what policies answer
//	fault.go     errors -> gRPC codes, the only table
//	rest.go      all of it once more, over HTTP
package api

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"tailscale.com/tailcfg"
	"tailscale.com/types/key"

	headscalev1 "github.com/keelscale/keelscale/proto/headscale/v1"

	"github.com/keelscale/keelscale/hscontrol/api/access"
	"github.com/keelscale/keelscale/hscontrol/state"
	"github.com/keelscale/keelscale/hscontrol/store"
	"github.com/keelscale/keelscale/hscontrol/tailnet"
)

// Config is what the service is built from. Store, CheckPolicy, TagExists and Approve are needed; a call that needs
// one of the others is answered with a sentence where it is nil.
type Config struct {
	Store *store.Store

	// PolicyFile reports whether a file governs a tailnet now, so that its policy cannot be set here, and which one; the
	// path is empty where the configuration names none. Nil: all policies are in the database.
	PolicyFile func(t *tailnet.Tailnet) (path string, governs bool)
	// CheckPolicy says whether the text can be a tailnet's policy. Its errors are shown as they are.
	CheckPolicy func(ctx context.Context, id tailnet.ID, text string) (warnings []string, err error)
	// TagExists reports whether the policy in force has the tag among its tagOwners.
	TagExists func(ctx context.Context, id tailnet.ID, tag string) bool
	// View is a tailnet as it is now, with its policy; nil where there is no such tailnet.
	View func(id tailnet.ID) *state.View
	// AwaitPolicy returns when this version of a tailnet's policy, or a later one, is known everywhere here. Nil: at
	// once.
	AwaitPolicy func(ctx context.Context, id tailnet.ID, version uint64) error
	// Problems are the policies that are not in force as they should be. Every caller is told of them. Nil: none.
	Problems func() []state.Problem

	// Approve lets in the client that waits under ref, as the user that userRef names in the tailnet of that name
	// (empty: default).
	Approve func(ctx context.Context, ref, userRef, tailnetName string) (*tailnet.Node, error)

	// DERPMap is the map as clients get it now.
	DERPMap func() *tailcfg.DERPMap
	// ServerKey is the public Noise key that relays are told with their enrolment key, and ControlURL where they find the
	// server.
	ServerKey  key.MachinePublic
	ControlURL string
	// Embedded are the relays inside this server and inside the others that share its database. Nil: there are none.
	Embedded func() []*EmbeddedRelay
	// WebhookSecret is what requests to an endpoint are signed with. Nil: there are no webhooks.
	WebhookSecret func(*tailnet.Webhook) string
	// Health is what is not as it should be, beside the database. Nil: nothing is known.
	Health func(ctx context.Context) []Fault
	// Status is with what the server runs.
	Status func() Status
	// Reload reads the configuration again, as SIGHUP does.
	Reload func(ctx context.Context) (Reloaded, error)

	Now func() time.Time // nil: time.Now
	Log *slog.Logger     // nil: slog.Default
}

// Fault is something that is not as it should be.
type Fault struct {
	Name   string // one word for programs
	Text   string // one sentence for people, with what to do
	Severe bool   // clients suffer from it
}

// Status is with what the server runs. ReloadedAt is zero before the first reload.
type Status struct {
	Version     string
	ConfigFile  string // empty: none
	ServerURL   string
	StartedAt   time.Time
	ReloadedAt  time.Time
	ReloadError string // of the last reload; empty when it worked
}

// EmbeddedRelay is how the relay inside a server does. Expires is zero where it has no certificate of its own.
type EmbeddedRelay struct {
	Name                   string
	RegionID               int
	RegionCode, RegionName string
	Published              []string // host:port
	DERPPort, STUNPort     int
	Expires                time.Time
	SeenAt                 time.Time // when it said what follows; zero: never
	Clients                int
	Traffic                tailnet.RelayTraffic
	Troubles               []string
	Online                 bool   // its server says that it lives
	OutBecause             string // why clients are not told of it; empty: they are
}

// Reloaded is what a reload did, by keys of the configuration.
type Reloaded struct {
	Applied      []string
	NeedsRestart []string
}

// Server is the service. It may be served by several listeners at once; see [Server.Local] and [Server.Remote].
type Server struct {
	headscalev1.UnimplementedHeadscaleServiceServer
	cfg     Config
	guard   *access.Guard
	ahead   ahead
	shown   shown
	buffers sync.Pool // of *[]byte, for answers
	streams *eventStreams
}

// NewServer makes the service. It starts nothing.
func NewServer(cfg Config) *Server {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Log == nil {
		cfg.Log = slog.Default()
	}
	guard := access.NewGuard(cfg.Store, cfg.Now)
	guard.Log = cfg.Log
	return &Server{cfg: cfg, guard: guard, streams: newEventStreams()}
}

// Guard is who knows callers over the network, for doors beside this one: limits hold over all of them.
func (s *Server) Guard() *access.Guard { return s.guard }
