package hscontrol_test

import (
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/keelscale/keelscale/hscontrol/config"
	"github.com/keelscale/keelscale/hscontrol/hstest"
)

// visit makes a request as a browser does, and follows nothing.
func visit(t *testing.T, method, url string, header map[string]string) (*http.Response, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	for k, v := range header {
		req.Header.Set(k, v)
	}
	resp, err := http.DefaultTransport.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err != nil {
		t.Fatal(err)
	}
	return resp, string(text)
}

func TestOrigins(t *testing.T) {
	const ui, other = "https://ui.example.com", "https://evil.example.com"
	s := hstest.Start(t, func(c *config.Config) { c.CORS.AllowedOrigins = []string{ui} })
	preflight := map[string]string{"Access-Control-Request-Method": "PUT", "Access-Control-Request-Headers": "authorization"}
	for _, c := range []struct {
		name, method, path, origin string
		status                     int
		allowed                    bool
	}{
		{"asked beforehand", "OPTIONS", "/api/v1/policy", ui, 204, true},
		{"asked by another", "OPTIONS", "/api/v1/policy", other, 405, false},
		{"a call without a key", "GET", "/api/v1/node", ui, 401, true},
		{"a call of another", "GET", "/api/v1/node", other, 401, false},
		{"health", "GET", "/health", ui, 200, true},
		{"version", "GET", "/version", ui, 200, true},
		{"the key, by a client in a page", "GET", "/key?v=130", ui, 200, true},
		{"a page", "GET", "/windows", ui, 200, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			header := map[string]string{"Origin": c.origin}
			if c.method == "OPTIONS" {
				for k, v := range preflight {
					header[k] = v
				}
			}
			resp, text := visit(t, c.method, s.URL+c.path, header)
			want := ""
			if c.allowed {
				want = c.origin
			}
			if got := resp.Header.Get("Access-Control-Allow-Origin"); resp.StatusCode != c.status || got != want {
				t.Errorf("got %d and origin %q, want %d and %q: %s", resp.StatusCode, got, c.status, want, text)
			}
			if c.status == 204 && !strings.Contains(resp.Header.Get("Access-Control-Allow-Headers"), "Authorization") {
				t.Errorf("got headers %v, want Authorization allowed", resp.Header)
			}
		})
	}
}

func TestStaticDirs(t *testing.T) {
	dir, second := t.TempDir(), t.TempDir()
	for name, text := range map[string]string{
		"index.html": "the page", "app.js": "the program", "settings.html": "the settings", "deep/index.html": "deep", ".env": "secret",
	} {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(second, "index.html"), []byte("another page"), 0o644); err != nil {
		t.Fatal(err)
	}
	s := hstest.Start(t, func(c *config.Config) { c.UI.StaticDirs = map[string]string{"/web": dir} })
	check := func(method, path string, status int, part string) {
		t.Helper()
		resp, text := visit(t, method, s.URL+path, nil)
		if resp.StatusCode != status || !strings.Contains(text, part) {
			t.Errorf("%s %s: got %d %q, want %d …%s…", method, path, resp.StatusCode, text, status, part)
		}
	}
	check("GET", "/web", 301, "")
	check("GET", "/web/", 200, "the page")
	check("GET", "/web/index.html", 200, "the page")
	check("GET", "/web/app.js", 200, "the program")
	check("GET", "/web/settings", 200, "the settings")
	check("GET", "/web/deep", 301, "/web/deep/")
	check("GET", "/web/deep?apikey=x", 301, "/web/deep/?apikey=x")
	check("GET", "/web/deep/", 200, "deep")
	check("GET", "/web/a/state/of/the/page", 200, "the page")
	check("GET", "/web/app.js/more", 200, "the page")
	check("GET", "/web/missing.js", 404, "")
	check("GET", "/web/.env", 404, "")
	check("GET", "/web/%2e%2e/%2e%2e/etc/passwd", 200, "the page")
	check("POST", "/web/", 405, "")
	check("GET", "/website", 404, "")
	check("GET", "/health", 200, "pass")

	s.Next = func(c *config.Config) { c.UI.StaticDirs = map[string]string{"/admin": second} }
	if err := s.Reload(t.Context()); err != nil {
		t.Fatal(err)
	}
	check("GET", "/web/", 404, "")
	check("GET", "/admin/", 200, "another page")
}
