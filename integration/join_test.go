//go:build linux

package integration_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/keelscale/keelscale/integration/lab"
)

// TestJoinByKey shows every kind of pre-auth key, and what a client is told when a key is no good.
func TestJoinByKey(t *testing.T) {
	l, server := stage(t)
	machine := func(name string, n int) *lab.Client {
		return l.Public(name, fmt.Sprintf("203.0.113.%d", n)).Tailscale(lab.Newest)
	}

	l.Step("a key for one machine lets one machine in, and no second one")
	once := server.Key("-u amelia -e 1h")
	first := machine("first", 21).Up(login, "--auth-key="+once)
	stranger := machine("stranger", 30)
	refused(l, stranger, once, "used")

	l.Step("the first machine may come again with the used key, as a restarted container does")
	first.Shutdown()
	first.Boot()
	first.Up(login, "--auth-key="+once)

	l.Step("a reusable key lets in many")
	many := server.Key("-u amelia -e 1h --reusable")
	machine("second", 22).Up(login, "--auth-key="+many)
	third := machine("third", 23).Up(login, "--auth-key="+many)
	third.Peers("first", "second")

	l.Step("a key that is revoked, or never was one, or is expired is refused, each in words of its own")
	revoked := server.Key("-u amelia -e 1h --reusable")
	server.Do("headscale preauthkeys expire " + revoked)
	refused(l, stranger, revoked, "expired")
	refused(l, stranger, "hskey-auth-000000000000-nonsense", "not")
	old := server.Key("-u amelia -e 1s")
	l.Await("the key to expire", expired(time.Now().Add(time.Second)))
	refused(l, stranger, old, "expired")

	l.Step("a key with tags makes a node that belongs to its tags")
	tagged := server.Key("-u amelia -e 1h --tags tag:printer")
	machine("fourth", 24).Up(login, "--auth-key="+tagged)
	if got := nodeNamed(t, server, "fourth").Tags; len(got) != 1 || got[0] != "tag:printer" {
		t.Errorf("tags of fourth: got %q, want tag:printer alone", got)
	}

	l.Step("a node of an ephemeral key is gone as soon as it logs out")
	fifth := machine("fifth", 25).Up(login, "--auth-key="+server.Key("-u amelia -e 1h --ephemeral"))
	third.Peers("first", "second", "fourth", "fifth")
	fifth.Do("tailscale logout")
	third.Peers("first", "second", "fourth")
	awaitNames(t, l, server, "first", "second", "third", "fourth")
}

// refused tries a key until the client's user reads want. The first answer may still be that to the
// key before: a client goes on trying the key that it has until it gets another one.
func refused(l *lab.Lab, c *lab.Client, key, want string) {
	l.Await("a refusal with "+want, func() error {
		out, err := c.Try("tailscale up --timeout=20s " + login + " --auth-key=" + key)
		if err != nil && strings.Contains(out, want) {
			return nil
		}
		return fmt.Errorf("it says %q", out)
	})
}

// expired is content after the moment at.
func expired(at time.Time) func() error {
	return func() error {
		if time.Now().Before(at) {
			return fmt.Errorf("it is not yet %v", at)
		}
		return nil
	}
}

// TestComeAndGo shows a machine that logs out and in, changes its key, is expired and is deleted.
func TestComeAndGo(t *testing.T) {
	l, server := stage(t)
	clients := join(t, server, l.Public("anchor", "203.0.113.21"), l.Public("rover", "203.0.113.22"))
	anchor, rover := clients[0], clients[1]
	ip := rover.IP()

	l.Step("logged out, it is offline for the others, but keeps its place")
	rover.Do("tailscale logout")
	rover.AwaitState("NeedsLogin")
	rover.Up(login, "--auth-key="+server.Key("-u amelia -e 1h"))
	if got := rover.IP(); got != ip {
		t.Errorf("address after the new login: got %s, want %s as before", got, ip)
	}
	awaitNames(t, l, server, "anchor", "rover")
	anchor.Eventually("ping -c 1 -W 2 "+ip, "1 received")

	l.Step("a new node key, the same node")
	before := nodeNamed(t, server, "rover").NodeKey
	rover.Up(login, "--force-reauth", "--auth-key="+server.Key("-u amelia -e 1h"))
	if after := nodeNamed(t, server, "rover"); after.NodeKey == before || after.Addresses[0] != ip {
		t.Errorf("after --force-reauth: got key %s and address %v, want another key than %s and %s", after.NodeKey, after.Addresses, before, ip)
	}
	anchor.Eventually("ping -c 1 -W 2 "+ip, "1 received")

	l.Step("expired by the administrator, it must log in, and the others do not reach it")
	server.Do("headscale nodes expire -i " + nodeNamed(t, server, "rover").ID)
	rover.AwaitState("NeedsLogin")
	anchor.Refused("ping -c 1 -W 2 " + ip)
	rover.Up(login, "--auth-key="+server.Key("-u amelia -e 1h"))
	anchor.Eventually("ping -c 1 -W 2 "+ip, "1 received")

	l.Step("deleted, it is told to log in, and nobody sees it any more")
	server.Do("headscale nodes delete --force -i " + nodeNamed(t, server, "rover").ID)
	anchor.Peers()
	rover.AwaitState("NeedsLogin")
	anchor.Refused("ping -c 1 -W 2 " + ip)
	rover.Up(login, "--auth-key="+server.Key("-u amelia -e 1h"))
	anchor.Peers("rover")
	anchor.Eventually("ping -c 1 -W 2 "+rover.IP(), "1 received")
}

// TestProfiles shows two users of one machine, who share its machine key and nothing else.
func TestProfiles(t *testing.T) {
	l, server := stage(t)
	server.Do("headscale users create bruno")
	anchor := join(t, server, l.Public("anchor", "203.0.113.21"))[0]
	desk := l.Public("desk", "203.0.113.22").Tailscale(lab.Newest)

	desk.Up(login, "--auth-key="+server.Key("-u amelia -e 1h"))
	desk.Do("tailscale set --nickname=amelia-here")
	hers := desk.IP()
	anchor.Eventually("ping -c 1 -W 2 "+hers, "1 received")

	l.Step("another user logs in on the same machine")
	desk.Do("tailscale login " + login + " --auth-key=" + server.Key("-u bruno -e 1h") + " --nickname=bruno-here")
	desk.AwaitState("Running")
	his := desk.IP()
	if his == hers {
		t.Fatalf("both users got the address %s, want two nodes", his)
	}
	says(t, desk.Do("tailscale switch --list"), "amelia-here", "bruno-here")
	anchor.Eventually("ping -c 1 -W 2 "+his, "1 received")

	l.Step("and they take turns, without any login")
	desk.Do("tailscale switch amelia-here")
	desk.AwaitState("Running")
	if got := desk.IP(); got != hers {
		t.Errorf("address of the first profile: got %s, want %s", got, hers)
	}
	anchor.Eventually("ping -c 1 -W 2 "+hers, "1 received")
	desk.Do("tailscale switch bruno-here")
	desk.AwaitState("Running")
	anchor.Eventually("ping -c 1 -W 2 "+his, "1 received")
}
