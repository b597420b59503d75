package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	headscalev1 "github.com/keelscale/keelscale/proto/headscale/v1"
)

func (n *nodes) expire() *cobra.Command {
	var at string
	var disable bool
	cmd := &cobra.Command{
		Use:     "expire [NODE]",
		Aliases: []string{"logout", "exp", "e"},
		Short:   "let the key of a node expire: now, at a time, or never",
		Args:    atMost(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			req := &headscalev1.ExpireNodeRequest{DisableExpiry: disable}
			said := n.noun + " expired"
			if at != "" {
				if disable {
					return errors.New("say --expiry or --disable, not both")
				}
				var err error
				if req.Expiry, req.DisableExpiry, err = parseExpiration(at, time.Now()); err != nil {
					return err
				}
				said = n.noun + " expiration updated"
			}
			if req.DisableExpiry {
				said = n.noun + " expiry disabled"
			}
			return n.one(cmd.Context(), args, func(ctx context.Context, server client, id uint64) error {
				req.NodeId = id
				resp, err := server.ExpireNode(ctx, req)
				if err != nil {
					return err
				}
				return n.cli.show(said, resp.GetNode())
			})
		},
	}
	n.which(cmd)
	cmd.Flags().StringVarP(&at, "expiry", "e", "", "`when`: a time like 2027-01-31T12:00:00Z, a duration like 90d, or never")
	cmd.Flags().BoolVarP(&disable, "disable", "d", false, "never")
	return cmd
}

func (n *nodes) rename() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "rename NEW_NAME",
		Short: "give a node a name that its client does not change",
		Args:  exactly(1, "the new name"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return n.one(cmd.Context(), nil, func(ctx context.Context, server client, id uint64) error {
				resp, err := server.RenameNode(ctx, &headscalev1.RenameNodeRequest{NodeId: id, NewName: args[0]})
				if err != nil {
					return err
				}
				return n.cli.show(n.noun+" renamed", resp.GetNode())
			})
		},
	}
	n.which(cmd)
	return cmd
}

func (n *nodes) delete() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "delete [NODE]",
		Aliases: []string{"del"},
		Short:   "delete a node",
		Args:    atMost(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			var node *headscalev1.Node
			err := n.one(cmd.Context(), args, func(ctx context.Context, server client, id uint64) error {
				resp, err := server.GetNode(ctx, &headscalev1.GetNodeRequest{NodeId: id})
				node = resp.GetNode()
				return err
			})
			if err != nil {
				return err
			}
			ok, err := n.confirm("Do you want to remove the node %s?", oneLine(node.GetGivenName()))
			if err != nil {
				return err
			}
			if !ok {
				return n.say("Node not deleted")
			}
			return n.ask(cmd.Context(), func(ctx context.Context, server client) error {
				resp, err := server.DeleteNode(ctx, &headscalev1.DeleteNodeRequest{NodeId: node.GetId()})
				if err != nil {
					return err
				}
				return n.cli.show("Node deleted", resp)
			})
		},
	}
	n.which(cmd)
	return cmd
}

func (n *nodes) authorize() *cobra.Command {
	var withdraw bool
	cmd := &cobra.Command{
		Use:   "authorize [NODE]",
		Short: "let in a node that waits for it (settings set --devices-approval)",
		Long: `Lets in a node that waits, as new ones do in a tailnet with devices-approval; until then it reaches nobody. headscale
nodes list --unauthorized shows who waits. Nodes of keys that were made with preauthkeys create --preauthorized, and those
that an administrator lets in with auth register, do not wait.`,
		Example: `headscale nodes authorize -i 6`,
		Args:    atMost(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			said := n.noun + " authorized"
			if withdraw {
				said = n.noun + " is kept out until it is authorized"
			}
			return n.one(cmd.Context(), args, func(ctx context.Context, server client, id uint64) error {
				resp, err := server.AuthorizeNode(ctx, &headscalev1.AuthorizeNodeRequest{NodeId: id, Withdraw: withdraw})
				if err != nil {
					return err
				}
				return n.cli.show(said, resp.GetNode())
			})
		},
	}
	n.which(cmd)
	cmd.Flags().BoolVar(&withdraw, "withdraw", false, "keep the node out again, until it is authorized")
	return cmd
}

func (n *nodes) tag() *cobra.Command {
	var tags []string
	cmd := &cobra.Command{
		Use:     "tag [NODE]",
		Aliases: []string{"tags", "t"},
		Short:   "replace the tags of a node, which then belongs to no user",
		Example: `headscale nodes tag -i 6 -t tag:server,tag:web`,
		Args:    atMost(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return n.one(cmd.Context(), args, func(ctx context.Context, server client, id uint64) error {
				resp, err := server.SetTags(ctx, &headscalev1.SetTagsRequest{NodeId: id, Tags: tags})
				if err != nil {
					return err
				}
				return n.cli.show(n.noun+" updated", resp.GetNode())
			})
		},
	}
	n.which(cmd)
	cmd.Flags().StringSliceVarP(&tags, "tags", "t", nil, "the `tags`, like tag:server,tag:web")
	return cmd
}

func (n *nodes) move() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "move [NODE]",
		Aliases: []string{"mv"},
		Short:   "give a node to another user of its tailnet",
		Args:    atMost(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if n.user == "" {
				return errors.New("say who gets the node: --user USER")
			}
			said := "Node moved to another user"
			if cmd.Flags().Changed("namespace") {
				said = "Node moved to another namespace"
			}
			return n.one(cmd.Context(), args, func(ctx context.Context, server client, id uint64) error {
				resp, err := server.MoveNode(ctx, &headscalev1.MoveNodeRequest{NodeId: id, User: n.user})
				if err != nil {
					return err
				}
				return n.cli.show(said, resp.GetNode())
			})
		},
	}
	n.which(cmd)
	return cmd
}

func (n *nodes) setIP() *cobra.Command {
	var v4, v6 string
	cmd := &cobra.Command{
		Use:     "set-ip [ADDRESS...]",
		Short:   "give a node an IPv4 address, an IPv6 address, or both",
		Example: `headscale nodes set-ip -i 6 100.64.0.7`,
		Args:    atMost(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			for _, addr := range []string{v4, v6} {
				if addr != "" {
					args = append(args, addr)
				}
			}
			if len(args) == 0 {
				return fmt.Errorf("say the address: headscale nodes set-ip -i ID 100.64.0.7")
			}
			return n.one(cmd.Context(), nil, func(ctx context.Context, server client, id uint64) error {
				resp, err := server.SetNodeAddresses(ctx, &headscalev1.SetNodeAddressesRequest{NodeId: id, IpAddresses: args})
				if err != nil {
					return err
				}
				return n.cli.show("Node addresses are "+list(resp.GetNode().GetIpAddresses()), resp.GetNode())
			})
		},
	}
	n.which(cmd)
	cmd.Flags().StringVar(&v4, "ipv4", "", "the IPv4 `address`")
	cmd.Flags().StringVar(&v6, "ipv6", "", "the IPv6 `address`")
	return cmd
}

func (n *nodes) backfill() *cobra.Command {
	return &cobra.Command{
		Use:   "backfillips",
		Short: "give nodes the addresses that they lack, and take those of a family that the prefixes no longer have",
		Args:  exactly(0, ""),
		RunE: func(cmd *cobra.Command, _ []string) error {
			ok, err := n.confirm("Are you sure that you want to assign/remove IPs to/from nodes?")
			if err != nil || !ok {
				return err
			}
			return n.ask(cmd.Context(), func(ctx context.Context, server client) error {
				resp, err := server.BackfillNodeIPs(ctx, &headscalev1.BackfillNodeIPsRequest{Confirmed: true, Tailnet: n.tailnet})
				if err != nil {
					return err
				}
				said := ""
				for _, change := range resp.GetChanges() {
					said += oneLine(change) + "\n"
				}
				return n.cli.show(said+"Node IPs backfilled successfully", resp)
			})
		},
	}
}
