package store_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/keelscale/keelscale/hscontrol/store"
	"github.com/keelscale/keelscale/hscontrol/tailnet"
)

func names(users []*tailnet.User) (out []string) {
	for _, u := range users {
		out = append(out, u.Name)
	}
	return out
}

func TestUsers(t *testing.T) {
	bothEngines(t, func(t *testing.T, w *world) {
		other := must[*tailnet.Tailnet](t)(w.CreateTailnet(w.ctx, "lab", v4, v6))
		bob := must[*tailnet.User](t)(w.CreateUser(w.ctx, tailnet.User{Name: "bob", DisplayName: "Bob B.", Email: "Bob@example.com"}))
		w.newUser(other.ID, "anna") // the same name in another tailnet

		if got, want := bob.TailnetID, w.user.TailnetID; got != want {
			t.Errorf("got tailnet %d for a user without one, want default %d", got, want)
		}
		for _, c := range []struct {
			filter store.UserFilter
			want   []string
		}{
			{store.UserFilter{}, []string{"anna", "bob", "anna"}},
			{store.UserFilter{TailnetID: other.ID}, []string{"anna"}},
			{store.UserFilter{ID: bob.ID}, []string{"bob"}},
			{store.UserFilter{Name: "anna"}, []string{"anna", "anna"}},
			{store.UserFilter{Email: "bob@EXAMPLE.com"}, []string{"bob"}},
			{store.UserFilter{Name: "zoe"}, nil},
		} {
			if diff := cmp.Diff(c.want, names(must[[]*tailnet.User](t)(w.ListUsers(w.ctx, c.filter)))); diff != "" {
				t.Errorf("users of %+v (-want +got):\n%s", c.filter, diff)
			}
		}

		got := must[*tailnet.User](t)(w.RenameUser(w.ctx, bob.ID, "robert"))
		if got.Name != "robert" || got.Email != bob.Email {
			t.Errorf("got %+v after a rename, want only the name changed", got)
		}
		got.DisplayName, got.Name = "R.", "ignored"
		got = must[*tailnet.User](t)(w.UpdateUser(w.ctx, *got))
		if got.Name != "robert" || got.DisplayName != "R." {
			t.Errorf("got %+v after an update, want display name R. and name robert", got)
		}
		before := w.revision()
		must[*tailnet.User](t)(w.UpdateUser(w.ctx, *got))
		if after := w.revision(); after != before {
			t.Errorf("an update that changes nothing raised the revision from %d to %d", before, after)
		}
	})
}

func TestUserRefused(t *testing.T) {
	bothEngines(t, func(t *testing.T, w *world) {
		bob := w.newUser(0, "bob")
		must[*tailnet.User](t)(w.CreateUser(w.ctx, tailnet.User{Name: "oidc", ProviderIdentifier: "https://idp/1"}))
		create := func(u tailnet.User) error { _, err := w.CreateUser(w.ctx, u); return err }
		rename := func(id tailnet.UserID, name string) error { _, err := w.RenameUser(w.ctx, id, name); return err }
		for name, c := range map[string]struct{ got, want error }{
			"taken name":           {create(tailnet.User{Name: "anna"}), tailnet.ErrExists},
			"taken identity":       {create(tailnet.User{Name: "x", ProviderIdentifier: "https://idp/1"}), tailnet.ErrExists},
			"no name":              {create(tailnet.User{}), tailnet.ErrInvalid},
			"bad name":             {create(tailnet.User{Name: "a b"}), tailnet.ErrInvalid},
			"long text":            {create(tailnet.User{Name: "x", Email: strings.Repeat("x", 2000)}), tailnet.ErrInvalid},
			"unknown tailnet":      {create(tailnet.User{Name: "x", TailnetID: 99}), tailnet.ErrNotFound},
			"rename to taken name": {rename(bob.ID, "anna"), tailnet.ErrExists},
			"rename to bad name":   {rename(bob.ID, "-"), tailnet.ErrInvalid},
			"rename nobody":        {rename(99, "x"), tailnet.ErrNotFound},
			"delete nobody":        {w.DeleteUser(w.ctx, 99), tailnet.ErrNotFound},
		} {
			if !errors.Is(c.got, c.want) {
				t.Errorf("%s: got %v, want %v", name, c.got, c.want)
			}
		}
	})
}

func TestFindUser(t *testing.T) {
	bothEngines(t, func(t *testing.T, w *world) {
		lab := must[*tailnet.Tailnet](t)(w.CreateTailnet(w.ctx, "lab", v4, v6))
		must[*tailnet.User](t)(w.CreateUser(w.ctx, tailnet.User{Name: "bob", Email: "b@example.com"})) // ID 2
		w.newUser(0, "1")                                                                              // ID 3, named like an ID
		w.newUser(0, "77")                                                                             // ID 4, named like no ID
		w.newUser(lab.ID, "bob")                                                                       // ID 5
		must[*tailnet.User](t)(w.CreateUser(w.ctx, tailnet.User{Name: "eve", Email: "b@example.com"})) // ID 6
		for _, c := range []struct {
			in   tailnet.ID
			ref  string
			want tailnet.UserID
			err  error
		}{
			{0, "anna", 1, nil},
			{0, "1", 1, nil},
			{0, "name=1", 3, nil},
			{0, "id=3", 3, nil},
			{0, "77", 4, nil},
			{0, "id=77", 0, tailnet.ErrNotFound},
			{0, "id=x", 0, tailnet.ErrInvalid},
			{0, "bob", 0, tailnet.ErrConflict},
			{lab.ID, "bob", 5, nil},
			{lab.ID, "anna", 0, tailnet.ErrNotFound},
			{0, "B@example.com", 0, tailnet.ErrConflict},
			{0, "", 0, tailnet.ErrNotFound},
			{0, "zoe", 0, tailnet.ErrNotFound},
		} {
			u, err := w.FindUser(w.ctx, c.in, c.ref)
			if !errors.Is(err, c.err) || err == nil && u.ID != c.want {
				t.Errorf("FindUser(%d, %q): got %+v, %v, want user %d, %v", c.in, c.ref, u, err, c.want, c.err)
			}
		}
		_, err := w.FindUser(w.ctx, 0, "bob")
		if err == nil || !strings.Contains(err.Error(), "id=2") || !strings.Contains(err.Error(), "id=5") {
			t.Errorf("got %v, want the candidates id=2 and id=5 in it", err)
		}
	})
}

func TestDeleteUser(t *testing.T) {
	bothEngines(t, func(t *testing.T, w *world) {
		n := w.join("web")
		tagged := must[*tailnet.Node](t)(w.JoinWithKey(w.ctx, w.newKey(tailnet.PreAuthKey{UserID: w.user.ID, Tags: []string{"tag:web"}}), client("tagged")))
		err := w.DeleteUser(w.ctx, w.user.ID)
		if !errors.Is(err, tailnet.ErrConflict) || !strings.Contains(err.Error(), "1 node") {
			t.Errorf("got %v, want a conflict that tells of 1 node", err)
		}
		if err := w.DeleteNode(w.ctx, n.ID); err != nil {
			t.Fatal(err)
		}
		if err := w.DeleteUser(w.ctx, w.user.ID); err != nil {
			t.Errorf("got %v, want the user deleted: what is left is tagged", err)
		}
		if keys := must[[]*tailnet.PreAuthKey](t)(w.ListPreAuthKeys(w.ctx, store.KeyFilter{})); len(keys) != 0 {
			t.Errorf("got %d keys of a deleted user, want none", len(keys))
		}
		if got := w.node(tagged.ID); got.AuthKeyID != tagged.AuthKeyID || !got.IsTagged() {
			t.Errorf("got %+v, want the tagged node untouched", got)
		}
	})
}
