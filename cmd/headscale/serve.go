package main

import (
	"io"
	"log/slog"

	"github.com/spf13/cobra"

	"github.com/keelscale/keelscale/hscontrol"
	"github.com/keelscale/keelscale/hscontrol/config"
)

func (c *cli) serveCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "serve",
		Short: "run the server",
		Long: `Runs the server until it is told to end (SIGINT, SIGTERM). SIGHUP, or headscale reload, has it read its configuration
again. Without a configuration file it works too: its files lie below one directory, which it says.`,
		Args: exactly(0, ""),
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := c.load()
			if err != nil {
				return err
			}
			level := new(slog.LevelVar)
			level.Set(hscontrol.LogLevel(cfg.Log.Level))
			return hscontrol.Serve(cmd.Context(), hscontrol.Options{
				Config: cfg,
				Load: func() (*config.Config, []config.Warning, error) {
					return config.Load(config.Search(c.configFile, c.env), c.env)
				},
				Version: thisBuild().Version,
				Log:     newLog(c.err, level, cfg.Log.Format),
				Level:   level,
			}, c.out)
		},
	}
}

func newLog(out io.Writer, level slog.Leveler, format string) *slog.Logger {
	opts := &slog.HandlerOptions{Level: level}
	if format == "json" {
		return slog.New(slog.NewJSONHandler(out, opts))
	}
	return slog.New(slog.NewTextHandler(out, opts))
}
