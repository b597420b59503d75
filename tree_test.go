package keelscale_test

import (
	"bytes"
	"go/format"
	"net/url"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"unicode"
)

// tracked are the files that git knows, relative to the top.
func tracked(t *testing.T) []string {
	t.Helper()
	out, err := exec.Command("git", "ls-files", "-z").Output()
	if err != nil {
		t.Skipf("no git checkout here, so no list of files: %v", err)
	}
	files := strings.Split(strings.TrimSuffix(string(out), "\x00"), "\x00")
	return slices.DeleteFunc(files, func(f string) bool {
		_, err := os.Stat(f)
		return err != nil // removed, and not committed yet
	})
}

func read(t *testing.T, file string) []byte {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestFormatted(t *testing.T) {
	for _, file := range tracked(t) {
		if !strings.HasSuffix(file, ".go") {
			continue
		}
		src := read(t, file)
		if got, err := format.Source(src); err != nil {
			t.Errorf("%s: %v", file, err)
		} else if !bytes.Equal(got, src) {
			t.Errorf("%s is not formatted: run gofmt -w on it", file)
		}
	}
}

// Written so that they do not find themselves.
var (
	machinePaths = regexp.MustCompile(`/w[o]rk/(main|shared)|/tmp/contr[a]ct|/root/go/p[k]g`)
	registries   = regexp.MustCompile(`proxy\.golang\.o[r]g|sum\.golang\.o[r]g|registry\.npmjs\.o[r]g|deb\.debian\.o[r]g|pypi\.o[r]g`)
	unfinished   = regexp.MustCompile(`\b(T[O]DO|F[I]XME|X[X]X)\b`)
)

// What is committed runs anywhere: it names no directory of the machine where it was written, nor where that machine
// fetches packages.
func TestNamesNoMachine(t *testing.T) {
	rules := map[string]*regexp.Regexp{"a path of one machine": machinePaths, "a package registry": registries}
	if here, err := os.Getwd(); err == nil && strings.Count(here, "/") >= 2 {
		rules["where this checkout is"] = regexp.MustCompile(regexp.QuoteMeta(here) + `\b`)
	}
	if out, err := exec.Command("go", "env", "GOMODCACHE").Output(); err == nil && len(bytes.TrimSpace(out)) > 4 {
		rules["this machine's module cache"] = regexp.MustCompile(regexp.QuoteMeta(string(bytes.TrimSpace(out))))
	}
	for _, file := range tracked(t) {
		text := read(t, file)
		for what, rule := range rules {
			if found := rule.Find(text); found != nil {
				t.Errorf("%s names %s: %s", file, what, found)
			}
		}
	}
}

func TestNothingUnfinished(t *testing.T) {
	for _, file := range tracked(t) {
		if !strings.HasSuffix(file, ".go") {
			continue
		}
		if found := unfinished.Find(read(t, file)); found != nil {
			t.Errorf("%s says %s: do it, or write an issue", file, found)
		}
	}
}

// What go generate writes is what is committed. The tree is copied first, so that a failing test changes nothing.
func TestGeneratedFresh(t *testing.T) {
	if testing.Short() {
		t.Skip("go generate builds its tools, which takes a while")
	}
	if _, err := exec.LookPath("protoc"); err != nil {
		t.Skip("no protoc here: apt-get install protobuf-compiler")
	}
	dir, before := t.TempDir(), map[string][]byte{}
	for _, file := range tracked(t) {
		before[file] = copyFile(t, file, filepath.Join(dir, file))
	}
	cmd := exec.Command("go", "generate", "./...")
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("go generate: %v\n%s", err, out)
	}
	for file, text := range before {
		if !bytes.Equal(unversioned(text), unversioned(read(t, filepath.Join(dir, file)))) {
			t.Errorf("%s is stale: run go generate ./... and commit", file)
		}
	}
}

var protocVersion = regexp.MustCompile(`(?m)^// .*protoc +v[0-9.]+$`)

// unversioned leaves out the comment that says which protoc was at hand.
func unversioned(text []byte) []byte { return protocVersion.ReplaceAll(text, nil) }

// copyFile copies a file and gives what is in it.
func copyFile(t *testing.T, from, to string) []byte {
	t.Helper()
	text := read(t, from)
	info, err := os.Stat(from)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(to, text, info.Mode().Perm()); err != nil {
		t.Fatal(err)
	}
	return text
}

var (
	mdLink    = regexp.MustCompile(`\]\(([^)\s]+)\)`)
	mdHeading = regexp.MustCompile(`(?m)^#{1,6} +(.+?) *$`)
	mdFence   = regexp.MustCompile("(?ms)^```.*?^```")
)

// A link from one page to another leads somewhere, to the heading too.
func TestLinks(t *testing.T) {
	for _, file := range tracked(t) {
		if path.Ext(file) != ".md" {
			continue
		}
		for _, m := range mdLink.FindAllStringSubmatch(string(mdFence.ReplaceAll(read(t, file), nil)), -1) {
			u, err := url.Parse(m[1])
			if err != nil {
				t.Errorf("%s: link %q: %v", file, m[1], err)
				continue
			}
			if u.Scheme != "" {
				continue
			}
			target := file
			if u.Path != "" {
				target = path.Join(path.Dir(file), u.Path)
			}
			if _, err := os.Stat(target); err != nil {
				t.Errorf("%s: link %q leads nowhere", file, m[1])
				continue
			}
			if u.Fragment != "" && path.Ext(target) == ".md" && !slices.Contains(anchors(t, target), u.Fragment) {
				t.Errorf("%s: link %q: %s has no such heading, only %v", file, m[1], target, anchors(t, target))
			}
		}
	}
}

// anchors are the names that web views of a page give its headings: lower case, spaces as hyphens, no punctuation.
func anchors(t *testing.T, file string) []string {
	t.Helper()
	var out []string
	for _, m := range mdHeading.FindAllSubmatch(mdFence.ReplaceAll(read(t, file), nil), -1) {
		out = append(out, strings.Map(func(r rune) rune {
			switch {
			case r == ' ':
				return '-'
			case r == '-' || r == '_' || unicode.IsLetter(r) || unicode.IsDigit(r):
				return unicode.ToLower(r)
			}
			return -1
		}, string(m[1])))
	}
	return out
}
