package store_test

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/keelscale/keelscale/hscontrol/store"
	"github.com/keelscale/keelscale/hscontrol/tailnet"
)

func addrs(texts ...string) (out []netip.Addr) {
	for _, text := range texts {
		out = append(out, netip.MustParseAddr(text))
	}
	return out
}

// TestSequentialAddrs: one after the other, over what clients reserve, round the end to those that are free again, and
// then no more.
func TestSequentialAddrs(t *testing.T) {
	bothConfigs(t, func(t *testing.T, cfg store.Config) {
		cfg.PrefixV4, cfg.PrefixV6 = netip.MustParsePrefix("100.100.100.96/29"), netip.Prefix{} // 97 to 102, less 100
		w := newWorld(t, cfg)
		var nodes []*tailnet.Node
		for i, want := range []string{"100.100.100.97", "100.100.100.98", "100.100.100.99", "100.100.100.101", "100.100.100.102"} {
			n := w.join(fmt.Sprint("n", i))
			if n.IPv4.String() != want || n.IPv6.IsValid() {
				t.Errorf("join %d: got %v, want %s alone", i, n.Addrs(), want)
			}
			nodes = append(nodes, n)
			if i == 1 { // is not given again before the end was reached
				if err := w.DeleteNode(w.ctx, n.ID); err != nil {
					t.Fatal(err)
				}
			}
		}
		if n := w.join("again"); n.IPv4 != nodes[1].IPv4 {
			t.Errorf("got %s, want %s, which is free again", n.IPv4, nodes[1].IPv4)
		}
		before := w.revision()
		_, err := w.JoinWithKey(w.ctx, w.secret, client("late"))
		if !errors.Is(err, tailnet.ErrExhausted) || !strings.Contains(err.Error(), "widen the prefix") {
			t.Errorf("got %v, want %v and what to do", err, tailnet.ErrExhausted)
		}
		if after := w.revision(); after != before {
			t.Errorf("a join that failed raised the revision from %d to %d", before, after)
		}
	})
}

func TestRandomAddrs(t *testing.T) {
	cfg := sqliteConfig(t)
	cfg.RandomAddresses, cfg.PrefixV4 = true, netip.MustParsePrefix("10.1.0.0/25")
	w := newWorld(t, cfg)
	seen := map[netip.Addr]bool{}
	sequential := true
	last := netip.Addr{}
	for range 126 { // all that there are
		n := w.join("n")
		if seen[n.IPv4] || seen[n.IPv6] || tailnet.Assignable(cfg.PrefixV4, n.IPv4) != nil || tailnet.Assignable(v6, n.IPv6) != nil {
			t.Errorf("got %v, want addresses in the ranges, each once", n.Addrs())
		}
		sequential = sequential && (!last.IsValid() || n.IPv4 == last.Next())
		seen[n.IPv4], seen[n.IPv6], last = true, true, n.IPv4
	}
	if sequential {
		t.Error("got addresses one after the other, want them at random")
	}
	if _, err := w.JoinWithKey(w.ctx, w.secret, client("late")); !errors.Is(err, tailnet.ErrExhausted) {
		t.Errorf("got %v, want %v", err, tailnet.ErrExhausted)
	}
}

func TestSetNodeAddrs(t *testing.T) {
	bothEngines(t, func(t *testing.T, w *world) {
		n, other := w.join("web"), w.join("db")
		set := func(texts ...string) (*tailnet.Node, error) { return w.SetNodeAddrs(w.ctx, n.ID, addrs(texts...)) }
		got := must[*tailnet.Node](t)(set("100.64.7.7"))
		if diff := cmp.Diff(addrs("100.64.7.7", n.IPv6.String()), got.Addrs(), comparable...); diff != "" {
			t.Errorf("one family (-want +got):\n%s", diff)
		}
		got = must[*tailnet.Node](t)(set("fd7a:115c:a1e0::7", "100.64.7.8"))
		if diff := cmp.Diff(addrs("100.64.7.8", "fd7a:115c:a1e0::7"), got.Addrs(), comparable...); diff != "" {
			t.Errorf("both (-want +got):\n%s", diff)
		}
		for name, c := range map[string]struct {
			addrs []string
			want  error
			says  string
		}{
			"none":              {nil, tailnet.ErrInvalid, "no address"},
			"two of one family": {[]string{"100.64.7.1", "100.64.7.2"}, tailnet.ErrInvalid, "one family"},
			"outside":           {[]string{"10.0.0.1"}, tailnet.ErrInvalid, "is not in 100.64.0.0/10"},
			"reserved":          {[]string{"100.100.100.100"}, tailnet.ErrInvalid, "reserved"},
			"taken":             {[]string{other.IPv4.String()}, tailnet.ErrExists, fmt.Sprintf("node %d (db) has it", other.ID)},
		} {
			if _, err := set(c.addrs...); !errors.Is(err, c.want) || !strings.Contains(err.Error(), c.says) {
				t.Errorf("%s: got %v, want %v that says %q", name, err, c.want, c.says)
			}
		}
		// An address that was set is skipped when its turn comes.
		must[*tailnet.Node](t)(set("100.64.0.3"))
		if next := w.join("next"); next.IPv4.String() != "100.64.0.4" {
			t.Errorf("got %s, want 100.64.0.4", next.IPv4)
		}
	})
}

func TestBackfillAddrs(t *testing.T) {
	bothConfigs(t, func(t *testing.T, cfg store.Config) {
		cfg.PrefixV6 = netip.Prefix{}
		cfg.Replica = "one"
		w := newWorld(t, cfg)
		n := w.join("web")
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		cfg.PrefixV4, cfg.PrefixV6 = netip.Prefix{}, v6
		cfg.Now = w.clock.now
		w.Store = open(t, cfg)
		want := []string{
			fmt.Sprintf("removed 100.64.0.1 from node %d (web)", n.ID),
			fmt.Sprintf("assigned fd7a:115c:a1e0::1 to node %d (web)", n.ID),
		}
		if diff := cmp.Diff(want, must[[]string](t)(w.BackfillAddrs(w.ctx, 0))); diff != "" {
			t.Errorf("changes (-want +got):\n%s", diff)
		}
		if diff := cmp.Diff(addrs("fd7a:115c:a1e0::1"), w.node(n.ID).Addrs(), comparable...); diff != "" {
			t.Errorf("addresses (-want +got):\n%s", diff)
		}
		before := w.revision()
		if again := must[[]string](t)(w.BackfillAddrs(w.ctx, w.user.TailnetID)); len(again) != 0 || w.revision() != before {
			t.Errorf("again: got %v, revision %d, want nothing", again, w.revision())
		}
	})
}

func TestTailnets(t *testing.T) {
	bothEngines(t, func(t *testing.T, w *world) {
		lab := must[*tailnet.Tailnet](t)(w.CreateTailnet(w.ctx, "lab", netip.MustParsePrefix("10.1.2.3/16"), netip.Prefix{}))
		if lab.PrefixV4.String() != "10.1.0.0/16" || lab.Revision != 1 {
			t.Errorf("got %+v, want 10.1.0.0/16 at revision 1", lab)
		}
		got := must[*tailnet.Tailnet](t)(w.FindTailnet(w.ctx, "lab"))
		lab.Revision = 0 // moves by itself
		if diff := cmp.Diff(lab, got, comparable...); diff != "" {
			t.Errorf("found (-made +found):\n%s", diff)
		}
		create := func(name string, v4, v6 netip.Prefix) error {
			_, err := w.CreateTailnet(w.ctx, name, v4, v6)
			return err
		}
		eve := w.newUser(lab.ID, "eve")
		busy := w.DeleteTailnet(w.ctx, "lab")
		_, unknown := w.FindTailnet(w.ctx, "zoe")
		for name, c := range map[string]struct{ got, want error }{
			"taken name":       {create("lab", v4, v6), tailnet.ErrExists},
			"bad name":         {create("L", v4, v6), tailnet.ErrInvalid},
			"swapped prefixes": {create("x", v6, v4), tailnet.ErrInvalid},
			"with users":       {busy, tailnet.ErrConflict},
			"default":          {w.DeleteTailnet(w.ctx, "default"), tailnet.ErrConflict},
			"delete unknown":   {w.DeleteTailnet(w.ctx, "zoe"), tailnet.ErrNotFound},
			"unknown":          {unknown, tailnet.ErrNotFound},
		} {
			if !errors.Is(c.got, c.want) {
				t.Errorf("%s: got %v, want %v", name, c.got, c.want)
			}
		}
		w.newKey(tailnet.PreAuthKey{TailnetID: lab.ID, Tags: []string{"tag:a"}})
		must[*tailnet.PolicyVersion](t)(w.PutPolicy(w.ctx, lab.ID, "{}", "cli"))
		if _, _, err := w.CreateAPIKey(w.ctx, tailnet.APIKey{TailnetID: lab.ID, Scopes: everything}); err != nil {
			t.Error(err)
		}
		if err := errors.Join(w.DeleteUser(w.ctx, eve.ID), w.DeleteTailnet(w.ctx, "lab")); err != nil {
			t.Errorf("an empty one: %v", err)
		}
		again := must[*tailnet.Tailnet](t)(w.CreateTailnet(w.ctx, "lab", netip.Prefix{}, netip.Prefix{}))
		if again.ID == lab.ID {
			t.Errorf("got ID %d again, want one that has not been", again.ID)
		}
		if all := must[[]*tailnet.Tailnet](t)(w.ListTailnets(w.ctx)); len(all) != 2 || all[0].Name != "default" {
			t.Errorf("got %d tailnets, want default and lab", len(all))
		}
		// Without prefixes of its own it has the server's.
		eve = w.newUser(again.ID, "eve")
		n := must[*tailnet.Node](t)(w.JoinWithKey(w.ctx, w.newKey(tailnet.PreAuthKey{UserID: eve.ID}), client("web")))
		if diff := cmp.Diff(addrs("100.64.0.1", "fd7a:115c:a1e0::1"), n.Addrs(), comparable...); diff != "" {
			t.Errorf("addresses (-want +got):\n%s", diff)
		}
	})
}
