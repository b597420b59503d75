package console_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/keelscale/keelscale/hscontrol/console"
	"github.com/keelscale/keelscale/hscontrol/tailnet"
)

func TestLogin(t *testing.T) {
	for _, tc := range []struct {
		verdict tailnet.SSHVerdict
		err     error
		status  int
		state   string
		want    []string
	}{
		{tailnet.SSHWaiting, nil, 200, "waiting", []string{"laptop, of alice", "db as <script>", "headscale auth approve --auth-id " + someID, "headscale auth reject --auth-id " + someID, "2 minutes ago", "in 13 minutes"}},
		{tailnet.SSHApproved, nil, 200, "joined", []string{"The login was approved", "headscale auth reject --auth-id " + someID}},
		{tailnet.SSHRejected, nil, 410, "refused", []string{"The login was rejected"}},
		{"", fmt.Errorf("login: %w", tailnet.ErrNotFound), 404, "unknown", []string{"No machine waits here"}},
		{"", errors.New("disk on fire"), 503, "broken", []string{"Its database does not answer"}},
	} {
		t.Run(tc.state, func(t *testing.T) {
			h := console.New(console.Config{
				ServerURL: serverURL,
				Now:       func() time.Time { return now },
				Registration: func(context.Context, tailnet.RegistrationRef) (*tailnet.Registration, error) {
					return nil, tailnet.ErrNotFound
				},
				Login: func(_ context.Context, id string) (*console.Login, error) {
					if tc.err != nil {
						return nil, tc.err
					}
					return &console.Login{
						ID: id, Source: "laptop", Owner: "alice", Destination: "db", Name: "<script>", Verdict: tc.verdict,
						Asked: now.Add(-2 * time.Minute), Expires: now.Add(13 * time.Minute),
					}, nil
				},
			})
			for _, path := range []string{"/auth/" + someID, "/register/" + someID} {
				w := get(t, h, path)
				if w.Code != tc.status {
					t.Errorf("GET %s: got status %d, want %d", path, w.Code, tc.status)
				}
				page := strings.ReplaceAll(strings.ReplaceAll(text(w.Body.String()), "&lt;", "<"), "&gt;", ">")
				for _, want := range tc.want {
					if !strings.Contains(page, want) {
						t.Errorf("GET %s: got no %q in the page:\n%s", path, want, page)
					}
				}
				if got := get(t, h, path+"?lang=zh"); got.Code != tc.status || got.Header().Get("Content-Language") != "zh" {
					t.Errorf("in Chinese: got status %d, language %q", got.Code, got.Header().Get("Content-Language"))
				}
				w = get(t, h, path, "Accept", "application/json")
				if got, want := strings.TrimSpace(w.Body.String()), `{"state":"`+tc.state+`"}`; got != want || w.Code != tc.status {
					t.Errorf("as JSON: got %d %s, want %d %s", w.Code, got, tc.status, want)
				}
			}
		})
	}
}
