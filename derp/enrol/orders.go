package enrol

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"go4.org/mem"
	"google.golang.org/protobuf/proto"
	"tailscale.com/types/key"

	"github.com/keelscale/keelscale/derp"
	relayv1 "github.com/keelscale/keelscale/proto/relay/v1"
)

// obey does what an order says.
func (a *Agent) obey(h Host, o *relayv1.Order) error {
	if no := o.GetRefusal(); no != nil {
		return &refusal{reason: no.GetReason(), removed: no.GetRemoved()}
	}
	if e := o.GetEnrolment(); e != nil {
		a.enrol(e)
	}
	if s := o.GetSettings(); s != nil {
		if err := a.settings(h, s); err != nil {
			return err
		}
	}
	if m := o.GetAdmission(); m != nil {
		return a.admission(h, m)
	}
	return nil
}

// errRemoved sends away those whose relay was removed.
var errRemoved = errors.New("this relay was removed from the control server")

// refused deals with a server's no. What it returns is to end with: it is of no use to try again.
func (a *Agent) refused(h Host, no *refusal) error {
	a.mu.Lock()
	enrolled, keyed := a.mu.state.Enrolment != nil, a.mu.keyed
	a.mu.showKey = !keyed && a.key.text != "" // it may know the key where it does not know the relay
	a.mu.Unlock()
	if !no.removed {
		if !enrolled {
			return no
		}
		a.complain(no)
		return nil
	}
	a.log.Error("this relay was removed from the control server: it forgets its enrolment and admits nobody", "reason", no.reason)
	a.mu.Lock()
	a.mu.state.Enrolment, a.mu.state.Settings = nil, nil
	a.mu.settings, a.mu.line.published = nil, nil
	a.mu.Unlock()
	a.roster.forget()
	for _, k := range h.Relay.Clients() {
		a.evict(h, k, errRemoved)
	}
	a.applyMesh(h, nil)
	if err := a.save(); err != nil {
		a.log.Error("the enrolment was not forgotten", "err", err)
	}
	if keyed || a.key.text == "" {
		return fmt.Errorf("%w: %s; to enrol it again, make a new key with headscale derp enroll-keys create", errRemoved, no.reason)
	}
	return nil // the key may be a new one
}

// enrol takes what the server knows us by.
func (a *Agent) enrol(e *relayv1.Enrolment) {
	now := &Enrolment{ID: e.GetId(), Name: e.GetName(), RegionID: e.GetRegionId(), RegionCode: e.GetRegionCode(), RegionName: e.GetRegionName()}
	a.mu.Lock()
	was, published := a.mu.state.Enrolment, a.mu.line.published
	out := a.mu.line.outBecause
	a.mu.state.Enrolment = now
	if a.mu.keyed {
		a.mu.state.KeyPrefix, a.mu.showKey = a.key.prefix, false
	}
	a.mu.line.published, a.mu.line.outBecause = e.GetPublished(), e.GetOutBecause()
	a.mu.Unlock()
	switch {
	case was == nil:
		a.store() // at once: the key may be for one use
	case *was != *now:
		a.roster.touch()
	}
	if _, up := a.roster.size(); !up { // it is said when the list is complete
		return
	}
	if was != nil && *was != *now {
		a.log.Info("the control server knows this relay as " + now.String())
	}
	if !slices.Equal(published, e.GetPublished()) || out != e.GetOutBecause() {
		a.log.Info(publishedText(e.GetPublished(), e.GetOutBecause()))
	}
}

// String is like "home-1 (region 901 home)".
func (e *Enrolment) String() string {
	return fmt.Sprintf("%s (region %d %s)", e.Name, e.RegionID, e.RegionCode)
}

func publishedText(at []string, out string) string {
	switch {
	case len(at) > 0 && out != "":
		return "published as " + strings.Join(at, ", ") + " (" + out + ")"
	case len(at) > 0:
		return "published as " + strings.Join(at, ", ")
	case out != "":
		return "not in the DERP map: " + out
	}
	return "not in the DERP map yet"
}

// admission takes a part of the list, and sends away those who are on it no more.
func (a *Agent) admission(h Host, m *relayv1.Admission) error {
	_, was := a.roster.size()
	c, err := a.roster.take(m, time.Now())
	if err != nil || !c.complete {
		return err
	}
	for _, k := range c.gone {
		a.evict(h, k, errUnlisted)
	}
	if c.classes {
		a.applyLimits()
	}
	if was {
		return nil
	}
	a.mu.Lock()
	e, published, out := a.mu.state.Enrolment, a.mu.line.published, a.mu.line.outBecause
	a.mu.line.trouble = ""
	a.mu.Unlock()
	if e == nil {
		return fmt.Errorf("%w: whom to admit, but not what we are called", errProtocol)
	}
	n, _ := a.roster.size()
	a.log.Info(fmt.Sprintf("enrolled as %s, %s, admits %s", e, publishedText(published, out), counted(n, "node")))
	return nil
}

// settings takes how the relay is to behave.
func (a *Agent) settings(h Host, s *relayv1.Settings) error {
	now := time.Now()
	used := s.GetUsedThisMonth()
	s.UsedThisMonth = 0 // it counts now, and not when the settings are read again
	raw, err := proto.Marshal(s)
	if err != nil {
		return fmt.Errorf("keeping the settings: %w", err)
	}
	a.mu.Lock()
	a.mu.settings, a.mu.state.Settings = s, raw
	a.noteSentLocked(used, now)
	a.mu.Unlock()
	a.roster.touch()
	a.applySettings(h)
	return nil
}

func (a *Agent) restoreSettings(raw []byte) error {
	if len(raw) == 0 {
		return nil
	}
	s := &relayv1.Settings{}
	if err := proto.Unmarshal(raw, s); err != nil {
		return fmt.Errorf("its settings are damaged: %w", err)
	}
	a.mu.settings = s
	a.roster.setOutage(a.outage(s))
	return nil
}

// applySettings makes the relay behave as the server wants, or wanted when it was last heard of.
func (a *Agent) applySettings(h Host) {
	a.mu.Lock()
	s := a.mu.settings
	a.mu.Unlock()
	a.roster.setOutage(a.outage(s))
	a.applyLimits()
	if s != nil {
		h.Relay.SetDraining(s.GetDrain())
	}
	a.applyMesh(h, s)
}

// SetLimits replaces the relay's own limits while it runs.
func (a *Agent) SetLimits(own derp.Limits) {
	a.mu.Lock()
	a.mu.own = own
	a.mu.Unlock()
	a.applyLimits()
}

// applyLimits bounds the relay by the stricter of its own limits and the server's.
func (a *Agent) applyLimits() {
	a.mu.Lock()
	relay, own, s, used := a.mu.relay, a.mu.own, a.mu.settings, a.usedLocked(time.Now())
	a.mu.Unlock()
	if relay == nil {
		return
	}
	own.UsedThisMonth = max(own.UsedThisMonth, used)
	relay.SetLimits(derp.Stricter(own, a.theirs(s)))
}

// theirs are the limits that the server sets.
func (a *Agent) theirs(s *relayv1.Settings) derp.Limits {
	l := derp.Limits{
		Total:                bound(s.GetTotal()),
		MonthlyQuota:         s.GetMonthlyQuota(),
		ConnectionsPerSecond: s.GetConnectionsPerSecond(),
	}
	classes := make([]derp.Bound, len(s.GetClasses()))
	for i, c := range s.GetClasses() {
		classes[i] = bound(c)
	}
	if len(classes) > 0 {
		l.Node = func(k key.NodePublic) derp.Bound {
			if c := a.roster.class(k); int(c) < len(classes) {
				return classes[c]
			}
			return classes[0]
		}
	}
	return l
}

func bound(b *relayv1.Bound) derp.Bound { return derp.Bound{Rate: b.GetRate(), Burst: b.GetBurst()} }

// applyMesh links the relay with the others of its region; settings of nil leave it alone.
func (a *Agent) applyMesh(h Host, s *relayv1.Settings) {
	var peers []derp.MeshPeer
	for _, p := range s.GetMesh() {
		if peer, ok := meshPeer(p); ok {
			peers = append(peers, peer)
		}
	}
	text := fmt.Sprint(s.GetMeshKey(), peers)
	a.mu.Lock()
	same := a.mu.mesh == text || a.mu.mesh == "" && s.GetMeshKey() == "" && len(peers) == 0
	a.mu.Unlock()
	if same {
		return
	}
	trouble := ""
	if err := h.Relay.SetMesh(s.GetMeshKey(), peers); err != nil {
		trouble, text = "the mesh with the other relays of the region cannot be set up: "+err.Error(), "tried"
		a.log.Warn(trouble)
	} else {
		a.log.Info("mesh with the other relays of the region", "relays", len(peers))
	}
	a.mu.Lock()
	a.mu.mesh, a.mu.meshErr = text, trouble
	a.mu.Unlock()
}

func meshPeer(p *relayv1.MeshPeer) (derp.MeshPeer, bool) {
	if len(p.GetDerpKey()) != keyLen {
		return derp.MeshPeer{}, false
	}
	peer := derp.MeshPeer{Key: key.NodePublicFromRaw32(mem.B(p.GetDerpKey())), Name: p.GetName(), Pin: p.GetPin()}
	for _, text := range p.GetAddresses() {
		if at, err := netip.ParseAddrPort(text); err == nil {
			peer.Addrs = append(peer.Addrs, at)
		}
	}
	return peer, len(peer.Addrs) > 0
}
