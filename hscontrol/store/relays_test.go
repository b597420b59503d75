package store_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"tailscale.com/types/key"

	"github.com/keelscale/keelscale/hscontrol/store"
	"github.com/keelscale/keelscale/hscontrol/tailnet"
)

// relayKey makes an enrolment key.
func (w *world) relayKey(k tailnet.RelayKey) string {
	w.t.Helper()
	_, secret, err := w.CreateRelayKey(w.ctx, k)
	if err != nil {
		w.t.Fatal(err)
	}
	return secret.Reveal()
}

func (w *world) enrol(e store.RelayEnrolment) *tailnet.Relay {
	w.t.Helper()
	if e.MachineKey.IsZero() {
		e.MachineKey = key.NewMachine().Public()
	}
	if e.Key == "" {
		e.Key = w.relayKey(tailnet.RelayKey{})
	}
	return must[*tailnet.Relay](w.t)(w.EnrolRelay(w.ctx, e))
}

func (w *world) relay(id tailnet.RelayID) *tailnet.Relay {
	w.t.Helper()
	return must[*tailnet.Relay](w.t)(w.GetRelay(w.ctx, id))
}

func (w *world) region(r *tailnet.Relay) *tailnet.RelayRegion {
	w.t.Helper()
	return must[*tailnet.RelayRegion](w.t)(w.FindRelayRegion(w.ctx, r.RegionID))
}

// description is of a relay behind an address.
func description(addr string) tailnet.RelayDescription {
	a := netip.MustParseAddr(addr)
	return tailnet.RelayDescription{
		Version: "1.0", DERPKey: key.NewNode().Public(), Addresses: []netip.Addr{a}, SeenFrom: a, Published: []netip.Addr{a},
		DERPPort: 443, STUNPort: 3478, Port80: true,
		Certificates: []tailnet.RelayCertificate{{Name: "r-0123456789ab.relay.invalid", Pin: "sha256-raw:00", Expires: time.Date(2027, 1, 1, 0, 0, 0, 0, time.UTC)}},
	}
}

func TestEnrolRelay(t *testing.T) {
	bothEngines(t, func(t *testing.T, w *world) {
		e := store.RelayEnrolment{
			Key: w.relayKey(tailnet.RelayKey{}), MachineKey: key.NewMachine().Public(), Region: "home",
			Taken: []tailnet.RegionID{901, 903}, Description: description("192.0.2.1"),
		}
		before := w.revision()
		r := w.enrol(e)
		want := &tailnet.Relay{
			ID: r.ID, RegionID: 902, Name: "home-1", MachineKey: e.MachineKey, KeyID: r.KeyID, RelayDescription: e.Description,
			OutBecause: "it has not answered a probe yet", CreatedAt: w.clock.now().Truncate(time.Microsecond),
		}
		if diff := cmp.Diff(want, w.relay(r.ID), comparable...); diff != "" || w.revision() != before+1 {
			t.Errorf("a new relay, revision %d after %d (-want +got):\n%s", w.revision(), before, diff)
		}
		home := w.region(r)
		if home.Code != "home" || home.Name != "home" || len(home.MeshKey.Reveal()) != 64 || strings.Contains(fmt.Sprintf("%v %+v %#v", home, *home, home.MeshKey), home.MeshKey.Reveal()) {
			t.Errorf("its region: got %+v", home)
		}

		before = w.revision()
		w.clock.advance(48 * time.Hour)
		if again := w.enrol(e); again.ID != r.ID || w.revision() != before {
			t.Errorf("the same once more, after a lost answer: got relay %d at revision %d, want %d at %d", again.ID, w.revision(), r.ID, before)
		}
		stranger := e
		stranger.MachineKey = key.NewMachine().Public()
		if _, err := w.EnrolRelay(w.ctx, stranger); !errors.Is(err, tailnet.ErrRelayRefused) {
			t.Errorf("another relay with a used key: got %v, want %v", err, tailnet.ErrRelayRefused)
		}

		second := w.enrol(store.RelayEnrolment{Region: "home"})
		third := w.enrol(store.RelayEnrolment{Region: "fra", Taken: e.Taken})
		if second.RegionID != 902 || second.Name != "home-2" || third.RegionID != 904 || third.Name != "fra-1" {
			t.Errorf("got %s in %d and %s in %d, want home-2 in 902 and fra-1 in 904", second.Name, second.RegionID, third.Name, third.RegionID)
		}

		e.Key, e.Region = w.relayKey(tailnet.RelayKey{}), "fra"
		moved := w.enrol(e)
		if moved.ID != r.ID || moved.RegionID != 904 || moved.Name != "home-1" {
			t.Errorf("with another key for another region: got %+v, want relay %d in region 904", moved, r.ID)
		}
		if now := w.region(second); now.MeshKey == home.MeshKey {
			t.Error("the region that it left kept its mesh key")
		}
	})
}

func TestRelayNames(t *testing.T) {
	bothEngines(t, func(t *testing.T, w *world) {
		shared := w.relayKey(tailnet.RelayKey{Reusable: true})
		for _, c := range []struct{ name, region, wantName, wantRegion string }{
			{"VPS 1", "", "vps-1", "vps-1"},
			{"vps-1", "", "vps-1-1", "vps-1-1"},
			{"", "", "relay-1", "relay"},
			{"", "", "relay-1-1", "relay-1"},
			{"42", "home", "relay-42", "home"},
			{"2nd.example.com", "", "2nd-example-com", "nd-example-com"},
			{strings.Repeat("x", 80), "", strings.Repeat("x", 63), strings.Repeat("x", 26)},
			{strings.Repeat("x", 80), "", strings.Repeat("x", 61) + "-1", strings.Repeat("x", 26) + "-1"},
		} {
			r := w.enrol(store.RelayEnrolment{Key: shared, Name: c.name, Region: c.region})
			if region := w.region(r); r.Name != c.wantName || region.Code != c.wantRegion || tailnet.ValidateRegionCode(region.Code) != nil {
				t.Errorf("%q in %q: got %q in %q, want %q in %q", c.name, c.region, r.Name, region.Code, c.wantName, c.wantRegion)
			}
		}
		for _, code := range []string{"Home", "1a", "a b", "-a", "a-", strings.Repeat("a", 33), "a\x00"} {
			e := store.RelayEnrolment{Key: shared, MachineKey: key.NewMachine().Public(), Region: code}
			if _, err := w.EnrolRelay(w.ctx, e); !errors.Is(err, tailnet.ErrInvalid) {
				t.Errorf("region %q: got %v, want %v", code, err, tailnet.ErrInvalid)
			}
		}
	})
}

func TestRenameRelay(t *testing.T) {
	bothEngines(t, func(t *testing.T, w *world) {
		a, b := w.enrol(store.RelayEnrolment{Region: "home"}), w.enrol(store.RelayEnrolment{Region: "home"})
		rename := func(n store.RelayNames) (*tailnet.Relay, error) { return w.RenameRelay(w.ctx, a.ID, n) }
		before := w.revision()
		got := must[*tailnet.Relay](t)(rename(store.RelayNames{Name: "attic", RegionName: "Home, Berlin"}))
		if got.Name != "attic" || w.region(a).Name != "Home, Berlin" || w.revision() != before+1 {
			t.Errorf("got %+v, region %+v, revision %d after %d", got, w.region(a), w.revision(), before)
		}
		must[*tailnet.Relay](t)(rename(store.RelayNames{Name: "attic", RegionName: "Home, Berlin"}))
		if w.revision() != before+1 {
			t.Error("the same names once more raised the revision")
		}
		mesh := w.region(b).MeshKey
		got = must[*tailnet.Relay](t)(rename(store.RelayNames{Region: "office", Taken: []tailnet.RegionID{902}}))
		if got.RegionID != 903 || w.region(b).MeshKey == mesh {
			t.Errorf("moved to region %d, mesh key changed: %v; want 903, true", got.RegionID, w.region(b).MeshKey != mesh)
		}
		for name, want := range map[string]error{b.Name: tailnet.ErrExists, "Attic": tailnet.ErrInvalid, "17": tailnet.ErrInvalid, "a.b": tailnet.ErrInvalid} {
			if _, err := rename(store.RelayNames{Name: name}); !errors.Is(err, want) {
				t.Errorf("name %q: got %v, want %v", name, err, want)
			}
		}
		if _, err := w.RenameRelay(w.ctx, 99, store.RelayNames{Name: "x"}); !errors.Is(err, tailnet.ErrNotFound) {
			t.Errorf("a relay that is not: got %v, want %v", err, tailnet.ErrNotFound)
		}
	})
}

func TestRelayKeys(t *testing.T) {
	bothEngines(t, func(t *testing.T, w *world) {
		soon := w.clock.now().Add(time.Hour)
		row, secret, err := w.CreateRelayKey(w.ctx, tailnet.RelayKey{Description: "home", ExpiresAt: &soon})
		if err != nil {
			t.Fatal(err)
		}
		server := key.NewMachine().Public()
		whole := tailnet.RelayKeyText(secret, server)
		for _, ref := range []string{row.Prefix, secret.Reveal(), secret.String(), whole} {
			if got := must[*tailnet.RelayKey](t)(w.FindRelayKey(w.ctx, 0, ref)); got.ID != row.ID || got.Description != "home" {
				t.Errorf("by a text of %d letters: got %+v", len(ref), got)
			}
		}
		w.clock.advance(time.Hour)
		if _, err := w.EnrolRelay(w.ctx, store.RelayEnrolment{Key: whole, MachineKey: server}); !errors.Is(err, tailnet.ErrRelayRefused) || strings.Contains(err.Error(), secret.Reveal()) {
			t.Errorf("an expired key: got %v, want %v", err, tailnet.ErrRelayRefused)
		}
		other := must[tailnet.Secret](t)(tailnet.NewSecret(tailnet.RelayKeySecret, strings.NewReader(strings.Repeat("x", 38))))
		for _, text := range []string{"", "hskey-relay-0123", w.secret, other.Reveal(), whole[:len(whole)-1], secret.Reveal()[:len(secret.Reveal())-1] + "x"} {
			if _, err := w.EnrolRelay(w.ctx, store.RelayEnrolment{Key: text, MachineKey: server}); !errors.Is(err, tailnet.ErrRelayRefused) {
				t.Errorf("a key of %d letters: got %v, want %v", len(text), err, tailnet.ErrRelayRefused)
			}
		}
		r := w.enrol(store.RelayEnrolment{Region: "home"})
		if err := w.DeleteRelayKey(w.ctx, r.KeyID); err != nil || w.relay(r.ID).KeyID != r.KeyID {
			t.Errorf("deleting the key of a relay: %v, relay %+v", err, w.relay(r.ID))
		}
		if err := w.DeleteRelayKey(w.ctx, r.KeyID); !errors.Is(err, tailnet.ErrNotFound) {
			t.Errorf("deleting it again: got %v, want %v", err, tailnet.ErrNotFound)
		}
		if list := must[[]*tailnet.RelayKey](t)(w.ListRelayKeys(w.ctx)); len(list) != 1 || list[0].ID != row.ID || list[0].UsedAt != nil {
			t.Errorf("list: got %+v, want the expired one", list)
		}
	})
}

func TestRemoveRelay(t *testing.T) {
	bothEngines(t, func(t *testing.T, w *world) {
		reusable := w.relayKey(tailnet.RelayKey{Reusable: true})
		e := store.RelayEnrolment{Key: reusable, MachineKey: key.NewMachine().Public(), Region: "home"}
		r, other := w.enrol(e), w.enrol(store.RelayEnrolment{Region: "home"})
		if _, err := w.FindRelay(w.ctx, key.NewMachine().Public()); !errors.Is(err, tailnet.ErrNotFound) {
			t.Errorf("a machine that never enrolled: got %v, want %v", err, tailnet.ErrNotFound)
		}
		began := w.clock.now()
		if err := w.NoteRelayLoad(w.ctx, tailnet.RelayLoad{RelayID: r.ID, Started: &began, SentBytes: 1}); err != nil {
			t.Fatal(err)
		}
		mesh, before := w.region(r).MeshKey, w.revision()
		w.clock.advance(time.Second)
		if err := w.RemoveRelay(w.ctx, r.ID); err != nil {
			t.Fatal(err)
		}
		if _, err := w.FindRelay(w.ctx, e.MachineKey); !errors.Is(err, tailnet.ErrRelayRemoved) || w.revision() != before+1 {
			t.Errorf("after its removal: got %v, want %v by a new revision", err, tailnet.ErrRelayRemoved)
		}
		if w.region(other).MeshKey == mesh {
			t.Error("the removed relay knows the mesh key of its region")
		}
		for _, err := range []error{w.RemoveRelay(w.ctx, r.ID), w.NoteRelayLoad(w.ctx, tailnet.RelayLoad{RelayID: r.ID})} {
			if !errors.Is(err, tailnet.ErrNotFound) {
				t.Errorf("of a removed relay: got %v, want %v", err, tailnet.ErrNotFound)
			}
		}
		if _, err := w.EnrolRelay(w.ctx, e); !errors.Is(err, tailnet.ErrRelayRefused) {
			t.Errorf("back by the reusable key of before: got %v, want %v", err, tailnet.ErrRelayRefused)
		}
		w.clock.advance(time.Second)
		e.Key = w.relayKey(tailnet.RelayKey{})
		if back := w.enrol(e); back.ID == r.ID || back.RegionID != r.RegionID {
			t.Errorf("back by a new key: got %+v, want another relay in region %d", back, r.RegionID)
		}
		if _, err := w.FindRelay(w.ctx, e.MachineKey); err != nil {
			t.Errorf("after it came back: %v", err)
		}
	})
}

// TestRelaysOfTailnets: a relay is in the snapshots of those that it serves, and in no others.
func TestRelaysOfTailnets(t *testing.T) {
	bothEngines(t, func(t *testing.T, w *world) {
		lab := must[*tailnet.Tailnet](t)(w.CreateTailnet(w.ctx, "lab", v4, v6))
		def := w.user.TailnetID
		revs := func() map[tailnet.ID]tailnet.Revision {
			t.Helper()
			return must[map[tailnet.ID]tailnet.Revision](t)(w.Revisions(w.ctx))
		}
		full := func(id tailnet.ID) *tailnet.Snapshot {
			t.Helper()
			return (*tailnet.Snapshot)(nil).Next(must[tailnet.Delta](t)(w.Since(w.ctx, id, 0)))
		}
		before := revs()
		own := w.enrol(store.RelayEnrolment{Key: w.relayKey(tailnet.RelayKey{TailnetID: lab.ID}), Region: "home"})
		if now := revs(); now[def] != before[def] || now[lab.ID] != before[lab.ID]+1 || own.TailnetID != lab.ID {
			t.Errorf("a relay of lab: revisions %v after %v", now, before)
		}
		if len(full(def).Relays)+len(full(def).Regions) != 0 || full(lab.ID).Relay(own.ID) == nil || full(lab.ID).Regions[own.RegionID] == nil {
			t.Error("a relay of lab is not in its snapshot, or in another")
		}
		global := w.enrol(store.RelayEnrolment{Region: "fra"})
		if full(def).Relay(global.ID) == nil || full(lab.ID).Relay(global.ID) == nil || len(full(lab.ID).Regions) != 2 {
			t.Error("a relay for all is not in all snapshots")
		}
		theirs := w.enrol(store.RelayEnrolment{Key: w.relayKey(tailnet.RelayKey{TailnetID: def}), Region: "home"})
		if theirs.RegionID == own.RegionID {
			t.Error("relays of two tailnets share a region, and its mesh key")
		}
		for region, id := range map[string]tailnet.ID{"home": 0, "fra": lab.ID} {
			e := store.RelayEnrolment{Key: w.relayKey(tailnet.RelayKey{TailnetID: id}), MachineKey: key.NewMachine().Public(), Region: region}
			if _, err := w.EnrolRelay(w.ctx, e); !errors.Is(err, tailnet.ErrConflict) {
				t.Errorf("region %s for tailnet %d: got %v, want %v", region, id, err, tailnet.ErrConflict)
			}
		}
		if err := w.DeleteTailnet(w.ctx, "lab"); !errors.Is(err, tailnet.ErrConflict) {
			t.Errorf("deleting a tailnet with a relay: got %v, want %v", err, tailnet.ErrConflict)
		}
		// With a key for all it leaves its tailnet, and takes a region whose code is free.
		was := full(lab.ID)
		again := w.enrol(store.RelayEnrolment{Key: w.relayKey(tailnet.RelayKey{}), MachineKey: own.MachineKey, Region: "attic"})
		if again.ID != own.ID || again.TailnetID != 0 || again.RegionID == own.RegionID {
			t.Errorf("with a key for all: got %+v", again)
		}
		again = w.enrol(store.RelayEnrolment{Key: w.relayKey(tailnet.RelayKey{TailnetID: def}), MachineKey: own.MachineKey})
		d := must[tailnet.Delta](t)(w.Since(w.ctx, lab.ID, was.Rev))
		if !cmp.Equal(d.RelaysGone, []tailnet.RelayID{own.ID}) || again.TailnetID != def || len(was.Next(d).Relays) != 1 {
			t.Errorf("a relay that went to another tailnet: got delta %+v", d)
		}
		if err := w.DeleteTailnet(w.ctx, "lab"); err != nil {
			t.Errorf("deleting a tailnet that had a relay: %v", err)
		}
	})
}

func TestRelaySessions(t *testing.T) {
	bothConfigs(t, func(t *testing.T, cfg store.Config) {
		cfg.DeadAfter = 5 * time.Second // within which a busy machine opens a session and looks at it
		cfg.Replica = "one"
		w := newWorld(t, cfg)
		r := w.enrol(store.RelayEnrolment{})
		for _, c := range []struct {
			do     func() error
			online bool
			raised tailnet.Revision
			what   string
		}{
			{func() error { return w.OpenRelaySession(w.ctx, r.ID, "one") }, true, 1, "open"},
			{func() error { return w.OpenRelaySession(w.ctx, r.ID, "two") }, true, 0, "reconnect"},
			{func() error { return w.CloseRelaySession(w.ctx, r.ID, "one") }, true, 0, "late close"},
			{func() error { return w.CloseRelaySession(w.ctx, r.ID, "two") }, false, 1, "close"},
			{func() error { return w.CloseRelaySession(w.ctx, r.ID, "two") }, false, 0, "close again"},
			{func() error { return w.OpenRelaySession(w.ctx, r.ID, "three") }, true, 1, "open again"},
		} {
			before := w.revision()
			if err := c.do(); err != nil || w.relay(r.ID).Online != c.online || w.revision() != before+c.raised {
				t.Errorf("%s: got %v, online %v, revision %d after %d", c.what, err, w.relay(r.ID).Online, w.revision(), before)
			}
		}
		if err := w.OpenRelaySession(w.ctx, 99, "x"); !errors.Is(err, tailnet.ErrNotFound) {
			t.Errorf("session of an unknown relay: got %v, want %v", err, tailnet.ErrNotFound)
		}
		if cfg.Type == "postgres" {
			other := cfg
			other.Replica, other.DeadAfter = "two", time.Hour
			s := open(t, other)
			theirs := w.enrol(store.RelayEnrolment{})
			if err := errors.Join(s.OpenRelaySession(w.ctx, theirs.ID, "x"), w.PurgeExpired(w.ctx)); err != nil || !w.relay(theirs.ID).Online {
				t.Errorf("a session at a server that lives: %v, online %v", err, w.relay(theirs.ID).Online)
			}
			w.until("the relay of the dead server is offline", func() bool { return !w.relay(theirs.ID).Online })
			if !w.relay(r.ID).Online {
				t.Error("the session of the server that lives was ended")
			}
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		if again := must[*tailnet.Relay](t)(open(t, cfg).FindRelay(w.ctx, r.MachineKey)); again.Online {
			t.Error("a session of a former life of the server is still open")
		}
	})
}

func TestRelayTraffic(t *testing.T) {
	bothEngines(t, func(t *testing.T, w *world) {
		r, idle := w.enrol(store.RelayEnrolment{}), w.enrol(store.RelayEnrolment{})
		before := w.revision()
		now := w.clock.now() // 1 March 2026, 12:00
		began, counted := now, tailnet.Traffic{}
		note := func(at time.Time) {
			t.Helper()
			l := tailnet.RelayLoad{RelayID: r.ID, SeenAt: at, Started: &began, SentBytes: counted.Sent, ReceivedBytes: counted.Received}
			if err := w.NoteRelayLoad(w.ctx, l); err != nil {
				t.Fatal(err)
			}
		}
		add := func(at time.Time, sent, received uint64) {
			t.Helper()
			counted.Sent, counted.Received = counted.Sent+sent, counted.Received+received
			note(at)
			note(at) // said again, it is not moved again
		}
		add(now, 1<<40, 5)
		add(now.In(time.FixedZone("", 14*3600)), 1, 1) // 2 March there, still 1 March in UTC
		add(now.AddDate(0, 0, -1), 1000, 1000)         // last month
		w.clock.advance(24 * time.Hour)
		began, counted = now.Add(time.Hour), tailnet.Traffic{} // the relay was restarted
		add(w.clock.now(), 7, 15)
		add(w.clock.now(), 3, 5)
		got := must[map[tailnet.RelayID]tailnet.RelayTraffic](t)(w.RelayTraffic(w.ctx))
		want := map[tailnet.RelayID]tailnet.RelayTraffic{r.ID: {Today: tailnet.Traffic{Sent: 10, Received: 20}, Month: tailnet.Traffic{Sent: 1<<40 + 11, Received: 26}}}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
		load := tailnet.RelayLoad{RelayID: idle.ID, Clients: 7, CPU: 0.25, Troubles: []string{"the disk is full"}}
		for range 2 {
			if err := w.NoteRelayLoad(w.ctx, load); err != nil {
				t.Fatal(err)
			}
			load.Clients++
		}
		load.Clients, load.SeenAt = 8, w.clock.now().Truncate(time.Microsecond)
		loads := must[map[tailnet.RelayID]*tailnet.RelayLoad](t)(w.RelayLoads(w.ctx))
		if diff := cmp.Diff(&load, loads[idle.ID]); diff != "" || len(loads) != 2 {
			t.Errorf("load (-want +got):\n%s", diff)
		}
		mad := tailnet.RelayLoad{RelayID: r.ID, Started: &began, SentBytes: 1<<64 - 1}
		if err := w.NoteRelayLoad(w.ctx, mad); !errors.Is(err, tailnet.ErrInvalid) {
			t.Errorf("a counter at its end: got %v, want %v", err, tailnet.ErrInvalid)
		}
		if w.revision() != before {
			t.Error("traffic and load raised the revision")
		}
		w.clock.advance(399 * 24 * time.Hour)
		count := func() (n int) {
			t.Helper()
			if err := w.PurgeExpired(w.ctx); err != nil {
				t.Fatal(err)
			}
			return w.trafficDays()
		}
		if got := count(); got != 2 {
			t.Errorf("400 days later: got %d days, want 2", got)
		}
		w.clock.advance(24 * time.Hour)
		if got := count(); got != 1 {
			t.Errorf("401 days later: got %d days, want 1", got)
		}
	})
}

// trafficDays counts the days that are kept, by the months that they are in.
func (w *world) trafficDays() (days int) {
	w.t.Helper()
	now := w.clock.now()
	defer func() { w.clock.advance(now.Sub(w.clock.now())) }()
	for back := range 800 {
		w.clock.advance(now.AddDate(0, 0, -back).Sub(w.clock.now()))
		for _, sum := range must[map[tailnet.RelayID]tailnet.RelayTraffic](w.t)(w.RelayTraffic(w.ctx)) {
			if sum.Today != (tailnet.Traffic{}) {
				days++
			}
		}
	}
	return days
}

// TestRelayLaw: whatever was done to relays, what changed since an old revision makes the newest snapshot of each
// tailnet, and what stayed is the same pointer.
func TestRelayLaw(t *testing.T) {
	bothEngines(t, func(t *testing.T, w *world) {
		seed := uint64(time.Now().UnixNano())
		t.Logf("seed %d", seed)
		h := &relayHerd{world: w, rand: rand.New(rand.NewPCG(seed, 0))}
		for id := range tailnet.ID(3) {
			if id > 1 {
				must[*tailnet.Tailnet](t)(w.CreateTailnet(w.ctx, "lab", v4, v6))
			}
			h.keys = append(h.keys, w.relayKey(tailnet.RelayKey{TailnetID: id, Reusable: true}))
		}
		for range 5 {
			h.machines = append(h.machines, key.NewMachine().Public())
		}
		kept := map[tailnet.ID]*tailnet.Snapshot{}
		for i := range 150 {
			act := h.act()
			for id := range must[map[tailnet.ID]tailnet.Revision](t)(w.Revisions(w.ctx)) {
				now := (*tailnet.Snapshot)(nil).Next(must[tailnet.Delta](t)(w.Since(w.ctx, id, 0)))
				if was := kept[id]; was != nil {
					next := was.Next(must[tailnet.Delta](t)(w.Since(w.ctx, id, was.Rev)))
					if diff := cmp.Diff(now, next, comparable...); diff != "" {
						t.Fatalf("step %d, %s: tailnet %d from revision %d to %d (-full +next):\n%s", i, act, id, was.Rev, next.Rev, diff)
					}
					checkShared(t, was, next)
					now = next
				}
				if kept[id] == nil || h.rand.IntN(3) == 0 {
					kept[id] = now
				}
			}
		}
	})
}

// TestRelayReplicas: two servers on one database give no region, name or key twice, and no tailnet misses a relay that
// serves all of them, whenever it was made.
func TestRelayReplicas(t *testing.T) {
	cfg := postgresConfig(t)
	w := newWorld(t, cfg)
	other := cfg
	other.Replica, other.Now = "two", w.clock.now
	stores := []*store.Store{w.Store, open(t, other)}
	once, many := w.relayKey(tailnet.RelayKey{}), w.relayKey(tailnet.RelayKey{Reusable: true})
	const each = 20
	follow := map[tailnet.ID]*tailnet.Snapshot{}
	catchUp := func() {
		for id := range must[map[tailnet.ID]tailnet.Revision](t)(w.Revisions(w.ctx)) {
			from := tailnet.Revision(0)
			if follow[id] != nil {
				from = follow[id].Rev
			}
			follow[id] = follow[id].Next(must[tailnet.Delta](t)(w.Since(w.ctx, id, from)))
		}
	}
	ended := make(chan error)
	singles := make(chan error, 2*each)
	for i := range 2 * each {
		s := stores[i%2]
		go func() {
			_, err := s.EnrolRelay(w.ctx, store.RelayEnrolment{Key: once, MachineKey: key.NewMachine().Public()})
			singles <- err
			_, err = s.EnrolRelay(w.ctx, store.RelayEnrolment{Key: many, MachineKey: key.NewMachine().Public(), Region: []string{"home", ""}[i/2%2]})
			if err == nil {
				_, err = s.CreateTailnet(w.ctx, fmt.Sprint("t", i), v4, v6)
			}
			ended <- err
		}()
	}
	in := 0
	for range 2 * each {
		if err := <-ended; err != nil {
			t.Error(err)
		}
		if err := <-singles; err == nil {
			in++
		} else if !errors.Is(err, tailnet.ErrRelayRefused) {
			t.Error(err)
		}
		catchUp()
	}
	catchUp()
	if in != 1 {
		t.Errorf("a key for one use let in %d relays, want 1", in)
	}
	homes := map[tailnet.RegionID]bool{}
	for _, r := range must[[]*tailnet.RelayRegion](t)(w.ListRelayRegions(w.ctx)) {
		if r.Code == "home" {
			homes[r.ID] = true
		}
	}
	if len(homes) != 1 || len(follow) != 2*each+1 {
		t.Errorf("got %d regions called home in %d tailnets, want 1 in %d", len(homes), len(follow), 2*each+1)
	}
	for id, s := range follow {
		if len(s.Relays) != 2*each+1 {
			t.Errorf("tailnet %d, followed to revision %d: got %d relays, want %d", id, s.Rev, len(s.Relays), 2*each+1)
		}
	}
}

// checkShared checks that regions which are the same are the same pointers.
func checkShared(t *testing.T, was, next *tailnet.Snapshot) {
	t.Helper()
	for id, r := range next.Regions {
		if old := was.Regions[id]; old != nil && *old == *r && old != r {
			t.Errorf("region %d was read anew without a change", id)
		}
	}
	if was.Rev == next.Rev {
		for i, r := range next.Relays {
			if was.Relays[i] != r {
				t.Errorf("relay %d was read anew without a change", r.ID)
			}
		}
	}
}

// TestMigrateRelays: a database of before there were relays loses nothing.
func TestMigrateRelays(t *testing.T) {
	bothConfigs(t, func(t *testing.T, cfg store.Config) {
		w := newWorld(t, cfg)
		n := w.join("web")
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		db := raw(t, cfg)
		for _, table := range []string{"relay_traffic", "relay_loads", "relay_sessions", "relay_removals", "relays", "relay_regions", "relay_keys", "secrets", "replica_relays", "probe_answers", "database_timelines", "access_tokens", "oauth_clients",
			"webhook_marks", "webhook_deliveries", "webhooks", "audit_streams", "audit_head", "audit",
			"tailnet_settings", "node_attributes", "services", "user_invites"} {
			if _, err := db.Exec("DROP TABLE " + table); err != nil {
				t.Fatal(err)
			}
		}
		for _, statement := range []string{"ALTER TABLE nodes DROP COLUMN unauthorized", "ALTER TABLE users DROP COLUMN status",
			"ALTER TABLE pre_auth_keys DROP COLUMN preauthorized", "DROP INDEX api_key_user",
			"ALTER TABLE api_keys DROP COLUMN user_id", "ALTER TABLE api_keys DROP COLUMN description", "ALTER TABLE api_keys DROP COLUMN scopes",
			"ALTER TABLE api_keys DROP COLUMN tags", "ALTER TABLE schema_version DROP COLUMN oldest", "UPDATE schema_version SET version = 2"} {
			if _, err := db.Exec(statement); err != nil {
				t.Fatal(err)
			}
		}
		w.Store = open(t, cfg)
		if diff := cmp.Diff(n, w.node(n.ID), comparable...); diff != "" {
			t.Errorf("a node of before (-want +got):\n%s", diff)
		}
		w.enrol(store.RelayEnrolment{Region: "home"})
	})
}

// relayHerd does things with relays at random.
type relayHerd struct {
	*world
	rand     *rand.Rand
	keys     []string // for all, and for each tailnet
	machines []key.MachinePublic
}

func (h *relayHerd) act() string {
	h.clock.advance(time.Second)
	ids := []tailnet.RelayID{99}
	for _, r := range must[[]*tailnet.Relay](h.t)(h.ListRelays(h.ctx, store.RelayFilter{})) {
		ids = append(ids, r.ID)
	}
	id := ids[h.rand.IntN(len(ids))]
	code := []string{"", "home", "fra"}[h.rand.IntN(3)]
	acts := []struct {
		name string
		do   func() error
	}{
		{"enrol", func() error {
			_, err := h.EnrolRelay(h.ctx, store.RelayEnrolment{Key: h.keys[h.rand.IntN(len(h.keys))], MachineKey: h.machines[h.rand.IntN(len(h.machines))], Region: code})
			return err
		}},
		{"new key", func() error {
			i := h.rand.IntN(len(h.keys))
			h.keys[i] = h.relayKey(tailnet.RelayKey{TailnetID: tailnet.ID(i), Reusable: true})
			return nil
		}},
		{"describe", func() error {
			_, err := h.DescribeRelay(h.ctx, id, tailnet.RelayDescription{DERPPort: uint16(h.rand.IntN(3)), Certificates: []tailnet.RelayCertificate{{Expires: h.clock.now()}}})
			return err
		}},
		{"health", func() error { return h.SetRelayHealth(h.ctx, id, h.rand.IntN(2) == 0, "it does not answer") }},
		{"drain", func() error { _, err := h.DrainRelay(h.ctx, id, h.rand.IntN(2) == 0); return err }},
		{"rename", func() error {
			_, err := h.RenameRelay(h.ctx, id, store.RelayNames{Name: fmt.Sprint("n", h.rand.IntN(4)), Region: code, RegionName: fmt.Sprint("Region ", h.rand.IntN(3))})
			return err
		}},
		{"open", func() error { return h.OpenRelaySession(h.ctx, id, "s") }},
		{"close", func() error { return h.CloseRelaySession(h.ctx, id, "s") }},
		{"remove", func() error { return h.RemoveRelay(h.ctx, id) }},
		{"load", func() error { return h.NoteRelayLoad(h.ctx, tailnet.RelayLoad{RelayID: id, Clients: 3}) }},
	}
	a := acts[h.rand.IntN(len(acts))]
	if err := a.do(); err != nil {
		return a.name + ": " + err.Error()
	}
	return a.name
}

// FuzzRelayName: whatever a relay calls itself, it gets a name that is a DNS label and no number, and a region whose code
// is one.
func FuzzRelayName(f *testing.F) {
	for _, name := range []string{"vps", "VPS 1", "42", "-", "..", "北京", "a\x00b", "\xff", strings.Repeat("9", 70), strings.Repeat("x-", 40)} {
		f.Add(name)
	}
	w := newWorld(f, sqliteConfig(f))
	shared := w.relayKey(tailnet.RelayKey{Reusable: true})
	f.Fuzz(func(t *testing.T, name string) {
		w := &world{Store: w.Store, t: t, clock: w.clock, ctx: w.ctx}
		var made []*tailnet.Relay
		for range 2 {
			r, err := w.EnrolRelay(w.ctx, store.RelayEnrolment{Key: shared, MachineKey: key.NewMachine().Public(), Name: name})
			if err != nil {
				t.Fatalf("%q: %v", name, err)
			}
			if _, err := w.RenameRelay(w.ctx, r.ID, store.RelayNames{Name: r.Name}); err != nil {
				t.Errorf("%q: the relay cannot keep its name: %v", name, err)
			}
			if region := w.region(r); tailnet.ValidateRegionCode(region.Code) != nil {
				t.Errorf("%q: got region %q", name, region.Code)
			}
			made = append(made, r)
		}
		if made[0].RegionID == made[1].RegionID {
			t.Errorf("%q: two relays that asked for no region share one", name)
		}
		for _, r := range made {
			if err := w.RemoveRelay(w.ctx, r.ID); err != nil {
				t.Fatal(err)
			}
		}
	})
}
