package store_test

import (
	"errors"
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"tailscale.com/tailcfg"

	"github.com/keelscale/keelscale/hscontrol/store"
	"github.com/keelscale/keelscale/hscontrol/tailnet"
)

func (w *world) announce(id tailnet.NodeID, routes ...string) {
	w.t.Helper()
	_, _, err := w.UpdateNode(w.ctx, id, store.NodeUpdate{Arrived: w.clock.advance(time.Second),
		Hostinfo: &tailcfg.Hostinfo{Hostname: "router", RoutableIPs: prefixes(routes...)}})
	if err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) approve(id tailnet.NodeID, routes ...string) *tailnet.Node {
	w.t.Helper()
	return must[*tailnet.Node](w.t)(w.ApproveRoutes(w.ctx, id, prefixes(routes...)))
}

func TestApproveRoutes(t *testing.T) {
	bothEngines(t, func(t *testing.T, w *world) {
		n := w.join("router")
		w.announce(n.ID, "10.0.0.0/24", "0.0.0.0/0", "::/0")
		got := w.approve(n.ID, "10.1.0.0/24", "10.0.0.0/24", "0.0.0.0/0")
		if diff := cmp.Diff(prefixes("0.0.0.0/0", "10.0.0.0/24", "10.1.0.0/24", "::/0"), got.ApprovedRoutes, comparable...); diff != "" {
			t.Errorf("approved (-want +got):\n%s", diff)
		}
		if diff := cmp.Diff(prefixes("10.0.0.0/24"), got.PrimaryRoutes, comparable...); diff != "" {
			t.Errorf("primary: only what is announced, and no exit route (-want +got):\n%s", diff)
		}
		got = w.approve(n.ID)
		if len(got.ApprovedRoutes)+len(got.PrimaryRoutes) != 0 {
			t.Errorf("got %v, %v after all were withdrawn", got.ApprovedRoutes, got.PrimaryRoutes)
		}
		before := w.revision()
		w.approve(n.ID)
		if after := w.revision(); after != before {
			t.Errorf("an approval that changes nothing raised the revision from %d to %d", before, after)
		}
		for name, c := range map[string]struct {
			routes []netip.Prefix
			want   error
		}{
			"host bits": {[]netip.Prefix{netip.MustParsePrefix("10.0.0.1/24")}, tailnet.ErrInvalid},
			"zero":      {make([]netip.Prefix, 1), tailnet.ErrInvalid},
			"too many":  {make([]netip.Prefix, 1001), tailnet.ErrTooMany},
		} {
			if _, err := w.ApproveRoutes(w.ctx, n.ID, c.routes); !errors.Is(err, c.want) {
				t.Errorf("%s: got %v, want %v", name, err, c.want)
			}
		}
	})
}

// TestPrimaries: the primary of a route follows sessions, announcements, approvals, expiry and deletion.
func TestPrimaries(t *testing.T) {
	bothEngines(t, func(t *testing.T, w *world) {
		a, b := w.join("a").ID, w.join("b").ID
		const route = "10.0.0.0/24"
		for _, id := range []tailnet.NodeID{a, b} {
			w.announce(id, route)
			w.approve(id, route)
		}
		past := w.clock.now().Add(-time.Minute)
		soon := w.clock.now().Add(time.Hour)
		for _, step := range []struct {
			name string
			do   func()
			want tailnet.NodeID
		}{
			{"nobody online: the first", func() {}, a},
			{"only b online", func() { w.online(b) }, b},
			{"a comes back, b keeps it", func() { w.online(a) }, b},
			{"b goes", func() { w.offline(b) }, a},
			{"a goes too and keeps it", func() { w.offline(a) }, a},
			{"both online", func() { w.online(a, b) }, a},
			{"a withdraws its announcement", func() { w.announce(a) }, b},
			{"a announces again, b keeps it", func() { w.announce(a, route) }, b},
			{"b's approval is withdrawn", func() { w.approve(b) }, a},
			{"b is approved again, a keeps it", func() { w.approve(b, route) }, a},
			{"a's key expires", func() { must[*tailnet.Node](t)(w.ExpireNode(w.ctx, a, &past)) }, b},
			{"a is renewed, b keeps it", func() { must[*tailnet.Node](t)(w.ExpireNode(w.ctx, a, nil)) }, b},
			{"b's key will expire", func() { must[*tailnet.Node](t)(w.ExpireNode(w.ctx, b, &soon)) }, b},
			{"and has expired", func() {
				w.clock.advance(2 * time.Hour)
				if err := w.PurgeExpired(w.ctx); err != nil {
					t.Fatal(err)
				}
			}, a},
			{"a is deleted", func() {
				if err := w.DeleteNode(w.ctx, a); err != nil {
					t.Fatal(err)
				}
			}, b},
		} {
			step.do()
			var got []tailnet.NodeID
			for _, n := range must[[]*tailnet.Node](t)(w.ListNodes(w.ctx, store.NodeFilter{})) {
				if len(n.PrimaryRoutes) > 0 {
					got = append(got, n.ID)
				}
			}
			if !cmp.Equal(got, []tailnet.NodeID{step.want}) {
				t.Errorf("%s: got primaries %v, want node %d", step.name, got, step.want)
			}
		}
		before := w.revision()
		if err := w.PurgeExpired(w.ctx); err != nil || w.revision() != before {
			t.Errorf("a purge with nothing to do: got %v, revision %d, want nil, %d", err, w.revision(), before)
		}
	})
}
