package mapper

import (
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
	shared  shared
}

// Full is everything that the viewer may know, at the given time; nil if it is not in the view.
func (m *Mapper) Full(v *state.View, viewer Viewer, at time.Time) *Message {
	n := v.Node(viewer.ID)
	if n == nil {
		return nil
	}
	var own owners
	own.add(v, n)
	l := m.shared.lookOf(v, n.ID).as(m, v, n.ID)
	for _, p := range l.owners.profiles {
		if !own.has[p.id] {
			own.profiles = append(own.profiles, p)
		}
	}
	return &Message{head: wholeHead(v, viewer, n, at), whole: true, peers: l.without(n.ID), profiles: own.profiles}
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
	t := &told{items: m.items(from, to, viewer.ID)}
	return t.messageFor(from, to, viewer, headDiff(from, to, viewer, was, is)), false
}

// messageFor is what a viewer is told of others, and its own part, if it is not nil.
func (t *told) messageFor(from, to *state.View, viewer Viewer, h *head) *Message {
	skip, spokenOf := t.about(viewer.ID)
	if !spokenOf {
		skip = -1
	}
	msg := t.message(to, skip)
	msg.head = h
	was, is := from.Node(viewer.ID), to.Node(viewer.ID)
	if h != nil && from.Owner(was) != to.Owner(is) {
		o := owners{profiles: slices.Clone(msg.profiles)}
		o.add(to, is)
		msg.profiles = o.profiles
	}
	return msg
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
	if from.DERPMap != to.DERPMap || from.Policy != to.Policy {
		if a, b := derpMap(from, viewer), derpMap(to, viewer); a != b && !reflect.DeepEqual(a, b) {
			h.DERPMap, changed = b, true
		}
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
	return !self(from, viewer, was).Equal(self(to, viewer, is))
}

// sameRules compares filters, by their place in memory first: viewers of a class share them.
func sameRules(a, b []tailcfg.FilterRule) bool {
	if len(a) != len(b) {
		return false
	}
	return len(a) == 0 || &a[0] == &b[0] || reflect.DeepEqual(a, b)
}
