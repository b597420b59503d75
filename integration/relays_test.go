//go:build linux

package integration_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"math/big"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"tailscale.com/tailcfg"

	"github.com/keelscale/keelscale/integration/lab"
)

// relayStage is a stage whose server has no relay of its own.
func relayStage(t *testing.T, more ...string) (*lab.Lab, *lab.Server) {
	t.Helper()
	t.Parallel()
	l := lab.New(t)
	server := l.Public("server", serverIP).Headscale(withoutRelay(lab.Config(serverIP, more...)))
	server.Do("headscale users create amelia")
	return l, server
}

// withoutRelay is a configuration without the relay inside the server.
func withoutRelay(config string) string {
	return strings.Replace(config, "enabled: true", "enabled: false", 1)
}

// inMap is content with a relay that clients are told of.
func inMap(r lab.RelayRow) bool { return r.Healthy && len(r.Published) > 0 }

// apart makes clients in homes of their own, whose hard NATs leave them nothing but a relay, and waits until the first
// reaches the others by one.
func apart(t *testing.T, l *lab.Lab, server *lab.Server, names ...string) []*lab.Client {
	t.Helper()
	var hosts []*lab.Host
	for i, name := range names {
		home := l.Home(name+"-home", fmt.Sprintf("203.0.113.%d", 21+i), lab.Hard, fmt.Sprintf("192.168.%d.0/24", 1+i))
		hosts = append(hosts, home.Machine(name))
	}
	return join(t, server, hosts...)
}

// TestPrivateRelay is the private relay in five minutes: one line from the control server is typed on a machine with a
// public address, and clients of all ages behind hard NATs talk by it. Others do not.
func TestPrivateRelay(t *testing.T) {
	l, server := relayStage(t)
	relay := l.Public("relay", "203.0.113.40").Enrolled(server, "--region=home")
	server.AwaitRelay("home-1", "in the map", inMap)
	says(t, server.Do("headscale derp list"), "home-1", "203.0.113.40:443")

	l.Step("members talk by it, whatever their age")
	key := server.Key("-u amelia -e 1h --reusable")
	var members []*lab.Client
	for i, version := range versions() {
		home := l.Home(fmt.Sprintf("home%d", i), fmt.Sprintf("203.0.113.%d", 21+i), lab.Hard, fmt.Sprintf("192.168.%d.0/24", 1+i))
		members = append(members, home.Machine(fmt.Sprintf("member%d", i)).Tailscale(version).Up(login, "--auth-key="+key))
	}
	newest := members[len(members)-1]
	newest.Web("80")
	for _, m := range members[:len(members)-1] {
		says(t, m.PingsByRelay(newest.IP()), "DERP(home)")
		m.Eventually("curl -s -m 5 http://"+newest.IP(), newest.Name+" sees "+m.IP())
	}
	server.AwaitRelay("home-1", "all its clients", func(r lab.RelayRow) bool { return r.Clients == len(members) })

	l.Step("strangers, members of somebody else's tailnet whose map names this relay, are refused")
	other := l.Public("elsewhere", "203.0.113.50")
	other.Write("/etc/headscale/derp.json", server.Do("headscale derp map -o json"))
	foreign := other.Headscale(strings.Replace(withoutRelay(lab.Config("203.0.113.50")), "paths: []", "paths: [/etc/headscale/derp.json]", 1))
	foreign.Do("headscale users create mallory")
	key = foreign.Key("-u mallory -e 1h --reusable")
	var strangers []*lab.Client
	for i := range 2 {
		home := l.Home(fmt.Sprintf("den%d", i), fmt.Sprintf("203.0.113.%d", 60+i), lab.Hard, fmt.Sprintf("192.168.%d.0/24", 60+i))
		m := home.Machine(fmt.Sprintf("stranger%d", i)).Tailscale(lab.Newest)
		m.Try("tailscale up --timeout=10s --login-server=http://203.0.113.50:8080 --auth-key=" + key) // without a relay it may not be content
		strangers = append(strangers, m)
		relay.Proc().Await(fmt.Sprintf(`client refused[^\n]*source=203\.0\.113\.%d[^\n]*the control server does not name this node`, 60+i))
	}
	strangers[0].Refused("tailscale ping -c 2 --timeout 2s " + strangers[1].IP())
	server.AwaitRelay("home-1", "its members and nobody else", func(r lab.RelayRow) bool { return r.Clients == len(members) })
}

// cutOff is how long a relay may go on serving a node that is no longer one. It is two seconds for real, and more for a
// machine that is busy with other scenes; how long it took is printed.
const cutOff = 20 * time.Second

// longGap is how long two nodes may be out of touch while a relay's certificate is changed: some seconds for real.
const longGap = 20 * time.Second

// TestRelayEvicts shows that a node that is no longer one is cut off, while packets flow and whatever it does itself.
func TestRelayEvicts(t *testing.T) {
	l, server := relayStage(t)
	relay := l.Public("relay", "203.0.113.40").Enrolled(server, "--region=home")
	clients := apart(t, l, server, "desk", "deleted", "expired", "out")
	desk := clients[0]
	for i, end := range []string{"headscale nodes delete --force -i ", "headscale nodes expire -i ", ""} {
		c := clients[i+1]
		l.Step(c.Name + " is relayed, and then is not")
		pings := desk.PingSteadily(c.IP())
		id := nodeNamed(t, server, c.Name).ID
		// Its connection, as the relay's kernel knows it.
		connected := fmt.Sprintf("ss -Htn state established src :443 dst 203.0.113.%d", 22+i)
		relay.Eventually(connected, "203.0.113.40")
		if end == "" {
			c.Do("tailscale logout")
		} else {
			c.Daemon().Signal(syscall.SIGSTOP) // it cannot leave by itself
			server.Do(end + id)
		}
		begun := time.Now()
		l.Await("the end of its connection", func() error {
			if out, err := relay.Quietly(connected); err != nil || out != "" {
				return fmt.Errorf("%v %s", err, out)
			}
			return nil
		})
		if took := time.Since(begun); took > cutOff {
			t.Errorf("%s was cut off after %v, want %v at most", c.Name, took, cutOff)
		} else {
			t.Logf("%s was cut off after %v", c.Name, took)
		}
		c.Daemon().Signal(syscall.SIGCONT)
		c.AwaitState("NeedsLogin")
		pings.Stop()
	}
}

// TestRelayAlone kills the control server: relays go on for those whom they know, over a restart of their own, and stay
// closed to others.
func TestRelayAlone(t *testing.T) {
	l, server := relayStage(t)
	relay := l.Public("relay", "203.0.113.40").Enrolled(server, "--region=home")
	clients := apart(t, l, server, "desk", "kitchen")
	desk, kitchen := clients[0], clients[1]
	pings := desk.PingSteadily(kitchen.IP())
	l.Await("the relay to have written down both", func() error { // which takes it seconds
		if n := writtenDown(t, relay); n != len(clients) {
			return fmt.Errorf("it has written down %d", n)
		}
		return nil
	})

	l.Step("the control server dies, the talk goes on")
	server.Proc().Kill()
	relay.Proc().Await("known nodes are served meanwhile")
	pings.AwaitAnswer(time.Now())

	l.Step("the relay dies too, and comes back alone")
	relay.Proc().Kill()
	relay.Boot("http://" + serverIP + ":8080")
	pings.AwaitAnswer(time.Now())
	desk.PingsByRelay(kitchen.IP())

	l.Step("a key that nobody knows is refused")
	desk.Do("tailscale debug derp home")
	relay.Proc().Await(`client refused[^\n]*source=203\.0\.113\.21[^\n]*`)

	l.Step("with the control server again, who comes is served, and who goes is not")
	server.Boot()
	server.AwaitRelay("home-1", "connected", func(r lab.RelayRow) bool { return r.Online && inMap(r) })
	kitchen.Daemon().Signal(syscall.SIGSTOP) // it cannot leave by itself
	server.Do("headscale nodes delete --force -i " + nodeNamed(t, server, "kitchen").ID)
	relay.Proc().Await("node sent away")
	late := join(t, server, l.Home("late-home", "203.0.113.29", lab.Hard, "192.168.9.0/24").Machine("late"))[0]
	says(t, late.PingsByRelay(desk.IP()), "DERP(home)")
}

// writtenDown is how many nodes the relay would know after a restart.
func writtenDown(t *testing.T, relay *lab.Relay) (nodes int) {
	t.Helper()
	var file struct {
		State struct {
			List struct {
				Classes []struct {
					Keys []byte `json:"keys"`
				} `json:"classes"`
			} `json:"list"`
		} `json:"state"`
	}
	if err := json.Unmarshal([]byte(relay.Read("/var/lib/derper/enrolment.json")), &file); err != nil {
		t.Fatalf("reading what the relay wrote down: %v", err)
	}
	for _, class := range file.State.List.Classes {
		nodes += len(class.Keys) / 32
	}
	return nodes
}

// TestRelayOnAHomeLine is a relay behind the router of a home line whose address changes: the map follows by itself.
func TestRelayOnAHomeLine(t *testing.T) {
	l, server := relayStage(t)
	line := l.Home("line", "203.0.113.40", lab.Easy, "192.168.40.0/24")
	box := line.Machine("box")
	line.Forward(box, "tcp/443", "udp/3478")
	box.Enrolled(server, "--region=home")
	server.AwaitRelay("home-1", "in the map", inMap)
	clients := apart(t, l, server, "desk", "kitchen")
	desk, kitchen := clients[0], clients[1]
	pings := desk.PingSteadily(kitchen.IP())

	begun := time.Now()
	line.Renumber("203.0.113.99")
	server.AwaitRelay("home-1", "at its new address", func(r lab.RelayRow) bool {
		return inMap(r) && r.Published[0] == "203.0.113.99:443"
	})
	for _, c := range clients {
		c.Eventually("tailscale debug derp-map", "203.0.113.99")
	}
	if took := time.Since(begun); took > 90*time.Second { // thirty, where nothing else has to be done
		t.Errorf("the map followed after %v, want 90 s at most", took)
	} else {
		t.Logf("the map followed after %v", took)
	}
	pings.AwaitAnswer(time.Now())
	t.Logf("the pings went on after %v", pings.LongestGap())
	says(t, server.Do("headscale derp list"), "203.0.113.99:443")
	says(t, desk.PingsByRelay(kitchen.IP()), "DERP(home)")
}

// TestEnrolledRotation renews the relay's own certificate under the feet of its clients: first the new pin is published,
// then the old certificate goes.
func TestEnrolledRotation(t *testing.T) {
	l, server := relayStage(t)
	host := l.Public("relay", "203.0.113.40")
	// With an hour's validity the next one is made six minutes before the end.
	first := ownCertificate(t, "r-0123456789ab.relay.invalid", 6*time.Minute+50*time.Second)
	host.Do("mkdir -p /var/lib/derper/certs")
	host.Write("/var/lib/derper/certs/selfsigned.crt", first.cert)
	host.Write("/var/lib/derper/certs/selfsigned.key", first.key)
	relay := host.Enrolled(server, "--region=home", "--cert-validity=1h")
	clients := apart(t, l, server, "desk", "kitchen")
	desk, kitchen := clients[0], clients[1]
	says(t, desk.Eventually("tailscale debug derp-map", "sha256-raw:"), first.pin)
	pings := desk.PingSteadily(kitchen.IP())

	l.Step("the time of the first certificate is coming: a second one is made and published, both are served")
	relay.Proc().Await("making a self-signed certificate.*the present one ends")
	for _, c := range clients {
		l.Await("the new pin", func() error {
			out, err := c.Quietly("tailscale debug derp-map")
			if err == nil && strings.Contains(out, first.pin) {
				err = fmt.Errorf("it still has the first")
			}
			return err
		})
	}
	says(t, relay.Do("openssl s_client -connect 203.0.113.40:443 -servername r-0123456789ab.relay.invalid </dev/null 2>/dev/null | openssl x509 -outform der | sha256sum"),
		strings.TrimPrefix(first.pin, "sha256-raw:"))
	pings.AwaitAnswer(time.Now())

	l.Step("the first one is gone, and the relay restarted: everybody comes back by the second")
	host.Do("rm /var/lib/derper/certs/selfsigned.crt /var/lib/derper/certs/selfsigned.key")
	relay.Proc().Signal(syscall.SIGHUP)
	pings.AwaitAnswer(time.Now().Add(2 * time.Second))
	if gap := pings.LongestGap(); gap > longGap {
		t.Errorf("no answer for %v, want %v at most", gap, longGap)
	} else {
		t.Logf("the longest time without an answer was %v", gap)
	}
	says(t, desk.PingsByRelay(kitchen.IP()), "DERP(home)")
}

// pinned is a certificate as a relay makes one for itself.
type pinned struct{ cert, key, pin string }

// ownCertificate makes one that is asked for by name.
func ownCertificate(t *testing.T, name string, valid time.Duration) pinned {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, DNSNames: []string{name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(valid),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	secret, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return pinned{
		cert: string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})),
		key:  string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: secret})),
		pin:  fmt.Sprintf("sha256-raw:%x", sha256.Sum256(der)),
	}
}

// TestRelaysForSome has the policy choose who is told of which relay; those whom a change concerns go over by themselves.
func TestRelaysForSome(t *testing.T) {
	l, server := stage(t)
	server.Do("headscale policy set -f - <<'END'\n" + `{"tagOwners": {"tag:cam": []}}` + "\nEND")
	relay := l.Public("relay", "203.0.113.40").Enrolled(server, "--region=home")
	server.AwaitRelay("home-1", "in the map", inMap)
	cam := l.Home("yard", "203.0.113.21", lab.Hard, "192.168.1.0/24").Machine("cam").Tailscale(lab.Newest).
		Up(login, "--auth-key="+server.Key("-e 1h --tags tag:cam"))
	desk := join(t, server, l.Home("house", "203.0.113.22", lab.Hard, "192.168.2.0/24").Machine("desk"))[0]
	for _, c := range []*lab.Client{cam, desk} {
		says(t, c.Eventually("tailscale debug derp-map", `"home"`), `"headscale"`)
	}

	l.Step("cameras are told only of the relay at home")
	rule := func(text string) { // as a policy, which says nothing else
		server.Do("headscale policy set -f - <<'END'\n" + `{"tagOwners": {"tag:cam": []}, "derpMap": {"rules": [` + text + "]}}\nEND")
	}
	rule(`{"target": ["tag:cam"], "allow": ["home"]}`)
	awaitMap(l, cam, "home")
	awaitMap(l, desk, "headscale", "home")
	silentOn(t, server.Do("headscale derp map --node cam"), "headscale")
	says(t, desk.PingsByRelay(cam.IP()), "DERP(home)")

	l.Step("without it they have none, which is said loudly, until it is back")
	relay.Proc().Stop()
	awaitMap(l, cam)
	says(t, server.Refused("headscale health"), "no relay is left for cam")
	relay.Boot("http://" + serverIP + ":8080")
	awaitMap(l, cam, "home")
	server.Do("headscale health")
	says(t, desk.PingsByRelay(cam.IP()), "DERP(home)")

	l.Step("then everybody but them is kept away from it, so that they have no relay in common")
	rule(`{"target": ["tag:cam"], "allow": ["home"]}, {"target": ["autogroup:member"], "deny": ["home"]}`)
	awaitMap(l, desk, "headscale")
	desk.Refused("tailscale ping -c 1 --timeout 2s " + cam.IP())
	says(t, server.Refused("headscale policy check -f - <<'END'\n"+`{"derpMap": {"rules": [{"target": ["*"], "allow": ["work"]}]}}`+"\nEND"),
		"no relay is left for cam, desk")
	rule("")
	awaitMap(l, cam, "headscale", "home")
	desk.PingsByRelay(cam.IP())
}

// awaitMap waits until a client's DERP map has exactly these regions.
func awaitMap(l *lab.Lab, c *lab.Client, codes ...string) {
	l.Await(fmt.Sprintf("the regions %v on %s", codes, c.Name), func() error {
		out, err := c.Quietly("tailscale debug derp-map")
		if err != nil {
			return err
		}
		var m tailcfg.DERPMap
		if err := json.Unmarshal([]byte(out), &m); err != nil {
			return err
		}
		var got []string
		for _, r := range m.Regions {
			got = append(got, r.RegionCode)
		}
		if slices.Sort(got); !slices.Equal(got, codes) {
			return fmt.Errorf("it has %v", got)
		}
		return nil
	})
}
