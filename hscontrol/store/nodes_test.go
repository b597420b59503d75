package store_test

import (
	"context"
	"errors"
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"tailscale.com/tailcfg"
	"tailscale.com/types/key"

	"github.com/keelscale/keelscale/hscontrol/store"
	"github.com/keelscale/keelscale/hscontrol/tailnet"
)

func TestListNodes(t *testing.T) {
	bothEngines(t, func(t *testing.T, w *world) {
		a, b := w.join("a"), w.join("b")
		lab := must[*tailnet.Tailnet](t)(w.CreateTailnet(w.ctx, "lab", v4, v6))
		eve := w.newUser(lab.ID, "eve")
		c := must[*tailnet.Node](t)(w.JoinWithKey(w.ctx, w.newKey(tailnet.PreAuthKey{UserID: eve.ID}), client("c")))
		w.online(b.ID)
		for _, test := range []struct {
			filter store.NodeFilter
			want   []tailnet.NodeID
		}{
			{store.NodeFilter{}, []tailnet.NodeID{a.ID, b.ID, c.ID}},
			{store.NodeFilter{TailnetID: lab.ID}, []tailnet.NodeID{c.ID}},
			{store.NodeFilter{UserID: w.user.ID}, []tailnet.NodeID{a.ID, b.ID}},
			{store.NodeFilter{MachineKey: b.MachineKey}, []tailnet.NodeID{b.ID}},
			{store.NodeFilter{GivenName: "a", UserID: w.user.ID}, []tailnet.NodeID{a.ID}},
			{store.NodeFilter{GivenName: "zoe"}, nil},
		} {
			var got []tailnet.NodeID
			for _, n := range must[[]*tailnet.Node](t)(w.ListNodes(w.ctx, test.filter)) {
				got = append(got, n.ID)
				if n.Online != (n.ID == b.ID) {
					t.Errorf("node %d: got online %v", n.ID, n.Online)
				}
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("nodes of %+v (-want +got):\n%s", test.filter, diff)
			}
		}
		if _, err := w.GetNode(w.ctx, 99); !errors.Is(err, tailnet.ErrNotFound) {
			t.Errorf("got %v, want %v", err, tailnet.ErrNotFound)
		}
		if _, err := w.FindNodeByKey(w.ctx, key.NewNode().Public()); !errors.Is(err, tailnet.ErrNotFound) {
			t.Errorf("got %v, want %v", err, tailnet.ErrNotFound)
		}
	})
}

func TestUpdateNode(t *testing.T) {
	bothEngines(t, func(t *testing.T, w *world) {
		n := w.join("web")
		w.join("db")
		disco := key.NewDisco().Public()
		endpoints := []netip.AddrPort{netip.MustParseAddrPort("192.0.2.1:41641")}
		types := []tailcfg.EndpointType{tailcfg.EndpointSTUN}
		update := func(u store.NodeUpdate) (*tailnet.Node, bool) {
			t.Helper()
			u.Arrived = w.clock.advance(time.Second)
			before := w.revision()
			got, changed, err := w.UpdateNode(w.ctx, n.ID, u)
			if err != nil {
				t.Fatal(err)
			}
			if raised := w.revision() > before; raised != changed {
				t.Errorf("update %+v: got changed %v, but revision raised %v", u, changed, raised)
			}
			if diff := cmp.Diff(w.node(n.ID), got, comparable...); diff != "" {
				t.Errorf("update %+v: returned node (-stored +returned):\n%s", u, diff)
			}
			return got, changed
		}
		full := store.NodeUpdate{
			DiscoKey: disco, Endpoints: endpoints, EndpointTypes: types, CapVersion: 120,
			Hostinfo: &tailcfg.Hostinfo{Hostname: "web", OS: "linux", NetInfo: &tailcfg.NetInfo{PreferredDERP: 3}},
		}
		got, changed := update(full)
		if !changed || got.DiscoKey != disco || got.HomeDERP != 3 || got.CapVersion != 120 || !cmp.Equal(got.Endpoints, endpoints, comparable...) {
			t.Errorf("got %+v, %v, want all of the update in it", got, changed)
		}
		if _, changed := update(full); changed {
			t.Error("the same update again: got changed, want not")
		}
		if got, changed := update(store.NodeUpdate{Endpoints: endpoints, EndpointTypes: types}); changed {
			t.Errorf("an update without host information: got changed %+v, want not", got)
		}
		if got, changed := update(store.NodeUpdate{Endpoints: endpoints, EndpointTypes: types, Hostinfo: &tailcfg.Hostinfo{Hostname: "web", OS: "linux"}}); changed {
			t.Errorf("host information without network information: got changed %+v, want not", got)
		}
		if got, _ := update(store.NodeUpdate{}); len(got.Endpoints) != 0 || got.DiscoKey != disco {
			t.Errorf("got %v, %v after an update without endpoints, want none and the disco key", got.Endpoints, got.DiscoKey)
		}
		if got, _ := update(store.NodeUpdate{Hostinfo: &tailcfg.Hostinfo{Hostname: "db"}}); got.GivenName != "db-1" || got.HomeDERP != 3 {
			t.Errorf("got %s, home %d after a new host name, want db-1, 3", got.GivenName, got.HomeDERP)
		}
		must[*tailnet.Node](t)(w.RenameNode(w.ctx, n.ID, "pinned"))
		if got, _ := update(store.NodeUpdate{Hostinfo: &tailcfg.Hostinfo{Hostname: "other"}}); got.GivenName != "pinned" || got.Hostname != "other" {
			t.Errorf("got %s, %s, want the pinned name and the new host name", got.GivenName, got.Hostname)
		}
	})
}

// TestLateUpdate: a request that arrived earlier, or whose client went away, overwrites nothing.
func TestLateUpdate(t *testing.T) {
	bothEngines(t, func(t *testing.T, w *world) {
		n := w.join("web")
		at := w.clock.now()
		set := func(ctx context.Context, at time.Time, port uint16) error {
			_, _, err := w.UpdateNode(ctx, n.ID, store.NodeUpdate{Arrived: at,
				Endpoints: []netip.AddrPort{netip.AddrPortFrom(netip.MustParseAddr("192.0.2.1"), port)}})
			return err
		}
		if err := set(w.ctx, at, 1); err != nil {
			t.Fatal(err)
		}
		cancelled, cancel := context.WithCancel(w.ctx)
		cancel()
		before := w.revision()
		for name, c := range map[string]struct{ got, want error }{
			"earlier":        {set(w.ctx, at.Add(-time.Second), 2), tailnet.ErrStale},
			"at the instant": {set(w.ctx, at, 3), tailnet.ErrStale},
			"cancelled":      {set(cancelled, at.Add(time.Second), 4), context.Canceled},
		} {
			if !errors.Is(c.got, c.want) {
				t.Errorf("%s: got %v, want %v", name, c.got, c.want)
			}
		}
		if got := w.node(n.ID).Endpoints[0].Port(); got != 1 || w.revision() != before {
			t.Errorf("got port %d, revision %d, want 1, %d", got, w.revision(), before)
		}
		if err := set(w.ctx, w.clock.advance(time.Second), 5); err != nil {
			t.Errorf("a later one: %v", err)
		}
		if err := set(w.ctx, w.clock.advance(-time.Hour), 6); err != nil {
			t.Errorf("after the clock was set back: %v", err)
		}
		if _, _, err := w.UpdateNode(w.ctx, 99, store.NodeUpdate{}); !errors.Is(err, tailnet.ErrNotFound) {
			t.Errorf("got %v, want %v", err, tailnet.ErrNotFound)
		}
		if _, _, err := w.UpdateNode(w.ctx, n.ID, store.NodeUpdate{Endpoints: make([]netip.AddrPort, 101)}); !errors.Is(err, tailnet.ErrTooMany) {
			t.Errorf("101 endpoints: got %v, want %v", err, tailnet.ErrTooMany)
		}
	})
}

func TestAdministerNode(t *testing.T) {
	bothEngines(t, func(t *testing.T, w *world) {
		n, other := w.join("web"), w.join("db")
		bob := w.newUser(0, "bob")
		at := w.clock.now().Add(time.Hour).Truncate(time.Microsecond)

		got := must[*tailnet.Node](t)(w.ExpireNode(w.ctx, n.ID, &at))
		if got.Expiry == nil || !got.Expiry.Equal(at) {
			t.Errorf("got expiry %v, want %v", got.Expiry, at)
		}
		got = must[*tailnet.Node](t)(w.SetNodeTags(w.ctx, n.ID, []string{"tag:b", "tag:a", "tag:b"}))
		if !cmp.Equal(got.Tags, []string{"tag:a", "tag:b"}) || got.UserID != 0 || got.Expiry != nil {
			t.Errorf("got %+v, want it tagged a and b, without owner and expiry", got)
		}
		if diff := cmp.Diff(w.node(n.ID), got, comparable...); diff != "" {
			t.Errorf("tagged node (-stored +returned):\n%s", diff)
		}
		got = must[*tailnet.Node](t)(w.MoveNode(w.ctx, n.ID, bob.ID))
		if got.UserID != bob.ID || got.IsTagged() {
			t.Errorf("got %+v, want it bob's", got)
		}
		got = must[*tailnet.Node](t)(w.ExpireNode(w.ctx, n.ID, nil))
		if got.Expiry != nil {
			t.Errorf("got expiry %v, want none", got.Expiry)
		}
		before := w.revision()
		must[*tailnet.Node](t)(w.ExpireNode(w.ctx, n.ID, nil))
		must[*tailnet.Node](t)(w.MoveNode(w.ctx, n.ID, bob.ID))
		if after := w.revision(); after != before {
			t.Errorf("changes that change nothing raised the revision from %d to %d", before, after)
		}

		_, renamed := w.RenameNode(w.ctx, n.ID, "db")
		_, badName := w.RenameNode(w.ctx, n.ID, "Bad")
		_, noTags := w.SetNodeTags(w.ctx, n.ID, nil)
		_, badTag := w.SetNodeTags(w.ctx, n.ID, []string{"x"})
		_, nobody := w.MoveNode(w.ctx, n.ID, 99)
		_, unknown := w.RenameNode(w.ctx, 99, "x")
		for name, c := range map[string]struct{ got, want error }{
			"taken name":   {renamed, tailnet.ErrExists},
			"bad name":     {badName, tailnet.ErrInvalid},
			"no tags":      {noTags, tailnet.ErrInvalid},
			"bad tag":      {badTag, tailnet.ErrInvalid},
			"unknown user": {nobody, tailnet.ErrNotFound},
			"unknown node": {unknown, tailnet.ErrNotFound},
			"delete twice": {errors.Join(w.DeleteNode(w.ctx, other.ID), w.DeleteNode(w.ctx, other.ID)), tailnet.ErrNotFound},
		} {
			if !errors.Is(c.got, c.want) {
				t.Errorf("%s: got %v, want %v", name, c.got, c.want)
			}
		}
		if again := w.join("db"); again.ID <= other.ID || again.GivenName != "db" {
			t.Errorf("got node %d %s, want a new ID, never that of the deleted %d, and its name", again.ID, again.GivenName, other.ID)
		}
	})
}

func TestReapEphemeral(t *testing.T) {
	bothEngines(t, func(t *testing.T, w *world) {
		secret := w.newKey(tailnet.PreAuthKey{UserID: w.user.ID, Reusable: true, Ephemeral: true})
		j := client("returns")
		ephemeral := func(j store.Join) tailnet.NodeID {
			return must[*tailnet.Node](t)(w.JoinWithKey(w.ctx, secret, j)).ID
		}
		never, left, there, back := ephemeral(client("never")), ephemeral(client("left")), ephemeral(client("there")), ephemeral(j)
		stays := w.join("stays").ID
		w.online(left, there, back, stays)
		w.offline(left, back, stays)
		w.clock.advance(time.Hour)
		fresh := ephemeral(client("fresh"))
		j.NodeKey = key.NewNode().Public()
		if got := ephemeral(j); got != back {
			t.Fatalf("got node %d, want %d again", got, back)
		}
		got := must[[]tailnet.NodeID](t)(w.ReapEphemeral(w.ctx, w.clock.now().Add(-30*time.Minute)))
		if diff := cmp.Diff([]tailnet.NodeID{never, left}, got); diff != "" {
			t.Errorf("reaped (-want +got):\n%s", diff)
		}
		for _, id := range []tailnet.NodeID{there, back, stays, fresh} {
			w.node(id)
		}
		if got := must[[]tailnet.NodeID](t)(w.ReapEphemeral(w.ctx, w.clock.now().Add(-30*time.Minute))); len(got) != 0 {
			t.Errorf("reaped %v again, want nothing", got)
		}
	})
}
