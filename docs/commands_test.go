package docs_test

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// A command in a page: at a prompt, in code, or alone on a line; flags may stand before its words.
var command = regexp.MustCompile("(?m)(?:^|[`>]|[#$] (?:bin/)?)headscale ((?:-n (?:<var>)?[A-Za-z]+(?:</var>)? )?)([a-z][a-z-]+(?: [a-z][a-z-]+)?)")

// older are the words for a group of which the reference has only today's.
var older = map[string]string{"namespaces": "users"}

// Every command that a page has people type is one that there is: the reference is made from the command tree.
func TestCommandsExist(t *testing.T) {
	text, err := os.ReadFile("cli.md")
	if err != nil {
		t.Fatal(err)
	}
	var known []string
	for _, m := range regexp.MustCompile(`(?m)^##+ headscale (.+)$`).FindAllStringSubmatch(string(text), -1) {
		known = append(known, m[1])
	}
	seen := 0
	for _, file := range pages(t) {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range command.FindAllStringSubmatch(string(text), -1) {
			group, leaf, _ := strings.Cut(m[2], " ")
			if now, ok := older[group]; ok {
				group = now
			}
			seen++
			if !slices.Contains(known, strings.TrimSpace(group+" "+leaf)) {
				t.Errorf("%s: there is no command headscale %s", file, m[2])
			}
		}
	}
	if seen < 50 {
		t.Errorf("got %d commands in all pages: they are not found any more", seen)
	}
}

// pages are all that people read, without the reference itself.
func pages(t *testing.T) []string {
	t.Helper()
	var files []string
	for _, pattern := range []string{"*.md", "zh/*.md", "../*.md", "../hscontrol/console/pages/*/*.html"} {
		found, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, found...)
	}
	return slices.DeleteFunc(files, func(f string) bool { return f == "cli.md" })
}
