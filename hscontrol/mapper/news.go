package mapper

import (
	"cmp"
	"reflect"
	"slices"
	"sync"

	"github.com/keelscale/keelscale/hscontrol/state"
	"github.com/keelscale/keelscale/hscontrol/tailnet"
)

// news is what the viewers of one class are told of other nodes, to get from one view to another. It is made by the
// first viewer who asks. What that one is not told is what became of itself: that the second adds.
type news struct {
	maker tailnet.NodeID
	once  sync.Once
	first *told // to the maker

	rest  sync.Once
	mates *told // to all others of the class
}

// told is a list of items, sorted by node.
type told struct {
	items []item

	// For those who are not spoken of:
	plain, packed struct {
		sync.Once
		frame Frame // nil: nothing to send
	}
	// For the others:
	split            sync.Once
	records, patches run
}

// item is what became of one node.
type item struct {
	node tailnet.NodeID
	how  how
	text *text // a record or a patch

	owner *tailnet.Node // its owner's profile is told too; nil: not
}

// how an item is told.
type how byte

const (
	unsaid  how = iota // nothing of the node itself
	removed            // in PeersRemoved
	record             // in PeersChanged
	patched            // in PeersChangedPatch
)

// of is what a viewer is told, which may be about itself.
func (n *news) of(m *Mapper, from, to *state.View, viewer tailnet.NodeID) *told {
	n.once.Do(func() { n.first = &told{items: m.items(from, to, n.maker)} })
	if viewer == n.maker {
		return n.first
	}
	n.rest.Do(func() {
		was, is := from.Node(n.maker), to.Node(n.maker)
		it := m.item(from, to, viewer, was, is, renamed(from, to))
		if it.how == unsaid && it.owner == nil {
			n.mates = n.first
			return
		}
		at, _ := slices.BinarySearchFunc(n.first.items, it, byNode)
		n.mates = &told{items: slices.Insert(slices.Clone(n.first.items), at, it)}
	})
	return n.mates
}

func byNode(a, b item) int { return cmp.Compare(a.node, b.node) }

// items are what a viewer is told of all others. Where the policy is the same, only nodes that changed themselves, or
// whose owner's profile did, may be news.
func (m *Mapper) items(from, to *state.View, viewer tailnet.NodeID) (items []item) {
	names := renamed(from, to)
	add := func(was, is *tailnet.Node) {
		if was != nil && was.ID == viewer || is != nil && is.ID == viewer {
			return
		}
		if it := m.item(from, to, viewer, was, is, names); it.how != unsaid || it.owner != nil {
			items = append(items, it)
		}
	}
	tailnet.Compare(from.Nodes, to.Nodes, add)
	if from.Policy == to.Policy && names == nil {
		return items
	}
	for _, n := range to.Nodes {
		if (from.Policy != to.Policy || names[n.UserID]) && from.Node(n.ID) == n {
			add(n, n)
		}
	}
	slices.SortFunc(items, byNode)
	return items
}

// item is what a viewer is told of another node.
func (m *Mapper) item(from, to *state.View, viewer tailnet.NodeID, was, is *tailnet.Node, names map[tailnet.UserID]bool) item {
	seen := was != nil && from.Policy.Sees(viewer, was.ID)
	sees := is != nil && to.Policy.Sees(viewer, is.ID)
	switch {
	case !seen && !sees:
		return item{}
	case !sees:
		return item{node: was.ID, how: removed}
	case !seen:
		return item{node: is.ID, how: record, text: m.records.of(to, is, see(to, viewer, is.ID)), owner: is}
	}
	it := item{node: is.ID}
	if was.UserID != is.UserID || was.IsTagged() != is.IsTagged() || names[is.UserID] && !is.IsTagged() {
		it.owner = is
	}
	switch a, b := see(from, viewer, was.ID), see(to, viewer, is.ID); {
	case !a.equal(b) || from.Domain != to.Domain:
		it.how, it.text = record, m.records.of(to, is, b)
	case was != is:
		it.how, it.text = m.records.change(from, to, was, is, b)
	}
	return it
}

// renamed are the users whose profiles changed, or nil.
func renamed(from, to *state.View) (names map[tailnet.UserID]bool) {
	if reflect.ValueOf(from.Users).UnsafePointer() == reflect.ValueOf(to.Users).UnsafePointer() {
		return nil
	}
	for id, u := range to.Users {
		was := from.Users[id]
		if was == nil || was == u || was.LoginName() == u.LoginName() && was.Display() == u.Display() && was.ProfilePicURL == u.ProfilePicURL {
			continue
		}
		if names == nil {
			names = map[tailnet.UserID]bool{}
		}
		names[id] = true
	}
	return names
}

// about is where a node is spoken of.
func (t *told) about(id tailnet.NodeID) (i int, found bool) {
	return slices.BinarySearchFunc(t.items, item{node: id}, byNode)
}

// frame is the news for a viewer who is not spoken of and has none of its own.
func (t *told) frame(to *state.View, compress bool) Frame {
	f := &t.plain
	if compress {
		f = &t.packed
	}
	f.Do(func() {
		if len(t.items) > 0 {
			f.frame = FrameOf(t.message(to, -1).JSON(), compress)
		}
	})
	return f.frame
}

// message is the news less the item at skip, -1 for none.
func (t *told) message(to *state.View, skip int) *Message {
	t.split.Do(func() {
		t.records, t.patches = newRun(t.items, record), newRun(t.items, patched)
	})
	msg := &Message{peers: t.records.without(skip), patches: t.patches.without(skip)}
	var o owners
	for i, it := range t.items {
		if i == skip {
			continue
		}
		if it.how == removed {
			msg.removed = append(msg.removed, it.node)
		}
		if it.owner != nil {
			o.add(to, it.owner)
		}
	}
	msg.profiles = o.profiles
	return msg
}

// run are the texts of the items of one kind, in blocks.
type run struct {
	items  []int // which
	blocks []*block
	starts []int
}

func newRun(items []item, kind how) (r run) {
	for i, it := range items {
		if it.how != kind {
			continue
		}
		if len(r.items)%blockSize == 0 {
			r.blocks = append(r.blocks, &block{shared: true})
			r.starts = append(r.starts, len(r.items))
		}
		b := r.blocks[len(r.blocks)-1]
		b.texts = append(b.texts, it.text)
		r.items = append(r.items, i)
	}
	return r
}

func (r *run) without(item int) []*block {
	i, found := slices.BinarySearch(r.items, item)
	if !found {
		return r.blocks
	}
	return without(r.blocks, r.starts, i)
}
