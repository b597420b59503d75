package api

import (
	"context"
	"fmt"
	"hash/fnv"
	"net/netip"
	"slices"

	"go4.org/netipx"

	headscalev1 "github.com/keelscale/keelscale/proto/headscale/v1"

	"github.com/keelscale/keelscale/hscontrol/store"
	"github.com/keelscale/keelscale/hscontrol/tailnet"
)

// SetApprovedRoutes replaces the set of routes that a node may serve.
func (s *Server) SetApprovedRoutes(ctx context.Context, req *headscalev1.SetApprovedRoutesRequest) (*headscalev1.SetApprovedRoutesResponse, error) {
	routes := make([]netip.Prefix, len(req.GetRoutes()))
	for i, text := range req.GetRoutes() {
		p, err := tailnet.ParseRoute(text)
		if err != nil {
			return nil, invalid("%w", err)
		}
		routes[i] = p
	}
	m, err := s.change(ctx, req.GetNodeId(), func(n *tailnet.Node) (*tailnet.Node, error) {
		return s.cfg.Store.ApproveRoutes(ctx, n.ID, tailnet.CanonicalRoutes(routes))
	})
	return &headscalev1.SetApprovedRoutesResponse{Node: m}, err
}

// A route of its own, as older interfaces have it, is no row: it is a prefix that a node announces or that is approved
// for it. Its ID holds the node's ID, so that it can be found, and digits made from the prefix, so that it does not
// change when other routes come and go.
const routesPerNode = 10_000

type route struct {
	id     uint64
	node   *tailnet.Node
	prefix netip.Prefix
}

// routesOf are the routes of a node, sorted by prefix.
func routesOf(n *tailnet.Node) []route {
	prefixes := append(n.AnnouncedRoutes(), n.ApprovedRoutes...)
	slices.SortFunc(prefixes, netipx.ComparePrefix)
	prefixes = slices.Compact(prefixes)
	routes := make([]route, len(prefixes))
	used := map[uint64]bool{}
	for i, p := range prefixes {
		h := fnv.New32a()
		h.Write([]byte(p.String())) // a hash returns no error
		digits := uint64(h.Sum32()) % routesPerNode
		for used[digits] {
			digits = (digits + 1) % routesPerNode
		}
		used[digits] = true
		routes[i] = route{id: uint64(n.ID)*routesPerNode + digits, node: n, prefix: p}
	}
	return routes
}

func (r route) message(node *headscalev1.Node) *headscalev1.Route {
	return &headscalev1.Route{
		Id:         r.id,
		Node:       node,
		Prefix:     r.prefix.String(),
		Advertised: slices.Contains(r.node.AnnouncedRoutes(), r.prefix),
		Enabled:    slices.Contains(r.node.ApprovedRoutes, r.prefix),
		IsPrimary:  slices.Contains(r.node.PrimaryRoutes, r.prefix),
		CreatedAt:  timestamp(&r.node.CreatedAt),
		UpdatedAt:  timestamp(&r.node.UpdatedAt),
	}
}

// GetRoutes lists the routes of all nodes.
func (s *Server) GetRoutes(ctx context.Context, req *headscalev1.GetRoutesRequest) (*headscalev1.GetRoutesResponse, error) {
	id, err := s.tailnetOrAll(ctx, req.GetTailnet())
	if err != nil {
		return nil, err
	}
	nodes, err := s.cfg.Store.ListNodes(ctx, store.NodeFilter{TailnetID: id})
	if err != nil {
		return nil, err
	}
	routes, next, err := s.routeMessages(ctx, req, id, nodes...)
	return &headscalev1.GetRoutesResponse{Routes: routes, NextPageToken: next}, err
}

// GetNodeRoutes lists the routes of one node.
func (s *Server) GetNodeRoutes(ctx context.Context, req *headscalev1.GetNodeRoutesRequest) (*headscalev1.GetNodeRoutesResponse, error) {
	n, err := s.node(ctx, req.GetNodeId())
	if err != nil {
		return nil, err
	}
	routes, next, err := s.routeMessages(ctx, req, n.TailnetID, n)
	return &headscalev1.GetNodeRoutesResponse{Routes: routes, NextPageToken: next}, err
}

func (s *Server) routeMessages(ctx context.Context, req paged, id tailnet.ID, nodes ...*tailnet.Node) ([]*headscalev1.Route, string, error) {
	n, err := s.namesIn(ctx, id)
	if err == nil {
		err = s.withKeys(ctx, n, nodes...)
	}
	if err != nil {
		return nil, "", err
	}
	var all []route
	for _, node := range nodes {
		all = append(all, routesOf(node)...)
	}
	all, next, err := page(req, all, placeOfRoute)
	var messages []*headscalev1.Route
	var node *headscalev1.Node // of the routes that come one after the other
	for i, r := range all {
		if i == 0 || r.node != all[i-1].node {
			node = n.node(r.node)
		}
		messages = append(messages, r.message(node))
	}
	return messages, next, err
}

// placeOfRoute sorts as routesOf does: by node, then as netipx.ComparePrefix has it.
func placeOfRoute(r route) place {
	addr := r.prefix.Addr()
	text := append([]byte{byte(addr.BitLen()), byte(r.prefix.Bits())}, addr.AsSlice()...)
	return place{number: uint64(r.node.ID), text: string(text)}
}

// EnableRoute approves one route more.
func (s *Server) EnableRoute(ctx context.Context, req *headscalev1.EnableRouteRequest) (*headscalev1.EnableRouteResponse, error) {
	err := s.changeRoute(ctx, req.GetRouteId(), func(approved []netip.Prefix, p netip.Prefix) []netip.Prefix {
		return append(approved, p)
	})
	return &headscalev1.EnableRouteResponse{}, err
}

// DisableRoute withdraws the approval of one route; of an exit route, that of its twin too.
func (s *Server) DisableRoute(ctx context.Context, req *headscalev1.DisableRouteRequest) (*headscalev1.DisableRouteResponse, error) {
	return &headscalev1.DisableRouteResponse{}, s.changeRoute(ctx, req.GetRouteId(), without)
}

// DeleteRoute withdraws the approval of one route. It is listed for as long as the client announces it.
func (s *Server) DeleteRoute(ctx context.Context, req *headscalev1.DeleteRouteRequest) (*headscalev1.DeleteRouteResponse, error) {
	return &headscalev1.DeleteRouteResponse{}, s.changeRoute(ctx, req.GetRouteId(), without)
}

func without(approved []netip.Prefix, p netip.Prefix) []netip.Prefix {
	return slices.DeleteFunc(approved, func(q netip.Prefix) bool {
		return q == p || tailnet.IsExitRoute(p) && tailnet.IsExitRoute(q)
	})
}

func (s *Server) changeRoute(ctx context.Context, id uint64, edit func([]netip.Prefix, netip.Prefix) []netip.Prefix) error {
	n, err := s.node(ctx, id/routesPerNode)
	if err != nil {
		return fmt.Errorf("%w: route %d; see headscale routes list", tailnet.ErrNotFound, id)
	}
	for _, r := range routesOf(n) {
		if r.id == id {
			approved := edit(slices.Clone(n.ApprovedRoutes), r.prefix)
			_, err := s.cfg.Store.ApproveRoutes(ctx, n.ID, tailnet.CanonicalRoutes(approved))
			return err
		}
	}
	return fmt.Errorf("%w: route %d; see headscale routes list", tailnet.ErrNotFound, id)
}
