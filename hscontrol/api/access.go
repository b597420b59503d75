package api

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	"github.com/keelscale/keelscale/hscontrol/store"
	"github.com/keelscale/keelscale/hscontrol/tailnet"
)

// allTailnets in a list request asks for everything that the caller may see.
const allTailnets = "*"

// caller is who makes a call.
type caller struct {
	tailnet tailnet.ID // the only one that they may see; zero: all
	via     string     // "cli" or "api"
	who     string     // a user of this machine, or an API key by its prefix; empty: not known
	from    string     // "unix socket", or an address
}

type callerKey struct{}

func callerOf(ctx context.Context) caller {
	c, _ := ctx.Value(callerKey{}).(caller)
	return c
}

// trust is for those who can open the unix socket.
func (s *Server) trust(ctx context.Context, req any, _ *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
	c := caller{via: "cli", from: "unix socket"}
	if p, ok := peer.FromContext(ctx); ok {
		if person, ok := p.AuthInfo.(person); ok {
			c.who = person.name
		}
	}
	return next(context.WithValue(ctx, callerKey{}, c), req)
}

// authenticate asks for an API key.
func (s *Server) authenticate(ctx context.Context, req any, _ *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
	from := address(ctx)
	key, err := s.bearer(ctx, from)
	if err != nil {
		return nil, err
	}
	c := caller{tailnet: key.TailnetID, via: "api", who: "API key " + key.Prefix, from: from}
	return next(context.WithValue(ctx, callerKey{}, c), req)
}

// address is where a call comes from, without its port.
func address(ctx context.Context) string {
	p, ok := peer.FromContext(ctx)
	if !ok {
		return ""
	}
	from := p.Addr.String()
	if host, _, err := net.SplitHostPort(from); err == nil {
		return host
	}
	return from
}

func (s *Server) bearer(ctx context.Context, from string) (*tailnet.APIKey, error) {
	md, _ := metadata.FromIncomingContext(ctx)
	for _, v := range md.Get("authorization") {
		scheme, secret, ok := strings.Cut(v, " ")
		if !ok || !strings.EqualFold(scheme, "Bearer") {
			continue
		}
		secret, now := strings.TrimSpace(secret), s.cfg.Now()
		if err := s.meters.guess(from, secret, now); err != nil {
			return nil, err
		}
		key, err := s.cfg.Store.VerifyAPIKey(ctx, secret)
		if err == nil {
			return key, s.meters.call(key.ID, secret, now)
		}
		if errors.Is(err, tailnet.ErrAPIKeyRefused) {
			s.meters.failed(from, now)
			return nil, fmt.Errorf("%w; make another with headscale apikeys create on the server", err)
		}
		return nil, fmt.Errorf("checking the API key: %w", err)
	}
	return nil, status.Error(codes.Unauthenticated, "an API key is needed: make one with headscale apikeys create on the server")
}

// everything refuses callers who may see one tailnet only.
func everything(ctx context.Context) error {
	if callerOf(ctx).tailnet != 0 {
		return status.Error(codes.PermissionDenied, "this API key is for one tailnet only, and this is about all of them")
	}
	return nil
}

// tailnetNamed is the tailnet of that name; of an empty name the caller's own, or the default.
func (s *Server) tailnetNamed(ctx context.Context, name string) (*tailnet.Tailnet, error) {
	bound := callerOf(ctx).tailnet
	if bound == 0 {
		return s.cfg.Store.FindTailnet(ctx, name)
	}
	all, err := s.cfg.Store.ListTailnets(ctx)
	if err != nil {
		return nil, err
	}
	for _, t := range all {
		if t.ID == bound && (name == "" || name == t.Name) {
			return t, nil
		}
	}
	return nil, fmt.Errorf("%w: tailnet %q, for this API key", tailnet.ErrNotFound, name)
}

// tailnetOrAll is what a list request asks for. Zero means all.
func (s *Server) tailnetOrAll(ctx context.Context, name string) (tailnet.ID, error) {
	if name == allTailnets {
		return callerOf(ctx).tailnet, nil
	}
	t, err := s.tailnetNamed(ctx, name)
	if err != nil {
		return 0, err
	}
	return t.ID, nil
}

// ownerFilter is the user that a list request asks for, zero for all. With "all tailnets" the name must be one's only.
func (s *Server) ownerFilter(ctx context.Context, id tailnet.ID, ref string) (tailnet.UserID, error) {
	if ref == "" {
		return 0, nil
	}
	u, err := s.cfg.Store.FindUser(ctx, id, ref)
	if err != nil {
		return 0, err
	}
	return u.ID, nil
}

// mayReach reports whether the caller may see what belongs to the tailnet.
func mayReach(ctx context.Context, id tailnet.ID) bool {
	bound := callerOf(ctx).tailnet
	return bound == 0 || bound == id
}

// node finds a node that the caller may see.
func (s *Server) node(ctx context.Context, id uint64) (*tailnet.Node, error) {
	if id == 0 {
		return nil, invalid("say which node: its ID is missing")
	}
	n, err := s.cfg.Store.GetNode(ctx, tailnet.NodeID(id))
	if err != nil {
		return nil, err
	}
	if !mayReach(ctx, n.TailnetID) {
		return nil, fmt.Errorf("%w: node %d", tailnet.ErrNotFound, id)
	}
	return n, nil
}

// user finds a user that the caller may see.
func (s *Server) user(ctx context.Context, id uint64) (*tailnet.User, error) {
	if id == 0 {
		return nil, invalid("say which user: the ID is missing")
	}
	users, err := s.cfg.Store.ListUsers(ctx, store.UserFilter{ID: tailnet.UserID(id)})
	if err != nil {
		return nil, err
	}
	if len(users) == 0 || !mayReach(ctx, users[0].TailnetID) {
		return nil, fmt.Errorf("%w: user %d", tailnet.ErrNotFound, id)
	}
	return users[0], nil
}
