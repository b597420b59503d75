package control

import (
	"maps"
	"slices"
	"time"

	"github.com/keelscale/keelscale/hscontrol/tailnet"
	relayv1 "github.com/keelscale/keelscale/proto/relay/v1"
)

// RelayRules are what the configuration says of relays. They are immutable; SetRelayRules replaces them.
type RelayRules struct {
	// Off turns relays away that enrol, and those that did.
	Off bool

	PerNode              RelayBound            // of what one node sends
	PerTag               map[string]RelayBound // in its place for nodes with a tag
	Total                RelayBound            // of all nodes of one relay
	MonthlyQuota         uint64                // bytes sent in a calendar month (UTC); 0: none
	ConnectionsPerSecond float64               // 0: no bound

	// Outage is how long a relay serves the nodes it knows without a control server; 0 leaves it to the relay.
	Outage time.Duration

	// ProbeEvery is how often each relay is asked whether it answers, and ProbeTime how long it may take. ProbeEvery 0
	// asks nobody, and believes relays that are connected.
	ProbeEvery, ProbeTime time.Duration
}

// RelayBound is a token bucket in bytes per second and bytes. Zero is no bound.
type RelayBound struct{ Rate, Burst uint64 }

// wider reports whether b lets more through than o.
func (b RelayBound) wider(o RelayBound) bool {
	switch {
	case o.Rate == 0:
		return false
	case b.Rate == 0 || b.Rate > o.Rate:
		return true
	}
	return b.Rate == o.Rate && b.Burst > o.Burst
}

// tags are those that have a bound, in the order of the classes that they make: class 0 is for nodes without one.
func (r *RelayRules) tags() []string { return slices.Sorted(maps.Keys(r.PerTag)) }

// classOf is the class of a node, by the widest bound of its tags. tags are r.tags().
func (r *RelayRules) classOf(n *tailnet.Node, tags []string) uint32 {
	class, best := uint32(0), RelayBound{}
	for i, tag := range tags {
		if !n.HasTag(tag) {
			continue
		}
		if b := r.PerTag[tag]; class == 0 || b.wider(best) {
			class, best = uint32(i+1), b
		}
	}
	return class
}

// BoundOf is the bound on what a node sends.
func (r *RelayRules) BoundOf(n *tailnet.Node) RelayBound {
	tags := r.tags()
	if class := r.classOf(n, tags); class > 0 {
		return r.PerTag[tags[class-1]]
	}
	return r.PerNode
}

// settings are the rules as a relay is told them.
func (r *RelayRules) settings() *relayv1.Settings {
	classes := []*relayv1.Bound{r.PerNode.proto()}
	for _, tag := range r.tags() {
		classes = append(classes, r.PerTag[tag].proto())
	}
	return &relayv1.Settings{
		Classes: classes, Total: r.Total.proto(), MonthlyQuota: r.MonthlyQuota,
		ConnectionsPerSecond: r.ConnectionsPerSecond, OutageSeconds: uint32(r.Outage / time.Second),
	}
}

func (b RelayBound) proto() *relayv1.Bound { return &relayv1.Bound{Rate: b.Rate, Burst: b.Burst} }
