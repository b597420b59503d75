package v2_test

import (
	"crypto/rand"
	"crypto/rsa"
	"encoding/json"
	"encoding/pem"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	tailscale "tailscale.com/client/tailscale/v2"
)

// TestMain has this process trust the certificates of test servers, as a server trusts an issuer's: the roots of the
// system are read once, when they are needed first.
func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "roots")
	if err != nil {
		log.Fatal(err)
	}
	sample := httptest.NewTLSServer(nil)
	text := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: sample.Certificate().Raw})
	sample.Close()
	path := filepath.Join(dir, "roots.pem")
	if err := os.WriteFile(path, text, 0o600); err != nil {
		log.Fatal(err)
	}
	os.Setenv("SSL_CERT_FILE", path)
	code := m.Run()
	os.RemoveAll(dir)
	os.Exit(code)
}

// An OAuth client gets tokens by its secret, and what they open is what it may.
func TestOAuthToken(t *testing.T) {
	w := newWorld(t)
	made := must[*tailscale.Key](t)(w.admin.Keys().CreateOAuthClient(w.ctx, tailscale.CreateOAuthClientRequest{Scopes: []string{"dns", "users:read"}}))
	c := &tailscale.Client{BaseURL: w.base(), Auth: &tailscale.OAuth{ClientID: made.ID, ClientSecret: made.Key}}
	if err := c.DNS().SetSearchPaths(w.ctx, []string{"example.org"}); err != nil {
		t.Errorf("what it may: %v", err)
	}
	refused(t, "what it may not", lose(c.Devices().List(w.ctx)), http.StatusForbidden)
	less := &tailscale.Client{BaseURL: w.base(), Auth: &tailscale.OAuth{ClientID: made.ID, ClientSecret: made.Key, Scopes: []string{"dns:read"}}}
	refused(t, "less than it may", less.DNS().SetSearchPaths(w.ctx, nil), http.StatusForbidden)
	wrong := &tailscale.Client{BaseURL: w.base(), Auth: &tailscale.OAuth{ClientID: made.ID, ClientSecret: made.Key + "0"}}
	if err := lose(wrong.DNS().SearchPaths(w.ctx)); err == nil {
		t.Error("a wrong secret opens something")
	}
	if err := w.admin.Keys().Delete(w.ctx, made.ID); err != nil {
		t.Fatal(err)
	}
	refused(t, "a token of a client that is gone", lose(c.DNS().SearchPaths(w.ctx)), http.StatusUnauthorized)
}

// A federated client gets tokens by those of its issuer.
func TestTokenExchange(t *testing.T) {
	w := newWorld(t)
	issuer := newIssuer(t)
	made := must[*tailscale.Key](t)(w.admin.Keys().CreateFederatedIdentity(w.ctx, tailscale.CreateFederatedIdentityRequest{
		Scopes: []string{"users:read"}, Issuer: issuer.url, Subject: "repo:mine:*", Audience: "keelscale"}))
	with := func(subject, audience string) *tailscale.Client {
		return &tailscale.Client{BaseURL: w.base(), Auth: &tailscale.IdentityFederation{ClientID: made.ID, IDTokenFunc: func() (string, error) {
			return issuer.token(t, subject, audience), nil
		}}}
	}
	if got := must[[]tailscale.User](t)(with("repo:mine:main", "keelscale").Users().List(w.ctx, nil, nil)); len(got) != 1 {
		t.Errorf("got %+v, want the owner", got)
	}
	refused(t, "what it may not", lose(with("repo:mine:main", "keelscale").Devices().List(w.ctx)), http.StatusForbidden)
	for what, c := range map[string]*tailscale.Client{"another subject": with("repo:yours:main", "keelscale"), "another audience": with("repo:mine:main", "elsewhere")} {
		if err := lose(c.Users().List(w.ctx, nil, nil)); err == nil {
			t.Errorf("%s opens something", what)
		}
	}
}

// issuer signs tokens as a build service does.
type issuer struct {
	url string
	key *rsa.PrivateKey
}

func newIssuer(t *testing.T) *issuer {
	i := &issuer{key: must[*rsa.PrivateKey](t)(rsa.GenerateKey(rand.Reader, 2048))}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /.well-known/openid-configuration", func(w http.ResponseWriter, _ *http.Request) {
		json.NewEncoder(w).Encode(map[string]any{"issuer": i.url, "jwks_uri": i.url + "/keys", "authorization_endpoint": i.url + "/auth",
			"token_endpoint": i.url + "/token", "id_token_signing_alg_values_supported": []string{"RS256"}, "response_types_supported": []string{"id_token"}, "subject_types_supported": []string{"public"}})
	})
	mux.HandleFunc("GET /keys", func(w http.ResponseWriter, _ *http.Request) {
		json.NewEncoder(w).Encode(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: i.key.Public(), KeyID: "1", Algorithm: "RS256", Use: "sig"}}})
	})
	srv := httptest.NewTLSServer(mux)
	t.Cleanup(srv.Close)
	i.url = srv.URL
	return i
}

func (i *issuer) token(t *testing.T, subject, audience string) string {
	t.Helper()
	signer := must[jose.Signer](t)(jose.NewSigner(jose.SigningKey{Algorithm: jose.RS256, Key: jose.JSONWebKey{Key: i.key, KeyID: "1"}}, (&jose.SignerOptions{}).WithType("JWT")))
	now := time.Now()
	claims := must[[]byte](t)(json.Marshal(map[string]any{"iss": i.url, "sub": subject, "aud": audience, "iat": now.Unix(), "exp": now.Add(5 * time.Minute).Unix()}))
	signed := must[*jose.JSONWebSignature](t)(signer.Sign(claims))
	return must[string](t)(signed.CompactSerialize())
}
