package control

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"sync/atomic"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/keelscale/keelscale/hscontrol/tailnet"
	relayv1 "github.com/keelscale/keelscale/proto/relay/v1"
)

// Times of a session with a relay.
const (
	relaySilence = 15 * time.Second // a relay that says nothing for so long is gone
	relaySign    = 2 * time.Second  // and it is told something at least so often
	relayPause   = 50 * time.Millisecond
	relayRecord  = 10 * time.Second // how often its load is written down
	relayAppears = 10 * time.Second // how long the follower may take to publish a new relay
)

// relaySession is the stream of one relay. It keeps what it last told it, and tells it the difference when there is
// something newer; like a poll it queues nothing.
type relaySession struct {
	control *Control
	log     *slog.Logger
	w       http.ResponseWriter
	rc      *http.ResponseController
	body    io.Reader
	from    netip.Addr // as the server sees the relay; zero where that is not known

	relay    *tailnet.Relay // as it was when it came
	id       string
	replaced chan struct{} // closed when the same relay comes anew
	quiet    *time.Timer   // fires when a sign of life is due

	// What the relay was told.
	sent      admission
	number    uint64
	enrolment *relayv1.Enrolment
	settings  *relayv1.Settings

	// What it said.
	load     *tailnet.RelayLoad       // that is not written down yet
	recorded time.Time                // when one last was
	deaf     atomic.Bool              // its STUN does not answer
	appeared bool                     // a view had it
	said     tailnet.RelayDescription // as the last view had it
	since    time.Time
}

func newRelaySession(c *Control, w http.ResponseWriter, r *http.Request) *relaySession {
	s := &relaySession{control: c, w: w, rc: http.NewResponseController(w), body: r.Body, from: cameFrom(r.Context()), since: c.Now()}
	s.log = c.Log.With("from", s.from)
	return s
}

// readReport reads the next report, which must come in time.
func (s *relaySession) readReport() (*relayv1.Report, error) {
	s.rc.SetReadDeadline(time.Now().Add(relaySilence))
	return readReport(s.body)
}

// refuse tells the relay why it is not served.
func (s *relaySession) refuse(err error) {
	var why *refusal
	if !errors.As(err, &why) {
		why = &refusal{reason: "the server cannot serve relays now; try again"}
	}
	s.log.Warn("relay refused", "why", why.reason)
	if why.later {
		http.Error(s.w, why.reason, http.StatusServiceUnavailable)
		return
	}
	s.send(&relayv1.Order{Refusal: &relayv1.Refusal{Reason: why.reason, Removed: why.removed}})
}

// run serves the relay and says why it ended.
func (s *relaySession) run(ctx context.Context, first *relayv1.Report) string {
	reports, ended := make(chan *relayv1.Report), make(chan struct{})
	silent := make(chan error, 1)
	go func() { silent <- s.listen(reports, ended) }()
	defer func() { // the reader ends with its deadline, and is waited for
		close(ended)
		s.rc.SetReadDeadline(time.Now())
		<-silent
		s.recordLoad()
	}()
	s.quiet = time.NewTimer(relaySign)
	defer s.quiet.Stop()
	s.hear(ctx, &relayv1.Report{Load: first.Load, Leaving: first.Leaving})
	pause := time.NewTimer(0)
	defer pause.Stop()
	for {
		round, state := s.control.State.Round(), s.control.State
		rules, changed := s.control.RelayRules()
		orders, err := s.news(ctx, admissionOf(state, s.relay.TailnetID, rules))
		if err != nil {
			s.refuse(err)
			return err.Error()
		}
		for _, o := range orders {
			if !s.send(o) {
				return "it does not listen"
			}
		}
		pause.Reset(relayPause)
		paused := true
		for woken := false; paused || !woken; {
			select {
			case <-pause.C:
				paused = false
			case <-round:
				woken, round = true, nil
			case <-changed:
				woken, changed = true, nil
			case r := <-reports:
				if err := s.hear(ctx, r); err != nil {
					s.refuse(err)
					return err.Error()
				}
			case <-s.quiet.C:
				if !s.send(&relayv1.Order{}) {
					return "it does not listen"
				}
			case err := <-silent:
				silent <- err
				return sentenceOf(err)
			case <-s.replaced:
				return "it came anew"
			case <-ctx.Done():
				return "it hung up"
			case <-s.control.life.Done():
				return "the server stops"
			}
		}
	}
}

func sentenceOf(err error) string {
	if net, ok := err.(net.Error); ok && net.Timeout() {
		return "it was silent"
	}
	return err.Error()
}

// listen reads reports until the relay is silent or the session ends.
func (s *relaySession) listen(reports chan<- *relayv1.Report, ended <-chan struct{}) error {
	for {
		r, err := s.readReport()
		if err != nil {
			return err
		}
		select {
		case reports <- r:
		case <-ended:
			return nil
		}
	}
}

// hear takes a report.
func (s *relaySession) hear(ctx context.Context, r *relayv1.Report) error {
	if r.Description != nil {
		d, err := readDescription(r.Description)
		if err != nil {
			return &refusal{reason: err.Error()}
		}
		d.Version, d.DERPKey, d.SeenFrom = s.relay.Version, s.relay.DERPKey, s.from
		d.Published = publish(&d)
		if _, err := s.control.Store.DescribeRelay(ctx, s.relay.ID, d); err != nil {
			return s.control.refusal(ctx, err)
		}
	}
	if r.Leaving && s.control.relayStops(s) {
		s.log.Info("relay stops")
	}
	if r.Load != nil {
		s.load = readLoad(r.Load)
		if s.control.Now().Sub(s.recorded) >= relayRecord {
			s.recordLoad()
		}
	}
	return nil
}

// recordLoad writes down the load, and what was carried since it was last written.
func (s *relaySession) recordLoad() {
	if s.load == nil {
		return
	}
	load := s.load
	load.RelayID, load.SeenAt = s.relay.ID, s.control.Now()
	if s.deaf.Load() {
		load.Troubles = append(load.Troubles, fmt.Sprintf("its STUN port %d (UDP) does not answer this server", s.said.STUNPort))
	}
	s.load, s.recorded = nil, load.SeenAt
	s.record("writing down the load of a relay", func(ctx context.Context) error { return s.control.Store.NoteRelayLoad(ctx, *load) })
}

// record writes something that the session does not depend on, also when it has just ended.
func (s *relaySession) record(what string, write func(context.Context) error) {
	ctx, cancel := context.WithTimeout(context.Background(), recordTime)
	defer cancel()
	if err := write(ctx); err != nil && !errors.Is(err, tailnet.ErrNotFound) && !errors.Is(err, tailnet.ErrRelayRemoved) {
		s.log.Error(what, "err", err)
	}
}

// news are the orders that make of what the relay was told what it is to know now.
func (s *relaySession) news(ctx context.Context, now admission) ([]*relayv1.Order, error) {
	if now.rules.Off {
		return nil, &refusal{reason: "this server takes no relays any more: derp.relays.enabled is off in its configuration"}
	}
	relay, region := currentRelay(now.views, s.relay.ID)
	switch {
	case relay != nil:
		s.appeared = true
	case s.appeared, s.control.Now().Sub(s.since) > relayAppears:
		if _, err := s.control.Store.FindRelay(ctx, s.relay.MachineKey); err != nil {
			return nil, s.control.refusal(ctx, err)
		}
		fallthrough
	default:
		return nil, nil // not published yet
	}
	if !relay.RelayDescription.Equal(s.said) {
		s.said = relay.RelayDescription
		s.control.probeNow()
	}
	head := &relayv1.Order{}
	if e := enrolmentOf(relay, region, s.clashes(region)); !proto.Equal(e, s.enrolment) {
		head.Enrolment, s.enrolment = e, e
	}
	if set := s.settingsOf(relay, region, now); !proto.Equal(set, s.settings) {
		s.settings = set
		head.Settings = proto.CloneOf(set)
		head.Settings.UsedThisMonth = s.usedThisMonth(ctx)
	}
	whole := s.sent.rules == nil
	nodes, gone := now.since(s.sent)
	s.sent = now
	orders := []*relayv1.Order{head}
	if whole || len(nodes)+len(gone) > 0 {
		s.number = max(s.number+1, uint64(s.control.Now().UnixMicro()))
	}
	for i, a := range chunks(s.number, whole, nodes, gone) {
		if i > 0 {
			orders = append(orders, &relayv1.Order{})
		}
		orders[i].Admission = a
	}
	if proto.Size(head) == 0 {
		return nil, nil
	}
	return orders, nil
}

// clashes reports whether a region of the server's own map has the number of region.
func (s *relaySession) clashes(region *tailnet.RelayRegion) bool {
	m := s.control.State.DERPMap()
	return region != nil && m != nil && m.Regions[int(region.ID)] != nil
}

// enrolmentOf is what the relay is known by.
func enrolmentOf(r *tailnet.Relay, region *tailnet.RelayRegion, clashes bool) *relayv1.Enrolment {
	e := &relayv1.Enrolment{Id: uint64(r.ID), Name: r.Name, RegionId: uint32(r.RegionID)}
	if region != nil {
		e.RegionCode, e.RegionName = region.Code, region.Name
	}
	switch {
	case r.Draining:
		e.OutBecause = "it is being drained (headscale derp drain)"
	case !r.Healthy:
		e.OutBecause = r.OutBecause
	case clashes:
		e.OutBecause = "a region of the server's own DERP map has the same number, " + strconv.Itoa(int(r.RegionID))
	default:
		e.Published = clientAddrs(r)
	}
	return e
}

// clientAddrs is where clients find a relay, host:port.
func clientAddrs(r *tailnet.Relay) (out []string) {
	port := strconv.Itoa(int(r.DERPPort))
	for _, a := range r.Published {
		out = append(out, net.JoinHostPort(a.String(), port))
	}
	if len(out) == 0 && r.Hostname != "" {
		out = append(out, net.JoinHostPort(r.Hostname, port))
	}
	return out
}

// settingsOf is how the relay is to behave, without what it has used this month.
func (s *relaySession) settingsOf(r *tailnet.Relay, region *tailnet.RelayRegion, now admission) *relayv1.Settings {
	set := now.rules.settings()
	set.Drain = r.Draining
	for _, peer := range relaysOf(now) {
		if peer.ID != r.ID && peer.RegionID == r.RegionID {
			set.Mesh = append(set.Mesh, meshPeer(peer))
		}
	}
	if len(set.Mesh) > 0 && region != nil {
		set.MeshKey = region.MeshKey.Reveal()
	}
	return set
}

// relaysOf are all relays of the views, by ID.
func relaysOf(a admission) (out []*tailnet.Relay) {
	for _, v := range a.views {
		for _, r := range v.Relays {
			if !slices.ContainsFunc(out, func(o *tailnet.Relay) bool { return o.ID == r.ID }) {
				out = append(out, r)
			}
		}
	}
	slices.SortFunc(out, func(a, b *tailnet.Relay) int { return int(a.ID) - int(b.ID) })
	return out
}

// meshPeer is how another relay of the region finds r: where clients do, or at the machine's own addresses.
func meshPeer(r *tailnet.Relay) *relayv1.MeshPeer {
	p := &relayv1.MeshPeer{Id: uint64(r.ID), DerpKey: r.DERPKey.AppendTo(nil), Name: r.Hostname}
	if len(r.Certificates) > 0 {
		p.Pin = r.Certificates[0].Pin
		if name := r.Certificates[0].Name; name != "" {
			p.Name = name
		}
	}
	var addrs []netip.Addr
	for _, a := range slices.Concat(r.Published, []netip.Addr{r.SeenFrom}, r.Addresses) {
		if a.IsValid() && !slices.Contains(addrs, a) {
			addrs = append(addrs, a)
			p.Addresses = append(p.Addresses, netip.AddrPortFrom(a, r.DERPPort).String())
		}
	}
	return p
}

// usedThisMonth is what the relay has sent in this month.
func (s *relaySession) usedThisMonth(ctx context.Context) uint64 {
	s.recordLoad()
	traffic, err := s.control.Store.RelayTraffic(ctx)
	if err != nil && ctx.Err() == nil {
		s.log.Error("reading what a relay has carried", "err", err)
	}
	return traffic[s.relay.ID].Month.Sent
}

// send writes one order at once, and says whether the relay is still there.
func (s *relaySession) send(o *relayv1.Order) bool {
	frame, err := orderFrame(o)
	if err != nil {
		s.log.Error("telling a relay", "err", err)
		return false
	}
	s.rc.SetWriteDeadline(time.Now().Add(relaySilence))
	if _, err := s.w.Write(frame); err != nil {
		return false
	}
	if err := s.rc.Flush(); err != nil {
		return false
	}
	if s.quiet != nil {
		s.quiet.Reset(relaySign)
	}
	return true
}
