//go:build linux

package integration_test

import (
	"regexp"
	"strings"
	"testing"

	"github.com/keelscale/keelscale/integration/lab"
)

// guideConfig is the configuration that the users' guide has for headscale 0.15: plain http at a bare
// public address, an address range of the administrator's own, relays from a URL and from a file.
const guideConfig = `server_url: http://203.0.113.10:8080
listen_addr: 0.0.0.0:8080
metrics_listen_addr: 127.0.0.1:9090
private_key_path: /var/lib/headscale/private.key
ip_prefixes:
  - 10.1.0.0/16
derp:
  server:
    enabled: false
  urls:
    - http://203.0.113.50/derp.json
  paths:
    - /etc/headscale/derp.yaml
  auto_update_enabled: true
  update_frequency: 24h
disable_check_updates: true
ephemeral_node_inactivity_timeout: 30m
node_update_check_interval: 10s
db_type: sqlite3
db_path: /var/lib/headscale/db.sqlite
acme_url: https://acme-v02.api.letsencrypt.org/directory
acme_email: ""
tls_letsencrypt_hostname: ""
tls_cert_path: ""
tls_key_path: ""
log_level: info
dns_config:
  nameservers:
    - 1.1.1.1
  domains: []
  magic_dns: true
  base_domain: example.com
unix_socket: /var/run/headscale/headscale.sock
unix_socket_permission: "0770"
`

// guideRegion is the map entry that the guide gives for a relay on a bare address with a certificate
// that it made itself.
const guideRegion = `regions:
  901:
    regionid: 901
    regioncode: thk
    regionname: Own relay
    nodes:
      - name: 901a
        regionid: 901
        hostname: 203.0.113.40
        derpport: 12345
        ipv4: 203.0.113.40
        insecurefortests: true
`

// guideURL is the map that the guide puts on a web server: the same kind of relay, in JSON.
const guideURL = `{"Regions": {"902": {"RegionID": 902, "RegionCode": "far", "RegionName": "Far relay", "Nodes": [
	{"Name": "902a", "RegionID": 902, "DERPPort": 12345, "HostName": "203.0.113.41", "IPv4": "203.0.113.41", "InsecureForTests": true}]}}}`

// TestGuide walks the users' guide from the first command to the last, as it is written.
func TestGuide(t *testing.T) {
	t.Parallel()
	l := lab.New(t)

	l.Step("a relay on a bare address, with a certificate made by hand")
	relay := l.Public("relay", "203.0.113.40")
	relay.Do("mkdir -p /etc/derp && openssl req -x509 -newkey rsa:2048 -days 730 -nodes -keyout /etc/derp/203.0.113.40.key" +
		" -out /etc/derp/203.0.113.40.crt -subj /CN=203.0.113.40 -addext subjectAltName=IP:203.0.113.40 2>/dev/null")
	relay.Begin("derper --hostname=203.0.113.40 --certmode=manual --certdir=/etc/derp -a :12345 --http-port=-1 --stun")

	website := l.Public("website", "203.0.113.50")
	website.Write("/var/lib/derp.json", guideURL)
	website.Files("80", "/var/lib")

	l.Step("the server")
	host := l.Public("server", serverIP)
	host.Write("/etc/headscale/derp.yaml", guideRegion)
	server := host.Headscale(guideConfig)
	says(t, server.Do("headscale namespaces create vpn"), "Namespace created")
	says(t, server.Do("headscale namespaces create default"), "Namespace created")
	says(t, server.Do("headscale namespaces list"), "vpn", "default")

	l.Step("the first machine, by the page in the browser")
	router := l.Home("flat", "203.0.113.21", lab.Easy, "192.168.1.0/24").Machine("router").Tailscale(lab.Newest)
	up := router.Begin("tailscale up " + login + " --accept-routes=true --accept-dns=false")
	url := up.Await(`http://203\.0\.113\.10:8080/\S+`)[0]
	page := browse(t, router.Host, url)
	key := commandKey(t, page)
	says(t, server.Do("headscale -n vpn nodes register --key "+key), "register")
	if code := up.Ended(); code != 0 {
		t.Fatalf("tailscale up: exit code %d: %s", code, up.Output())
	}
	says(t, server.Do("headscale nodes list"), "router", "vpn", "10.1.0.1")
	says(t, server.Do("headscale nodes list|grep vpn"), "10.1.0.1")

	l.Step("the second machine, by a key")
	secret := lastLine(server.Do("headscale preauthkeys create -e 24h -n default"))
	says(t, server.Do("headscale -n default preauthkeys list"), "false")
	laptop := l.Home("house", "203.0.113.22", lab.Easy, "192.168.2.0/24").Machine("laptop").Tailscale(lab.Newest)
	laptop.Up(login, "--accept-routes=true --accept-dns=false --authkey", secret)
	says(t, server.Do("headscale nodes list"), "laptop", "10.1.0.2")

	l.Step("they talk, and see the relay of the guide")
	router.Web("80")
	laptop.Eventually("ping -c 1 -W 2 10.1.0.1", "1 received")
	laptop.Eventually("curl -s -m 5 http://10.1.0.1", "router sees 10.1.0.2")
	says(t, laptop.Eventually("tailscale netcheck", "Own relay"), "Nearest DERP", "thk", "Far relay", "UDP: true")
	laptop.PingsDirectly("10.1.0.1")
	says(t, laptop.Do("tailscale status"), "router", "active; direct")

	l.Step("the network behind the first machine")
	office := l.LAN("office", "192.168.100.0/24")
	router.Join(office, "192.168.100.2")
	printer := office.Machine("printer", "192.168.100.9")
	printer.Web("80")
	router.Do("sysctl -w net.ipv4.ip_forward=1")
	router.Up(login, "--accept-routes=true --accept-dns=false --advertise-routes=192.168.100.0/24")
	server.Eventually("headscale routes list -i 1", "192.168.100.0/24")
	silentOn(t, laptop.Do("ip route show table 52"), "192.168.100.0/24")
	says(t, server.Do(`headscale routes enable -i 1 -r "192.168.100.0/24"`), "192.168.100.0/24", "true")
	laptop.Eventually("ip route show table 52", "192.168.100.0/24 dev tailscale0")
	laptop.Eventually("ping -c 1 -W 2 192.168.100.9", "1 received")
	laptop.Eventually("curl -s -m 5 http://192.168.100.9", "printer sees 192.168.100.2")
	says(t, server.Do(`headscale routes disable -i 1 -r "192.168.100.0/24"`), "192.168.100.0/24", "false")
	laptop.Eventually("ip route show table 52 | grep -c 192.168.100 || true", "0")

	l.Step("the pages for other systems")
	says(t, browse(t, laptop.Host, "http://203.0.113.10:8080/apple"), "203.0.113.10:8080")
	says(t, browse(t, laptop.Host, "http://203.0.113.10:8080/windows"), "203.0.113.10:8080")

	l.Step("and the address of the page in the guide's form leads to the same")
	guest := l.Public("guest", "203.0.113.60").Tailscale(lab.Newest)
	up = guest.Begin("tailscale up " + login)
	key = commandKey(t, browse(t, guest.Host, up.Await(`http://203\.0\.113\.10:8080/\S+`)[0]))
	says(t, browse(t, guest.Host, "http://203.0.113.10:8080/register?key="+key), "nodes register --key", key)
	server.Do("headscale -n vpn nodes register --key " + key)
	guest.AwaitState("Running")
}

// TestFirstStart runs the server with no configuration at all, and then does what it says.
func TestFirstStart(t *testing.T) {
	t.Parallel()
	l := lab.New(t)
	server := l.Public("server", serverIP).Headscale("")
	next := server.Proc().Await(`Next, here: +(headscale .*)\n.*: +(tailscale up .*)\n`)
	says(t, server.Do(next[1]), "created")

	desk := l.Public("desk", "203.0.113.21").Tailscale(lab.Newest)
	up := desk.Begin(next[2])
	page := browse(t, desk.Host, up.Await(`http://\S+`)[0])
	command := regexp.MustCompile(`headscale auth register --auth-id \S+ --user`).FindString(page)
	says(t, server.Do(command+" me"), "registered")
	desk.AwaitState("Running")

	l.Step("a second machine, and the relay of the server between them")
	couch := l.Home("house", "203.0.113.22", lab.Easy, "192.168.1.0/24").Machine("couch").Tailscale(lab.Newest)
	couch.Up(login, "--auth-key="+lastLine(server.Do("headscale preauthkeys create -u me")))
	couch.PingsDirectly(desk.IP())
	says(t, couch.Do("tailscale netcheck"), "Nearest DERP: Headscale Embedded DERP")
}

// browse opens a page and returns what a reader sees of it, without the tags.
func browse(t *testing.T, h *lab.Host, url string) string {
	t.Helper()
	page, err := h.Quietly("curl -sf '" + url + "'")
	if err != nil {
		t.Fatalf("%s opens %s: %v", h.Name, url, err)
	}
	return regexp.MustCompile(`<[^>]*>`).ReplaceAllString(page, "")
}

// commandKey finds the key in the command that a register page shows.
func commandKey(t *testing.T, page string) string {
	t.Helper()
	m := regexp.MustCompile(`headscale -n \S+ nodes register --key (\S+)`).FindStringSubmatch(page)
	if m == nil {
		t.Fatalf("the page shows no command to paste: %s", page)
	}
	return m[1]
}

// lastLine is where a command puts its result, when warnings come before.
func lastLine(out string) string {
	return out[strings.LastIndex(out, "\n")+1:]
}
