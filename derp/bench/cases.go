package main

import (
	"context"
	"fmt"
	"time"
)

// figure is a number that a case finds, and what it has to be.
type figure struct {
	name, unit string
	is         relation
	want       float64
}

// relation says how a figure is judged.
type relation int

const (
	ratioAtMost  relation = iota // ours to cmd/derper's
	ratioAtLeast                 // the same
	atMost                       // ours by itself
	atLeast
)

// testCase is a kind of load.
type testCase struct {
	name    string
	figures []figure
	floor   bool // it is also run through the floor
	// run measures one program that was started for it, and returns the figures in their order.
	run func(ctx context.Context, h *hall, p program) ([]float64, error)
}

// cases are what the relay promises. The comparisons are those of the same run on the same
// machine: absolute times say little.
var cases = []testCase{
	stream("1 pair, 1,200 B", true, 1, 1200, figure{is: ratioAtMost, want: 0.40}),
	stream("10 pairs, 1,200 B", true, 10, 1200, figure{is: ratioAtMost, want: 0.50},
		figure{"packets through, 10 pairs, 1,200 B", "1/s", ratioAtLeast, 1.25}),
	stream("100 pairs, 1,200 B", true, 100, 1200, figure{is: ratioAtMost, want: 0.50}),
	stream("100 pairs, 64 B", true, 100, 64, figure{is: ratioAtMost, want: 0.40}),
	stream("10 pairs, 8,192 B", true, 10, 8192, figure{is: ratioAtMost, want: 0.60}),
	stream("100 pairs, 1,200 B, plain http", false, 100, 1200, figure{is: ratioAtMost, want: 0.50}),
	{name: "flood", run: flood, figures: []figure{
		{"flood of 10 pairs: goodput, share of own peak", "%", atLeast, 80},
		{"flood of 10 pairs: fairness (Jain)", "", atLeast, 0.9},
	}},
	{name: "ping-pong alone", run: roundTrips(0), figures: []figure{
		{"ping-pong, 64 B, alone: p99", "ms", ratioAtMost, 1.0},
		{"ping-pong, 64 B, alone: CPU of a round trip", "us", ratioAtMost, 0.8},
	}},
	{name: "ping-pong busy", run: roundTrips(10), figures: []figure{
		{"ping-pong, 64 B, beside 10 pairs: p99", "ms", ratioAtMost, 0.5},
	}},
	{name: "idle", run: idle(true), figures: []figure{{"memory of an idle connection, TLS", "KiB", atMost, 24}}},
	{name: "idle, plain http", run: idle(false), figures: []figure{{"memory of an idle connection, plain http", "KiB", atMost, 10}}},
	{name: "connect", run: rush, figures: []figure{
		{"all connect at once: CPU of each", "us", ratioAtMost, 0.8},
		{"all connect at once: the slowest", "s", atMost, 10},
		{"all connect at once: peak memory", "MiB", ratioAtMost, 1.0},
		{"all connect at once: connections that broke", "", atMost, 0},
	}},
	{name: "mesh", run: mesh, figures: []figure{{"CPU per packet over two relays, 10 pairs, 1,200 B", "us", ratioAtMost, 0.5}}},
}

// round runs the case once for each program. A round in which one of them failed counts for
// none.
func (c testCase) round(ctx context.Context, h *hall, round int, rep *report) {
	order := []program{derper, ours}
	if round%2 == 1 {
		order = []program{ours, derper}
	}
	if c.floor {
		order = append(order, bare)
	}
	values := map[program][]float64{}
	for _, p := range order {
		found, err := c.run(ctx, h, p)
		if err != nil {
			rep.failures = append(rep.failures, fmt.Sprintf("%s, %s, round %d: %v", c.name, p, round+1, err))
			return
		}
		values[p] = found
	}
	for p, found := range values {
		rep.add(c.figures, p, found)
	}
}

// alone runs f with a relay of its own.
func alone(ctx context.Context, h *hall, p program, tls bool, f func(*relay) ([]float64, error)) ([]float64, error) {
	r, err := h.start(ctx, p, tls)
	if err != nil {
		return nil, err
	}
	defer r.stop()
	return f(r)
}

// through measures pairs of clients that keep a window of packets under way, or flood.
func through(ctx context.Context, h *hall, r *relay, pairs, size, window int) (traffic, error) {
	list, err := flows(ctx, r, r, pairs, window)
	if err != nil {
		return traffic{}, err
	}
	l := begin(list, size)
	t, err := l.watch(ctx, h.duration, r)
	if broken := l.end(); err == nil {
		err = broken
	}
	return t, err
}

// stream is a case of pairs with a window. The first figure is the CPU per packet, the second,
// if there is one, packets per second.
func stream(name string, tls bool, pairs, size int, cpu figure, more ...figure) testCase {
	cpu.name, cpu.unit = "CPU per packet, "+name, "us"
	return testCase{name: name, figures: append([]figure{cpu}, more...), floor: tls,
		run: func(ctx context.Context, h *hall, p program) ([]float64, error) {
			return alone(ctx, h, p, tls, func(r *relay) ([]float64, error) {
				t, err := through(ctx, h, r, pairs, size, window)
				if err != nil {
					return nil, err
				}
				return []float64{t.cpuEach(), t.perSecond()}[:1+len(more)], nil
			})
		}}
}

// flood compares what comes through when nobody keeps to a window with what does when all do.
func flood(ctx context.Context, h *hall, p program) ([]float64, error) {
	return alone(ctx, h, p, true, func(r *relay) ([]float64, error) {
		peak, err := through(ctx, h, r, 10, 1200, window)
		if err != nil {
			return nil, err
		}
		t, err := through(ctx, h, r, 10, 1200, 0)
		if err != nil {
			return nil, err
		}
		return []float64{100 * t.perSecond() / peak.perSecond(), t.fairness()}, nil
	})
}

// roundTrips is one packet under way, beside so many pairs that stream.
func roundTrips(background int) func(context.Context, *hall, program) ([]float64, error) {
	return func(ctx context.Context, h *hall, p program) ([]float64, error) {
		return alone(ctx, h, p, true, func(r *relay) ([]float64, error) {
			list, err := flows(ctx, r, r, background, window)
			if err != nil {
				return nil, err
			}
			l := begin(list, 1200)
			t, err := pingPong(ctx, r, 64, h.duration)
			if broken := l.end(); err == nil {
				err = broken
			}
			if background > 0 {
				return []float64{t.p99.Seconds() * 1e3}, err
			}
			return []float64{t.p99.Seconds() * 1e3, t.cpu}, err
		})
	}
}

// idle is what a connection costs that nothing comes over.
func idle(tls bool) func(context.Context, *hall, program) ([]float64, error) {
	return func(ctx context.Context, h *hall, p program) ([]float64, error) {
		return alone(ctx, h, p, tls, func(r *relay) ([]float64, error) {
			first, _, err := r.connect(ctx, 1, 1) // what is set up once
			if err != nil {
				return nil, err
			}
			hangUp(first)
			if err := sleep(ctx, time.Second/2); err != nil {
				return nil, err
			}
			before := r.memory("VmRSS")
			nodes, _, err := r.connect(ctx, h.clients, 32)
			if err != nil {
				return nil, err
			}
			defer hangUp(nodes)
			if err := sleep(ctx, h.duration); err != nil {
				return nil, err
			}
			return []float64{(r.memory("VmRSS") - before) / float64(h.clients)}, nil
		})
	}
}

// rush is what happens when all come back at the same moment.
func rush(ctx context.Context, h *hall, p program) ([]float64, error) {
	return alone(ctx, h, p, true, func(r *relay) ([]float64, error) {
		before := r.cpu()
		a, err := r.arrive(ctx, h.clients, h.clients, 10)
		if err != nil {
			return nil, err
		}
		defer hangUp(a.nodes)
		each := (r.cpu() - before).Seconds() * 1e6 / float64(h.clients)
		return []float64{each, a.slowest.Seconds(), r.memory("VmHWM") / 1024, float64(a.broken)}, nil
	})
}

// mesh is traffic from the clients of one relay to those of another.
func mesh(ctx context.Context, h *hall, p program) ([]float64, error) {
	a, b, err := h.startMesh(ctx, p)
	if err != nil {
		return nil, err
	}
	defer a.stop()
	defer b.stop()
	list, err := flows(ctx, a, b, 10, window)
	if err != nil {
		return nil, err
	}
	l := begin(list, 1200)
	for end := time.Now().Add(20 * time.Second); ; { // until the relays have found each other
		if err = sleep(ctx, 100*time.Millisecond); err != nil || time.Now().After(end) {
			break
		}
		if t := (traffic{packets: l.got()}); t.sum() > 1000 {
			break
		}
	}
	for _, f := range list {
		f.forgive() // what went before that was lost, and is under way no more
	}
	t, err := l.watch(ctx, h.duration, a, b)
	if broken := l.end(); err == nil {
		err = broken
	}
	return []float64{t.cpuEach()}, err
}
