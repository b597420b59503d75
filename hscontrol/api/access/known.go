package access

import (
	"context"
	"crypto/sha256"
	"sync"
	"time"

	"github.com/keelscale/keelscale/hscontrol/store"
)

// Bounds of what is remembered of secrets that were right.
const (
	maxKnown = maxMeters
	knownFor = time.Minute // then the store is asked again, which also notes that the key was used
)

// digest stands for a secret where one is remembered.
type digest [sha256.Size]byte

func digestOf(secret string) digest { return sha256.Sum256([]byte(secret)) }

// known are callers by their secrets, so that not each call has the store look for the key. A caller is known until the
// key expires, and for as long as no key, client or user was changed, by whichever server: see [store.Store.Mark].
// Secrets that open nothing are not remembered. The zero known is ready.
type known struct {
	mu      sync.Mutex
	callers map[digest]knownCaller
}

type knownCaller struct {
	Caller
	mark  uint64
	until time.Time
}

func (k *known) find(d digest, mark uint64, now time.Time) (Caller, bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	c, there := k.callers[d]
	if !there || c.mark != mark || !now.Before(c.until) {
		return Caller{}, false
	}
	return c.Caller, true
}

func (k *known) keep(d digest, c knownCaller) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.callers == nil || len(k.callers) >= maxKnown {
		k.callers = map[digest]knownCaller{}
	}
	k.callers[d] = c
}

// identify is whose secret it is, and what it opens.
func (g *Guard) identify(ctx context.Context, secret string, d digest, now time.Time) (Caller, error) {
	mark, err := g.store.Mark(ctx, store.TopicGrants) // before the rows are read
	if err != nil {
		return Caller{}, err
	}
	if c, there := g.known.find(d, mark, now); there {
		return c, nil
	}
	c, expires, err := g.lookUp(ctx, secret)
	if err != nil {
		return Caller{}, err
	}
	until := now.Add(knownFor)
	if expires != nil && expires.Before(until) {
		until = *expires
	}
	g.known.keep(d, knownCaller{c, mark, until})
	return c, nil
}
