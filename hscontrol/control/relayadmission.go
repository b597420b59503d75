package control

import (
	"slices"

	"tailscale.com/types/key"

	"github.com/keelscale/keelscale/hscontrol/state"
	"github.com/keelscale/keelscale/hscontrol/tailnet"
	relayv1 "github.com/keelscale/keelscale/proto/relay/v1"
)

// admission is whom a relay may serve: the nodes of these views whose keys have not expired, with their class by these
// rules. A session keeps the one that it sent last, and compares.
type admission struct {
	views []*state.View // by tailnet ID
	rules *RelayRules
	tags  []string // of rules
}

// admissionOf is the newest one for the relays of a tailnet; zero: of all tailnets.
func admissionOf(s *state.State, id tailnet.ID, rules *RelayRules) admission {
	a := admission{rules: rules, tags: rules.tags()}
	if id == 0 {
		a.views = s.Views()
	} else if v := s.View(id); v != nil {
		a.views = []*state.View{v}
	}
	return a
}

// Admitted reports whether a node may use relays: its key is in force, and it is not cut off.
func Admitted(n *tailnet.Node) bool {
	return n != nil && !n.Lapsed && !n.Barred && !n.NodeKey.IsZero()
}

// since is what changed from one admission to a later one: nodes to serve, which are new or of another class, and keys
// of those that are gone. No key is in both.
func (a admission) since(was admission) (nodes []*relayv1.Node, gone [][]byte) {
	come, left := map[key.NodePublic]uint32{}, map[key.NodePublic]bool{}
	ids := union(was.views, a.views)
	for _, id := range ids {
		old, now := nodesOf(was.views, id), nodesOf(a.views, id)
		tailnet.Compare(old, now, func(was1, is *tailnet.Node) {
			if Admitted(was1) {
				left[was1.NodeKey] = true
			}
			if Admitted(is) {
				come[is.NodeKey] = a.rules.classOf(is, a.tags)
			}
			if Admitted(was1) && Admitted(is) && was1.NodeKey == is.NodeKey && was.rules.classOf(was1, was.tags) == come[is.NodeKey] {
				delete(come, is.NodeKey)
				delete(left, is.NodeKey)
			}
		})
		if was.rules != a.rules && was.rules != nil {
			for _, n := range now {
				if class := a.rules.classOf(n, a.tags); Admitted(n) && class != was.rules.classOf(n, was.tags) {
					come[n.NodeKey] = class
				}
			}
		}
	}
	for k := range come {
		delete(left, k)
	}
	if len(ids) > 1 && len(left) > 0 {
		a.keep(left)
	}
	for k, class := range come {
		nodes = append(nodes, &relayv1.Node{Key: k.AppendTo(nil), Class: class})
	}
	for k := range left {
		gone = append(gone, k.AppendTo(nil))
	}
	return nodes, gone
}

// keep takes those out of left that another node has: a key may have moved to another tailnet, whose view came first.
func (a admission) keep(left map[key.NodePublic]bool) {
	for _, v := range a.views {
		for _, n := range v.Nodes {
			if left[n.NodeKey] && Admitted(n) {
				delete(left, n.NodeKey)
			}
		}
	}
}

func union(a, b []*state.View) (ids []tailnet.ID) {
	for _, v := range slices.Concat(a, b) {
		if !slices.Contains(ids, v.Tailnet.ID) {
			ids = append(ids, v.Tailnet.ID)
		}
	}
	return ids
}

func nodesOf(views []*state.View, id tailnet.ID) []*tailnet.Node {
	for _, v := range views {
		if v.Tailnet.ID == id {
			return v.Nodes
		}
	}
	return nil
}

// admissionChunk is how many nodes or keys go into one message.
const admissionChunk = 8192

// chunks are the messages of one admission, at least one if it is whole.
func chunks(number uint64, whole bool, nodes []*relayv1.Node, gone [][]byte) (out []*relayv1.Admission) {
	for first := true; len(nodes)+len(gone) > 0 || first && whole; first = false {
		a := &relayv1.Admission{Number: number, Whole: whole && first}
		n, g := min(len(nodes), admissionChunk), min(len(gone), admissionChunk)
		a.Nodes, nodes = nodes[:n], nodes[n:]
		a.Gone, gone = gone[:g], gone[g:]
		a.Partial = len(nodes)+len(gone) > 0
		out = append(out, a)
	}
	return out
}
