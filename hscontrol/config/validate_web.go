package config

import (
	"net/url"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// taken are the first parts of paths that the server answers itself.
var taken = []string{
	"api", "apple", "auth", "bootstrap-dns", "derp", "favicon.ico", "generate_204", "health", "key", "machine", "oidc",
	"register", "relay", "robots.txt", "swagger", "ts2021", "verify", "version", "windows",
}

// audit checks how long the audit log is kept, and to where it is sent.
func (v *validator) audit() {
	a := v.cfg.Audit
	if a.Retention != 0 && a.Retention < 24*time.Hour {
		v.problem("audit.retention", "%v is too short; make it 1d or longer, or 0 to keep the log for good", a.Retention)
	}
	if !slices.Contains([]string{"json", "ndjson", "splunk"}, a.HTTPFormat) {
		v.problem("audit.http_format", "%q is not known; write json, ndjson or splunk", a.HTTPFormat)
	}
	for i, stream := range a.Streams {
		u, err := url.Parse(stream)
		switch {
		case err != nil || !slices.Contains([]string{"file", "unix", "udp", "tcp", "tls", "http", "https"}, u.Scheme):
			v.problem("audit.streams", "stream %d is nothing that the log can be sent to; write file:///PATH, tcp://HOST:PORT or https://HOST/PATH", i+1)
		case (u.Scheme == "file" || u.Scheme == "unix") && (u.Host != "" || !filepath.IsAbs(u.Path)):
			v.problem("audit.streams", "stream %d needs a whole path, with three slashes: %s:///var/log/headscale", i+1, u.Scheme)
		case u.Scheme != "file" && u.Scheme != "unix" && u.Hostname() == "":
			v.problem("audit.streams", "stream %d needs a host", i+1)
		case u.User != nil:
			v.problem("audit.streams", "stream %d has a user or password in it; write it to audit.http_token", i+1)
		case slices.Contains(a.Streams[:i], stream):
			v.problem("audit.streams", "stream %d is there twice", i+1)
		}
	}
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
