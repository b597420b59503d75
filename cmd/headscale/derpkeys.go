package main

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	headscalev1 "github.com/keelscale/keelscale/proto/headscale/v1"
)

func (c *cli) enrollKeysCommand() *cobra.Command {
	cmd := group(&cobra.Command{
		Use:     "enroll-keys",
		Aliases: []string{"enroll-key", "enrol-keys", "enrol-key", "keys"},
		Short:   "keys that let relays enrol",
	})
	cmd.AddCommand(c.enrollKeyCreate(), c.enrollKeyList(), c.enrollKeyDelete())
	return cmd
}

func (c *cli) enrollKeyCreate() *cobra.Command {
	req := &headscalev1.CreateRelayKeyRequest{}
	var expiration string
	cmd := &cobra.Command{
		Use:     "create",
		Aliases: []string{"c", "new"},
		Short:   "make a key, and show it for the only time",
		Example: "headscale derp enroll-keys create\nheadscale derp enroll-keys create --reusable -e 90d --tailnet lab",
		Args:    exactly(0, ""),
		RunE: func(cmd *cobra.Command, _ []string) error {
			var err error
			if req.Expiration, req.NeverExpires, err = parseExpiration(expiration, time.Now()); err != nil {
				return err
			}
			req.Tailnet = c.tailnet
			return c.ask(cmd.Context(), func(ctx context.Context, server client) error {
				resp, err := server.CreateRelayKey(ctx, req)
				if err != nil {
					return err
				}
				whole := resp.GetRelayKey().GetKey()
				if err := c.show(whole, resp.GetRelayKey()); err != nil || c.output != "" {
					return err
				}
				_, err = fmt.Fprintf(c.err, "\nOn the relay, type this, with a region that you choose:\n\n    derper --control %s --enroll-key %s --region home\n",
					oneLine(resp.GetControlUrl()), whole)
				return err
			})
		},
	}
	f := cmd.Flags()
	f.BoolVar(&req.Reusable, "reusable", false, "let in any number of relays")
	f.StringVarP(&expiration, "expiration", "e", "24h", "`how long` the key is good for: 30m, 24h, 90d, never")
	f.StringVar(&req.Description, "description", "", "`text` to remember the key by")
	c.withTailnet(cmd, " whose nodes the relay serves (default: all tailnets)")
	return cmd
}

func (c *cli) enrollKeyList() *cobra.Command {
	return &cobra.Command{
		Use:     "list",
		Aliases: []string{"ls", "show"},
		Short:   "list keys",
		Args:    exactly(0, ""),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return c.ask(cmd.Context(), func(ctx context.Context, server client) error {
				resp, err := server.ListRelayKeys(ctx, &headscalev1.ListRelayKeysRequest{})
				if err != nil {
					return err
				}
				t := newTable("ID", "Key", "Reusable", "Expiration", "Last used", "Created", "Tailnet", "Description")
				for _, k := range resp.GetRelayKeys() {
					t.add(strconv.FormatUint(k.GetId(), 10), k.GetKey(), yesNo(k.GetReusable()), when(k.GetExpiration(), "never"),
						when(k.GetUsedAt(), "never"), when(k.GetCreatedAt(), ""), firstOf(k.GetTailnet(), "all"), k.GetDescription())
				}
				return showList(c, resp.GetRelayKeys(), t)
			})
		},
	}
}

func (c *cli) enrollKeyDelete() *cobra.Command {
	var id string
	cmd := &cobra.Command{
		Use:     "delete [KEY]",
		Aliases: []string{"expire", "remove", "revoke", "rm", "del"},
		Short:   "let no relay in with a key from now on; those that it let in stay",
		Args:    atMost(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			req := &headscalev1.DeleteRelayKeyRequest{}
			switch {
			case len(args) > 0 && id != "":
				return errors.New("say the key once: as an argument, or by its ID with -i")
			case len(args) > 0 && len(args[0]) < shortestPrefix:
				id = args[0] // so short a thing is an ID
			case len(args) > 0:
				req.Key = args[0]
			case id == "":
				return errors.New("say which key: by its ID, or the key itself; headscale derp enroll-keys list shows them")
			}
			if req.Key == "" {
				var err error
				if req.Id, err = parseID(id, "derp enroll-keys list"); err != nil {
					return err
				}
			}
			return c.ask(cmd.Context(), func(ctx context.Context, server client) error {
				resp, err := server.DeleteRelayKey(ctx, req)
				if err != nil {
					return err
				}
				return c.show("Key deleted", resp)
			})
		},
	}
	cmd.Flags().StringVarP(&id, "id", "i", "", "`ID` of the key")
	return cmd
}

// shortestPrefix is how long the prefix of a key is, in hexadecimal digits.
const shortestPrefix = 12
