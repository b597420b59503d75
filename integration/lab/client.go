//go:build linux

package lab

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"tailscale.com/client/local"
	"tailscale.com/ipn/ipnstate"
)

// Client is a host with an unmodified Tailscale client on it, running as a user has it: TUN
// device, default port, default socket, default state directory.
type Client struct {
	*Host
	Version string
	daemon  *Process
	local   *local.Client
}

// Newest is the client that scenes use when the version does not matter.
const Newest = "v1.102.5"

// Tailscale installs the client of a version on the host and starts its daemon.
func (h *Host) Tailscale(version string) *Client {
	h.lab.t.Helper()
	if !Built(version) {
		h.lab.t.Skipf("the client %s is not built: run integration/clients.sh %s", version, version)
	}
	h.path = append(h.path, clientDir(version))
	h.questions = append(h.questions, "timeout 5 tailscale status",
		`timeout 5 tailscale debug netmap | grep -E '"(Endpoints|HomeDERP|Name|Online)"|:[0-9]+",?$'`)
	c := &Client{Host: h, Version: version}
	// The socket has another name outside, where the tests run.
	c.local = &local.Client{Socket: h.inside("/run/tailscale/tailscaled.sock"), UseSocketOnly: true}
	c.Boot()
	return c
}

// ReferenceDerper puts cmd/derper of the newest version on the host, in place of ours.
func (h *Host) ReferenceDerper() {
	h.lab.t.Helper()
	if _, err := os.Stat(filepath.Join(clientDir(Newest), "derper")); err != nil {
		h.lab.t.Skipf("cmd/derper is not built: run integration/clients.sh %s", Newest)
	}
	h.path = append([]string{clientDir(Newest)}, h.path...)
}

// Boot starts the daemon and waits until it is ready for commands.
func (c *Client) Boot() {
	c.lab.t.Helper()
	c.daemon = c.start("tailscaled", nil, "tailscaled", "--tun=tailscale0", "--port=41641", "--no-logs-no-support",
		"--statedir=/var/lib/tailscale", "--socket=/run/tailscale/tailscaled.sock")
	c.daemon.daemon = true
	c.lab.Await("tailscaled of "+c.Name, func() error {
		if !c.daemon.Alive() {
			c.lab.t.Fatalf("tailscaled of %s has ended: %s", c.Name, c.daemon.out.tail(20))
		}
		st, err := c.Status()
		if err == nil && st.BackendState == "NoState" {
			// Its own start is not through yet. To v1.62, an `up` now would be lost.
			err = errors.New("it has no state yet")
		}
		return err
	})
}

// Shutdown stops the daemon as a service manager does.
func (c *Client) Shutdown() {
	c.lab.t.Helper()
	c.lab.t.Logf("%s: tailscaled stops", c.Name)
	c.daemon.Stop()
}

// Daemon is the running tailscaled.
func (c *Client) Daemon() *Process { return c.daemon }

// Status is what `tailscale status --json` says.
func (c *Client) Status() (*ipnstate.Status, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	return c.local.Status(ctx)
}

// AwaitState waits for a backend state: Running, NeedsLogin, Stopped.
func (c *Client) AwaitState(want string) *ipnstate.Status {
	c.lab.t.Helper()
	return c.AwaitStatus("state "+want, func(st *ipnstate.Status) error {
		if st.BackendState != want {
			return fmt.Errorf("state is %s, health %q", st.BackendState, st.Health)
		}
		return nil
	})
}

// AwaitStatus waits until ok is content with the client's status, and returns that status.
func (c *Client) AwaitStatus(what string, ok func(*ipnstate.Status) error) (st *ipnstate.Status) {
	c.lab.t.Helper()
	c.lab.Await(what+" on "+c.Name, func() (err error) {
		if st, err = c.Status(); err != nil {
			return err
		}
		return ok(st)
	})
	return st
}

// Up joins with the given arguments of `tailscale up`, waits for Running and returns the client.
func (c *Client) Up(args ...string) *Client {
	c.lab.t.Helper()
	c.Do("tailscale up " + strings.Join(args, " "))
	c.AwaitState("Running")
	return c
}

// Peers waits until the client sees exactly the peers with these names.
func (c *Client) Peers(names ...string) {
	c.lab.t.Helper()
	slices.Sort(names)
	c.AwaitStatus("the peers "+fmt.Sprint(names), func(st *ipnstate.Status) error {
		if got := peerNames(st); !slices.Equal(got, names) {
			return fmt.Errorf("it sees %v", got)
		}
		return nil
	})
}

// peerNames are the first labels of the MagicDNS names of the peers in a status, sorted.
func peerNames(st *ipnstate.Status) []string {
	names := []string{}
	for _, p := range st.Peer {
		label, _, _ := strings.Cut(p.DNSName, ".")
		names = append(names, label)
	}
	slices.Sort(names)
	return names
}

// AwaitPeer waits until the client knows a peer of that name with which ok is content.
func (c *Client) AwaitPeer(name, what string, ok func(*ipnstate.PeerStatus) bool) {
	c.lab.t.Helper()
	c.AwaitStatus(fmt.Sprintf("peer %s: %s", name, what), func(st *ipnstate.Status) error {
		for _, p := range st.Peer {
			if label, _, _ := strings.Cut(p.DNSName, "."); label == name {
				if ok(p) {
					return nil
				}
				return fmt.Errorf("the peer is %+v", *p)
			}
		}
		return fmt.Errorf("it sees only %v", peerNames(st))
	})
}

// TailnetIPs are the client's addresses in the tailnet, as `tailscale ip` prints them.
func (c *Client) TailnetIPs() (v4, v6 netip.Addr) {
	c.lab.t.Helper()
	st, err := c.Status()
	if err != nil {
		c.lab.t.Fatalf("asking %s for its status: %v", c.Name, err)
	}
	for _, ip := range st.TailscaleIPs {
		if ip.Is4() {
			v4 = ip
		} else {
			v6 = ip
		}
	}
	return v4, v6
}

// IP is the client's IPv4 address in the tailnet.
func (c *Client) IP() string { v4, _ := c.TailnetIPs(); return v4.String() }

// PingsDirectly sends traffic to the peer until the client has found a direct way, and returns what
// `tailscale ping` says of it. It must not be `tailscale ping` that looks for the way: its pings, when
// they are less than five seconds apart, keep the client from asking the peer to ping back
// (CallMeMaybe), and so the NATs stay closed. So it asks only when the status knows a direct address,
// and leaves six seconds to traffic after an answer that came by the relay after all.
func (c *Client) PingsDirectly(ip string) (out string) {
	c.lab.t.Helper()
	c.lab.Await("a direct way from "+c.Name+" to "+ip, func() error {
		if !c.hasWay(netip.MustParseAddr(ip)) {
			said, _ := c.Quietly("ping -c 1 -W 1 " + ip)
			return fmt.Errorf("none yet; ping says %s", said)
		}
		said, err := c.Quietly("tailscale ping -c 1 --timeout 2s " + ip)
		if err == nil && !strings.Contains(said, "DERP") {
			out = said
			return nil
		}
		_, _ = c.Quietly("ping -c 7 -W 1 " + ip) // it may well be lost
		return fmt.Errorf("tailscale ping says %s", said)
	})
	c.lab.t.Logf("%s$ tailscale ping %s\n%s", c.Name, ip, out)
	return out
}

// hasWay says whether the client believes in a direct address of the peer.
func (c *Client) hasWay(ip netip.Addr) bool {
	st, err := c.Status()
	if err != nil {
		return false
	}
	for _, p := range st.Peer {
		if p.CurAddr != "" && p.AllowedIPs != nil && slices.Contains(p.AllowedIPs.AsSlice(), netip.PrefixFrom(ip, ip.BitLen())) {
			return true
		}
	}
	return false
}

// PingsByRelay waits until the client reaches the peer through a relay, and shows that it stays so
// over some pings, each of which is an occasion to find a direct way.
func (c *Client) PingsByRelay(ip string) string {
	c.lab.t.Helper()
	out := c.Eventually("tailscale ping -c 4 --timeout 3s --until-direct=false "+ip, "via DERP(")
	if last := out[strings.LastIndex(out, "pong"):]; !strings.Contains(last, "via DERP(") {
		c.lab.t.Fatalf("%s reaches %s directly, but the network ought not to allow it:\n%s", c.Name, ip, out)
	}
	return out
}
