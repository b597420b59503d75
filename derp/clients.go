package derp

import (
	"net"
	"net/netip"
	"slices"
	"sync/atomic"
	"time"

	"go4.org/mem"
	"golang.org/x/time/rate"
	"tailscale.com/derp"
	"tailscale.com/types/key"
)

// nodeKey is a node's public key as it is in frames.
type nodeKey [derp.KeyLen]byte

func rawKey(k key.NodePublic) nodeKey {
	var raw nodeKey
	k.AppendTo(raw[:0])
	return raw
}

func (k *nodeKey) public() key.NodePublic { return key.NodePublicFromRaw32(mem.B(k[:])) }

// peer is a node that can be reached: by connections of its own, or by way of another relay.
type peer struct {
	active atomic.Pointer[client] // gets the packets; nil when only others have it
	via    atomic.Pointer[link]   // used when there is no active client

	// Guarded by engine.mu:
	conns []*client // all connections of the key, the one that spoke last at the end
	links []*link   // the one known longest first
	turns int       // how often the connections took the word from each other
	bound Bound     // on what the node sends, by all its connections
	limit *rate.Limiter
}

// find looks for a node without a lock.
func (e *engine) find(dst *nodeKey) (*client, *link) {
	p, ok := e.peers.Load(*dst)
	if !ok {
		return nil, nil
	}
	return p.way()
}

// way is how to reach the node now.
func (p *peer) way() (*client, *link) {
	if c := p.active.Load(); c != nil {
		return c, nil
	}
	return nil, p.via.Load()
}

// findAgain is find for a reader, which knows the last node that it looked for. One that is
// gone from the table has no way any more, so that what is remembered is never wrong.
func (c *client) findAgain(dst *nodeKey) (*client, *link) {
	if c.last.peer != nil && c.last.key == *dst {
		if to, via := c.last.peer.way(); to != nil || via != nil {
			return to, via
		}
	}
	p, ok := c.eng.peers.Load(*dst)
	if !ok {
		return nil, nil
	}
	c.last.key, c.last.peer = *dst, p
	c.last.since = c.now
	return p.way()
}

// introduce notes who c is, so that it can be evicted while it is being admitted.
func (e *engine) introduce(c *client, k nodeKey, psk key.DERPMesh) {
	e.mu.Lock()
	defer e.mu.Unlock()
	c.key, c.psk, c.meshed = k, psk, e.isMeshPeer(psk)
	e.asking[k] = append(e.asking[k], c)
}

// unask undoes introduce.
func (e *engine) unask(c *client) {
	left := slices.DeleteFunc(e.asking[c.key], func(other *client) bool { return other == c })
	if len(left) == 0 {
		delete(e.asking, c.key)
		return
	}
	e.asking[c.key] = left
}

// join makes c the connection that gets its node's packets, unless it was evicted meanwhile
// or the relay takes no clients.
func (e *engine) join(c *client) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if c.isCut.Load() {
		return net.ErrClosed
	}
	if why := e.closure.reason(); why != "" && !c.meshed {
		return &refusal{c.key.public(), c.source.Addr(), why}
	}
	e.unask(c)
	p, ok := e.peers.Load(c.key)
	if !ok {
		p = &peer{}
		e.peers.Store(c.key, p)
	}
	p.conns = append(p.conns, c)
	e.bind(c)
	if len(p.conns) > 1 {
		e.count.duplicates.Add(1)
		for _, other := range p.conns {
			other.duplicate.Store(true)
		}
	}
	p.active.Store(c)
	e.clients[c] = struct{}{}
	for w := range e.watchers {
		w.tellPresent(c)
	}
	return nil
}

// part takes c out. When it was the last connection of its node, and no other relay has the
// node, all that heard from it are told.
func (e *engine) part(c *client) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if _, joined := e.clients[c]; !joined {
		e.unask(c)
		return
	}
	delete(e.clients, c)
	delete(e.watchers, c)
	e.retired.add(c)
	for src := range c.heard {
		delete(e.hearers[src], c)
		if len(e.hearers[src]) == 0 {
			delete(e.hearers, src)
		}
	}
	p, ok := e.peers.Load(c.key)
	if !ok {
		return
	}
	p.conns = slices.DeleteFunc(p.conns, func(other *client) bool { return other == c })
	switch n := len(p.conns); n {
	case 0:
		e.debts.keep(c.key, p.bound, p.limit, time.Now())
		p.bound, p.limit = Bound{}, nil
		p.active.Store(nil)
		for w := range e.watchers {
			w.tellGone(c.key, derp.PeerGoneReasonDisconnected)
		}
		if len(p.links) == 0 {
			e.forget(c.key)
		}
	case 1:
		last := p.conns[0]
		last.duplicate.Store(false)
		if p.turns >= fightTurns {
			last.tell(derp.FrameHealth)
		}
		p.turns = 0
		p.active.Store(last)
	default:
		p.active.Store(p.conns[n-1])
	}
}

// forget removes a node that nobody has, and tells those that heard from it. The caller
// holds e.mu.
func (e *engine) forget(k nodeKey) {
	e.peers.Delete(k)
	for c := range e.hearers[k] {
		c.tellGone(k, derp.PeerGoneReasonDisconnected)
		delete(c.heard, k)
	}
	delete(e.hearers, k)
}

// fightTurns is how often two connections of one key take the word from each other before
// they are told that they look like one key on two machines.
const fightTurns = 4

// spoke makes c, one of several connections of its node, the one that gets the packets.
func (e *engine) spoke(c *client) {
	e.mu.Lock()
	defer e.mu.Unlock()
	p, ok := e.peers.Load(c.key)
	if !ok || len(p.conns) < 2 || p.conns[len(p.conns)-1] == c {
		return
	}
	i := slices.Index(p.conns, c)
	if i < 0 {
		return
	}
	p.conns = append(slices.Delete(p.conns, i, i+1), c)
	p.active.Store(c)
	if p.turns++; p.turns == fightTurns {
		for _, other := range p.conns {
			other.tell(derp.FrameHealth, []byte("another connection uses the same node key; is this a copy of a machine?"))
		}
	}
}

// noteHeard remembers that dst got a packet of src, so that it is told when src is gone.
func (e *engine) noteHeard(src nodeKey, dst *client) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if _, here := e.clients[dst]; !here {
		return
	}
	if e.hearers[src] == nil {
		e.hearers[src] = map[*client]struct{}{}
	}
	e.hearers[src][dst] = struct{}{}
	if dst.heard == nil {
		dst.heard = map[nodeKey]struct{}{}
	}
	dst.heard[src] = struct{}{}
}

// watch begins to tell c, another relay or a prober of the region, who is here.
func (e *engine) watch(c *client) {
	if c.key == e.self {
		return // it is ourselves
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if _, here := e.clients[c]; !here {
		return
	}
	for _, p := range e.peers.All() {
		if active := p.active.Load(); active != nil {
			c.tellPresent(active)
		}
	}
	e.watchers[c] = struct{}{}
}

// evict ends all connections of a node and reports how many there were.
func (e *engine) evict(k nodeKey) int {
	e.mu.Lock()
	defer e.mu.Unlock()
	list := e.asking[k]
	if p, ok := e.peers.Load(k); ok {
		list = slices.Concat(list, p.conns)
	}
	n := 0
	for _, c := range list {
		if !c.isCut.Load() { // or it is about to leave anyway
			n++
		}
		c.cut()
	}
	return n
}

func (c *client) tellGone(k nodeKey, why derp.PeerGoneReasonType) {
	switch why {
	case derp.PeerGoneReasonDisconnected:
		c.eng.count.goneDisconnected.Add(1)
	case derp.PeerGoneReasonNotHere:
		c.eng.count.goneNotHere.Add(1)
	}
	c.tell(derp.FramePeerGone, k[:], []byte{byte(why)})
}

func (c *client) tellPresent(other *client) {
	addr := other.source.Addr().As16()
	if !other.source.IsValid() {
		addr = netip.IPv6Unspecified().As16()
	}
	port := other.source.Port()
	c.tell(derp.FramePeerPresent, other.key[:], addr[:], []byte{byte(port >> 8), byte(port), byte(other.flags)})
}
