package main

import (
	"context"
	"errors"

	"github.com/spf13/cobra"

	headscalev1 "github.com/keelscale/keelscale/proto/headscale/v1"
)

func (c *cli) authCommand() *cobra.Command {
	var user string
	cmd := group(&cobra.Command{
		Use:   "auth",
		Short: "decide about those who wait for a person",
	})
	userFlags(cmd, &user)
	c.withTailnet(cmd, " of the user (default: default)")

	register, id := authCommand("register", "let in a client, as a user's node")
	register.Example = "headscale auth register --user alice --auth-id hskey-authreq-0123456789abcdef01234567"
	register.RunE = func(cmd *cobra.Command, _ []string) error {
		return c.register(cmd.Context(), user, *id, "--auth-id", false)
	}
	cmd.AddCommand(register, c.authApprove(), c.authReject())
	return cmd
}

// authCommand is a command about the ID that the client or its page shows.
func authCommand(use, short string) (cmd *cobra.Command, id *string) {
	cmd = &cobra.Command{Use: use, Short: short, Args: exactly(0, "")}
	id = cmd.Flags().String("auth-id", "", "`ID` that the client or its page shows, hskey-authreq-…")
	return cmd, id
}

var errNoAuthID = errors.New("say which request, as the client or its page shows it: --auth-id ID")

func (c *cli) authApprove() *cobra.Command {
	cmd, id := authCommand("approve", "confirm a login by SSH that waits for a person")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if *id == "" {
			return errNoAuthID
		}
		return c.ask(cmd.Context(), func(ctx context.Context, server client) error {
			resp, err := server.AuthApprove(ctx, &headscalev1.AuthApproveRequest{AuthId: *id})
			if err != nil {
				return err
			}
			return c.show("Auth request approved", resp)
		})
	}
	return cmd
}

func (c *cli) authReject() *cobra.Command {
	cmd, id := authCommand("reject", "refuse a client that wants to join or a login that waits for a person, or take the approval of a login back")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if *id == "" {
			return errNoAuthID
		}
		return c.ask(cmd.Context(), func(ctx context.Context, server client) error {
			resp, err := server.AuthReject(ctx, &headscalev1.AuthRejectRequest{AuthId: *id})
			if err != nil {
				return err
			}
			return c.show("Auth request rejected", resp)
		})
	}
	return cmd
}
