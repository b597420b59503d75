package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"

	headscalev1 "github.com/keelscale/keelscale/proto/headscale/v1"
)

// maxPolicy bounds the file, like the server does.
const maxPolicy = 4 << 20 // bytes

func (c *cli) policyCommand() *cobra.Command {
	cmd := group(&cobra.Command{
		Use:   "policy",
		Short: "who may reach whom",
	})
	c.withTailnet(cmd, " (default: default)")
	c.bypassFlags(cmd)
	cmd.AddCommand(c.policyGet(), c.policySet(), c.policyCheck(), c.policyEval())
	return cmd
}

func (c *cli) policyGet() *cobra.Command {
	return &cobra.Command{
		Use:     "get",
		Aliases: []string{"show", "view", "fetch"},
		Short:   "show the policy in force",
		Args:    exactly(0, ""),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return c.ask(cmd.Context(), func(ctx context.Context, server client) error {
				resp, err := server.GetPolicy(ctx, &headscalev1.GetPolicyRequest{Tailnet: c.tailnet})
				if err != nil {
					return err
				}
				return c.show(strings.TrimRight(resp.GetPolicy(), "\n"), resp)
			})
		},
	}
}

func (c *cli) policySet() *cobra.Command {
	cmd, read := c.policyFileCommand("set", "put a policy in force")
	cmd.Aliases = []string{"put", "update"}
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		text, err := read()
		if err != nil {
			return err
		}
		return c.ask(cmd.Context(), func(ctx context.Context, server client) error {
			resp, err := server.SetPolicy(ctx, &headscalev1.SetPolicyRequest{Policy: text, Tailnet: c.tailnet})
			if err != nil {
				return err
			}
			c.warnAll(resp.GetWarnings())
			return c.show("Policy updated.", resp)
		})
	}
	return cmd
}

func (c *cli) policyCheck() *cobra.Command {
	cmd, read := c.policyFileCommand("check", "say whether a file could be the policy")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		text, err := read()
		if err != nil {
			return err
		}
		return c.ask(cmd.Context(), func(ctx context.Context, server client) error {
			resp, err := server.CheckPolicy(ctx, &headscalev1.CheckPolicyRequest{Policy: text, Tailnet: c.tailnet})
			if err != nil {
				return err
			}
			c.warnAll(resp.GetWarnings())
			return c.show("Policy is valid", resp)
		})
	}
	return cmd
}

func (c *cli) warnAll(warnings []string) {
	for _, w := range warnings {
		c.warn("%s", w)
	}
}

// policyFileCommand is a command about a policy in a file.
func (c *cli) policyFileCommand(use, short string) (cmd *cobra.Command, read func() (string, error)) {
	var file string
	cmd = &cobra.Command{Use: use, Short: short, Args: exactly(0, "")}
	cmd.Flags().StringVarP(&file, "file", "f", "", "`file` with the policy, in HuJSON; - reads the standard input")
	return cmd, func() (string, error) {
		if file == "" {
			return "", errors.New("say the file with the policy: -f FILE")
		}
		text, err := c.readFile(file, maxPolicy)
		if err != nil {
			return "", fmt.Errorf("reading the policy: %w", err)
		}
		return string(text), nil
	}
}

func (c *cli) readFile(name string, limit int64) ([]byte, error) {
	in := c.in
	if name != "-" {
		f, err := os.Open(name)
		if err != nil {
			return nil, err
		}
		defer f.Close()
		in = f
	}
	data, err := io.ReadAll(io.LimitReader(in, limit+1))
	if err == nil && int64(len(data)) > limit {
		err = fmt.Errorf("%s is larger than %d MiB", name, limit>>20)
	}
	return data, err
}
