package store_test

import (
	"errors"
	"net/netip"
	"testing"

	"github.com/keelscale/keelscale/hscontrol/tailnet"
)

func TestTakeFromPools(t *testing.T) {
	bothEngines(t, func(t *testing.T, w *world) {
		small := prefixes("10.0.0.0/30", "100.81.0.4/31", "100.81.7.0/24") // the first is outside of the range
		a, b, c := w.join("a"), w.join("b"), w.join("c")
		take := func(n *tailnet.Node, pools []netip.Prefix) string {
			t.Helper()
			return must[*tailnet.Node](t)(w.TakeFromPools(w.ctx, n.ID, pools)).IPv4.String()
		}
		for i, want := range []string{"100.81.0.4", "100.81.0.5", "100.81.7.1"} {
			if got := take([]*tailnet.Node{a, b, c}[i], small); got != want {
				t.Errorf("node %d: got %s, want %s", i, got, want)
			}
		}
		if got := take(b, small); got != "100.81.0.5" {
			t.Errorf("a node that has one of them: got %s, want it kept", got)
		}
		d := w.join("d")
		if _, err := w.TakeFromPools(w.ctx, d.ID, small[:2]); !errors.Is(err, tailnet.ErrExhausted) {
			t.Errorf("pools that are used up: got %v, want %v", err, tailnet.ErrExhausted)
		}
		if got := w.node(d.ID); got.IPv4 != d.IPv4 {
			t.Errorf("after that: got %s, want %s as before", got.IPv4, d.IPv4)
		}
		if e := w.join("e"); e.IPv4.String() != "100.64.0.5" {
			t.Errorf("the next node without pools: got %s, want 100.64.0.5", e.IPv4)
		}
	})
}
