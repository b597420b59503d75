package main

import (
	"context"
	"errors"

	"github.com/spf13/cobra"

	headscalev1 "github.com/keelscale/keelscale/proto/headscale/v1"
)

func (c *cli) debugCommand() *cobra.Command {
	req := &headscalev1.DebugCreateNodeRequest{}
	cmd := group(&cobra.Command{
		Use:   "debug",
		Short: "commands for tests",
	})
	userFlags(cmd, &req.User)
	c.withTailnet(cmd, " of the user (default: default)")

	create := &cobra.Command{
		Use:   "create-node",
		Short: "make a registration without a client, to be approved with auth register",
		Args:  exactly(0, ""),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if req.User == "" || req.Key == "" || req.Name == "" {
				return errors.New("say --user, --key and --name")
			}
			req.Tailnet = c.tailnet
			said := "Node created"
			if cmd.Flags().Changed("namespace") {
				said = "Machine created"
			}
			return c.ask(cmd.Context(), func(ctx context.Context, server client) error {
				resp, err := server.DebugCreateNode(ctx, req)
				if err != nil {
					return err
				}
				return c.show(said, resp.GetNode())
			})
		},
	}
	f := create.Flags()
	f.StringVar(&req.Name, "name", "", "host `name`")
	f.StringVarP(&req.Key, "key", "k", "", "registration `key`, hskey-authreq- and 24 digits, or 64 digits of a machine key")
	f.StringSliceVarP(&req.Routes, "route", "r", nil, "`routes` that the node announces")
	cmd.AddCommand(create)
	return cmd
}
