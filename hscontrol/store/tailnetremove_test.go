package store_test

import (
	"errors"
	"net/netip"
	"slices"
	"testing"

	"github.com/keelscale/keelscale/hscontrol/store"
	"github.com/keelscale/keelscale/hscontrol/tailnet"
)

// A tailnet goes with its nodes, users and keys, and nobody else does.
func TestRemoveTailnet(t *testing.T) {
	bothEngines(t, func(t *testing.T, w *world) {
		kept := w.join("kept")
		lab := must[*tailnet.Tailnet](t)(w.CreateTailnet(w.ctx, "lab", netip.Prefix{}, netip.Prefix{}))
		eve := must[*tailnet.User](t)(w.CreateUser(w.ctx, tailnet.User{TailnetID: lab.ID, Name: "eve", Role: "owner"}))
		key := w.newKey(tailnet.PreAuthKey{UserID: eve.ID, Reusable: true})
		for _, name := range []string{"one", "two"} {
			n := must[*tailnet.Node](t)(w.JoinWithKey(w.ctx, key, client(name)))
			if err := w.OpenSession(w.ctx, n.ID, "session of "+name); err != nil {
				t.Fatal(err)
			}
			must[*tailnet.Node](t)(w.ApproveRoutes(w.ctx, n.ID, []netip.Prefix{netip.MustParsePrefix("10.0.0.0/24")}))
		}
		must[*tailnet.PolicyVersion](t)(w.PutPolicy(w.ctx, lab.ID, "{}", "cli"))
		must[*tailnet.Settings](t)(w.ChangeSettings(w.ctx, lab.ID, func(s *tailnet.Settings) error { s.DisplayName = "Our Lab"; return nil }))
		if _, _, err := w.CreateAPIKey(w.ctx, tailnet.APIKey{UserID: eve.ID, Scopes: everything}); err != nil {
			t.Fatal(err)
		}
		if err := w.RemoveTailnet(w.ctx, kept.TailnetID); !errors.Is(err, tailnet.ErrConflict) {
			t.Errorf("the default one: got %v, want a conflict", err)
		}
		if err := w.RemoveTailnet(w.ctx, lab.ID); err != nil {
			t.Fatal(err)
		}
		if err := w.RemoveTailnet(w.ctx, lab.ID); !errors.Is(err, tailnet.ErrNotFound) {
			t.Errorf("once more: got %v, want that it is not found", err)
		}
		if users := must[[]*tailnet.User](t)(w.ListUsers(w.ctx, store.UserFilter{})); len(users) != 1 || users[0].Name != "anna" {
			t.Errorf("got users %v, want anna alone", users)
		}
		if all := must[[]*tailnet.Tailnet](t)(w.ListTailnets(w.ctx)); len(all) != 1 {
			t.Errorf("got %d tailnets, want the default one", len(all))
		}
		if n := w.node(kept.ID); n.GivenName != "kept" {
			t.Errorf("got %+v, want the node of the other tailnet as it was", n)
		}
		var told []string
		for _, e := range must[[]tailnet.AuditEntry](t)(w.ListAudit(w.ctx, store.AuditFilter{TailnetID: lab.ID})) {
			told = append(told, e.Action)
		}
		for _, want := range []string{"node.delete", "user.delete", "tailnet.delete"} {
			if !slices.Contains(told, want) {
				t.Errorf("the audit log has %q, want %s among them", told, want)
			}
		}
	})
}
