package main

import (
	"context"
	"errors"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	headscalev1 "github.com/keelscale/keelscale/proto/headscale/v1"
)

func (c *cli) preAuthKeysCommand() *cobra.Command {
	p := &preAuthKeys{cli: c}
	cmd := group(&cobra.Command{
		Use:     "preauthkeys",
		Aliases: []string{"preauthkey", "authkey", "pre"},
		Short:   "keys that let nodes join without a person",
	})
	userFlags(cmd, &p.user)
	c.withTailnet(cmd, " (default: default; '*' lists all)")
	cmd.AddCommand(p.create(), p.list(), p.expire(), p.delete())
	return cmd
}

// preAuthKeys are the commands of the group with what its flags said.
type preAuthKeys struct {
	*cli
	user string
	id   string // the key, as given with -i
}

func (p *preAuthKeys) create() *cobra.Command {
	req := &headscalev1.CreatePreAuthKeyRequest{}
	var expiration string
	cmd := &cobra.Command{
		Use:     "create",
		Aliases: []string{"c", "new"},
		Short:   "make a key, and show it for the only time",
		Example: `headscale preauthkeys create --user alice --reusable -e 24h`,
		Args:    exactly(0, ""),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if p.user == "" && len(req.AclTags) == 0 {
				return errors.New("say whose nodes the key is for: --user USER, or --tags tag:NAME")
			}
			var err error
			if req.Expiration, req.NeverExpires, err = parseExpiration(expiration, time.Now()); err != nil {
				return err
			}
			req.UserRef, req.Tailnet = p.user, p.tailnet
			return p.ask(cmd.Context(), func(ctx context.Context, server client) error {
				resp, err := server.CreatePreAuthKey(ctx, req)
				if err != nil {
					return err
				}
				return p.show(resp.GetPreAuthKey().GetKey(), resp.GetPreAuthKey())
			})
		},
	}
	f := cmd.Flags()
	f.BoolVar(&req.Reusable, "reusable", false, "let in any number of nodes")
	f.BoolVar(&req.Ephemeral, "ephemeral", false, "forget the nodes when they have been away for a while")
	f.BoolVar(&req.Preauthorized, "preauthorized", false, "let the nodes in without nodes authorize, where new ones wait for that (settings set --devices-approval)")
	f.StringVarP(&expiration, "expiration", "e", "1h", "`how long` the key is good for: 30m, 24h, 90d, never")
	f.StringSliceVar(&req.AclTags, "tags", nil, "`tags` for the nodes, like tag:server,tag:web")
	f.StringVar(&req.Description, "description", "", "`text` to remember the key by")
	return cmd
}

func (p *preAuthKeys) list() *cobra.Command {
	return &cobra.Command{
		Use:     "list",
		Aliases: []string{"ls", "show"},
		Short:   "list keys, of all users or of one",
		Args:    exactly(0, ""),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return p.ask(cmd.Context(), func(ctx context.Context, server client) error {
				resp, err := server.ListPreAuthKeys(ctx, &headscalev1.ListPreAuthKeysRequest{UserRef: p.user, Tailnet: p.tailnet})
				if err != nil {
					return err
				}
				return showList(p.cli, resp.GetPreAuthKeys(), p.table(resp.GetPreAuthKeys()))
			})
		},
	}
}

func (p *preAuthKeys) table(keys []*headscalev1.PreAuthKey) *table {
	t := newTable("ID", "Key", "Reusable", "Ephemeral", "Used", "Expiration", "Created", "Owner")
	if p.tailnet == "*" {
		t.head = append(t.head, "Tailnet")
	}
	for _, k := range keys {
		row := []string{
			strconv.FormatUint(k.GetId(), 10),
			k.GetKey(),
			strconv.FormatBool(k.GetReusable()),
			strconv.FormatBool(k.GetEphemeral()),
			strconv.FormatBool(k.GetUsed()),
			when(k.GetExpiration(), "never"),
			when(k.GetCreatedAt(), ""),
			firstOf(list(k.GetAclTags()), k.GetUser().GetName()),
		}
		if p.tailnet == "*" {
			row = append(row, k.GetTailnet())
		}
		t.add(row...)
	}
	return t
}

// which says which key is meant: by ID with -i, or by the key itself, or what lists show of it, as an argument.
func (p *preAuthKeys) which(args []string) (id uint64, key string, err error) {
	switch {
	case len(args) > 0 && p.id != "":
		return 0, "", errors.New("say the key once: as an argument, or by its ID with -i")
	case len(args) > 0:
		return 0, args[0], nil
	case p.id == "":
		return 0, "", errors.New("say which key: by its ID with -i, or the key itself; headscale preauthkeys list shows them")
	}
	id, err = parseID(p.id, "preauthkeys list")
	return id, "", err
}

func (p *preAuthKeys) flags(cmd *cobra.Command) {
	cmd.Flags().StringVarP(&p.id, "id", "i", "", "`ID` of the key")
}

func (p *preAuthKeys) expire() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "expire [KEY]",
		Aliases: []string{"revoke", "exp", "e"},
		Short:   "let nobody in with a key from now on",
		Args:    atMost(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			id, key, err := p.which(args)
			if err != nil {
				return err
			}
			return p.ask(cmd.Context(), func(ctx context.Context, server client) error {
				resp, err := server.ExpirePreAuthKey(ctx, &headscalev1.ExpirePreAuthKeyRequest{Id: id, Key: key})
				if err != nil {
					return err
				}
				return p.show("Key expired", resp)
			})
		},
	}
	p.flags(cmd)
	return cmd
}

func (p *preAuthKeys) delete() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "delete [KEY]",
		Aliases: []string{"del", "rm", "d"},
		Short:   "forget a key; nodes that it let in stay",
		Args:    atMost(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			id, key, err := p.which(args)
			if err != nil {
				return err
			}
			return p.ask(cmd.Context(), func(ctx context.Context, server client) error {
				resp, err := server.DeletePreAuthKey(ctx, &headscalev1.DeletePreAuthKeyRequest{Id: id, Key: key})
				if err != nil {
					return err
				}
				return p.show("Key deleted", resp)
			})
		},
	}
	p.flags(cmd)
	return cmd
}
