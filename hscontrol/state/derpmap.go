package state

import (
	"maps"
	"slices"
	"strings"

	"tailscale.com/tailcfg"

	"github.com/keelscale/keelscale/derp/derpmap"
	"github.com/keelscale/keelscale/hscontrol/policy"
)

// PolicyDERPMap reads the derpMap of a policy; nil for none. The error is a *policy.Refusal.
func PolicyDERPMap(p *policy.Policy) (*tailcfg.DERPMap, error) {
	text, line := p.DERPMap()
	if text == "" {
		return nil, nil
	}
	m, err := derpmap.Parse([]byte(text))
	if err != nil {
		return nil, &policy.Refusal{Line: line, Place: "derpMap", What: err.Error(), Remedy: "write it as Tailscale does: Regions by number, each with Nodes that have a HostName"}
	}
	return m, nil
}

// putDERPMap puts the derpMap of the policy over the server's own map: its regions take the place of those with the same
// number, null removes one, and with OmitDefaultRegions and a region of its own none of the server's is left.
func (v *View) putDERPMap(prev *View) {
	text, _ := v.Policy.Policy().DERPMap()
	if text == "" {
		return
	}
	if prev != nil && prev.served == v.served && prev.Policy.Policy() == v.Policy.Policy() {
		v.DERPMap, v.Pinless = prev.DERPMap, prev.Pinless
		return
	}
	own, err := PolicyDERPMap(v.Policy.Policy())
	if err != nil {
		panic("a policy in force has a DERP map that is not understood: " + err.Error()) // see usable
	}
	base := v.served
	if own.OmitDefaultRegions && slices.ContainsFunc(slices.Collect(maps.Values(own.Regions)), func(r *tailcfg.DERPRegion) bool { return r != nil }) {
		base = nil
	}
	v.DERPMap = derpmap.Merge(base, own)
	v.Pinless = withoutPins(v.DERPMap)
}

// pinPrefix begins a certificate name that is a hash (tailcfg.DERPNode.CertName).
const pinPrefix = "sha256-raw:"

// withoutPins is m for clients before v1.84, which take a pin for a host name and refuse the relay: they are told not
// to look at its certificate. What they send through it is encrypted from end to end all the same. m itself is given
// back if it has no pins.
func withoutPins(m *tailcfg.DERPMap) *tailcfg.DERPMap {
	if m == nil || !hasPins(m) {
		return m
	}
	m = m.Clone()
	for _, region := range m.Regions {
		if region == nil {
			continue
		}
		for _, n := range region.Nodes {
			if strings.HasPrefix(n.CertName, pinPrefix) {
				n.CertName, n.InsecureForTests = "", true
			}
		}
	}
	return m
}

func hasPins(m *tailcfg.DERPMap) bool {
	for _, region := range m.Regions {
		if region == nil {
			continue
		}
		for _, n := range region.Nodes {
			if strings.HasPrefix(n.CertName, pinPrefix) {
				return true
			}
		}
	}
	return false
}
