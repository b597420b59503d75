package access

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"

	"github.com/keelscale/keelscale/hscontrol/tailnet"
)

const (
	maxIssuerAnswer = 1 << 20 // bytes
	issuerTime      = 10 * time.Second
	issuerKept      = time.Hour // before its addresses are asked for again
	maxIssuers      = 100
)

// Exchange answers POST /api/v2/oauth/token-exchange: a federated client shows a token of its issuer (OpenID Connect)
// as the parameter jwt, beside client_id, and gets an access token.
func (g *Guard) Exchange(w http.ResponseWriter, r *http.Request) {
	g.answer(w, r, func(ctx context.Context) (*tailnet.OAuthClient, error) {
		id, token := r.PostForm.Get("client_id"), r.PostForm.Get("jwt")
		if id == "" || token == "" {
			return nil, badRequest("invalid_request", "client_id and jwt are needed")
		}
		return g.proven(r, token, func() (*tailnet.OAuthClient, error) { return g.verifyFederated(ctx, id, token) })
	})
}

// verifyFederated finds the federated client of that ID, if the token is what it must show.
func (g *Guard) verifyFederated(ctx context.Context, id, token string) (*tailnet.OAuthClient, error) {
	c, err := g.store.FindOAuthClient(ctx, 0, id)
	if errors.Is(err, tailnet.ErrNotFound) || err == nil && (c.Kind != tailnet.ClientByFederated || c.Prefix != id) {
		return nil, fmt.Errorf("%w: there is no federated client %q", tailnet.ErrAPIKeyRefused, id)
	}
	if err != nil {
		return nil, err
	}
	issuer, err := g.issuers.find(ctx, g.Issuers, c.Issuer, g.now())
	if err != nil {
		return nil, &oauthFault{http.StatusBadGateway, "server_error", fmt.Sprintf("the issuer %s does not answer as it should: %v", c.Issuer, err)}
	}
	audience := c.Audience
	if audience == "" {
		audience = c.Prefix
	}
	shown, err := issuer.Verifier(&oidc.Config{ClientID: audience, Now: g.now}).Verify(ctx, token)
	if err != nil {
		return nil, fmt.Errorf("%w: the token is not good: %s", tailnet.ErrAPIKeyRefused, strings.TrimPrefix(err.Error(), "oidc: "))
	}
	var claims map[string]any
	if err := shown.Claims(&claims); err != nil {
		return nil, fmt.Errorf("%w: the claims of the token cannot be read", tailnet.ErrAPIKeyRefused)
	}
	if !resembles(c.Subject, shown.Subject) {
		return nil, fmt.Errorf("%w: the subject of the token is %q, not %q", tailnet.ErrAPIKeyRefused, shown.Subject, c.Subject)
	}
	for name, want := range c.Claims {
		if !says(claims[name], want) {
			return nil, fmt.Errorf("%w: the token's claim %q is not %q", tailnet.ErrAPIKeyRefused, name, want)
		}
	}
	return c, nil
}

// says reports whether a claim is what is wanted: a text, a number or a boolean, or one among several.
func says(claim any, want string) bool {
	switch claim := claim.(type) {
	case nil, map[string]any:
		return false
	case []any:
		for _, each := range claim {
			if _, nested := each.([]any); !nested && says(each, want) {
				return true
			}
		}
		return false
	}
	return resembles(want, fmt.Sprint(claim))
}

// resembles compares a text with a pattern in which * stands for anything.
func resembles(pattern, text string) bool {
	parts := strings.Split(pattern, "*")
	rest, ok := strings.CutPrefix(text, parts[0])
	if !ok || len(parts) == 1 {
		return ok && rest == ""
	}
	last := parts[len(parts)-1]
	for _, part := range parts[1 : len(parts)-1] {
		_, after, found := strings.Cut(rest, part)
		if !found {
			return false
		}
		rest = after
	}
	return strings.HasSuffix(rest, last)
}

// issuers are those that were asked where their keys are. The zero value is ready.
type issuers struct {
	mu    sync.Mutex
	known map[string]knownIssuer
}

type knownIssuer struct {
	*oidc.Provider
	at time.Time
}

func (i *issuers) find(ctx context.Context, client *http.Client, url string, now time.Time) (*oidc.Provider, error) {
	i.mu.Lock()
	k, there := i.known[url]
	i.mu.Unlock()
	if there && now.Sub(k.at) < issuerKept {
		return k.Provider, nil
	}
	p, err := oidc.NewProvider(withClient(ctx, client), url)
	if err != nil {
		return nil, err
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.known == nil || len(i.known) >= maxIssuers {
		i.known = map[string]knownIssuer{}
	}
	i.known[url] = knownIssuer{p, now}
	return p, nil
}

// withClient has issuers asked with the client, within bounds: short answers, soon, and from where the administrator
// said.
func withClient(ctx context.Context, client *http.Client) context.Context {
	if client == nil {
		client = http.DefaultClient
	}
	bounded := *client
	bounded.Timeout = issuerTime
	bounded.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	bounded.Transport = shortAnswers{client.Transport}
	return oidc.ClientContext(ctx, &bounded)
}

// shortAnswers cuts answers off that are too long.
type shortAnswers struct{ http.RoundTripper }

func (s shortAnswers) RoundTrip(r *http.Request) (*http.Response, error) {
	next := s.RoundTripper
	if next == nil {
		next = http.DefaultTransport
	}
	resp, err := next.RoundTrip(r)
	if err != nil {
		return nil, err
	}
	resp.Body = struct {
		io.Reader
		io.Closer
	}{io.LimitReader(resp.Body, maxIssuerAnswer), resp.Body}
	return resp, nil
}
