package state_test

import (
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"tailscale.com/tailcfg"

	"github.com/keelscale/keelscale/hscontrol/state"
	"github.com/keelscale/keelscale/hscontrol/tailnet"
)

// newer waits until there is a newer view than e, or none.
func newer(t *testing.T, f *state.Feed, e *state.Edition, what string) {
	t.Helper()
	l := f.Listen()
	defer l.Stop()
	l.Await(e)
	select {
	case <-l.Turn():
	case <-time.After(3 * time.Minute):
		t.Fatalf("waiting for %s", what)
	}
}

// audience is a tailnet and those who listen to it.
type audience struct {
	t    *testing.T
	feed *state.Feed
	make func(name string) // makes a new view follow
}

func newAudience(t *testing.T) *audience {
	t.Helper()
	s := openStore(t, filepath.Join(t.TempDir(), "db"))
	st := follow(t, s, settings, &tailcfg.DERPMap{})
	id := defaultTailnet(t, s).ID
	return &audience{t: t, feed: st.Feed(id), make: func(name string) {
		t.Helper()
		if _, err := s.CreateUser(t.Context(), tailnet.User{TailnetID: id, Name: name}); err != nil {
			t.Fatal(err)
		}
	}}
}

// Listeners that come and go, leave before and after their turn came, and dawdle after it, all have the last view in the
// end; and no more have their turn at a time than leave a processor to others.
func TestEveryListenerHasItsTurn(t *testing.T) {
	const listeners, views = 200, 20
	a := newAudience(t)
	first := a.feed.Load()
	var wg sync.WaitGroup
	var onTurn, most, turns atomic.Int64
	for range listeners {
		wg.Go(func() {
			l := a.feed.Listen()
			defer func() { l.Stop() }()
			disturbed := make(chan struct{}, 1)
			for sent := first; len(sent.Users) < views; {
				l.Await(sent)
				switch rand.IntN(4) {
				case 0:
					disturbed <- struct{}{}
				case 1:
					l.Stop() // with its turn, perhaps
					l = a.feed.Listen()
					continue
				}
				select {
				case <-l.Turn():
					now := onTurn.Add(1)
					for seen := most.Load(); now > seen && !most.CompareAndSwap(seen, now); seen = most.Load() {
					}
					turns.Add(1)
					sent = a.feed.Load()
					onTurn.Add(-1)
					l.Leave()
				case <-disturbed:
					l.Leave()
				}
				select {
				case <-disturbed:
				default:
				}
			}
		})
	}
	for i := range views {
		a.make(fmt.Sprint("user", i))
	}
	wg.Wait()
	if limit := int64(max(runtime.GOMAXPROCS(0)-1, 1)); most.Load() > limit || turns.Load() < listeners {
		t.Errorf("got %d turns, %d at a time, want %d at least and %d at most", turns.Load(), most.Load(), listeners, limit)
	}
}

// Whoever has the turn and does not give it back keeps the others waiting; one that leaves without having looked does not.
func TestTurnIsPassedOn(t *testing.T) {
	old := runtime.GOMAXPROCS(2) // one turn at a time
	defer runtime.GOMAXPROCS(old)
	a := newAudience(t)
	first := a.feed.Load()
	var line []*state.Listener
	for range 3 {
		l := a.feed.Listen()
		l.Await(first)
		line = append(line, l)
	}
	a.make("ann")
	<-line[0].Turn()
	second := a.feed.Load()
	for i, l := range line[1:] {
		select {
		case <-l.Turn():
			t.Fatalf("listener %d has its turn while the first has it", i+1)
		default:
		}
	}
	line[0].Leave()
	line[0].Await(second)
	line[1].Leave() // it has the turn, and does not look
	select {
	case <-line[2].Turn():
	case <-time.After(3 * time.Minute):
		t.Fatal("the third has no turn after the second left")
	}
	select {
	case <-line[1].Turn():
		t.Error("a listener that left has a turn")
	case <-line[0].Turn():
		t.Error("the first has a turn with no newer view")
	default:
	}
	line[2].Stop()
	a.make("bob")
	select {
	case <-line[0].Turn():
	case <-time.After(3 * time.Minute):
		t.Fatal("the first has no turn at the next view")
	}
}
