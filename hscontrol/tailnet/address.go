package tailnet

import (
	"fmt"
	"net/netip"

	"go4.org/netipx"
	"tailscale.com/net/tsaddr"
)

// reserved are addresses that no node may have: MagicDNS (100.100.100.100 and its IPv6 twin) and the range that
// ChromeOS uses for its containers.
var reserved = []netip.Prefix{
	netip.PrefixFrom(tsaddr.TailscaleServiceIP(), 32),
	netip.PrefixFrom(tsaddr.TailscaleServiceIPv6(), 128),
	tsaddr.ChromeOSVMRange(),
}

// Assignable reports why addr cannot be a node's address in prefix.
func Assignable(prefix netip.Prefix, addr netip.Addr) error {
	if !prefix.Contains(addr) {
		return fmt.Errorf("%w: address %s is not in %s", ErrInvalid, addr, prefix)
	}
	if end := netipx.PrefixLastIP(prefix); prefix.Bits() < addr.BitLen()-1 && (addr == prefix.Addr() || addr == end && addr.Is4()) {
		return fmt.Errorf("%w: address %s is the network or broadcast address of %s", ErrInvalid, addr, prefix)
	}
	for _, r := range reserved {
		if r.Contains(addr) {
			return fmt.Errorf("%w: address %s is reserved by clients (%s)", ErrInvalid, addr, r)
		}
	}
	return nil
}

// NextAddr is the first assignable address of prefix at or after from (zero: its beginning), wrapping round once at
// the end, for which taken is false. ErrExhausted when there is none.
func NextAddr(prefix netip.Prefix, from netip.Addr, taken func(netip.Addr) bool) (netip.Addr, error) {
	first, last := prefix.Masked().Addr(), netipx.PrefixLastIP(prefix)
	if !from.IsValid() || !prefix.Contains(from) {
		from = first
	}
	if addr, ok := freeAddr(prefix, from, last, taken); ok {
		return addr, nil
	}
	if first.Less(from) {
		if addr, ok := freeAddr(prefix, first, from.Prev(), taken); ok {
			return addr, nil
		}
	}
	return netip.Addr{}, fmt.Errorf("%w in %s: widen the prefix or delete nodes", ErrExhausted, prefix)
}

// freeAddr is the first of the addresses from first to last that may be assigned and is not taken.
func freeAddr(prefix netip.Prefix, first, last netip.Addr, taken func(netip.Addr) bool) (netip.Addr, bool) {
	for addr := first; addr.IsValid() && !last.Less(addr); addr = skipReserved(addr) {
		if Assignable(prefix, addr) == nil && !taken(addr) {
			return addr, true
		}
	}
	return netip.Addr{}, false
}

// skipReserved is the address after addr, and after the whole reserved range if addr is in one.
func skipReserved(addr netip.Addr) netip.Addr {
	for _, r := range reserved {
		if r.Contains(addr) {
			return netipx.PrefixLastIP(r).Next()
		}
	}
	return addr.Next()
}
