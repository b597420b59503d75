package main

import (
	"context"
	"errors"

	"github.com/spf13/cobra"

	headscalev1 "github.com/keelscale/keelscale/proto/headscale/v1"
)

func (c *cli) oauthClientsCommand() *cobra.Command {
	cmd := group(&cobra.Command{
		Use:     "oauth-clients",
		Aliases: []string{"oauth-client", "oauthclients", "oauthclient", "oauth"},
		Short:   "programs that get access tokens for the API, each good for an hour",
		Long: "A program shows its client ID and secret at /api/v2/oauth/token and gets an access token, which it sends as it would send an API key.\n" +
			"A federated client has no secret: it shows a token of the issuer that it runs under at /api/v2/oauth/token-exchange.",
	})
	cmd.AddCommand(c.oauthClientCreate(), c.oauthClientList(), c.oauthClientDelete())
	return cmd
}

func (c *cli) oauthClientCreate() *cobra.Command {
	req := &headscalev1.CreateOAuthClientRequest{}
	cmd := &cobra.Command{
		Use:     "create",
		Aliases: []string{"c", "new"},
		Short:   "make a client, and show its secret for the only time",
		Example: "headscale oauth-clients create --scope devices:core,auth_keys --tag tag:k8s-operator --description operator\n" +
			"headscale oauth-clients create --scope policy_file --issuer https://token.actions.githubusercontent.com --subject 'repo:acme/*:ref:refs/heads/main'",
		Args: exactly(0, ""),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if len(req.Scopes) == 0 {
				return errors.New("say what the client may do: --scope devices:core,auth_keys, or --scope all for everything")
			}
			req.Tailnet = c.tailnet
			return c.ask(cmd.Context(), func(ctx context.Context, server client) error {
				resp, err := server.CreateOAuthClient(ctx, req)
				if err != nil {
					return err
				}
				text := "OAuth client " + resp.GetClient().GetClientId() + " created."
				if secret := resp.GetSecret(); secret != "" {
					text += "\nSecret (shown once, store it now): " + secret
				}
				return c.show(text, resp)
			})
		},
	}
	f := cmd.Flags()
	f.StringSliceVarP(&req.Scopes, "scope", "s", nil, "`scopes` of its tokens: devices:core, dns:read, all")
	f.StringSliceVarP(&req.Tags, "tag", "t", nil, "`tags` that what it makes must have; with devices:core or auth_keys it needs some")
	f.StringVarP(&req.Description, "description", "d", "", "`text` to remember the client by")
	f.StringVar(&req.Issuer, "issuer", "", "`URL` of who gives it tokens to show, instead of a secret")
	f.StringVar(&req.Subject, "subject", "", "`subject` of those tokens; * stands for anything")
	f.StringVar(&req.Audience, "audience", "", "`audience` of those tokens (default: the client ID)")
	f.StringSliceVar(&req.Claims, "claim", nil, "`NAME=VALUE` that those tokens must say; * stands for anything")
	c.withTailnet(cmd, " that its tokens are for (default: all)")
	return cmd
}

func (c *cli) oauthClientList() *cobra.Command {
	return &cobra.Command{
		Use:     "list",
		Aliases: []string{"ls", "show"},
		Short:   "list clients",
		Args:    exactly(0, ""),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return c.ask(cmd.Context(), func(ctx context.Context, server client) error {
				resp, err := server.ListOAuthClients(ctx, &headscalev1.ListOAuthClientsRequest{})
				if err != nil {
					return err
				}
				t := newTable("ID", "Scopes", "Tags", "Description", "Created", "Last used", "Tailnet", "User", "Issuer")
				for _, o := range resp.GetClients() {
					t.add(o.GetClientId(), list(o.GetScopes()), firstOf(list(o.GetTags()), "-"), o.GetDescription(), when(o.GetCreatedAt(), ""),
						when(o.GetLastSeen(), "never"), firstOf(o.GetTailnet(), "all"), firstOf(o.GetUser().GetName(), "-"), firstOf(o.GetIssuer(), "-"))
				}
				return showList(c, resp.GetClients(), t)
			})
		},
	}
}

func (c *cli) oauthClientDelete() *cobra.Command {
	req := &headscalev1.DeleteOAuthClientRequest{}
	cmd := &cobra.Command{
		Use:     "delete",
		Aliases: []string{"remove", "del"},
		Short:   "forget a client; its tokens open nothing from now on",
		Args:    exactly(0, ""),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if req.ClientId == "" {
				return errors.New("say which client: --id CLIENT; headscale oauth-clients list shows them")
			}
			return c.ask(cmd.Context(), func(ctx context.Context, server client) error {
				resp, err := server.DeleteOAuthClient(ctx, req)
				if err != nil {
					return err
				}
				return c.show("OAuth client "+req.ClientId+" deleted", resp)
			})
		},
	}
	cmd.Flags().StringVarP(&req.ClientId, "id", "i", "", "`ID` of the client, as lists show it")
	return cmd
}
