package access

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/keelscale/keelscale/hscontrol/store"
	"github.com/keelscale/keelscale/hscontrol/tailnet"
)

// Bounds of a request for a token.
const (
	maxForm   = 64 << 10 // bytes
	tokenTime = 20 * time.Second
)

// oauthFault is a refusal by the words of RFC 6749, section 5.2.
type oauthFault struct {
	status int
	word   string
	text   string
}

func (f *oauthFault) Error() string { return f.text }

func badRequest(word, format string, args ...any) error {
	return &oauthFault{http.StatusBadRequest, word, fmt.Sprintf(format, args...)}
}

// unknownClient is the only answer to those who guess.
func unknownClient(reason error) error {
	return &oauthFault{http.StatusUnauthorized, "invalid_client", reason.Error()}
}

// Token answers POST /api/v2/oauth/token: an OAuth client shows its secret, as a form or with Basic, and gets an access
// token (RFC 6749, section 4.4). With the parameters scope and tags, words with blanks between them, the token opens
// less than the client may.
func (g *Guard) Token(w http.ResponseWriter, r *http.Request) {
	g.answer(w, r, func(ctx context.Context) (*tailnet.OAuthClient, error) {
		if kind := r.PostForm.Get("grant_type"); kind != "" && kind != "client_credentials" {
			return nil, badRequest("unsupported_grant_type", "there is no grant type %q here: it is client_credentials", kind)
		}
		id, secret := r.PostForm.Get("client_id"), r.PostForm.Get("client_secret")
		if name, password, basic := r.BasicAuth(); basic {
			if secret != "" {
				return nil, badRequest("invalid_request", "say the secret once: in the form or with Basic")
			}
			id, secret = unescaped(name), unescaped(password)
		}
		if id == "" || secret == "" {
			return nil, badRequest("invalid_request", "client_id and client_secret are needed")
		}
		return g.proven(r, secret, func() (*tailnet.OAuthClient, error) { return g.store.VerifyOAuthClient(ctx, id, secret) })
	})
}

// unescaped undoes what RFC 6749, section 2.3.1, does to names and passwords. Not all clients do it.
func unescaped(text string) string {
	if plain, err := url.QueryUnescape(text); err == nil {
		return plain
	}
	return text
}

// proven has a client verified, as slowly for those who guess as with keys.
func (g *Guard) proven(r *http.Request, secret string, verify func() (*tailnet.OAuthClient, error)) (*tailnet.OAuthClient, error) {
	now, from := g.now(), remote(r)
	if err := g.meters.guess(from, digestOf(secret), now); err != nil {
		return nil, err
	}
	c, err := verify()
	var f *oauthFault
	if errors.As(err, &f) {
		g.meters.failed(from, now) // an issuer was asked in vain
	}
	if errors.Is(err, tailnet.ErrAPIKeyRefused) {
		g.meters.failed(from, now)
		return nil, unknownClient(err)
	}
	if err != nil {
		return nil, err
	}
	return c, g.meters.call("oauth:"+c.Prefix, digestOf(secret), now)
}

// remote is the address of a request, without its port.
func remote(r *http.Request) string {
	if host, _, err := net.SplitHostPort(r.RemoteAddr); err == nil {
		return host
	}
	return r.RemoteAddr
}

// answer reads the form, has the client found, and gives it a token.
func (g *Guard) answer(w http.ResponseWriter, r *http.Request, find func(context.Context) (*tailnet.OAuthClient, error)) {
	ctx, cancel := context.WithTimeout(r.Context(), tokenTime)
	defer cancel()
	h := w.Header()
	h.Set("Cache-Control", "no-store")
	h.Set("Content-Type", "application/json")
	r.Body = http.MaxBytesReader(w, r.Body, maxForm)
	if err := r.ParseForm(); err != nil {
		g.refuse(w, r, badRequest("invalid_request", "the form cannot be read"))
		return
	}
	client, err := find(ctx)
	if err != nil {
		g.refuse(w, r, err)
		return
	}
	token, secret, err := g.issue(ctx, client, strings.Fields(r.PostForm.Get("scope")), strings.Fields(r.PostForm.Get("tags")))
	if err != nil {
		g.refuse(w, r, err)
		return
	}
	_ = json.NewEncoder(w).Encode(map[string]any{ // who hung up reads nothing
		"access_token": secret.Reveal(), "token_type": "Bearer", "expires_in": int(store.TokenLife.Seconds()),
		"scope": strings.Join(token.Scopes, " "),
	})
}

// issue makes a token with the scopes and tags that are asked for; for none, with all of the client's.
func (g *Guard) issue(ctx context.Context, c *tailnet.OAuthClient, scopes, tags []string) (*tailnet.AccessToken, tailnet.Secret, error) {
	if _, err := g.onBehalf(ctx, c.UserID, Caller{}); err != nil {
		return nil, tailnet.Secret{}, unknownClient(err)
	}
	as := Caller{Scopes: c.Scopes, Tags: c.Tags}
	for _, s := range scopes {
		if !as.May(s) {
			return nil, tailnet.Secret{}, badRequest("invalid_scope", "the client does not have the scope %q, but %s", s, strings.Join(c.Scopes, " "))
		}
	}
	if len(scopes) == 0 {
		scopes = c.Scopes
	}
	scopes, err := tailnet.ValidateScopes(scopes)
	if err != nil {
		return nil, tailnet.Secret{}, badRequest("invalid_scope", "%s", tailnet.Sentence(err))
	}
	if len(tags) == 0 {
		tags = c.Tags
	} else if err := as.CheckTags(tags, nil); err != nil {
		return nil, tailnet.Secret{}, badRequest("invalid_request", "%s", err)
	}
	return g.store.CreateAccessToken(ctx, c.ID, scopes, tags)
}

// refuse answers with an error. Clients of Tailscale's API read message.
func (g *Guard) refuse(w http.ResponseWriter, r *http.Request, err error) {
	var f *oauthFault
	switch {
	case errors.As(err, &f):
	case errors.Is(err, tailnet.ErrTooMany):
		w.Header().Set("Retry-After", strconv.Itoa(int(RetryAfter.Seconds())))
		f = &oauthFault{http.StatusTooManyRequests, "temporarily_unavailable", tailnet.Sentence(err)}
	default:
		g.log().ErrorContext(r.Context(), "no access token could be made", "err", err)
		f = &oauthFault{http.StatusInternalServerError, "server_error", "the server could not answer this; its log says more"}
	}
	if _, _, basic := r.BasicAuth(); basic && f.status == http.StatusUnauthorized {
		w.Header().Set("WWW-Authenticate", `Basic realm="headscale"`)
	}
	w.WriteHeader(f.status)
	_ = json.NewEncoder(w).Encode(map[string]string{"error": f.word, "error_description": f.text, "message": f.text})
}

func (g *Guard) log() *slog.Logger {
	if g.Log != nil {
		return g.Log
	}
	return slog.Default()
}
