package config

import (
	"path"
	"path/filepath"
	"slices"
	"strings"
)

// taken are the first parts of paths that the server answers itself.
var taken = []string{
	"api", "apple", "auth", "bootstrap-dns", "derp", "favicon.ico", "generate_204", "health", "key", "machine", "oidc",
	"register", "relay", "robots.txt", "swagger", "ts2021", "verify", "version", "windows",
}

// browsers checks what is said about pages in browsers.
func (v *validator) browsers() {
	for _, origin := range v.cfg.CORS.AllowedOrigins {
		if origin == "*" {
			continue
		}
		u, err := parseURL(origin, "https", "http")
		if err != nil || u.Scheme+"://"+u.Host != origin {
			v.problem("cors.allowed_origins", `%q is no origin; write scheme, host and port without a path, as in "https://ui.example.com"`, origin)
		}
	}
	for at, dir := range v.cfg.UI.StaticDirs {
		first, _, _ := strings.Cut(strings.TrimPrefix(at, "/"), "/")
		switch {
		case !strings.HasPrefix(at, "/") || path.Clean(at) != at || first == "" || strings.ContainsAny(at, "?#%\\ "):
			v.problem("ui.static_dirs", `%q is no path of a page; write it like "/web"`, at)
		case slices.Contains(taken, first):
			v.problem("ui.static_dirs", "%q is a path that the server needs itself; choose another, /web for instance", at)
		case !filepath.IsAbs(dir):
			v.problem("ui.static_dirs", "%q needs a directory to show", at)
		}
	}
}
