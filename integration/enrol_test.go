//go:build linux

package integration_test

import (
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/keelscale/keelscale/integration/lab"
)

// noRelay is a server without an embedded relay, so that all that is relayed goes over those that enrol.
func noRelay(t *testing.T) (*lab.Lab, *lab.Server) {
	t.Helper()
	l := lab.New(t)
	server := l.Public("server", serverIP).Headscale(strings.Replace(lab.Config(serverIP), "enabled: true", "enabled: false", 1))
	server.Do("headscale users create amelia")
	return l, server
}

// enrolKey makes a key for relays.
func enrolKey(t *testing.T, server *lab.Server, args string) string {
	t.Helper()
	for _, word := range strings.Fields(server.Do("headscale derp enroll-keys create " + args)) {
		if strings.HasPrefix(word, "hskey-relay-") {
			return word
		}
	}
	t.Fatal("no enrolment key was printed")
	return ""
}

// TestEnrolledRelay is all that an operator types: two lines, and the relay is in everybody's map, for members only. It
// goes on while the control server is dead, and over its own restart meanwhile.
func TestEnrolledRelay(t *testing.T) {
	t.Parallel()
	l, server := noRelay(t)
	key := enrolKey(t, server, "")

	l.Step("the relay enrols")
	host := l.Public("relay", "203.0.113.40")
	command := "derper --control=http://" + serverIP + ":8080 --region=home"
	derper := host.Begin(command + " --enroll-key=" + key)
	derper.Await(`enrolled as home-1 \(region 901 home\)`)
	derper.Await(`published as 203\.0\.113\.40:443`)
	says(t, server.Eventually("headscale derp list", "203.0.113.40"), "home-1", "home")

	l.Step("members talk through it, where nothing else goes")
	one := l.Home("house", "203.0.113.21", lab.Hard, "192.168.1.0/24")
	two := l.Home("flat", "203.0.113.22", lab.Hard, "192.168.2.0/24")
	clients := join(t, server, one.Machine("desk"), two.Machine("kitchen"))
	desk, kitchen := clients[0], clients[1]
	kitchen.Web("80")
	says(t, desk.PingsByRelay(kitchen.IP()), "DERP(home)")
	talk := func() {
		t.Helper()
		desk.Eventually("curl -s -m 5 http://"+kitchen.IP(), "kitchen sees "+desk.IP())
	}
	talk()

	l.Step("with the control server dead they go on, also when the relay restarts")
	server.Proc().Kill()
	derper.Await(`no session with the control server, trying again; known nodes are served meanwhile`)
	talk()
	derper.Stop()
	derper = host.Begin(command)
	talk()
	derper.Await(`no session with the control server, trying again; known nodes are served meanwhile`)

	l.Step("and when the server is back, so is the relay")
	server.Boot()
	derper.Await(`enrolled as home-1 [^\n]*, admits 2 nodes`)
	derper.Await(`published as 203\.0\.113\.40:443`)
	talk()

	l.Step("a stranger, member of somebody else's tailnet, is refused")
	other := l.Public("elsewhere", "203.0.113.50")
	other.Write("/etc/headscale/derp.json", server.Do("headscale derp map -o json"))
	foreign := other.Headscale(strings.NewReplacer("paths: []", "paths: [/etc/headscale/derp.json]", "enabled: true", "enabled: false").
		Replace(lab.Config("203.0.113.50")))
	foreign.Do("headscale users create mallory")
	stranger := l.Public("stranger", "203.0.113.60").Tailscale(lab.Newest)
	stranger.Do("tailscale up --timeout=20s --login-server=http://203.0.113.50:8080 --auth-key=" + foreign.Key("-u mallory -e 1h") + " || true")
	derper.Await(`client refused[^\n]*source=(203\.0\.113\.60|2001:db8:113::3c)[^\n]*the control server does not name this node`)

	l.Step("a node that is deleted is gone at once")
	kitchen.Daemon().Signal(syscall.SIGSTOP) // it cannot leave by itself
	began := time.Now()
	server.Do("headscale nodes delete --force -i " + nodeNamed(t, server, "kitchen").ID)
	derper.Await(`node sent away`)
	if took := time.Since(began); took > cutOff {
		t.Errorf("the deleted node was sent away after %v", took)
	} else {
		t.Logf("the deleted node was sent away after %v", took)
	}

	l.Step("a relay that is removed admits nobody and forgets its enrolment")
	server.Do("headscale derp remove home-1 --force")
	derper.Await(`this relay was removed from the control server`)
	if code := derper.Ended(); code != 1 {
		t.Errorf("derper ended with %d, want 1", code)
	}
	says(t, host.Refused(command), "not enrolled yet")
	says(t, host.Refused(command+" --enroll-key="+key), "enroll-keys create")
}

// TestRelayMoves is a relay on a home line: its address changes, and it is back within thirty seconds.
func TestRelayMoves(t *testing.T) {
	t.Parallel()
	l, server := noRelay(t)
	key := enrolKey(t, server, "--reusable")
	host := l.Public("relay", "203.0.113.40")
	derper := host.Begin("derper --control=http://" + serverIP + ":8080 --region=home --enroll-key=" + key)
	derper.Await(`published as 203\.0\.113\.40:443`)
	one := l.Home("house", "203.0.113.21", lab.Hard, "192.168.1.0/24")
	two := l.Home("flat", "203.0.113.22", lab.Hard, "192.168.2.0/24")
	clients := join(t, server, one.Machine("desk"), two.Machine("kitchen"))
	desk, kitchen := clients[0], clients[1]
	kitchen.Web("80")
	desk.Eventually("curl -s -m 5 http://"+kitchen.IP(), "kitchen sees "+desk.IP())

	l.Step("the address changes")
	began := time.Now()
	host.Renumber("203.0.113.41")
	derper.Await(`published as 203\.0\.113\.41:443`)
	published := time.Since(began)
	desk.Eventually("curl -s -m 2 http://"+kitchen.IP(), "kitchen sees "+desk.IP())
	t.Logf("published after %v, members talk again after %v", published, time.Since(began))
	if published > 90*time.Second { // thirty, where nothing else has to be done
		t.Errorf("the relay was published at its new address after %v, want 90 s at most", published)
	}
	says(t, server.Do("headscale derp list"), "203.0.113.41")
}
