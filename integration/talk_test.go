//go:build linux

package integration_test

import (
	"fmt"
	"strings"
	"testing"

	"tailscale.com/ipn/ipnstate"

	"github.com/keelscale/keelscale/integration/lab"
)

// TestTalk shows the ways that packets take: on one network, through NATs, and by the relay where
// there is no other way; and what the client's own tools say of it.
func TestTalk(t *testing.T) {
	l, server := stage(t)
	house := l.Home("house", "203.0.113.21", lab.Easy, "192.168.1.0/24")
	flat := l.Home("flat", "203.0.113.22", lab.Easy, "192.168.2.0/24")
	hotel := l.Home("hotel", "203.0.113.23", lab.Hard, "192.168.3.0/24")
	ship := l.Home("ship", "198.51.100.24", lab.Hard, "192.168.4.0/24")
	clients := join(t, server, house.Machine("desk"), house.Machine("couch"), flat.Machine("kitchen"),
		hotel.Machine("guest"), ship.Machine("cabin"), l.Public("tower", "198.51.100.30"))
	desk, couch, kitchen, guest, cabin, tower := clients[0], clients[1], clients[2], clients[3], clients[4], clients[5]
	for _, c := range clients {
		c.Web("80")
	}

	l.Step("on one network, directly and without leaving the house")
	says(t, desk.PingsDirectly(couch.IP()), "via 192.168.1.3:41641")

	l.Step("directly through two easy NATs")
	says(t, desk.PingsDirectly(kitchen.IP()), "via 203.0.113.22:")
	says(t, kitchen.PingsDirectly(desk.IP()), "via 203.0.113.21:")

	l.Step("directly from behind a hard NAT to a public address")
	guest.PingsDirectly(tower.IP())

	l.Step("by the relay where both NATs are hard")
	says(t, guest.PingsByRelay(cabin.IP()), "DERP(headscale)")

	l.Step("by the relay where UDP does not pass")
	flat.BlockUDP(true)
	kitchen.PingsByRelay(tower.IP())

	l.Step("ICMP and TCP go all those ways, with both address families")
	for _, way := range [][2]*lab.Client{{desk, couch}, {desk, tower}, {guest, cabin}, {kitchen, tower}, {cabin, kitchen}} {
		from, to := way[0], way[1]
		v4, v6 := to.TailnetIPs()
		_, own6 := from.TailnetIPs()
		from.Eventually("ping -c 1 -W 3 "+v4.String(), "1 received")
		from.Eventually("ping -c 1 -W 3 "+v6.String(), "1 received")
		from.Eventually("curl -s -m 5 http://"+v4.String(), to.Name+" sees "+from.IP())
		from.Eventually("curl -s -m 5 'http://["+v6.String()+"]'", to.Name+" sees "+own6.String())
	}

	l.Step("the client's tools tell how")
	says(t, guest.Do("tailscale status"), "cabin", `relay "headscale"`, "tower", "direct 198.51.100.30:41641")
	says(t, desk.Do("tailscale netcheck"), "UDP: true", "Nearest DERP: Headscale Embedded DERP", "headscale:")
	says(t, kitchen.Do("tailscale netcheck"), "UDP: false")

	l.Step("an address changes over night, a cable is pulled: the talk goes on")
	tower.Disconnect()
	tower.AwaitStatus("the lack of a network", func(st *ipnstate.Status) error {
		if text := strings.Join(st.Health, " "); !strings.Contains(text, "network is down") {
			return fmt.Errorf("health: %q", st.Health)
		}
		return nil
	})
	tower.Renumber("198.51.100.31")
	says(t, desk.PingsDirectly(tower.IP()), "via 198.51.100.31:41641")
	tower.Unplug()
	desk.Refused("ping -c 1 -W 2 " + tower.IP())
	tower.Replug()
	desk.Eventually("ping -c 1 -W 2 "+tower.IP(), "1 received")
}
