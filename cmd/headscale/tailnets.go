package main

import (
	"context"
	"strconv"

	"github.com/spf13/cobra"

	headscalev1 "github.com/keelscale/keelscale/proto/headscale/v1"
)

func (c *cli) tailnetsCommand() *cobra.Command {
	cmd := group(&cobra.Command{
		Use:     "tailnets",
		Aliases: []string{"tailnet"},
		Short:   "networks that know nothing of each other",
		Long:    "Each tailnet has its own users, nodes, policy and addresses. There is one named default from the start.",
	})
	cmd.AddCommand(c.tailnetCreate(), c.tailnetList(), c.tailnetDelete())
	return cmd
}

func (c *cli) tailnetCreate() *cobra.Command {
	req := &headscalev1.CreateTailnetRequest{}
	cmd := &cobra.Command{
		Use:     "create NAME",
		Aliases: []string{"c", "new"},
		Short:   "make a tailnet",
		Args:    exactly(1, "the name of the tailnet"),
		RunE: func(cmd *cobra.Command, args []string) error {
			req.Name = args[0]
			return c.ask(cmd.Context(), func(ctx context.Context, server client) error {
				resp, err := server.CreateTailnet(ctx, req)
				if err != nil {
					return err
				}
				return c.show("Tailnet created", resp.GetTailnet())
			})
		},
	}
	f := cmd.Flags()
	f.StringVar(&req.PrefixV4, "prefix-v4", "", "`range` of IPv4 addresses, like 10.7.0.0/16 (default: the server's; with only the other one set: none)")
	f.StringVar(&req.PrefixV6, "prefix-v6", "", "`range` of IPv6 addresses, like fd00:7::/64 (default: the server's; with only the other one set: none)")
	return cmd
}

func (c *cli) tailnetList() *cobra.Command {
	return &cobra.Command{
		Use:     "list",
		Aliases: []string{"ls", "show"},
		Short:   "list tailnets",
		Args:    exactly(0, ""),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return c.ask(cmd.Context(), func(ctx context.Context, server client) error {
				resp, err := server.ListTailnets(ctx, &headscalev1.ListTailnetsRequest{})
				if err != nil {
					return err
				}
				t := newTable("ID", "Name", "IPv4", "IPv6", "Users", "Nodes", "Created")
				for _, n := range resp.GetTailnets() {
					v4, v6 := n.GetPrefixV4(), n.GetPrefixV6()
					if v4 == "" && v6 == "" {
						v4, v6 = "server's", "server's"
					}
					t.add(strconv.FormatUint(n.GetId(), 10), n.GetName(), firstOf(v4, "none"), firstOf(v6, "none"),
						strconv.FormatUint(n.GetUsers(), 10), strconv.FormatUint(n.GetNodes(), 10), when(n.GetCreatedAt(), ""))
				}
				return showList(c, resp.GetTailnets(), t)
			})
		},
	}
}

func (c *cli) tailnetDelete() *cobra.Command {
	return &cobra.Command{
		Use:     "delete NAME",
		Aliases: []string{"del", "rm", "destroy"},
		Short:   "delete a tailnet that has neither users nor nodes",
		Args:    exactly(1, "the name of the tailnet"),
		RunE: func(cmd *cobra.Command, args []string) error {
			ok, err := c.confirm("Do you want to remove the tailnet %q and its policy?", args[0])
			if err != nil {
				return err
			}
			if !ok {
				return c.say("Tailnet not deleted")
			}
			return c.ask(cmd.Context(), func(ctx context.Context, server client) error {
				resp, err := server.DeleteTailnet(ctx, &headscalev1.DeleteTailnetRequest{Name: args[0]})
				if err != nil {
					return err
				}
				return c.show("Tailnet deleted", resp)
			})
		},
	}
}
