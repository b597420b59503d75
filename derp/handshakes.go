package derp

import (
	"runtime"
	"sync/atomic"
	"time"
)

// When a whole tailnet comes back at the same moment, computing all handshakes side by side
// would finish most of them too late. So they take turns, in the order in which the clients
// spoke. A client holds its turn from its ClientHello to the relay's answer, which is where the
// costly part is, and never while the network is waited for: who says nothing, or half of
// something, holds up nobody, and costs no buffer either.

// turns are for the handshakes of one listener.
type turns chan struct{}

func newTurns() turns { return make(turns, 2*runtime.GOMAXPROCS(0)) }

// handshakeTime is how long a handshake may take that has got its turn. What it waited before
// is not its fault.
const handshakeTime = 20 * time.Second

// turnState says how far a connection is.
type turnState = int32

const (
	turnOver   turnState = iota // it needs none, or no more
	turnWanted                  // the handshake is still to be computed
	turnHeld                    // it is computed now
)

// turn is one connection's.
type turn struct {
	state atomic.Int32
	of    turns
	begun bool // only the reader's
}

// want says that a handshake is to come. It is called before anything is read.
func (t *turn) want(of turns) {
	t.of = of
	t.state.Store(turnWanted)
}

// take waits for the turn, if one is wanted, and reports whether it is the first time.
func (t *turn) take() (first bool) {
	if t.state.Load() != turnWanted {
		return false
	}
	t.of <- struct{}{}
	if !t.state.CompareAndSwap(turnWanted, turnHeld) { // closed meanwhile
		<-t.of
		return false
	}
	first, t.begun = !t.begun, true
	return first
}

// pause gives the turn back until the network brings more.
func (t *turn) pause() {
	if t.state.Load() == turnHeld && t.state.CompareAndSwap(turnHeld, turnWanted) {
		<-t.of
	}
}

// end gives the turn back for good.
func (t *turn) end() {
	if t.state.Load() != turnOver && t.state.Swap(turnOver) == turnHeld {
		<-t.of
	}
}
