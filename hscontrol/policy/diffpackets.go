package policy

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/keelscale/keelscale/hscontrol/tailnet"
	"go4.org/netipx"
	"tailscale.com/tailcfg"
)

type differ struct {
	was, is *Compiled
	s       *tailnet.Snapshot
	names   []string
	packets map[string]*PacketChange
	senders map[*source][2]bitset
}

// senderCount is the number of things that can send: nodes, served subnets, and everything else.
func (d *differ) senderCount() int { return len(d.was.x.ids) + len(d.was.x.subnets) + 1 }

func (d *differ) senderNames(set bitset) []string {
	var names []string
	n := len(d.names)
	for i := range set.all() {
		switch {
		case i < n:
			names = append(names, d.names[i])
		case i < n+len(d.was.x.subnets):
			names = append(names, d.was.x.subnets[i-n].String())
		default:
			names = append(names, "any other address")
		}
	}
	return names
}

// from are the senders that a source holds, for IPv4 and for IPv6.
func (d *differ) from(x *index, s *source) [2]bitset {
	if sets, ok := d.senders[s]; ok {
		return sets
	}
	var sets [2]bitset
	for fam := range sets {
		sets[fam] = newBitset(d.senderCount())
	}
	for i := range x.ids {
		for fam, a := range [2]netip.Addr{x.v4[i], x.v6[i]} {
			if a.IsValid() && s.contains(x, end{addr: a, node: i}) {
				sets[fam].set(i)
			}
		}
	}
	for k, r := range x.subnets {
		whole := netipx.RangeOfPrefix(r)
		within := func(o netipx.IPRange) bool { return o.Contains(whole.From()) && o.Contains(whole.To()) }
		if s.wild || s.danger || slices.ContainsFunc(s.ranges, within) {
			sets[btoi(r.Addr().Is6())].set(len(x.ids) + k)
		}
	}
	if s.danger {
		sets[0].set(d.senderCount() - 1)
		sets[1].set(d.senderCount() - 1)
	}
	if d.senders == nil {
		d.senders = map[*source][2]bitset{}
	}
	d.senders[s] = sets
	return sets
}

// place is a part of what a node receives for: its own addresses, or a piece of what lies behind it.
type place struct {
	name string
	at   end            // an address in it; all of the piece is treated alike
	r    netipx.IPRange // the piece
}

// places cuts what node i receives for at all bounds of the destinations of both policies.
func (d *differ) places(i int) []place {
	x := d.was.x
	var list []place
	for _, a := range x.ownAddresses(i) {
		list = append(list, place{d.names[i], end{addr: a, node: i}, netipx.IPRangeFrom(a, a)})
	}
	var cuts []netipx.IPRange
	for _, c := range []*Compiled{d.was, d.is} {
		for n := range c.flows {
			for _, dst := range c.flows[n].dsts {
				if dst.to.has(i) {
					cuts = append(cuts, dst.ranges...)
				}
			}
		}
	}
	behind := make([]netipx.IPRange, 0, len(x.routes[i])+len(internet))
	for _, r := range x.routes[i] {
		behind = append(behind, netipx.RangeOfPrefix(r))
	}
	if x.exits.has(i) {
		behind = append(behind, internet...)
	}
	for n, whole := range behind {
		name := "the internet"
		if n < len(x.routes[i]) {
			name = ""
		}
		for _, piece := range cutAt(whole, cuts) {
			label := cmp.Or(name, rangeText(piece)) + " at " + d.names[i]
			list = append(list, place{label, end{addr: piece.From(), node: -1}, piece})
		}
	}
	return list
}

// cutAt cuts a range at the bounds of others.
func cutAt(whole netipx.IPRange, others []netipx.IPRange) []netipx.IPRange {
	starts := []netip.Addr{whole.From()}
	for _, o := range others {
		if whole.Contains(o.From()) {
			starts = append(starts, o.From())
		}
		if next := o.To().Next(); next.IsValid() && whole.Contains(next) {
			starts = append(starts, next)
		}
	}
	slices.SortFunc(starts, netip.Addr.Compare)
	starts = slices.Compact(starts)
	pieces := make([]netipx.IPRange, len(starts))
	for i, from := range starts {
		to := whole.To()
		if i+1 < len(starts) {
			to = starts[i+1].Prev()
		}
		pieces[i] = netipx.IPRangeFrom(from, to)
	}
	return pieces
}

// opening is what some flow opens at a place: ports of a protocol, for senders.
type opening struct {
	lo, hi int
	from   bitset
}

// openings are what a policy opens at a place of node i, by protocol.
func (d *differ) openings(c *Compiled, i int, p place) map[int][]opening {
	open := map[int][]opening{}
	fam := btoi(p.at.addr.Is6())
	add := func(protos []int, ports []tailcfg.PortRange, from bitset) {
		if len(protos) == 0 {
			protos = []int{1, 6, 17, 58}
		}
		for _, proto := range protos {
			if proto == 1 && fam == 1 || proto == 58 && fam == 0 {
				continue
			}
			for _, r := range ports {
				o := opening{int(r.First), int(r.Last), from}
				if proto != 6 && proto != 17 && proto != 132 || r.First == 1 {
					o.lo = 0
				}
				if proto != 6 && proto != 17 && proto != 132 {
					o.hi = 65535
				}
				open[proto] = append(open[proto], o)
			}
		}
	}
	for n := range c.flows {
		f := &c.flows[n]
		switch {
		case f.caps != nil:
		case f.self != nil:
			if p.at.node == i && c.x.member.has(i) && f.self[c.x.users[i]] {
				add(f.protos, f.ports, d.from(c.x, c.own(c.x.users[i]))[fam])
			}
		case f.to.has(i):
			for _, dst := range f.dsts {
				if dst.to.has(i) && dst.contains(p.at) {
					add(f.protos, dst.ports, d.from(c.x, f.src)[fam])
				}
			}
		}
	}
	return open
}

func (d *differ) comparePackets(i int) {
	for _, p := range d.places(i) {
		was, is := d.openings(d.was, i, p), d.openings(d.is, i, p)
		for proto := range 256 {
			if len(was[proto])+len(is[proto]) > 0 {
				d.compareOpenings(i, p, proto, was[proto], is[proto])
			}
		}
	}
}

// compareOpenings cuts the ports at all bounds, and takes down who gains and loses each piece.
func (d *differ) compareOpenings(i int, p place, proto int, was, is []opening) {
	starts := []int{}
	for _, o := range slices.Concat(was, is) {
		starts = append(starts, o.lo, o.hi+1)
	}
	slices.Sort(starts)
	starts = slices.Compact(starts)
	ports := map[string][]tailcfg.PortRange{}
	sets := map[string]bitset{}
	for k := range len(starts) - 1 {
		lo, hi := starts[k], starts[k+1]-1
		a, b := d.sendersAt(was, lo), d.sendersAt(is, lo)
		for _, lost := range []bool{true, false} {
			change := without(a, b)
			if !lost {
				change = without(b, a)
			}
			change.clear(i) // what it sends itself does not pass a filter
			if change.empty() {
				continue
			}
			key := fmt.Sprint(lost) + string(change.appendKey(nil))
			sets[key] = change
			if l := ports[key]; len(l) > 0 && int(l[len(l)-1].Last)+1 == lo {
				l[len(l)-1].Last = uint16(hi)
			} else {
				ports[key] = append(l, tailcfg.PortRange{First: uint16(lo), Last: uint16(hi)})
			}
		}
	}
	for key, ranges := range ports {
		d.takeDown(strings.HasPrefix(key, "true"), sets[key], p.name, proto, portTexts(ranges))
	}
}

func (d *differ) sendersAt(list []opening, port int) bitset {
	all := newBitset(d.senderCount())
	for _, o := range list {
		if o.lo <= port && port <= o.hi {
			all.add(o.from)
		}
	}
	return all
}

func without(a, b bitset) bitset {
	out := slices.Clone(a)
	for i := range out {
		out[i] &^= b[i]
	}
	return out
}

// takeDown adds a change, to the one that differs in its place or protocol only if there is one.
func (d *differ) takeDown(lost bool, from bitset, to string, proto int, ports string) {
	key := fmt.Sprint(lost, proto, ports, " ", string(from.appendKey(nil)))
	c := d.packets[key]
	if c == nil {
		c = &PacketChange{Lost: lost, From: d.senderNames(from), Protos: numbers([]int{proto}), Ports: ports}
		d.packets[key] = c
	}
	if !slices.Contains(c.To, to) {
		c.To = append(c.To, to)
	}
}

// packetChanges joins changes that differ in the protocol only, and sorts them.
func (d *differ) packetChanges() []PacketChange {
	joined := map[string]*PacketChange{}
	for _, key := range sortedIDs(d.packets) {
		c := d.packets[key]
		slices.Sort(c.To)
		same := fmt.Sprint(c.Lost, c.From, c.To, c.Ports)
		if o := joined[same]; o != nil {
			protos := append(strings.Split(o.Protos, ", "), c.Protos)
			slices.Sort(protos)
			o.Protos = strings.Join(protos, ", ")
		} else {
			joined[same] = c
		}
	}
	var list []PacketChange
	for _, key := range sortedIDs(joined) {
		list = append(list, *joined[key])
	}
	slices.SortStableFunc(list, func(a, b PacketChange) int {
		return cmp.Or(btoi(b.Lost)-btoi(a.Lost), slices.Compare(a.To, b.To), slices.Compare(a.From, b.From), cmp.Compare(a.Ports, b.Ports))
	})
	return list
}
