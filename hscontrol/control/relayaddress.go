package control

import (
	"net/netip"
	"slices"

	"github.com/keelscale/keelscale/hscontrol/tailnet"
)

// carrierSpace is RFC 6598: carriers' NAT, and tailnets.
var carrierSpace = netip.MustParsePrefix("100.64.0.0/10")

func isPublic(a netip.Addr) bool {
	return a.IsGlobalUnicast() && !a.IsPrivate() && !carrierSpace.Contains(a)
}

// publish says at which addresses clients are to look for a relay that is described by d and seen at d.SeenFrom: one of
// a family at most.
//
//	an address was given as hostname         that one
//	a name was given, with a certificate     none: clients ask DNS, which may know of a change before we do
//	  that an authority vouches for
//	seen at a public address, or unknown     that, and of the other family the machine's own if it is public
//	seen at one of its own addresses         that, and of the other family the machine's own of the same kind
//	seen from another private address        its own public ones; else, from the server's own machine, its own;
//	                                         else its own in the network it is seen from; else what was seen
func publish(d *tailnet.RelayDescription) []netip.Addr {
	if a, err := netip.ParseAddr(d.Hostname); err == nil {
		return []netip.Addr{a.Unmap()}
	}
	if d.Hostname != "" && (len(d.Certificates) == 0 || d.Certificates[0].Pin == "") {
		return nil
	}
	seen, own := d.SeenFrom, d.Addresses
	var out []netip.Addr
	switch {
	case !seen.IsValid():
		out = pair(own, isPublic)
		if len(out) == 0 {
			out = pair(own, notLocal)
		}
	case isPublic(seen):
		out = pair(slices.Concat([]netip.Addr{seen}, own), isPublic)
	case slices.Contains(own, seen) && !seen.IsLoopback():
		out = pair(slices.Concat([]netip.Addr{seen}, own), func(a netip.Addr) bool { return a == seen || a.Is4() != seen.Is4() && notLocal(a) })
	default:
		neighbour := func(a netip.Addr) bool { return near(a, seen) }
		elsewhere := func(a netip.Addr) bool { return seen.IsLoopback() && notLocal(a) }
		for _, fits := range []func(netip.Addr) bool{isPublic, elsewhere, neighbour} {
			if out = pair(own, fits); len(out) > 0 {
				break
			}
		}
		if len(out) == 0 {
			out = []netip.Addr{seen}
		}
	}
	return out
}

// pair is the first IPv4 and the first IPv6 address that fits, in this order.
func pair(addrs []netip.Addr, fits func(netip.Addr) bool) (out []netip.Addr) {
	for _, is := range []func(netip.Addr) bool{netip.Addr.Is4, netip.Addr.Is6} {
		if i := slices.IndexFunc(addrs, func(a netip.Addr) bool { return is(a) && fits(a) }); i >= 0 {
			out = append(out, addrs[i])
		}
	}
	return out
}

// notLocal reports whether other machines may reach a.
func notLocal(a netip.Addr) bool { return a.IsGlobalUnicast() }

// near reports whether two addresses look like neighbours: nobody tells how long the prefix of their network is.
func near(a, b netip.Addr) bool {
	if a.Is4() != b.Is4() || a.IsLoopback() != b.IsLoopback() {
		return false
	}
	bits := 24
	if a.Is6() {
		bits = 64
	}
	p, err := a.Prefix(bits)
	return err == nil && p.Contains(b)
}
