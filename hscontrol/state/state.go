package state

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"tailscale.com/tailcfg"
	"tailscale.com/types/key"

	"github.com/keelscale/keelscale/hscontrol/store"
	"github.com/keelscale/keelscale/hscontrol/tailnet"
)

// Config says what a State follows.
type Config struct {
	Store    *store.Store
	Settings *Settings
	DERPMap  *tailcfg.DERPMap
	Now      func() time.Time // nil: time.Now
	Log      *slog.Logger
}

// State holds the feeds of all tailnets. New fills them; Run keeps them up to date.
type State struct {
	store *store.Store
	now   func() time.Time
	log   *slog.Logger

	wake chan struct{} // something beside the store changed, or somebody waits; capacity 1

	published  atomic.Uint64 // views
	publishing atomic.Int64  // nanoseconds that it took

	// done is closed and replaced after each round in which any view was published.
	round struct {
		sync.Mutex
		done chan struct{}
	}

	mu       sync.RWMutex
	feeds    map[tailnet.ID]*Feed
	nodes    map[key.NodePublic]located
	settings *Settings
	derpMap  *tailcfg.DERPMap
	pinless  *tailcfg.DERPMap
	problems map[tailnet.ID]Problem
	// relayless says which nodes of a tailnet the policy leaves without a relay.
	relayless map[tailnet.ID]string

	// What only the follower touches.
	follow struct {
		policies map[tailnet.ID]compiledFrom
		expiry   map[tailnet.ID]time.Time // the next expiry of a key in each tailnet
		rests    map[tailnet.ID]time.Time // when each tailnet may have its next view
		busy     time.Time                // until when all sessions are, by our reckoning
	}
}

type located struct {
	tailnet tailnet.ID
	node    tailnet.NodeID
}

// New loads every tailnet and publishes its first view.
func New(ctx context.Context, cfg Config) (*State, error) {
	s := &State{
		store: cfg.Store, now: cfg.Now, log: cfg.Log,
		wake:     make(chan struct{}, 1),
		feeds:    map[tailnet.ID]*Feed{},
		nodes:    map[key.NodePublic]located{},
		settings: cfg.Settings, derpMap: cfg.DERPMap, pinless: withoutPins(cfg.DERPMap),
		problems: map[tailnet.ID]Problem{}, relayless: map[tailnet.ID]string{},
	}
	if s.now == nil {
		s.now = time.Now
	}
	s.round.done = make(chan struct{})
	s.follow.policies = map[tailnet.ID]compiledFrom{}
	s.follow.expiry = map[tailnet.ID]time.Time{}
	s.follow.rests = map[tailnet.ID]time.Time{}
	if _, err := s.catchUp(ctx); err != nil {
		return nil, fmt.Errorf("loading the tailnets: %w", err)
	}
	return s, nil
}

// Feed is the feed of a tailnet, or nil where there is no such tailnet.
func (s *State) Feed(id tailnet.ID) *Feed {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.feeds[id]
}

// View is the newest view of a tailnet, or nil where there is no such tailnet.
func (s *State) View(id tailnet.ID) *View {
	if f := s.Feed(id); f != nil {
		if e := f.Load(); e != nil {
			return e.View
		}
	}
	return nil
}

// Views are the newest views of all tailnets, in the order of their IDs.
func (s *State) Views() []*View {
	s.mu.RLock()
	ids := slices.Sorted(maps.Keys(s.feeds))
	s.mu.RUnlock()
	var out []*View
	for _, id := range ids {
		if v := s.View(id); v != nil {
			out = append(out, v)
		}
	}
	return out
}

// Published is how many views were published, and how long reading, compiling and publishing them took in all.
func (s *State) Published() (views uint64, took time.Duration) {
	return s.published.Load(), time.Duration(s.publishing.Load())
}

// Find is the node with this key and the view that it is in, or nils.
func (s *State) Find(k key.NodePublic) (*View, *tailnet.Node) {
	s.mu.RLock()
	at, ok := s.nodes[k]
	s.mu.RUnlock()
	if !ok {
		return nil, nil
	}
	v := s.View(at.tailnet)
	if v == nil {
		return nil, nil
	}
	n := v.Node(at.node)
	if n == nil || n.NodeKey != k {
		return nil, nil
	}
	return v, n
}

// FindFresh is Find, after catching up with the store if there is no such node yet: another server may have written it.
func (s *State) FindFresh(ctx context.Context, k key.NodePublic) (*View, *tailnet.Node, error) {
	if v, n := s.Find(k); n != nil {
		return v, n, nil
	}
	there, err := s.store.HasNodeKey(ctx, k)
	if err != nil {
		return nil, nil, fmt.Errorf("looking for node key %s: %w", k.ShortString(), err)
	}
	if !there {
		return nil, nil, nil
	}
	// It is in the store, so the follower is about to publish it.
	for {
		done := s.Round()
		if v, found := s.Find(k); found != nil {
			return v, found, nil
		}
		s.Wake()
		select {
		case <-done:
		case <-ctx.Done():
			return nil, nil, fmt.Errorf("waiting for node key %s to be published: %w", k.ShortString(), ctx.Err())
		case <-time.After(time.Second):
			// Deleted or re-keyed since: ask again.
			if again, err := s.store.HasNodeKey(ctx, k); err != nil || !again {
				return nil, nil, nil
			}
		}
	}
}

// Round is closed after the next round in which any view of any tailnet was published.
func (s *State) Round() <-chan struct{} {
	s.round.Lock()
	defer s.round.Unlock()
	return s.round.done
}

// SetSettings replaces what nodes are told of the configuration.
func (s *State) SetSettings(settings *Settings) {
	s.mu.Lock()
	s.settings = settings
	s.mu.Unlock()
	s.Wake()
}

// SetDERPMap replaces the DERP map.
func (s *State) SetDERPMap(m *tailcfg.DERPMap) {
	s.mu.Lock()
	s.derpMap, s.pinless = m, withoutPins(m)
	s.mu.Unlock()
	s.Wake()
}

// DERPMap is the map that nodes are told now.
func (s *State) DERPMap() *tailcfg.DERPMap {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.derpMap
}

// Wake makes the follower look again without waiting for the store to move.
func (s *State) Wake() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}
