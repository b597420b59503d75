// Package docs_test holds the pages to what the program does.
package docs_test

import (
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/keelscale/keelscale/hscontrol/config"
)

// configurations are the pages about the configuration, each with its headings of the two tables that are held here.
var configurations = []struct{ file, live, older string }{
	{"configuration.md", "## What changes without a restart", "## Older keys"},
	{"zh/configuration.md", "## 哪些改动无需重启", "## 旧键"},
}

var quoted = regexp.MustCompile("`([^`]+)`")

// column gives what is quoted in the first column of the table below a heading.
func column(t *testing.T, file, heading string) []string {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	_, below, ok := strings.Cut(string(text), heading+"\n")
	if !ok {
		t.Fatalf("%s has no heading %q", file, heading)
	}
	below, _, _ = strings.Cut(below, "\n## ")
	var out []string
	for line := range strings.Lines(below) {
		if !strings.HasPrefix(line, "| ") {
			continue
		}
		for _, m := range quoted.FindAllStringSubmatch(strings.Split(line, "|")[1], -1) {
			out = append(out, m[1])
		}
	}
	return out
}

// live are the keys that the program says it applies without a restart.
func live(typ reflect.Type, above string) []string {
	var out []string
	for i := range typ.NumField() {
		f := typ.Field(i)
		key, ok := f.Tag.Lookup("key")
		if !ok {
			continue
		}
		path := strings.Trim(above+"."+key, ".")
		if f.Tag.Get("reload") == "live" {
			out = append(out, path)
		} else if f.Type.Kind() == reflect.Struct {
			out = append(out, live(f.Type, path)...)
		}
	}
	return out
}

func TestLiveKeys(t *testing.T) {
	want := live(reflect.TypeFor[config.Config](), "")
	slices.Sort(want)
	for _, page := range configurations {
		got := column(t, page.file, page.live)
		slices.Sort(got)
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("keys in %s (-the program +the page):\n%s", page.file, diff)
		}
	}
}

func TestOlderKeysAreKnown(t *testing.T) {
	for _, page := range configurations {
		last := "" // "dns_config.magic_dns" is followed by ".base_domain"
		keys := column(t, page.file, page.older)
		if len(keys) < 20 {
			t.Errorf("%s: got only %d keys from the table", page.file, len(keys))
		}
		for _, key := range keys {
			key, value, _ := strings.Cut(key, ": ")
			if value == "" {
				value = "{}"
			}
			switch {
			case strings.HasPrefix(key, "."):
				key = last[:strings.LastIndexByte(last, '.')] + key
			case key == "use_username_in_magic_dns":
				key = "dns." + key
			}
			last = key
			if err := load(t, key, value); err != nil && strings.Contains(err.Error(), "unknown key") {
				t.Errorf("%s speaks of %q: %v", page.file, key, err)
			}
		}
	}
}

// load reads a configuration with one key more than it needs.
func load(t *testing.T, key, value string) error {
	t.Helper()
	file := filepath.Join(t.TempDir(), "config.yaml")
	text := "server_url: http://192.0.2.7:8080\n"
	indent := ""
	for part := range strings.SplitSeq(key, ".") {
		text += indent + part + ":\n"
		indent += "  "
	}
	text = strings.TrimSuffix(text, "\n") + " " + value + "\n"
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	_, _, err := config.Load(file, nil)
	return err
}
