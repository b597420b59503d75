package access

import (
	"fmt"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/keelscale/keelscale/hscontrol/tailnet"
)

// Bounds of what callers over the network may ask. They are far above what programs do, and below what would disturb
// the nodes.
const (
	callsPerSecond = 1000 // of one key
	callsAtOnce    = 2000
	wrongEvery     = 3 * time.Second // wrong keys from one address, in the long run
	wrongAtOnce    = 20
	provenFor      = 10 * time.Minute // how long a key that was right is let through where others guess
	maxMeters      = 4096             // of each kind
)

// RetryAfter is how long who was refused with ErrTooMany should wait.
const RetryAfter = wrongEvery

// meters count what each key and each address asks. The zero meters are ready.
type meters struct {
	mu     sync.Mutex
	calls  map[string]*rate.Limiter // by Caller.Who
	wrong  map[netip.Prefix]*rate.Limiter
	proven map[digest]time.Time // secrets that were right, and when
}

var (
	errTooManyCalls = fmt.Errorf("%w: too many calls with this API key: %d in a second at most", tailnet.ErrTooMany, callsPerSecond)
	errTooManyWrong = fmt.Errorf("%w: too many wrong API keys came from this address: wait a little", tailnet.ErrTooMany)
)

// guess refuses a key unread that comes from where too many wrong ones came from, so that guessing is slow. Others
// behind the same address go on working.
func (m *meters) guess(from string, d digest, now time.Time) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	l := m.wrong[network(from)]
	if l == nil || l.TokensAt(now) >= 1 || now.Sub(m.proven[d]) < provenFor {
		return nil
	}
	return errTooManyWrong
}

// failed counts a wrong key.
func (m *meters) failed(from string, now time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	limiter(&m.wrong, network(from), rate.Every(wrongEvery), wrongAtOnce, now).AllowN(now, 1)
}

// call counts a call with a key that is right.
func (m *meters) call(who string, d digest, now time.Time) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.proven == nil || len(m.proven) >= maxMeters {
		m.proven = map[digest]time.Time{}
	}
	m.proven[d] = now
	if !limiter(&m.calls, who, callsPerSecond, callsAtOnce, now).AllowN(now, 1) {
		return errTooManyCalls
	}
	return nil
}

// limiter is the one of that name. Those that are full again are forgotten when there are many.
func limiter[K comparable](all *map[K]*rate.Limiter, name K, often rate.Limit, atOnce int, now time.Time) *rate.Limiter {
	if l := (*all)[name]; l != nil {
		return l
	}
	if len(*all) >= maxMeters {
		for each, l := range *all {
			if l.TokensAt(now) >= float64(l.Burst()) {
				delete(*all, each)
			}
		}
	}
	if *all == nil || len(*all) >= maxMeters {
		*all = map[K]*rate.Limiter{}
	}
	l := rate.NewLimiter(often, atOnce)
	(*all)[name] = l
	return l
}

// network is whom an address belongs to: of IPv6 a customer has 64 bits at least. All that is no address is one.
func network(from string) netip.Prefix {
	a, err := netip.ParseAddr(from)
	if err != nil {
		return netip.Prefix{}
	}
	bits := 32
	if a = a.Unmap(); a.Is6() {
		bits = 64
	}
	p, err := a.WithZone("").Prefix(bits)
	if err != nil {
		return netip.Prefix{}
	}
	return p
}
