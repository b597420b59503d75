package main

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	headscalev1 "github.com/keelscale/keelscale/proto/headscale/v1"
)

func (c *cli) webhooksCommand() *cobra.Command {
	w := &webhooks{cli: c}
	cmd := group(&cobra.Command{
		Use:     "webhooks",
		Aliases: []string{"webhook"},
		Short:   "endpoints that are told of events",
	})
	cmd.AddCommand(w.create(), w.list(), w.show(), w.delete(), w.test(), w.rotate())
	c.withTailnet(cmd, " that the webhook is of (default: default)")
	return cmd
}

// webhooks are the commands of the group.
type webhooks struct{ *cli }

func (w *webhooks) create() *cobra.Command {
	var provider, events string
	cmd := &cobra.Command{
		Use:     "create URL",
		Aliases: []string{"c", "new"},
		Short:   "make an endpoint, and show its secret for the only time",
		Args:    exactly(1, "where the endpoint is"),
		RunE: func(cmd *cobra.Command, args []string) error {
			req := &headscalev1.CreateWebhookRequest{Url: args[0], Provider: provider, Tailnet: w.tailnet, Events: eventNames(events)}
			return w.ask(cmd.Context(), func(ctx context.Context, server client) error {
				resp, err := server.CreateWebhook(ctx, req)
				if err != nil {
					return err
				}
				return w.cli.show(fmt.Sprintf("Webhook %d created. Its secret, shown this once:\n%s", resp.GetWebhook().GetId(), resp.GetSecret()), resp)
			})
		},
	}
	cmd.Flags().StringVar(&provider, "provider", "", "`format` for slack, mattermost, discord or googlechat (default: Tailscale's own)")
	cmd.Flags().StringVar(&events, "events", "categoryTailnetManagement,nodeOnline,nodeOffline,relayUp,relayDown", "`names` of events, with commas between")
	return cmd
}

// eventNames are the parts of a list with commas.
func eventNames(text string) (out []string) {
	for part := range strings.SplitSeq(text, ",") {
		if part = strings.TrimSpace(part); part != "" {
			out = append(out, part)
		}
	}
	return out
}

func (w *webhooks) list() *cobra.Command {
	return &cobra.Command{
		Use:     "list",
		Aliases: []string{"ls"},
		Short:   "list endpoints",
		Args:    exactly(0, ""),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return w.ask(cmd.Context(), func(ctx context.Context, server client) error {
				resp, err := server.ListWebhooks(ctx, &headscalev1.ListWebhooksRequest{Tailnet: w.tailnet})
				if err != nil {
					return err
				}
				t := newTable("ID", "URL", "Provider", "Events", "Creator", "Created", "Tailnet")
				for _, h := range resp.GetWebhooks() {
					t.add(strconv.FormatUint(h.GetId(), 10), h.GetUrl(), firstOf(h.GetProvider(), "-"), strings.Join(h.GetEvents(), ", "),
						firstOf(h.GetCreator(), "-"), when(h.GetCreatedAt(), ""), h.GetTailnet())
				}
				return showList(w.cli, resp.GetWebhooks(), t)
			})
		},
	}
}

func (w *webhooks) show() *cobra.Command {
	return w.byID("show", "show what became of the newest deliveries", func(ctx context.Context, server client, id uint64) error {
		resp, err := server.GetWebhook(ctx, &headscalev1.GetWebhookRequest{Id: id})
		if err != nil {
			return err
		}
		if w.output != "" {
			return w.cli.show("", resp.GetWebhook())
		}
		t := newTable("ID", "Event", "State", "Attempts", "Status", "Trouble", "Created")
		for _, d := range resp.GetWebhook().GetDeliveries() {
			t.add(strconv.FormatUint(d.GetId(), 10), d.GetEvent(), d.GetState(), strconv.Itoa(int(d.GetAttempts())), strconv.Itoa(int(d.GetStatus())),
				firstOf(d.GetTrouble(), "-"), when(d.GetCreatedAt(), ""))
		}
		return t.write(w.out, w.colour())
	})
}

func (w *webhooks) delete() *cobra.Command {
	return w.byID("delete", "forget an endpoint, and what it was not told yet", func(ctx context.Context, server client, id uint64) error {
		resp, err := server.DeleteWebhook(ctx, &headscalev1.DeleteWebhookRequest{Id: id})
		if err != nil {
			return err
		}
		return w.cli.show("Webhook deleted", resp)
	})
}

func (w *webhooks) test() *cobra.Command {
	return w.byID("test", "have a test event delivered", func(ctx context.Context, server client, id uint64) error {
		resp, err := server.TestWebhook(ctx, &headscalev1.TestWebhookRequest{Id: id})
		if err != nil {
			return err
		}
		return w.cli.show(fmt.Sprintf("A test event is on its way; see headscale webhooks show %d", id), resp)
	})
}

func (w *webhooks) rotate() *cobra.Command {
	return w.byID("rotate", "give an endpoint another secret, and show it for the only time", func(ctx context.Context, server client, id uint64) error {
		resp, err := server.RotateWebhook(ctx, &headscalev1.RotateWebhookRequest{Id: id})
		if err != nil {
			return err
		}
		return w.cli.show("The new secret, shown this once:\n"+resp.GetSecret(), resp)
	})
}

// byID is a command about one endpoint.
func (w *webhooks) byID(verb, short string, do func(context.Context, client, uint64) error) *cobra.Command {
	return &cobra.Command{
		Use:   verb + " ID",
		Short: short,
		Args:  exactly(1, "which webhook, by its ID"),
		RunE: func(cmd *cobra.Command, args []string) error {
			id, err := parseID(args[0], "webhooks list")
			if err != nil {
				return err
			}
			return w.ask(cmd.Context(), func(ctx context.Context, server client) error { return do(ctx, server, id) })
		},
	}
}
