package store_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"tailscale.com/tailcfg"
	"tailscale.com/types/key"

	"github.com/keelscale/keelscale/hscontrol/store"
	"github.com/keelscale/keelscale/hscontrol/tailnet"
)

// TestLaw: whatever was done, the snapshot of an old revision and what changed since make the newest snapshot.
func TestLaw(t *testing.T) {
	bothConfigs(t, func(t *testing.T, cfg store.Config) {
		seed := uint64(time.Now().UnixNano())
		t.Logf("seed %d", seed)
		w := newWorld(t, cfg)
		h := newHerd(w, rand.New(rand.NewPCG(seed, 0)))
		kept := []*tailnet.Snapshot{h.snapshot()}
		for i := range 200 {
			act := h.act()
			now := h.snapshot()
			if last := kept[len(kept)-1]; now.Rev < last.Rev {
				t.Fatalf("step %d, %s: revision fell from %d to %d", i, act, last.Rev, now.Rev)
			}
			for _, from := range []*tailnet.Snapshot{kept[len(kept)-1], kept[h.rand.IntN(len(kept))]} {
				d := must[tailnet.Delta](t)(w.Since(w.ctx, w.user.TailnetID, from.Rev))
				if d.Full {
					t.Fatalf("step %d, %s: got a full delta from revision %d, want what changed", i, act, from.Rev)
				}
				if diff := cmp.Diff(now, from.Next(d), comparable...); diff != "" {
					t.Fatalf("step %d, %s: from revision %d to %d (-full +next):\n%s", i, act, from.Rev, d.Rev, diff)
				}
			}
			kept = append(kept, now)
		}
	})
}

// herd does things at random.
type herd struct {
	*world
	rand *rand.Rand
	tags string
	made []store.Join
}

func newHerd(w *world, r *rand.Rand) *herd {
	return &herd{world: w, rand: r, tags: w.newKey(tailnet.PreAuthKey{Tags: []string{"tag:herd"}, Reusable: true, Ephemeral: true})}
}

func (h *herd) snapshot() *tailnet.Snapshot {
	d := must[tailnet.Delta](h.t)(h.Since(h.ctx, h.user.TailnetID, 0))
	if !d.Full {
		h.t.Fatal("got a partial delta from revision 0, want a full one")
	}
	return (*tailnet.Snapshot)(nil).Next(d)
}

// act does one thing and says what. Some fail, as they do in life.
func (h *herd) act() string {
	h.clock.advance(time.Duration(h.rand.IntN(1000)) * time.Millisecond)
	ids := []tailnet.NodeID{0}
	for _, n := range must[[]*tailnet.Node](h.t)(h.ListNodes(h.ctx, store.NodeFilter{})) {
		ids = append(ids, n.ID)
	}
	id := ids[h.rand.IntN(len(ids))]
	session := fmt.Sprint("s", h.rand.IntN(2))
	acts := []struct {
		name string
		do   func() error
	}{
		{"join", h.joinSome},
		{"join again", h.joinAgain},
		{"update", func() error { return h.updateSome(id) }},
		{"approve routes", func() error { _, err := h.ApproveRoutes(h.ctx, id, h.routes()); return err }},
		{"open session", func() error { return h.OpenSession(h.ctx, id, session) }},
		{"close session", func() error {
			return h.CloseSessions(h.ctx, []store.SessionRef{{NodeID: id, SessionID: session}})
		}},
		{"rename", func() error { _, err := h.RenameNode(h.ctx, id, fmt.Sprint("n", h.rand.IntN(9))); return err }},
		{"tag", func() error { _, err := h.SetNodeTags(h.ctx, id, []string{"tag:x"}); return err }},
		{"move", func() error { _, err := h.MoveNode(h.ctx, id, tailnet.UserID(h.rand.IntN(4))); return err }},
		{"expire", func() error { at := h.clock.now(); _, err := h.ExpireNode(h.ctx, id, &at); return err }},
		{"delete", func() error { return h.DeleteNode(h.ctx, id) }},
		{"create user", func() error {
			_, err := h.CreateUser(h.ctx, tailnet.User{Name: fmt.Sprint("u", h.rand.IntN(4))})
			return err
		}},
		{"rename user", func() error {
			_, err := h.RenameUser(h.ctx, tailnet.UserID(h.rand.IntN(6)), fmt.Sprint("u", h.rand.IntN(4)))
			return err
		}},
		{"delete user", func() error { return h.DeleteUser(h.ctx, tailnet.UserID(2+h.rand.IntN(4))) }},
		{"policy", func() error { _, err := h.PutPolicy(h.ctx, 0, fmt.Sprint("{}//", h.rand.IntN(3)), "test"); return err }},
		{"set address", func() error {
			_, err := h.SetNodeAddrs(h.ctx, id, []netip.Addr{netip.AddrFrom4([4]byte{100, 64, 1, byte(1 + h.rand.IntN(5))})})
			return err
		}},
		{"reap", func() error { _, err := h.ReapEphemeral(h.ctx, h.clock.now().Add(-30*time.Second)); return err }},
		{"purge", func() error { return h.PurgeExpired(h.ctx) }},
	}
	a := acts[h.rand.IntN(len(acts))]
	if err := a.do(); err != nil {
		return a.name + ": " + err.Error()
	}
	return a.name
}

func (h *herd) routes() []netip.Prefix {
	all := prefixes("10.0.0.0/24", "10.0.1.0/24", "0.0.0.0/0", "::/0")
	return all[:h.rand.IntN(len(all)+1)]
}

func (h *herd) joinSome() error {
	j := client(fmt.Sprint("n", h.rand.IntN(5)))
	j.Hostinfo.RoutableIPs = h.routes()
	h.made = append(h.made, j)
	_, err := h.JoinWithKey(h.ctx, []string{h.secret, h.tags}[h.rand.IntN(2)], j)
	return err
}

func (h *herd) joinAgain() error {
	if len(h.made) == 0 {
		return nil
	}
	j := &h.made[h.rand.IntN(len(h.made))]
	if h.rand.IntN(2) == 0 {
		j.OldNodeKey, j.NodeKey = j.NodeKey, key.NewNode().Public()
	}
	_, err := h.JoinWithKey(h.ctx, []string{h.secret, h.tags}[h.rand.IntN(2)], *j)
	return err
}

func (h *herd) updateSome(id tailnet.NodeID) error {
	_, _, err := h.UpdateNode(h.ctx, id, store.NodeUpdate{
		Arrived:   h.clock.now(),
		DiscoKey:  key.NewDisco().Public(),
		Endpoints: []netip.AddrPort{netip.AddrPortFrom(netip.MustParseAddr("192.0.2.1"), uint16(h.rand.IntN(9)))},
		Hostinfo:  &tailcfg.Hostinfo{Hostname: fmt.Sprint("n", h.rand.IntN(5)), RoutableIPs: h.routes()},
	})
	return err
}

func TestSince(t *testing.T) {
	bothEngines(t, func(t *testing.T, w *world) {
		id := w.user.TailnetID
		since := func(from tailnet.Revision) tailnet.Delta {
			t.Helper()
			return must[tailnet.Delta](t)(w.Since(w.ctx, id, from))
		}
		w.online(w.join("a").ID)
		b := w.join("b")
		at := w.revision()
		if d := since(at); d.Full || d.Rev != at || len(d.Nodes)+len(d.Users) > 0 || d.Tailnet != nil {
			t.Errorf("got %+v from the newest revision, want nothing", d)
		}
		if d := since(at + 100); !d.Full {
			t.Errorf("got %+v from a revision that has not been, want all", d)
		}
		d := since(0)
		if !d.Full || len(d.Nodes) != 2 || len(d.Users) != 1 || d.Policy != nil || d.Tailnet.Name != "default" || d.Tailnet.Revision != 0 {
			t.Errorf("got %+v, want two nodes, a user, the tailnet without its revision, no policy", d)
		}
		if !d.Nodes[0].Online || d.Nodes[1].Online {
			t.Error("want the first node online and the second not")
		}
		if err := w.DeleteNode(w.ctx, b.ID); err != nil {
			t.Fatal(err)
		}
		must[*tailnet.PolicyVersion](t)(w.PutPolicy(w.ctx, 0, "{}", "cli"))
		d = since(at)
		if d.Full || !cmp.Equal(d.NodesGone, []tailnet.NodeID{b.ID}) || d.Policy == nil || d.Policy.Text != "{}" || len(d.Nodes) != 0 {
			t.Errorf("got %+v, want node %d gone and the policy", d, b.ID)
		}

		lab := must[*tailnet.Tailnet](t)(w.CreateTailnet(w.ctx, "lab", v4, v6))
		if err := w.DeleteTailnet(w.ctx, "lab"); err != nil {
			t.Fatal(err)
		}
		if d := must[tailnet.Delta](t)(w.Since(w.ctx, lab.ID, 1)); !d.Gone {
			t.Errorf("got %+v of a deleted tailnet, want it gone", d)
		}
	})
}

// TestPurgedLog: a follower behind what is kept of the log gets everything; one that is not, what changed.
func TestPurgedLog(t *testing.T) {
	bothConfigs(t, func(t *testing.T, cfg store.Config) {
		w := newWorld(t, cfg)
		w.join("a")
		// As if 20,010 changes of one object had followed, three rows each revision.
		db := raw(t, cfg)
		at := w.revision()
		for _, statement := range []string{
			fmt.Sprintf(`INSERT INTO changes (tailnet_id, revision, kind, object_id)
				WITH RECURSIVE n (i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < 20009)
				SELECT %d, %d + i / 3, 'node', i %% 3 FROM n`, w.user.TailnetID, at+1),
			fmt.Sprintf(`UPDATE tailnets SET revision = %d + 20009 / 3 WHERE id = %d`, at+1, w.user.TailnetID),
		} {
			if _, err := db.Exec(statement); err != nil {
				t.Fatal(err)
			}
		}
		full := func(from tailnet.Revision) bool {
			t.Helper()
			return must[tailnet.Delta](t)(w.Since(w.ctx, w.user.TailnetID, from)).Full
		}
		if full(at) {
			t.Error("got all before the purge, want what changed")
		}
		if err := w.PurgeExpired(w.ctx); err != nil {
			t.Fatal(err)
		}
		// 20,000 rows are 6,666 whole revisions and two rows of one more, which stays whole.
		newest := at + 1 + 20009/3
		oldest := newest - 6666
		for from, want := range map[tailnet.Revision]bool{at: true, oldest - 2: true, oldest - 1: false, oldest: false} {
			if got := full(from); got != want {
				t.Errorf("from %d, kept are %d to %d: got all: %v, want %v", from, oldest, newest, got, want)
			}
		}
	})
}

func TestMoved(t *testing.T) {
	bothConfigs(t, func(t *testing.T, cfg store.Config) {
		w := newWorld(t, cfg)
		wait := func(what string, moved <-chan struct{}) {
			t.Helper()
			select {
			case <-moved:
			case <-time.After(patience):
				t.Fatalf("%s did not wake the follower", what)
			}
		}
		moved := w.Moved()
		w.join("a")
		wait("a commit", moved)
		r := w.begin(waiting("x"))
		moved = w.Moved()
		if err := w.Reject(w.ctx, r.ID); err != nil {
			t.Fatal(err)
		}
		wait("a commit without a revision", moved)
		if cfg.Type != "postgres" {
			return
		}
		other := cfg
		other.Replica = "two"
		s := open(t, other)
		// Commits of the other replica arrive, the first maybe by the poll while it is not yet listened for.
		for i := range 5 {
			moved, at := w.Moved(), w.revision()
			must[*tailnet.User](t)(s.CreateUser(w.ctx, tailnet.User{Name: fmt.Sprint("u", i)}))
			for w.revision() == at {
				wait("another replica's commit", moved)
				moved = w.Moved()
			}
			wait("another replica's commit", moved)
		}
	})
}

// TestReplicas: two servers on one database take no revision, address or name twice.
func TestReplicas(t *testing.T) {
	cfg := postgresConfig(t)
	w := newWorld(t, cfg)
	other := cfg
	other.Replica, other.Now = "two", w.clock.now
	stores := []*store.Store{w.Store, open(t, other)}
	const each = 100
	errs := make(chan error, 2*each)
	before := w.revision()
	for i := range 2 * each {
		go func() {
			_, err := stores[i%2].JoinWithKey(context.Background(), w.secret, client("herd"))
			errs <- err
		}()
	}
	for range 2 * each {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
	d := must[tailnet.Delta](t)(w.Since(w.ctx, w.user.TailnetID, before))
	if len(d.Nodes) != 2*each {
		t.Errorf("got %d nodes in the log, want %d", len(d.Nodes), 2*each)
	}
	seen := map[any]bool{}
	for _, n := range d.Nodes {
		if seen[n.IPv4] || seen[n.GivenName] {
			t.Errorf("%s %s was given twice", n.GivenName, n.IPv4)
		}
		seen[n.IPv4], seen[n.GivenName] = true, true
	}
}
