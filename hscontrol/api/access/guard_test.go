package access_test

import (
	"encoding/base64"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/keelscale/keelscale/hscontrol/api/access"
	"github.com/keelscale/keelscale/hscontrol/tailnet"
)

const here = "192.0.2.7"

func TestAuthenticate(t *testing.T) {
	b := newBench(t)
	alice := b.user(t, "alice", "network-admin")
	all := b.key(t, tailnet.APIKey{Scopes: []string{"all", "dns"}})
	some := b.key(t, tailnet.APIKey{TailnetID: 1, Scopes: []string{"dns"}, Tags: []string{"tag:ci"}})
	hers := b.key(t, tailnet.APIKey{UserID: alice.ID, Scopes: []string{"dns", "users", "all:read"}})
	who := func(secret string) string { return "apikey:" + tailnet.SecretPrefix(tailnet.APIKeySecret, secret) }
	basic := func(pair string) string { return "Basic " + base64.StdEncoding.EncodeToString([]byte(pair)) }
	for name, c := range map[string]struct {
		header string
		want   access.Caller
		err    error
	}{
		"everything":        {header: "Bearer " + all, want: access.Caller{Who: who(all), KeyID: 1}},
		"lower case":        {header: "bearer  " + all + " ", want: access.Caller{Who: who(all), KeyID: 1}},
		"basic":             {header: basic(all + ":"), want: access.Caller{Who: who(all), KeyID: 1}},
		"basic, password":   {header: basic(all + ":x"), want: access.Caller{Who: who(all), KeyID: 1}},
		"one tailnet":       {header: "Bearer " + some, want: access.Caller{Tailnet: 1, Who: who(some), KeyID: 2, Scopes: []string{"dns"}, Tags: []string{"tag:ci"}}},
		"a user":            {header: "Bearer " + hers, want: access.Caller{Tailnet: 1, User: alice.ID, Role: "network-admin", Who: who(hers), KeyID: 3}},
		"nothing":           {err: access.ErrNoKey},
		"no scheme":         {header: all, err: access.ErrNoKey},
		"basic, no colon":   {header: basic(all), err: access.ErrNoKey},
		"basic, no base64":  {header: "Basic " + all, err: access.ErrNoKey},
		"unknown":           {header: "Bearer hskey-api-000000000000-" + strings.Repeat("0", 64), err: tailnet.ErrAPIKeyRefused},
		"unknown token":     {header: "Bearer hskey-oauthtok-000000000000-" + strings.Repeat("0", 64), err: tailnet.ErrAPIKeyRefused},
		"secret of clients": {header: "Bearer hskey-client-000000000000-" + strings.Repeat("0", 64), err: tailnet.ErrAPIKeyRefused},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := b.Authenticate(t.Context(), c.header, here)
			if !errors.Is(err, c.err) {
				t.Fatalf("got %v, want %v", err, c.err)
			}
			if err != nil {
				return
			}
			c.want.Via, c.want.From = tailnet.ViaAPI, here
			if c.want.User != 0 { // what both allow
				c.want.Scopes = tailnet.ScopesInBoth([]string{"dns", "users", "all:read"}, tailnet.RoleScopes("network-admin"))
			}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Errorf("caller (-want +got):\n%s", diff)
			}
		})
	}
	c, err := b.Authenticate(t.Context(), "Bearer "+hers, here)
	if err != nil || !c.May("dns") || c.May("users") || !c.May("users:read") || c.OwnOnly() {
		t.Errorf("got %+v, %v, want DNS and the reading of all", c, err)
	}
	alice.Status = tailnet.UserSuspended
	if _, err := b.store.SetUserStatus(t.Context(), alice.ID, tailnet.UserSuspended); err != nil {
		t.Fatal(err)
	}
	if _, err := b.Authenticate(t.Context(), "Bearer "+hers, here); !errors.Is(err, tailnet.ErrAPIKeyRefused) {
		t.Errorf("a suspended user's key: got %v, want %v", err, tailnet.ErrAPIKeyRefused)
	}
}

func TestContext(t *testing.T) {
	if c := access.Of(t.Context()); c.May("users:read") || c.May("all") {
		t.Errorf("without a caller: got %+v, want one who may do nothing", c)
	}
	ctx := access.With(t.Context(), access.Caller{Via: tailnet.ViaREST, Who: "apikey:x", From: here})
	if c := access.Of(ctx); !c.May("all") || c.Who != "apikey:x" {
		t.Errorf("got %+v, want the caller", c)
	}
	if got, want := tailnet.ActorOf(ctx), (tailnet.Actor{Via: tailnet.ViaREST, Who: "apikey:x", From: here}); got != want {
		t.Errorf("actor: got %+v, want %+v", got, want)
	}
	if got := tailnet.ActorOf(access.With(t.Context(), access.Caller{Via: tailnet.ViaCLI, From: "unix socket"})); got.From != "" {
		t.Errorf("actor at this machine: got %+v, want no address", got)
	}
}

func TestCheckTags(t *testing.T) {
	owns := func(by []string, tag string) bool { return slices.Contains(by, "tag:ci") && tag == "tag:web" }
	for _, c := range []struct {
		mine, tags []string
		want       error
	}{
		{nil, nil, nil},
		{nil, []string{"tag:any"}, nil},
		{[]string{"tag:ci"}, []string{"tag:ci", "tag:web"}, nil},
		{[]string{"tag:ci"}, nil, tailnet.ErrTagRefused},
		{[]string{"tag:ci"}, []string{"tag:ci", "tag:db"}, tailnet.ErrTagRefused},
	} {
		if err := (access.Caller{Tags: c.mine}).CheckTags(c.tags, owns); !errors.Is(err, c.want) {
			t.Errorf("%v for %v: got %v, want %v", c.tags, c.mine, err, c.want)
		}
	}
}

// FuzzAuthorization: nothing but a key opens, whatever is sent.
func FuzzAuthorization(f *testing.F) {
	f.Add("Bearer hskey-api-000000000000-"+strings.Repeat("0", 64), here)
	f.Add("Basic "+base64.StdEncoding.EncodeToString([]byte("a.b:c")), "2001:db8::1")
	f.Add("bearer\t", "")
	b := newBench(f)
	f.Fuzz(func(t *testing.T, header, from string) {
		c, err := b.Authenticate(t.Context(), header, from)
		if err == nil {
			t.Errorf("%q: got %+v, want an error", header, c)
		}
		if !errors.Is(err, access.ErrNoKey) && !errors.Is(err, tailnet.ErrAPIKeyRefused) && !errors.Is(err, tailnet.ErrTooMany) {
			t.Errorf("%q: got %v, want one of the facts", header, err)
		}
	})
}
