package access_test

import (
	"errors"
	"testing"
	"time"

	"github.com/keelscale/keelscale/hscontrol/tailnet"
)

// TestKnownCallers: what a key opened a moment ago it opens no more once it, its user or its client was changed.
func TestKnownCallers(t *testing.T) {
	b := newBench(t)
	soon := b.now().Add(30 * time.Second)
	alice := b.user(t, "alice", "admin")
	client, clientSecret := b.client(t, tailnet.OAuthClient{Kind: tailnet.ClientBySecret, Scopes: []string{"dns"}})
	_, token, err := b.store.CreateAccessToken(t.Context(), client.ID, client.Scopes, nil)
	if err != nil || clientSecret == "" {
		t.Fatal(err)
	}
	expires := b.key(t, tailnet.APIKey{Scopes: []string{"all"}, Expiration: &soon})
	ends, goes := b.key(t, tailnet.APIKey{Scopes: []string{"all"}}), b.key(t, tailnet.APIKey{Scopes: []string{"all"}})
	hers := b.key(t, tailnet.APIKey{UserID: alice.ID, Scopes: []string{"all"}})
	id := func(secret string) tailnet.KeyID {
		k, err := b.store.FindAPIKey(t.Context(), 0, secret)
		if err != nil {
			t.Fatal(err)
		}
		return k.ID
	}
	good := func(secret string) bool {
		t.Helper()
		_, err := b.Authenticate(t.Context(), "Bearer "+secret, here)
		if err != nil && !errors.Is(err, tailnet.ErrAPIKeyRefused) {
			t.Fatal(err)
		}
		return err == nil
	}
	for _, c := range []struct {
		name, secret string
		do           func() error
	}{
		{"a key that expires", expires, func() error { b.advance(time.Minute); return nil }},
		{"a key that is ended", ends, func() error { return b.store.ExpireAPIKey(t.Context(), id(ends)) }},
		{"a key that is deleted", goes, func() error { return b.store.DeleteAPIKey(t.Context(), id(goes)) }},
		{"a token whose client goes", token.Reveal(), func() error { return b.store.DeleteOAuthClient(t.Context(), client.ID) }},
		{"a key whose user goes", hers, func() error { return b.store.DeleteUser(t.Context(), alice.ID) }},
	} {
		for range 2 { // the second is remembered
			if !good(c.secret) {
				t.Errorf("%s: got it refused before", c.name)
			}
		}
		if err := c.do(); err != nil {
			t.Fatal(err)
		}
		if good(c.secret) {
			t.Errorf("%s: got it let in afterwards", c.name)
		}
	}
}

// TestKnownTakesLess: a token opens no more what was taken from its client, nor a key what was taken from its user.
func TestKnownTakesLess(t *testing.T) {
	b := newBench(t)
	alice := b.user(t, "alice", "admin")
	hers := b.key(t, tailnet.APIKey{UserID: alice.ID, Scopes: []string{"users"}})
	may := func() bool {
		t.Helper()
		c, err := b.Authenticate(t.Context(), "Bearer "+hers, here)
		if err != nil {
			t.Fatal(err)
		}
		return c.May("users")
	}
	if !may() {
		t.Error("an admin's key: got no way to users")
	}
	if _, err := b.store.UpdateUser(t.Context(), tailnet.User{ID: alice.ID, Role: "auditor"}); err != nil {
		t.Fatal(err)
	}
	if may() {
		t.Error("the key of an auditor who was admin: got a way to users")
	}
}

// TestLastUse is noted about once a minute, also while the key is known.
func TestLastUse(t *testing.T) {
	b := newBench(t)
	secret := b.key(t, tailnet.APIKey{Scopes: []string{"all"}})
	for range 10 {
		b.advance(20 * time.Second)
		if _, err := b.Authenticate(t.Context(), "Bearer "+secret, here); err != nil {
			t.Fatal(err)
		}
	}
	b.user(t, "later", "member") // what was to be written before is written when this is
	k, err := b.store.FindAPIKey(t.Context(), 0, secret)
	if err != nil || k.LastSeen == nil || b.now().Sub(*k.LastSeen) > time.Minute {
		t.Errorf("got last seen %v, %v, want it within a minute before %v", k.LastSeen, err, b.now())
	}
}

// BenchmarkAuthenticate is what each call of the API begins with.
func BenchmarkAuthenticate(b *testing.B) {
	bench := newBench(b)
	_, secret, err := bench.store.CreateAPIKey(b.Context(), tailnet.APIKey{Scopes: []string{"all"}})
	if err != nil {
		b.Fatal(err)
	}
	header := "Bearer " + secret.Reveal()
	b.ReportAllocs()
	for b.Loop() {
		bench.advance(time.Millisecond * 2)
		if _, err := bench.Authenticate(b.Context(), header, here); err != nil {
			b.Fatal(err)
		}
	}
}
