package config_test

import (
	"errors"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/goccy/go-yaml"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/keelscale/keelscale/hscontrol/config"
)

const exampleFile = "../../config-example.yaml"

// The example says that it shows what the server does without any file. So it must.
func TestExampleIsTheDefault(t *testing.T) {
	got, warnings, err := config.LoadAs(true, nil, exampleFile, nil)
	if err != nil || len(warnings) > 0 {
		t.Fatalf("got error %v and warnings %v, want none", err, warnings)
	}
	want := config.Default(config.SystemDataDir)
	want.File, want.ServerURL = got.File, "http://127.0.0.1:8080"
	if diff := cmp.Diff(want, got, cmpopts.EquateEmpty(), comparePrefixes); diff != "" {
		t.Errorf("the example (+) is not the default (-):\n%s", diff)
	}
}

// setting is a line of the example that is commented out: no space behind the sign, unlike the text around it.
var setting = regexp.MustCompile(`(?m)^( *)#([a-z])`)

func TestExampleHasEveryKey(t *testing.T) {
	data, err := os.ReadFile(exampleFile)
	if err != nil {
		t.Fatal(err)
	}
	all := setting.ReplaceAll(data, []byte("$1$2"))
	var tree map[string]any
	if err := yaml.Unmarshal(all, &tree); err != nil {
		t.Fatalf("reading the example with every setting: %v", err)
	}
	var missing []string
	for _, key := range allKeys() {
		if !has(tree, strings.Split(key, ".")) {
			missing = append(missing, key)
		}
	}
	if len(missing) > 0 {
		t.Errorf("got an example without %s, want every key", strings.Join(missing, ", "))
	}

	// With every setting switched on, the only objections are that OIDC has to wait and that its secret is there twice.
	_, _, err = config.Load(write(t, string(all)), nil)
	var invalid *config.Error
	if !errors.As(err, &invalid) || len(invalid.Problems) != 2 ||
		!strings.HasPrefix(invalid.Problems[0].Text, "oidc.issuer: signing in") ||
		!strings.HasPrefix(invalid.Problems[1].Text, "oidc.client_secret_path: is set beside") {
		t.Errorf("got error %v for the example with every setting, want what is known about oidc", err)
	}
}

func has(tree map[string]any, path []string) bool {
	v, ok := tree[path[0]]
	if !ok || len(path) == 1 {
		return ok
	}
	below, _ := v.(map[string]any)
	return below != nil && has(below, path[1:])
}

// The example marks what SIGHUP applies; Changes decides it.
func TestExampleMarksLiveKeys(t *testing.T) {
	data, err := os.ReadFile(exampleFile)
	if err != nil {
		t.Fatal(err)
	}
	want, _ := config.Changes(&config.Config{}, everythingSet())
	got := markedLive(string(data))
	slices.Sort(want)
	slices.Sort(got)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("the example marks (+) other keys with [live] than SIGHUP applies (-):\n%s", diff)
	}
}

var keyLine = regexp.MustCompile(`^( *)#?([a-z][a-z0-9_]*):`)

// markedLive lists the keys of the example with [live] in the text above them. Text counts up to the next text or
// empty line.
func markedLive(example string) []string {
	var marked, path []string
	var live, text bool
	for line := range strings.Lines(example) {
		m := keyLine.FindStringSubmatch(line)
		if m == nil {
			comment := strings.HasPrefix(strings.TrimSpace(line), "#")
			live = comment && (text && live || strings.Contains(line, "[live]"))
			text = comment
			continue
		}
		text = false
		path = append(path[:len(m[1])/2], m[2])
		if key := strings.Join(path, "."); live && slices.Contains(allKeys(), key) {
			marked = append(marked, key)
		}
	}
	return marked
}
