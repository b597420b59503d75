//go:build linux

package lab_test

import (
	"testing"

	"github.com/keelscale/keelscale/integration/lab"
)

// TestMain plays roles only: these tests need none of our programs.
func TestMain(m *testing.M) { lab.Main(m) }

func TestInternet(t *testing.T) {
	t.Parallel()
	l := lab.New(t)
	shop := l.Public("shop", "203.0.113.10")
	shop.Web("80", "8080")
	far := l.Public("far", "198.51.100.7")
	laptop := l.Home("home", "203.0.113.21", lab.Easy, "192.168.1.0/24").Machine("laptop")
	phone := l.Home("flat", "203.0.113.22", lab.Hard, "192.168.1.0/24").Machine("phone")

	l.Step("everyone reaches the shop, and the shop sees the routers' addresses")
	for _, c := range []struct {
		from *lab.Host
		url  string
		want string
	}{
		{far, "http://203.0.113.10", "shop sees 198.51.100.7"},
		{laptop, "http://203.0.113.10:8080", "shop sees 203.0.113.21"},
		{phone, "http://203.0.113.10", "shop sees 203.0.113.22"},
		{far, "http://[2001:db8:113::a]", "shop sees 2001:db8:113::7"},
	} {
		if got := c.from.Do("curl -s -m 10 '" + c.url + "'"); got != c.want {
			t.Errorf("%s at %s: got %q, want %q", c.from.Name, c.url, got, c.want)
		}
	}
	l.Step("nobody reaches into a home")
	shop.Refused("ping -c 1 -W 1 192.168.1.2")
	shop.Refused("ping -c 1 -W 1 203.0.113.21")

	l.Step("a cable can be pulled")
	shop.Unplug()
	laptop.Refused("curl -s -m 1 http://203.0.113.10")
	shop.Replug()
	laptop.Eventually("curl -s -m 2 http://203.0.113.10", "shop sees")

	l.Step("and an address can change")
	shop.Renumber("203.0.113.99")
	laptop.Eventually("curl -s -m 2 http://203.0.113.99", "shop sees")

	l.Step("its name follows; names that nobody has are denied at once")
	laptop.Eventually("getent hosts shop.example.net", "203.0.113.99")
	laptop.Eventually("dig nowhere.example.net", "NXDOMAIN")
}

func TestNATs(t *testing.T) {
	t.Parallel()
	l := lab.New(t)
	for _, addr := range []string{"203.0.113.10", "203.0.113.11"} {
		l.Public("echo"+addr[len(addr)-2:], addr).Echo("3478")
	}
	home := l.Home("home", "203.0.113.21", lab.Easy, "192.168.1.0/24")
	easy := home.Machine("laptop")
	hard := l.Home("flat", "203.0.113.22", lab.Hard, "192.168.1.0/24").Machine("phone")

	seen := easy.Seen("203.0.113.10:3478", "203.0.113.11:3478")
	if seen[0] != "203.0.113.21:41000" || seen[1] != seen[0] {
		t.Errorf("behind the easy NAT: got %q, want 203.0.113.21:41000 from both", seen)
	}
	seen = hard.Seen("203.0.113.10:3478", "203.0.113.11:3478")
	if seen[0] == seen[1] || seen[0] == "" || seen[1] == "" {
		t.Errorf("behind the hard NAT: got %q, want two different ports", seen)
	}
	home.BlockUDP(true)
	if seen = easy.Seen("203.0.113.10:3478"); seen[0] != "" {
		t.Errorf("with UDP blocked: got the answer %q, want none", seen)
	}
}

func TestHostsArePrivate(t *testing.T) {
	t.Parallel()
	l := lab.New(t)
	a, b := l.Public("alpha", "203.0.113.10"), l.Public("beta", "203.0.113.11")
	a.Write("/etc/headscale/config.yaml", "server_url: http://a\n")
	a.Do("echo state > /var/lib/headscale/db")
	b.Refused("cat /etc/headscale/config.yaml")
	b.Refused("cat /var/lib/headscale/db")
	if got := a.Do("hostname"); got != "alpha" {
		t.Errorf("host name: got %q, want alpha", got)
	}
	if got := a.Read("/var/lib/headscale/db"); got != "state\n" {
		t.Errorf("reading from outside: got %q, want state", got)
	}
}
