package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/keelscale/keelscale/hscontrol"
	"github.com/keelscale/keelscale/hscontrol/config"
)

// bypassFlags are both spellings of the flag that has the policy commands work without a running server.
func (c *cli) bypassFlags(cmd *cobra.Command) {
	f := cmd.PersistentFlags()
	f.BoolVar(&c.bypass, "bypass-server-and-access-database-directly", false, "open the database here, while no server runs")
	f.BoolVar(&c.bypass, "bypass-grpc-and-access-database-directly", false, "older name of the flag before")
	hide(f, "bypass-grpc-and-access-database-directly")
}

// private runs do against a server of this command's own, which opens the database but none of the usual doors. A
// server that runs already is refused: it has the database.
func (c *cli) private(ctx context.Context, do func(context.Context, client) error) error {
	cfg, err := c.load()
	if err != nil {
		return err
	}
	if conn, err := dialSocket(ctx, cfg.UnixSocket); err == nil {
		return errors.Join(errors.New("a server runs here and has the database: leave the bypass flag out"), conn.Close())
	}
	dir, err := os.MkdirTemp("", "headscale-")
	if err != nil {
		return fmt.Errorf("making a directory for the socket: %w", err)
	}
	defer os.RemoveAll(dir)

	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	cfg = withoutDoors(cfg, filepath.Join(dir, "hs.sock"))
	server, err := hscontrol.Open(ctx, hscontrol.Options{Config: cfg, Version: thisBuild().Version, Log: slog.New(slog.NewTextHandler(io.Discard, nil))})
	if err != nil {
		return fmt.Errorf("opening the database: %w", err)
	}
	ended := make(chan error, 1)
	go func() { ended <- server.Run(ctx) }()

	err = c.askAt(ctx, config.Client{UnixSocket: cfg.UnixSocket}, do)
	cancel()
	return errors.Join(err, <-ended)
}

// withoutDoors is the configuration with nothing that others could reach, and nothing that is fetched.
func withoutDoors(cfg *config.Config, socket string) *config.Config {
	own := *cfg
	own.UnixSocket = socket
	own.ListenAddr, own.MetricsListenAddr, own.GRPCListenAddr = "127.0.0.1:0", "", ""
	own.Noise.AlsoOn443 = false
	own.TLS = config.TLS{}
	own.DERP = config.DERP{}
	return &own
}
