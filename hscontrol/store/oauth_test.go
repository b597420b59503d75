package store_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/crypto/bcrypt"

	"github.com/keelscale/keelscale/hscontrol/tailnet"
)

func TestGrantedKeys(t *testing.T) {
	bothEngines(t, func(t *testing.T, w *world) {
		lab := must[*tailnet.Tailnet](t)(w.CreateTailnet(w.ctx, "lab", v4, v6))
		lena := w.newUser(lab.ID, "lena")
		k, secret, err := w.CreateAPIKey(w.ctx, tailnet.APIKey{
			UserID: lena.ID, Description: "日报", Scopes: []string{"users:read", "dns", "dns"}, Tags: []string{"tag:b", "tag:a"},
		})
		if err != nil {
			t.Fatal(err)
		}
		want := &tailnet.APIKey{
			ID: k.ID, TailnetID: lab.ID, UserID: lena.ID, Prefix: secret.Prefix, Hash: secret.Hash(), Description: "日报",
			Scopes: []string{"dns", "users:read"}, Tags: []string{"tag:a", "tag:b"}, CreatedAt: k.CreatedAt,
		}
		for _, name := range []string{secret.Reveal(), secret.String(), secret.Prefix} {
			got := must[*tailnet.APIKey](t)(w.FindAPIKey(w.ctx, 0, name))
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("found key (-want +got):\n%s", diff)
			}
		}
		create := func(k tailnet.APIKey) error { _, _, err := w.CreateAPIKey(w.ctx, k); return err }
		for name, c := range map[string]struct{ got, want error }{
			"no scopes":        {create(tailnet.APIKey{}), tailnet.ErrInvalid},
			"unknown scope":    {create(tailnet.APIKey{Scopes: []string{"everything"}}), tailnet.ErrInvalid},
			"bad tag":          {create(tailnet.APIKey{Scopes: everything, Tags: []string{"web"}}), tailnet.ErrInvalid},
			"long description": {create(tailnet.APIKey{Scopes: everything, Description: strings.Repeat("x", 2000)}), tailnet.ErrInvalid},
			"unknown user":     {create(tailnet.APIKey{Scopes: everything, UserID: 99}), tailnet.ErrNotFound},
			"another tailnet":  {create(tailnet.APIKey{Scopes: everything, UserID: w.user.ID, TailnetID: lab.ID}), tailnet.ErrInvalid},
		} {
			if !errors.Is(c.got, c.want) {
				t.Errorf("%s: got %v, want %v", name, c.got, c.want)
			}
		}
		if err := w.DeleteUser(w.ctx, lena.ID); err != nil {
			t.Fatal(err)
		}
		if _, err := w.VerifyAPIKey(w.ctx, secret.Reveal()); !errors.Is(err, tailnet.ErrAPIKeyRefused) {
			t.Errorf("a key of a deleted user: got %v, want %v", err, tailnet.ErrAPIKeyRefused)
		}
	})
}

// Keys that headscale made are stored as it stored them: the prefix, and the bcrypt hash of what follows.
func TestOldAPIKeys(t *testing.T) {
	cfg := sqliteConfig(t)
	w := newWorld(t, cfg)
	body := strings.Repeat("a-_Z", 16)
	for name, c := range map[string]struct{ prefix, body, text string }{
		"before 0.28": {"wT3_k-9", body[:43], "wT3_k-9." + body[:43]},
		"since 0.28":  {"Ab-_cdefghij", body, "hskey-api-Ab-_cdefghij-" + body},
	} {
		hash, err := bcrypt.GenerateFromPassword([]byte(c.body), bcrypt.MinCost)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := raw(t, cfg).Exec("INSERT INTO api_keys (prefix, hash, created_at) VALUES (?, ?, ?)", c.prefix, hash, w.clock.now()); err != nil {
			t.Fatal(err)
		}
		if _, err := w.VerifyAPIKey(w.ctx, c.text[:len(c.text)-1]+"0"); !errors.Is(err, tailnet.ErrAPIKeyRefused) {
			t.Errorf("%s, a wrong one: got %v, want %v", name, err, tailnet.ErrAPIKeyRefused)
		}
		for range 2 { // the second time its hash is ours
			got, err := w.VerifyAPIKey(w.ctx, c.text)
			if err != nil || got.Prefix != c.prefix || !cmp.Equal(got.Scopes, everything) {
				t.Fatalf("%s: got %+v, %v, want the key with all scopes", name, got, err)
			}
			w.written()
		}
		k := must[*tailnet.APIKey](t)(w.FindAPIKey(w.ctx, 0, c.text))
		if len(k.Hash) != 32 {
			t.Errorf("%s: got a hash of %d bytes after it was used, want 32", name, len(k.Hash))
		}
		if _, err := w.VerifyAPIKey(w.ctx, c.text[:len(c.text)-1]+"0"); !errors.Is(err, tailnet.ErrAPIKeyRefused) {
			t.Errorf("%s, a wrong one afterwards: got %v, want %v", name, err, tailnet.ErrAPIKeyRefused)
		}
	}
}

func TestOAuthClients(t *testing.T) {
	bothEngines(t, func(t *testing.T, w *world) {
		c, secret, err := w.CreateOAuthClient(w.ctx, tailnet.OAuthClient{
			TailnetID: w.user.TailnetID, Kind: tailnet.ClientBySecret, Description: "ci", Scopes: []string{"auth_keys"}, Tags: []string{"tag:ci"}, Issuer: "x",
		})
		if err != nil {
			t.Fatal(err)
		}
		want := &tailnet.OAuthClient{
			ID: c.ID, TailnetID: w.user.TailnetID, Kind: tailnet.ClientBySecret, Prefix: secret.Prefix, Hash: secret.Hash(), Description: "ci",
			Scopes: []string{"auth_keys"}, Tags: []string{"tag:ci"}, CreatedAt: c.CreatedAt, UpdatedAt: c.CreatedAt,
		}
		if diff := cmp.Diff(want, must[*tailnet.OAuthClient](t)(w.VerifyOAuthClient(w.ctx, c.Prefix, secret.Reveal()))); diff != "" {
			t.Errorf("client (-want +got):\n%s", diff)
		}
		_, token, err := w.CreateAccessToken(w.ctx, c.ID, []string{"auth_keys:read"}, nil)
		if err != nil {
			t.Fatal(err)
		}
		got, of, err := w.VerifyAccessToken(w.ctx, token.Reveal())
		if err != nil || of.ID != c.ID || of.LastSeen == nil || !cmp.Equal(got.Scopes, []string{"auth_keys:read"}) {
			t.Errorf("token: got %+v of %+v, %v", got, of, err)
		}

		w.clock.advance(time.Minute)
		f := tailnet.OAuthClient{
			Kind: tailnet.ClientByFederated, Scopes: []string{"all:read"}, Issuer: "https://ci.example", Subject: "repo:*", Claims: map[string]string{"ref": "main"},
		}
		federated, none, err := w.CreateOAuthClient(w.ctx, f)
		if err != nil || none != (tailnet.Secret{}) || federated.Hash != nil {
			t.Fatalf("federated: got %+v, %v, want no secret", federated, err)
		}
		federated.Scopes, federated.Claims, federated.Subject = []string{"dns"}, nil, "main"
		changed := must[*tailnet.OAuthClient](t)(w.ChangeOAuthClient(w.ctx, *federated))
		if diff := cmp.Diff(changed, must[*tailnet.OAuthClient](t)(w.FindOAuthClient(w.ctx, 0, federated.Prefix))); diff != "" || changed.Subject != "main" || changed.Claims != nil {
			t.Errorf("changed: got %+v (-want +got):\n%s", changed, diff)
		}
		if all := must[[]*tailnet.OAuthClient](t)(w.ListOAuthClients(w.ctx)); len(all) != 2 {
			t.Errorf("got %d clients, want 2", len(all))
		}

		create := func(change func(*tailnet.OAuthClient)) error {
			c := f
			change(&c)
			_, _, err := w.CreateOAuthClient(w.ctx, c)
			return err
		}
		verify := func(id, text string) error { _, err := w.VerifyOAuthClient(w.ctx, id, text); return err }
		bearer := func(text string) error { _, _, err := w.VerifyAccessToken(w.ctx, text); return err }
		_, _, tokenOfNone := w.CreateAccessToken(w.ctx, 99, nil, nil)
		for name, c := range map[string]struct{ got, want error }{
			"no kind":            {create(func(c *tailnet.OAuthClient) { c.Kind = "" }), tailnet.ErrInvalid},
			"no tags":            {create(func(c *tailnet.OAuthClient) { c.Scopes = []string{"devices:core"} }), tailnet.ErrInvalid},
			"no issuer":          {create(func(c *tailnet.OAuthClient) { c.Issuer = "" }), tailnet.ErrInvalid},
			"plain issuer":       {create(func(c *tailnet.OAuthClient) { c.Issuer = "http://ci.example" }), tailnet.ErrInvalid},
			"no subject":         {create(func(c *tailnet.OAuthClient) { c.Subject = "" }), tailnet.ErrInvalid},
			"empty claim":        {create(func(c *tailnet.OAuthClient) { c.Claims = map[string]string{"ref": ""} }), tailnet.ErrInvalid},
			"unknown tailnet":    {create(func(c *tailnet.OAuthClient) { c.TailnetID = 99 }), tailnet.ErrNotFound},
			"another client's":   {verify(federated.Prefix, secret.Reveal()), tailnet.ErrAPIKeyRefused},
			"wrong secret":       {verify(c.Prefix, secret.Reveal()[:88]+"x"), tailnet.ErrAPIKeyRefused},
			"token as a secret":  {verify(c.Prefix, token.Reveal()), tailnet.ErrAPIKeyRefused},
			"wrong token":        {bearer(token.Reveal()[:len(token.Reveal())-1] + "x"), tailnet.ErrAPIKeyRefused},
			"secret as a token":  {bearer(secret.Reveal()), tailnet.ErrAPIKeyRefused},
			"token of no client": {tokenOfNone, tailnet.ErrNotFound},
			"delete nothing":     {w.DeleteOAuthClient(w.ctx, 99), tailnet.ErrNotFound},
		} {
			if !errors.Is(c.got, c.want) {
				t.Errorf("%s: got %v, want %v", name, c.got, c.want)
			}
		}

		_, second, err := w.CreateAccessToken(w.ctx, c.ID, c.Scopes, c.Tags)
		if err != nil {
			t.Fatal(err)
		}
		w.clock.advance(time.Hour - time.Minute)
		if err := bearer(token.Reveal()); !errors.Is(err, tailnet.ErrAPIKeyRefused) || !strings.Contains(err.Error(), "expired") {
			t.Errorf("after an hour: got %v, want that it expired", err)
		}
		if err := w.PurgeExpired(w.ctx); err != nil {
			t.Fatal(err)
		}
		if err := bearer(token.Reveal()); !errors.Is(err, tailnet.ErrAPIKeyRefused) || !strings.Contains(err.Error(), "not known") {
			t.Errorf("after the purge: got %v, want that it is not known", err)
		}
		if err := bearer(second.Reveal()); err != nil {
			t.Errorf("the younger one: got %v, want none", err)
		}
		if err := w.DeleteOAuthClient(w.ctx, c.ID); err != nil {
			t.Fatal(err)
		}
		if err := bearer(second.Reveal()); !errors.Is(err, tailnet.ErrAPIKeyRefused) {
			t.Errorf("of a deleted client: got %v, want %v", err, tailnet.ErrAPIKeyRefused)
		}
	})
}
