package policy

import (
	"net/netip"
	"slices"
	"strings"

	"github.com/keelscale/keelscale/hscontrol/tailnet"
	"go4.org/netipx"
)

// index numbers the nodes of a snapshot, in the order of their IDs, so that sets of them are bits.
type index struct {
	ids     []tailnet.NodeID
	number  map[tailnet.NodeID]int
	v4, v6  []netip.Addr // of each node; may be invalid
	users   []tailnet.UserID
	tags    [][]string
	routes  [][]netip.Prefix       // served subnet routes of each node
	primary [][]netip.Prefix       // those that the node is primary for
	exit    map[int][]netip.Prefix // served exit routes: one family or both
	online  bitset
	macs    bitset

	all, tagged, member, exits, routers bitset
	byTag                               map[string]bitset
	byUser                              map[tailnet.UserID]bitset // untagged nodes only

	addrs []numbered // sorted
	// subnets are all served subnet routes, sorted; servers says which nodes serve each, holders whose addresses lie
	// within (none, as a rule).
	subnets          []netip.Prefix
	servers, holders []bitset

	wild      []netipx.IPRange // what "*" stands for as a source, the subnets left out
	wildTexts []string

	// texts are all addresses as texts, IPv4 first, each family sorted. position is where a node's are, -1 for none.
	texts    []string
	position [][2]int
}

// numbered is an address with the number of its node.
type numbered struct {
	addr netip.Addr
	node int
}

func newIndex(s *tailnet.Snapshot) *index {
	n := len(s.Nodes)
	x := &index{
		ids: make([]tailnet.NodeID, n), number: make(map[tailnet.NodeID]int, n),
		v4: make([]netip.Addr, n), v6: make([]netip.Addr, n),
		users: make([]tailnet.UserID, n), tags: make([][]string, n),
		routes: make([][]netip.Prefix, n), primary: make([][]netip.Prefix, n), exit: map[int][]netip.Prefix{},
		online: newBitset(n), macs: newBitset(n),
		all: newBitset(n), tagged: newBitset(n), member: newBitset(n), exits: newBitset(n), routers: newBitset(n),
		byTag: map[string]bitset{}, byUser: map[tailnet.UserID]bitset{},
		addrs: make([]numbered, 0, 2*n),
	}
	for i, node := range s.Nodes {
		x.addNode(i, node)
	}
	slices.SortFunc(x.addrs, func(a, b numbered) int { return a.addr.Compare(b.addr) })
	x.indexRoutes()
	x.indexWildcard(s)
	x.indexTexts()
	return x
}

func (x *index) addNode(i int, node *tailnet.Node) {
	x.ids[i], x.number[node.ID] = node.ID, i
	x.v4[i], x.v6[i] = node.IPv4, node.IPv6
	for _, a := range [2]netip.Addr{node.IPv4, node.IPv6} {
		if a.IsValid() {
			x.addrs = append(x.addrs, numbered{a, i})
		}
	}
	x.all.set(i)
	if node.Online {
		x.online.set(i)
	}
	if node.Hostinfo != nil && (node.Hostinfo.OS == "macOS" || node.Hostinfo.OS == "iOS") {
		x.macs.set(i)
	}
	x.tags[i] = node.Tags
	if node.IsTagged() {
		x.tagged.set(i)
		for _, t := range node.Tags {
			setIn(x.byTag, t, i, len(x.ids))
		}
	} else {
		x.users[i] = node.UserID
		x.member.set(i)
		setIn(x.byUser, node.UserID, i, len(x.ids))
	}
	if len(node.ApprovedRoutes) == 0 {
		return
	}
	for _, r := range node.ServedRoutes() {
		if tailnet.IsExitRoute(r) {
			x.exits.set(i)
			x.exit[i] = append(x.exit[i], r)
			continue
		}
		x.routes[i] = append(x.routes[i], r)
		x.routers.set(i)
	}
	x.primary[i] = node.PrimaryRoutes
}

func setIn[K comparable](m map[K]bitset, k K, i, n int) {
	if m[k] == nil {
		m[k] = newBitset(n)
	}
	m[k].set(i)
}

func (x *index) indexRoutes() {
	for i := range x.routers.all() {
		x.subnets = append(x.subnets, x.routes[i]...)
	}
	slices.SortFunc(x.subnets, netipx.ComparePrefix)
	x.subnets = slices.Compact(x.subnets)
	x.servers = make([]bitset, len(x.subnets))
	x.holders = make([]bitset, len(x.subnets))
	for k, r := range x.subnets {
		x.servers[k] = newBitset(len(x.ids))
		if within := x.addressesIn(netipx.RangeOfPrefix(r)); len(within) > 0 {
			x.holders[k] = newBitset(len(x.ids))
			for _, a := range within {
				x.holders[k].set(a.node)
			}
		}
	}
	for i := range x.routers.all() {
		for _, r := range x.routes[i] {
			x.servers[x.subnet(r)].set(i)
		}
	}
}

// subnet is the number of a served subnet route.
func (x *index) subnet(r netip.Prefix) int {
	k, _ := slices.BinarySearchFunc(x.subnets, r, netipx.ComparePrefix)
	return k
}

// addressesIn are the nodes' addresses within a range.
func (x *index) addressesIn(r netipx.IPRange) []numbered {
	cmp := func(a numbered, b netip.Addr) int { return a.addr.Compare(b) }
	from, _ := slices.BinarySearchFunc(x.addrs, r.From(), cmp)
	to, _ := slices.BinarySearchFunc(x.addrs[from:], r.To(), cmp)
	for to += from; to < len(x.addrs) && x.addrs[to].addr == r.To(); to++ {
	}
	return x.addrs[from:to]
}

func (x *index) indexWildcard(s *tailnet.Snapshot) {
	extra := wildcardExtra(s)
	x.wildTexts = wildcardTexts(extra, x.subnets)
	for _, t := range tailscaleRanges {
		r, _ := parseRange(t)
		x.wild = append(x.wild, r)
	}
	for _, p := range extra {
		x.wild = append(x.wild, netipx.RangeOfPrefix(p))
	}
}

func (x *index) indexTexts() {
	x.position = make([][2]int, len(x.ids))
	type text struct {
		text      string
		node, fam int
	}
	var texts []text
	for i := range x.ids {
		x.position[i] = [2]int{-1, -1}
		for fam, a := range [2]netip.Addr{x.v4[i], x.v6[i]} {
			if a.IsValid() {
				texts = append(texts, text{a.String(), i, fam})
			}
		}
	}
	slices.SortFunc(texts, func(a, b text) int {
		if a.fam != b.fam {
			return a.fam - b.fam
		}
		return strings.Compare(a.text, b.text)
	})
	x.texts = make([]string, len(texts))
	for k, t := range texts {
		x.texts[k] = t.text
		x.position[t.node][t.fam] = k
	}
}

// addressBits are the positions among texts of the nodes' addresses.
func (x *index) addressBits(nodes bitset) bitset {
	b := newBitset(len(x.texts))
	for i := range nodes.all() {
		for _, k := range x.position[i] {
			if k >= 0 {
				b.set(k)
			}
		}
	}
	return b
}

// overlapping are the nodes that have an address in the range, or serve a subnet route that overlaps it.
func (x *index) overlapping(r netipx.IPRange) bitset {
	b := newBitset(len(x.ids))
	for _, a := range x.addressesIn(r) {
		b.set(a.node)
	}
	for k, subnet := range x.subnets {
		if r.Overlaps(netipx.RangeOfPrefix(subnet)) {
			b.add(x.servers[k])
		}
	}
	return b
}

// withCovering adds to nodes those that serve a subnet route which the address of one of them lies in.
func (x *index) withCovering(nodes bitset) bitset {
	out := nodes
	for k, h := range x.holders {
		if h != nil && h.meets(nodes) {
			if &out[0] == &nodes[0] {
				out = slices.Clone(nodes)
			}
			out.add(x.servers[k])
		}
	}
	return out
}
