package api

import (
	"context"
	"net/netip"
	"slices"

	headscalev1 "github.com/keelscale/keelscale/proto/headscale/v1"

	"github.com/keelscale/keelscale/hscontrol/store"
	"github.com/keelscale/keelscale/hscontrol/tailnet"
)

// CreateTailnet makes a tailnet.
func (s *Server) CreateTailnet(ctx context.Context, req *headscalev1.CreateTailnetRequest) (*headscalev1.CreateTailnetResponse, error) {
	if err := everything(ctx); err != nil {
		return nil, err
	}
	if err := tailnet.ValidateTailnetName(req.GetName()); err != nil {
		return nil, err
	}
	v4, err := parsePrefix(req.GetPrefixV4(), true)
	if err != nil {
		return nil, err
	}
	v6, err := parsePrefix(req.GetPrefixV6(), false)
	if err != nil {
		return nil, err
	}
	t, err := s.cfg.Store.CreateTailnet(ctx, req.GetName(), v4, v6)
	if err != nil {
		return nil, err
	}
	return &headscalev1.CreateTailnetResponse{Tailnet: tailnetMessage(t)}, nil
}

// parsePrefix reads an address range of one family. Empty is the zero prefix.
func parsePrefix(text string, v4 bool) (netip.Prefix, error) {
	if text == "" {
		return netip.Prefix{}, nil
	}
	p, err := netip.ParsePrefix(text)
	switch {
	case err != nil:
		return p, invalid("%q is not a prefix like 100.64.0.0/10", text)
	case p.Addr().Is4() != v4:
		return p, invalid("%s is of the other family: --prefix-v4 takes IPv4 and --prefix-v6 takes IPv6", p)
	case p != p.Masked():
		return p, invalid("prefix %s has host bits set: write %s", p, p.Masked())
	}
	return p, nil
}

// ListTailnets lists the tailnets that the caller may see, with the number of their users and nodes.
func (s *Server) ListTailnets(ctx context.Context, req *headscalev1.ListTailnetsRequest) (*headscalev1.ListTailnetsResponse, error) {
	all, err := s.cfg.Store.ListTailnets(ctx)
	if err != nil {
		return nil, err
	}
	all = slices.DeleteFunc(all, func(t *tailnet.Tailnet) bool { return !mayReach(ctx, t.ID) })
	all, next, err := page(req, all, func(t *tailnet.Tailnet) place { return place{number: uint64(t.ID)} })
	if err != nil {
		return nil, err
	}
	resp := &headscalev1.ListTailnetsResponse{NextPageToken: next}
	for _, t := range all {
		m := tailnetMessage(t)
		users, err := s.cfg.Store.ListUsers(ctx, store.UserFilter{TailnetID: t.ID})
		if err != nil {
			return nil, err
		}
		nodes, err := s.cfg.Store.ListNodes(ctx, store.NodeFilter{TailnetID: t.ID})
		if err != nil {
			return nil, err
		}
		m.Users, m.Nodes = uint64(len(users)), uint64(len(nodes))
		resp.Tailnets = append(resp.Tailnets, m)
	}
	return resp, nil
}

func tailnetMessage(t *tailnet.Tailnet) *headscalev1.Tailnet {
	return &headscalev1.Tailnet{
		Id:        uint64(t.ID),
		Name:      t.Name,
		PrefixV4:  prefixText(t.PrefixV4),
		PrefixV6:  prefixText(t.PrefixV6),
		CreatedAt: timestamp(&t.CreatedAt),
	}
}

// DeleteTailnet deletes a tailnet that has neither nodes nor users.
func (s *Server) DeleteTailnet(ctx context.Context, req *headscalev1.DeleteTailnetRequest) (*headscalev1.DeleteTailnetResponse, error) {
	if err := everything(ctx); err != nil {
		return nil, err
	}
	if req.GetName() == "" {
		return nil, invalid("say which tailnet: its name is missing")
	}
	if err := s.cfg.Store.DeleteTailnet(ctx, req.GetName()); err != nil {
		return nil, err
	}
	return &headscalev1.DeleteTailnetResponse{}, nil
}
