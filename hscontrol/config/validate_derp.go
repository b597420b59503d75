package config

import (
	"maps"
	"slices"
	"strings"
	"time"
)

// leastRate is the least that a node can do anything with, in bytes per second.
const leastRate = 10_000

func (v *validator) derpLimits() {
	l := &v.cfg.DERP.Limits
	v.bound("derp.limits.per_node", "", l.PerNode)
	v.bound("derp.limits.total", "", l.Total)
	for _, tag := range slices.Sorted(maps.Keys(l.PerTag)) {
		v.bound("derp.limits.per_tag", tag+": ", l.PerTag[tag])
		if !strings.HasPrefix(tag, "tag:") || tag == "tag:" {
			v.problem("derp.limits.per_tag", "%q is no tag; write tag:%s", tag, strings.TrimPrefix(tag, "tag:"))
		}
	}
	if l.ConnectionsPerSecond < 0 {
		v.problem("derp.limits.connections_per_second", "%d does not do; 0 sets no bound", l.ConnectionsPerSecond)
	}
}

func (v *validator) bound(path, of string, b Bound) {
	if b.Rate > 0 && b.Rate < leastRate {
		v.problem(path, "%s%d bytes per second is less than anybody can use; did you mean %dMB?", of, b.Rate, b.Rate)
	}
}

func (v *validator) derpRelays() {
	r := &v.cfg.DERP.Relays
	if r.Outage < time.Minute && !v.bad["derp.relays.outage"] {
		v.problem("derp.relays.outage", "%v is shorter than a restart of this server, and relays would turn everybody away; write 7d", r.Outage)
	}
	if r.ProbeInterval != 0 && r.ProbeInterval < time.Second {
		v.problem("derp.relays.probe_interval", "%v is too often; write 5s, or 0 to probe never", r.ProbeInterval)
	}
	if r.ProbeInterval > 10*time.Second {
		v.warn("derp.relays.probe_interval", "%v: nodes notice themselves that a relay is away, but go on choosing it for about three times so long", r.ProbeInterval)
	}
	if r.ProbeTimeout <= 0 || r.ProbeTimeout > time.Minute {
		v.problem("derp.relays.probe_timeout", "%v does not do; write 3s", r.ProbeTimeout)
	}
}
