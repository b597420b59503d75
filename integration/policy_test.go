//go:build linux

package integration_test

import (
	"testing"
)

// TestPolicyOnTheWire shows rules by user, group, tag and host at work: what is allowed passes, all else is dropped.
func TestPolicyOnTheWire(t *testing.T) {
	l, server := stage(t, "policy:\n  mode: database")
	server.Do("headscale users create bruno")
	server.Write("/etc/headscale/policy.hujson", `{
	// the office of two
	"groups": {"group:staff": ["amelia@", "bruno@"]},
	"tagOwners": {"tag:web": ["amelia@"]},
	"hosts": {"cash": "100.64.0.3"},
	"acls": [
		{"action": "accept", "src": ["group:staff"], "dst": ["tag:web:80"]},
		{"action": "accept", "src": ["amelia@"], "dst": ["cash:631"]},
	],
}`)
	says(t, server.Do("headscale policy check -f /etc/headscale/policy.hujson"), "valid")
	server.Do("headscale policy set -f /etc/headscale/policy.hujson")

	hers := join(t, server, l.Public("hers", "203.0.113.21"))[0]
	his := l.Public("his", "203.0.113.22").Tailscale(hers.Version).Up(login, "--auth-key="+server.Key("-u bruno -e 1h"))
	cash := l.Public("cash", "203.0.113.23").Tailscale(hers.Version).Up(login, "--auth-key="+server.Key("-u bruno -e 1h"))
	web := l.Public("web", "203.0.113.24").Tailscale(hers.Version).Up(login, "--auth-key="+server.Key("-u amelia -e 1h --tags tag:web"))
	cash.Web("80", "631")
	web.Web("80", "631")
	his.Web("80")

	l.Step("both reach the web server's port 80, and no other port of it")
	hers.Eventually("curl -s -m 5 http://"+web.IP(), "web sees "+hers.IP())
	his.Eventually("curl -s -m 5 http://"+web.IP(), "web sees "+his.IP())
	hers.Refused("curl -s -m 2 http://" + web.IP() + ":631")

	l.Step("the cash desk is open to her alone, at one port")
	hers.Eventually("curl -s -m 5 http://"+cash.IP()+":631", "cash sees "+hers.IP())
	hers.Refused("curl -s -m 2 http://" + cash.IP())
	his.Refused("curl -s -m 2 http://" + cash.IP() + ":631")

	l.Step("who has no rule for one another does not even see the other")
	his.Peers("web")
	hers.Peers("web", "cash")
	web.Peers("hers", "his", "cash")
	hers.Refused("ping -c 1 -W 2 " + his.IP())

	l.Step("what is not understood is refused at load, and changes nothing")
	server.Write("/etc/headscale/wrong.hujson", `{"acls": [{"action": "accept", "source": ["*"], "dst": ["*:*"]}]}`)
	server.Refused("headscale policy set -f /etc/headscale/wrong.hujson")
	his.Refused("curl -s -m 2 http://" + cash.IP() + ":631")

	l.Step("a wider policy opens at once what it allows")
	server.Write("/etc/headscale/policy.hujson", `{"acls": [{"action": "accept", "src": ["*"], "dst": ["*:*"]}]}`)
	server.Refused("headscale policy set -f /etc/headscale/nowhere.hujson")
	server.Do("headscale policy set -f /etc/headscale/policy.hujson")
	his.Eventually("curl -s -m 5 http://"+cash.IP()+":631", "cash sees "+his.IP())
	hers.Eventually("ping -c 1 -W 2 "+his.IP(), "1 received")
}
