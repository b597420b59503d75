package policy

import (
	"encoding/binary"
	"maps"
	"net/netip"
	"slices"

	"github.com/keelscale/keelscale/hscontrol/tailnet"
	"tailscale.com/tailcfg"
)

// Attributes that this package acts on.
const (
	attrDisableIPv4 tailcfg.NodeCapability = "disable-ipv4"
	funnelPorts     tailcfg.NodeCapability = "https://tailscale.com/cap/funnel-ports?ports=443,8443,10000"
)

// attrFlow is an entry of nodeAttrs with the nodes that it is for.
type attrFlow struct {
	nodes bitset
	caps  tailcfg.NodeCapMap
}

func (c *compiler) compileAttrs() {
	for _, a := range c.policy.attrs {
		c.attrs = append(c.attrs, attrFlow{c.targeted(a.target), a.caps})
	}
	switch c.policy.oneCGNAT {
	case "mac-always":
		c.attrs = append(c.attrs, attrFlow{c.x.macs, tailcfg.NodeCapMap{tailcfg.NodeAttrOneCGNATEnable: nil}})
	case "mac-never":
		c.attrs = append(c.attrs, attrFlow{c.x.macs, tailcfg.NodeCapMap{tailcfg.NodeAttrOneCGNATDisable: nil}})
	}
}

// targeted are the nodes that targets of nodeAttrs stand for.
func (c *compiler) targeted(targets []selector) bitset {
	nodes := newBitset(len(c.x.ids))
	for _, s := range targets {
		switch {
		case s.kind == byAll:
			nodes.add(c.x.all)
		case s.isIdentity():
			nodes.add(c.nodesOf(s))
		default:
			for _, r := range s.ranges {
				for _, addr := range c.x.addressesIn(r) {
					nodes.set(addr.node)
				}
			}
		}
	}
	return nodes
}

// Caps are the node capabilities that the policy gives to the node itself. Do not change the result.
func (c *Compiled) Caps(id tailnet.NodeID) tailcfg.NodeCapMap {
	if c.open != nil {
		return nil
	}
	i, ok := c.x.number[id]
	if !ok {
		return nil
	}
	if caps := c.capsCache[i].Load(); caps != nil {
		return *caps
	}
	key := []byte("caps")
	var caps tailcfg.NodeCapMap
	for n, a := range c.attrs {
		if !a.nodes.has(i) {
			continue
		}
		if caps == nil {
			caps = tailcfg.NodeCapMap{}
		}
		key = binary.AppendUvarint(key, uint64(n))
		maps.Copy(caps, mergedCaps(caps, a.caps))
	}
	shared, _ := c.shared.LoadOrStore(string(key), caps)
	caps = shared.(tailcfg.NodeCapMap)
	c.capsCache[i].Store(&caps)
	return caps
}

// mergedCaps is more, with the values that have already holds put first.
func mergedCaps(have, more tailcfg.NodeCapMap) tailcfg.NodeCapMap {
	out := tailcfg.NodeCapMap{}
	for name, values := range more {
		if old := have[name]; len(old) > 0 {
			values = slices.Concat(old, values)
		}
		out[name] = values
	}
	return out
}

// AddressPools are the ranges that nodeAttrs wants the node's IPv4 address to be taken from (ipPool); none where any
// will do. The node need not have been in the compiled snapshot.
func (c *Compiled) AddressPools(n *tailnet.Node, s *tailnet.Snapshot) []netip.Prefix {
	if c.policy == nil {
		return nil
	}
	var pools []netip.Prefix
	for _, a := range c.policy.attrs {
		if len(a.pools) > 0 && c.policy.isAny(a.target, n.Tags, s.Users[n.UserID]) {
			pools = append(pools, a.pools...)
		}
	}
	return pools
}
