package store_test

import (
	"encoding/json"
	"errors"
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/keelscale/keelscale/hscontrol/store"
	"github.com/keelscale/keelscale/hscontrol/tailnet"
)

// TestSettings: what is set for a tailnet is read again as it was, moves its revision, and is in the audit log.
func TestSettings(t *testing.T) {
	bothEngines(t, func(t *testing.T, w *world) {
		if got := must[*tailnet.Settings](t)(w.Settings(w.ctx, 0)); !cmp.Equal(got, &tailnet.Settings{}) {
			t.Errorf("got %+v at first, want nothing set", got)
		}
		yes := true
		servers := []tailnet.Resolver{{Address: "192.0.2.53"}, {Address: "https://dns.example/q", ViaExitNode: true}}
		want := &tailnet.Settings{
			DisplayName: "Ännchens", DevicesApproval: true, KeyDays: 30, AutoUpdates: &yes, PolicyElsewhere: true, PolicyLink: "https://git.example/acl",
			DNS: tailnet.DNSSettings{Nameservers: &servers, MagicDNS: &yes}, Contacts: map[string]string{"security": "sec@example.com"},
		}
		change := func(to tailnet.Settings) (*tailnet.Settings, error) {
			return w.ChangeSettings(w.ctx, 0, func(s *tailnet.Settings) error { *s = to; return nil })
		}
		before := w.revision()
		must[*tailnet.Settings](t)(change(*want))
		if diff := cmp.Diff(want, must[*tailnet.Settings](t)(w.Settings(w.ctx, 0))); diff != "" {
			t.Errorf("settings (-want +got):\n%s", diff)
		}
		d := must[tailnet.Delta](t)(w.Since(w.ctx, w.user.TailnetID, before))
		if diff := cmp.Diff(want, d.Settings); diff != "" || d.Full {
			t.Errorf("what followers are told (-want +got):\n%s", diff)
		}
		at := w.revision()
		must[*tailnet.Settings](t)(change(*want))
		if got := w.revision(); got != at {
			t.Errorf("the same once more: got revision %d, want %d still", got, at)
		}
		bad := *want
		bad.KeyDays = 1000
		if _, err := change(bad); !errors.Is(err, tailnet.ErrInvalid) {
			t.Errorf("a key for 1000 days: got %v, want %v", err, tailnet.ErrInvalid)
		}
		if _, err := w.ChangeSettings(w.ctx, 99, func(*tailnet.Settings) error { return nil }); !errors.Is(err, tailnet.ErrNotFound) {
			t.Errorf("of no tailnet: got %v, want %v", err, tailnet.ErrNotFound)
		}
		rows := w.audit(store.AuditFilter{Action: "settings"})
		if len(rows) != 1 || !json.Valid(rows[0].After) {
			t.Errorf("got rows %+v in the audit log, want one", rows)
		}
		w.verified()
	})
}

// TestDevicesApproval: where it is asked for, new nodes wait, those of preauthorized keys do not.
func TestDevicesApproval(t *testing.T) {
	bothEngines(t, func(t *testing.T, w *world) {
		must[*tailnet.Settings](t)(w.ChangeSettings(w.ctx, 0, func(s *tailnet.Settings) error { s.DevicesApproval = true; return nil }))
		waits := w.join("waits")
		open := w.newKey(tailnet.PreAuthKey{UserID: w.user.ID, Preauthorized: true})
		in := must[*tailnet.Node](t)(w.JoinWithKey(w.ctx, open, client("in")))
		if !waits.Unauthorized || in.Unauthorized {
			t.Errorf("got unauthorized %v and %v, want true and false", waits.Unauthorized, in.Unauthorized)
		}
		must[*tailnet.Node](t)(w.AuthorizeNode(w.ctx, waits.ID, true))
		if w.node(waits.ID).Unauthorized {
			t.Error("got the node still waiting after it was let in")
		}
		must[*tailnet.Node](t)(w.AuthorizeNode(w.ctx, waits.ID, false))
		if !w.node(waits.ID).Unauthorized {
			t.Error("got the node in, want it out again")
		}
		must[*tailnet.Node](t)(w.RenameNode(w.ctx, in.ID, "other"))
		if n := must[*tailnet.Node](t)(w.UnpinNode(w.ctx, in.ID)); n.GivenName != "in" || n.NamePinned {
			t.Errorf("got name %q, pinned %v, want that of its host", n.GivenName, n.NamePinned)
		}
	})
}

// TestUserStates: users are suspended and restored, and a tailnet keeps its last owner.
func TestUserStates(t *testing.T) {
	bothEngines(t, func(t *testing.T, w *world) {
		must[*tailnet.User](t)(w.SetUserRole(w.ctx, w.user.ID, "owner"))
		bert := w.newUser(0, "bert")
		status := func(id tailnet.UserID, to string, from ...string) error {
			_, err := w.SetUserStatus(w.ctx, id, to, from...)
			return err
		}
		role := func(id tailnet.UserID, to string) error { _, err := w.SetUserRole(w.ctx, id, to); return err }
		for _, c := range []struct {
			name string
			got  error
			want error
		}{
			{"suspend the last owner", status(w.user.ID, tailnet.UserSuspended), tailnet.ErrConflict},
			{"take the last owner's role", role(w.user.ID, "member"), tailnet.ErrConflict},
			{"remove the last owner", w.RemoveUser(w.ctx, w.user.ID), tailnet.ErrConflict},
			{"a role that there is not", role(bert.ID, "king"), tailnet.ErrInvalid},
			{"approve who does not wait", status(bert.ID, tailnet.UserActive, tailnet.UserNeedsApproval), tailnet.ErrConflict},
			{"suspend", status(bert.ID, tailnet.UserSuspended), nil},
			{"restore", status(bert.ID, tailnet.UserActive, tailnet.UserSuspended), nil},
			{"make another owner", role(bert.ID, "owner"), nil},
			{"suspend one of two owners", status(w.user.ID, tailnet.UserSuspended), nil},
			{"suspend the only active one", status(bert.ID, tailnet.UserSuspended), tailnet.ErrConflict},
			{"nobody", status(99, tailnet.UserSuspended), tailnet.ErrNotFound},
		} {
			if !errors.Is(c.got, c.want) {
				t.Errorf("%s: got %v, want %v", c.name, c.got, c.want)
			}
		}
		n := w.join("hers")
		if err := w.RemoveUser(w.ctx, w.user.ID); err != nil {
			t.Fatal(err)
		}
		if _, err := w.GetNode(w.ctx, n.ID); !errors.Is(err, tailnet.ErrNotFound) {
			t.Errorf("a node of a user who was removed: got %v, want it gone", err)
		}
	})
}

// TestInvites: who is invited begins with the role of the invitation, others wait where that is asked for.
func TestInvites(t *testing.T) {
	bothEngines(t, func(t *testing.T, w *world) {
		id := w.user.TailnetID
		invite := func(email, role string) (*tailnet.UserInvite, error) {
			return w.InviteUser(w.ctx, tailnet.UserInvite{TailnetID: id, Email: email, Role: role, InviterID: w.user.ID})
		}
		made := must[*tailnet.UserInvite](t)(invite("Carla@Example.com", "it-admin"))
		taken := must[*tailnet.UserInvite](t)(invite("d@example.com", "member"))
		if diff := cmp.Diff(made, must[*tailnet.UserInvite](t)(w.GetUserInvite(w.ctx, made.ID))); diff != "" || made.Email != "carla@example.com" {
			t.Errorf("invitation (-made +got):\n%s", diff)
		}
		if list := must[[]*tailnet.UserInvite](t)(w.ListUserInvites(w.ctx, id)); len(list) != 2 || list[0].ID != made.ID {
			t.Errorf("got %+v, want two, the oldest first", list)
		}
		_, twice := invite("carla@example.COM", "member")
		_, noMail := invite("carla", "member")
		for name, c := range map[string]struct{ got, want error }{
			"twice":       {twice, tailnet.ErrExists},
			"no mail":     {noMail, tailnet.ErrInvalid},
			"take back":   {w.DeleteUserInvite(w.ctx, taken.ID), nil},
			"take nobody": {w.DeleteUserInvite(w.ctx, 99), tailnet.ErrNotFound},
		} {
			if !errors.Is(c.got, c.want) {
				t.Errorf("%s: got %v, want %v", name, c.got, c.want)
			}
		}
		must[*tailnet.Settings](t)(w.ChangeSettings(w.ctx, 0, func(s *tailnet.Settings) error { s.UsersApproval = true; return nil }))
		login := func(name, email string) *tailnet.User {
			return must[*tailnet.User](t)(w.CreateUser(w.ctx, tailnet.User{Name: name, Email: email, Provider: "oidc", ProviderIdentifier: "https://id.example/" + name}))
		}
		if u := login("carla", "CARLA@example.com"); u.Role != "it-admin" || u.Status != tailnet.UserActive {
			t.Errorf("got role %q, state %q, want it-admin, active", u.Role, u.Status)
		}
		if u := login("stranger", "s@example.com"); u.Status != tailnet.UserNeedsApproval {
			t.Errorf("got state %q of a stranger, want that approval is waited for", u.Status)
		}
		if _, err := w.GetUserInvite(w.ctx, made.ID); !errors.Is(err, tailnet.ErrNotFound) {
			t.Errorf("an invitation that was taken up: got %v, want %v", err, tailnet.ErrNotFound)
		}
	})
}

// TestAttributes are written, replaced and forgotten, and end by themselves.
func TestAttributes(t *testing.T) {
	bothEngines(t, func(t *testing.T, w *world) {
		n := w.join("box")
		soon := w.clock.now().Add(time.Hour)
		set := func(name, value string, at *time.Time) error {
			return w.SetAttribute(w.ctx, tailnet.Attribute{NodeID: n.ID, Name: name, Value: value, Comment: "by a test", ExpiresAt: at})
		}
		past := w.clock.now().Add(-time.Second)
		for name, c := range map[string]struct{ got, want error }{
			"a text":    {set("custom:b", `"x"`, nil), nil},
			"a number":  {set("custom:a", "7", &soon), nil},
			"replaced":  {set("custom:b", "true", nil), nil},
			"no JSON":   {set("custom:c", "x", nil), tailnet.ErrInvalid},
			"past":      {set("custom:c", "1", &past), tailnet.ErrInvalid},
			"no node":   {w.SetAttribute(w.ctx, tailnet.Attribute{NodeID: 99, Name: "custom:a", Value: "1"}), tailnet.ErrNotFound},
			"no such":   {w.DeleteAttribute(w.ctx, n.ID, "custom:z"), tailnet.ErrNotFound},
			"and gone":  {errors.Join(set("custom:d", "1", nil), w.DeleteAttribute(w.ctx, n.ID, "custom:d")), nil},
			"of nobody": {w.DeleteAttribute(w.ctx, 99, "custom:a"), tailnet.ErrNotFound},
		} {
			if !errors.Is(c.got, c.want) {
				t.Errorf("%s: got %v, want %v", name, c.got, c.want)
			}
		}
		values := func() map[string]string {
			t.Helper()
			all := map[string]string{}
			for _, a := range must[[]tailnet.Attribute](t)(w.Attributes(w.ctx, n.ID)) {
				all[a.Name] = a.Value
			}
			return all
		}
		if diff := cmp.Diff(map[string]string{"custom:a": "7", "custom:b": "true"}, values()); diff != "" {
			t.Errorf("attributes (-want +got):\n%s", diff)
		}
		w.clock.advance(2 * time.Hour)
		if diff := cmp.Diff(map[string]string{"custom:b": "true"}, values()); diff != "" {
			t.Errorf("an hour later (-want +got):\n%s", diff)
		}
	})
}

// TestServices get addresses that no node has, keep them, and give them back.
func TestServices(t *testing.T) {
	bothEngines(t, func(t *testing.T, w *world) {
		id := w.user.TailnetID
		n := w.join("box")
		put := func(v tailnet.Service) (*tailnet.Service, error) { v.TailnetID = id; return w.PutService(w.ctx, v) }
		web := must[*tailnet.Service](t)(put(tailnet.Service{Name: "svc:web", Comment: "ours", Ports: []string{"tcp:443"}, Tags: []string{"tag:web"}, Annotations: map[string]string{"a": "b"}}))
		if len(web.Addrs) != 2 {
			t.Fatalf("got addresses %v, want one of each family", web.Addrs)
		}
		if diff := cmp.Diff(web, must[*tailnet.Service](t)(w.FindService(w.ctx, id, "svc:web")), comparable...); diff != "" {
			t.Errorf("service (-made +got):\n%s", diff)
		}
		again := must[*tailnet.Service](t)(put(tailnet.Service{Name: "svc:web", Comment: "changed"}))
		if diff := cmp.Diff(web.Addrs, again.Addrs, comparable...); diff != "" || again.Comment != "changed" {
			t.Errorf("changed to %+v; addresses (-before +after):\n%s", again, diff)
		}
		_, takenByNode := put(tailnet.Service{Name: "svc:db", Addrs: []netip.Addr{n.IPv4}})
		_, takenByService := put(tailnet.Service{Name: "svc:db", Addrs: web.Addrs})
		for name, c := range map[string]struct{ got, want error }{
			"a node's address":    {takenByNode, tailnet.ErrExists},
			"a service's address": {takenByService, tailnet.ErrExists},
			"delete":              {w.DeleteService(w.ctx, id, "svc:web"), nil},
			"delete again":        {w.DeleteService(w.ctx, id, "svc:web"), tailnet.ErrNotFound},
		} {
			if !errors.Is(c.got, c.want) {
				t.Errorf("%s: got %v, want %v", name, c.got, c.want)
			}
		}
		db := must[*tailnet.Service](t)(put(tailnet.Service{Name: "svc:db", Addrs: web.Addrs}))
		if list := must[[]*tailnet.Service](t)(w.ListServices(w.ctx, id)); len(list) != 1 || list[0].Name != db.Name {
			t.Errorf("got %+v, want svc:db with the addresses that are free again", list)
		}
		w.verified()
	})
}
