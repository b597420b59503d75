package main

import (
	"fmt"

	"github.com/spf13/cobra"
	"tailscale.com/types/key"
)

func (c *cli) generateCommand() *cobra.Command {
	cmd := group(&cobra.Command{
		Use:     "generate",
		Aliases: []string{"gen"},
		Short:   "make keys",
	})
	cmd.AddCommand(&cobra.Command{
		Use:   "private-key",
		Short: "make a private key, as the file of noise.private_key_path holds it",
		Args:  exactly(0, ""),
		RunE: func(*cobra.Command, []string) error {
			text, err := key.NewMachine().MarshalText()
			if err != nil {
				return fmt.Errorf("making a key: %w", err)
			}
			return c.showAny(string(text), map[string]string{"private_key": string(text)})
		},
	})
	return cmd
}
