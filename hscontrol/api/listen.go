package api

import (
	"context"
	"fmt"
	"log/slog"
	"runtime/debug"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/reflection"
	"google.golang.org/grpc/status"

	headscalev1 "github.com/keelscale/keelscale/proto/headscale/v1"

	"github.com/keelscale/keelscale/hscontrol/api/access"
	"github.com/keelscale/keelscale/hscontrol/tailnet"
)

const (
	maxRequest  = 4 << 20          // bytes; a policy is the largest thing that anybody sends
	maxTime     = 30 * time.Second // for one call
	maxStreams  = 100              // calls at once on one connection
	connectTime = 10 * time.Second // for handshakes
	pingTime    = 2 * time.Minute  // of silence, after which a caller is asked whether it is still there
)

// Local is a gRPC server for the unix socket: who can open it may do everything.
func (s *Server) Local(opts ...grpc.ServerOption) *grpc.Server {
	return s.listener(s.trust, append([]grpc.ServerOption{grpc.Creds(socketCredentials{})}, opts...))
}

// Remote is a gRPC server for TCP: each call needs an API key, "authorization: Bearer hskey-api-…". TLS is an option.
func (s *Server) Remote(opts ...grpc.ServerOption) *grpc.Server {
	return s.listener(s.authenticate(tailnet.ViaGRPC), opts)
}

func (s *Server) listener(who grpc.UnaryServerInterceptor, opts []grpc.ServerOption) *grpc.Server {
	opts = append([]grpc.ServerOption{
		grpc.MaxRecvMsgSize(maxRequest),
		grpc.MaxConcurrentStreams(maxStreams),
		grpc.ConnectionTimeout(connectTime),
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: pingTime}),
		grpc.ChainUnaryInterceptor(s.protect, who, s.tell),
		grpc.StreamInterceptor(asOne(who)),
	}, opts...)
	g := grpc.NewServer(opts...)
	headscalev1.RegisterHeadscaleServiceServer(g, s)
	reflection.Register(g) // its streams are the only ones
	return g
}

// asOne asks of a stream what is asked of a call.
func asOne(who grpc.UnaryServerInterceptor) grpc.StreamServerInterceptor {
	return func(srv any, stream grpc.ServerStream, info *grpc.StreamServerInfo, next grpc.StreamHandler) error {
		call := &grpc.UnaryServerInfo{Server: srv, FullMethod: info.FullMethod}
		_, err := who(stream.Context(), nil, call, func(context.Context, any) (any, error) { return nil, next(srv, stream) })
		if err != nil {
			return toStatus(err)
		}
		return nil
	}
}

// protect gives each call its deadline, translates its error, logs what is the server's own fault, and keeps a panic
// from taking the server along.
func (s *Server) protect(ctx context.Context, req any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler) (resp any, err error) {
	log := s.cfg.Log.With(slog.String("method", info.FullMethod))
	defer func() {
		if p := recover(); p != nil {
			log.Error("call panicked", "panic", p, "stack", string(debug.Stack()))
			resp, err = nil, status.Error(codes.Internal, "the server has a defect here; its log has the details")
		}
	}()
	ctx, cancel := context.WithTimeout(ctx, maxTime)
	defer cancel()
	resp, err = next(ctx, req)
	if err == nil {
		return resp, nil
	}
	answer := toStatus(err)
	if c := status.Code(answer); c == codes.Internal || c == codes.Unavailable {
		log.Error("call failed", "err", err)
	}
	return nil, answer
}

// ProblemHeader is where every answer carries what its caller should be told loudly, a sentence for each value.
const ProblemHeader = "headscale-problem-bin"

// tell adds to the answer that a policy is not in force as it should be, for those who may read it.
func (s *Server) tell(ctx context.Context, req any, _ *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
	if s.cfg.Problems != nil && access.Of(ctx).May("policy_file:read") {
		for _, p := range s.cfg.Problems() {
			if mayReach(ctx, p.TailnetID) {
				_ = grpc.SetHeader(ctx, metadata.Pairs(ProblemHeader, fmt.Sprintf("tailnet %s: %s", p.Tailnet, p.Text))) // what matters is the answer
			}
		}
	}
	return next(ctx, req)
}
