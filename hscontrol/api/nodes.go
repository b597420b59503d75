package api

import (
	"context"
	"net/netip"
	"slices"

	"google.golang.org/protobuf/types/known/timestamppb"

	headscalev1 "github.com/keelscale/keelscale/proto/headscale/v1"

	"github.com/keelscale/keelscale/hscontrol/api/access"
	"github.com/keelscale/keelscale/hscontrol/tailnet"
)

// maxTags bounds the set of one node.
const maxTags = 100

// GetNode shows one node.
func (s *Server) GetNode(ctx context.Context, req *headscalev1.GetNodeRequest) (*headscalev1.GetNodeResponse, error) {
	node, err := s.node(ctx, req.GetNodeId())
	if err != nil {
		return nil, err
	}
	n, err := s.namesOf(ctx, node)
	if err != nil {
		return nil, err
	}
	return &headscalev1.GetNodeResponse{Node: n.node(node)}, nil
}

// ListNodes lists the nodes of a tailnet, or of one user.
func (s *Server) ListNodes(ctx context.Context, req *headscalev1.ListNodesRequest) (*headscalev1.ListNodesResponse, error) {
	id, err := s.tailnetOrAll(ctx, req.GetTailnet())
	if err != nil {
		return nil, err
	}
	owner, err := s.ownerFilter(ctx, id, req.GetUser())
	if err != nil {
		return nil, err
	}
	nodes, n, err := s.nodesOf(ctx, id, owner)
	if err != nil {
		return nil, err
	}
	nodes, next, err := page(req, nodes, placeOfNode)
	if err != nil {
		return nil, err
	}
	if err := s.withKeys(ctx, n, nodes...); err != nil {
		return nil, err
	}
	resp := &headscalev1.ListNodesResponse{Nodes: make([]*headscalev1.Node, len(nodes)), NextPageToken: next}
	for i, node := range nodes {
		resp.Nodes[i] = n.node(node)
	}
	return resp, nil
}

func placeOfNode(n *tailnet.Node) place { return place{number: uint64(n.ID)} }

func (s *Server) nodeMessage(ctx context.Context, node *tailnet.Node) (*headscalev1.Node, error) {
	n, err := s.namesOf(ctx, node)
	if err != nil {
		return nil, err
	}
	return n.node(node), nil
}

// change finds the node, changes it, and shows what became of it.
func (s *Server) change(ctx context.Context, id uint64, do func(*tailnet.Node) (*tailnet.Node, error)) (*headscalev1.Node, error) {
	n, err := s.node(ctx, id)
	if err != nil {
		return nil, err
	}
	if n, err = do(n); err != nil {
		return nil, err
	}
	return s.nodeMessage(ctx, n)
}

// SetTags replaces the tags of a node. Each must be one that the policy in force knows.
func (s *Server) SetTags(ctx context.Context, req *headscalev1.SetTagsRequest) (*headscalev1.SetTagsResponse, error) {
	tags := slices.Clone(req.GetTags())
	slices.Sort(tags)
	tags = slices.Compact(tags)
	m, err := s.change(ctx, req.GetNodeId(), func(n *tailnet.Node) (*tailnet.Node, error) {
		if len(tags) == 0 {
			return nil, invalid("a node cannot be left without tags: give the tags that it shall have, or move it to a user")
		}
		if len(tags) > maxTags {
			return nil, invalid("%d tags are too many for one node: %d at most", len(tags), maxTags)
		}
		for _, tag := range tags {
			if err := tailnet.ValidateTag(tag); err != nil {
				return nil, err
			}
			if !s.cfg.TagExists(ctx, n.TailnetID, tag) {
				return nil, invalid("the policy has no %s: name who owns it under tagOwners first", tag)
			}
		}
		if err := s.mayTag(ctx, n.TailnetID, tags, 0); err != nil {
			return nil, err
		}
		return s.cfg.Store.SetNodeTags(ctx, n.ID, tags)
	})
	return &headscalev1.SetTagsResponse{Node: m}, err
}

// DeleteNode deletes a node.
func (s *Server) DeleteNode(ctx context.Context, req *headscalev1.DeleteNodeRequest) (*headscalev1.DeleteNodeResponse, error) {
	n, err := s.node(ctx, req.GetNodeId())
	if err != nil {
		return nil, err
	}
	if err := s.cfg.Store.DeleteNode(ctx, n.ID); err != nil {
		return nil, err
	}
	return &headscalev1.DeleteNodeResponse{}, nil
}

// ExpireNode sets when the key of a node expires: at a time, now, or never.
func (s *Server) ExpireNode(ctx context.Context, req *headscalev1.ExpireNodeRequest) (*headscalev1.ExpireNodeResponse, error) {
	at := req.GetExpiry()
	switch {
	case req.GetDisableExpiry() && at != nil:
		return nil, invalid("say when the node expires or that it never does, not both")
	case !req.GetDisableExpiry() && at == nil:
		at = timestamppb.New(s.cfg.Now())
	case at != nil && at.CheckValid() != nil:
		return nil, invalid("the expiry is no time: %w", at.CheckValid())
	}
	m, err := s.change(ctx, req.GetNodeId(), func(n *tailnet.Node) (*tailnet.Node, error) {
		if access.Of(ctx).OwnOnly() && (at == nil || n.Expiry != nil && at.AsTime().After(*n.Expiry)) {
			return nil, access.Forbid("the key of one's own node can be made to expire sooner, not later: log in with it again")
		}
		if at == nil {
			return s.cfg.Store.ExpireNode(ctx, n.ID, nil)
		}
		t := at.AsTime()
		return s.cfg.Store.ExpireNode(ctx, n.ID, &t)
	})
	return &headscalev1.ExpireNodeResponse{Node: m}, err
}

// RenameNode gives a node a name that its client cannot change.
func (s *Server) RenameNode(ctx context.Context, req *headscalev1.RenameNodeRequest) (*headscalev1.RenameNodeResponse, error) {
	m, err := s.change(ctx, req.GetNodeId(), func(n *tailnet.Node) (*tailnet.Node, error) {
		if err := tailnet.ValidateGivenName(req.GetNewName()); err != nil {
			return nil, err
		}
		return s.cfg.Store.RenameNode(ctx, n.ID, req.GetNewName())
	})
	return &headscalev1.RenameNodeResponse{Node: m}, err
}

// MoveNode gives a node to another user of its tailnet. Tags go.
func (s *Server) MoveNode(ctx context.Context, req *headscalev1.MoveNodeRequest) (*headscalev1.MoveNodeResponse, error) {
	m, err := s.change(ctx, req.GetNodeId(), func(n *tailnet.Node) (*tailnet.Node, error) {
		if req.GetUser() == "" {
			return nil, invalid("say which user gets the node")
		}
		u, err := s.cfg.Store.FindUser(ctx, n.TailnetID, req.GetUser())
		if err != nil {
			return nil, err
		}
		return s.cfg.Store.MoveNode(ctx, n.ID, u.ID)
	})
	return &headscalev1.MoveNodeResponse{Node: m}, err
}

// AuthorizeNode lets in a node that waits for it, or keeps one out again.
func (s *Server) AuthorizeNode(ctx context.Context, req *headscalev1.AuthorizeNodeRequest) (*headscalev1.AuthorizeNodeResponse, error) {
	m, err := s.change(ctx, req.GetNodeId(), func(n *tailnet.Node) (*tailnet.Node, error) {
		return s.cfg.Store.AuthorizeNode(ctx, n.ID, !req.GetWithdraw())
	})
	return &headscalev1.AuthorizeNodeResponse{Node: m}, err
}

// SetNodeAddresses gives a node addresses of the administrator's choice.
func (s *Server) SetNodeAddresses(ctx context.Context, req *headscalev1.SetNodeAddressesRequest) (*headscalev1.SetNodeAddressesResponse, error) {
	addrs, err := parseAddrs(req.GetIpAddresses())
	if err != nil {
		return nil, err
	}
	m, err := s.change(ctx, req.GetNodeId(), func(n *tailnet.Node) (*tailnet.Node, error) {
		return s.cfg.Store.SetNodeAddrs(ctx, n.ID, withOtherFamily(n, addrs))
	})
	return &headscalev1.SetNodeAddressesResponse{Node: m}, err
}

// parseAddrs reads one or two addresses of different families.
func parseAddrs(list []string) ([]netip.Addr, error) {
	if len(list) == 0 {
		return nil, invalid("say which address the node shall have")
	}
	var addrs []netip.Addr
	for _, text := range list {
		a, err := netip.ParseAddr(text)
		if err != nil || a.Zone() != "" {
			return nil, invalid("%q is not an IP address", text)
		}
		a = a.Unmap()
		if slices.ContainsFunc(addrs, func(b netip.Addr) bool { return a.Is4() == b.Is4() }) {
			return nil, invalid("a node has one IPv4 and one IPv6 address at most")
		}
		addrs = append(addrs, a)
	}
	return addrs, nil
}

// withOtherFamily keeps the node's address of the family that addrs leaves out.
func withOtherFamily(n *tailnet.Node, addrs []netip.Addr) []netip.Addr {
	for _, old := range n.Addrs() {
		if !slices.ContainsFunc(addrs, func(a netip.Addr) bool { return a.Is4() == old.Is4() }) {
			addrs = append(addrs, old)
		}
	}
	return addrs
}

// BackfillNodeIPs gives and takes addresses after a family was added to the prefixes, or taken out.
func (s *Server) BackfillNodeIPs(ctx context.Context, req *headscalev1.BackfillNodeIPsRequest) (*headscalev1.BackfillNodeIPsResponse, error) {
	if !req.GetConfirmed() {
		return nil, invalid("this may change the addresses of nodes: confirm it")
	}
	id, err := s.tailnetOrAll(ctx, req.GetTailnet())
	if err != nil {
		return nil, err
	}
	ids := []tailnet.ID{id}
	if id == 0 {
		all, err := s.cfg.Store.ListTailnets(ctx)
		if err != nil {
			return nil, err
		}
		ids = ids[:0]
		for _, t := range all {
			ids = append(ids, t.ID)
		}
	}
	resp := &headscalev1.BackfillNodeIPsResponse{}
	for _, id := range ids {
		changes, err := s.cfg.Store.BackfillAddrs(ctx, id)
		if err != nil {
			return nil, err
		}
		resp.Changes = append(resp.Changes, changes...)
	}
	return resp, nil
}
