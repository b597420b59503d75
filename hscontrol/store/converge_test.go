package store_test

import (
	"context"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/keelscale/keelscale/hscontrol/store"
	"github.com/keelscale/keelscale/hscontrol/tailnet"
)

// straggler follows a store as state does, but dawdles at random, and now and then does not hear that it was woken.
type straggler struct {
	store *store.Store
	rand  *rand.Rand
	has   *tailnet.Snapshot
	reads int
	whole int // of them those that brought everything
}

func (f *straggler) follow(ctx context.Context, id tailnet.ID) error {
	for ctx.Err() == nil {
		moved := f.store.Moved()
		var from tailnet.Revision
		if f.has != nil {
			from = f.has.Rev
		}
		d, err := f.store.Since(ctx, id, from)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return err
		}
		if f.reads++; d.Full {
			f.whole++
		}
		f.has = f.has.Next(d)
		if f.rand.IntN(4) == 0 {
			moved = nil // the wake-up is lost
		}
		select {
		case <-moved:
		case <-time.After(time.Duration(f.rand.IntN(50)) * time.Millisecond):
		case <-ctx.Done():
		}
		time.Sleep(time.Duration(f.rand.IntN(20)) * time.Millisecond)
	}
	return nil
}

// TestStragglersConverge: whatever happens, and however late each follower is, in the end all know the same, which is
// what the database says. On PostgreSQL half of them are another server's.
func TestStragglersConverge(t *testing.T) {
	bothConfigs(t, func(t *testing.T, cfg store.Config) {
		seed := uint64(time.Now().UnixNano())
		t.Logf("seed %d", seed)
		w := newWorld(t, cfg)
		stores := []*store.Store{w.Store}
		if cfg.Type == "postgres" {
			stores = append(stores, open(t, cfg))
		}
		ctx, stop := context.WithCancel(t.Context())
		defer stop()
		var wait sync.WaitGroup
		all := make([]*straggler, 6)
		for i := range all {
			all[i] = &straggler{store: stores[i%len(stores)], rand: rand.New(rand.NewPCG(seed, uint64(i)))}
			wait.Go(func() {
				if err := all[i].follow(ctx, w.user.TailnetID); err != nil {
					t.Errorf("follower %d: %v", i, err)
				}
			})
		}
		h := newHerd(w, rand.New(rand.NewPCG(seed, 99)))
		for range 300 {
			h.act()
		}
		want := h.snapshot()
		time.Sleep(200 * time.Millisecond) // longer than any of them dawdles
		stop()
		wait.Wait()
		for i, f := range all {
			if f.has.Rev < want.Rev {
				if err := f.catchUp(t.Context(), w.user.TailnetID); err != nil { // a busy machine: it had no turn since
					t.Fatal(err)
				}
			}
			if diff := cmp.Diff(want, f.has, comparable...); diff != "" {
				t.Errorf("follower %d after %d reads (-database +follower):\n%s", i, f.reads, diff)
			}
			if f.reads < 3 || f.whole > 1 {
				t.Errorf("follower %d read %d times, %d of them everything: want changes", i, f.reads, f.whole)
			}
		}
	})
}

func (f *straggler) catchUp(ctx context.Context, id tailnet.ID) error {
	d, err := f.store.Since(ctx, id, f.has.Rev)
	f.has = f.has.Next(d)
	return err
}
