//go:build linux

package integration_test

import (
	"strings"
	"testing"

	"github.com/keelscale/keelscale/integration/lab"
)

// TestOwnRelay is the private relay without a domain, done the modern way: derper makes a certificate
// for its bare address and prints the map entry with the pin; it asks the control server who may
// come in. Members are relayed, strangers are refused.
func TestOwnRelay(t *testing.T) {
	t.Parallel()
	l := lab.New(t)
	host := l.Public("relay", "203.0.113.40")
	command := "derper --hostname=203.0.113.40 --region-code=own --region-name=Own-relay -a :12345 --http-port=-1" +
		" --verify-client-url=http://" + serverIP + ":8080/verify"
	derper := host.Begin(command)
	entry := derper.Await(`(?s)\{\s.*?\n\}\n`)[0]
	says(t, entry, "sha256-raw:")

	l.Step("the entry that it prints is pasted into a file of the server")
	machine := l.Public("server", serverIP)
	machine.Write("/etc/headscale/derp.json", entry)
	config := strings.NewReplacer("paths: []", "paths: [/etc/headscale/derp.json]", "enabled: true", "enabled: false").
		Replace(lab.Config(serverIP))
	server := machine.Headscale(config)
	server.Do("headscale users create amelia")
	says(t, server.Do("headscale derp"), "own", "203.0.113.40")

	l.Step("members talk through it, where nothing else goes")
	one := l.Home("house", "203.0.113.21", lab.Hard, "192.168.1.0/24")
	two := l.Home("flat", "203.0.113.22", lab.Hard, "192.168.2.0/24")
	clients := join(t, server, one.Machine("desk"), two.Machine("kitchen"))
	desk, kitchen := clients[0], clients[1]
	kitchen.Web("80")
	says(t, desk.PingsByRelay(kitchen.IP()), "DERP(own)")
	desk.Eventually("curl -s -m 5 http://"+kitchen.IP(), "kitchen sees "+desk.IP())
	says(t, desk.Do("tailscale netcheck"), "Own-relay")

	l.Step("a stranger, member of somebody else's tailnet, is refused")
	other := l.Public("elsewhere", "203.0.113.50")
	other.Write("/etc/headscale/derp.json", machine.Read("/etc/headscale/derp.json"))
	foreign := other.Headscale(strings.ReplaceAll(config, serverIP, "203.0.113.50"))
	foreign.Do("headscale users create mallory")
	stranger := l.Public("stranger", "203.0.113.60").Tailscale(lab.Newest)
	stranger.Do("tailscale up --timeout=20s --login-server=http://203.0.113.50:8080 --auth-key=" + foreign.Key("-u mallory -e 1h") + " || true")
	derper.Await(`client refused[^\n]*source=203\.0\.113\.60[^\n]*not a node`)

	l.Step("with the control server away the relay fails closed: who asks newly is refused")
	server.Proc().Stop()
	derper.Stop()
	derper = host.Begin(command)
	derper.Await(`client refused[^\n]*source=203\.0\.113\.22[^\n]*asking the verify URL`)

	l.Step("and opens when the server is back")
	server.Boot()
	desk.Eventually("curl -s -m 5 http://"+kitchen.IP(), "kitchen sees "+desk.IP())
}

// TestRelayOfAMember is the users' guide's way of keeping strangers out: tailscaled runs beside the
// relay, and derper asks it who is known (--verify-clients).
func TestRelayOfAMember(t *testing.T) {
	t.Parallel()
	l := lab.New(t)
	machine := l.Public("server", serverIP)
	machine.Write("/etc/headscale/derp.json", `{"Regions": {}}`)
	server := machine.Headscale(strings.Replace(lab.Config(serverIP), "paths: []", "paths: [/etc/headscale/derp.json]", 1))
	server.Do("headscale users create amelia")

	l.Step("a member runs a relay")
	host := l.Public("relay", "203.0.113.40")
	member := join(t, server, host)[0]
	derper := host.Begin("derper --hostname=203.0.113.40 --region-code=own -a :12345 --http-port=-1 --verify-clients")
	machine.Write("/etc/headscale/derp.json", derper.Await(`(?s)\{\s.*?\n\}\n`)[0])
	server.Do("headscale reload")
	member.Eventually("tailscale debug derp-map", "203.0.113.40")

	l.Step("a member of the tailnet is welcome")
	desk := join(t, server, l.Public("desk", "203.0.113.21"))[0]
	desk.Eventually("tailscale debug derp own", "Successfully established a DERP connection")

	l.Step("after it is deleted, it is not")
	server.Do("headscale nodes delete --force -i " + nodeNamed(t, server, "desk").ID)
	member.Peers()
	desk.Unplug()
	desk.Replug()
	derper.Await(`client refused[^\n]*source=203\.0\.113\.21`)
}
