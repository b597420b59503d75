//go:build linux

package integration_test

import (
	"strings"
	"syscall"
	"testing"

	"github.com/keelscale/keelscale/integration/lab"
)

// issue makes a certificate for server.example.net, signed by the authority that lies beside it, and
// the authority first if there is none.
const issue = `cd /etc/headscale
test -e ca.crt || openssl req -x509 -newkey rsa:2048 -days 30 -nodes -keyout ca.key -out ca.crt -subj "/CN=Lab Authority" 2>/dev/null
openssl req -newkey rsa:2048 -nodes -keyout tls.key -out tls.csr -subj /CN=server.example.net 2>/dev/null
echo subjectAltName=DNS:server.example.net >ext
openssl x509 -req -in tls.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 20 -extfile ext -out tls.crt 2>/dev/null
openssl x509 -in tls.crt -noout -serial`

// TestHTTPS is the server with a name and a certificate that clients trust: control and relay on one
// port, and a new certificate without a restart.
func TestHTTPS(t *testing.T) {
	t.Parallel()
	l := lab.New(t)
	host := l.Public("server", serverIP)
	first := host.Do(issue)
	server := host.Headscale(strings.NewReplacer(
		"http://203.0.113.10:8080", "https://server.example.net", "0.0.0.0:8080", "0.0.0.0:443", "    ipv4: 203.0.113.10\n", "").
		Replace(lab.Config(serverIP, "tls_cert_path: /etc/headscale/tls.crt", "tls_key_path: /etc/headscale/tls.key")))
	server.Do("headscale users create amelia")

	l.Step("clients that trust the authority join, and use the relay behind the same name")
	key := server.Key("-u amelia -e 1h --reusable")
	var clients []*lab.Client
	for _, m := range []*lab.Host{
		l.Home("hotel", "203.0.113.21", lab.Hard, "192.168.1.0/24").Machine("guest"),
		l.Home("ship", "203.0.113.22", lab.Hard, "192.168.2.0/24").Machine("cabin"),
	} {
		m.Write("/etc/ssl/certs/ca-certificates.crt", server.Read("/etc/headscale/ca.crt"))
		clients = append(clients, m.Tailscale(lab.Newest).Up("--login-server=https://server.example.net", "--auth-key="+key))
	}
	guest, cabin := clients[0], clients[1]
	cabin.Web("80")
	guest.PingsByRelay(cabin.IP())
	guest.Eventually("curl -s -m 5 http://"+cabin.IP(), "cabin sees "+guest.IP())

	l.Step("a renewed certificate is taken up by a reload, under the feet of the clients")
	const shown = "openssl s_client -connect server.example.net:443 -servername server.example.net </dev/null 2>/dev/null | openssl x509 -noout -serial"
	server.Eventually(shown, first)
	second := host.Do(issue)
	server.Proc().Signal(syscall.SIGHUP)
	server.Eventually(shown, second)
	served(t, l, server, clients)
	guest.Eventually("curl -s -m 5 http://"+cabin.IP(), "cabin sees "+guest.IP())
}
