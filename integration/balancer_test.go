//go:build linux

package integration_test

import (
	"fmt"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/keelscale/keelscale/hscontrol/hstest/pgtest"
	"github.com/keelscale/keelscale/integration/lab"
)

// balanced is the configuration of docs/scaling.md: an haproxy that ends TLS, and two servers.
const balanced = `defaults
  mode http
  timeout connect 3s
  timeout client 3m
  timeout server 3m
  timeout tunnel 24h
  retries 3
  option redispatch
frontend clients
  bind :443 ssl crt /etc/headscale/both.pem
  http-request set-header X-Forwarded-Proto https
  default_backend headscale
backend headscale
  balance leastconn
  option httpchk GET /version
  default-server check inter 1s fall 2 rise 1 on-marked-down shutdown-sessions
  server one 203.0.113.11:8080
  server two 203.0.113.12:8080
`

// one of two servers on a PostgreSQL, whose socket is in a directory.
func sharingConfig(addr, database string, port int, secret string) string {
	return fmt.Sprintf(`server_url: https://server.example.net
listen_addr: 0.0.0.0:8080
unix_socket: /var/run/headscale/headscale.sock
noise: {also_on_443: false}
database:
  type: postgres
  secrets_key: %q
  postgres: {host: %s, port: %d, name: test1, user: %s}
derp: {server: {enabled: true, ipv4: %s, port: 8080, stun_listen_addr: "0.0.0.0:3478"}, urls: [], paths: []}
policy: {mode: database}
dns: {magic_dns: true, base_domain: lab.example, override_local_dns: false}
`, secret, database, port, pgtest.User, addr)
}

// TestTwoServersBehindBalancer is what an installation with two servers is made of: real clients, old and new, come
// through an haproxy that ends TLS, one of the servers is killed with -9, and the other serves all, without a login.
func TestTwoServersBehindBalancer(t *testing.T) {
	t.Parallel()
	if _, err := exec.LookPath("haproxy"); err != nil {
		t.Skipf("no load balancer: %v: apt-get install haproxy", err)
	}
	if _, err := pgtest.Program("initdb"); err != nil {
		t.Skipf("no PostgreSQL: %v", err)
	}
	if why := lab.Unable(); why != "" {
		t.Skip("the lab needs a machine that it does not have: " + why)
	}
	db, err := pgtest.Start()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := db.Remove(); err != nil {
			t.Errorf("ending PostgreSQL: %v", err)
		}
	})
	if _, err := db.CreateDatabase(); err != nil {
		t.Fatal(err)
	}
	l := lab.New(t)
	balancer := l.Public("server", serverIP) // as clients know it
	balancer.Do(issue)
	balancer.Do("cat /etc/headscale/tls.crt /etc/headscale/tls.key >/etc/headscale/both.pem")
	balancer.Write("/etc/headscale/haproxy.cfg", balanced)
	secret := strings.Repeat("5e", 32)
	one := l.Public("one", "203.0.113.11").Headscale(sharingConfig("203.0.113.11", db.Dir, db.Port, secret))
	two := l.Public("two", "203.0.113.12").Headscale(sharingConfig("203.0.113.12", db.Dir, db.Port, secret))
	balancer.Begin("haproxy -db -q -f /etc/headscale/haproxy.cfg")
	balancer.Eventually("curl -s --cacert /etc/headscale/ca.crt https://server.example.net/health", "pass")
	one.Do("headscale users create amelia")

	l.Step("clients of several versions join through the balancer, with a key of one of the servers")
	const login = "--login-server=https://server.example.net"
	var clients []*lab.Client
	key := two.Key("-u amelia -e 1h --reusable")
	for i, version := range []string{versions()[0], lab.Newest, lab.Newest} {
		h := l.Home(fmt.Sprintf("home%d", i), fmt.Sprintf("203.0.113.2%d", i), lab.Hard, fmt.Sprintf("192.168.%d.0/24", i)).Machine(fmt.Sprintf("desk%d", i))
		h.Write("/etc/ssl/certs/ca-certificates.crt", balancer.Read("/etc/headscale/ca.crt"))
		clients = append(clients, h.Tailscale(version).Up(login, "--auth-key="+key))
	}
	clients[1].PingsByRelay(clients[2].IP())
	health := func(s *lab.Server) { s.Eventually("headscale health", "well") }
	health(one)
	health(two)
	logins := func() (n int) {
		for _, c := range clients {
			n += strings.Count(c.Daemon().Output(), "RegisterReq:")
		}
		return n
	}
	before := logins()

	l.Step("one server dies")
	one.Proc().Kill()
	begun := time.Now()
	two.Do("headscale nodes rename cellar -i " + nodeNamed(t, two, "desk0").ID)
	two.Do("headscale nodes rename shed -i " + nodeNamed(t, two, "desk1").ID)
	clients[0].Peers("desk2", "shed")
	clients[1].Peers("cellar", "desk2")
	clients[2].Peers("cellar", "shed")
	served(t, l, two, clients)
	t.Logf("all served, and told of what changed since, %v after the death", time.Since(begun).Round(10*time.Millisecond))

	l.Step("it comes back, and the other dies")
	one.Boot()
	balancer.Eventually("curl -s --cacert /etc/headscale/ca.crt http://203.0.113.11:8080/health", "pass")
	two.Proc().Kill()
	begun = time.Now()
	one.Do("headscale nodes rename attic -i " + nodeNamed(t, one, "desk2").ID)
	one.Do("headscale nodes rename loft -i " + nodeNamed(t, one, "cellar").ID)
	clients[0].Peers("attic", "shed")
	clients[1].Peers("attic", "loft")
	clients[2].Peers("loft", "shed")
	served(t, l, one, clients)
	t.Logf("all served, and told of what changed since, %v after the death", time.Since(begun).Round(10*time.Millisecond))
	clients[1].Eventually("ping -c 1 -W 2 "+clients[2].IP(), "1 received")
	if got := logins(); got != before {
		t.Errorf("got %d registrations after both deaths, want none but the %d before", got-before, before)
	}
}
