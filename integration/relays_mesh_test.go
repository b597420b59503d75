//go:build linux

package integration_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/keelscale/keelscale/integration/lab"
)

// TestRelayMesh has two relays in one region, which the control server makes a mesh of: who is connected to one is
// reached by the other.
func TestRelayMesh(t *testing.T) {
	l, server := relayStage(t)
	for i := range 2 {
		l.Public(fmt.Sprintf("relay%d", i+1), fmt.Sprintf("203.0.113.%d", 40+i)).Enrolled(server, "--region=home", fmt.Sprintf("--name=home-%d", i+1))
		server.AwaitRelay(fmt.Sprintf("home-%d", i+1), "in the map", inMap)
	}
	l.Step("each client reaches only one of them")
	hosts := cutFrom(l, func(*lab.Host) {}, "203.0.113.40", "203.0.113.41")
	clients := join(t, server, hosts...)
	desk, kitchen := clients[0], clients[1]
	for i := range 2 {
		server.AwaitRelay(fmt.Sprintf("home-%d", i+1), "one client", func(r lab.RelayRow) bool { return r.Clients == 1 })
	}
	l.Step("and yet they talk")
	kitchen.Web("80")
	says(t, desk.PingsByRelay(kitchen.IP()), "DERP(home)")
	desk.Eventually("curl -s -m 5 http://"+kitchen.IP(), "kitchen sees "+desk.IP())
}

// certify makes a certificate for each host in /etc/relay, by an authority that all hosts come to trust.
const certify = `mkdir -p /etc/relay; cd /etc/relay
openssl req -x509 -newkey rsa:2048 -days 30 -nodes -keyout ca.key -out ca.crt -subj "/CN=Lab Authority" 2>/dev/null
for name in alpha beta; do
	openssl req -newkey rsa:2048 -nodes -keyout $name.example.net.key -out $name.csr -subj /CN=$name.example.net 2>/dev/null
	echo subjectAltName=DNS:$name.example.net >ext
	openssl x509 -req -in $name.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 20 -extfile ext -out $name.example.net.crt 2>/dev/null
done
openssl rand -hex 32 >psk
ls`

// TestMeshWithDerper has cmd/derper and ours in one region, by its own key and names.
func TestMeshWithDerper(t *testing.T) {
	t.Parallel()
	l := lab.New(t)
	alpha, beta := l.Public("alpha", "203.0.113.40"), l.Public("beta", "203.0.113.41")
	beta.ReferenceDerper()
	machine := l.Public("server", serverIP)
	machine.Do(certify)
	trust := func(h *lab.Host) { h.Write("/etc/ssl/certs/ca-certificates.crt", machine.Read("/etc/relay/ca.crt")) }
	for _, h := range []*lab.Host{alpha, beta, machine} {
		trust(h)
		h.Do("mkdir -p /etc/relay /var/lib/derper")
		for _, file := range []string{h.Name + ".example.net.crt", h.Name + ".example.net.key", "psk"} {
			if h != machine {
				h.Write("/etc/relay/"+file, machine.Read("/etc/relay/"+file))
			}
		}
	}
	const flags = "derper -a :443 -http-port -1 -c /var/lib/derper/derper.key -certmode manual -certdir /etc/relay -mesh-psk-file /etc/relay/psk"
	ours := alpha.Begin(flags + " -hostname alpha.example.net -mesh-with beta.example.net")
	beta.Begin(flags + " -hostname beta.example.net -mesh-with alpha.example.net")
	ours.Await("mesh link is up")

	machine.Write("/etc/headscale/derp.json", `{"Regions": {"900": {"RegionID": 900, "RegionCode": "both", "RegionName": "Both", "Nodes": [
		{"Name": "a", "RegionID": 900, "HostName": "alpha.example.net", "IPv4": "203.0.113.40", "IPv6": "none"},
		{"Name": "b", "RegionID": 900, "HostName": "beta.example.net", "IPv4": "203.0.113.41", "IPv6": "none"}]}}}`)
	server := machine.Headscale(strings.Replace(withoutRelay(lab.Config(serverIP)), "paths: []", "paths: [/etc/headscale/derp.json]", 1))
	server.Do("headscale users create amelia")

	l.Step("each client reaches one of them, and both reach each other")
	hosts := cutFrom(l, trust, "203.0.113.40", "203.0.113.41")
	clients := join(t, server, hosts...)
	desk, kitchen := clients[0], clients[1]
	alpha.Eventually("ss -Htn state established src :443 dst 203.0.113.22", "203.0.113.22")
	beta.Eventually("ss -Htn state established src :443 dst 203.0.113.21", "203.0.113.21")
	says(t, desk.PingsByRelay(kitchen.IP()), "DERP(both)")
	says(t, kitchen.PingsByRelay(desk.IP()), "DERP(both)")
}

// cutFrom makes the machines desk and kitchen in homes of their own, each of which cannot reach one of two addresses.
func cutFrom(l *lab.Lab, furnish func(*lab.Host), addrs ...string) (hosts []*lab.Host) {
	for i, name := range []string{"desk", "kitchen"} {
		home := l.Home(name+"-home", fmt.Sprintf("203.0.113.%d", 21+i), lab.Hard, fmt.Sprintf("192.168.%d.0/24", 1+i))
		home.Do("ip route add blackhole " + addrs[i])
		h := home.Machine(name)
		furnish(h)
		hosts = append(hosts, h)
	}
	return hosts
}
