package store_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/keelscale/keelscale/hscontrol/store"
	"github.com/keelscale/keelscale/hscontrol/tailnet"
)

func (w *world) webhook(events ...string) *tailnet.Webhook {
	w.t.Helper()
	return must[*tailnet.Webhook](w.t)(w.CreateWebhook(w.ctx, tailnet.Webhook{URL: "https://hooks.example.com/secret-path", Events: events}))
}

// told are the types of the events that wait for an endpoint, or were told, oldest first.
func (w *world) told(id uint64) (types []string) {
	w.t.Helper()
	list := must[[]tailnet.Delivery](w.t)(w.ListDeliveries(w.ctx, id, 1000))
	slices.Reverse(list)
	for _, d := range list {
		var e tailnet.Event
		if err := json.Unmarshal(d.Event, &e); err != nil {
			w.t.Fatal(err)
		}
		types = append(types, e.Type)
	}
	return types
}

// TestWebhooks: endpoints are made, changed and deleted; the log tells of it, without what is secret in a URL.
func TestWebhooks(t *testing.T) {
	bothEngines(t, func(t *testing.T, w *world) {
		last := w.lastAudit()
		h := w.webhook("userCreated", "userCreated", "nodeOnline")
		if !slices.Equal(h.Events, []string{"nodeOnline", "userCreated"}) || h.TailnetID != w.user.TailnetID {
			t.Errorf("got %+v", h)
		}
		rotated := must[*tailnet.Webhook](t)(w.RotateWebhook(w.ctx, h.ID))
		if slices.Equal(rotated.Salt, h.Salt) {
			t.Error("the salt is the same after rotating")
		}
		must[*tailnet.Webhook](t)(w.UpdateWebhook(w.ctx, h.ID, []string{"policyUpdate"}))
		got := must[*tailnet.Webhook](t)(w.GetWebhook(w.ctx, h.ID))
		if !slices.Equal(got.Events, []string{"policyUpdate"}) || !slices.Equal(got.Salt, rotated.Salt) {
			t.Errorf("got %+v, want the new events and the salt as it was", got)
		}
		if list := must[[]*tailnet.Webhook](t)(w.ListWebhooks(w.ctx, w.user.TailnetID)); len(list) != 1 {
			t.Errorf("got %d webhooks, want 1", len(list))
		}
		if err := w.DeleteWebhook(w.ctx, h.ID); err != nil {
			t.Fatal(err)
		}
		if _, err := w.GetWebhook(w.ctx, h.ID); !errors.Is(err, tailnet.ErrNotFound) {
			t.Errorf("got %v, want it gone", err)
		}
		var actions []string
		for _, e := range w.audit(store.AuditFilter{After: last}) {
			actions = append(actions, e.Action)
			if row := fmt.Sprintf("%+v %s %s", e, e.Before, e.After); strings.Contains(row, "secret-path") {
				t.Errorf("the log has the path of the endpoint: %s", row)
			}
		}
		if want := "webhook.create webhook.rotate webhook.update webhook.delete"; strings.Join(actions, " ") != want {
			t.Errorf("got %v, want %s", actions, want)
		}
		for _, bad := range []tailnet.Webhook{
			{URL: "https://x.example.com"}, {URL: "ftp://x.example.com", Events: []string{"userCreated"}}, {URL: "x", Events: []string{"userCreated"}},
			{URL: "https://u:p@x.example.com", Events: []string{"userCreated"}}, {URL: "https://x.example.com", Events: []string{"nothing"}},
			{URL: "https://x.example.com", Provider: "fax", Events: []string{"userCreated"}}, {URL: "file:///etc/passwd", Events: []string{"userCreated"}},
		} {
			if _, err := w.CreateWebhook(w.ctx, bad); !errors.Is(err, tailnet.ErrInvalid) {
				t.Errorf("%+v: got %v, want it refused", bad, err)
			}
		}
	})
}

// TestHappenings: each endpoint is told of what it subscribed to, in its tailnet, with the change and never without.
func TestHappenings(t *testing.T) {
	bothEngines(t, func(t *testing.T, w *world) {
		all, some := w.webhook(tailnet.CategoryManagement), w.webhook(tailnet.EventNodeOnline, "policyUpdate")
		lab := must[*tailnet.Tailnet](t)(w.CreateTailnet(w.ctx, "lab", v4, v6))
		w.newUser(lab.ID, "lena")
		n := w.join("web")
		w.online(n.ID)
		must[*tailnet.PolicyVersion](t)(w.PutPolicy(w.ctx, 0, "{}", "cli"))
		must[*tailnet.PolicyVersion](t)(w.PutPolicy(w.ctx, 0, "{}", "cli"))
		if _, err := w.CreateUser(w.ctx, tailnet.User{Name: "anna"}); err == nil {
			t.Error("a name was given twice")
		}
		if err := w.DeleteNode(w.ctx, n.ID); err != nil {
			t.Fatal(err)
		}
		if got := w.told(all.ID); !slices.Equal(got, []string{"nodeCreated", "policyUpdate", "nodeDeleted"}) {
			t.Errorf("management: got %v", got)
		}
		if got := w.told(some.ID); !slices.Equal(got, []string{tailnet.EventNodeOnline, "policyUpdate"}) {
			t.Errorf("some: got %v", got)
		}
	})
}

// TestExpiriesTold: of a key that expires within a day, and of one that has, each endpoint is told once.
func TestExpiriesTold(t *testing.T) {
	bothEngines(t, func(t *testing.T, w *world) {
		h := w.webhook(tailnet.EventNodeKeyExpiring, tailnet.EventNodeKeyExpired)
		n := w.join("web")
		w.join("other")
		at := w.clock.now().Add(30 * time.Hour)
		must[*tailnet.Node](t)(w.ExpireNode(w.ctx, n.ID, &at))
		purge := func(want ...string) {
			t.Helper()
			for range 2 {
				if err := w.PurgeExpired(w.ctx); err != nil {
					t.Fatal(err)
				}
			}
			if got := w.told(h.ID); !slices.Equal(got, want) {
				t.Errorf("got %v, want %v", got, want)
			}
		}
		purge()
		w.clock.advance(7 * time.Hour)
		purge(tailnet.EventNodeKeyExpiring)
		w.clock.advance(24 * time.Hour)
		purge(tailnet.EventNodeKeyExpiring, tailnet.EventNodeKeyExpired)
		at = w.clock.now().Add(12 * time.Hour)
		must[*tailnet.Node](t)(w.ExpireNode(w.ctx, n.ID, &at))
		purge(tailnet.EventNodeKeyExpiring, tailnet.EventNodeKeyExpired, tailnet.EventNodeKeyExpiring)
	})
}

// TestClaims: of many who ask at once, over one server or two, each delivery goes to one; it is due again after its
// lease, and in the next life of a server that held it.
func TestClaims(t *testing.T) {
	bothConfigs(t, func(t *testing.T, cfg store.Config) {
		cfg.Replica = "one"
		w := newWorld(t, cfg)
		stores := []*store.Store{w.Store}
		if cfg.Type == "postgres" {
			second := cfg
			second.Replica, second.Now = "two", w.clock.now
			stores = append(stores, open(t, second))
		}
		h := w.webhook("userCreated")
		const events = 60
		for i := range events {
			w.newUser(0, fmt.Sprint("u", i))
		}
		var mu sync.Mutex
		got := map[uint64]int{}
		claim := func(s *store.Store, limit int) int {
			list, err := s.ClaimDeliveries(w.ctx, limit, time.Minute)
			if err != nil {
				t.Error(err)
			}
			mu.Lock()
			defer mu.Unlock()
			for _, d := range list {
				got[d.ID]++
			}
			return len(list)
		}
		var wg sync.WaitGroup
		for i := range 8 {
			wg.Go(func() {
				for claim(stores[i%len(stores)], 7) > 0 {
					// until nothing is due
				}
			})
		}
		wg.Wait()
		for id, n := range got {
			if n != 1 {
				t.Errorf("delivery %d went to %d", id, n)
			}
		}
		if len(got) != events {
			t.Errorf("got %d deliveries, want %d", len(got), events)
		}
		w.clock.advance(2 * time.Minute)
		if n := claim(w.Store, 1000); n != events {
			t.Errorf("after the lease: got %d, want %d", n, events)
		}
		for id := range got {
			if err := w.NoteDelivery(w.ctx, store.Outcome{ID: id, Status: 200}); err != nil {
				t.Fatal(err)
			}
			break
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		cfg.Now = w.clock.now
		w.Store = open(t, cfg)
		if n := claim(w.Store, 1000); n != events-1 {
			t.Errorf("in the next life: got %d, want %d: all but the one that was delivered", n, events-1)
		}
		w.clock.advance(8 * 24 * time.Hour)
		if err := w.PurgeExpired(w.ctx); err != nil {
			t.Fatal(err)
		}
		if n := len(w.told(h.ID)); n != events-1 {
			t.Errorf("got %d deliveries after a week, want %d: what was delivered is forgotten", n, events-1)
		}
	})
}

// TestApprovals: it is told, and written down, when an administrator lets a node in.
func TestApprovals(t *testing.T) {
	bothEngines(t, func(t *testing.T, w *world) {
		h := w.webhook("nodeApproved", tailnet.EventNodeNeedsApproval)
		n := w.join("web")
		for _, in := range []bool{false, false, true} {
			must[*tailnet.Node](t)(w.AuthorizeNode(w.ctx, n.ID, in))
		}
		if got := w.told(h.ID); !slices.Equal(got, []string{"nodeApproved"}) {
			t.Errorf("got %v", got)
		}
		var actions []string
		for _, e := range w.audit(store.AuditFilter{Target: "node"}) {
			actions = append(actions, e.Action)
		}
		if !slices.Equal(actions, []string{"node.create", "node.unapprove", "node.approve"}) {
			t.Errorf("got %v", actions)
		}
	})
}

// TestRelayNews: endpoints are told when a relay leaves the DERP map and when it is back.
func TestRelayNews(t *testing.T) {
	bothEngines(t, func(t *testing.T, w *world) {
		h := w.webhook(tailnet.EventRelayUp, tailnet.EventRelayDown)
		r := w.enrol(store.RelayEnrolment{Region: "home"})
		for _, healthy := range []bool{true, true, false} {
			if err := w.SetRelayHealth(w.ctx, r.ID, healthy, "it does not answer"); err != nil {
				t.Fatal(err)
			}
		}
		if got := w.told(h.ID); !slices.Equal(got, []string{tailnet.EventRelayUp, tailnet.EventRelayDown}) {
			t.Errorf("got %v", got)
		}
	})
}
