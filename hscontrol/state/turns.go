package state

import (
	"runtime"
	"sync"
	"sync/atomic"
)

// Listener is a session that waits for views. The sessions of a tailnet take turns: a few look at a new view at a time, and
// each lets the next one begin. Were all woken at once, a thousand would stand in the scheduler's queue, and behind them
// whatever else the process has to do: the commits, the next view, other tailnets.
type Listener struct {
	feed *Feed
	turn chan struct{} // capacity 1

	// What stands here is the feed's, under the lock of its turns.
	where      place
	prev, next *Listener
}

// place is where a listener is.
type place uint8

const (
	away   place = iota // busy with something of its own
	parked              // has the newest view
	due                 // waits for its turn
	onTurn
)

// turns says which listeners of a feed have to look at its newest view, and who does so now.
type turns struct {
	all atomic.Int64 // listeners, away or not

	mu     sync.Mutex
	parked line
	due    line
	given  int // turns that were not given back
	most   int // of them at a time
}

// turnsMost is how many listeners of one tailnet look at a view at a time: one processor is left to everything else.
func turnsMost() int { return max(runtime.GOMAXPROCS(0)-1, 1) }

// Listen counts the caller among those who want each view, until it calls Stop.
func (f *Feed) Listen() *Listener {
	f.turns.all.Add(1)
	return &Listener{feed: f, turn: make(chan struct{}, 1)}
}

// Stop ends listening.
func (l *Listener) Stop() {
	l.Leave()
	l.feed.turns.all.Add(-1)
}

// Await asks for a turn as soon as there is another view than sent. It comes by Turn.
func (l *Listener) Await(sent *Edition) {
	t := &l.feed.turns
	t.mu.Lock()
	defer t.mu.Unlock()
	if l.feed.Load() == sent {
		t.parked.add(l, parked)
		return
	}
	t.due.add(l, due)
	t.give()
}

// Turn is received from once after Await, when it is the caller's turn. The caller looks at the view, which takes little
// time, and calls Leave before it does anything that can take long, such as writing to a client.
func (l *Listener) Turn() <-chan struct{} { return l.turn }

// Leave ends the caller's turn, or its waiting for one.
func (l *Listener) Leave() {
	t := &l.feed.turns
	t.mu.Lock()
	defer t.mu.Unlock()
	switch l.where {
	case parked:
		t.parked.remove(l)
	case due:
		t.due.remove(l)
	case onTurn:
		select {
		case <-l.turn: // it came too late
		default:
		}
		l.where = away
		t.given--
		t.give()
	}
}

// begin has all who are parked wait for their turns.
func (t *turns) begin() {
	t.mu.Lock()
	defer t.mu.Unlock()
	for l := t.parked.first; l != nil; l = t.parked.first {
		t.parked.remove(l)
		t.due.add(l, due)
	}
	t.give()
}

// give gives the turns that are free.
func (t *turns) give() {
	for ; t.given < t.most && t.due.first != nil; t.given++ {
		l := t.due.first
		t.due.remove(l)
		l.where = onTurn
		l.turn <- struct{}{}
	}
}

// line is listeners one behind the other.
type line struct{ first, last *Listener }

// add puts l at the end, where it is at that place.
func (q *line) add(l *Listener, at place) {
	l.where, l.prev, l.next = at, q.last, nil
	if q.last == nil {
		q.first = l
	} else {
		q.last.next = l
	}
	q.last = l
}

// remove takes l out.
func (q *line) remove(l *Listener) {
	if l.prev == nil {
		q.first = l.next
	} else {
		l.prev.next = l.next
	}
	if l.next == nil {
		q.last = l.prev
	} else {
		l.next.prev = l.prev
	}
	l.where, l.prev, l.next = away, nil, nil
}
