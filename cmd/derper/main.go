// Command derper runs a DERP relay with STUN, on a machine of its own.
//
// Flags and environment (flags.go, env.go) become a derp.Config (setup.go), which then runs.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"
)

// Set by the linker.
var version, commit string

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	err := run(ctx, os.Args[1:], os.Environ(), os.Stdout, os.Stderr)
	if err != nil {
		fmt.Fprintln(os.Stderr, "derper:", err)
		os.Exit(1)
	}
}

// run is the whole program. It returns nil when ctx ended it, or when there was only
// something to print.
func run(ctx context.Context, args, environ []string, out, errOut io.Writer) error {
	s, err := parseSettings(args, environ, errOut)
	if errors.Is(err, flag.ErrHelp) {
		return nil
	}
	if err != nil {
		return err
	}
	if s.version {
		fmt.Fprintln(out, versionText())
		return nil
	}
	log, level := s.logger(errOut)
	slog.SetDefault(log)
	relay, err := s.build(log, out)
	if err != nil {
		return err
	}
	relay.level = level
	relay.read = func() (*settings, error) { return parseSettings(args, environ, errOut) }
	life, end := context.WithCancel(ctx)
	wait := relay.attend(life)
	err = relay.Run(ctx)
	end()
	wait()
	if err == nil {
		log.Info("stopped")
	}
	return err
}

func versionText() string {
	v, c := version, commit
	if info, ok := debug.ReadBuildInfo(); ok && v == "" {
		v = info.Main.Version
		for _, s := range info.Settings {
			if s.Key == "vcs.revision" {
				c = s.Value
			}
		}
	}
	if v == "" {
		v = "unknown"
	}
	if c != "" && c != "unknown" {
		v += " (" + c + ")"
	}
	return v
}
