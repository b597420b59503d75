package store_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/keelscale/keelscale/hscontrol/store"
	"github.com/keelscale/keelscale/hscontrol/tailnet"
)

func TestPreAuthKeys(t *testing.T) {
	bothEngines(t, func(t *testing.T, w *world) {
		lab := must[*tailnet.Tailnet](t)(w.CreateTailnet(w.ctx, "lab", v4, v6))
		expiration := w.clock.now().Add(time.Hour)
		k, secret, err := w.CreatePreAuthKey(w.ctx, tailnet.PreAuthKey{
			UserID: w.user.ID, Ephemeral: true, Tags: []string{"tag:b", "tag:a"}, Expiration: &expiration, Description: "ci",
		})
		if err != nil {
			t.Fatal(err)
		}
		at := expiration.Truncate(time.Microsecond)
		want := &tailnet.PreAuthKey{
			ID: k.ID, TailnetID: w.user.TailnetID, UserID: w.user.ID, Prefix: secret.Prefix, Hash: secret.Hash(), Description: "ci",
			Ephemeral: true, Tags: []string{"tag:a", "tag:b"}, Expiration: &at, CreatedAt: w.clock.now().Truncate(time.Microsecond),
		}
		for _, name := range []string{secret.Reveal(), secret.String(), secret.Prefix, "hskey-auth-" + secret.Prefix} {
			got, err := w.FindPreAuthKey(w.ctx, name)
			if err != nil {
				t.Errorf("FindPreAuthKey by a text of %d bytes: %v", len(name), err)
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("found key (-want +got):\n%s", diff)
			}
		}
		labKey, _, err := w.CreatePreAuthKey(w.ctx, tailnet.PreAuthKey{TailnetID: lab.ID, Tags: []string{"tag:x"}})
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range []struct {
			filter store.KeyFilter
			want   int
		}{{store.KeyFilter{}, 3}, {store.KeyFilter{TailnetID: lab.ID}, 1}, {store.KeyFilter{UserID: w.user.ID}, 2}} {
			if got := must[[]*tailnet.PreAuthKey](t)(w.ListPreAuthKeys(w.ctx, c.filter)); len(got) != c.want {
				t.Errorf("keys of %+v: got %d, want %d", c.filter, len(got), c.want)
			}
		}

		n := must[*tailnet.Node](t)(w.JoinWithKey(w.ctx, secret.Reveal(), client("web")))
		if err := w.ExpirePreAuthKey(w.ctx, labKey.ID); err != nil {
			t.Error(err)
		}
		expired := must[*tailnet.PreAuthKey](t)(w.FindPreAuthKey(w.ctx, labKey.Prefix)).Expiration
		w.clock.advance(time.Minute)
		if err := w.ExpirePreAuthKey(w.ctx, labKey.ID); err != nil {
			t.Errorf("expired again: %v", err)
		}
		if again := must[*tailnet.PreAuthKey](t)(w.FindPreAuthKey(w.ctx, labKey.Prefix)).Expiration; !again.Equal(*expired) {
			t.Errorf("got expiration %v after the second time, want %v still", again, expired)
		}
		// A key that was deleted does not come back when its node changes, and the node stays.
		if err := w.DeletePreAuthKey(w.ctx, k.ID); err != nil {
			t.Error(err)
		}
		must[*tailnet.Node](t)(w.RenameNode(w.ctx, n.ID, "renamed"))
		if _, err := w.FindPreAuthKey(w.ctx, secret.Prefix); !errors.Is(err, tailnet.ErrNotFound) {
			t.Errorf("got %v for a deleted key, want %v", err, tailnet.ErrNotFound)
		}
	})
}

func TestPreAuthKeyRefused(t *testing.T) {
	bothEngines(t, func(t *testing.T, w *world) {
		lab := must[*tailnet.Tailnet](t)(w.CreateTailnet(w.ctx, "lab", v4, v6))
		create := func(k tailnet.PreAuthKey) error { _, _, err := w.CreatePreAuthKey(w.ctx, k); return err }
		_, wrong := w.FindPreAuthKey(w.ctx, w.secret[:len(w.secret)-1]+"x")
		for name, c := range map[string]struct{ got, want error }{
			"neither user nor tags": {create(tailnet.PreAuthKey{}), tailnet.ErrInvalid},
			"bad tag":               {create(tailnet.PreAuthKey{Tags: []string{"tag:"}}), tailnet.ErrInvalid},
			"long description":      {create(tailnet.PreAuthKey{UserID: 1, Description: strings.Repeat("x", 2000)}), tailnet.ErrInvalid},
			"unknown user":          {create(tailnet.PreAuthKey{UserID: 99}), tailnet.ErrNotFound},
			"unknown tailnet":       {create(tailnet.PreAuthKey{TailnetID: 99, Tags: []string{"tag:a"}}), tailnet.ErrNotFound},
			"another tailnet":       {create(tailnet.PreAuthKey{UserID: 1, TailnetID: lab.ID}), tailnet.ErrInvalid},
			"many tags":             {create(tailnet.PreAuthKey{Tags: make([]string, 101)}), tailnet.ErrTooMany},
			"expire nothing":        {w.ExpirePreAuthKey(w.ctx, 99), tailnet.ErrNotFound},
			"delete nothing":        {w.DeletePreAuthKey(w.ctx, 99), tailnet.ErrNotFound},
			"find a wrong secret":   {wrong, tailnet.ErrNotFound},
		} {
			if !errors.Is(c.got, c.want) {
				t.Errorf("%s: got %v, want %v", name, c.got, c.want)
			}
		}
	})
}

// everything is what a key opens in tests that are not about that.
var everything = []string{tailnet.ScopeAll}

func TestAPIKeys(t *testing.T) {
	bothEngines(t, func(t *testing.T, w *world) {
		lab := must[*tailnet.Tailnet](t)(w.CreateTailnet(w.ctx, "lab", v4, v6))
		expiration := w.clock.now().Add(time.Hour)
		k, secret, err := w.CreateAPIKey(w.ctx, tailnet.APIKey{TailnetID: lab.ID, Scopes: everything, Expiration: &expiration})
		if err != nil {
			t.Fatal(err)
		}
		all, allSecret, err := w.CreateAPIKey(w.ctx, tailnet.APIKey{Scopes: everything})
		if err != nil {
			t.Fatal(err)
		}
		verify := func(secret string) (*tailnet.APIKey, error) { return w.VerifyAPIKey(w.ctx, secret) }
		got, err := verify(secret.Reveal())
		if err != nil || got.ID != k.ID || got.TailnetID != lab.ID {
			t.Errorf("got %+v, %v, want key %d of tailnet %d", got, err, k.ID, lab.ID)
		}
		seen := got.LastSeen
		w.written()
		w.clock.advance(30 * time.Second)
		if got := must[*tailnet.APIKey](t)(verify(secret.Reveal())); !got.LastSeen.Equal(*seen) {
			t.Errorf("got last seen %v after half a minute, want %v still", got.LastSeen, seen)
		}
		w.clock.advance(31 * time.Second)
		must[*tailnet.APIKey](t)(verify(secret.Reveal()))
		w.written()
		if got := must[*tailnet.APIKey](t)(w.FindAPIKey(w.ctx, k.ID, "")); !got.LastSeen.After(*seen) {
			t.Errorf("got last seen %v after a minute, want it later than %v", got.LastSeen, seen)
		}
		if got := must[*tailnet.APIKey](t)(w.FindAPIKey(w.ctx, 0, allSecret.String())); got.ID != all.ID || got.TailnetID != 0 {
			t.Errorf("got %+v, want key %d of all tailnets", got, all.ID)
		}
		if keys := must[[]*tailnet.APIKey](t)(w.ListAPIKeys(w.ctx)); len(keys) != 2 {
			t.Errorf("got %d keys, want 2", len(keys))
		}
		w.clock.advance(time.Hour)
		if err := w.ExpireAPIKey(w.ctx, all.ID); err != nil {
			t.Error(err)
		}
		refuse := func(secret string) error { _, err := verify(secret); return err }
		reveal := allSecret.Reveal()
		for name, c := range map[string]struct{ got, want error }{
			"expired":        {refuse(secret.Reveal()), tailnet.ErrAPIKeyRefused},
			"ended":          {refuse(reveal), tailnet.ErrAPIKeyRefused},
			"wrong":          {refuse(reveal[:len(reveal)-64] + strings.Repeat("0", 64)), tailnet.ErrAPIKeyRefused},
			"unknown":        {refuse("hskey-api-" + strings.Repeat("0", 12) + "-" + strings.Repeat("0", 64)), tailnet.ErrAPIKeyRefused},
			"malformed":      {refuse("x"), tailnet.ErrAPIKeyRefused},
			"pre-auth key":   {refuse(w.secret), tailnet.ErrAPIKeyRefused},
			"delete":         {w.DeleteAPIKey(w.ctx, all.ID), nil},
			"delete nothing": {w.DeleteAPIKey(w.ctx, 99), tailnet.ErrNotFound},
			"expire nothing": {w.ExpireAPIKey(w.ctx, 99), tailnet.ErrNotFound},
		} {
			if !errors.Is(c.got, c.want) {
				t.Errorf("%s: got %v, want %v", name, c.got, c.want)
			}
		}
		if _, err := w.FindAPIKey(w.ctx, 99, ""); !errors.Is(err, tailnet.ErrNotFound) {
			t.Errorf("got %v, want %v", err, tailnet.ErrNotFound)
		}
		if _, _, err := w.CreateAPIKey(w.ctx, tailnet.APIKey{TailnetID: 99, Scopes: everything}); !errors.Is(err, tailnet.ErrNotFound) {
			t.Errorf("key of an unknown tailnet: got %v, want %v", err, tailnet.ErrNotFound)
		}
	})
}

func TestPolicy(t *testing.T) {
	bothEngines(t, func(t *testing.T, w *world) {
		if p, err := w.GetPolicy(w.ctx, 0); p != nil || err != nil {
			t.Errorf("got %v, %v before the first policy, want nil, nil", p, err)
		}
		first := must[*tailnet.PolicyVersion](t)(w.PutPolicy(w.ctx, 0, "{}", "cli"))
		before := w.revision()
		same := must[*tailnet.PolicyVersion](t)(w.PutPolicy(w.ctx, w.user.TailnetID, "{}", "api"))
		if same.ID != first.ID || w.revision() != before {
			t.Errorf("the same text: got version %d, revision %d, want %d, %d", same.ID, w.revision(), first.ID, before)
		}
		second := must[*tailnet.PolicyVersion](t)(w.PutPolicy(w.ctx, 0, "{\"acls\": []}", "api"))
		third := must[*tailnet.PolicyVersion](t)(w.PutPolicy(w.ctx, 0, "{}", "api"))
		if got := must[*tailnet.PolicyVersion](t)(w.GetPolicy(w.ctx, 0)); got.ID != third.ID {
			t.Errorf("got version %d in force, want %d", got.ID, third.ID)
		}
		var ids []uint64
		for _, p := range must[[]*tailnet.PolicyVersion](t)(w.ListPolicies(w.ctx, 0)) {
			ids = append(ids, p.ID)
		}
		if diff := cmp.Diff([]uint64{third.ID, second.ID, first.ID}, ids); diff != "" {
			t.Errorf("versions (-want +got):\n%s", diff)
		}
		if _, err := w.PutPolicy(w.ctx, 99, "{}", "cli"); !errors.Is(err, tailnet.ErrNotFound) {
			t.Errorf("unknown tailnet: got %v, want %v", err, tailnet.ErrNotFound)
		}
		if _, err := w.PutPolicy(w.ctx, 0, strings.Repeat(" ", 5<<20), "cli"); !errors.Is(err, tailnet.ErrInvalid) {
			t.Errorf("5 MiB of policy: got %v, want %v", err, tailnet.ErrInvalid)
		}
	})
}

// A key's time counts from when it was asked for, however long the database is busy.
func TestKeyAskedFor(t *testing.T) {
	bothEngines(t, func(t *testing.T, w *world) {
		now := w.clock.now().Truncate(time.Microsecond)
		asked := now.Add(-3 * time.Second)
		until := asked.Add(time.Hour)
		for _, c := range []struct{ given, want time.Time }{{asked, asked}, {time.Time{}, now}, {now.Add(time.Minute), now}} {
			k, _, err := w.CreatePreAuthKey(w.ctx, tailnet.PreAuthKey{UserID: w.user.ID, Expiration: &until, CreatedAt: c.given})
			if err != nil || !k.CreatedAt.Equal(c.want) || !k.Expiration.Equal(until) {
				t.Errorf("asked for at %v: got %+v %v, want it made at %v", c.given, k, err, c.want)
			}
		}
	})
}
