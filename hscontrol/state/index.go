package state

import (
	"github.com/keelscale/keelscale/hscontrol/tailnet"
)

// feedFor is the feed of a tailnet, made when it is first heard of.
func (s *State) feedFor(id tailnet.ID) *Feed {
	s.mu.Lock()
	defer s.mu.Unlock()
	f := s.feeds[id]
	if f == nil {
		f = newFeed(id)
		s.feeds[id] = f
	}
	return f
}

// locate keeps the index of node keys in step with a view that is about to be published. The nodes of both views are
// sorted by ID, so that one pass finds those that came, went or changed.
func (s *State) locate(id tailnet.ID, prev, next *View) {
	var old []*tailnet.Node
	if prev != nil {
		old = prev.Nodes
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	tailnet.Compare(old, next.Nodes, func(was, is *tailnet.Node) {
		if was != nil && s.nodes[was.NodeKey].node == was.ID {
			delete(s.nodes, was.NodeKey)
		}
		if is != nil {
			s.nodes[is.NodeKey] = located{tailnet: id, node: is.ID}
		}
	})
}

// dropGone ends the feeds of tailnets that the store no longer has, and says whether there were any.
func (s *State) dropGone(revisions map[tailnet.ID]tailnet.Revision) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	dropped := false
	for id, f := range s.feeds {
		if _, ok := revisions[id]; ok {
			continue
		}
		if e := f.Load(); e != nil {
			for _, n := range e.Nodes {
				if s.nodes[n.NodeKey].node == n.ID {
					delete(s.nodes, n.NodeKey)
				}
			}
		}
		f.end(s.now())
		delete(s.feeds, id)
		delete(s.problems, id)
		delete(s.relayless, id)
		delete(s.follow.policies, id)
		delete(s.follow.expiry, id)
		delete(s.follow.rests, id)
		dropped = true
	}
	return dropped
}
