//go:build linux

package lab

import (
	"fmt"
	"net/netip"
	"strings"
)

// Network is a bridge on some host, and the cables in it.
type Network struct {
	host    *Host
	bridge  string
	prefix  netip.Prefix // addresses, with the bridge's own in it
	prefix6 netip.Prefix // the same for IPv6, or zero
	gateway bool         // hosts on it take the bridge's address as their default route
	last    netip.Addr   // given last
	ports   int
}

// cable joins a host to a network.
type cable struct {
	net    *Network
	device string // on the host
	port   string // on the bridge
}

// bridge makes a network on h whose gateway is h.
func (h *Host) bridge(name, cidr, cidr6 string) *Network {
	h.lab.t.Helper()
	n := &Network{host: h, bridge: name, prefix: netip.MustParsePrefix(cidr), gateway: true}
	n.last = n.prefix.Addr()
	h.silently("ip link add %s type bridge", name)
	h.silently("ip addr add %s dev %s", cidr, name)
	if cidr6 != "" {
		n.prefix6 = netip.MustParsePrefix(cidr6)
		h.silently("ip addr add %s dev %s nodad", cidr6, name)
	}
	h.silently("ip link set %s up", name)
	// Who talks within the network does not pass the router's rules.
	h.silently("! test -e %[1]s || echo 0 >%[1]s", "/proc/sys/net/bridge/bridge-nf-call-iptables")
	return n
}

// silently types a line that belongs to the building of the lab and not to the story.
func (h *Host) silently(format string, args ...any) {
	h.lab.t.Helper()
	line := fmt.Sprintf(format, args...)
	if out, err := h.Quietly(line); err != nil {
		h.lab.t.Fatalf("%s# %s: %v\n%s", h.Name, line, err, out)
	}
}

// plug joins h to n by a new cable; the zero addr takes the next free one.
func (h *Host) plug(n *Network, addr netip.Addr) {
	h.lab.t.Helper()
	if !addr.IsValid() {
		n.last = n.last.Next()
		addr = n.last
	}
	n.ports++
	c := cable{net: n, device: fmt.Sprintf("eth%d", len(h.cables)), port: fmt.Sprintf("%s.%d", n.bridge, n.ports)}
	h.silently("ip link add %s type veth peer name %s netns %d", c.device, c.port, n.host.holder.Process.Pid)
	n.host.silently("ip link set %s master %s up", c.port, n.bridge)
	h.cables = append(h.cables, c)
	if len(h.cables) == 1 {
		h.addr = addr
	}
	h.address(c, addr)
}

// address gives a cable's device its only address, and the way out if the network has one.
func (h *Host) address(c cable, addr netip.Addr) {
	h.lab.t.Helper()
	bits := c.net.prefix.Bits()
	if !c.net.prefix.Contains(addr) {
		bits = 24 // a second public range on the same wire
	}
	h.silently("ip -4 addr flush dev %s; ip addr add %s/%d dev %s; ip link set %s up", c.device, addr, bits, c.device, c.device)
	if c.net.gateway && c.device == "eth0" {
		via := c.net.prefix.Addr()
		if !c.net.prefix.Contains(addr) {
			via = netip.PrefixFrom(addr, bits).Masked().Addr().Next()
		}
		h.silently("ip route replace default via %s", via)
	}
	if v6 := c.net.prefix6; v6.IsValid() {
		last := addr.As4()[3]
		h.silently("ip -6 addr replace %s/%d dev %s nodad; ip -6 route replace default via %s dev %s",
			strings.Replace(v6.Addr().String(), "::1", fmt.Sprintf("::%x", last), 1), v6.Bits(), c.device, v6.Addr(), c.device)
	}
}

// Public makes a host with a public address on the internet of the lab, 203.0.113.0/24 or 198.51.100.0/24,
// and the public name NAME.example.net.
func (l *Lab) Public(name, addr string) *Host {
	l.t.Helper()
	h := l.newHost(name)
	h.plug(l.public, netip.MustParseAddr(addr))
	l.register(name, addr)
	return h
}

// NAT is how a home's router makes public ports of inside sockets.
type NAT int

const (
	Easy NAT = iota // one public port per inside socket, whatever the destination
	Hard            // another public port for each destination: nobody can be told where to send
)

// Home is a household: a router with one public address, and a network behind it that only it can reach.
type Home struct {
	*Host
	lan     *Network
	nat     NAT
	blocked bool
	forward []string // rules that lead ports of the public address to machines inside
}

// Home makes a household at the public address wan, with the inside addresses of the network lan.
func (l *Lab) Home(name, wan string, nat NAT, lan string) *Home {
	l.t.Helper()
	h := &Home{Host: l.newHost(name), nat: nat}
	h.plug(l.public, netip.MustParseAddr(wan))
	inside := netip.MustParsePrefix(lan)
	h.lan = h.bridge("lan", netip.PrefixFrom(inside.Masked().Addr().Next(), inside.Bits()).String(), "")
	h.silently("sysctl -qw net.ipv4.ip_forward=1")
	h.rules()
	return h
}

// Machine makes a host in the household.
func (h *Home) Machine(name string) *Host {
	h.lab.t.Helper()
	m := h.lab.newHost(name)
	m.plug(h.lan, netip.Addr{})
	return m
}

// Forward leads ports of the public address, such as "tcp/443", to the same ports of a machine in the household.
func (h *Home) Forward(to *Host, ports ...string) {
	h.lab.t.Helper()
	for _, p := range ports {
		proto, port, _ := strings.Cut(p, "/")
		h.forward = append(h.forward, fmt.Sprintf("iifname eth0 %s dport %s dnat to %s", proto, port, to.addr))
	}
	h.rules()
}

// Renumber gives the household another public address. What still comes for the former one is lost, also in connections
// that are under way.
func (h *Home) Renumber(addr string) {
	h.lab.t.Helper()
	h.Host.Renumber(addr)
	h.rules()
}

// BlockUDP makes the router drop all UDP between inside and outside, or lets it pass again.
func (h *Home) BlockUDP(block bool) {
	h.lab.t.Helper()
	h.lab.t.Logf("%s: UDP blocked: %v", h.Name, block)
	h.blocked = block
	h.rules()
}

// rules writes the router's whole rule set. What comes from outside unasked is dropped and not
// answered: an answer would leave an entry in the connection table that takes the public port which
// the inside host is about to use towards the same peer, and no hole punching would ever work.
func (h *Home) rules() {
	h.lab.t.Helper()
	masquerade, udp := "masquerade", ""
	if h.nat == Hard {
		masquerade = "masquerade fully-random"
	}
	if h.blocked {
		udp = "meta l4proto udp drop"
	}
	h.silently(`nft -f - <<'END'
table ip home
delete table ip home
table ip home {
	chain forward {
		type filter hook forward priority filter; policy drop
		%s
		ct state established,related accept
		iifname "lan" oifname "eth0" accept
		ct status dnat accept
	}
	chain incoming {
		type nat hook prerouting priority dstnat
		%s
	}
	chain former {
		type filter hook prerouting priority raw
		iifname "eth0" ip daddr != %s drop
	}
	chain input {
		type filter hook input priority filter; policy drop
		ct state established,related accept
		iifname { "lan", "lo" } accept
	}
	chain outgoing {
		type nat hook postrouting priority srcnat
		oifname "eth0" %s
	}
}
END`, udp, strings.Join(h.forward, "\n"), h.addr, masquerade)
}

// LAN makes a network of its own, with no way out, for what stands behind a subnet router.
func (l *Lab) LAN(name, prefix string) *Network {
	l.t.Helper()
	p := netip.MustParsePrefix(prefix)
	n := l.newHost(name).bridge("lan", netip.PrefixFrom(p.Masked().Addr().Next(), p.Bits()).String(), "")
	n.gateway = false
	return n
}

// Join plugs a further cable from the host into the network, at the address addr ("" is the next free one).
func (h *Host) Join(n *Network, addr string) {
	h.lab.t.Helper()
	var at netip.Addr
	if addr != "" {
		at = netip.MustParseAddr(addr)
	}
	h.plug(n, at)
}

// Machine makes a host that has its only cable in the network.
func (n *Network) Machine(name, addr string) *Host {
	n.host.lab.t.Helper()
	h := n.host.lab.newHost(name)
	h.Join(n, addr)
	return h
}

// Unplug pulls the host's first cable out of the wall.
func (h *Host) Unplug() {
	h.lab.t.Helper()
	h.lab.t.Logf("%s: cable out", h.Name)
	h.cables[0].net.host.silently("ip link set %s down", h.cables[0].port)
}

// Replug puts the first cable back.
func (h *Host) Replug() {
	h.lab.t.Helper()
	h.lab.t.Logf("%s: cable in", h.Name)
	h.cables[0].net.host.silently("ip link set %s up", h.cables[0].port)
}

// Disconnect takes the host off its first network, as the network manager does when a lease ends;
// Renumber brings it back.
func (h *Host) Disconnect() {
	h.lab.t.Helper()
	h.lab.t.Logf("%s: network down", h.Name)
	h.silently("ip link set %s down", h.cables[0].device)
}

// Renumber gives the host another address on its first network, as a provider does over night.
func (h *Host) Renumber(addr string) {
	h.lab.t.Helper()
	h.lab.t.Logf("%s: address changes from %s to %s", h.Name, h.addr, addr)
	h.addr = netip.MustParseAddr(addr)
	h.address(h.cables[0], h.addr)
	if h.cables[0].net == h.lab.public {
		h.lab.register(h.Name, addr)
	}
}
