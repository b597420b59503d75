package api

import (
	"sync"
	"sync/atomic"
	"time"

	headscalev1 "github.com/keelscale/keelscale/proto/headscale/v1"

	"github.com/keelscale/keelscale/hscontrol/tailnet"
)

// User interfaces and exporters ask for the same nodes every few seconds, of which hardly any changed. So the message of
// a node is kept, and its JSON, for as long as nothing that they show changed.

// Bounds of what is kept.
const (
	maxShown = 10_000
	shownFor = 10 * time.Minute // then all is forgotten, for the sake of nodes that went
)

// shown keeps the messages of nodes. The zero shown is ready.
type shown struct {
	mu    sync.RWMutex
	nodes map[tailnet.NodeID]*shownNode
	begun time.Time
}

// shownNode is a message, what it was made of, and what became of it.
type shownNode struct {
	of      shownOf
	message *headscalev1.Node
	json    atomic.Pointer[string] // as today's clients get it; nil: not written yet
}

// shownOf is all that the message of a node shows. The nouns are not changed any more, so pointers tell; the clock
// changes the rest.
type shownOf struct {
	node    *tailnet.Node
	user    *tailnet.User
	key     *tailnet.PreAuthKey
	tailnet string
	expired bool
	seen    time.Time // which moves by itself while a node is here; zero: never
}

// find is the message that was made of the same, or nil.
func (s *shown) find(of shownOf) *headscalev1.Node {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if one := s.nodes[of.node.ID]; one != nil && one.of == of {
		return one.message
	}
	return nil
}

// keep remembers a message, which nobody changes from now on.
func (s *shown) keep(of shownOf, m *headscalev1.Node, now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.nodes == nil || now.Sub(s.begun) > shownFor || now.Before(s.begun) {
		s.nodes, s.begun = map[tailnet.NodeID]*shownNode{}, now
	}
	if len(s.nodes) < maxShown || s.nodes[of.node.ID] != nil {
		s.nodes[of.node.ID] = &shownNode{of: of, message: m}
	}
}

// of is what is kept of a message, or nil.
func (s *shown) of(m *headscalev1.Node) *shownNode {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if one := s.nodes[tailnet.NodeID(m.GetId())]; one != nil && one.message == m {
		return one
	}
	return nil
}
