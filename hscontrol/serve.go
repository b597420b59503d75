package hscontrol

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"

	"github.com/keelscale/keelscale/hscontrol/config"
)

// Serve is what `headscale serve` does: it builds the server, says on out how to go on, reloads at SIGHUP and ends at
// SIGINT or SIGTERM.
func Serve(ctx context.Context, opts Options, out io.Writer) error {
	ctx, stop := signal.NotifyContext(ctx, os.Interrupt, syscall.SIGTERM)
	defer stop()
	s, err := Open(ctx, opts)
	if err != nil {
		return err
	}
	greet(out, opts.Config)
	hangups := make(chan os.Signal, 1)
	signal.Notify(hangups, syscall.SIGHUP)
	defer signal.Stop(hangups)
	reloads, ended := context.WithCancel(ctx)
	idle := make(chan struct{})
	go func() {
		defer close(idle)
		s.reloadAt(reloads, hangups)
	}()
	err = s.Run(ctx)
	ended()
	<-idle
	opts.Log.Info("stopped")
	return err
}

// reloadAt reloads at each signal until ctx ends.
func (s *Server) reloadAt(ctx context.Context, hangups <-chan os.Signal) {
	for {
		select {
		case <-hangups:
			done, err := s.Reload(ctx)
			if err != nil {
				s.log.Error("reloading", "err", err)
				continue
			}
			s.log.Info("reloaded", "changed", done.Applied, "waiting_for_restart", done.NeedsRestart)
		case <-ctx.Done():
			return
		}
	}
}

// greet tells a person at a terminal what runs where, and the two commands that come next.
func greet(out io.Writer, cfg *config.Config) {
	program := os.Args[0]
	if !filepath.IsAbs(program) && filepath.Base(program) == program {
		program = "headscale"
	}
	guessed := ""
	if cfg.ServerURLGuessed {
		guessed = "   (guessed from this machine's address; set server_url if clients need another)"
	}
	fmt.Fprintf(out, `
  server_url   %s%s
  data         %s
  socket       %s

Next, here:            %s users create me
and on each machine:   tailscale up --login-server %s

Each machine prints a link; the page behind it shows the command that lets the machine in.

`, cfg.ServerURL, guessed, cfg.DataDir, cfg.UnixSocket, program, cfg.ServerURL)
}
