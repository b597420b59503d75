package tailnet

import "context"

// The doors by which a change comes in; see Actor.Via.
const (
	ViaCLI     = "cli"     // the headscale command on the server's own unix socket
	ViaGRPC    = "grpc"    // gRPC over the network
	ViaREST    = "rest"    // /api/v1
	ViaAPI     = "api"     // Tailscale's API, /api/v2
	ViaConsole = "console" // the web console
	ViaLogin   = "login"   // a person at the pages for registering and logging in
	ViaControl = "control" // what tailscaled says for itself
	ViaRelay   = "relay"   // what a relay says for itself
	ViaServer  = "server"  // the server of its own accord: the zero actor
)

// Actor is who makes a change, as the audit log names them. The zero value is the server itself.
type Actor struct {
	Via  string // the door, one of Via...; empty: ViaServer
	Who  string // a user's login name, "apikey:PREFIX", "oauth:ID", "uid:1000", "node:7"; empty: nobody in particular
	From string // the address that it came from, without a port; empty: this machine
}

type actorKey struct{}

// WithActor returns a context whose changes are made by a.
func WithActor(ctx context.Context, a Actor) context.Context {
	return context.WithValue(ctx, actorKey{}, a)
}

// ActorOf is the actor of a context; of one without, the zero Actor.
func ActorOf(ctx context.Context) Actor {
	a, _ := ctx.Value(actorKey{}).(Actor)
	return a
}
