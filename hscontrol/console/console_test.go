package console_test

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/keelscale/keelscale/hscontrol/console"
	"github.com/keelscale/keelscale/hscontrol/tailnet"
	"tailscale.com/tailcfg"
)

const (
	serverURL = "http://192.0.2.7:8080"
	someID    = "hskey-authreq-00112233445566778899aabb"
	someKey   = "8f1b0c8e5f2f4fb36b8d0f4b5f1f5a0e8c5d8d4d6f0a7e2b9c3d1e4f5a6b7c8d"
)

var now = time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)

// waiting is a machine that asked two minutes ago.
func waiting() *tailnet.Registration {
	return &tailnet.Registration{
		ID:        someID,
		Hostinfo:  &tailcfg.Hostinfo{Hostname: "laptop", OS: "linux", Distro: "debian", DistroVersion: "12", IPNVersion: "1.102.5-t0a1b2c3d4"},
		CreatedAt: now.Add(-2 * time.Minute),
		ExpiresAt: now.Add(13 * time.Minute),
	}
}

// serving is a console that knows one registration, or an error.
func serving(reg *tailnet.Registration, err error) http.Handler {
	return console.New(console.Config{
		ServerURL: serverURL + "/",
		Now:       func() time.Time { return now },
		Registration: func(_ context.Context, ref tailnet.RegistrationRef) (*tailnet.Registration, error) {
			if err != nil {
				return nil, err
			}
			if reg == nil || (ref.ID != reg.ID && ref.Digits != someKey) {
				return nil, fmt.Errorf("registration %v: %w", ref, tailnet.ErrNotFound)
			}
			return reg, nil
		},
	})
}

func get(t *testing.T, h http.Handler, target string, header ...string) *httptest.ResponseRecorder {
	t.Helper()
	r := httptest.NewRequest(http.MethodGet, target, nil)
	for i := 0; i+1 < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

// text is a page as people read it, so that a command is found whole.
func text(page string) string {
	page = regexp.MustCompile(`(?s)<(style|script)>.*?</(style|script)>`).ReplaceAllString(page, "")
	return regexp.MustCompile(`<[^>]*>`).ReplaceAllString(page, "")
}

func TestPages(t *testing.T) {
	h := serving(waiting(), nil)
	for _, tc := range []struct {
		path   string
		status int
		want   []string
	}{
		{"/", 200, []string{"tailscale up --login-server=" + serverURL, "Android"}},
		{"/?lang=zh", 200, []string{"tailscale up --login-server=" + serverURL, "安卓"}},
		{"/apple", 200, []string{"ControlURL " + serverURL}},
		{"/apple?lang=zh", 200, []string{"ControlURL " + serverURL, "描述文件"}},
		{"/windows", 200, []string{`reg add "HKLM\SOFTWARE\Tailscale IPN" /v LoginURL /d ` + serverURL}},
		{"/windows?lang=zh", 200, []string{"注册表", "LoginURL /d " + serverURL}},
		{"/nothing", 404, []string{"There is no such page"}},
		{"/apple/beos", 404, []string{"There is no such page"}},
		{"/nothing?lang=zh", 404, []string{"页面不存在"}},
		{"/register/" + someID + "/more", 404, []string{"There is no such page"}},
	} {
		w := get(t, h, tc.path)
		if w.Code != tc.status {
			t.Errorf("GET %s: got status %d, want %d", tc.path, w.Code, tc.status)
		}
		for _, want := range tc.want {
			if got := text(w.Body.String()); !strings.Contains(got, want) {
				t.Errorf("GET %s: got no %q in the page:\n%s", tc.path, want, got)
			}
		}
	}
}

func TestRobotsAndIcon(t *testing.T) {
	h := serving(nil, nil)
	if got := get(t, h, "/robots.txt").Body.String(); !strings.Contains(got, "Disallow: /\n") {
		t.Errorf("robots.txt: got %q, want all disallowed", got)
	}
	w := get(t, h, "/favicon.ico")
	if got := w.Header().Get("Content-Type"); got != "image/svg+xml" || !strings.HasPrefix(w.Body.String(), "<svg") {
		t.Errorf("favicon.ico: got %s %.20q, want an SVG", got, w.Body)
	}
}

func TestOnlyReads(t *testing.T) {
	for _, path := range []string{"/", "/register/" + someID, "/apple", "/nothing"} {
		w := httptest.NewRecorder()
		serving(nil, nil).ServeHTTP(w, httptest.NewRequest(http.MethodPost, path, strings.NewReader("x")))
		if w.Code != http.StatusMethodNotAllowed {
			t.Errorf("POST %s: got status %d, want 405", path, w.Code)
		}
	}
}

func TestRegisterShowsCommands(t *testing.T) {
	h := serving(waiting(), nil)
	auth := "headscale auth register --auth-id " + someID + " --user USER"
	for _, tc := range []struct{ path, key string }{
		{"/register/" + someID, someID},
		{"/auth/" + someID, someID},
		{"/register?key=" + someID, someID},
		{"/register/" + strings.TrimPrefix(someID, "hskey-authreq-"), someID},
		{"/register?key=" + someKey, someKey},
		{"/register?key=mkey:" + someKey, someKey},
		{"/register?key=nodekey:" + strings.ToUpper(someKey), someKey},
	} {
		w := get(t, h, tc.path)
		got := text(w.Body.String())
		if w.Code != 200 {
			t.Errorf("GET %s: got status %d, want 200", tc.path, w.Code)
		}
		for _, want := range []string{
			auth, "headscale -n NAMESPACE nodes register --key " + tc.key + "\n",
			"laptop", "linux debian 12", "1.102.5", "2 minutes ago", "2026-11-21 11:58:00", "13 minutes",
		} {
			if !strings.Contains(got+"\n", strings.TrimSuffix(want, "\n")) {
				t.Errorf("GET %s: got no %q in the page:\n%s", tc.path, want, got)
			}
		}
	}
}

func TestRegisterInChinese(t *testing.T) {
	got := text(get(t, serving(waiting(), nil), "/register/"+someID, "Accept-Language", "zh-CN,zh;q=0.9,en;q=0.8").Body.String())
	for _, want := range []string{
		"允许这台机器加入吗", "headscale auth register --auth-id " + someID + " --user USER",
		"headscale -n NAMESPACE nodes register --key " + someID, "2 分钟前", "13 分钟",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("got no %q in the page:\n%s", want, got)
		}
	}
}

func TestRegisterStates(t *testing.T) {
	changed := func(f func(*tailnet.Registration)) *tailnet.Registration {
		reg := waiting()
		f(reg)
		return reg
	}
	for _, tc := range []struct {
		name   string
		reg    *tailnet.Registration
		err    error
		path   string
		status int
		state  string
		want   string
	}{
		{"waiting", waiting(), nil, "/register/" + someID, 200, "waiting", "Let this machine in?"},
		{"no facts", changed(func(r *tailnet.Registration) { r.Hostinfo = nil }), nil, "/register/" + someID, 200, "waiting", "(it gave none)"},
		{"joined", changed(func(r *tailnet.Registration) { r.NodeID = 3 }), nil, "/register/" + someID, 200, "joined", "laptop has joined"},
		{"refused", changed(func(r *tailnet.Registration) { r.Rejected = true }), nil, "/register/" + someID, 410, "refused", "was not let in"},
		{"expired", changed(func(r *tailnet.Registration) { r.ExpiresAt = now }), nil, "/register/" + someID, 410, "expired", "This link has ended"},
		{"unknown", nil, nil, "/register/" + someID, 404, "unknown", "No machine waits here"},
		{"no key", waiting(), nil, "/register", 404, "unknown", "No machine waits here"},
		{"not a key", waiting(), nil, "/register/hello", 404, "unknown", "No machine waits here"},
		{"a huge key", waiting(), nil, "/register?key=" + strings.Repeat("a", 100_000), 404, "unknown", "No machine waits here"},
		{"no database", nil, errors.New("disk on fire"), "/register/" + someID, 503, "broken", "Its database does not answer"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			h := serving(tc.reg, tc.err)
			w := get(t, h, tc.path)
			if w.Code != tc.status || !strings.Contains(w.Body.String(), tc.want) {
				t.Errorf("got status %d and page\n%s\nwant %d and %q", w.Code, text(w.Body.String()), tc.status, tc.want)
			}
			if strings.Contains(w.Body.String(), "disk on fire") {
				t.Error("the page tells strangers what the database said")
			}
			if got := get(t, h, tc.path+queryJoin(tc.path)+"lang=zh"); got.Code != tc.status || got.Header().Get("Content-Language") != "zh" {
				t.Errorf("in Chinese: got status %d, language %q", got.Code, got.Header().Get("Content-Language"))
			}
			w = get(t, h, tc.path, "Accept", "application/json")
			if got, want := strings.TrimSpace(w.Body.String()), `{"state":"`+tc.state+`"}`; w.Code != tc.status || got != want {
				t.Errorf("as JSON: got %d %s, want %d %s", w.Code, got, tc.status, want)
			}
		})
	}
}

func queryJoin(path string) string {
	if strings.Contains(path, "?") {
		return "&"
	}
	return "?"
}

func TestNobodyWaitsWithoutLookup(t *testing.T) {
	if got := get(t, console.New(console.Config{}), "/register/"+someID).Code; got != 404 {
		t.Errorf("got status %d, want 404", got)
	}
}

func TestClientWordsAreEscaped(t *testing.T) {
	reg := waiting()
	reg.Hostinfo = &tailcfg.Hostinfo{
		Hostname:    `<script>alert(1)</script>`,
		OS:          `"><img src=x onerror=alert(2)>`,
		DeviceModel: "good\u202eflip\x00\x1b[31m\u200b",
		IPNVersion:  strings.Repeat("9", 300),
		RequestTags: []string{`tag:<b>`},
	}
	for _, lang := range []string{"en", "zh"} {
		page := get(t, serving(reg, nil), "/register/"+someID+"?lang="+lang).Body.String()
		for _, bad := range []string{"<script>alert", "<img src=x", "<b>", "\u202e", "\x00", "\x1b", "\u200b", strings.Repeat("9", 65)} {
			if strings.Contains(page, bad) {
				t.Errorf("%s: the page holds %q", lang, bad)
			}
		}
		if want := "&lt;script&gt;alert(1)&lt;/script&gt;"; !strings.Contains(page, want) {
			t.Errorf("%s: got no %q in the page", lang, want)
		}
	}
}

func TestHeaders(t *testing.T) {
	h := serving(waiting(), nil)
	for _, path := range []string{"/", "/register/" + someID, "/register/nothing", "/apple", "/apple/ios", "/windows/tailscale.reg", "/nothing"} {
		w := get(t, h, path)
		for name, want := range map[string]string{
			"X-Frame-Options":        "DENY",
			"X-Content-Type-Options": "nosniff",
			"Referrer-Policy":        "no-referrer",
			"Cache-Control":          "no-store",
		} {
			if got := w.Header().Get(name); got != want {
				t.Errorf("GET %s: got %s %q, want %q", path, name, got, want)
			}
		}
		policy := w.Header().Get("Content-Security-Policy")
		if !strings.HasPrefix(policy, "default-src 'none';") || strings.Contains(policy, "unsafe") {
			t.Errorf("GET %s: got policy %q", path, policy)
		}
	}
}

// A page whose style or script is not the one that the policy names would come up bare.
func TestPolicyFitsPage(t *testing.T) {
	w := get(t, serving(waiting(), nil), "/register/"+someID)
	for _, tag := range []string{"style", "script"} {
		m := regexp.MustCompile(`(?s)<` + tag + `>(.*?)</` + tag + `>`).FindStringSubmatch(w.Body.String())
		if m == nil {
			t.Fatalf("the page has no %s", tag)
		}
		sum := sha256.Sum256([]byte(m[1]))
		want := tag + "-src 'sha256-" + base64.StdEncoding.EncodeToString(sum[:]) + "'"
		if got := w.Header().Get("Content-Security-Policy"); !strings.Contains(got, want) {
			t.Errorf("got policy %q, want %q in it", got, want)
		}
	}
}

// Nothing is loaded from elsewhere; links that a person clicks may lead away.
func TestNoForeignResources(t *testing.T) {
	for _, path := range []string{"/", "/register/" + someID, "/apple", "/windows"} {
		page := get(t, serving(waiting(), nil), path).Body.String()
		for _, m := range regexp.MustCompile(`<(script|img|link|iframe)[^>]*(src|href)="([^"]*)"`).FindAllStringSubmatch(page, -1) {
			if m[3] != "/favicon.ico" {
				t.Errorf("GET %s loads %s", path, m[3])
			}
		}
	}
}
