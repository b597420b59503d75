//go:build linux

package integration_test

import (
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/keelscale/keelscale/derp"
	"github.com/keelscale/keelscale/integration/lab"
)

// rotationEnd is how long the old certificate still lives when the relay starts with it: long
// enough for two clients to join by it.
const rotationEnd = 2 * time.Minute

// TestCertificateRotation has a self-signed certificate end while two clients behind hard NATs,
// one of them with the first version that was seen to honour pins, ping each other over the
// relay. One learns of the next certificate in time by the DERP map; a third client, which
// comes after the end, too. No ping is lost for longer than five seconds.
func TestCertificateRotation(t *testing.T) {
	t.Parallel()
	l := lab.New(t)
	host := l.Public("relay", "203.0.113.40")
	old := shortLived(t, host, rotationEnd)
	ends := time.Now().Add(rotationEnd)
	derper := host.Begin("derper --hostname=203.0.113.40 --region-code=own -a :12345 --http-port=-1 --certdir=/var/lib/derper/certs")
	next := derper.Await(`(?s)\{\s.*?\n\}\n`)[0]
	derper.Await(`An entry with the old pin, ` + old.Pin + `, works until`)
	pin := derper.Await(`"CertName": "(sha256-raw:[0-9a-f]+)"`)[1]
	name := derper.Await(`"HostName": "([^"]+)"`)[1]
	entry := strings.NewReplacer(pin, old.Pin, name, "203.0.113.40").Replace(next)
	if pin == old.Pin || name == "203.0.113.40" {
		t.Fatalf("got %s, %s for the next certificate, which are the old one's", name, pin)
	}

	machine := l.Public("server", serverIP)
	machine.Write("/etc/headscale/derp.json", entry)
	server := machine.Headscale(strings.NewReplacer("paths: []", "paths: [/etc/headscale/derp.json]", "enabled: true", "enabled: false").
		Replace(lab.Config(serverIP)))
	server.Do("headscale users create amelia")
	key := server.Key("-u amelia -e 1h --reusable")
	desk := l.Home("house", "203.0.113.21", lab.Hard, "192.168.1.0/24").Machine("desk").Tailscale("v1.86.5").Up(login, "--auth-key="+key)
	kitchen := l.Home("flat", "203.0.113.22", lab.Hard, "192.168.2.0/24").Machine("kitchen").Tailscale(lab.Newest).Up(login, "--auth-key="+key)
	says(t, desk.PingsByRelay(kitchen.IP()), "DERP(own)")
	if time.Now().After(ends) {
		t.Skip("the clients took longer to join than the old certificate lived: this machine is too slow now")
	}
	pings := desk.Begin("ping -D -O -i 0.2 " + kitchen.IP())

	l.Step("the next certificate's entry is put into the map, while both are served")
	machine.Write("/etc/headscale/derp.json", next)
	server.Do("headscale reload")
	for _, c := range []*lab.Client{desk, kitchen} {
		c.Eventually("tailscale debug derp-map", pin)
	}
	l.Step("a client that loses its connection comes back by the new entry")
	kitchen.Do("tailscale debug break-derp-conns")
	desk.Do("tailscale debug break-derp-conns")
	desk.Eventually("tailscale ping -c 1 --timeout 3s --until-direct=false "+kitchen.IP(), "via DERP(own)")

	l.Step("the old certificate ends")
	l.Patient(5, func() { derper.Await("the old certificate has ended") })
	if left := time.Until(ends); left > 0 {
		t.Errorf("the old certificate went %v too early", left)
	}

	l.Step("a client that comes after that knows the new one")
	late := l.Home("shed", "203.0.113.23", lab.Hard, "192.168.3.0/24").Machine("late").Tailscale("v1.86.5").Up(login, "--auth-key="+key)
	says(t, late.PingsByRelay(kitchen.IP()), "DERP(own)")

	pings.Signal(syscall.SIGINT)
	pings.Ended()
	gap, n := longestGap(pings.Output())
	t.Logf("%d answers, %v the longest time without one", n, gap)
	if n < 100 || gap > longGap {
		t.Errorf("got %d answers and %v without one, want a hundred and %v at most", n, gap, longGap)
	}
}

// shortLived puts a certificate of the relay's own making into its place that ends soon.
func shortLived(t *testing.T, host *lab.Host, life time.Duration) derp.CertInfo {
	t.Helper()
	dir := t.TempDir()
	c, err := derp.OpenCert(derp.CertConfig{Mode: derp.SelfSigned, Hostname: host.Addr(), Dir: dir, Validity: life, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	host.Do("mkdir -p /var/lib/derper/certs")
	for _, ext := range []string{".crt", ".key"} {
		text, err := os.ReadFile(filepath.Join(dir, host.Addr()+ext))
		if err != nil {
			t.Fatal(err)
		}
		host.Write("/var/lib/derper/certs/"+host.Addr()+ext, string(text))
	}
	return c.Certificates()[0]
}

// longestGap is the longest time between two answers that ping -D printed, and how many there
// were.
func longestGap(out string) (gap time.Duration, answers int) {
	var last float64
	for line := range strings.Lines(out) {
		stamp, rest, ok := strings.Cut(strings.TrimPrefix(line, "["), "] ")
		at, err := strconv.ParseFloat(stamp, 64)
		if !ok || err != nil || !strings.Contains(rest, "bytes from") {
			continue
		}
		if answers > 0 {
			gap = max(gap, time.Duration((at-last)*float64(time.Second)))
		}
		last = at
		answers++
	}
	return gap, answers
}
