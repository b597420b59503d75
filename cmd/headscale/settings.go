package main

import (
	"context"
	"errors"
	"strconv"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	headscalev1 "github.com/keelscale/keelscale/proto/headscale/v1"
)

func (c *cli) settingsCommand() *cobra.Command {
	cmd := group(&cobra.Command{
		Use:     "settings",
		Aliases: []string{"setting"},
		Short:   "what is set for one tailnet, over the configuration",
		Long: `Settings belong to a tailnet and take effect at once, on all servers. What is not set is as the configuration of the
server says. Those of DNS, and what programs for Tailscale's API set beside, are at /api/v2.`,
	})
	cmd.AddCommand(c.settingsShow(), c.settingsSet())
	c.withTailnet(cmd, " that the settings are of (default: default)")
	return cmd
}

func (c *cli) settingsShow() *cobra.Command {
	return &cobra.Command{
		Use:     "show",
		Aliases: []string{"list", "ls", "get"},
		Short:   "show the settings",
		Args:    exactly(0, ""),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return c.ask(cmd.Context(), func(ctx context.Context, server client) error {
				resp, err := server.GetSettings(ctx, &headscalev1.GetSettingsRequest{Tailnet: c.tailnet})
				if err != nil {
					return err
				}
				return c.tellSettings(resp.GetSettings())
			})
		},
	}
}

func (c *cli) tellSettings(s *headscalev1.Settings) error {
	if c.output != "" {
		return c.show("", s)
	}
	days := "as configured"
	if s.GetKeyDays() != 0 {
		days = strconv.FormatUint(uint64(s.GetKeyDays()), 10)
	}
	t := newTable("Setting", "Value")
	t.add("display-name", firstOf(s.GetDisplayName(), "-"))
	t.add("devices-approval", strconv.FormatBool(s.GetDevicesApproval()))
	t.add("users-approval", strconv.FormatBool(s.GetUsersApproval()))
	t.add("key-days", days)
	t.add("auto-updates", firstOf(s.GetAutoUpdates(), "as configured"))
	t.add("policy-elsewhere", strconv.FormatBool(s.GetPolicyElsewhere()))
	t.add("policy-link", firstOf(s.GetPolicyLink(), "-"))
	return t.write(c.out, c.colour())
}

// settingFlags are what the flags of settings set say.
type settingFlags struct {
	name, updates, link      string
	devices, users, external bool
	days                     uint32
}

// request has what was said, and nothing of the rest.
func (v *settingFlags) request(flags *pflag.FlagSet) (*headscalev1.SetSettingsRequest, error) {
	req := &headscalev1.SetSettingsRequest{}
	if v.updates == "default" {
		v.updates = ""
	}
	some := false
	for name, set := range map[string]func(){
		"display-name":     func() { req.DisplayName = &v.name },
		"devices-approval": func() { req.DevicesApproval = &v.devices },
		"users-approval":   func() { req.UsersApproval = &v.users },
		"key-days":         func() { req.KeyDays = &v.days },
		"auto-updates":     func() { req.AutoUpdates = &v.updates },
		"policy-elsewhere": func() { req.PolicyElsewhere = &v.external },
		"policy-link":      func() { req.PolicyLink = &v.link },
	} {
		if flags.Changed(name) {
			set()
			some = true
		}
	}
	if !some {
		return nil, errors.New("say what to set, --devices-approval for instance: see headscale settings set --help")
	}
	return req, nil
}

func (c *cli) settingsSet() *cobra.Command {
	v := &settingFlags{}
	cmd := &cobra.Command{
		Use:     "set",
		Aliases: []string{"change", "update"},
		Short:   "change settings; those that are not named stay",
		Args:    exactly(0, ""),
		RunE: func(cmd *cobra.Command, _ []string) error {
			req, err := v.request(cmd.Flags())
			if err != nil {
				return err
			}
			req.Tailnet = c.tailnet
			return c.ask(cmd.Context(), func(ctx context.Context, server client) error {
				resp, err := server.SetSettings(ctx, req)
				if err != nil {
					return err
				}
				return c.tellSettings(resp.GetSettings())
			})
		},
	}
	f := cmd.Flags()
	f.StringVar(&v.name, "display-name", "", "what people call the tailnet, a `text`; empty: its name")
	f.BoolVar(&v.devices, "devices-approval", false, "new nodes reach nobody until nodes authorize lets them in, but for those of preauthkeys create --preauthorized")
	f.BoolVar(&v.users, "users-approval", false, "no effect yet: users who log in for the first time through an identity provider would wait, and there is no such login")
	f.Uint32Var(&v.days, "key-days", 0, "for how many `days` the key of a user's node is good; 0: as the configuration says")
	f.StringVar(&v.updates, "auto-updates", "default", "`on or off` for clients that have not chosen; default: as the configuration says")
	f.BoolVar(&v.external, "policy-elsewhere", false, "the policy is kept elsewhere, and not to be edited by hand")
	f.StringVar(&v.link, "policy-link", "", "the `URL` where")
	return cmd
}
