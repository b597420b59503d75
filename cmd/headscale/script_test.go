package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/keelscale/keelscale/hscontrol"
	"github.com/keelscale/keelscale/hscontrol/config"
	"github.com/keelscale/keelscale/hscontrol/hstest/pgtest"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"headscale": main})
}

// TestScripts runs what a user could have typed, each script against a whole server of its own.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/script",
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		Setup:               setup,
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"serve":      serve,
			"stopserver": stopServer,
			"capture":    capture,
			"aligned":    aligned,
			"relay":      relay,
			"prune":      prune,
		},
	})
}

// setup gives each script a home of its own, and a configuration file whose server is not started yet.
func setup(env *testscript.Env) error {
	free, err := freeAddr()
	if err != nil {
		return err
	}
	door, err := freeAddr()
	if err != nil {
		return err
	}
	text := fmt.Sprintf(`
data_dir: %[1]s/data
server_url: http://127.0.0.1:8080
listen_addr: %[3]s
metrics_listen_addr: ""
grpc_listen_addr: %[2]s
grpc_allow_insecure: true
unix_socket: %[1]s/hs.sock
noise:
  also_on_443: false
policy:
  mode: database
derp:
  server:
    enabled: true
    stun_listen_addr: 127.0.0.1:0
    ipv4: 192.0.2.7
  auto_update_enabled: false
`, env.WorkDir, free, door)
	env.Values[relayGone{}] = &ending{}
	env.Values[serving{}] = &served{}
	env.Setenv("HOME", env.WorkDir)
	env.Setenv("TZ", "UTC")
	env.Setenv("GRPC_ADDR", free)
	env.Setenv("HTTP_ADDR", door)
	env.Setenv("HEADSCALE_CONFIG", filepath.Join(env.WorkDir, "config.yaml"))
	return os.WriteFile(filepath.Join(env.WorkDir, "config.yaml"), []byte(text), 0o600)
}

func freeAddr() (string, error) {
	port, err := pgtest.FreePort()
	return fmt.Sprintf("127.0.0.1:%d", port), err
}

// serve starts the server of the script, in this process.
func serve(ts *testscript.TestScript, neg bool, args []string) {
	load := func() (*config.Config, []config.Warning, error) {
		return config.Load(ts.MkAbs("config.yaml"), []string{"HOME=" + ts.Getenv("HOME")})
	}
	cfg, _, err := load()
	ts.Check(err)
	ctx, cancel := context.WithCancel(context.Background())
	server, err := hscontrol.Open(ctx, hscontrol.Options{Config: cfg, Load: load, Version: "v9.9.9-test", Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		cancel()
		ts.Fatalf("starting the server: %v", err)
	}
	done := make(chan error, 1)
	go func() { done <- server.Run(ctx) }()
	stop := sync.OnceFunc(func() {
		cancel()
		ts.Check(<-done)
	})
	*ts.Value(serving{}).(*served) = served{server, stop}
	ts.Defer(stop)
}

// serving is the key of a script's server.
type serving struct{}

// served is a server and what ends it.
type served struct {
	*hscontrol.Server
	stop func()
}

// stopServer ends the server of the script before the script ends.
func stopServer(ts *testscript.TestScript, neg bool, args []string) {
	ts.Value(serving{}).(*served).stop()
}

// prune has the server of the script delete the audit log as it is now, as if days had passed.
func prune(ts *testscript.TestScript, neg bool, args []string) {
	_, err := ts.Value(serving{}).(*served).Store().PruneAudit(context.Background(), time.Now().Add(48*time.Hour))
	ts.Check(err)
}

// capture sets a variable to the first group of a pattern in what the last command wrote: capture NAME PATTERN.
func capture(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: capture NAME PATTERN")
	}
	m := regexp.MustCompile(`(?m)` + args[1]).FindStringSubmatch(ts.ReadFile("stdout"))
	if len(m) < 2 {
		ts.Fatalf("no match for %q", args[1])
	}
	ts.Setenv(args[0], m[1])
}

// aligned checks that the last command wrote a table: one line a row, its bars below each other, no escape codes.
func aligned(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 0 {
		ts.Fatalf("usage: aligned")
	}
	text := ts.ReadFile("stdout")
	if strings.ContainsAny(text, "\x1b\r\t") {
		ts.Fatalf("control characters in %q", text)
	}
	var want []int
	for i, line := range strings.Split(strings.TrimRight(text, "\n"), "\n") {
		var got []int
		for at := 0; ; {
			next := strings.Index(line[at:], "|")
			if next < 0 {
				break
			}
			at += next + 1
			got = append(got, columns(line[:at]))
		}
		if i == 0 {
			want = got
		}
		if fmt.Sprint(got) != fmt.Sprint(want) || len(got) == 0 {
			ts.Fatalf("line %d has bars at %v, want %v:\n%s", i, got, want, text)
		}
	}
}
