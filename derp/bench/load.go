package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// flow is the packets from one node to another.
type flow struct {
	from, to  *node
	window    chan struct{} // has room for the packets that may be under way; nil for a flood
	sent, got atomic.Int64
	broken    atomic.Int64 // packets that were not what was sent
	stop      chan struct{}
}

// window is how many packets of a flow are under way, so that a sound relay loses none.
const window = 16

// stamp is where a packet's number stands, after what makes it look like WireGuard's.
const stamp = 8

// flows connects pairs of nodes, the senders to one relay and the receivers to another, which
// may be the same.
func flows(ctx context.Context, from, to *relay, pairs, window int) ([]*flow, error) {
	senders, _, err := from.connect(ctx, pairs, 32)
	if err != nil {
		return nil, err
	}
	receivers, _, err := to.connect(ctx, pairs, 32)
	if err != nil {
		hangUp(senders)
		return nil, err
	}
	list := make([]*flow, pairs)
	for i := range list {
		list[i] = &flow{from: senders[i], to: receivers[i], stop: make(chan struct{})}
		if window > 0 {
			list[i].window = make(chan struct{}, window)
		}
	}
	return list, nil
}

// send sends until stop, or until the connection ends.
func (f *flow) send(size int) {
	b := make([]byte, size)
	b[0] = 4 // a transport message of WireGuard
	lost := time.NewTimer(time.Hour)
	defer lost.Stop()
	for n := uint64(1); ; n++ {
		if f.window != nil {
			select {
			case f.window <- struct{}{}:
			case <-f.stop:
				return
			default:
				lost.Reset(time.Second)
				select {
				case f.window <- struct{}{}:
				case <-lost.C: // what was under way is lost
				case <-f.stop:
					return
				}
			}
		}
		select {
		case <-f.stop:
			return
		default:
		}
		binary.LittleEndian.PutUint64(b[stamp:], n)
		binary.LittleEndian.PutUint64(b[size-8:], ^n)
		if f.from.Send(f.to.key, b) != nil {
			return
		}
		f.sent.Add(1)
	}
}

// forgive empties the window.
func (f *flow) forgive() {
	for {
		select {
		case <-f.window:
		default:
			return
		}
	}
}

// receive receives until the connection ends.
func (f *flow) receive(size int) {
	last := uint64(0)
	for {
		p, err := f.to.packet()
		if err != nil {
			return
		}
		if f.window != nil {
			select {
			case <-f.window:
			default:
			}
		}
		if len(p.Data) != size || p.Source != f.from.key {
			f.broken.Add(1)
			continue
		}
		n := binary.LittleEndian.Uint64(p.Data[stamp:])
		if n <= last || binary.LittleEndian.Uint64(p.Data[size-8:]) != ^n {
			f.broken.Add(1)
			continue
		}
		last = n
		f.got.Add(1)
	}
}

// load is flows that run.
type load struct {
	flows []*flow
	done  sync.WaitGroup
}

func begin(list []*flow, size int) *load {
	l := &load{flows: list}
	for _, f := range list {
		l.done.Go(func() { f.send(size) })
		l.done.Go(func() { f.receive(size) })
	}
	return l
}

// got is how many packets each flow has delivered.
func (l *load) got() []int64 {
	counts := make([]int64, len(l.flows))
	for i, f := range l.flows {
		counts[i] = f.got.Load()
	}
	return counts
}

// end stops the flows and reports packets that came changed, twice or in another order.
func (l *load) end() error {
	for _, f := range l.flows {
		close(f.stop)
		f.from.conn.Close()
		f.to.conn.Close()
	}
	l.done.Wait()
	for _, f := range l.flows {
		if n := f.broken.Load(); n > 0 {
			return fmt.Errorf("%d packets came changed, twice, or out of order", n)
		}
	}
	return nil
}

// traffic is what a load did in a while.
type traffic struct {
	packets []int64 // of each flow
	wall    time.Duration
	cpu     time.Duration // of the relays
}

func (t traffic) sum() float64 {
	n := int64(0)
	for _, k := range t.packets {
		n += k
	}
	return float64(n)
}

func (t traffic) perSecond() float64 { return t.sum() / t.wall.Seconds() }

// cpuEach is the processor time of one packet in microseconds.
func (t traffic) cpuEach() float64 { return t.cpu.Seconds() * 1e6 / t.sum() }

// fairness is Jain's index: 1 when all flows got the same, 1/n when one got all.
func (t traffic) fairness() float64 {
	var squares float64
	for _, k := range t.packets {
		squares += float64(k) * float64(k)
	}
	return t.sum() * t.sum() / (float64(len(t.packets)) * squares)
}

// watch measures a load for a while, after a time to warm up.
func (l *load) watch(ctx context.Context, d time.Duration, relays ...*relay) (traffic, error) {
	if err := sleep(ctx, min(d/3, time.Second)); err != nil {
		return traffic{}, err
	}
	cpu := func() (sum time.Duration) {
		for _, r := range relays {
			sum += r.cpu()
		}
		return sum
	}
	before, used, began := l.got(), cpu(), time.Now()
	if err := sleep(ctx, d); err != nil {
		return traffic{}, err
	}
	t := traffic{packets: l.got(), wall: time.Since(began), cpu: cpu() - used}
	for i := range t.packets {
		t.packets[i] -= before[i]
	}
	if t.sum() == 0 {
		return t, errors.New("no packet came through")
	}
	return t, nil
}

func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}

// trips is what packets took that went there and back, one at a time.
type trips struct {
	p99 time.Duration
	cpu float64 // microseconds of the relay for one trip
}

// pingPong sends a packet there and back again and again.
func pingPong(ctx context.Context, r *relay, size int, d time.Duration) (trips, error) {
	nodes, _, err := r.connect(ctx, 2, 2)
	if err != nil {
		return trips{}, err
	}
	defer hangUp(nodes)
	a, b := nodes[0], nodes[1]
	go func() { // ends with b's connection
		for {
			p, err := b.packet()
			if err != nil || b.Send(a.key, p.Data) != nil {
				return
			}
		}
	}()
	payload := make([]byte, size)
	payload[0] = 4
	var took []time.Duration
	used, began := time.Duration(0), time.Time{}
	for warm := time.Now().Add(d / 6); ; {
		start := time.Now()
		if began.IsZero() && start.After(warm) {
			used, began, took = r.cpu(), start, took[:0]
		}
		if !began.IsZero() && start.Sub(began) > d {
			break
		}
		if err := a.Send(b.key, payload); err != nil {
			return trips{}, err
		}
		a.conn.SetReadDeadline(start.Add(5 * time.Second))
		if _, err := a.packet(); err != nil {
			return trips{}, fmt.Errorf("waiting for the packet to come back: %w", err)
		}
		took = append(took, time.Since(start))
	}
	t := trips{cpu: (r.cpu() - used).Seconds() * 1e6 / float64(len(took))}
	slices.Sort(took)
	t.p99 = took[len(took)*99/100]
	return t, ctx.Err()
}
