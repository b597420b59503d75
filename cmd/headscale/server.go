package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	headscalev1 "github.com/keelscale/keelscale/proto/headscale/v1"
)

func (c *cli) healthCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "health",
		Short: "say whether the server is well, and what it misses",
		Long:  "Says what is not as it should be. The exit code is 1 when the database does not answer or clients suffer.",
		Args:  exactly(0, ""),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return c.ask(cmd.Context(), func(ctx context.Context, server client) error {
				resp, err := server.Health(ctx, &headscalev1.HealthRequest{})
				if err != nil {
					return err
				}
				if err := c.show(healthFacts(resp), resp); err != nil {
					return err
				}
				if !healthy(resp) {
					return told{errors.New("the server is not well")}
				}
				return nil
			})
		},
	}
}

func healthy(h *headscalev1.HealthResponse) bool {
	for _, f := range h.GetFaults() {
		if f.GetSevere() {
			return false
		}
	}
	return h.GetDatabaseConnectivity()
}

func healthFacts(h *headscalev1.HealthResponse) string {
	text := "The server is well."
	switch {
	case !healthy(h):
		text = "The server is not well."
	case len(h.GetFaults()) > 0:
		text = "The server works, but see:"
	}
	for _, f := range h.GetFaults() {
		grade := "warning"
		if f.GetSevere() {
			grade = "FAULT"
		}
		text += fmt.Sprintf("\n%s: %s: %s", grade, oneLine(f.GetName()), oneLine(f.GetText()))
	}
	return text
}

func (c *cli) statusCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "status",
		Short: "say what the server runs with",
		Args:  exactly(0, ""),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return c.ask(cmd.Context(), func(ctx context.Context, server client) error {
				resp, err := server.GetStatus(ctx, &headscalev1.GetStatusRequest{})
				if err != nil {
					return err
				}
				return c.show(statusFacts(resp), resp)
			})
		},
	}
}

func statusFacts(s *headscalev1.GetStatusResponse) string {
	text := fmt.Sprintf("Version:       %s\nRunning since: %s\nServer URL:    %s\nConfiguration: %s",
		s.GetVersion(), when(s.GetStartedAt(), "-"), s.GetServerUrl(), firstOf(s.GetConfigFile(), "no file, the defaults"))
	if s.GetReloadedAt() != nil {
		text += "\nReloaded:      " + when(s.GetReloadedAt(), "")
	}
	if s.GetReloadError() != "" {
		text += "\nReload failed: " + s.GetReloadError()
	}
	return text
}

func (c *cli) reloadCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "reload",
		Short: "have the server read its configuration, policy and certificates again",
		Args:  exactly(0, ""),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return c.ask(cmd.Context(), func(ctx context.Context, server client) error {
				resp, err := server.Reload(ctx, &headscalev1.ReloadRequest{})
				if err != nil {
					return err
				}
				for _, key := range resp.GetNeedsRestart() {
					c.warn("%s has changed and waits for a restart of the server", key)
				}
				said := "Configuration reloaded"
				if applied := resp.GetApplied(); len(applied) > 0 {
					said += ", changed: " + list(applied)
				}
				return c.show(said, resp)
			})
		},
	}
}
