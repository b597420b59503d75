package mapper

import (
	"bytes"
	"reflect"
	"slices"
	"time"

	"tailscale.com/tailcfg"
	"tailscale.com/types/opt"

	"github.com/keelscale/keelscale/hscontrol/state"
	"github.com/keelscale/keelscale/hscontrol/tailnet"
)

// Mapper makes messages and remembers what it encoded. The zero value is ready; one serves all tailnets.
type Mapper struct {
	records records
	blocks  blocks
	shared  sharedDeltas
}

// Full is everything that the viewer may know, at the given time; nil if it is not in the view.
func (m *Mapper) Full(v *state.View, viewer Viewer, at time.Time) *Message {
	n := v.Node(viewer.ID)
	if n == nil {
		return nil
	}
	msg := &Message{head: wholeHead(v, viewer, n, at), whole: true}
	owners := ownerSet{}
	msg.profiles = owners.add(msg.profiles, v, n)
	for block := range slices.Chunk(v.Nodes, blockSize) {
		s := span{shared: true}
		for _, p := range block {
			s.shared = s.shared && p != n
			if !v.Policy.Sees(n.ID, p.ID) {
				continue
			}
			msg.peers = append(msg.peers, m.records.of(v, p, see(v, n.ID, p.ID)))
			msg.profiles = owners.add(msg.profiles, v, p)
		}
		if s.end = len(msg.peers); len(msg.spans) == 0 || s.end > msg.spans[len(msg.spans)-1].end {
			msg.spans = append(msg.spans, s)
		}
	}
	return msg
}

func wholeHead(v *state.View, viewer Viewer, n *tailnet.Node, at time.Time) *head {
	at = at.UTC()
	h := &head{
		MapResponse: tailcfg.MapResponse{
			Node:        self(v, viewer, n),
			DERPMap:     derpMap(v, viewer),
			DNSConfig:   dnsFor(v, n),
			Domain:      domainName(v),
			SSHPolicy:   v.Policy.SSH(n.ID),
			ControlTime: &at,
			Debug:       &tailcfg.Debug{DisableLogTail: !v.Settings.Logtail},
		},
		CollectServices: opt.NewBool(false),
	}
	h.setFilter(viewer, v.Policy.Filter(n.ID))
	return h
}

// domainName is what clients show as the tailnet.
func domainName(v *state.View) string {
	if v.Domain != "" {
		return v.Domain
	}
	return v.Tailnet.Name
}

// setFilter puts the packet filter where this client reads it. An empty one is said as an empty list: it blocks all.
func (h *head) setFilter(viewer Viewer, rules []tailcfg.FilterRule) {
	if rules == nil {
		rules = []tailcfg.FilterRule{}
	}
	if viewer.Cap >= capPacketFilters {
		h.PacketFilters = map[string][]tailcfg.FilterRule{"base": rules}
	} else {
		h.PacketFilter = &rules
	}
}

// Diff is what the viewer must be told to get from one view to a later one of the same tailnet: nil or Empty when
// there is nothing. gone is true if the later view does not have the viewer.
func (m *Mapper) Diff(from, to *state.View, viewer Viewer, at time.Time) (msg *Message, gone bool) {
	is, was := to.Node(viewer.ID), from.Node(viewer.ID)
	if is == nil {
		return nil, true
	}
	if was == nil || from.Domain != to.Domain {
		return m.Full(to, viewer, at), false
	}
	msg, _ = m.peersDiff(from, to, viewer.ID)
	msg.head = headDiff(from, to, viewer, was, is)
	if msg.head != nil && from.Owner(was) != to.Owner(is) {
		msg.profiles = ownerSet{}.add(msg.profiles, to, is)
	}
	return msg, false
}

// headDiff is what changed of the viewer's own part, or nil.
func headDiff(from, to *state.View, viewer Viewer, was, is *tailnet.Node) *head {
	if was == is && from.Policy == to.Policy && from.DERPMap == to.DERPMap && from.DNS == to.DNS && from.Settings == to.Settings && from.Owner(was) == to.Owner(is) {
		return nil
	}
	h, changed := &head{}, false
	if selfChanged(from, to, viewer, was, is) {
		h.Node, changed = self(to, viewer, is), true
	}
	if from.DERPMap != to.DERPMap && !reflect.DeepEqual(from.DERPMap, to.DERPMap) {
		h.DERPMap, changed = derpMap(to, viewer), true
	}
	if from.DNS != to.DNS {
		h.DNSConfig, changed = dnsFor(to, is), true
	}
	if from.Settings.Logtail != to.Settings.Logtail {
		h.Debug, changed = &tailcfg.Debug{DisableLogTail: !to.Settings.Logtail}, true
	}
	if from.Policy != to.Policy {
		if rules := to.Policy.Filter(is.ID); !sameRules(from.Policy.Filter(was.ID), rules) {
			h.setFilter(viewer, rules)
			changed = true
		}
		if a, b := from.Policy.SSH(was.ID), to.Policy.SSH(is.ID); a != b && !reflect.DeepEqual(a, b) {
			if b == nil {
				b = &tailcfg.SSHPolicy{Rules: []*tailcfg.SSHRule{}} // nil would say "unchanged"
			}
			h.SSHPolicy, changed = b, true
		}
	}
	if !changed {
		return nil
	}
	return h
}

// selfChanged reports whether the viewer sees itself differently. The policy alone touches only its capabilities and
// addresses, so that a new policy does not make everybody encode themselves twice.
func selfChanged(from, to *state.View, viewer Viewer, was, is *tailnet.Node) bool {
	if from.Owner(was) != to.Owner(is) {
		return true
	}
	if was == is && from.Settings == to.Settings {
		return from.Policy != to.Policy &&
			(from.Policy.HidesIPv4(was.ID, was.ID) != to.Policy.HidesIPv4(is.ID, is.ID) ||
				!sameCaps(from.Policy.Caps(was.ID), to.Policy.Caps(is.ID)))
	}
	return !bytes.Equal(mustJSON(self(from, viewer, was)), mustJSON(self(to, viewer, is)))
}

// sameRules compares filters, by their place in memory first: viewers of a class share them.
func sameRules(a, b []tailcfg.FilterRule) bool {
	if len(a) != len(b) {
		return false
	}
	return len(a) == 0 || &a[0] == &b[0] || reflect.DeepEqual(a, b)
}

// peersDiff is what changed of the viewer's peers. resighted is whether it speaks of nodes that did not change
// themselves, but that the viewer sees differently under a new policy.
func (m *Mapper) peersDiff(from, to *state.View, viewer tailnet.NodeID) (msg *Message, resighted bool) {
	msg = &Message{}
	owners := ownerSet{}
	each := func(was, is *tailnet.Node) {
		seen := was != nil && from.Policy.Sees(viewer, was.ID)
		sees := is != nil && to.Policy.Sees(viewer, is.ID)
		switch {
		case !seen && !sees:
		case !sees:
			msg.removed = append(msg.removed, tailcfg.NodeID(was.ID))
		case !seen:
			msg.peers = append(msg.peers, m.records.of(to, is, see(to, viewer, is.ID)))
			msg.profiles = owners.add(msg.profiles, to, is)
		default:
			m.changed(msg, from, to, was, is, viewer)
			if was.UserID != is.UserID || was.IsTagged() != is.IsTagged() {
				msg.profiles = owners.add(msg.profiles, to, is)
			}
		}
	}
	tailnet.Compare(from.Nodes, to.Nodes, func(was, is *tailnet.Node) {
		if was != nil && was.ID == viewer || is != nil && is.ID == viewer {
			return
		}
		each(was, is)
	})
	if from.Policy != to.Policy {
		for _, n := range to.Nodes {
			if n.ID != viewer && from.Node(n.ID) == n && !sameSight(from, to, viewer, n.ID) {
				resighted = true
				each(n, n)
			}
		}
	}
	msg.profiles = append(msg.profiles, changedProfiles(from, to, viewer)...)
	return msg, resighted
}

// sameSight reports whether the viewer sees an unchanged node just as before.
func sameSight(from, to *state.View, viewer, peer tailnet.NodeID) bool {
	seen, sees := from.Policy.Sees(viewer, peer), to.Policy.Sees(viewer, peer)
	return seen == sees && (!sees || see(from, viewer, peer).equal(see(to, viewer, peer)))
}

// changed adds to msg how a peer that was and is visible became different: a patch where one can say it.
func (m *Mapper) changed(msg *Message, from, to *state.View, was, is *tailnet.Node, viewer tailnet.NodeID) {
	a, b := see(from, viewer, was.ID), see(to, viewer, is.ID)
	if a.equal(b) {
		change, same := patch(from, to, was, is, b)
		switch {
		case change == nil:
		case same:
			return
		default:
			msg.patches = append(msg.patches, change)
			return
		}
	}
	msg.peers = append(msg.peers, m.records.of(to, is, b))
}

// changedProfiles are those of users whose row changed and whose nodes the viewer sees.
func changedProfiles(from, to *state.View, viewer tailnet.NodeID) []tailcfg.UserProfile {
	var out []tailcfg.UserProfile
	for id, u := range to.Users {
		was := from.Users[id]
		if was == nil || was == u || was.LoginName() == u.LoginName() && was.Display() == u.Display() && was.ProfilePicURL == u.ProfilePicURL {
			continue
		}
		visible := slices.ContainsFunc(to.Nodes, func(n *tailnet.Node) bool {
			return n.UserID == id && (n.ID == viewer || to.Policy.Sees(viewer, n.ID))
		})
		if visible {
			out = append(out, u.Profile())
		}
	}
	slices.SortFunc(out, func(a, b tailcfg.UserProfile) int { return int(a.ID) - int(b.ID) })
	return out
}

// ownerSet remembers whose profiles a message already has.
type ownerSet map[tailnet.UserID]bool

// add appends the profile of n's owner, once.
func (s ownerSet) add(profiles []tailcfg.UserProfile, v *state.View, n *tailnet.Node) []tailcfg.UserProfile {
	id, profile := tailnet.TaggedDevices, tailnet.TaggedDevicesProfile()
	if !n.IsTagged() {
		u := v.Users[n.UserID]
		if u == nil {
			return profiles
		}
		id, profile = u.ID, u.Profile()
	}
	if s[id] {
		return profiles
	}
	s[id] = true
	return append(profiles, profile)
}
