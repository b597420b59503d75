package api

import (
	"context"
	"fmt"
	"mime"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/protobuf/proto"

	headscalev1 "github.com/keelscale/keelscale/proto/headscale/v1"

	"github.com/keelscale/keelscale/hscontrol/tailnet"
)

// REST is the service once more, over HTTP and JSON below /api/v1. What a call does, and who may make it, is decided by
// the same methods as over gRPC. The way of a call:
//
//	restroutes.go    method and path -> rpc; older names of both
//	restrequest.go   path, query and body -> request message
//	restjson.go      answer -> JSON; restolder.go: as older releases wrote it
//	restfresh.go     keys that were just made, for those who made them
//	restmatch.go     ETag and If-Match of policies
//	restfault.go     refusal -> problem+json
//	events.go        what happens, as it happens
//	openapi.go       the table of routes, described for programs and for people

// restPrefix is where all of it is.
const restPrefix = "/api/v1"

// gateway turns HTTP requests into calls of the service.
type gateway struct {
	server  *Server
	methods map[string]grpc.MethodDesc
	mux     *http.ServeMux
	fresh   *fresh
}

// REST is the service over HTTP, for paths that begin with /api/v1 or /swagger. Each call needs an API key,
// "Authorization: Bearer hskey-api-…".
func (s *Server) REST() http.Handler {
	g := &gateway{server: s, methods: map[string]grpc.MethodDesc{}, mux: http.NewServeMux(), fresh: &fresh{keys: map[uint64]freshKey{}}}
	for _, m := range headscalev1.HeadscaleService_ServiceDesc.Methods {
		g.methods[m.MethodName] = m
	}
	for _, op := range operations() {
		g.mux.Handle(op.method+" "+restPrefix+op.path, g.handle(op))
	}
	g.mux.HandleFunc("GET "+restPrefix+"/events", s.serveEvents)
	g.describe()
	g.mux.HandleFunc("/", g.nothing)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Cache-Control", "no-store")
		h.Set("X-Content-Type-Options", "nosniff")
		g.mux.ServeHTTP(w, r)
	})
}

// handle serves one operation.
func (g *gateway) handle(op operation) http.Handler {
	method, found := g.methods[op.rpc]
	if !found {
		panic("no rpc " + op.rpc) // the table is tested
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		style := styleOf(r, op)
		resp, err := g.call(w, r, op, method, &style)
		if err != nil {
			refuseAs(w, r, op.explain(err), op.hinted)
			return
		}
		if op.answer != nil {
			if resp, err = op.answer(resp); err != nil {
				refuse(w, r, toStatus(err))
				return
			}
		}
		if !style.bare {
			g.fresh.note(r, resp, g.server.cfg.Now())
		}
		tag(w.Header(), resp)
		w.Header().Set("Content-Type", "application/json")
		g.server.writeJSON(w, resp, style)
	})
}

// call makes the call as gRPC would, with the same interceptors. The request is not read before the caller is known.
func (g *gateway) call(w http.ResponseWriter, r *http.Request, op operation, method grpc.MethodDesc, style *style) (proto.Message, error) {
	var message proto.Message
	decode := func(req any) error {
		message = req.(proto.Message)
		return nil
	}
	authenticate := g.server.authenticate(tailnet.ViaREST)
	intercept := func(ctx context.Context, req any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
		read := func(ctx context.Context, req any) (any, error) {
			if err := g.read(ctx, w, r, op, message, style); err != nil {
				return nil, err
			}
			return next(ctx, req)
		}
		tell := func(ctx context.Context, req any) (any, error) { return g.server.tell(ctx, req, info, read) }
		who := func(ctx context.Context, req any) (any, error) { return authenticate(ctx, req, info, tell) }
		return g.server.protect(ctx, req, info, who)
	}
	ctx := grpc.NewContextWithServerTransportStream(incoming(r), headers{w.Header()})
	resp, err := method.Handler(g.server, ctx, decode, intercept)
	if err != nil {
		return nil, err
	}
	return resp.(proto.Message), nil
}

// incoming is the request's context as a gRPC call would have it.
func incoming(r *http.Request) context.Context {
	ctx := r.Context()
	if from, err := netip.ParseAddrPort(r.RemoteAddr); err == nil {
		ctx = peer.NewContext(ctx, &peer.Peer{Addr: net.TCPAddrFromAddrPort(from)})
	} else {
		ctx = peer.NewContext(ctx, &peer.Peer{Addr: &net.UnixAddr{Name: r.RemoteAddr, Net: "unix"}})
	}
	return metadata.NewIncomingContext(ctx, metadata.MD{"authorization": r.Header.Values("Authorization")})
}

// headers are where the metadata of an answer go.
type headers struct{ http.Header }

func (headers) Method() string { return "" }

// SetHeader makes headers of metadata. What is not ASCII is encoded as in mail (RFC 2047), as HTTP has nothing for it.
func (h headers) SetHeader(md metadata.MD) error {
	for name, values := range md {
		for _, v := range values {
			h.Add(strings.TrimSuffix(name, "-bin"), mime.QEncoding.Encode("utf-8", strings.Map(printable, v)))
		}
	}
	return nil
}

func (h headers) SendHeader(md metadata.MD) error { return h.SetHeader(md) }

func (headers) SetTrailer(metadata.MD) error { return nil }

// printable keeps a header one line.
func printable(r rune) rune {
	if r < ' ' || r == 0x7f {
		return ' '
	}
	return r
}

// nothing answers where no operation is.
func (g *gateway) nothing(w http.ResponseWriter, r *http.Request) {
	var others []string
	for _, method := range []string{http.MethodGet, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete} {
		probe := &http.Request{Method: method, URL: r.URL, Host: r.Host}
		if _, pattern := g.mux.Handler(probe); pattern != "/" && pattern != "" {
			others = append(others, method)
		}
	}
	if len(others) > 0 && !slices.Contains(others, r.Method) {
		w.Header().Set("Allow", strings.Join(others, ", "))
		problem(w, r, trouble{status: http.StatusMethodNotAllowed, code: codes.Unimplemented, text: fmt.Sprintf("%s does nothing here; %s does", r.Method, strings.Join(others, " or "))})
		return
	}
	problem(w, r, trouble{status: http.StatusNotFound, code: codes.NotFound, text: "there is nothing at this address: see " + restPrefix + "/docs"})
}
