//go:build linux

package integration_test

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/keelscale/keelscale/integration/lab"
)

// versions are the clients of the matrix: those in KEELSCALE_CLIENTS, or the oldest that builds, one
// between and the newest.
func versions() []string {
	if list := strings.Fields(os.Getenv("KEELSCALE_CLIENTS")); len(list) > 0 {
		return list
	}
	return []string{"v1.62.1", "v1.86.5", lab.Newest}
}

// TestClients lets one machine of every version into one tailnet, each in a home of its own. They
// must see, name and reach one another, directly first and by the relay when UDP is cut off.
func TestClients(t *testing.T) {
	l, server := stage(t)
	key := server.Key("-u amelia -e 1h --reusable")
	var clients []*lab.Client
	var homes []*lab.Home
	for i, version := range versions() {
		name := "c" + strings.ReplaceAll(strings.TrimPrefix(version, "v"), ".", "-")
		home := l.Home("home-"+name, fmt.Sprintf("203.0.113.%d", 20+i), lab.Easy, "192.168.1.0/24")
		client := home.Machine(name).Tailscale(version).Up(login, "--auth-key="+key)
		client.Web("80")
		clients, homes = append(clients, client), append(homes, home)
	}

	l.Step("each sees all the others")
	for _, c := range clients {
		var others []string
		for _, o := range clients {
			if o != c {
				others = append(others, o.Name)
			}
		}
		c.Peers(others...)
		says(t, c.Do("tailscale status"), others...)
	}

	l.Step("each reaches the next directly through both NATs, and talks TCP with it by name")
	for i, c := range clients {
		next := clients[(i+1)%len(clients)]
		c.PingsDirectly(next.IP())
		c.Eventually("ping -c 1 -W 2 "+next.IP(), "1 received")
		c.Eventually("curl -s -m 5 http://"+next.Name, next.Name+" sees "+c.IP())
	}

	l.Step("without UDP, each reaches the next by the relay")
	for _, h := range homes {
		h.BlockUDP(true)
	}
	for i, c := range clients {
		next := clients[(i+1)%len(clients)]
		c.PingsByRelay(next.IP())
		c.Eventually("curl -s -m 5 http://"+next.IP(), next.Name+" sees "+c.IP())
	}
}
