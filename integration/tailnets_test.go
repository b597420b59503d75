//go:build linux

package integration_test

import (
	"testing"

	"github.com/keelscale/keelscale/integration/lab"
)

// TestTailnetsApart shows two tailnets on one server, with the same addresses and the same names in
// both. Their members never see, name or reach one another.
func TestTailnetsApart(t *testing.T) {
	l, server := stage(t)
	server.Do("headscale tailnets create rival")
	says(t, server.Do("headscale tailnets list"), "default", "rival")
	server.Do("headscale users create amelia --tailnet rival")

	ours := join(t, server, l.Public("desk", "203.0.113.21"), l.Public("shelf", "203.0.113.22"))
	key := server.Key("--tailnet rival -u amelia -e 1h --reusable")
	var theirs []*lab.Client
	for _, h := range []*lab.Host{l.Public("desk", "203.0.113.31"), l.Public("safe", "203.0.113.32")} {
		theirs = append(theirs, h.Tailscale(lab.Newest).Up(login, "--auth-key="+key))
	}

	l.Step("the same addresses and names are in use on both sides")
	if ours[1].IP() != theirs[1].IP() {
		t.Errorf("second node's address: got %s and %s, want the same in both tailnets", ours[1].IP(), theirs[1].IP())
	}

	l.Step("each sees its own only")
	ours[0].Peers("shelf")
	ours[1].Peers("desk")
	theirs[0].Peers("safe")
	theirs[1].Peers("desk")
	silentOn(t, server.Do("headscale nodes list"), "safe")
	silentOn(t, server.Do("headscale nodes list --tailnet rival"), "shelf")

	l.Step("one address, asked from either side, is either side's own machine")
	ours[1].Web("80")
	theirs[1].Web("80")
	ours[0].Eventually("curl -s -m 5 http://"+ours[1].IP(), "shelf sees")
	theirs[0].Eventually("curl -s -m 5 http://"+theirs[1].IP(), "safe sees")
	ours[0].Refused("getent hosts safe")
	theirs[0].Refused("getent hosts shelf")

	l.Step("an address that only the other side has leads nowhere")
	lone := l.Public("lone", "203.0.113.33").Tailscale(lab.Newest).Up(login, "--auth-key="+key)
	lone.Web("80")
	theirs[0].Eventually("curl -s -m 5 http://"+lone.IP(), "lone sees")
	ours[0].Refused("curl -s -m 2 http://" + lone.IP())
	ours[0].Refused("tailscale ping -c 1 --timeout 2s " + lone.IP())

	l.Step("a tailnet with nodes in it is not deleted by accident")
	server.Refused("headscale tailnets delete rival")
}
