//go:build linux

package integration_test

import (
	"fmt"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"tailscale.com/ipn/ipnstate"

	"github.com/keelscale/keelscale/integration/lab"
)

// TestQuickRestarts is the users' guide's own trap: plain http at a bare public address. A client that
// dials such a server twice within two minutes insists on TLS at port 443 from then on. Our server
// answers there too, so clients outlive two restarts in a row, and a third.
func TestQuickRestarts(t *testing.T) {
	l, server := stage(t)
	clients := join(t, server, l.Public("desk", "203.0.113.21"), l.Home("flat", "203.0.113.22", lab.Easy, "192.168.2.0/24").Machine("kitchen"))
	veteran := l.Public("veteran", "203.0.113.23").Tailscale(versions()[0])
	clients = append(clients, veteran.Up(login, "--auth-key="+server.Key("-u amelia -e 1h")))
	for round := 1; round <= 3; round++ {
		l.Step(fmt.Sprintf("restart %d", round))
		if took := server.Restart(); took > 20*time.Second {
			t.Errorf("stopping took %v, want a few seconds at most", took)
		}
		served(t, l, server, clients)
	}
	l.Step("news reach them, so they are served and do not only look like it")
	server.Do("headscale nodes rename cellar -i " + nodeNamed(t, server, "kitchen").ID)
	clients[0].Peers("cellar", "veteran")
	veteran.Peers("cellar", "desk")

	l.Step("the trap was there: those who tell it in their logs have gone to port 443")
	for _, c := range clients[:2] {
		if !strings.Contains(c.Daemon().Output(), "forcing port 443 dial due to recent noise dial") {
			t.Errorf("%s never went to port 443, so this scene shows nothing", c.Name)
		}
	}
}

// served waits until every client is online for the server, and on the polls of this very server.
func served(t *testing.T, l *lab.Lab, server *lab.Server, clients []*lab.Client) {
	t.Helper()
	l.Await("all clients to be served again", func() error {
		for _, n := range nodes(t, server) {
			if !n.Online {
				return fmt.Errorf("%s is not online", n.Name)
			}
		}
		return nil
	})
	for _, c := range clients {
		c.AwaitState("Running")
		c.AwaitStatus("contact with control", func(st *ipnstate.Status) error {
			if i := slices.IndexFunc(st.Health, func(h string) bool { return strings.Contains(h, "coordination server") }); i >= 0 {
				return fmt.Errorf("health: %q", st.Health[i])
			}
			return nil
		})
	}
}

// TestPowerCut kills the server with SIGKILL: everybody is served again and nobody logs in anew.
func TestPowerCut(t *testing.T) {
	l, server := stage(t)
	clients := join(t, server, l.Public("desk", "203.0.113.21"), l.Public("couch", "203.0.113.22"))
	desk, couch := clients[0], clients[1]
	logins := func(c *lab.Client) int { return strings.Count(c.Daemon().Output(), "RegisterReq:") }
	before := []int{logins(desk), logins(couch)}

	server.PowerCut()
	served(t, l, server, clients)
	for i, c := range clients {
		if got := logins(c); got != before[i] {
			t.Errorf("registrations of %s after the power cut: got %d, want none but the %d before", c.Name, got-before[i], before[i])
		}
	}
	desk.Eventually("ping -c 1 -W 2 "+couch.IP(), "1 received")

	l.Step("and what was just answered is not lost")
	late := l.Public("late", "203.0.113.23").Tailscale(lab.Newest).Up(login, "--auth-key="+server.Key("-u amelia -e 1h"))
	server.PowerCut()
	served(t, l, server, append(clients, late))
	desk.Peers("couch", "late")

	l.Step("talk goes on without any server")
	server.Proc().Kill()
	desk.Eventually("ping -c 1 -W 2 "+couch.IP(), "1 received")
}

// TestReload sends SIGHUP: what can change at run time changes, no client is dropped; and SIGTERM ends it all.
func TestReload(t *testing.T) {
	l, server := stage(t, "policy:\n  path: /etc/headscale/policy.hujson")
	config := server.Read("/etc/headscale/config.yaml")
	clients := join(t, server, l.Public("desk", "203.0.113.21"), l.Public("couch", "203.0.113.22"))
	desk, couch := clients[0], clients[1]
	couch.Web("80", "8080")
	desk.Eventually("curl -s -m 5 http://"+couch.IP()+":8080", "couch sees")

	l.Step("the policy file changes")
	server.Write("/etc/headscale/policy.hujson", `{"acls": [{"action": "accept", "src": ["amelia@"], "dst": ["amelia@:80"]}]}`)
	server.Proc().Signal(syscall.SIGHUP)
	l.Await("port 8080 to be closed", func() error {
		if out, err := desk.Quietly("curl -s -m 1 http://" + couch.IP() + ":8080"); err == nil {
			return fmt.Errorf("it answers %q", out)
		}
		return nil
	})
	desk.Eventually("curl -s -m 5 http://"+couch.IP(), "couch sees")

	l.Step("a broken one leaves the good one in force, and says so")
	server.Write("/etc/headscale/policy.hujson", `{"acls": [{"action": "allow"`)
	server.Proc().Signal(syscall.SIGHUP)
	server.Proc().Await(`(?i)policy[^\n]*(refus|invalid|keep|kept|stay|unchanged|error)`)
	desk.Eventually("curl -s -m 5 http://"+couch.IP(), "couch sees")
	desk.Refused("curl -s -m 1 http://" + couch.IP() + ":8080")

	l.Step("names and relays of the configuration follow too, and nobody was dropped for it")
	server.Write("/etc/headscale/derp.json", `{"Regions": {"901": {"RegionID": 901, "RegionCode": "spare", "RegionName": "Spare",
		"Nodes": [{"Name": "901a", "RegionID": 901, "HostName": "203.0.113.99", "IPv4": "203.0.113.99"}]}}}`)
	server.Write("/etc/headscale/policy.hujson", "{}")
	server.Write("/etc/headscale/config.yaml", strings.NewReplacer("paths: []", "paths: [/etc/headscale/derp.json]",
		"magic_dns: true", "magic_dns: true\n  extra_records:\n    - {name: wiki.lab.example, type: A, value: 100.64.0.2}").Replace(config))
	server.Proc().Signal(syscall.SIGHUP)
	desk.Eventually("tailscale debug derp-map", "Spare")
	desk.Eventually("dig +short @100.100.100.100 wiki.lab.example", "100.64.0.2")
	desk.Eventually("curl -s -m 5 http://"+couch.IP()+":8080", "couch sees")
	silentOn(t, desk.Daemon().Output(), "map response long-poll timed out", "Switching ipn state Running -> NeedsLogin")

	l.Step("SIGTERM ends the server within seconds, clients connected as they are")
	if took := server.Proc().Stop(); took > 20*time.Second {
		t.Errorf("ending took %v, want a few seconds at most", took)
	}
	if code := server.Proc().Ended(); code != 0 {
		t.Errorf("exit code after SIGTERM: got %d, want 0", code)
	}
}
