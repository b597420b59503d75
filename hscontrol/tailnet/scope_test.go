package tailnet_test

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/keelscale/keelscale/hscontrol/tailnet"
)

func TestScopesInBoth(t *testing.T) {
	for _, c := range []struct{ a, b, want []string }{
		{[]string{"all"}, []string{"dns", "users:read"}, []string{"dns", "users:read"}},
		{[]string{"all:read"}, []string{"dns", "users:read"}, []string{"dns:read", "users:read"}},
		{[]string{"all:read"}, []string{"all"}, []string{"all:read"}},
		{[]string{"dns"}, []string{"dns:read"}, []string{"dns:read"}},
		{[]string{"dns"}, []string{"users"}, []string{}},
		{nil, []string{"all"}, []string{}},
		{[]string{"all:read", "dns"}, []string{"all:read", "dns"}, []string{"all:read", "dns", "dns:read"}},
	} {
		if diff := cmp.Diff(c.want, tailnet.ScopesInBoth(c.a, c.b)); diff != "" {
			t.Errorf("%v and %v (-want +got):\n%s", c.a, c.b, diff)
		}
	}
}

// What both lists allow is what each of them allows, for every scope there is.
func TestScopesInBothLaw(t *testing.T) {
	lists := [][]string{{}, {"all"}, {"all:read"}, {"dns"}, {"dns:read", "users"}, {"all:read", "devices:core"}}
	for _, role := range []string{"owner", "it-admin", "network-admin", "auditor", "member"} {
		lists = append(lists, tailnet.RoleScopes(role))
	}
	for _, a := range lists {
		for _, b := range lists {
			both := tailnet.ScopesInBoth(a, b)
			for _, s := range append(tailnet.Scopes(), tailnet.ScopeOwnDevices) {
				want := tailnet.ScopesCover(a, s) && tailnet.ScopesCover(b, s)
				if got := tailnet.ScopesCover(both, s); got != want {
					t.Errorf("%v and %v: got %v for %s, want %v", a, b, got, s, want)
				}
			}
		}
	}
}

func TestValidateScopes(t *testing.T) {
	for _, s := range tailnet.Scopes() {
		if _, err := tailnet.ValidateScopes([]string{s}); err != nil {
			t.Errorf("%s: got %v, want none", s, err)
		}
	}
	for _, s := range []string{"", "dns:write", "dns:read:read", "ALL", "all ", "devices", "devices:own"} {
		if _, err := tailnet.ValidateScopes([]string{s}); !errors.Is(err, tailnet.ErrInvalid) {
			t.Errorf("%q: got %v, want %v", s, err, tailnet.ErrInvalid)
		}
	}
	if got := tailnet.ReadOnly([]string{"all", "dns:read"}); !slices.Equal(got, []string{"all:read", "dns:read"}) {
		t.Errorf("read only: got %v", got)
	}
}

func FuzzParseAPIKey(f *testing.F) {
	f.Add("hskey-api-000000000000-0000000000000000000000000000000000000000000000000000000000000000")
	f.Add("wT3_k-9.aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa")
	f.Add("hskey-api-.")
	f.Fuzz(func(t *testing.T, text string) {
		s, err := tailnet.ParseAPIKey(text)
		if err != nil {
			return
		}
		if got := s.Reveal(); got != text {
			t.Errorf("got %q again, want %q", got, text)
		}
		if got := tailnet.SecretPrefix(tailnet.APIKeySecret, text); got != s.Prefix && text == strings.TrimSpace(text) {
			t.Errorf("%q: got prefix %q, want %q", text, got, s.Prefix)
		}
		if start := tailnet.KeyStart(s.Prefix); !strings.HasPrefix(text, start) && len(s.Prefix) < 12 {
			t.Errorf("%q: got %q as its beginning", text, start)
		}
	})
}
