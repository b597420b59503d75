package api_test

import (
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	headscalev1 "github.com/keelscale/keelscale/proto/headscale/v1"

	"github.com/keelscale/keelscale/hscontrol/api"
)

// TestFreshKeys lists a pre-auth key that was just made: whole for who made it over REST, masked for everybody else, and
// for that one too after a while.
func TestFreshKeys(t *testing.T) {
	now := start
	b := newBench(t, func(c *api.Config) { c.Now = func() time.Time { return now } })
	if _, err := b.CreateUser(t.Context(), &headscalev1.CreateUserRequest{Name: "alice"}); err != nil {
		t.Fatal(err)
	}
	mine, other := b.apiKey(t, ""), b.apiKey(t, "")
	create := func() string {
		_, answer := b.ask(t, "POST", "/api/v1/preauthkey", mine, `{"user": "alice"}`)
		return answer["preAuthKey"].(map[string]any)["key"].(string)
	}
	listed := func(key string, at int) string {
		_, answer := b.ask(t, "GET", "/api/v1/preauthkey", key, "")
		return answer["preAuthKeys"].([]any)[at].(map[string]any)["key"].(string)
	}
	first := create()
	masked := first[:len("hskey-auth-000000000000")] + "-***"
	check := func(name, got, want string) {
		t.Helper()
		if got != want {
			t.Errorf("%s: got %q, want %q", name, got, want)
		}
	}
	check("who made it", listed(mine, 0), first)
	check("again", listed(mine, 0), first)
	check("somebody else", listed(other, 0), masked)

	r := httptest.NewRequestWithContext(t.Context(), "GET", "/api/v1/preauthkey", nil) // as a script: without Accept
	r.Header.Set("Authorization", "Bearer "+mine)
	w := httptest.NewRecorder()
	b.rest.ServeHTTP(w, r)
	if body := w.Body.String(); strings.Contains(body, first) || !strings.Contains(body, masked) {
		t.Errorf("a script: got %s, want %s", body, masked)
	}
	remote, err := b.remote.ListPreAuthKeys(b.withKey(t, ""), &headscalev1.ListPreAuthKeysRequest{})
	if err != nil {
		t.Fatal(err)
	}
	check("gRPC", remote.GetPreAuthKeys()[0].GetKey(), masked)

	now = now.Add(9 * time.Minute)
	check("after nine minutes", listed(mine, 0), first)
	now = now.Add(time.Minute)
	check("after ten minutes", listed(mine, 0), masked)

	var last string
	for i := range 300 { // more than are kept
		now = now.Add(time.Millisecond)
		if last = create(); i == 0 {
			first = last
		}
	}
	check("the newest of many", listed(mine, 300), last)
	if got := listed(mine, 1); got == first {
		t.Error("the oldest of many: got it whole, want it forgotten")
	}
}
