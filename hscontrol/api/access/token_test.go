package access_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"

	"github.com/keelscale/keelscale/hscontrol/tailnet"
)

// answer is what comes for a token.
type answer struct {
	code  int
	Token string `json:"access_token"`
	Kind  string `json:"token_type"`
	Life  int    `json:"expires_in"`
	Scope string
	Error string
	Text  string `json:"error_description"`
}

func post(t *testing.T, handler http.HandlerFunc, form url.Values, from string, change ...func(*http.Request)) answer {
	t.Helper()
	r := httptest.NewRequestWithContext(t.Context(), "POST", "/", strings.NewReader(form.Encode()))
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	r.RemoteAddr = from + ":1234"
	for _, c := range change {
		c(r)
	}
	w := httptest.NewRecorder()
	handler(w, r)
	a := answer{code: w.Code}
	if err := json.Unmarshal(w.Body.Bytes(), &a); err != nil {
		t.Fatalf("got %q: %v", w.Body, err)
	}
	if retry := w.Header().Get("Retry-After") != ""; retry != (a.code == http.StatusTooManyRequests) {
		t.Errorf("got Retry-After: %v with %d", retry, a.code)
	}
	return a
}

func TestToken(t *testing.T) {
	b := newBench(t)
	c, secret := b.client(t, tailnet.OAuthClient{
		TailnetID: 1, Kind: tailnet.ClientBySecret, Scopes: []string{"devices:core", "dns"}, Tags: []string{"tag:a", "tag:b"},
	})
	form := func(more ...string) url.Values {
		v := url.Values{"client_id": {c.Prefix}, "client_secret": {secret}}
		for i := 0; i < len(more); i += 2 {
			v.Set(more[i], more[i+1])
		}
		return v
	}
	got := post(t, b.Token, form(), here)
	if got.code != http.StatusOK || got.Kind != "Bearer" || got.Life != 3600 || got.Scope != "devices:core dns" {
		t.Fatalf("got %+v", got)
	}
	caller, err := b.Authenticate(t.Context(), "Bearer "+got.Token, here)
	if err != nil || caller.Who != "oauth:"+c.Prefix || caller.Tailnet != 1 || !slices.Equal(caller.Tags, c.Tags) || !caller.May("dns") || caller.May("users:read") {
		t.Errorf("got %+v, %v", caller, err)
	}
	basic := post(t, b.Token, url.Values{"grant_type": {"client_credentials"}, "scope": {"dns:read"}, "tags": {"tag:b"}}, here,
		func(r *http.Request) { r.SetBasicAuth(url.QueryEscape(c.Prefix), url.QueryEscape(secret)) })
	narrow, err := b.Authenticate(t.Context(), "Bearer "+basic.Token, here)
	if err != nil || narrow.May("dns") || !narrow.May("dns:read") || !slices.Equal(narrow.Tags, []string{"tag:b"}) {
		t.Errorf("narrowed: got %+v, %v of %+v", narrow, err, basic)
	}
	for name, w := range map[string]struct {
		got  answer
		code int
		word string
	}{
		"more scopes":   {post(t, b.Token, form("scope", "dns users"), here), 400, "invalid_scope"},
		"no scope":      {post(t, b.Token, form("scope", "nonsense"), here), 400, "invalid_scope"},
		"more tags":     {post(t, b.Token, form("tags", "tag:c"), here), 400, "invalid_request"},
		"another grant": {post(t, b.Token, form("grant_type", "password"), here), 400, "unsupported_grant_type"},
		"no secret":     {post(t, b.Token, form("client_secret", ""), here), 400, "invalid_request"},
		"twice":         {post(t, b.Token, form(), here, func(r *http.Request) { r.SetBasicAuth(c.Prefix, secret) }), 400, "invalid_request"},
		"another":       {post(t, b.Token, form("client_id", "000000000000"), here), 401, "invalid_client"},
		"wrong":         {post(t, b.Token, form("client_secret", "hskey-client-"+c.Prefix+"-"+strings.Repeat("0", 64)), here), 401, "invalid_client"},
		"a token":       {post(t, b.Token, form("client_secret", got.Token), here), 401, "invalid_client"},
		"too long":      {post(t, b.Token, form("x", strings.Repeat("x", 100_000)), here), 400, "invalid_request"},
		"federated":     {post(t, b.Exchange, form("jwt", "x.y.z"), here), 401, "invalid_client"},
		"no jwt":        {post(t, b.Exchange, form(), here), 400, "invalid_request"},
	} {
		if w.got.code != w.code || w.got.Error != w.word || w.got.Text == "" || w.got.Token != "" {
			t.Errorf("%s: got %+v, want %d %s", name, w.got, w.code, w.word)
		}
	}

	// What is taken from the client is taken from its tokens.
	changed := *c
	changed.Scopes = []string{"devices:core:read", "dns:read"}
	if _, err := b.store.ChangeOAuthClient(t.Context(), changed); err != nil {
		t.Fatal(err)
	}
	if caller, err := b.Authenticate(t.Context(), "Bearer "+got.Token, here); err != nil || caller.May("dns") || !caller.May("dns:read") {
		t.Errorf("after the change: got %+v, %v", caller, err)
	}
	b.advance(time.Hour)
	if _, err := b.Authenticate(t.Context(), "Bearer "+got.Token, here); err == nil {
		t.Error("after an hour: got no error, want that it expired")
	}
}

// TestTokensOfUser: a client that a user made does no more than that user may.
func TestTokensOfUser(t *testing.T) {
	b := newBench(t)
	u := b.user(t, "alice", "admin")
	c, secret := b.client(t, tailnet.OAuthClient{UserID: u.ID, Kind: tailnet.ClientBySecret, Scopes: []string{"all"}})
	form := url.Values{"client_id": {c.Prefix}, "client_secret": {secret}}
	got := post(t, b.Token, form, here)
	u.Role = "auditor"
	if _, err := b.store.UpdateUser(t.Context(), *u); err != nil {
		t.Fatal(err)
	}
	if caller, err := b.Authenticate(t.Context(), "Bearer "+got.Token, here); err != nil || caller.May("dns") || !caller.May("dns:read") || caller.User != u.ID {
		t.Errorf("got %+v, %v, want what an auditor may", caller, err)
	}
	if _, err := b.store.SetUserStatus(t.Context(), u.ID, tailnet.UserSuspended); err != nil {
		t.Fatal(err)
	}
	if a := post(t, b.Token, form, here); a.code != http.StatusUnauthorized {
		t.Errorf("suspended: got %+v, want 401", a)
	}
}

func TestGuessingTokens(t *testing.T) {
	b := newBench(t)
	c, secret := b.client(t, tailnet.OAuthClient{Kind: tailnet.ClientBySecret, Scopes: []string{"dns"}})
	const guesser = "198.51.100.7"
	wrong := url.Values{"client_id": {c.Prefix}, "client_secret": {"hskey-client-" + c.Prefix + "-" + strings.Repeat("0", 64)}}
	for range 20 {
		if a := post(t, b.Token, wrong, guesser); a.code != http.StatusUnauthorized {
			t.Fatalf("got %+v, want 401", a)
		}
	}
	if a := post(t, b.Token, wrong, guesser); a.code != http.StatusTooManyRequests {
		t.Errorf("got %+v, want 429", a)
	}
	if a := post(t, b.Token, url.Values{"client_id": {c.Prefix}, "client_secret": {secret}}, here); a.code != http.StatusOK {
		t.Errorf("from elsewhere: got %+v, want 200", a)
	}
}

// issuer gives tokens as others do (OpenID Connect).
type issuer struct {
	*httptest.Server
	key *ecdsa.PrivateKey
}

func newIssuer(t *testing.T) *issuer {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	i := &issuer{key: key}
	mux := http.NewServeMux()
	mux.HandleFunc("/.well-known/openid-configuration", func(w http.ResponseWriter, _ *http.Request) {
		json.NewEncoder(w).Encode(map[string]any{"issuer": i.URL, "jwks_uri": i.URL + "/keys", "id_token_signing_alg_values_supported": []string{"ES256"}})
	})
	mux.HandleFunc("/keys", func(w http.ResponseWriter, _ *http.Request) {
		json.NewEncoder(w).Encode(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: key.Public(), KeyID: "k", Algorithm: "ES256", Use: "sig"}}})
	})
	i.Server = httptest.NewTLSServer(mux)
	t.Cleanup(i.Close)
	return i
}

func (i *issuer) sign(t *testing.T, key *ecdsa.PrivateKey, claims map[string]any) string {
	t.Helper()
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: jose.JSONWebKey{Key: key, KeyID: "k"}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	text, err := jwt.Signed(signer).Claims(claims).Serialize()
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func TestExchange(t *testing.T) {
	b, i := newBench(t), newIssuer(t)
	b.Issuers = i.Client()
	c, _ := b.client(t, tailnet.OAuthClient{
		Kind: tailnet.ClientByFederated, Scopes: []string{"dns"}, Issuer: i.URL, Subject: "repo:org/*:ref:main", Claims: map[string]string{"team": "net*"},
	})
	stranger, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	claims := func(more ...any) map[string]any {
		m := map[string]any{
			"iss": i.URL, "sub": "repo:org/app:ref:main", "aud": c.Prefix, "iat": b.now().Unix(), "exp": b.now().Add(time.Minute).Unix(),
			"team": []string{"ops", "network"},
		}
		for n := 0; n < len(more); n += 2 {
			m[more[n].(string)] = more[n+1]
		}
		return m
	}
	show := func(token string) answer {
		return post(t, b.Exchange, url.Values{"client_id": {c.Prefix}, "jwt": {token}}, here)
	}
	got := show(i.sign(t, i.key, claims()))
	if got.code != http.StatusOK || got.Scope != "dns" {
		t.Fatalf("got %+v, want a token", got)
	}
	if caller, err := b.Authenticate(t.Context(), "Bearer "+got.Token, here); err != nil || caller.Who != "oauth:"+c.Prefix || !caller.May("dns") {
		t.Errorf("got %+v, %v", caller, err)
	}
	for name, token := range map[string]string{
		"another subject":  i.sign(t, i.key, claims("sub", "repo:else/app:ref:main")),
		"subject too long": i.sign(t, i.key, claims("sub", "repo:org/app:ref:main2")),
		"another audience": i.sign(t, i.key, claims("aud", "else")),
		"another issuer":   i.sign(t, i.key, claims("iss", "https://else.example")),
		"expired":          i.sign(t, i.key, claims("exp", b.now().Add(-time.Minute).Unix())),
		"no claim":         i.sign(t, i.key, claims("team", nil)),
		"another claim":    i.sign(t, i.key, claims("team", "ops")),
		"another key":      i.sign(t, stranger, claims()),
		"no token":         "x",
	} {
		if a := show(token); a.code != http.StatusUnauthorized || a.Error != "invalid_client" {
			t.Errorf("%s: got %+v, want 401", name, a)
		}
	}
	i.Close()
	b.advance(2 * time.Hour)
	if a := show(i.sign(t, i.key, claims())); a.code != http.StatusBadGateway || !strings.Contains(a.Text, i.URL) {
		t.Errorf("an issuer that is away: got %+v, want 502", a)
	}
}
