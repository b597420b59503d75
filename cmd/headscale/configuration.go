package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/keelscale/keelscale/hscontrol/config"
	"github.com/keelscale/keelscale/hscontrol/policy"
	"github.com/keelscale/keelscale/hscontrol/state"
)

// load reads the configuration as the server does, and shows its warnings.
func (c *cli) load() (*config.Config, error) {
	cfg, warnings, err := config.Load(config.Search(c.configFile, c.env), c.env)
	for _, w := range warnings {
		c.warn("%s", w)
	}
	return cfg, err
}

func (c *cli) configTestCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "configtest",
		Short: "say whether the server could start with its configuration; nothing is said when it could",
		Args:  exactly(0, ""),
		RunE: func(*cobra.Command, []string) error {
			cfg, err := c.load()
			if err == nil && cfg.DNS.ExtraRecordsPath != "" {
				_, err = cfg.DNS.ReadRecords()
			}
			if err != nil || cfg.Policy.Mode != config.PolicyFile || cfg.Policy.Path == "" {
				return err
			}
			text, err := c.readFile(cfg.Policy.Path, maxPolicy)
			if err != nil {
				return fmt.Errorf("reading the policy: %w", err)
			}
			p, err := policy.Parse(string(text))
			if err == nil {
				_, err = state.PolicyDERPMap(p)
			}
			if err != nil {
				return fmt.Errorf("policy %s: %w", cfg.Policy.Path, err)
			}
			return nil
		},
	}
}

func (c *cli) dumpConfigCommand() *cobra.Command {
	return &cobra.Command{
		Use:    "dumpConfig",
		Short:  "show the configuration as the server understands it, without secrets",
		Hidden: true,
		Args:   exactly(0, ""),
		RunE: func(*cobra.Command, []string) error {
			cfg, err := c.load()
			if err != nil {
				return err
			}
			text, err := dump(cfg)
			if err != nil {
				return err
			}
			_, err = c.out.Write(text)
			return err
		},
	}
}
