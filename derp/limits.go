package derp

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"math"
	"net"
	"os"
	"time"

	"golang.org/x/time/rate"
	"tailscale.com/derp"
	"tailscale.com/types/key"
)

// Limits bound what the relay carries. The zero value sets no bound. Other relays of the mesh
// are not bounded: what they bring was bounded where it came in.
type Limits struct {
	// Node is the bound on what one node sends, over all its connections. It is called when a
	// node connects and when SetLimits changes the limits; it must not block. Nil is no bound.
	Node func(key.NodePublic) Bound
	// Total bounds what all nodes of this relay send together.
	Total Bound
	// MonthlyQuota is how many bytes the relay may send in a calendar month (UTC). When they
	// are spent it sends its clients away, and takes none until the next month. Zero is no
	// quota.
	MonthlyQuota uint64
	// UsedThisMonth is what the relay sent in this month as far as the caller knows, who keeps
	// it over restarts (Load.SentThisMonth). The relay goes on from there, or from its own
	// count if that is higher. What it was told before it does not take for news.
	UsedThisMonth uint64
	// ConnectionsPerSecond bounds new connections; what comes faster waits. Zero is no bound.
	ConnectionsPerSecond float64
	// ConnectionBurst is how many may come at once; zero means those of one second.
	ConnectionBurst int
}

// Bound is a token bucket.
type Bound struct {
	Rate  uint64 // bytes per second; zero is no bound
	Burst uint64 // bytes; one packet of the largest size always fits
}

// Each gives every node the same bound, as Limits.Node.
func Each(b Bound) func(key.NodePublic) Bound {
	if b.Rate == 0 {
		return nil
	}
	return func(key.NodePublic) Bound { return b }
}

// Stricter combines the limits of two authorities: of each bound the one that allows less.
func Stricter(a, b Limits) Limits {
	s := Limits{
		Node:                 a.Node,
		Total:                stricter(a.Total, b.Total),
		MonthlyQuota:         lesser(a.MonthlyQuota, b.MonthlyQuota),
		UsedThisMonth:        max(a.UsedThisMonth, b.UsedThisMonth),
		ConnectionsPerSecond: lesser(a.ConnectionsPerSecond, b.ConnectionsPerSecond),
		ConnectionBurst:      lesser(a.ConnectionBurst, b.ConnectionBurst),
	}
	switch {
	case a.Node == nil:
		s.Node = b.Node
	case b.Node != nil:
		s.Node = func(k key.NodePublic) Bound { return stricter(a.Node(k), b.Node(k)) }
	}
	return s
}

func stricter(a, b Bound) Bound {
	switch {
	case a.Rate == 0:
		return b
	case b.Rate == 0:
		return a
	}
	return Bound{Rate: min(a.Rate, b.Rate), Burst: min(a.Burst, b.Burst)}
}

// lesser is the smaller of two bounds of which zero is none.
func lesser[T int | uint64 | float64](a, b T) T {
	if a == 0 || b != 0 && b < a {
		return b
	}
	return a
}

// LoadRate reads the bound on each node from a JSON file, the -rate-config of cmd/derper.
func LoadRate(path string) (Bound, error) {
	f, err := os.Open(path)
	if err != nil {
		return Bound{}, fmt.Errorf("reading the rate file: %w", err)
	}
	defer f.Close()
	dec := json.NewDecoder(io.LimitReader(f, 64<<10))
	dec.DisallowUnknownFields()
	var v struct {
		Rate  uint64 `json:"PerClientRateLimitBytesPerSec"`
		Burst uint64 `json:"PerClientRateBurstBytes"`
	}
	if err := dec.Decode(&v); err != nil {
		return Bound{}, fmt.Errorf("parsing the rate file %s: %w", path, err)
	}
	if v.Rate > math.MaxInt64 || v.Burst > math.MaxInt64 {
		return Bound{}, fmt.Errorf("the rate file %s has a rate that is too large", path)
	}
	return Bound(v), nil
}

// limits are those in force. They are replaced as a whole.
type limits struct {
	Limits
	total    *rate.Limiter // nil when there is no bound
	conns    *rate.Limiter // the same
	replaced chan struct{} // closed when others are in force
}

func newLimits(v Limits) *limits {
	return &limits{Limits: v, total: v.Total.limiter(), conns: v.connLimiter(), replaced: make(chan struct{})}
}

// of is the bound on one node.
func (l *limits) of(k key.NodePublic) Bound {
	if l.Node == nil {
		return Bound{}
	}
	return l.Node(k)
}

// SetLimits replaces the limits, also for those connected now, and tells clients what they are
// to keep to.
func (r *Relay) SetLimits(v Limits) { r.engine.setLimits(v) }

// setLimits is SetLimits.
func (e *engine) setLimits(v Limits) {
	if v.UsedThisMonth != e.limits.Load().UsedThisMonth { // else it may be of an earlier month
		e.month.atLeast(time.Now(), e.carried(), v.UsedThisMonth)
	}
	e.mu.Lock()
	old, now := e.limits.Load(), newLimits(v)
	if v.Total == old.Total {
		now.total = old.total // with what is left in it
	}
	if v.ConnectionsPerSecond == old.ConnectionsPerSecond && v.ConnectionBurst == old.ConnectionBurst {
		now.conns = old.conns
	}
	e.limits.Store(now)
	var list []*client
	for c := range e.clients {
		if e.bind(c) {
			list = append(list, c)
		}
	}
	e.mu.Unlock()
	close(old.replaced)
	e.checkQuota(time.Now())
	for _, c := range list {
		e.tellLimits(c)
	}
}

// bind puts c under the limits in force, and reports whether c has to be told of others than
// it knows. All connections of a node share its bound. The caller holds e.mu, and c is among
// its node's connections.
func (e *engine) bind(c *client) (news bool) {
	p, ok := e.peers.Load(c.key)
	if !ok || c.meshed {
		return false
	}
	l := e.limits.Load()
	if bound := l.of(c.key.public()); bound != p.bound {
		p.bound, p.limit = bound, e.debts.settle(c.key, bound)
	}
	var b *bounds
	if p.limit != nil || l.total != nil {
		b = &bounds{node: p.limit, total: l.total, replaced: l.replaced}
	}
	c.limit.Store(b)
	told := c.told
	c.told = stricter(p.bound, l.Total)
	return c.told != told
}

// debts are the buckets of nodes that have left before those were full again: to come back is
// no way to a full one. The engine's lock guards them.
type debts struct {
	of    map[nodeKey]debt
	swept time.Time
}

type debt struct {
	Bound
	bucket *rate.Limiter
}

const maxDebts = 1 << 16

// settle returns the bucket that a node left, or a new one; nil when there is no bound.
func (d *debts) settle(k nodeKey, b Bound) *rate.Limiter {
	left, ok := d.of[k]
	delete(d.of, k)
	if ok && left.Bound == b {
		return left.bucket
	}
	return b.limiter()
}

// keep keeps the bucket of a node that leaves, and lets those go that are full.
func (d *debts) keep(k nodeKey, b Bound, bucket *rate.Limiter, now time.Time) {
	full := func(l *rate.Limiter) bool { return l.TokensAt(now) >= float64(l.Burst()) }
	if now.Sub(d.swept) > time.Second {
		d.swept = now
		maps.DeleteFunc(d.of, func(_ nodeKey, old debt) bool { return full(old.bucket) })
	}
	if bucket == nil || full(bucket) || len(d.of) >= maxDebts {
		return
	}
	if d.of == nil {
		d.of = map[nodeKey]debt{}
	}
	d.of[k] = debt{b, bucket}
}

// minBurst is the least that a client may send at once: one packet of the largest size.
const minBurst = derp.MaxPacketSize + derp.KeyLen

// toldBurst is the least burst that a client is told to keep to. What it holds back it
// throws away, so it is told of a wider bound than the one that the relay holds by reading
// more slowly.
const toldBurst = 512 << 10

// limiter is the bucket itself; nil when there is no bound.
func (b Bound) limiter() *rate.Limiter {
	if b.Rate == 0 {
		return nil
	}
	return rate.NewLimiter(rate.Limit(b.Rate), int(min(max(b.Burst, minBurst), math.MaxInt32)))
}

// bucket is what a client is told to keep to.
func (b Bound) bucket() derp.ServerInfo {
	info := derp.ServerInfo{Version: derp.ProtocolVersion}
	if b.Rate > 0 {
		info.TokenBucketBytesPerSecond = int(min(b.Rate, math.MaxInt32))
		info.TokenBucketBytesBurst = int(min(max(b.Burst, 2*b.Rate, toldBurst), math.MaxInt32))
	}
	return info
}

// bounds are what holds one connection back.
type bounds struct {
	node, total *rate.Limiter // either may be nil
	replaced    chan struct{}
}

// pay charges n bytes that were read to c's bounds and, when those are exceeded, waits until
// they are not, or c has others. Meanwhile nothing is read, and TCP holds the sender
// back.
func (c *client) pay(b *bounds, n int) error {
	now := time.Now()
	var d time.Duration
	for _, l := range []*rate.Limiter{b.node, b.total} {
		if l != nil {
			d = max(d, l.ReserveN(now, min(n, minBurst)).DelayFrom(now))
		}
	}
	if d <= 0 {
		return nil
	}
	c.eng.count.rateWaits.Add(1)
	c.settle()
	t := time.NewTimer(d)
	defer t.Stop()
	for {
		select {
		case <-t.C:
			return nil
		case <-b.replaced:
			now := c.limit.Load()
			if now == nil || now.node != b.node || now.total != b.total {
				return nil
			}
			b = now
		case <-c.gone:
			return net.ErrClosed
		}
	}
}
