package derp

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"tailscale.com/derp"
	"tailscale.com/types/key"
)

// link is the way to another relay of the mesh. It has several connections (lines), so that
// more than one core and more than one TCP window serve it: the first also hears who is there,
// and all carry packets to them. The packets of one node for another always go by the same
// line, so that their order holds. Each line has a key of its own, as a relay takes two
// connections with the same key for a copied machine.
//
// A line is a client of ours turned round: what is pushed to it waits in its outbox as frames
// for the other relay (write.go), and whole slabs of them are written at once.
type link struct {
	eng    *engine
	log    *slog.Logger
	keys   []key.NodePrivate // of the lines; the first is the relay's own
	lines  []atomic.Pointer[client]
	target atomic.Pointer[target]
	soon   chan struct{} // has room for one: dial now, there is news
	known  map[nodeKey]struct{}
	state  atomic.Pointer[linkState]
}

const (
	maxKnown    = 1 << 20          // nodes of another relay
	lineWidth   = 4                // of its queue, which many clients share, to theirs
	lineTick    = 10 * time.Second // between two signs of life of ours
	lineSilence = 30 * time.Second // after which the other relay is taken for gone
	minBackoff  = 250 * time.Millisecond
	maxBackoff  = 30 * time.Second
	settledLink = 10 * time.Second // a link that lasted longer begins with the least backoff
)

// errSelf says that a link leads to the relay that it begins at.
var errSelf = errors.New("the link leads to this relay itself")

func newLink(e *engine, t *target, log *slog.Logger) *link {
	n := max(2, min(4, runtime.GOMAXPROCS(0)))
	l := &link{
		eng: e, log: log,
		keys:  []key.NodePrivate{e.key},
		lines: make([]atomic.Pointer[client], n),
		soon:  make(chan struct{}, 1),
		known: map[nodeKey]struct{}{},
	}
	for len(l.keys) < n {
		l.keys = append(l.keys, key.NewNode())
	}
	l.target.Store(t)
	l.note(false, nil)
	return l
}

// pick chooses the line for packets of src to dst; nil when there is none.
func (l *link) pick(src, dst *nodeKey) *client {
	h := binary.LittleEndian.Uint32(src[:4]) ^ binary.LittleEndian.Uint32(dst[:4])
	if c := l.lines[h%uint32(len(l.lines))].Load(); c != nil {
		return c
	}
	return l.lines[0].Load()
}

// retarget says where the other relay is from now on. A connection that stands is kept.
func (l *link) retarget(t *target) {
	l.target.Store(t)
	select {
	case l.soon <- struct{}{}:
	default:
	}
}

// run keeps the link until ctx ends, or it turns out that it leads to the relay itself.
func (l *link) run(ctx context.Context) {
	for failed := 0; ctx.Err() == nil; failed++ {
		began := time.Now()
		err := l.once(ctx)
		if ctx.Err() != nil {
			return
		}
		l.note(false, err)
		switch {
		case errors.Is(err, errSelf):
			l.log.Debug("this is the relay itself: no link")
			return
		case time.Since(began) > settledLink:
			failed = 0
			fallthrough
		case failed == 0:
			l.log.Warn("mesh link broke", "err", err)
		default:
			l.log.Debug("no mesh link", "err", err)
		}
		l.pause(ctx, failed)
	}
}

// pause waits longer each time that a line failed.
func (l *link) pause(ctx context.Context, failed int) {
	d := min(minBackoff<<min(failed, 10), maxBackoff)
	t := time.NewTimer(d/2 + rand.N(d/2))
	defer t.Stop()
	select {
	case <-t.C:
	case <-l.soon:
	case <-ctx.Done():
	}
}

// once connects the first line and serves it until it ends, and the others as long.
func (l *link) once(ctx context.Context) error {
	c, err := l.dial(ctx, 0)
	if err != nil {
		return err
	}
	defer l.forget()
	ctx, stop := context.WithCancel(ctx)
	var others sync.WaitGroup
	defer others.Wait()
	defer stop()
	c.queue(derp.FrameWatchConns)
	l.note(true, nil)
	l.log.Info("mesh link is up", "relay", c.key.public().ShortString())
	for i := 1; i < len(l.lines); i++ {
		others.Go(func() { l.keep(ctx, i) })
	}
	return l.serve(ctx, 0, c)
}

// keep keeps one of the lines that only carry packets.
func (l *link) keep(ctx context.Context, i int) {
	for failed := 0; ctx.Err() == nil; failed++ {
		began := time.Now()
		c, err := l.dial(ctx, i)
		if err == nil {
			err = l.serve(ctx, i, c)
		}
		if ctx.Err() != nil {
			return
		}
		if time.Since(began) > settledLink {
			failed = 0
		}
		l.log.Debug("a line of a mesh link broke", "line", i, "err", err)
		l.pause(ctx, failed)
	}
}

// forget takes back all that the other relay said.
func (l *link) forget() {
	for k := range l.known {
		l.eng.unforward(k, l)
	}
	clear(l.known)
}

// serve has line i carry packets, and handles what the other relay says, until the connection
// or ctx ends. Nothing of the connection is left when it returns.
func (l *link) serve(ctx context.Context, i int, c *client) error {
	unhook := context.AfterFunc(ctx, c.cut)
	defer unhook()
	l.eng.addLine(c)
	l.lines[i].Store(c)
	c.keepAlive = time.AfterFunc(lineTick, func() {
		c.tickLine()
	})
	c.rouse()
	err := l.listen(i, c)
	l.lines[i].Store(nil)
	c.keepAlive.Stop()
	c.cut()
	c.shut()
	c.writer.Wait()
	l.eng.removeLine(c)
	return err
}

// tickLine asks the other relay for a sign of life.
func (c *client) tickLine() {
	c.out.mu.Lock()
	over := c.out.state == ended
	c.out.carried = false
	c.out.mu.Unlock()
	if !over {
		c.tell(derp.FramePing, make([]byte, 8))
		c.keepAlive.Reset(lineTick)
	}
}

// listen handles what the other relay says on line i.
func (l *link) listen(i int, c *client) error {
	br := bufio.NewReaderSize(&c.in, 4<<10)
	for {
		c.conn.SetReadDeadline(time.Now().Add(lineSilence))
		t, body, err := readNews(br)
		if err != nil {
			return err
		}
		switch {
		case t == derp.FramePing:
			c.tell(derp.FramePong, body[:8])
		case i > 0: // the first hears all else
		case t == derp.FramePeerPresent:
			if err := l.present(nodeKey(body[:derp.KeyLen])); err != nil {
				return err
			}
		case t == derp.FramePeerGone:
			k := nodeKey(body[:derp.KeyLen])
			delete(l.known, k)
			l.eng.unforward(k, l)
		}
	}
}

func (l *link) present(k nodeKey) error {
	if k == l.eng.self {
		return nil // that is we, who watch
	}
	if len(l.known) >= maxKnown {
		return fmt.Errorf("the other relay says that it has more than %d nodes", maxKnown)
	}
	l.known[k] = struct{}{}
	l.eng.forward(k, l)
	return nil
}

// maxNews is the most that a frame from another relay may hold.
const maxNews = 1 << 20

// readNews reads the next frame, and its first bytes, as many as are needed. One that means
// nothing to a link is a sign of life all the same.
func readNews(br *bufio.Reader) (t derp.FrameType, body []byte, err error) {
	head, err := br.Peek(derp.FrameHeaderLen)
	if err != nil {
		return 0, nil, err
	}
	t = derp.FrameType(head[0])
	size := int(binary.BigEndian.Uint32(head[1:]))
	if size > maxNews {
		return 0, nil, fmt.Errorf("frame of type %#x has %d bytes", t, size)
	}
	br.Discard(derp.FrameHeaderLen)
	need := 0
	switch t {
	case derp.FramePing:
		need = 8
	case derp.FramePeerPresent, derp.FramePeerGone:
		need = derp.KeyLen
	}
	if size < need {
		return 0, nil, fmt.Errorf("frame of type %#x has %d bytes", t, size)
	}
	body = make([]byte, need)
	if _, err := io.ReadFull(br, body); err != nil {
		return 0, nil, err
	}
	_, err = br.Discard(size - need)
	return t, body, err
}

// forward sends packets for a node by way of l.
func (e *engine) forward(k nodeKey, l *link) {
	e.mu.Lock()
	defer e.mu.Unlock()
	p, ok := e.peers.Load(k)
	if !ok {
		p = &peer{}
		e.peers.Store(k, p)
	}
	if !slices.Contains(p.links, l) {
		p.links = append(p.links, l)
		p.via.Store(p.links[0])
	}
}

// unforward undoes forward. When nobody has the node any more, all that heard from it are
// told.
func (e *engine) unforward(k nodeKey, l *link) {
	e.mu.Lock()
	defer e.mu.Unlock()
	p, ok := e.peers.Load(k)
	if !ok || !slices.Contains(p.links, l) {
		return
	}
	p.links = slices.DeleteFunc(p.links, func(other *link) bool { return other == l })
	if len(p.links) > 0 {
		p.via.Store(p.links[0])
		return
	}
	p.via.Store(nil)
	if len(p.conns) == 0 {
		e.forget(k)
	}
}

// addLine counts what a line carries from now on.
func (e *engine) addLine(c *client) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.lines[c] = struct{}{}
}

func (e *engine) removeLine(c *client) {
	e.mu.Lock()
	defer e.mu.Unlock()
	delete(e.lines, c)
	e.retiredLines.add(c)
}
