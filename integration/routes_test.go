//go:build linux

package integration_test

import (
	"testing"

	"github.com/keelscale/keelscale/integration/lab"
)

// TestSubnetRouter shows a network behind a node: offered, off until enabled, on, off again.
func TestSubnetRouter(t *testing.T) {
	l, server := stage(t)
	clients := join(t, server, l.Public("gateway", "203.0.113.21"), l.Public("laptop", "203.0.113.22"), l.Public("loner", "203.0.113.23"))
	gateway, laptop, loner := clients[0], clients[1], clients[2]
	office := l.LAN("office", "192.168.100.0/24")
	gateway.Join(office, "192.168.100.2")
	printer := office.Machine("printer", "192.168.100.9")
	printer.Web("80", "631")

	l.Step("offered, but not enabled: nobody has a way there")
	gateway.Do("sysctl -w net.ipv4.ip_forward=1")
	gateway.Do("tailscale set --advertise-routes=192.168.100.0/24")
	laptop.Do("tailscale set --accept-routes")
	id := nodeNamed(t, server, "gateway").ID
	says(t, server.Eventually("headscale nodes list-routes", "192.168.100.0/24"), "gateway")
	silentOn(t, laptop.Do("ip route show table 52"), "192.168.100")

	l.Step("enabled: those who accept routes get there by ICMP and TCP")
	server.Do("headscale nodes approve-routes -i " + id + " -r 192.168.100.0/24")
	laptop.Eventually("ip route show table 52", "192.168.100.0/24 dev tailscale0")
	laptop.Eventually("ping -c 1 -W 2 192.168.100.9", "1 received")
	laptop.Eventually("curl -s -m 5 http://192.168.100.9:631", "printer sees 192.168.100.2")
	silentOn(t, loner.Do("ip route show table 52"), "192.168.100")

	l.Step("disabled: the way is closed again")
	server.Do("headscale nodes approve-routes -i " + id + " -r ''")
	laptop.Eventually("ip route show table 52 | grep -c 192.168.100 || true", "0")
	laptop.Refused("ping -c 1 -W 2 192.168.100.9")

	l.Step("enabled in the older words")
	server.Do("headscale routes enable -i " + id + " -r 192.168.100.0/24")
	laptop.Eventually("ping -c 1 -W 2 192.168.100.9", "1 received")
	says(t, server.Do("headscale routes list"), "192.168.100.0/24")

	l.Step("no longer offered: the way is closed though it was enabled")
	gateway.Do("tailscale set --advertise-routes=")
	laptop.Eventually("ip route show table 52 | grep -c 192.168.100 || true", "0")
}

// TestExitNode shows a node that carries all of another's traffic, and then the other way round.
func TestExitNode(t *testing.T) {
	l, server := stage(t)
	clients := join(t, server, l.Home("house", "203.0.113.21", lab.Easy, "192.168.1.0/24").Machine("desk"),
		l.Home("flat", "203.0.113.22", lab.Easy, "192.168.2.0/24").Machine("kitchen"))
	desk, kitchen := clients[0], clients[1]
	l.Public("world", "198.51.100.80").Web("80")
	desk.Eventually("curl -s -m 5 http://198.51.100.80", "world sees 203.0.113.21")

	for _, pair := range []struct {
		user, exit *lab.Client
		own, other string
	}{
		{desk, kitchen, "203.0.113.21", "203.0.113.22"},
		{kitchen, desk, "203.0.113.22", "203.0.113.21"},
	} {
		l.Step(pair.user.Name + " goes out through " + pair.exit.Name)
		pair.exit.Do("sysctl -w net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1")
		pair.exit.Do("tailscale set --advertise-exit-node")
		id := nodeNamed(t, server, pair.exit.Name).ID
		server.Eventually("headscale nodes list-routes -i "+id, "0.0.0.0/0")
		pair.user.Refused("tailscale set --exit-node=" + pair.exit.IP())
		server.Do("headscale nodes approve-routes -i " + id + " -r 0.0.0.0/0,::/0")
		pair.user.Eventually("tailscale exit-node list", pair.exit.IP())
		pair.user.Do("tailscale set --exit-node=" + pair.exit.IP())
		pair.user.Eventually("curl -s -m 5 http://198.51.100.80", "world sees "+pair.other)

		l.Step("and by itself again")
		pair.user.Do("tailscale set --exit-node=")
		pair.user.Eventually("curl -s -m 5 http://198.51.100.80", "world sees "+pair.own)
		pair.exit.Do("tailscale set --advertise-exit-node=false")
	}
}
