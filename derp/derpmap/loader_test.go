package derpmap_test

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"tailscale.com/tailcfg"

	"github.com/keelscale/keelscale/derp/derpmap"
)

// text is a map with one region.
func text(id int, code string) string {
	return fmt.Sprintf(`{"Regions":{"%d":{"RegionCode":%q,"Nodes":[{"HostName":"h"}]}}}`, id, code)
}

// site is a source of which the test says what it answers.
type site struct {
	*httptest.Server
	status atomic.Int32
	body   atomic.Value
}

func newSite(t *testing.T, body string) *site {
	s := &site{}
	s.status.Store(200)
	s.body.Store(body)
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(int(s.status.Load()))
		io.WriteString(w, s.body.Load().(string))
	}))
	t.Cleanup(s.Close)
	return s
}

func newLoader(t *testing.T, cfg derpmap.Config) *derpmap.Loader {
	t.Helper()
	cfg.Log = slog.New(slog.NewTextHandler(io.Discard, nil))
	l, err := derpmap.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func wantCodes(t *testing.T, m *tailcfg.DERPMap, want ...string) {
	t.Helper()
	var got []string
	for _, id := range slices.Sorted(maps.Keys(m.Regions)) {
		got = append(got, m.Regions[id].RegionCode)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("region codes (-want +got):\n%s", diff)
	}
}

func write(t *testing.T, path, body string) string {
	t.Helper()
	if err := os.WriteFile(path, []byte(body), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestLoaderMergesInOrder(t *testing.T) {
	dir := t.TempDir()
	url := newSite(t, `{"Regions":{"1":{"RegionCode":"url1","Nodes":[{"HostName":"h"}]},"2":{"RegionCode":"url2","Nodes":[{"HostName":"h"}]},"3":{"RegionCode":"url3","Nodes":[{"HostName":"h"}]}}}`)
	first := write(t, filepath.Join(dir, "a.yaml"), "regions:\n  1: null\n  2: {regioncode: file2, nodes: [{hostname: h}]}\n")
	second := write(t, filepath.Join(dir, "b.json"), text(4, "file4"))
	embedded, err := derpmap.Embedded(derpmap.Relay{RegionID: 3, RegionCode: "own", HostName: "192.0.2.1"})
	if err != nil {
		t.Fatal(err)
	}
	l := newLoader(t, derpmap.Config{
		Sources:  []string{url.URL, first, "file://" + second},
		Embedded: func() []*tailcfg.DERPRegion { return []*tailcfg.DERPRegion{embedded} },
	})
	wantCodes(t, l.Map())
	wantCodes(t, l.Reload(t.Context()), "file2", "own", "file4")
	for _, s := range l.Status() {
		if s.Err != nil || s.Loaded.IsZero() || s.Cached {
			t.Errorf("got status %+v, want it loaded", s)
		}
	}
}

func TestLoaderKeepsTheLastGoodCopy(t *testing.T) {
	for name, spoil := range map[string]func(*site){
		"refused":      func(s *site) { s.Close() },
		"error":        func(s *site) { s.status.Store(500) },
		"missing":      func(s *site) { s.status.Store(404) },
		"a login page": func(s *site) { s.body.Store("<html>sign in</html>") },
		"no sense":     func(s *site) { s.body.Store(`{"Regions":{"1":{}}}`) },
		"endless":      func(s *site) { s.body.Store(strings.Repeat(" ", derpmap.MaxSize+1)) },
	} {
		t.Run(name, func(t *testing.T) {
			s := newSite(t, text(1, "good"))
			cfg := derpmap.Config{Sources: []string{s.URL}, CacheDir: filepath.Join(t.TempDir(), "cache")}
			l := newLoader(t, cfg)
			wantCodes(t, l.Reload(t.Context()), "good")
			spoil(s)
			wantCodes(t, l.Reload(t.Context()), "good")
			if got := l.Status()[0]; got.Err == nil || got.Cached || got.Regions != 1 {
				t.Errorf("got status %+v, want an error and the copy in memory", got)
			}
			next := newLoader(t, cfg) // as after a restart
			wantCodes(t, next.Reload(t.Context()), "good")
			if got := next.Status()[0]; got.Err == nil || !got.Cached || got.Loaded.IsZero() {
				t.Errorf("got status %+v, want an error and the copy on disk", got)
			}
		})
	}
}

func TestLoaderStartsWithNothing(t *testing.T) {
	l := newLoader(t, derpmap.Config{Sources: []string{"http://127.0.0.1:1/derp.json", filepath.Join(t.TempDir(), "none.yaml")}, CacheDir: t.TempDir()})
	wantCodes(t, l.Reload(t.Context()))
	for _, s := range l.Status() {
		if s.Err == nil || s.Regions != 0 {
			t.Errorf("got status %+v, want an error", s)
		}
	}
}

func TestLoaderIsStrictWithFilesOnly(t *testing.T) {
	body := `{"Regions":{"1":{"RegionCode":"new","Colour":"red","Nodes":[{"HostName":"h"}]}}}`
	s := newSite(t, body)
	l := newLoader(t, derpmap.Config{Sources: []string{s.URL, write(t, filepath.Join(t.TempDir(), "x"), body)}})
	wantCodes(t, l.Reload(t.Context()), "new")
	status := l.Status()
	if status[0].Err != nil || len(status[0].Warnings) != 1 {
		t.Errorf("got status of the URL %+v, want one warning", status[0])
	}
	if status[1].Err == nil || !strings.Contains(status[1].Err.Error(), `"Colour"`) {
		t.Errorf("got error of the file %v, want one about Colour", status[1].Err)
	}
}

func TestLoaderRefusesSources(t *testing.T) {
	for _, s := range []string{"ftp://h/x", "https://", "file://host/x", "http://user:secret@h:x/"} {
		_, err := derpmap.New(derpmap.Config{Sources: []string{s}})
		if err == nil {
			t.Errorf("source %q was accepted", s)
		} else if strings.Contains(err.Error(), "secret") {
			t.Errorf("the error tells the password: %v", err)
		}
	}
}

func TestLoaderRunTellsOfChanges(t *testing.T) {
	s := newSite(t, text(1, "one"))
	changes := make(chan *tailcfg.DERPMap, 10)
	l := newLoader(t, derpmap.Config{
		Sources: []string{s.URL},
		Every:   10 * time.Millisecond,
		Changed: func(m *tailcfg.DERPMap) { changes <- m },
	})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- l.Run(ctx) }()
	wantCodes(t, <-changes, "one")
	s.body.Store(text(1, "two"))
	wantCodes(t, <-changes, "two")
	cancel()
	if err := <-done; err != nil {
		t.Errorf("Run: %v", err)
	}
	if n := len(changes); n != 0 {
		t.Errorf("%d more changes were told, want none", n)
	}
}

// A server reads the sources before it listens, and then runs the loader.
func TestLoaderRunDoesNotReadTwiceAtTheStart(t *testing.T) {
	var asked atomic.Int32
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		asked.Add(1)
		io.WriteString(w, text(1, "one"))
	}))
	defer srv.Close()
	l := newLoader(t, derpmap.Config{Sources: []string{srv.URL}})
	l.Reload(t.Context())
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := l.Run(ctx); err != nil || asked.Load() != 1 {
		t.Errorf("got %v after %d readings, want one", err, asked.Load())
	}
}

// A source that hangs costs the start no more than the caller gives it.
func TestLoaderReloadKeepsToItsContext(t *testing.T) {
	release := make(chan struct{})
	srv := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-release }))
	defer srv.Close()
	defer close(release)
	l := newLoader(t, derpmap.Config{Sources: []string{srv.URL}})
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	wantCodes(t, l.Reload(ctx))
	if err := l.Status()[0].Err; err == nil {
		t.Error("got no error from a source that hangs")
	}
}

func TestRefreshAsksForTheEmbeddedRegionOnly(t *testing.T) {
	s := newSite(t, text(1, "one"))
	var own atomic.Pointer[[]*tailcfg.DERPRegion]
	own.Store(new([]*tailcfg.DERPRegion))
	l := newLoader(t, derpmap.Config{Sources: []string{s.URL}, Embedded: func() []*tailcfg.DERPRegion { return *own.Load() }})
	wantCodes(t, l.Reload(t.Context()), "one")
	s.Close()
	own.Store(&[]*tailcfg.DERPRegion{region(9, "a")})
	wantCodes(t, l.Refresh(), "one", "r")
	if err := l.Status()[0].Err; err != nil {
		t.Errorf("got %v, want the source left alone", err)
	}
}
