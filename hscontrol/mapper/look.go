package mapper

import (
	"slices"
	"sync"

	"github.com/keelscale/keelscale/hscontrol/state"
	"github.com/keelscale/keelscale/hscontrol/tailnet"
)

// look is what the viewers of one class see in one view: each other node as a record, in blocks. It is made by the
// first viewer who asks. What that one cannot see is itself: how its mates see it, the second adds.
type look struct {
	maker tailnet.NodeID
	once  sync.Once
	first *looked // as the maker sees it

	rest  sync.Once
	mates *looked // as all others of the class do
}

// looked is a list of records and the profiles of their owners.
type looked struct {
	entries []entry
	blocks  []*block
	starts  []int // where in entries each block begins
	owners  owners
}

type entry struct {
	node  *tailnet.Node
	place int // in the view's list
	text  *text
}

// as is what a viewer sees, which may include itself.
func (l *look) as(m *Mapper, v *state.View, viewer tailnet.NodeID) *looked {
	l.once.Do(func() {
		var entries []entry
		for place, n := range v.Nodes {
			if n.ID != l.maker && v.Policy.Sees(l.maker, n.ID) {
				entries = append(entries, entry{n, place, m.records.of(v, n, see(v, l.maker, n.ID))})
			}
		}
		l.first = newLooked(v, entries)
	})
	if viewer == l.maker {
		return l.first
	}
	l.rest.Do(func() {
		n := v.Node(l.maker)
		if !v.Policy.Sees(viewer, l.maker) {
			l.mates = l.first
			return
		}
		place, _ := slices.BinarySearchFunc(v.Nodes, n.ID, byID)
		at, _ := slices.BinarySearchFunc(l.first.entries, place, func(e entry, place int) int { return e.place - place })
		l.mates = newLooked(v, slices.Insert(slices.Clone(l.first.entries), at, entry{n, place, m.records.of(v, n, see(v, viewer, n.ID))}))
	})
	return l.mates
}

func byID(n *tailnet.Node, id tailnet.NodeID) int {
	switch {
	case n.ID < id:
		return -1
	case n.ID > id:
		return 1
	}
	return 0
}

// newLooked puts the records into blocks, by their places among all nodes, so that those who see the same of a block
// share it, and a new node changes only the last one.
func newLooked(v *state.View, entries []entry) *looked {
	l := &looked{entries: entries}
	for i, e := range entries {
		if i == 0 || e.place/blockSize != entries[i-1].place/blockSize {
			l.blocks = append(l.blocks, &block{shared: true})
			l.starts = append(l.starts, i)
		}
		b := l.blocks[len(l.blocks)-1]
		b.texts = append(b.texts, e.text)
		l.owners.add(v, e.node)
	}
	return l
}

// without are the blocks, less the record of one node.
func (l *looked) without(id tailnet.NodeID) []*block {
	i, found := slices.BinarySearchFunc(l.entries, id, func(e entry, id tailnet.NodeID) int { return byID(e.node, id) })
	if !found {
		return l.blocks
	}
	return without(l.blocks, l.starts, i)
}

// without are blocks less the ith text of all. The block that had it falls apart: only a short run around it is the
// viewer's own, what comes before and after that is shared by the viewers whose texts are near.
func without(blocks []*block, starts []int, i int) []*block {
	k, found := slices.BinarySearch(starts, i)
	if !found {
		k--
	}
	i -= starts[k]
	texts, shared := blocks[k].texts, blocks[k].shared
	from := i / runSize * runSize
	to := min(from+runSize, len(texts))
	own := slices.Delete(slices.Clone(texts[from:to]), i-from, i-from+1)
	parts := []*block{{texts: texts[:from], shared: shared}, {texts: own}, {texts: texts[to:], shared: shared}}
	parts = slices.DeleteFunc(parts, func(b *block) bool { return len(b.texts) == 0 })
	return slices.Replace(slices.Clone(blocks), k, k+1, parts...)
}
