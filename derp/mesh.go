package derp

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"sync"

	"tailscale.com/derp"
	"tailscale.com/derp/derphttp"
	"tailscale.com/net/netmon"
	"tailscale.com/types/key"
)

// Mesh joins the relays of one region, so that clients of one reach clients of another.
type Mesh struct {
	// Key is shared by all relays of the region: 64 hex digits. "" stands alone.
	Key string
	// With names the relays to watch. An entry may be a host name, host:port, a URL, or
	// "name/dial": the name to ask for and the host to connect to. The relay itself may be
	// in the list.
	With []string
}

// mesh is the relay's links to the others of its region.
type mesh struct {
	stop    context.CancelFunc
	clients []*derphttp.Client
	links   []*link
	done    sync.WaitGroup
}

func startMesh(cfg Config, e *engine) (*mesh, error) {
	if len(cfg.Mesh.With) == 0 {
		return nil, nil
	}
	if cfg.Mesh.Key == "" {
		return nil, errors.New("a mesh needs a key that its relays share (-mesh-psk-file)")
	}
	ctx, stop := context.WithCancel(context.Background())
	m := &mesh{stop: stop}
	for _, with := range cfg.Mesh.With {
		if err := m.link(ctx, cfg, e, with); err != nil {
			m.close()
			return nil, fmt.Errorf("link to %q: %w", with, err)
		}
	}
	return m, nil
}

// link keeps a connection to another relay, through which we hear who is there and send what
// is for them.
func (m *mesh) link(ctx context.Context, cfg Config, e *engine, with string) error {
	url, dial := meshTarget(with)
	log := cfg.Log.With("mesh", with)
	logf := func(format string, args ...any) { log.Debug(fmt.Sprintf(format, args...)) }
	c, err := derphttp.NewClient(cfg.Key, url, logf, netmon.NewStatic())
	if err != nil {
		return err
	}
	c.MeshKey = e.psk
	c.WatchConnectionChanges = true
	if dial != "" {
		var d net.Dialer
		c.SetURLDialer(func(ctx context.Context, network, addr string) (net.Conn, error) {
			_, port, err := net.SplitHostPort(addr)
			if err != nil {
				return nil, err
			}
			return d.DialContext(ctx, network, net.JoinHostPort(dial, port))
		})
	}
	l := newLink(e, c)
	m.clients = append(m.clients, c)
	m.links = append(m.links, l)
	m.done.Go(l.run)
	m.done.Go(func() {
		c.RunWatchConnectionLoop(ctx, cfg.Key.Public(), logf,
			func(p derp.PeerPresentMessage) { e.forward(p.Key, l) },
			func(p derp.PeerGoneMessage) { e.unforward(p.Peer, l) },
			func(err error) { log.Warn("mesh link broke", "err", err) })
	})
	return nil
}

// meshTarget splits an entry of Mesh.With into the URL to ask for and the host to connect
// to, which is "" when it is the same.
func meshTarget(with string) (url, dial string) {
	if strings.Contains(with, "://") {
		return strings.TrimSuffix(with, "/") + "/derp", ""
	}
	host, dial, _ := strings.Cut(with, "/")
	return "https://" + host + "/derp", dial
}

func (m *mesh) close() {
	m.stop()
	for _, c := range m.clients {
		c.Close()
	}
	for _, l := range m.links {
		l.close()
	}
	m.done.Wait()
}

// MeshPeer is another relay of the region.
type MeshPeer struct {
	Key   key.NodePublic   // its identity; nobody else is told the mesh key
	Addrs []netip.AddrPort // where it listens, best first
	Name  string           // to ask for in the TLS handshake (SNI)
	Pin   string           // of its certificate (tailcfg.DERPNode.CertName); "" where an authority vouches
}

// SetMesh joins the relays that share psk (64 hex digits) and keeps links to the given ones;
// the relay itself may be among them. It replaces what the last SetMesh said, and leaves alone
// what Config.Mesh says. Links that stay are kept.
func (r *Relay) SetMesh(psk string, peers []MeshPeer) error {
	return errors.ErrUnsupported
}
