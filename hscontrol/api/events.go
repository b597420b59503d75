package api

import (
	"context"
	"fmt"
	"maps"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	headscalev1 "github.com/keelscale/keelscale/proto/headscale/v1"

	"github.com/keelscale/keelscale/hscontrol/api/access"
	"github.com/keelscale/keelscale/hscontrol/state"
	"github.com/keelscale/keelscale/hscontrol/store"
	"github.com/keelscale/keelscale/hscontrol/tailnet"
)

// Events are told as a stream of server-sent events (HTML standard, 9.2): rows of the audit log, nodes that come online
// or go offline, relays that are up or down. Nothing is queued for a reader: each is compared with the log and the views
// as fast as it reads, and one that reads nothing for a while is dropped. The ID of an event says how far the log and
// each tailnet was, so that a reader who comes again gets what it missed.

const (
	eventsEach   = 8                // streams of one caller
	eventsAll    = 256              // streams
	eventsWrite  = 10 * time.Second // for a reader to take what is written
	eventsLook   = time.Second
	eventsPause  = 200 * time.Millisecond
	eventsBeat   = 20 * time.Second
	eventsAgain  = time.Minute // how often it is asked whether the key still opens it
	eventsRows   = 200
	maxEventMark = 8 << 10 // bytes of an ID
)

// eventStreams count who listens.
type eventStreams struct {
	sync.Mutex
	by    map[string]int
	all   int
	ended chan struct{} // closed when the server ends
	once  sync.Once
}

func newEventStreams() *eventStreams {
	return &eventStreams{by: map[string]int{}, ended: make(chan struct{})}
}

// EndEvents ends the streams of events, and lets none begin.
func (s *Server) EndEvents() { s.streams.once.Do(func() { close(s.streams.ended) }) }

func (e *eventStreams) enter(who string) error {
	e.Lock()
	defer e.Unlock()
	if e.by[who] >= eventsEach || e.all >= eventsAll {
		return fmt.Errorf("%w streams of events: close some first", tailnet.ErrTooMany)
	}
	e.by[who]++
	e.all++
	return nil
}

func (e *eventStreams) leave(who string) {
	e.Lock()
	defer e.Unlock()
	e.all--
	if e.by[who]--; e.by[who] == 0 {
		delete(e.by, who)
	}
}

// eventMark is how far a reader is: the last row of the audit log, and the revision of each tailnet.
type eventMark struct {
	audit     uint64
	revisions map[tailnet.ID]tailnet.Revision
}

// String is "ROW" or "ROW-TAILNET:REVISION,TAILNET:REVISION".
func (m eventMark) String() string {
	var parts []string
	for _, id := range slices.Sorted(maps.Keys(m.revisions)) {
		parts = append(parts, fmt.Sprintf("%d:%d", id, m.revisions[id]))
	}
	text := strconv.FormatUint(m.audit, 10)
	if len(parts) > 0 {
		text += "-" + strings.Join(parts, ",")
	}
	return text
}

// parseEventMark reads what String writes.
func parseEventMark(text string) (m eventMark, err error) {
	m.revisions = map[tailnet.ID]tailnet.Revision{}
	if len(text) > maxEventMark {
		return m, invalid("Last-Event-ID is longer than %d bytes", maxEventMark)
	}
	row, rest, _ := strings.Cut(text, "-")
	if m.audit, err = strconv.ParseUint(row, 10, 63); err != nil {
		return m, invalid("Last-Event-ID is not one of this server's")
	}
	for part := range strings.SplitSeq(rest, ",") {
		if rest == "" {
			break
		}
		a, b, _ := strings.Cut(part, ":")
		id, err := strconv.ParseUint(a, 10, 63)
		rev, err2 := strconv.ParseUint(b, 10, 63)
		if err != nil || err2 != nil {
			return m, invalid("Last-Event-ID is not one of this server's")
		}
		m.revisions[tailnet.ID(id)] = tailnet.Revision(rev)
	}
	return m, nil
}

// reader is one who listens.
type reader struct {
	s       *Server
	w       http.ResponseWriter
	out     *http.ResponseController
	tailnet tailnet.ID // zero: all
	log     bool       // may see the audit log
	nodes   bool       // may see nodes and relays
	mark    eventMark
	views   map[tailnet.ID]*state.View
}

// serveEvents serves GET /api/v1/events.
func (s *Server) serveEvents(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	c, rd, err := s.listen(ctx, w, r)
	if err != nil {
		refuse(w, r, err)
		return
	}
	who := c.Who + "@" + c.From
	if err := s.streams.enter(who); err != nil {
		refuse(w, r, err)
		return
	}
	defer s.streams.leave(who)
	h := w.Header()
	h.Set("Content-Type", "text/event-stream")
	h.Set("X-Accel-Buffering", "no")
	w.WriteHeader(http.StatusOK)
	if rd.write("retry: 2000\n\n") != nil {
		return
	}
	again := func() bool {
		now, err := s.guard.Authenticate(ctx, r.Header.Get("Authorization"), remote(r))
		return err == nil && now.Sees(c.Tailnet) && rd.may(now) == nil
	}
	rd.run(ctx, again)
}

// remote is where a request comes from, without its port.
func remote(r *http.Request) string {
	if host, _, err := net.SplitHostPort(r.RemoteAddr); err == nil {
		return host
	}
	return r.RemoteAddr
}

// listen says who listens, to what, and from where on.
func (s *Server) listen(ctx context.Context, w http.ResponseWriter, r *http.Request) (access.Caller, *reader, error) {
	rd := &reader{s: s, w: w, out: http.NewResponseController(w), views: map[tailnet.ID]*state.View{}}
	if s.cfg.View == nil {
		return access.Caller{}, nil, unwired("events")
	}
	c, err := s.guard.Authenticate(ctx, r.Header.Get("Authorization"), remote(r))
	if err != nil {
		return c, nil, err
	}
	c.Via = tailnet.ViaREST
	if err := rd.may(c); err != nil {
		return c, nil, err
	}
	if rd.tailnet, err = s.tailnetOrAll(access.With(ctx, c), r.URL.Query().Get("tailnet")); err != nil {
		return c, nil, err
	}
	last := r.Header.Get("Last-Event-ID")
	if last == "" {
		last = r.URL.Query().Get("last_event_id")
	}
	if last != "" {
		rd.mark, err = parseEventMark(last)
		return c, rd, err
	}
	head, err := s.cfg.Store.AuditHead(ctx)
	rd.mark = eventMark{audit: head.ID, revisions: map[tailnet.ID]tailnet.Revision{}}
	return c, rd, err
}

// may says what the caller may see; who may see nothing is refused.
func (rd *reader) may(c access.Caller) error {
	if c.OwnOnly() {
		return fmt.Errorf("%w: events tell of what others have, too", access.ErrForbidden)
	}
	rd.log, rd.nodes = c.May("logs:configuration:read"), c.May("devices:core:read")
	if !rd.log && !rd.nodes {
		return c.Check("logs:configuration:read")
	}
	return nil
}

// run tells events until the reader is gone, or too slow, or the server ends.
func (rd *reader) run(ctx context.Context, again func() bool) {
	asked, beat := time.Now(), time.Time{}
	for {
		moved := rd.s.cfg.Store.Moved()
		if rd.round(ctx) != nil {
			return
		}
		if time.Since(beat) >= eventsBeat { // an ID alone is no event, and says how far the reader is
			if beat = time.Now(); rd.write("id: %s\n\n", rd.mark) != nil {
				return
			}
		}
		if time.Since(asked) >= eventsAgain {
			if asked = time.Now(); !again() {
				return
			}
		}
		if !rd.rest(ctx, moved) {
			return
		}
	}
}

// rest waits for news; false: there will be none.
func (rd *reader) rest(ctx context.Context, moved <-chan struct{}) bool {
	select {
	case <-moved:
	case <-time.After(eventsLook):
		return true
	case <-ctx.Done():
		return false
	case <-rd.s.streams.ended:
		return false
	}
	select {
	case <-time.After(eventsPause): // the view follows the store, and a burst is told at once
		return true
	case <-ctx.Done():
		return false
	case <-rd.s.streams.ended:
		return false
	}
}

// round tells what is new in the log and in the views.
func (rd *reader) round(ctx context.Context) error {
	if rd.log {
		if err := rd.tellLog(ctx); err != nil {
			return err
		}
	}
	if !rd.nodes {
		return nil
	}
	ids := []tailnet.ID{rd.tailnet}
	if rd.tailnet == 0 {
		revisions, err := rd.s.cfg.Store.Revisions(ctx)
		if err != nil {
			return err
		}
		ids = slices.Sorted(maps.Keys(revisions))
	}
	for _, id := range ids {
		v := rd.s.cfg.View(id)
		if v == nil || rd.views[id] == v {
			continue
		}
		if err := rd.tellView(ctx, id, v); err != nil {
			return err
		}
	}
	return nil
}

func (rd *reader) tellLog(ctx context.Context) error {
	for {
		entries, err := rd.s.cfg.Store.ListAudit(ctx, store.AuditFilter{TailnetID: rd.tailnet, After: rd.mark.audit, Limit: eventsRows})
		if err != nil || len(entries) == 0 {
			return err
		}
		n, err := rd.s.tailnetNames(ctx)
		if err != nil {
			return err
		}
		for i := range entries {
			rd.mark.audit = entries[i].ID
			if err := rd.tell("audit", n.auditEntry(&entries[i])); err != nil {
				return err
			}
		}
	}
}

// tellView tells who came online or went offline since the view before, or, for one who comes again, since the revision
// that they had.
func (rd *reader) tellView(ctx context.Context, id tailnet.ID, v *state.View) error {
	was, known := rd.views[id]
	from, resumed := rd.mark.revisions[id]
	rd.views[id] = v
	// A reader who goes away in the middle is told of this view once more.
	defer func() { rd.mark.revisions[id] = v.Rev }()
	if !known && (!resumed || from == v.Rev) {
		return nil
	}
	n, err := rd.s.tailnetNames(ctx)
	if err != nil {
		return err
	}
	n.users = v.Users
	if !known {
		return rd.tellSince(ctx, id, from, n)
	}
	tailnet.Compare(was.Nodes, v.Nodes, func(was, is *tailnet.Node) {
		if err != nil || is == nil || was == nil && !is.Online || was != nil && was.Online == is.Online {
			return
		}
		err = rd.tell(presence(is), n.node(is))
	})
	if err != nil {
		return err
	}
	before := map[tailnet.RelayID]*tailnet.Relay{}
	for _, r := range was.Relays {
		before[r.ID] = r
	}
	for _, r := range v.Relays {
		if b := before[r.ID]; b == nil && !r.Healthy || b != nil && b.Healthy == r.Healthy {
			continue
		}
		if err := rd.tell(relayState(r), relayEvent(n, r)); err != nil {
			return err
		}
	}
	return nil
}

// tellSince tells how those are now who changed after a revision. If that is too long ago to be known, it is told that
// the reader has to ask for everything.
func (rd *reader) tellSince(ctx context.Context, id tailnet.ID, from tailnet.Revision, n *names) error {
	d, err := rd.s.cfg.Store.Since(ctx, id, from)
	if err != nil {
		return err
	}
	if d.Full || d.Gone {
		return rd.write("event: reset\nid: %s\ndata: {\"tailnet\":%q}\n\n", rd.mark, n.tailnets[id])
	}
	for _, node := range d.Nodes {
		if err := rd.tell(presence(node), n.node(node)); err != nil {
			return err
		}
	}
	for _, r := range d.Relays {
		if err := rd.tell(relayState(r), relayEvent(n, r)); err != nil {
			return err
		}
	}
	return nil
}

func presence(n *tailnet.Node) string {
	if n.Online {
		return tailnet.EventNodeOnline
	}
	return tailnet.EventNodeOffline
}

func relayState(r *tailnet.Relay) string {
	if r.Healthy {
		return tailnet.EventRelayUp
	}
	return tailnet.EventRelayDown
}

// relayEvent is what events tell of a relay.
func relayEvent(n *names, r *tailnet.Relay) *headscalev1.Relay {
	return &headscalev1.Relay{
		Id: uint64(r.ID), Name: r.Name, RegionId: uint32(r.RegionID), Tailnet: n.tailnets[r.TailnetID], Online: r.Online,
		Healthy: r.Healthy, Draining: r.Draining, OutBecause: r.OutBecause,
	}
}

// tell writes one event.
func (rd *reader) tell(event string, m proto.Message) error {
	data, err := protojson.MarshalOptions{EmitUnpopulated: true}.Marshal(m)
	if err != nil {
		return status.Errorf(codes.Internal, "writing an event: %v", err)
	}
	return rd.write("event: %s\nid: %s\ndata: %s\n\n", event, rd.mark, data)
}

// write gives the reader some time to take it.
func (rd *reader) write(format string, args ...any) error {
	if err := rd.out.SetWriteDeadline(time.Now().Add(eventsWrite)); err != nil {
		return err
	}
	if _, err := fmt.Fprintf(rd.w, format, args...); err != nil {
		return err
	}
	return rd.out.Flush()
}
