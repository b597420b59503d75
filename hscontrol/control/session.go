package control

import (
	"context"
	"crypto/rand"
	"errors"
	randv2 "math/rand/v2"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"tailscale.com/types/key"

	"github.com/keelscale/keelscale/hscontrol/mapper"
	"github.com/keelscale/keelscale/hscontrol/state"
	"github.com/keelscale/keelscale/hscontrol/store"
	"github.com/keelscale/keelscale/hscontrol/tailnet"
)

// Times of a poll. Clients give up after two minutes without a message.
const (
	keepAliveLeast  = 50 * time.Second
	keepAliveJitter = 9 * time.Second
	writeTime       = 2 * time.Minute // a client that takes longer for one message is gone
	openTime        = 10 * time.Second
)

type nodeID = tailnet.NodeID

// session is one poll: it remembers the view that it last sent, and when there is a newer one it sends the difference.
// It has no queue: views that come while it writes are skipped.
type session struct {
	control *Control
	out     *outlet
	feed    *state.Feed
	viewer  mapper.Viewer
	nodeKey key.NodePublic
	cursor  atomic.Pointer[state.Edition] // what was sent last
	online  bool                          // this poll makes the node count as connected

	host string // which the client asked for, inside Noise
	id   string
	over atomic.Bool // the same node polls anew, or does not answer any more
	ask  chan string // a token to ping the client with; capacity 1
}

func (s *session) run(ctx context.Context) {
	listener := s.feed.Listen()
	defer listener.Stop()
	sent := s.feed.Load()
	if sent == nil || !s.sendFull(sent) {
		return
	}
	s.cursor.Store(sent)
	if s.online {
		s.control.live.enter(s)
		defer s.control.live.leave(s, s.control.Now())
		s.open(ctx)
	}
	for {
		listener.Await(sent)
		select {
		case <-listener.Turn():
			next, frame := s.news(sent)
			listener.Leave()
			if next == nil {
				s.steer(ctx)
				return
			}
			if frame != nil && !s.out.send(frame) {
				return
			}
			sent = next
			s.cursor.Store(sent)
		case <-s.out.roused:
			listener.Leave()
			if ctx.Err() != nil || s.over.Load() || !s.askNow() || !s.out.keepAlive() { // ctx ends at the latest when Run closes the connections
				return
			}
		}
	}
}

// news is the newest edition and what of it the client has to be sent, which may be nothing. The edition is nil if the
// node is not in it, or not with the key that this poll is for.
func (s *session) news(sent *state.Edition) (*state.Edition, mapper.Frame) {
	next := s.feed.Load()
	if next == nil || s.rekeyed(next) {
		return nil, nil
	}
	defer s.control.encoded.since(time.Now())
	frame, gone := s.control.Mapper.DiffFrame(sent.View, next.View, s.viewer, s.out.compress, s.control.Now())
	if gone {
		return nil, nil
	}
	return next, frame
}

// askNow pings the client, if that is wanted.
func (s *session) askNow() bool {
	select {
	case token := <-s.ask:
		return s.out.send(pingFrame(s.host, token, s.out.compress))
	default:
		return true
	}
}

// finish ends the poll from another goroutine.
func (s *session) finish() {
	s.over.Store(true)
	s.out.rouse()
}

// sendFull sends the first message, which has everything.
func (s *session) sendFull(e *state.Edition) bool {
	frame := s.whole(e)
	return frame != nil && s.out.send(frame)
}

// whole is the whole map; nil if the node is not in it. It is made in turn, and sent when the next is being made.
func (s *session) whole(e *state.Edition) mapper.Frame {
	defer s.control.wholes.enter()()
	defer s.control.encoded.since(time.Now())
	msg := s.control.Mapper.Full(e.View, s.viewer, s.control.Now())
	if msg == nil {
		return nil
	}
	return s.control.Mapper.Frame(msg, s.out.compress)
}

// rekeyed reports whether the node has another key now: this poll is that of the old one, which ended.
func (s *session) rekeyed(e *state.Edition) bool {
	n := e.Node(s.viewer.ID)
	return n != nil && n.NodeKey != s.nodeKey
}

// steer tells the client that its node is gone and waits for it to leave.
func (s *session) steer(ctx context.Context) {
	if s.out.send(mapper.FrameOf(mapper.Unknown(s.nodeKey, s.control.Now()).JSON(), s.out.compress)) {
		s.out.idle(ctx, s.control.life.Done())
	}
}

// open records that the node is connected. The map was sent before, so the client does not wait for the disk.
func (s *session) open(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, openTime)
	defer cancel()
	err := s.control.Store.OpenSession(ctx, s.viewer.ID, s.id)
	if err != nil && !errors.Is(err, tailnet.ErrNotFound) && ctx.Err() == nil {
		s.control.Log.Error("recording that a node is connected", "node", s.viewer.ID, "err", err)
	}
}

// outlet writes the messages of one poll.
type outlet struct {
	control  *Control
	w        http.ResponseWriter
	rc       *http.ResponseController
	compress bool
	alive    mapper.Frame // the keep-alive: always the same bytes, by which clients know it

	// All that happens seldom comes by roused, so that a poll waits for two things and not for six: there are thousands.
	roused chan struct{} // look at what there is to do; capacity 1
	quiet  *time.Timer   // rouses when a keep-alive may be due
	pause  time.Duration // until then
	last   time.Time     // when something was sent
}

// outlet is for a poll that lasts as long as ctx.
func (c *Control) outlet(ctx context.Context, w http.ResponseWriter, compress bool) *outlet {
	alive := c.alive.plain
	if compress {
		alive = c.alive.packed
	}
	o := &outlet{
		control: c, w: w, rc: http.NewResponseController(w), compress: compress, alive: alive,
		roused: make(chan struct{}, 1), pause: keepAliveLeast + randv2.N(keepAliveJitter),
	}
	o.quiet = time.AfterFunc(o.pause, o.rouse)
	context.AfterFunc(ctx, o.rouse)
	return o
}

// rouse has the poll look at what there is to do.
func (o *outlet) rouse() {
	select {
	case o.roused <- struct{}{}:
	default:
	}
}

// send writes one frame at once, and says whether the client is still there.
func (o *outlet) send(frame mapper.Frame) bool {
	begun := time.Now()
	for _, piece := range frame {
		o.control.sentBytes.Add(uint64(len(piece)))
		if _, err := o.w.Write(piece); err != nil {
			return false
		}
	}
	if err := o.rc.Flush(); err != nil {
		return false
	}
	o.last = begun
	o.control.sent.since(begun)
	return true
}

// keepAlive sends a keep-alive if nothing was sent for long.
func (o *outlet) keepAlive() bool {
	left := o.pause - time.Since(o.last)
	if left <= 0 {
		if !o.send(o.alive) {
			return false
		}
		left = o.pause
	}
	o.quiet.Reset(left)
	return true
}

// idle keeps the poll open and quiet until the client leaves or done is closed.
func (o *outlet) idle(ctx context.Context, done <-chan struct{}) {
	for {
		select {
		case <-o.roused:
			if ctx.Err() != nil || !o.keepAlive() {
				return
			}
		case <-done:
			return
		}
	}
}

// live knows the polls of this process, one a node, and those that ended a moment ago.
type live struct {
	mu   sync.Mutex
	open map[nodeID]*session
	left map[nodeID]departed
	wake chan struct{}
}

// departed is a node whose poll ended; it counts as online until its grace is over.
type departed struct {
	sessionID string
	at        time.Time
}

// enter makes s the poll of its node and ends the one before it.
func (l *live) enter(s *session) {
	s.id, s.ask = rand.Text(), make(chan string, 1)
	l.mu.Lock()
	defer l.mu.Unlock()
	if old := l.open[s.viewer.ID]; old != nil {
		old.finish()
	}
	l.open[s.viewer.ID] = s
	delete(l.left, s.viewer.ID)
}

// of is the poll of a node, or nil.
func (l *live) of(id nodeID) *session {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.open[id]
}

// drop ends a poll from here.
func (l *live) drop(s *session, at time.Time) {
	l.leave(s, at)
	s.finish()
}

func (l *live) leave(s *session, at time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.open[s.viewer.ID] != s {
		return
	}
	delete(l.open, s.viewer.ID)
	l.left[s.viewer.ID] = departed{sessionID: s.id, at: at}
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// due takes out the departures whose grace is over at the given time.
func (l *live) due(now time.Time, grace time.Duration) (refs []store.SessionRef) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for id, d := range l.left {
		if !d.at.Add(grace).After(now) {
			refs = append(refs, store.SessionRef{NodeID: id, SessionID: d.sessionID})
			delete(l.left, id)
		}
	}
	return refs
}

// next is when the grace of the next departure is over; zero for none.
func (l *live) next(grace time.Duration) (next time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, d := range l.left {
		if over := d.at.Add(grace); next.IsZero() || over.Before(next) {
			next = over
		}
	}
	return next
}

// putBack remembers departures that could not be written, but not those of nodes that came back.
func (l *live) putBack(refs []store.SessionRef, at time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, r := range refs {
		_, leftAgain := l.left[r.NodeID]
		if l.open[r.NodeID] == nil && !leftAgain {
			l.left[r.NodeID] = departed{sessionID: r.SessionID, at: at}
		}
	}
}

// all takes out every session, for the end.
func (l *live) all() (refs []store.SessionRef) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for id, s := range l.open {
		refs = append(refs, store.SessionRef{NodeID: id, SessionID: s.id})
	}
	for id, d := range l.left {
		refs = append(refs, store.SessionRef{NodeID: id, SessionID: d.sessionID})
	}
	clear(l.left)
	return refs
}

// watchDepartures closes the sessions of nodes that did not come back, many in one write, until ctx ends; then those
// of all nodes.
func (c *Control) watchDepartures(ctx context.Context) {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		c.closeSessions(ctx, c.live.due(c.Now(), c.Grace))
		next := c.live.next(c.Grace)
		wait := time.Hour
		if !next.IsZero() {
			wait = max(next.Sub(c.Now()), 0)
		}
		timer.Reset(wait)
		select {
		case <-c.live.wake:
		case <-timer.C:
		case <-ctx.Done():
			last, cancel := context.WithTimeout(context.WithoutCancel(ctx), openTime)
			defer cancel()
			c.closeSessions(last, c.live.all())
			return
		}
	}
}

// retryLeft is how long after a failed write the same departures are written again.
const retryLeft = time.Second

func (c *Control) closeSessions(ctx context.Context, refs []store.SessionRef) {
	if len(refs) == 0 {
		return
	}
	if err := c.Store.CloseSessions(ctx, refs); err != nil {
		c.live.putBack(refs, c.Now().Add(retryLeft-c.Grace))
		if ctx.Err() == nil {
			c.Log.Error("recording that nodes left", "nodes", len(refs), "err", err)
		}
	}
}

// Sessions is how many nodes poll here now.
func (c *Control) Sessions() int {
	c.live.mu.Lock()
	defer c.live.mu.Unlock()
	return len(c.live.open)
}
