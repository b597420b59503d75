package derpmap

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"tailscale.com/tailcfg"
)

// fetchTimeout bounds the reading of one source.
const fetchTimeout = 15 * time.Second

// source is one place that a DERP map comes from.
type source struct {
	name   string // as it was configured, without a password
	url    string // of http and https
	path   string // of a file
	cache  string // file of the last good copy; "" keeps none
	client *http.Client

	// What is known of it; only the loader's pass touches this.
	last     *tailcfg.DERPMap // the last good copy
	loaded   time.Time        // when it was read from the source itself
	cached   bool             // it is from the cache file
	err      error            // why it is not newer
	warnings []string
}

// parseSource reads an entry of Config.Sources.
func parseSource(s string, cfg Config) (*source, error) {
	src := &source{name: s, client: cfg.Client}
	if cfg.CacheDir != "" {
		sum := sha256.Sum256([]byte(s))
		src.cache = filepath.Join(cfg.CacheDir, "derpmap-"+hex.EncodeToString(sum[:8]))
	}
	if !strings.Contains(s, "://") {
		src.path = s
		return src, nil
	}
	u, err := url.Parse(s)
	if err != nil {
		return nil, errors.New("a DERP map URL cannot be read: it is malformed") // the text may hold a password
	}
	src.name = u.Redacted()
	switch u.Scheme {
	case "http", "https":
		if u.Host == "" {
			return nil, fmt.Errorf("DERP map URL %q names no host", src.name)
		}
		src.url = s
	case "file":
		if u.Host != "" && u.Host != "localhost" || u.Path == "" {
			return nil, fmt.Errorf("DERP map URL %q must be like file:///etc/headscale/derp.yaml", src.name)
		}
		src.path = u.Path
	default:
		return nil, fmt.Errorf("DERP map URL %q must begin with https://, http:// or file://", src.name)
	}
	return src, nil
}

// load reads the source. When that fails the last good copy stays, or the one of the cache
// file takes its place.
func (s *source) load(ctx context.Context, now time.Time) {
	ctx, cancel := context.WithTimeout(ctx, fetchTimeout)
	defer cancel()
	text, err := s.fetch(ctx)
	var m *tailcfg.DERPMap
	var unknown []string
	if err == nil {
		m, unknown, err = s.parse(text)
	}
	if err != nil {
		s.err = err
		if s.last == nil {
			s.loadCache()
		}
		return
	}
	s.last, s.loaded, s.cached, s.err, s.warnings = m, now, false, nil, unknown
	if err := s.keep(text); err != nil {
		s.warnings = append(s.warnings, "the copy for bad times is not kept: "+err.Error())
	}
}

// parse is strict with files, which belong to the operator. From elsewhere, such as
// Tailscale's own map, a key that is new to us must not stop the map; it becomes a warning.
func (s *source) parse(text []byte) (*tailcfg.DERPMap, []string, error) {
	if s.url != "" {
		return parse(text)
	}
	m, err := Parse(text)
	return m, nil, err
}

func (s *source) fetch(ctx context.Context) ([]byte, error) {
	if s.url == "" {
		f, err := os.Open(s.path)
		if err != nil {
			return nil, err
		}
		defer f.Close()
		return readAll(f)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.url, nil)
	if err != nil {
		return nil, fmt.Errorf("asking for %s: malformed URL", s.name)
	}
	req.Header.Set("Accept", "application/json, application/yaml;q=0.9, */*;q=0.5")
	res, err := s.client.Do(req)
	if err != nil {
		return nil, err // names the URL, without the password
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s answered %s", s.name, res.Status)
	}
	return readAll(res.Body)
}

func readAll(r io.Reader) ([]byte, error) {
	text, err := io.ReadAll(io.LimitReader(r, MaxSize+1))
	if err == nil && len(text) > MaxSize {
		err = fmt.Errorf("it is larger than %d bytes", MaxSize)
	}
	return text, err
}

// keep stores the text for the next start.
func (s *source) keep(text []byte) error {
	if s.cache == "" {
		return nil
	}
	if old, err := os.ReadFile(s.cache); err == nil && string(old) == string(text) {
		now := time.Now()
		return os.Chtimes(s.cache, now, now)
	}
	if err := os.MkdirAll(filepath.Dir(s.cache), 0o700); err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(s.cache), ".derpmap-*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	_, err = f.Write(text)
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return err
	}
	return os.Rename(f.Name(), s.cache)
}

// loadCache takes the copy of an earlier run.
func (s *source) loadCache() {
	if s.cache == "" {
		return
	}
	f, err := os.Open(s.cache)
	if err != nil {
		return
	}
	defer f.Close()
	text, err := readAll(f)
	if err != nil {
		return
	}
	m, _, err := parse(text)
	if err != nil {
		return
	}
	s.last, s.cached = m, true
	if info, err := f.Stat(); err == nil {
		s.loaded = info.ModTime()
	}
}
