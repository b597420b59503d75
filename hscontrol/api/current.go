package api

import (
	"cmp"
	"context"
	"slices"
	"sync"

	"github.com/keelscale/keelscale/hscontrol/store"
	"github.com/keelscale/keelscale/hscontrol/tailnet"
)

// What user interfaces ask for every few seconds comes from memory. The view of a tailnet may be a little behind the
// store, the more so the busier the server is; then the few rows that changed since are read, and not the whole tailnet:
// else a busy server would get busier by it.

// ahead are snapshots that are newer than the views that they were made of. The zero ahead is ready.
type ahead struct {
	mu        sync.Mutex
	snapshots map[tailnet.ID]*tailnet.Snapshot
	turns     map[tailnet.ID]chan bool // who holds it reads; the others have it read for them
}

// turn is the right to read a tailnet, as a channel with one place.
func (a *ahead) turn(id tailnet.ID) chan bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.turns == nil {
		a.turns = map[tailnet.ID]chan bool{}
	}
	if a.turns[id] == nil {
		a.turns[id] = make(chan bool, 1)
	}
	return a.turns[id]
}

// newest is the newer one of the view's snapshot and the one that is kept, which is forgotten when it is not.
func (a *ahead) newest(id tailnet.ID, of *tailnet.Snapshot) *tailnet.Snapshot {
	a.mu.Lock()
	defer a.mu.Unlock()
	kept := a.snapshots[id]
	if kept == nil {
		return of
	}
	if kept.Rev <= of.Rev {
		delete(a.snapshots, id)
		return of
	}
	return kept
}

func (a *ahead) keep(id tailnet.ID, s *tailnet.Snapshot) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.snapshots == nil {
		a.snapshots = map[tailnet.ID]*tailnet.Snapshot{}
	}
	if kept := a.snapshots[id]; kept == nil || kept.Rev < s.Rev {
		a.snapshots[id] = s
	}
}

func (a *ahead) forget(id tailnet.ID) {
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.snapshots, id)
	delete(a.turns, id)
}

// current is a tailnet as the store has it now; nil where it has to be read from there: for all tailnets (zero), and
// where nothing follows the store.
func (s *Server) current(ctx context.Context, id tailnet.ID) (*tailnet.Snapshot, error) {
	if s.cfg.View == nil || id == 0 {
		return nil, nil
	}
	revisions, err := s.cfg.Store.Revisions(ctx) // before the view, which may only get newer
	if err != nil {
		return nil, err
	}
	v := s.cfg.View(id)
	rev, there := revisions[id]
	if v == nil || !there {
		s.ahead.forget(id)
		return nil, nil
	}
	snapshot := s.ahead.newest(id, v.Snapshot)
	if snapshot.Rev >= rev {
		return snapshot, nil
	}
	turn := s.ahead.turn(id)
	select {
	case turn <- true:
		defer func() { <-turn }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	if snapshot = s.ahead.newest(id, snapshot); snapshot.Rev >= rev {
		return snapshot, nil
	}
	delta, err := s.cfg.Store.Since(ctx, id, snapshot.Rev)
	if err != nil {
		return nil, err
	}
	if delta.Gone {
		return nil, nil
	}
	snapshot = snapshot.Next(delta)
	s.ahead.keep(id, snapshot)
	return snapshot, nil
}

// nodesOf are the nodes of a tailnet and a user, zero for all, by ID, and what messages about them refer to but for
// pre-auth keys. The list may be shared.
func (s *Server) nodesOf(ctx context.Context, id tailnet.ID, owner tailnet.UserID) ([]*tailnet.Node, *names, error) {
	now, err := s.current(ctx, id)
	if err != nil {
		return nil, nil, err
	}
	n, err := s.namesAt(ctx, id, now)
	if err != nil {
		return nil, nil, err
	}
	if now == nil {
		nodes, err := s.cfg.Store.ListNodes(ctx, store.NodeFilter{TailnetID: id, UserID: owner})
		return nodes, n, err
	}
	n.shown = &s.shown
	if owner == 0 {
		return now.Nodes, n, nil
	}
	return slices.DeleteFunc(slices.Clone(now.Nodes), func(n *tailnet.Node) bool { return n.UserID != owner }), n, nil
}

// nodeNow is a node as the store has it now. It is shared.
func (s *Server) nodeNow(ctx context.Context, id tailnet.NodeID) (*tailnet.Node, error) {
	if s.cfg.View == nil {
		return s.cfg.Store.GetNode(ctx, id)
	}
	revisions, err := s.cfg.Store.Revisions(ctx)
	if err != nil {
		return nil, err
	}
	for in := range revisions {
		if v := s.cfg.View(in); v == nil || v.Node(id) == nil {
			continue
		}
		now, err := s.current(ctx, in)
		if err != nil {
			return nil, err
		}
		if now != nil && now.Node(id) != nil {
			return now.Node(id), nil
		}
	}
	return s.cfg.Store.GetNode(ctx, id) // it is new, or gone
}

// newestPolicy is the newest version of a tailnet's policy, nil where there has never been one.
func (s *Server) newestPolicy(ctx context.Context, id tailnet.ID) (*tailnet.PolicyVersion, error) {
	now, err := s.current(ctx, id)
	switch {
	case err != nil:
		return nil, err
	case now != nil:
		return now.Policy, nil
	}
	return s.cfg.Store.GetPolicy(ctx, id)
}

// namesOf is what the message of one node refers to.
func (s *Server) namesOf(ctx context.Context, node *tailnet.Node) (*names, error) {
	now, err := s.current(ctx, node.TailnetID)
	if err != nil {
		return nil, err
	}
	n, err := s.namesAt(ctx, node.TailnetID, now)
	if err != nil {
		return nil, err
	}
	if now != nil && now.Node(node.ID) == node {
		n.shown = &s.shown
	}
	return n, s.withKeys(ctx, n, node)
}

// usersIn are the users that the filter chooses, by ID.
func (s *Server) usersIn(ctx context.Context, f store.UserFilter) ([]*tailnet.User, error) {
	now, err := s.current(ctx, f.TailnetID)
	if err != nil {
		return nil, err
	}
	if now == nil || f.Email != "" || f.ProviderIdentifier != "" {
		return s.cfg.Store.ListUsers(ctx, f)
	}
	users := make([]*tailnet.User, 0, len(now.Users))
	for _, u := range now.Users {
		if (f.ID == 0 || f.ID == u.ID) && (f.Name == "" || f.Name == u.Name) {
			users = append(users, u)
		}
	}
	slices.SortFunc(users, func(a, b *tailnet.User) int { return cmp.Compare(a.ID, b.ID) })
	return users, nil
}
