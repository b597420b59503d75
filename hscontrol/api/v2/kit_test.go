package v2_test

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"testing"

	tailscale "tailscale.com/client/tailscale/v2"

	"github.com/keelscale/keelscale/hscontrol/config"
	"github.com/keelscale/keelscale/hscontrol/hstest"
	"github.com/keelscale/keelscale/hscontrol/tailnet"
)

// world is a server with two tailnets, each with a user and keys.
type world struct {
	*hstest.Server
	t     testing.TB
	ctx   context.Context
	owner *tailnet.User // of the default tailnet
	other *tailnet.Tailnet

	admin *tailscale.Client // may do everything in every tailnet
}

// policyText lets tests tag what they make.
const policyText = `{
	// the tests' own
	"tagOwners": {"tag:web": [], "tag:ci": ["tag:web"]},
	"acls": [{"action": "accept", "src": ["*"], "dst": ["*:*"]}],
}
`

func newWorld(t testing.TB, edit ...func(*config.Config)) *world {
	t.Helper()
	w := &world{Server: hstest.Start(t, edit...), t: t, ctx: t.Context()}
	w.owner = must[*tailnet.User](t)(w.Store().CreateUser(w.ctx, tailnet.User{Name: "odin", Email: "odin@example.com", Role: "owner"}))
	w.other = must[*tailnet.Tailnet](t)(w.Store().CreateTailnet(w.ctx, "elsewhere", netip.Prefix{}, netip.Prefix{}))
	w.admin = w.client(w.key(tailnet.APIKey{Scopes: []string{"all"}}), "")
	return w
}

func must[T any](t testing.TB) func(T, error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

// key makes an API key and gives its text.
func (w *world) key(k tailnet.APIKey) string {
	w.t.Helper()
	_, secret, err := w.Store().CreateAPIKey(w.ctx, k)
	if err != nil {
		w.t.Fatalf("creating an API key: %v", err)
	}
	return secret.Reveal()
}

// client is Tailscale's own, with a key, for a tailnet.
func (w *world) client(key, tailnetName string) *tailscale.Client {
	return &tailscale.Client{BaseURL: w.base(), APIKey: key, Tailnet: tailnetName}
}

func (w *world) base() *url.URL { return must[*url.URL](w.t)(url.Parse(w.URL)) }

// node has a machine join as the owner's, and gives its ID.
func (w *world) node(name string, edit ...func(*tailnet.PreAuthKey)) (*hstest.Node, string) {
	w.t.Helper()
	n := w.Node(name)
	n.Join(w.Key(w.owner, edit...))
	return n, w.idOf(n)
}

func (w *world) idOf(n *hstest.Node) string {
	w.t.Helper()
	row := must[*tailnet.Node](w.t)(w.Store().FindNodeByKey(w.ctx, n.Key.Public()))
	return strconv.FormatUint(uint64(row.ID), 10)
}

func (w *world) row(id string) *tailnet.Node {
	w.t.Helper()
	number := must[uint64](w.t)(strconv.ParseUint(id, 10, 64))
	return must[*tailnet.Node](w.t)(w.Store().GetNode(w.ctx, tailnet.NodeID(number)))
}

// statusOf is the HTTP status that a call of the client ended with; 200 for none.
func statusOf(err error) int {
	var told tailscale.APIError
	switch {
	case err == nil:
		return http.StatusOK
	case errors.As(err, &told):
		return told.Status
	}
	return -1
}

// refused checks that a call was answered with a status and a sentence.
func refused(t *testing.T, what string, err error, status int) {
	t.Helper()
	var told tailscale.APIError
	if !errors.As(err, &told) || told.Status != status || told.Message == "" {
		t.Errorf("%s: got %v, want status %d and a sentence", what, err, status)
	}
}

// ask makes a request that the client has no method for, and gives status and body.
func (w *world) ask(method, path, body string) (int, string) {
	w.t.Helper()
	return w.askAs(w.admin.APIKey, method, path, body)
}

// askAs is ask with another key; an empty one: with none, as clients that have a token of their own.
func (w *world) askAs(key, method, path, body string, client ...*http.Client) (int, string) {
	w.t.Helper()
	req := must[*http.Request](w.t)(http.NewRequestWithContext(w.ctx, method, w.URL+"/api/v2"+path, strings.NewReader(body)))
	if key != "" {
		req.SetBasicAuth(key, "")
	}
	resp := must[*http.Response](w.t)(append(client, http.DefaultClient)[0].Do(req))
	defer resp.Body.Close()
	text := must[[]byte](w.t)(io.ReadAll(resp.Body))
	return resp.StatusCode, string(text)
}

// is makes a request that has to end with a status; a refusal, with a sentence.
func (w *world) is(method, path, body string, want int) string {
	w.t.Helper()
	status, text := w.ask(method, path, body)
	if status != want || want != http.StatusOK && !strings.Contains(text, `"message":"`) {
		w.t.Errorf("%s %s %.80s: got %d %s, want %d", method, path, body, status, text, want)
	}
	return text
}

func (w *world) done(method, path, body string) {
	w.t.Helper()
	w.is(method, path, body, http.StatusOK)
}

// userKey makes an API key that acts for a user.
func (w *world) userKey(u *tailnet.User) string {
	return w.key(tailnet.APIKey{UserID: u.ID, Scopes: []string{"all"}})
}
