package main

import (
	"context"
	"errors"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	headscalev1 "github.com/keelscale/keelscale/proto/headscale/v1"
)

func (c *cli) apiKeysCommand() *cobra.Command {
	a := &apiKeys{cli: c}
	cmd := group(&cobra.Command{
		Use:     "apikeys",
		Aliases: []string{"apikey", "api"},
		Short:   "keys for the API and for the command line elsewhere",
	})
	cmd.AddCommand(a.create(), a.list(), a.expire(), a.delete())
	return cmd
}

// apiKeys are the commands of the group with what their flags said.
type apiKeys struct {
	*cli
	id, prefix string
}

func (a *apiKeys) create() *cobra.Command {
	var expiration string
	req := &headscalev1.CreateApiKeyRequest{}
	cmd := &cobra.Command{
		Use:     "create",
		Aliases: []string{"c", "new"},
		Short:   "make a key, and show it for the only time",
		Long: "A key opens everything, unless it is told to open less: by --scopes, with the names that Tailscale's API has for them, by --read-only,\n" +
			"by --tailnet, or by --user: then it opens no more than the role of that user allows, now and later.",
		Example: "headscale apikeys create --read-only --description dashboard\n" +
			"headscale apikeys create --scopes devices:core,policy_file:read -e 30d\n" +
			"headscale apikeys create --user alice@example.com -e 1y",
		Args: exactly(0, ""),
		RunE: func(cmd *cobra.Command, _ []string) error {
			var err error
			if req.Expiration, req.NeverExpires, err = parseExpiration(expiration, time.Now()); err != nil {
				return err
			}
			req.Tailnet = a.tailnet
			return a.ask(cmd.Context(), func(ctx context.Context, server client) error {
				resp, err := server.CreateApiKey(ctx, req)
				if err != nil {
					return err
				}
				return a.showAny(resp.GetApiKey(), resp.GetApiKey())
			})
		},
	}
	f := cmd.Flags()
	f.StringVarP(&expiration, "expiration", "e", "90d", "`how long` the key is good for: 24h, 90d, 1y, never")
	f.StringSliceVar(&req.Scopes, "scopes", nil, "`scopes` that the key opens: devices:core, dns:read, all:read (default: all)")
	f.BoolVar(&req.ReadOnly, "read-only", false, "of these scopes only the reading")
	f.StringVarP(&req.UserRef, "user", "u", "", "`user` on whose behalf the key is, by name, e-mail or ID (default: nobody)")
	f.StringSliceVar(&req.Tags, "tags", nil, "`tags` that what is made with the key must have (default: any, or none)")
	f.StringVar(&req.Description, "description", "", "`text` to remember the key by")
	f.BoolVar(&req.Short, "short", false, "one of 54 letters, for programs that take no longer one")
	a.withTailnet(cmd, " that the key is for (default: all)")
	return cmd
}

func (a *apiKeys) list() *cobra.Command {
	return &cobra.Command{
		Use:     "list",
		Aliases: []string{"ls", "show"},
		Short:   "list keys",
		Args:    exactly(0, ""),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.ask(cmd.Context(), func(ctx context.Context, server client) error {
				resp, err := server.ListApiKeys(ctx, &headscalev1.ListApiKeysRequest{})
				if err != nil {
					return err
				}
				t := newTable("ID", "Prefix", "Expiration", "Created", "Last used", "Tailnet", "User", "Scopes", "Tags", "Description")
				for _, k := range resp.GetApiKeys() {
					t.add(strconv.FormatUint(k.GetId(), 10), k.GetPrefix(), when(k.GetExpiration(), "never"),
						when(k.GetCreatedAt(), ""), when(k.GetLastSeen(), "never"), firstOf(k.GetTailnet(), "all"),
						firstOf(k.GetUser().GetName(), "-"), list(k.GetScopes()), firstOf(list(k.GetTags()), "-"), k.GetDescription())
				}
				return showList(a.cli, resp.GetApiKeys(), t)
			})
		},
	}
}

func (a *apiKeys) flags(cmd *cobra.Command) {
	cmd.Flags().StringVarP(&a.id, "id", "i", "", "`ID` of the key")
	cmd.Flags().StringVarP(&a.prefix, "prefix", "p", "", "`prefix` of the key, as lists show it")
}

// which says which key is meant.
func (a *apiKeys) which() (id uint64, prefix string, err error) {
	if (a.id == "") == (a.prefix == "") {
		return 0, "", errors.New("say which key: by its ID with -i or by its prefix with -p, one of the two; headscale apikeys list shows them")
	}
	if a.id != "" {
		id, err = parseID(a.id, "apikeys list")
	}
	return id, a.prefix, err
}

func (a *apiKeys) expire() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "expire",
		Aliases: []string{"revoke", "exp", "e"},
		Short:   "open nothing with a key from now on",
		Args:    exactly(0, ""),
		RunE: func(cmd *cobra.Command, _ []string) error {
			id, prefix, err := a.which()
			if err != nil {
				return err
			}
			return a.ask(cmd.Context(), func(ctx context.Context, server client) error {
				resp, err := server.ExpireApiKey(ctx, &headscalev1.ExpireApiKeyRequest{Id: id, Prefix: prefix})
				if err != nil {
					return err
				}
				return a.show("Key expired", resp)
			})
		},
	}
	a.flags(cmd)
	return cmd
}

func (a *apiKeys) delete() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "delete",
		Aliases: []string{"remove", "del"},
		Short:   "forget a key",
		Args:    exactly(0, ""),
		RunE: func(cmd *cobra.Command, _ []string) error {
			id, prefix, err := a.which()
			if err != nil {
				return err
			}
			return a.ask(cmd.Context(), func(ctx context.Context, server client) error {
				resp, err := server.DeleteApiKey(ctx, &headscalev1.DeleteApiKeyRequest{Id: id, Prefix: prefix})
				if err != nil {
					return err
				}
				return a.show("Key deleted", resp)
			})
		},
	}
	a.flags(cmd)
	return cmd
}
