package main

import (
	"strings"
	"testing"
)

func TestVerdicts(t *testing.T) {
	for _, tt := range []struct {
		f            figure
		theirs, ours []float64
		ok           bool
	}{
		{figure{"a", "us", ratioAtMost, 0.5}, []float64{10, 20, 10}, []float64{4, 9, 9}, true},
		{figure{"a", "us", ratioAtMost, 0.5}, []float64{10, 10, 10}, []float64{4, 6, 6}, false},
		{figure{"a", "1/s", ratioAtLeast, 1.25}, []float64{100}, []float64{125}, true},
		{figure{"a", "1/s", ratioAtLeast, 1.25}, []float64{100}, []float64{124}, false},
		{figure{"a", "KiB", atMost, 24}, []float64{60}, []float64{24}, true},
		{figure{"a", "KiB", atMost, 24}, []float64{60}, []float64{24.1}, false},
		{figure{"a", "", atLeast, 0.9}, []float64{0.5}, []float64{0.9}, true},
		{figure{"a", "", atLeast, 0.9}, []float64{0.5}, []float64{0.8}, false},
	} {
		r := newReport()
		for i := range tt.ours {
			r.add([]figure{tt.f}, derper, tt.theirs[i:])
			r.add([]figure{tt.f}, ours, tt.ours[i:])
		}
		var out strings.Builder
		if ok := r.print(&out); ok != tt.ok || strings.Contains(out.String(), "MISSED") == tt.ok {
			t.Errorf("%v to %v: got %v, want %v\n%s", tt.ours, tt.theirs, ok, tt.ok, out.String())
		}
	}
}

func TestFailedRoundIsNoSuccess(t *testing.T) {
	r := newReport()
	r.failures = append(r.failures, "connect, ours, round 1: no route")
	var out strings.Builder
	if r.print(&out) || !strings.Contains(out.String(), "FAILED: connect, ours, round 1: no route") {
		t.Errorf("got %q, want the failure", out.String())
	}
}

func TestFairness(t *testing.T) {
	for _, tt := range []struct {
		packets []int64
		want    float64
	}{{[]int64{5, 5, 5, 5}, 1}, {[]int64{20, 0, 0, 0}, 0.25}} {
		if got := (traffic{packets: tt.packets}).fairness(); got != tt.want {
			t.Errorf("%v: got %v, want %v", tt.packets, got, tt.want)
		}
	}
}
