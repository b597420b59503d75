//go:build linux

package integration_test

import (
	"testing"

	"github.com/keelscale/keelscale/integration/lab"
)

// TestNames shows MagicDNS, machines that have the same name, and names and addresses that the
// administrator gives.
func TestNames(t *testing.T) {
	l, server := stage(t)
	clients := join(t, server, l.Public("laptop", "203.0.113.21"), l.Public("printer", "203.0.113.22"))
	laptop, printer := clients[0], clients[1]
	printer.Web("80")

	l.Step("every machine has a name, short and long")
	says(t, laptop.Eventually("getent hosts printer", "printer.lab.example"), "printer")
	laptop.Eventually("dig +short @100.100.100.100 printer.lab.example", printer.IP())
	laptop.Eventually("curl -s -m 5 http://printer", "printer sees "+laptop.IP())
	laptop.Eventually("dig +short -x "+printer.IP()+" @100.100.100.100", "printer.lab.example.")

	l.Step("a second printer joins, and gets a name that is free")
	twin := l.Public("printer", "203.0.113.23").Tailscale(lab.Newest).Up(login, "--auth-key="+server.Key("-u amelia -e 1h"))
	laptop.Peers("printer", "printer-1")
	laptop.Eventually("dig +short @100.100.100.100 printer-1.lab.example", twin.IP())
	laptop.Eventually("dig +short @100.100.100.100 printer.lab.example", printer.IP())

	l.Step("the administrator gives it a better one")
	id := nodeNamed(t, server, "printer-1").ID
	server.Do("headscale nodes rename copier -i " + id)
	laptop.Eventually("dig +short @100.100.100.100 copier.lab.example", twin.IP())
	server.Refused("headscale nodes rename printer -i " + id)

	l.Step("the machine takes another name by itself")
	printer.Do("tailscale set --hostname=scanner")
	laptop.Eventually("dig +short @100.100.100.100 scanner.lab.example", printer.IP())

	l.Step("and the administrator gives it another address")
	server.Do("headscale nodes set-ip -i " + id + " --ipv4 100.64.7.7")
	laptop.Eventually("dig +short @100.100.100.100 copier.lab.example", "100.64.7.7")
	laptop.Eventually("ping -c 1 -W 2 100.64.7.7", "1 received")
	twin.Eventually("ip -4 addr show tailscale0", "100.64.7.7/32")
}

// TestEphemeral shows that an ephemeral node vanishes when it stays away. This takes more than a
// minute, the shortest time that the configuration allows, because a client needs that to come back.
func TestEphemeral(t *testing.T) {
	l, server := stage(t, "node:\n  ephemeral:\n    inactivity_timeout: 66s")
	keeper := join(t, server, l.Public("keeper", "203.0.113.21"))[0]
	job := l.Public("job", "203.0.113.22").Tailscale(lab.Newest).Up(login, "--auth-key="+server.Key("-u amelia -e 1h --ephemeral"))
	keeper.Peers("job")
	job.Daemon().Kill()
	l.Patient(3, func() { keeper.Peers() })
	awaitNames(t, l, server, "keeper")
}
