package api

import (
	"context"
	"fmt"
	"net"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	"github.com/keelscale/keelscale/hscontrol/api/access"
	"github.com/keelscale/keelscale/hscontrol/store"
	"github.com/keelscale/keelscale/hscontrol/tailnet"
)

// allTailnets in a list request asks for everything that the caller may see.
const allTailnets = "*"

// trust is for those who can open the unix socket.
func (s *Server) trust(ctx context.Context, req any, _ *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
	c := access.Caller{Via: tailnet.ViaCLI, From: "unix socket"}
	if p, ok := peer.FromContext(ctx); ok {
		if person, ok := p.AuthInfo.(person); ok {
			c.Who = person.name
		}
	}
	return next(access.With(ctx, c), req)
}

// authenticate asks for an API key, at one of the doors, and for the scope that the method needs.
func (s *Server) authenticate(via string) grpc.UnaryServerInterceptor {
	return func(ctx context.Context, req any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
		var authorization string
		if sent := metadata.ValueFromIncomingContext(ctx, "authorization"); len(sent) > 0 {
			authorization = sent[0]
		}
		c, err := s.guard.Authenticate(ctx, authorization, address(ctx))
		if err != nil {
			return nil, err
		}
		if err := permit(c, info.FullMethod); err != nil {
			return nil, err
		}
		c.Via = via
		return next(access.With(ctx, c), req)
	}
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

// everything refuses callers who may see one tailnet only.
func everything(ctx context.Context) error {
	if access.Of(ctx).Tailnet != 0 {
		return status.Error(codes.PermissionDenied, "this API key is for one tailnet only, and this is about all of them")
	}
	return nil
}

// tailnetNamed is the tailnet of that name; of an empty name the caller's own, or the default.
func (s *Server) tailnetNamed(ctx context.Context, name string) (*tailnet.Tailnet, error) {
	bound := access.Of(ctx).Tailnet
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
		return access.Of(ctx).Tailnet, nil
	}
	t, err := s.tailnetNamed(ctx, name)
	if err != nil {
		return 0, err
	}
	return t.ID, nil
}

// ownerFilter is the user that a list request asks for, zero for all. With "all tailnets" the name must be one's only.
// A user who may see only their own gets only that.
func (s *Server) ownerFilter(ctx context.Context, id tailnet.ID, ref string) (tailnet.UserID, error) {
	c := access.Of(ctx)
	if ref == "" {
		if c.OwnOnly() {
			return c.User, nil
		}
		return 0, nil
	}
	u, err := s.cfg.Store.FindUser(ctx, id, ref)
	if err != nil {
		return 0, err
	}
	if !c.Owns(u.ID) {
		return 0, fmt.Errorf("%w: user %q", tailnet.ErrNotFound, ref)
	}
	return u.ID, nil
}

// mayReach reports whether the caller may see what belongs to the tailnet.
func mayReach(ctx context.Context, id tailnet.ID) bool {
	return access.Of(ctx).Sees(id)
}

// node finds a node that the caller may see.
func (s *Server) node(ctx context.Context, id uint64) (*tailnet.Node, error) {
	if id == 0 {
		return nil, invalid("say which node: its ID is missing")
	}
	n, err := s.nodeNow(ctx, tailnet.NodeID(id))
	if err != nil {
		return nil, err
	}
	if c := access.Of(ctx); !c.Sees(n.TailnetID) || !c.Owns(n.UserID) {
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
	if c := access.Of(ctx); len(users) == 0 || !c.Sees(users[0].TailnetID) || !c.Owns(users[0].ID) {
		return nil, fmt.Errorf("%w: user %d", tailnet.ErrNotFound, id)
	}
	return users[0], nil
}
