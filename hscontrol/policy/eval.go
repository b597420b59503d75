package policy

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"

	"github.com/keelscale/keelscale/hscontrol/tailnet"
	"tailscale.com/tailcfg"
)

// Evaluation is what every node would be told under a policy.
type Evaluation struct {
	Nodes              map[string]*tailcfg.MapResponse `json:"nodes"`              // by given name
	AutoApprovedRoutes map[string][]netip.Prefix       `json:"autoApprovedRoutes"` // announced routes that the policy approves
	Warnings           []string                        `json:"warnings,omitempty"`
}

// Eval is a dry run: what would every node of the snapshot be told? The error is the refusal of the policy. Of a node's
// description only what a policy decides is filled in.
func Eval(text string, s *tailnet.Snapshot) (*Evaluation, error) {
	p, err := Parse(text)
	if err != nil {
		return nil, err
	}
	c, err := Compile(p, s)
	if err != nil {
		return nil, err
	}
	if err := c.verify(s); err != nil {
		return nil, err
	}
	e := &Evaluation{
		Nodes: map[string]*tailcfg.MapResponse{}, AutoApprovedRoutes: map[string][]netip.Prefix{}, Warnings: c.Warnings(),
	}
	for _, n := range s.Nodes {
		e.Nodes[n.GivenName] = c.response(n, s)
		approved := []netip.Prefix{}
		for _, r := range n.AnnouncedRoutes() {
			if c.AutoApproves(n, s, r) {
				approved = append(approved, r)
			}
		}
		e.AutoApprovedRoutes[n.GivenName] = approved
	}
	return e, nil
}

// response is the policy's part of a full map response for n.
func (c *Compiled) response(n *tailnet.Node, s *tailnet.Snapshot) *tailcfg.MapResponse {
	m := &tailcfg.MapResponse{
		Node:         c.describe(n, n, n.ServedRoutes()),
		Peers:        []*tailcfg.Node{},
		PacketFilter: c.Filter(n.ID),
		SSHPolicy:    c.SSH(n.ID),
	}
	m.Node.CapMap = c.Caps(n.ID)
	m.Node.PrimaryRoutes = n.PrimaryRoutes
	for _, peer := range s.Nodes {
		if !c.Sees(n.ID, peer.ID) {
			continue
		}
		routes := c.Routes(n.ID, peer.ID)
		p := c.describe(n, peer, routes)
		p.CapMap = c.PeerCaps(n.ID, peer.ID)
		p.PrimaryRoutes = slices.DeleteFunc(slices.Clone(routes), tailnet.IsExitRoute)
		m.Peers = append(m.Peers, p)
	}
	return m
}

// describe is n with its addresses and the given routes as viewer sees them.
func (c *Compiled) describe(viewer, n *tailnet.Node, routes []netip.Prefix) *tailcfg.Node {
	addrs := n.Prefixes()
	if c.HidesIPv4(viewer.ID, n.ID) && (viewer.ID == n.ID || n.IPv6.IsValid()) {
		addrs = slices.DeleteFunc(addrs, func(p netip.Prefix) bool { return p.Addr().Is4() })
	}
	return &tailcfg.Node{
		ID: tailcfg.NodeID(n.ID), StableID: tailcfg.StableNodeID(fmt.Sprint(n.ID)), Name: n.FQDN(""),
		Addresses: addrs, AllowedIPs: slices.Concat(addrs, routes),
	}
}

// EvalJSON is Eval on files: a policy in HuJSON and an inventory in JSON. refused says why the policy is not accepted;
// then out is {"error": "..."}. err says why there is no answer at all.
func EvalJSON(policy, inventory []byte) (out []byte, refused, err error) {
	s, err := ReadInventory(inventory)
	if err != nil {
		return nil, nil, err
	}
	e, refused := Eval(string(policy), s)
	if refused != nil {
		out, err = json.Marshal(map[string]string{"error": refused.Error()})
		return out, refused, err
	}
	if out, err = json.Marshal(e); err != nil {
		return nil, nil, fmt.Errorf("writing the evaluation: %w", err)
	}
	return out, nil, nil
}
