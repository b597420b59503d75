package derp

import (
	"context"
	"encoding/json"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/singleflight"
)

const (
	bootstrapKeep    = 10 * time.Minute // that an answer is given again
	bootstrapRetry   = time.Minute      // that a failed look-up is not repeated
	bootstrapTimeout = 5 * time.Second  // of one look-up
)

// bootstrap answers /bootstrap-dns: the addresses of a few named hosts, for clients that
// reach the relay by its address while their DNS is broken. It resolves when it is asked,
// and only the names that it was given.
type bootstrap struct {
	published []string
	hidden    []string
	flight    singleflight.Group

	answers struct {
		sync.Mutex
		byName map[string]answer
	}
}

type answer struct {
	addrs []netip.Addr
	until time.Time // after which to ask again
}

func newBootstrap(p Pages) *bootstrap {
	b := &bootstrap{published: canonical(p.BootstrapDNS), hidden: canonical(p.HiddenDNS)}
	b.answers.byName = map[string]answer{}
	return b
}

func canonical(names []string) []string {
	var out []string
	for _, n := range names {
		if n = strings.ToLower(strings.Trim(strings.TrimSpace(n), ".")); n != "" {
			out = append(out, n)
		}
	}
	return out
}

// serve answers with {"name": ["addr", ...]}: the asked name (?q=) if it is one of ours, and
// otherwise all that are published.
func (b *bootstrap) serve(w http.ResponseWriter, req *http.Request) {
	names := b.published
	q := strings.ToLower(strings.Trim(req.URL.Query().Get("q"), "."))
	if slices.Contains(b.published, q) || slices.Contains(b.hidden, q) {
		names = []string{q}
	}
	out := make(map[string][]netip.Addr, len(names))
	for _, name := range names {
		if addrs := b.resolve(req.Context(), name); len(addrs) > 0 {
			out[name] = addrs
		}
	}
	w.Header().Set("Content-Type", "application/json")
	json.NewEncoder(w).Encode(out)
}

// resolve returns a name's addresses, old ones if there are no new ones to be had.
func (b *bootstrap) resolve(ctx context.Context, name string) []netip.Addr {
	b.answers.Lock()
	known := b.answers.byName[name]
	b.answers.Unlock()
	if time.Now().Before(known.until) {
		return known.addrs
	}
	fresh, err, _ := b.flight.Do(name, func() (any, error) {
		// One look-up serves all who wait, so it must not end with the first of them.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), bootstrapTimeout)
		defer cancel()
		return net.DefaultResolver.LookupNetIP(ctx, "ip", name)
	})
	next := answer{known.addrs, time.Now().Add(bootstrapRetry)}
	if err == nil {
		next = answer{until: time.Now().Add(bootstrapKeep)}
		for _, a := range fresh.([]netip.Addr) {
			next.addrs = append(next.addrs, a.Unmap())
		}
	}
	b.answers.Lock()
	b.answers.byName[name] = next
	b.answers.Unlock()
	return next.addrs
}
