package derp

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/go4org/hashtriemap"
	"tailscale.com/derp"
	"tailscale.com/types/key"
)

// engine moves the frames of admitted connections.
type engine struct {
	key       key.NodePrivate
	self      nodeKey
	box       *relayKey
	psks      atomic.Pointer[psks]
	admit     Admit
	patience  time.Duration // of a write; 0 for ever
	metaCert  []byte
	start     time.Time
	ids       atomic.Uint64
	limits    atomic.Pointer[limits]
	month     month
	journal   journal
	sending   sending
	takesNone atomic.Bool   // whether closure has a reason
	over      chan struct{} // closed when the engine is
	endOver   func()        // closes it
	tasks     sync.WaitGroup
	count     counters
	stock     stock

	// peers are all that can be reached. It is read without a lock and written under mu.
	peers hashtriemap.HashTrieMap[nodeKey, *peer]

	mu       sync.Mutex
	closed   bool
	closure  closure
	debts    debts
	open     map[*client]struct{}             // all connections, also those still at the handshake
	asking   map[nodeKey][]*client            // those that said who they are and have not joined
	clients  map[*client]struct{}             // those that have joined
	watchers map[*client]struct{}             // those that are told who comes and goes
	hearers  map[nodeKey]map[*client]struct{} // who is told when a node is gone
	lines    map[*client]struct{}             // our connections to other relays
	retired  traffic                          // of connections that have ended

	retiredLines traffic // the same, of lines
}

// defaultPatience is how long a client may refuse to take data.
const defaultPatience = 2 * time.Second

func newEngine(cfg Config) (*engine, error) {
	e := &engine{
		key:      cfg.Key,
		self:     rawKey(cfg.Key.Public()),
		admit:    cfg.Admit,
		patience: defaultPatience,
		start:    time.Now(),
		open:     map[*client]struct{}{},
		asking:   map[nodeKey][]*client{},
		clients:  map[*client]struct{}{},
		watchers: map[*client]struct{}{},
		hearers:  map[nodeKey]map[*client]struct{}{},
		lines:    map[*client]struct{}{},
		over:     make(chan struct{}),
		stock:    stock{most: maxWaiting},
	}
	e.endOver = sync.OnceFunc(func() { close(e.over) })
	switch {
	case cfg.WriteTimeout > 0:
		e.patience = cfg.WriteTimeout
	case cfg.WriteTimeout < 0:
		e.patience = 0
	}
	var mesh psks
	var err error
	if k := strings.TrimSpace(cfg.Mesh.Key); k != "" {
		if mesh.own, err = key.ParseDERPMesh(k); err != nil {
			return nil, fmt.Errorf("reading the mesh key (64 hex digits): %w", err)
		}
	}
	e.psks.Store(&mesh)
	if e.box, err = newRelayKey(cfg.Key); err != nil {
		return nil, err
	}
	if e.metaCert, err = makeMetaCert(cfg.Key.Public()); err != nil {
		return nil, fmt.Errorf("making the certificate with the relay's key: %w", err)
	}
	e.limits.Store(newLimits(cfg.Limits))
	e.month.atLeast(e.start, 0, cfg.Limits.UsedThisMonth)
	return e, nil
}

// now is the engine's clock.
func (e *engine) now() time.Duration { return time.Since(e.start) }

// accepted is an upgraded connection on its way to the engine.
type accepted struct {
	conn      net.Conn
	abort     func() error // ends conn at once
	ahead     []byte       // what was read ahead
	answer    []byte       // what the client is to get first
	remote    net.Addr
	chunk     int    // the most bytes of one write; 0 for any
	idealNode string // the node that the client would rather be on; "" if on it
}

// newClient is a connection that nobody serves yet.
func newClient(e *engine, a accepted) *client {
	c := &client{
		eng:   e,
		id:    e.ids.Add(1),
		conn:  a.conn,
		under: underneath(a.conn),
		gone:  make(chan struct{}),
		ended: make(chan struct{}),
		abort: a.abort,
		chunk: a.chunk,
		in:    source{ahead: a.ahead, conn: a.conn},
		began: time.Now(),
	}
	_, c.sealed = a.conn.(*tls.Conn)
	c.out.wake = make(chan struct{}, 1)
	c.out.disco = lane{stock: &e.stock, width: 1}
	c.out.bulk = lane{stock: &e.stock, width: 1}
	if ap, err := netip.ParseAddrPort(a.remote.String()); err == nil {
		c.source = netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
	}
	return c
}

// begin does the handshake of a new connection. When that fails, the connection is closed.
func (e *engine) begin(ctx context.Context, a accepted) (*client, error) {
	c := newClient(e, a)
	if !e.admitConn(c) {
		c.cut()
		return nil, errors.New("the relay is closed")
	}
	if err := e.greet(ctx, c, a); err != nil {
		e.end(c)
		return nil, err
	}
	return c, nil
}

func (e *engine) admitConn(c *client) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed {
		return false
	}
	e.open[c] = struct{}{}
	e.count.accepts.Add(1)
	return true
}

// run serves a connection that has begun until it ends, and returns when nothing of it is
// left.
func (e *engine) run(c *client) error {
	c.keepAliveEvery = derp.KeepAlive + rand.N(5*time.Second)
	c.keepAlive = time.AfterFunc(c.keepAliveEvery, c.tick)
	c.writer.Add(1) // the handshake left the outbox in the hands of a writer
	go c.write()
	err := c.read()
	e.end(c)
	return err
}

// end takes a connection out and waits for its writer.
func (e *engine) end(c *client) {
	if c.keepAlive != nil {
		c.keepAlive.Stop()
	}
	e.part(c)
	c.cut()
	c.shut()
	c.writer.Wait()
	c.setHome(false)
	e.mu.Lock()
	delete(e.open, c)
	e.mu.Unlock()
	close(c.ended)
}

// close cuts all connections. Their goroutines end soon after.
func (e *engine) close() {
	for _, c := range e.all(true) {
		c.cut()
	}
	e.stopSending()
	e.endOver()
	e.tasks.Wait()
}

// all returns the connections; shut says that no other is to come.
func (e *engine) all(shut bool) []*client {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.closed = e.closed || shut
	list := make([]*client, 0, len(e.open))
	for c := range e.open {
		list = append(list, c)
	}
	return list
}
