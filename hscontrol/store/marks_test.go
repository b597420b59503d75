package store_test

import (
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/keelscale/keelscale/hscontrol/store"
	"github.com/keelscale/keelscale/hscontrol/tailnet"
)

// TestMarks: who keeps rows in memory finds out by the mark when they changed, whoever changed them.
func TestMarks(t *testing.T) {
	bothConfigs(t, func(t *testing.T, cfg store.Config) {
		w := newWorld(t, cfg)
		writer := w.Store
		if cfg.Type == "postgres" { // another server writes
			other := cfg
			other.Replica = "other"
			writer = open(t, other)
		}
		user, err := writer.CreateUser(w.ctx, tailnet.User{Name: "berta"})
		if err != nil {
			t.Fatal(err)
		}
		key := func(k tailnet.APIKey) *tailnet.APIKey {
			k.Scopes = everything
			made, _, err := writer.CreateAPIKey(w.ctx, k)
			return must[*tailnet.APIKey](t)(made, err)
		}
		expired, deleted := key(tailnet.APIKey{}), key(tailnet.APIKey{UserID: user.ID})
		oauth, _, err := writer.CreateOAuthClient(w.ctx, tailnet.OAuthClient{Kind: tailnet.ClientBySecret, Scopes: everything})
		if err != nil {
			t.Fatal(err)
		}
		authKey, secret, err := writer.CreatePreAuthKey(w.ctx, tailnet.PreAuthKey{UserID: w.user.ID})
		if err != nil {
			t.Fatal(err)
		}
		lab := must[*tailnet.Tailnet](t)(writer.CreateTailnet(w.ctx, "lab", v4, v6))
		machine := client("once")
		for _, c := range []struct {
			name  string
			topic store.Topic
			do    func() error
		}{
			{"a user gets a role", store.TopicGrants, func() error {
				_, err := writer.UpdateUser(w.ctx, tailnet.User{ID: user.ID, Role: "auditor"})
				return err
			}},
			{"an API key ends", store.TopicGrants, func() error { return writer.ExpireAPIKey(w.ctx, expired.ID) }},
			{"an API key goes", store.TopicGrants, func() error { return writer.DeleteAPIKey(w.ctx, deleted.ID) }},
			{"a client changes", store.TopicGrants, func() error {
				changed := *oauth
				changed.Scopes = []string{"dns"}
				_, err := writer.ChangeOAuthClient(w.ctx, changed)
				return err
			}},
			{"a client goes", store.TopicGrants, func() error { return writer.DeleteOAuthClient(w.ctx, oauth.ID) }},
			{"a pre-auth key is used", store.TopicKeys, func() error {
				_, err := writer.JoinWithKey(w.ctx, secret.Reveal(), machine)
				return err
			}},
			{"a pre-auth key ends", store.TopicKeys, func() error { return writer.ExpirePreAuthKey(w.ctx, authKey.ID) }},
			{"a pre-auth key goes", store.TopicKeys, func() error { return writer.DeletePreAuthKey(w.ctx, authKey.ID) }},
			{"a user goes", store.TopicGrants, func() error { return writer.DeleteUser(w.ctx, user.ID) }},
			{"a tailnet goes", store.TopicGrants, func() error { return writer.DeleteTailnet(w.ctx, lab.Name) }},
		} {
			before := must[uint64](t)(w.Mark(w.ctx, c.topic))
			if again := must[uint64](t)(w.Mark(w.ctx, c.topic)); again != before {
				t.Errorf("before %s: got mark %d, then %d; want it to stand", c.name, before, again)
			}
			if err := c.do(); err != nil {
				t.Fatalf("%s: %v", c.name, err)
			}
			if after := must[uint64](t)(w.Mark(w.ctx, c.topic)); after == before {
				t.Errorf("after %s: got mark %d still, want another", c.name, after)
			}
		}
	})
}

// TestKeptRows: what is kept in memory is what the tables have, also after operations that failed.
func TestKeptRows(t *testing.T) {
	bothConfigs(t, func(t *testing.T, cfg store.Config) {
		w := newWorld(t, cfg)
		db := raw(t, cfg)
		agree := func(after string) {
			t.Helper()
			rows, err := db.Query("SELECT id, name, revision FROM tailnets ORDER BY id")
			if err != nil {
				t.Fatal(err)
			}
			defer rows.Close()
			want, names := map[tailnet.ID]tailnet.Revision{}, []string(nil)
			for rows.Next() {
				var id, rev int64
				var name string
				if err := rows.Scan(&id, &name, &rev); err != nil {
					t.Fatal(err)
				}
				want[tailnet.ID(id)] = tailnet.Revision(rev)
				names = append(names, name)
			}
			if diff := cmp.Diff(want, must[map[tailnet.ID]tailnet.Revision](t)(w.Revisions(w.ctx))); diff != "" {
				t.Errorf("revisions after %s (-table +got):\n%s", after, diff)
			}
			var got []string
			for _, tn := range must[[]*tailnet.Tailnet](t)(w.ListTailnets(w.ctx)) {
				got = append(got, tn.Name)
			}
			if diff := cmp.Diff(names, got); diff != "" {
				t.Errorf("tailnets after %s (-table +got):\n%s", after, diff)
			}
		}
		agree("the start")
		w.join("a")
		agree("a join")
		lab := must[*tailnet.Tailnet](t)(w.CreateTailnet(w.ctx, "lab", netip.MustParsePrefix("10.0.0.0/16"), netip.Prefix{}))
		agree("a new tailnet")
		w.newUser(lab.ID, "carla")
		agree("a user in it")
		if _, err := w.CreateTailnet(w.ctx, "lab", v4, v6); err == nil {
			t.Error("the same name twice: got no error")
		}
		if err := w.DeleteTailnet(w.ctx, "lab"); err == nil {
			t.Error("deleting a tailnet with a user: got no error")
		}
		if _, err := w.RenameNode(w.ctx, 77, "nobody"); err == nil {
			t.Error("renaming nobody: got no error")
		}
		agree("failures")
		w.CreateTailnet(w.ctx, "next", v4, v6)
		if err := w.DeleteTailnet(w.ctx, "next"); err != nil {
			t.Fatal(err)
		}
		agree("one that came and went")
	})
}

// TestPreAuthKeysKept: a key that did not change is the same pointer, one that did is as it is now.
func TestPreAuthKeysKept(t *testing.T) {
	bothEngines(t, func(t *testing.T, w *world) {
		make1 := func() tailnet.KeyID {
			k, _, err := w.CreatePreAuthKey(w.ctx, tailnet.PreAuthKey{UserID: w.user.ID, Tags: []string{"tag:a"}})
			return must[*tailnet.PreAuthKey](t)(k, err).ID
		}
		stays, ends, goes := make1(), make1(), make1()
		find := func(ids ...tailnet.KeyID) map[tailnet.KeyID]*tailnet.PreAuthKey {
			t.Helper()
			return must[map[tailnet.KeyID]*tailnet.PreAuthKey](t)(w.PreAuthKeys(w.ctx, ids))
		}
		before := find(stays, ends, goes, 999)
		if len(before) != 4 || before[999] != nil || before[goes] == nil {
			t.Fatalf("got %v, want three keys and nil", before)
		}
		w.clock.advance(time.Minute)
		if err := w.ExpirePreAuthKey(w.ctx, ends); err != nil {
			t.Fatal(err)
		}
		if err := w.DeletePreAuthKey(w.ctx, goes); err != nil {
			t.Fatal(err)
		}
		after := find(goes, ends, stays)
		if after[stays] != before[stays] {
			t.Error("a key that did not change is another pointer")
		}
		if after[ends] == before[ends] || after[ends].Expiration == nil {
			t.Errorf("got %+v, want it to have ended", after[ends])
		}
		if after[goes] != nil {
			t.Errorf("got %+v, want it gone", after[goes])
		}
	})
}
