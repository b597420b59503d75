package derp

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"strings"
	"sync"

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

// MeshPeer is another relay of the region.
type MeshPeer struct {
	Key   key.NodePublic   // its identity: nobody else is told the mesh key
	Addrs []netip.AddrPort // where it listens, best first
	Name  string           // to ask for in the TLS handshake (SNI); "" for the first address
	Pin   string           // of its certificate (tailcfg.DERPNode.CertName); "" where an authority vouches
}

// mesh is the relay's links to the others of its region.
type mesh struct {
	eng  *engine
	log  *slog.Logger
	ctx  context.Context // of all links
	stop context.CancelFunc
	done sync.WaitGroup

	mu    sync.Mutex
	peers map[key.NodePublic]*meshLink // those that SetMesh gave
	named map[string]*meshLink         // those of Mesh.With
}

// meshLink is a link that can be ended.
type meshLink struct {
	*link
	cancel context.CancelFunc
}

func startMesh(cfg Config, e *engine) (*mesh, error) {
	m := &mesh{eng: e, log: cfg.Log, peers: map[key.NodePublic]*meshLink{}, named: map[string]*meshLink{}}
	m.ctx, m.stop = context.WithCancel(context.Background())
	return m, m.with(cfg.Mesh.With)
}

// SetMeshWith replaces Config.Mesh.With. Links to relays that stay are kept.
func (r *Relay) SetMeshWith(names []string) error { return r.mesh.with(names) }

// with keeps links to the relays of the given names, and to no others of the kind.
func (m *mesh) with(names []string) error {
	psk := m.eng.psks.Load().own
	if len(names) > 0 && psk.IsZero() {
		return errors.New("a mesh needs a key that its relays share (-mesh-psk-file)")
	}
	want := map[string]*target{}
	for _, name := range names {
		t, err := staticTarget(name, psk)
		if err != nil {
			return fmt.Errorf("link to %q: %w", name, err)
		}
		want[name] = t
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.ctx.Err() != nil {
		return nil
	}
	for name, l := range m.named {
		if want[name] == nil {
			l.cancel()
			delete(m.named, name)
		}
	}
	for name, t := range want {
		if m.named[name] == nil {
			m.named[name] = m.start(t, name)
		}
	}
	return nil
}

// start begins a link.
func (m *mesh) start(t *target, name string) *meshLink {
	ctx, cancel := context.WithCancel(m.ctx)
	l := &meshLink{newLink(m.eng, t, m.log.With("mesh", name)), cancel}
	m.done.Go(func() {
		defer cancel()
		l.run(ctx)
	})
	return l
}

func (m *mesh) close() {
	m.mu.Lock() // nothing is started after this
	m.stop()
	m.mu.Unlock()
	m.done.Wait()
}

// SetMesh takes the relays that know psk (64 hex digits, "" for none) for members of the mesh,
// and keeps links to the given ones; the relay itself may be among them. It replaces what the
// last SetMesh said, and leaves alone what Config.Mesh says. Links that stay are kept, also
// when the address of a relay has changed.
func (r *Relay) SetMesh(psk string, peers []MeshPeer) error {
	var shared key.DERPMesh
	if psk = strings.TrimSpace(psk); psk != "" {
		var err error
		if shared, err = key.ParseDERPMesh(psk); err != nil {
			return fmt.Errorf("reading the mesh key (64 hex digits): %w", err)
		}
	} else if len(peers) > 0 {
		return errors.New("a mesh needs a key that its relays share")
	}
	want := map[key.NodePublic]*target{}
	for _, p := range peers {
		if p.Key == r.PublicKey() {
			continue
		}
		t, err := peerTarget(p, shared)
		if err != nil {
			return fmt.Errorf("mesh peer %s: %w", p.Key.ShortString(), err)
		}
		want[p.Key] = t
	}
	r.engine.setPSK(shared)
	r.mesh.set(want)
	return nil
}

func (m *mesh) set(want map[key.NodePublic]*target) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.ctx.Err() != nil {
		return
	}
	for k, l := range m.peers {
		if t, stays := want[k]; !stays || !t.psk.Equal(l.target.Load().psk) {
			l.cancel()
			delete(m.peers, k)
		}
	}
	for k, t := range want {
		if l, ok := m.peers[k]; ok {
			l.retarget(t)
		} else {
			m.peers[k] = m.start(t, k.ShortString())
		}
	}
}

// psks are the mesh keys in force: the relay's own, and the one of SetMesh.
type psks struct{ own, ordered key.DERPMesh }

// setPSK changes the second, and cuts off those that came by the one before.
func (e *engine) setPSK(k key.DERPMesh) {
	e.mu.Lock()
	defer e.mu.Unlock()
	old := e.psks.Load()
	if old.ordered.Equal(k) {
		return
	}
	e.psks.Store(&psks{old.own, k})
	for c := range e.open {
		if c.meshed && !e.isMeshPeer(c.psk) {
			c.cut()
		}
	}
}

// isMeshPeer reports whether k is one of the mesh keys; it compares in constant time.
func (e *engine) isMeshPeer(k key.DERPMesh) bool {
	s := e.psks.Load()
	own := !s.own.IsZero() && s.own.Equal(k)
	ordered := !s.ordered.IsZero() && s.ordered.Equal(k)
	return !k.IsZero() && (own || ordered)
}
