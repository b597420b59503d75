package store_test

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"tailscale.com/tailcfg"
	"tailscale.com/types/key"

	"github.com/keelscale/keelscale/hscontrol/store"
	"github.com/keelscale/keelscale/hscontrol/tailnet"
)

func TestJoinNew(t *testing.T) {
	bothEngines(t, func(t *testing.T, w *world) {
		j := client("My Laptop")
		j.NLKey = key.NewNLPrivate().Public()
		expiry := w.clock.now().Add(time.Hour)
		j.Expiry = &expiry
		got := must[*tailnet.Node](t)(w.JoinWithKey(w.ctx, w.secret, j))
		at := w.clock.now().Truncate(time.Microsecond)
		expiry = expiry.Truncate(time.Microsecond)
		want := &tailnet.Node{
			ID: got.ID, TailnetID: w.user.TailnetID, MachineKey: j.MachineKey, NodeKey: j.NodeKey, NLKey: j.NLKey,
			UserID: w.user.ID, Hostname: "My Laptop", GivenName: "my-laptop",
			IPv4: netip.MustParseAddr("100.64.0.1"), IPv6: netip.MustParseAddr("fd7a:115c:a1e0::1"),
			Hostinfo: j.Hostinfo, CapVersion: 113, RegisterMethod: tailnet.RegisterByAuthKey, AuthKeyID: 1,
			Expiry: &expiry, CreatedAt: at, UpdatedAt: at,
		}
		if diff := cmp.Diff(want, got, comparable...); diff != "" {
			t.Errorf("joined node (-want +got):\n%s", diff)
		}
		if diff := cmp.Diff(got, w.node(got.ID), comparable...); diff != "" {
			t.Errorf("stored node (-joined +stored):\n%s", diff)
		}
		byKey := must[*tailnet.Node](t)(w.FindNodeByKey(w.ctx, j.NodeKey))
		if byKey.ID != got.ID {
			t.Errorf("FindNodeByKey: got node %d, want %d", byKey.ID, got.ID)
		}
	})
}

// TestNames: names collide politely, in one tailnet only, and are free again after a deletion.
func TestNames(t *testing.T) {
	bothEngines(t, func(t *testing.T, w *world) {
		long := strings.Repeat("x", 63)
		for _, c := range []struct{ hostname, want string }{
			{"web", "web"}, {"web", "web-1"}, {"WEB", "web-2"}, {"web.example.com", "web-example-com"},
			{"", "node"}, {"…", "node-1"},
			{long, long}, {long, long[:61] + "-1"},
			{"bad\x00\xffname", "bad-name"},
		} {
			got := w.join(c.hostname).GivenName
			if c.hostname == "bad\x00\xffname" {
				if tailnet.ValidateGivenName(got) != nil {
					t.Errorf("join of %q: got name %q, want a valid one", c.hostname, got)
				}
			} else if got != c.want {
				t.Errorf("join of %q: got name %q, want %q", c.hostname, got, c.want)
			}
		}
		nodes := must[[]*tailnet.Node](t)(w.ListNodes(w.ctx, store.NodeFilter{GivenName: "web-1"}))
		if err := w.DeleteNode(w.ctx, nodes[0].ID); err != nil {
			t.Fatal(err)
		}
		if got := w.join("web").GivenName; got != "web-1" {
			t.Errorf("got name %q after web-1 was deleted, want web-1", got)
		}
		for range 60 {
			w.join("herd")
		}
		if got := w.join("herd").GivenName; got != "herd-60" {
			t.Errorf("got name %q for one of a herd of 61, want herd-60", got)
		}
	})
}

func TestKeyRefused(t *testing.T) {
	bothEngines(t, func(t *testing.T, w *world) {
		soon := w.clock.now().Add(time.Minute)
		expiring := w.newKey(tailnet.PreAuthKey{UserID: w.user.ID, Reusable: true, Expiration: &soon})
		once := w.newKey(tailnet.PreAuthKey{UserID: w.user.ID})
		must[*tailnet.Node](t)(w.JoinWithKey(w.ctx, once, client("first")))
		must[*tailnet.Node](t)(w.JoinWithKey(w.ctx, expiring, client("second")))
		w.clock.advance(time.Hour)
		wrongBody := once[:len(once)-64] + strings.Repeat("0", 64)
		before := w.revision()
		for name, c := range map[string]struct{ secret, says string }{
			"malformed": {"hunter2", "form hskey-auth"},
			"cut short": {once[:40], "cut short"},
			"unknown":   {"hskey-auth-" + strings.Repeat("0", 12) + "-" + strings.Repeat("0", 64), "not known"},
			"wrong":     {wrongBody, "not known"},
			"used":      {once, "has been used"},
			"expired":   {expiring, "expired at"},
			"API key":   {"hskey-api-" + strings.Repeat("0", 12) + "-" + strings.Repeat("0", 64), "form hskey-auth"},
		} {
			_, err := w.JoinWithKey(w.ctx, c.secret, client("late"))
			if !errors.Is(err, tailnet.ErrKeyRefused) || !strings.Contains(err.Error(), c.says) {
				t.Errorf("%s key: got %v, want %v that says %q", name, err, tailnet.ErrKeyRefused, c.says)
			}
			if err != nil && strings.Contains(err.Error(), c.secret[max(0, len(c.secret)-10):]) {
				t.Errorf("%s key: the error %v tells the secret", name, err)
			}
		}
		if after := w.revision(); after != before {
			t.Errorf("refused joins raised the revision from %d to %d", before, after)
		}
	})
}

func TestJoinBounds(t *testing.T) {
	w := newWorld(t, sqliteConfig(t))
	many := func(n int, f func(int) string) (out []string) {
		for i := range n {
			out = append(out, f(i))
		}
		return out
	}
	for name, c := range map[string]struct {
		change func(*store.Join)
		want   error
	}{
		"no machine key": {func(j *store.Join) { j.MachineKey = key.MachinePublic{} }, tailnet.ErrInvalid},
		"no node key":    {func(j *store.Join) { j.NodeKey = key.NodePublic{} }, tailnet.ErrInvalid},
		"long name":      {func(j *store.Join) { j.Hostinfo.Hostname = strings.Repeat("x", 256) }, tailnet.ErrInvalid},
		"large hostinfo": {func(j *store.Join) { j.Hostinfo.OSVersion = strings.Repeat("x", 64<<10) }, tailnet.ErrInvalid},
		"bad tag":        {func(j *store.Join) { j.Tags = []string{"web"} }, tailnet.ErrInvalid},
		"many tags": {func(j *store.Join) {
			j.Tags = many(101, func(i int) string { return fmt.Sprint("tag:t", i) })
		}, tailnet.ErrTooMany},
		"many routes": {func(j *store.Join) {
			for i := range 1001 {
				j.Hostinfo.RoutableIPs = append(j.Hostinfo.RoutableIPs, netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(i >> 8), byte(i), 0}), 24))
			}
		}, tailnet.ErrTooMany},
	} {
		j := client("x")
		c.change(&j)
		if _, err := w.JoinWithKey(w.ctx, w.secret, j); !errors.Is(err, c.want) {
			t.Errorf("%s: got %v, want %v", name, err, c.want)
		}
	}
	if nodes := must[[]*tailnet.Node](t)(w.ListNodes(w.ctx, store.NodeFilter{})); len(nodes) != 0 {
		t.Errorf("got %d nodes after refused joins, want none", len(nodes))
	}
}

// TestOneShotKeyRace: of many that use a one-shot key at once, one gets in.
func TestOneShotKeyRace(t *testing.T) {
	bothEngines(t, func(t *testing.T, w *world) {
		once := w.newKey(tailnet.PreAuthKey{UserID: w.user.ID})
		var won, refused atomic.Int32
		var wg sync.WaitGroup
		for range 50 {
			wg.Go(func() {
				_, err := w.JoinWithKey(w.ctx, once, client("racer"))
				switch {
				case err == nil:
					won.Add(1)
				case errors.Is(err, tailnet.ErrKeyRefused):
					refused.Add(1)
				default:
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if won.Load() != 1 || refused.Load() != 49 {
			t.Errorf("got %d joined and %d refused, want 1 and 49", won.Load(), refused.Load())
		}
	})
}

// TestReturnWithUsedKey: who may register again with a one-shot key that was used, or a key that expired.
func TestReturnWithUsedKey(t *testing.T) {
	for name, c := range map[string]struct {
		key    tailnet.PreAuthKey
		change func(*world, *tailnet.Node, *store.Join)
		want   error
	}{
		"the same node": {},
		"the same tagged node": {
			key: tailnet.PreAuthKey{Tags: []string{"tag:b", "tag:a"}},
		},
		"another node key": {
			change: func(_ *world, _ *tailnet.Node, j *store.Join) { j.NodeKey = key.NewNode().Public() },
		},
		"another node key after another key let it in": {
			change: func(w *world, _ *tailnet.Node, j *store.Join) {
				j.NodeKey = key.NewNode().Public()
				must[*tailnet.Node](w.t)(w.JoinWithKey(w.ctx, w.secret, *j))
				j.NodeKey = key.NewNode().Public()
			},
			want: tailnet.ErrKeyRefused,
		},
		"a rotated node key": {
			change: func(_ *world, n *tailnet.Node, j *store.Join) {
				j.NodeKey, j.OldNodeKey = key.NewNode().Public(), n.NodeKey
			},
		},
		"another machine": {
			change: func(_ *world, _ *tailnet.Node, j *store.Join) { j.MachineKey = key.NewMachine().Public() },
			want:   tailnet.ErrNodeKeyTaken,
		},
		"an expired node": {
			change: func(w *world, n *tailnet.Node, _ *store.Join) {
				at := w.clock.now()
				must[*tailnet.Node](w.t)(w.ExpireNode(w.ctx, n.ID, &at))
			},
			want: tailnet.ErrKeyRefused,
		},
		"a node that was tagged": {
			change: func(w *world, n *tailnet.Node, _ *store.Join) {
				must[*tailnet.Node](w.t)(w.SetNodeTags(w.ctx, n.ID, []string{"tag:x"}))
			},
			want: tailnet.ErrKeyRefused,
		},
		"a node that was retagged": {
			key: tailnet.PreAuthKey{Tags: []string{"tag:a"}},
			change: func(w *world, n *tailnet.Node, _ *store.Join) {
				must[*tailnet.Node](w.t)(w.SetNodeTags(w.ctx, n.ID, []string{"tag:x"}))
			},
			want: tailnet.ErrKeyRefused,
		},
		"a node that was moved": {
			change: func(w *world, n *tailnet.Node, _ *store.Join) {
				must[*tailnet.Node](w.t)(w.MoveNode(w.ctx, n.ID, w.newUser(0, "bob").ID))
			},
			want: tailnet.ErrKeyRefused,
		},
		"a node that was deleted": {
			change: func(w *world, n *tailnet.Node, _ *store.Join) {
				if err := w.DeleteNode(w.ctx, n.ID); err != nil {
					w.t.Fatal(err)
				}
			},
			want: tailnet.ErrKeyRefused,
		},
	} {
		t.Run(name, func(t *testing.T) {
			bothEngines(t, func(t *testing.T, w *world) {
				c := c
				if len(c.key.Tags) == 0 {
					c.key.UserID = w.user.ID
				}
				soon := w.clock.now().Add(time.Minute)
				expires := c.key
				expires.Reusable, expires.Expiration = true, &soon
				for kind, secret := range map[string]string{"used": w.newKey(c.key), "expired": w.newKey(expires)} {
					j := client("host-" + kind)
					n := must[*tailnet.Node](t)(w.JoinWithKey(w.ctx, secret, j))
					if kind == "expired" {
						_, err := w.FindPreAuthKey(w.ctx, secret)
						if err != nil {
							t.Fatal(err)
						}
						k := must[*tailnet.PreAuthKey](t)(w.FindPreAuthKey(w.ctx, secret))
						if err := w.ExpirePreAuthKey(w.ctx, k.ID); err != nil {
							t.Fatal(err)
						}
					}
					if c.change != nil {
						if name == "a node that was moved" && kind == "expired" {
							continue
						}
						c.change(w, n, &j)
					}
					again, err := w.JoinWithKey(w.ctx, secret, j)
					if !errors.Is(err, c.want) {
						t.Errorf("%s key: got %v, want %v", kind, err, c.want)
					}
					if err == nil && again.ID != n.ID {
						t.Errorf("%s key: got node %d, want %d again", kind, again.ID, n.ID)
					}
				}
			})
		})
	}
}

// kept are the fields that a node keeps when it joins again.
func kept(n *tailnet.Node) []any {
	return []any{n.ID, n.IPv4, n.IPv6, n.GivenName, n.ApprovedRoutes, n.CreatedAt}
}

// TestRejoin: which row a join continues.
func TestRejoin(t *testing.T) {
	bothEngines(t, func(t *testing.T, w *world) {
		bob := w.newUser(0, "bob")
		bobKey := w.newKey(tailnet.PreAuthKey{UserID: bob.ID, Reusable: true})
		tagKey := w.newKey(tailnet.PreAuthKey{Tags: []string{"tag:web"}, Reusable: true})
		otherTagKey := w.newKey(tailnet.PreAuthKey{Tags: []string{"tag:db"}, Reusable: true})

		for _, c := range []struct {
			name          string
			first, second string // keys
			change        func(*tailnet.Node, *store.Join)
			same          bool // the row is continued
			keeps         bool // and so are its approvals
			user          tailnet.UserID
			tags          []string
		}{
			{"the same keys", w.secret, w.secret, nil, true, true, w.user.ID, nil},
			{"rotation", w.secret, w.secret, rotate, true, true, w.user.ID, nil},
			{"logout and login", w.secret, w.secret, newNodeKey, true, true, w.user.ID, nil},
			{"transfer with the same node key", w.secret, bobKey, nil, true, false, bob.ID, nil},
			{"rotation to another user", w.secret, bobKey, rotate, false, false, bob.ID, nil},
			{"another profile", w.secret, bobKey, newNodeKey, false, false, bob.ID, nil},
			{"becomes tagged with the same node key", w.secret, tagKey, nil, true, false, 0, []string{"tag:web"}},
			{"becomes tagged by rotation", w.secret, tagKey, rotate, false, false, 0, []string{"tag:web"}},
			{"tagged again", tagKey, tagKey, rotate, true, true, 0, []string{"tag:web"}},
			{"tagged keeps its tags", tagKey, otherTagKey, rotate, true, true, 0, []string{"tag:web"}},
			{"tagged asks for tags", tagKey, w.secret, func(_ *tailnet.Node, j *store.Join) { j.Tags = []string{"tag:x"} }, true, true, 0, []string{"tag:x"}},
			{"tagged becomes a user's", tagKey, w.secret, nil, true, false, w.user.ID, nil},
			{"another machine", w.secret, w.secret, func(_ *tailnet.Node, j *store.Join) {
				j.MachineKey, j.NodeKey = key.NewMachine().Public(), key.NewNode().Public()
			}, false, false, w.user.ID, nil},
		} {
			j := client("host")
			expiry := w.clock.now().Add(time.Hour)
			j.Expiry = &expiry
			n := must[*tailnet.Node](t)(w.JoinWithKey(w.ctx, c.first, j))
			n = must[*tailnet.Node](t)(w.ApproveRoutes(w.ctx, n.ID, prefixes("10.0.0.0/8")))
			w.clock.advance(time.Minute)
			later := w.clock.now().Add(2 * time.Hour)
			j.Expiry, j.CapVersion = &later, 120
			if c.change != nil {
				c.change(n, &j)
			}
			got, err := w.JoinWithKey(w.ctx, c.second, j)
			if err != nil {
				t.Errorf("%s: %v", c.name, err)
				continue
			}
			if (got.ID == n.ID) != c.same {
				t.Errorf("%s: got node %d after %d, want the same: %v", c.name, got.ID, n.ID, c.same)
			}
			if !c.keeps {
				n.ApprovedRoutes = nil
			}
			if c.same && !cmp.Equal(kept(got), kept(n), comparable...) {
				t.Errorf("%s: kept fields: got %v, want %v", c.name, kept(got), kept(n))
			}
			if got.NodeKey != j.NodeKey || got.CapVersion != 120 {
				t.Errorf("%s: got %v and version %d, want the new node key and version", c.name, got.NodeKey, got.CapVersion)
			}
			if got.UserID != c.user || !cmp.Equal(got.Tags, c.tags) {
				t.Errorf("%s: got user %d, tags %v, want %d, %v", c.name, got.UserID, got.Tags, c.user, c.tags)
			}
			if tagged := len(c.tags) > 0; tagged != (got.Expiry == nil) {
				t.Errorf("%s: got expiry %v for tags %v", c.name, got.Expiry, got.Tags)
			}
		}
	})
}

func rotate(n *tailnet.Node, j *store.Join) {
	j.NodeKey, j.OldNodeKey = key.NewNode().Public(), n.NodeKey
}

func newNodeKey(_ *tailnet.Node, j *store.Join) { j.NodeKey = key.NewNode().Public() }

// TestReturnAfterLogout: of several rows of one machine and owner, the one that logged out is continued.
func TestReturnAfterLogout(t *testing.T) {
	w := newWorld(t, sqliteConfig(t))
	tagKey := w.newKey(tailnet.PreAuthKey{Tags: []string{"tag:web"}, Reusable: true})
	j := client("host")
	loggedOut := must[*tailnet.Node](t)(w.JoinWithKey(w.ctx, w.secret, j))
	j.NodeKey = key.NewNode().Public()
	tagged := must[*tailnet.Node](t)(w.JoinWithKey(w.ctx, tagKey, j))
	must[*tailnet.Node](t)(w.MoveNode(w.ctx, tagged.ID, w.user.ID))
	at := w.clock.now()
	must[*tailnet.Node](t)(w.ExpireNode(w.ctx, loggedOut.ID, &at))

	j.NodeKey = key.NewNode().Public()
	got := must[*tailnet.Node](t)(w.JoinWithKey(w.ctx, w.secret, j))
	if got.ID != loggedOut.ID || got.Expired(w.clock.now()) {
		t.Errorf("got node %d, expiry %v, want node %d, which logged out, alive", got.ID, got.Expiry, loggedOut.ID)
	}
}

// TestTwoTailnets: overlapping addresses and equal names, and a node key that goes from one to the other.
func TestTwoTailnets(t *testing.T) {
	bothEngines(t, func(t *testing.T, w *world) {
		lab := must[*tailnet.Tailnet](t)(w.CreateTailnet(w.ctx, "lab", v4, netip.Prefix{}))
		eve := w.newUser(lab.ID, "eve")
		labKey := w.newKey(tailnet.PreAuthKey{UserID: eve.ID, Reusable: true})

		j := client("web")
		first := must[*tailnet.Node](t)(w.JoinWithKey(w.ctx, w.secret, j))
		second := must[*tailnet.Node](t)(w.JoinWithKey(w.ctx, labKey, client("web")))
		if first.IPv4 != second.IPv4 || first.GivenName != second.GivenName {
			t.Errorf("got %s %s and %s %s, want equal names and addresses", first.GivenName, first.IPv4, second.GivenName, second.IPv4)
		}
		if second.IPv6.IsValid() {
			t.Errorf("got %s in a tailnet without IPv6", second.IPv6)
		}
		w.online(first.ID)
		moved := must[*tailnet.Node](t)(w.JoinWithKey(w.ctx, labKey, j))
		if moved.TailnetID != lab.ID || moved.ID == first.ID || moved.GivenName != "web-1" {
			t.Errorf("got %+v, want a new node web-1 in tailnet %d", moved, lab.ID)
		}
		if _, err := w.GetNode(w.ctx, first.ID); !errors.Is(err, tailnet.ErrNotFound) {
			t.Errorf("got %v for the node that left, want %v", err, tailnet.ErrNotFound)
		}
		for id, want := range map[tailnet.ID]int{w.user.TailnetID: 0, lab.ID: 2} {
			d := must[tailnet.Delta](t)(w.Since(w.ctx, id, 0))
			if len(d.Nodes) != want {
				t.Errorf("tailnet %d: got %d nodes, want %d", id, len(d.Nodes), want)
			}
		}
		if _, err := w.MoveNode(w.ctx, moved.ID, w.user.ID); !errors.Is(err, tailnet.ErrInvalid) {
			t.Errorf("moving a node to a user of another tailnet: got %v, want %v", err, tailnet.ErrInvalid)
		}
	})
}

// TestNetInfoKept: a registration tells no network information, and what was known stays.
func TestNetInfoKept(t *testing.T) {
	w := newWorld(t, sqliteConfig(t))
	j := client("host")
	j.Hostinfo.NetInfo = &tailcfg.NetInfo{PreferredDERP: 7}
	must[*tailnet.Node](t)(w.JoinWithKey(w.ctx, w.secret, j))
	j.Hostinfo = &tailcfg.Hostinfo{Hostname: "renamed"}
	got := must[*tailnet.Node](t)(w.JoinWithKey(w.ctx, w.secret, j))
	if got.HomeDERP != 7 || got.Hostinfo.NetInfo == nil || got.GivenName != "renamed" {
		t.Errorf("got home %d, NetInfo %v, name %q, want 7, the known one, renamed", got.HomeDERP, got.Hostinfo.NetInfo, got.GivenName)
	}
	j.Hostinfo = nil
	got = must[*tailnet.Node](t)(w.JoinWithKey(w.ctx, w.secret, j))
	if got.HomeDERP != 7 || got.Hostname != "renamed" {
		t.Errorf("got %+v after a join without host information, want it unchanged", got)
	}
}
