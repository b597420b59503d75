package policy

import (
	"encoding/binary"
	"net/netip"
	"slices"

	"github.com/keelscale/keelscale/hscontrol/tailnet"
	"go4.org/netipx"
	"tailscale.com/tailcfg"
)

// Who sees whom is decided by edges: nodes are on the source side of some and on the destination side of some, and two
// nodes see each other where one stands across an edge from the other. So each node has two sets of edges, and a
// question about a pair is an intersection of a few words.

// classes are the viewers that cannot be told apart.
type classes struct {
	class    []int                   // of each node
	from, to []bitset                // the edges that each node is on the source side and on the destination side of
	selves   map[tailnet.UserID]bool // users that some autogroup:self is about
	noIPv4   bitset                  // nodes with disable-ipv4
}

// paths is what routes depend on.
type paths struct {
	primary []int    // the node that is primary for each subnet, -1 for none
	plain   []bitset // edges without via that lead into each subnet
	via     []bitset // edges with via that do
	back    []bitset // edges whose source overlaps each subnet
	exitBy  map[int]bitset
	chosen  map[[2]int]int // the router for an edge with via, and a subnet
}

func (c *compiler) compileClasses() {
	n, m := len(c.x.ids), len(c.edges)
	c.from, c.to = make([]bitset, n), make([]bitset, n)
	for i := range n {
		c.from[i], c.to[i] = newBitset(m), newBitset(m)
	}
	for e, edge := range c.edges {
		for i := range edge.src.nodes.all() {
			c.from[i].set(e)
		}
		for i := range edge.to.all() {
			c.to[i].set(e)
		}
	}
	c.noIPv4 = newBitset(n)
	for _, a := range c.attrs {
		if _, ok := a.caps[attrDisableIPv4]; ok {
			c.noIPv4.add(a.nodes)
		}
	}
	c.class = make([]int, n)
	known := map[string]int{}
	var key []byte
	for i := range n {
		key = c.to[i].appendKey(c.from[i].appendKey(key[:0]))
		key = append(key, byte(btoi(c.noIPv4.has(i))))
		if c.x.member.has(i) && c.selves[c.x.users[i]] {
			key = binary.AppendUvarint(key, uint64(c.x.users[i]))
		}
		for _, r := range c.x.routes[i] {
			key = append(key, r.String()...)
		}
		k, ok := known[string(key)]
		if !ok {
			k = len(known)
			known[string(key)] = k
		}
		c.class[i] = k
	}
}

func (c *compiler) compilePaths() {
	x, m := c.x, len(c.edges)
	c.primary = make([]int, len(x.subnets))
	c.plain, c.via, c.back = make([]bitset, len(x.subnets)), make([]bitset, len(x.subnets)), make([]bitset, len(x.subnets))
	c.exitBy, c.chosen = map[int]bitset{}, map[[2]int]int{}
	for k := range x.subnets {
		c.primary[k] = -1
		c.plain[k], c.via[k], c.back[k] = newBitset(m), newBitset(m), newBitset(m)
		for i := range x.servers[k].all() {
			if slices.Contains(x.primary[i], x.subnets[k]) {
				c.primary[k] = i
			}
		}
		for e := range c.edges {
			c.compilePath(e, k)
		}
	}
	for e, edge := range c.edges {
		for _, d := range edge.dsts {
			if !edge.ports && !edge.via || !d.overlapsInternet() {
				continue
			}
			for i := range x.exits.all() {
				if !d.to.has(i) {
					continue
				}
				if c.exitBy[i] == nil {
					c.exitBy[i] = newBitset(m)
				}
				c.exitBy[i].set(e)
			}
		}
	}
}

// compilePath says whether edge e leads into subnet k, and whether it comes from there.
func (c *compiler) compilePath(e, k int) {
	edge := &c.edges[e]
	if edge.src.overlaps(c.x, k) {
		c.back[k].set(e)
	}
	for _, d := range edge.dsts {
		if !d.overlaps(c.x, k) || !edge.ports && !edge.via && d.kind != bySet {
			continue
		}
		if !edge.via {
			c.plain[k].set(e)
			return
		}
		if router := c.choose(d, k); router >= 0 {
			c.via[k].set(e)
			c.chosen[[2]int{e, k}] = router
		}
	}
}

// choose is the router that a destination with via uses for subnet k: the first that is online, or else the first.
func (c *compiler) choose(d flowDst, k int) int {
	best := -1
	for i := range c.x.servers[k].all() {
		if d.to.has(i) && (best < 0 || c.x.online.has(i) && !c.x.online.has(best)) {
			best = i
		}
	}
	return best
}

// Class groups viewers: those of one class see the same peers with the same routes, apart from themselves.
// It is -1 for a node that was not in the snapshot, or is cut off.
func (c *Compiled) Class(id tailnet.NodeID) int {
	if c.open != nil {
		if c.open.barred[id] {
			return -1
		}
		return 0
	}
	if i, ok := c.x.number[id]; ok {
		return c.class[i]
	}
	return -1
}

// Sees reports whether viewer and peer are in each other's network map. It is symmetric, and false for a node itself.
func (c *Compiled) Sees(viewer, peer tailnet.NodeID) bool {
	if viewer == peer || c.open != nil {
		return viewer != peer && !c.open.barred[viewer] && !c.open.barred[peer]
	}
	v, okV := c.x.number[viewer]
	p, okP := c.x.number[peer]
	return okV && okP && c.sees(v, p)
}

func (c *Compiled) sees(v, p int) bool {
	if c.from[v].meets(c.to[p]) || c.to[v].meets(c.from[p]) {
		return true
	}
	u := c.x.users[v]
	return u == c.x.users[p] && c.x.member.has(v) && c.x.member.has(p) && c.selves[u]
}

// Routes are the subnet and exit routes of peer in the AllowedIPs that viewer gets, sorted. Do not change the result.
func (c *Compiled) Routes(viewer, peer tailnet.NodeID) []netip.Prefix {
	if c.open != nil {
		if viewer == peer {
			return nil
		}
		return c.open.routes[peer]
	}
	p, okP := c.x.number[peer]
	if !okP || !c.x.routers.has(p) && !c.x.exits.has(p) {
		return nil
	}
	v, okV := c.x.number[viewer]
	if !okV || v == p || !c.sees(v, p) {
		return nil
	}
	return c.routes(v, p)
}

// routes makes the list, or finds the one that another viewer got.
func (c *Compiled) routes(v, p int) []netip.Prefix {
	var list []netip.Prefix
	exits := c.exitBy[p] != nil && c.exitBy[p].meets(c.from[v])
	if exits {
		list = slices.Clone(c.x.exit[p])
	}
	key := binary.AppendUvarint([]byte("routes"), uint64(p))
	key = append(key, byte(btoi(exits)))
	for n, r := range c.x.routes[p] {
		if c.leads(v, p, c.x.subnet(r)) {
			list = append(list, r)
			key = binary.AppendUvarint(key, uint64(n))
		}
	}
	if list == nil {
		return nil
	}
	slices.SortFunc(list, netipx.ComparePrefix)
	shared, _ := c.shared.LoadOrStore(string(key), list)
	return shared.([]netip.Prefix)
}

// leads reports whether viewer v uses router p for subnet k. Who may go there goes to the primary; who may only by way
// of certain tags goes to the first router with such a tag; and who is reached from there, or serves it too, needs the
// primary for the answers.
func (c *Compiled) leads(v, p, k int) bool {
	switch {
	case c.plain[k].meets(c.from[v]):
		return c.primary[k] == p
	case c.via[k].meets(c.from[v]):
		return c.viaRouter(v, k) == p
	case c.primary[k] == p:
		return c.back[k].meets(c.to[v]) || slices.Contains(c.x.routes[v], c.x.subnets[k])
	}
	return false
}

// viaRouter is the first of the routers that the rules with via give v for subnet k.
func (c *Compiled) viaRouter(v, k int) int {
	best := -1
	for e := range c.via[k].all() {
		if !c.from[v].has(e) {
			continue
		}
		router := c.chosen[[2]int{e, k}]
		better := c.x.online.has(router) == c.x.online.has(max(best, 0)) && router < best || best >= 0 && c.x.online.has(router) && !c.x.online.has(best)
		if best < 0 || better {
			best = router
		}
	}
	return best
}

// PeerCaps are the capabilities of peer that viewer is told: an exit node is suggested to whom it serves.
func (c *Compiled) PeerCaps(viewer, peer tailnet.NodeID) tailcfg.NodeCapMap {
	if c.open != nil {
		return c.open.peerCaps[peer]
	}
	p, ok := c.x.number[peer]
	if !ok || !c.x.exits.has(p) || !slices.ContainsFunc(c.Routes(viewer, peer), tailnet.IsExitRoute) {
		return nil
	}
	return suggestExitNode
}

// HidesIPv4 reports whether viewer is told of peer without its IPv4 address (the disable-ipv4 attribute of either).
// For viewer == peer it says whether the node itself goes without.
func (c *Compiled) HidesIPv4(viewer, peer tailnet.NodeID) bool {
	if c.open != nil {
		return false
	}
	for _, id := range [2]tailnet.NodeID{viewer, peer} {
		if i, ok := c.x.number[id]; ok && c.noIPv4.has(i) {
			return true
		}
	}
	return false
}
