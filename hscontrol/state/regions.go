package state

import (
	"reflect"
	"slices"

	"tailscale.com/tailcfg"

	"github.com/keelscale/keelscale/hscontrol/policy"
	"github.com/keelscale/keelscale/hscontrol/tailnet"
)

// chosenMaps are what a selection of the policy keeps of a DERP map, for the two kinds of clients.
type chosenMaps struct{ whole, pinless *tailcfg.DERPMap }

// DERPMapOf is the DERP map that a node is told: what the policy's derpMap.rules leave of it. Nodes with the same rules
// get the same pointer, and the next view gives it again while it holds the same.
func (v *View) DERPMapOf(id tailnet.NodeID) *tailcfg.DERPMap {
	s := v.Policy.Selection(id)
	if s == nil {
		return v.DERPMap
	}
	return v.chosenBy(s).whole
}

// PinlessOf is DERPMapOf for clients that know no pins; see withoutPins.
func (v *View) PinlessOf(id tailnet.NodeID) *tailcfg.DERPMap {
	s := v.Policy.Selection(id)
	if s == nil {
		return v.Pinless
	}
	return v.chosenBy(s).pinless
}

func (v *View) chosenBy(s *policy.Selection) chosenMaps {
	if c, ok := v.chosen[s.Key()]; ok {
		return c
	}
	c := chosenMaps{whole: s.Of(v.DERPMap)}
	if c.pinless = c.whole; v.Pinless != v.DERPMap {
		c.pinless = s.Of(v.Pinless)
	}
	return c
}

// ChooseRegions makes the maps of those for whom the policy chooses regions, when all else of the view is there, and
// gives prev's maps where they are the same. Prev may be nil.
func (v *View) ChooseRegions(prev *View) {
	if prev != nil && prev.DERPMap != v.DERPMap && reflect.DeepEqual(prev.DERPMap, v.DERPMap) {
		v.DERPMap, v.Pinless = prev.DERPMap, prev.Pinless
	}
	if prev != nil && prev.Policy == v.Policy && prev.DERPMap == v.DERPMap {
		v.chosen = prev.chosen
		return
	}
	v.chosen = nil
	chosen := map[string]chosenMaps{}
	for _, s := range v.Policy.Selections() {
		c := v.chosenBy(s.Selection)
		if prev != nil {
			if was, ok := prev.chosen[s.Key()]; ok && reflect.DeepEqual(was.whole, c.whole) {
				c = was
			}
		}
		chosen[s.Key()] = c
	}
	v.chosen = chosen
}

// tellOfRegions warns of regions that the policy names and that are not there, and keeps as a problem that some nodes
// are left with none.
func (s *State) tellOfRegions(next, prev *View) {
	id := next.Tailnet.ID
	if prev == nil || prev.Policy.Policy() != next.Policy.Policy() {
		s.logWarnings(next.Tailnet.Name, next.Policy.Policy().StrayRegions(next.DERPMap))
	}
	if prev != nil && prev.Policy == next.Policy && prev.DERPMap == next.DERPMap {
		return
	}
	text := ""
	if r := next.Policy.LeavesWithout(next.DERPMap, next.Snapshot, nil); r != nil {
		text = "the policy leaves nodes without a relay: " + r.Error()
	}
	s.mu.Lock()
	was := s.relayless[id]
	if s.relayless[id] = text; text == "" {
		delete(s.relayless, id)
	}
	s.mu.Unlock()
	if text != "" && text != was {
		s.log.Error("some nodes have no relay", "tailnet", next.Tailnet.Name, "err", text)
	}
}

// checkRegions holds the rules of a policy that may come against the relays that there are. It is refused if it takes
// the last relay from some node; of nodes that have none as it is, it is only told.
func (v *View) checkRegions(compiled *policy.Compiled) (warnings []string, err error) {
	would := *v
	would.Policy = compiled
	would.DERPMap, would.Pinless = v.served, v.servedPinless
	would.putDERPMap(nil)
	hasNone := func(id tailnet.NodeID) bool {
		m := v.DERPMapOf(id)
		return m != nil && len(m.Regions) == 0
	}
	if r := compiled.LeavesWithout(would.DERPMap, v.Snapshot, hasNone); r != nil {
		return nil, r
	}
	warnings = slices.Concat(compiled.Warnings(), compiled.Policy().StrayRegions(would.DERPMap))
	if r := compiled.LeavesWithout(would.DERPMap, v.Snapshot, nil); r != nil {
		warnings = append(warnings, r.Error())
	}
	return warnings, nil
}
