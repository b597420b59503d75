package main

import (
	"flag"
	"math"
	"os"
	"strconv"
	"strings"
	"testing"
	"unicode"
)

var update = flag.Bool("update", false, "write the table of settings into the documentation")

const tableBegin, tableEnd = "<!-- settings: made by go test ./cmd/derper -run TestSettingsTable -update -->\n", "<!-- end of settings -->\n"

// settingsTable is the table of the documentation: one row for each flag, with the meaning
// that means gives.
func settingsTable(head string, means func(f *flag.Flag) string) string {
	fs := new(settings).flags(stateDirs{
		key: "/var/lib/derper/derper.key", certs: "/var/lib/derper/certs", enrolment: "/var/lib/derper/enrolment.json", month: "/var/lib/derper/month.json",
	})
	var b strings.Builder
	b.WriteString(head)
	row := func(name string) {
		f := fs.Lookup(name)
		value := f.DefValue
		switch value {
		case "+Inf", strconv.Itoa(math.MaxInt), "":
			value = ""
		default:
			value = "`" + shortTime(value) + "`"
		}
		key := ""
		if k := fileKey(name); k != "" {
			key = "`" + k + "`"
		}
		vars := ""
		if list := envNames(name); len(list) > 0 {
			vars = "`" + strings.Join(list, "`, `") + "`"
		}
		b.WriteString("| `-" + name + "` | " + vars + " | " + key + " | " + value + " | " + means(f) + " |\n")
	}
	seen := map[string]bool{}
	for _, g := range groups {
		for _, name := range g.flags {
			row(name)
			seen[name] = true
		}
	}
	for _, name := range flagNames(fs) {
		if !seen[name] {
			row(name)
		}
	}
	return b.String()
}

// shortTime leaves out the zeros at the end of a time.
func shortTime(text string) string {
	if short, ok := strings.CutSuffix(text, "m0s"); ok {
		text = short + "m"
	}
	if short, ok := strings.CutSuffix(text, "h0m"); ok {
		text = short + "h"
	}
	return text
}

// meaning is the text of the flag, without the marks for the name of its value.
func meaning(f *flag.Flag) string {
	_, usage := flag.UnquoteUsage(f)
	return strings.ReplaceAll(usage, "|", `\|`)
}

// meanings reads those of a table that there is.
func meanings(table string) map[string]string {
	found := map[string]string{}
	for line := range strings.Lines(table) {
		cells := strings.Split(strings.Trim(strings.TrimSpace(line), "|"), " | ")
		if name, ok := strings.CutPrefix(strings.Trim(strings.TrimSpace(cells[0]), "`"), "-"); ok && len(cells) == 5 {
			found[name] = strings.TrimSpace(cells[4])
		}
	}
	return found
}

func TestSettingsTable(t *testing.T) {
	for _, tt := range []struct{ path, head string }{
		{"../../docs/derper.md", "| flag | variable | key in the file | default | meaning |\n|---|---|---|---|---|\n"},
		{"../../docs/zh/derper.md", "| 参数 | 环境变量 | 文件里的键 | 默认值 | 含义 |\n|---|---|---|---|---|\n"},
	} {
		raw, err := os.ReadFile(tt.path)
		if err != nil {
			t.Fatal(err)
		}
		before, rest, ok := strings.Cut(string(raw), tableBegin)
		old, after, ok2 := strings.Cut(rest, tableEnd)
		if !ok || !ok2 {
			t.Fatalf("%s has no place for the table of settings", tt.path)
		}
		means := meaning
		if chinese := strings.Contains(tt.path, "/zh/"); chinese {
			known := meanings(old)
			means = func(f *flag.Flag) string {
				text := known[f.Name]
				if !strings.ContainsFunc(text, func(r rune) bool { return unicode.Is(unicode.Han, r) }) {
					t.Errorf("%s: -%s has no meaning in Chinese", tt.path, f.Name)
					return meaning(f)
				}
				return text
			}
		}
		want := settingsTable(tt.head, means)
		switch {
		case old == want:
		case *update:
			if err := os.WriteFile(tt.path, []byte(before+tableBegin+want+tableEnd+after), 0o644); err != nil {
				t.Fatal(err)
			}
		default:
			t.Errorf("%s: the table of settings is out of date: go test ./cmd/derper -run TestSettingsTable -update", tt.path)
		}
	}
}

// Every flag is in the file, but for those that only make sense on the command line.
func TestEveryFlagHasAKey(t *testing.T) {
	for _, name := range flagNames(new(settings).flags(stateDirs{})) {
		if fileKey(name) == "" && name != "version" && name != "config" {
			t.Errorf("-%s is nowhere in the configuration file", name)
		}
	}
}
