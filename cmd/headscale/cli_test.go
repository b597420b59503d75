package main

import (
	"bytes"
	"context"
	"os"
	"strings"
	"testing"
	"time"
)

// TestReference holds docs/cli.md against the command tree. go generate ./cmd/headscale writes it anew.
func TestReference(t *testing.T) {
	var out, errs bytes.Buffer
	if code := newCLI(strings.NewReader(""), &out, &errs, nil).run(context.Background(), []string{"docs"}); code != 0 {
		t.Fatalf("headscale docs: exit code %d, want 0: %s", code, &errs)
	}
	got, err := os.ReadFile("../../docs/cli.md")
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, out.Bytes()) {
		t.Error("docs/cli.md is not what the command tree says: run go generate ./cmd/headscale")
	}
}

// TestHelp walks the whole tree: every command has a help that names it, and explains itself in one line.
func TestHelp(t *testing.T) {
	for _, cmd := range newCLI(nil, nil, nil, nil).tree().Commands() {
		if strings.HasSuffix(cmd.Short, ".") && cmd.Name() != "completion" {
			t.Errorf("headscale %s: short text %q ends with a period", cmd.Name(), cmd.Short)
		}
		for _, sub := range append(cmd.Commands(), cmd) {
			path := strings.Fields(sub.CommandPath())[1:]
			var out, errs bytes.Buffer
			code := newCLI(strings.NewReader(""), &out, &errs, nil).run(context.Background(), append(path, "--help"))
			if code != 0 || !strings.Contains(out.String(), "Usage:") {
				t.Errorf("%s --help: exit code %d, output %q, want 0 and its usage", path, code, &out)
			}
		}
	}
}

func TestTable(t *testing.T) {
	table := newTable("ID", "Name", "Note")
	table.add("1", "盒子", "two letters, four columns")
	table.add("22", "cafe\u0301", "a combining mark takes none")
	table.add("3", "evil\x1b[31m\nrow", "")
	var out bytes.Buffer
	if err := table.write(&out, false); err != nil {
		t.Fatal(err)
	}
	want := "" +
		"ID | Name          | Note\n" +
		"1  | 盒子          | two letters, four columns\n" +
		"22 | cafe\u0301          | a combining mark takes none\n" +
		"3  | evil?[31m?row |\n"
	if got := out.String(); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

func TestNearest(t *testing.T) {
	words := []string{"nodes", "node", "users", "preauthkeys", "r", "routes", "status", "set-ip"}
	for typed, want := range map[string]string{
		"noeds": "nodes", "user": "users", "preauthkey": "preauthkeys", "pre": "preauthkeys", "Nodes": "nodes",
		"stauts": "status", "setip": "set-ip", "xyzzy": "", "": "", "z": "",
	} {
		if got := nearest(typed, words); got != want {
			t.Errorf("nearest(%q): got %q, want %q", typed, got, want)
		}
	}
}

func TestParseExpiration(t *testing.T) {
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	for text, want := range map[string]time.Time{
		"1h":                   now.Add(time.Hour),
		"90d":                  now.AddDate(0, 0, 90),
		"1y":                   now.Add(365 * 24 * time.Hour),
		"1d12h":                now.Add(36 * time.Hour),
		"1.5h":                 now.Add(90 * time.Minute),
		"2027-01-31T12:00:00Z": time.Date(2027, 1, 31, 12, 0, 0, 0, time.UTC),
	} {
		got, never, err := parseExpiration(text, now)
		if err != nil || never || !got.AsTime().Equal(want) {
			t.Errorf("parseExpiration(%q): got %v, %v, %v, want %v", text, got.AsTime(), never, err, want)
		}
	}
	for _, text := range []string{"never", "0"} {
		if at, never, err := parseExpiration(text, now); at != nil || !never || err != nil {
			t.Errorf("parseExpiration(%q): got %v, %v, %v, want never", text, at, never, err)
		}
	}
	for _, text := range []string{"", "soon", "-1h", "0s", "1w2", "12"} {
		if at, never, err := parseExpiration(text, now); err == nil {
			t.Errorf("parseExpiration(%q): got %v, %v, want an error", text, at, never)
		}
	}
}

func FuzzTable(f *testing.F) {
	f.Add("box", "a\nb\x1b]0;title\a")
	f.Add("盒子", "\u202eabc\xff")
	f.Fuzz(func(t *testing.T, a, b string) {
		table := newTable("A", "B")
		table.add(a, b)
		var out bytes.Buffer
		if err := table.write(&out, false); err != nil {
			t.Fatal(err)
		}
		if got := strings.Count(out.String(), "\n"); got != 2 || strings.ContainsAny(out.String(), "\x1b\r\a") {
			t.Errorf("got %d lines in %q, want 2 without control characters", got, &out)
		}
	})
}
