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
	cmd.AddCommand(c.policyGet(), c.policySet(), c.policyCheck(), c.policyTest(), c.policyDiff(), c.policyExplain(),
		c.policyHistory(), c.policyRollback(), c.policyFmt(), c.policyEval())
	return cmd
}

func (c *cli) policyGet() *cobra.Command {
	var version uint64
	cmd := &cobra.Command{
		Use:     "get",
		Aliases: []string{"show", "view", "fetch"},
		Short:   "show the policy in force, or another version of it",
		Args:    exactly(0, ""),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return c.ask(cmd.Context(), func(ctx context.Context, server client) error {
				resp, err := server.GetPolicy(ctx, &headscalev1.GetPolicyRequest{Tailnet: c.tailnet, Version: version})
				if err != nil {
					return err
				}
				return c.show(strings.TrimRight(resp.GetPolicy(), "\n"), resp)
			})
		},
	}
	cmd.Flags().Uint64Var(&version, "version", 0, "`number` of the version, as policy history shows it (default: the one in force)")
	return cmd
}

func (c *cli) policySet() *cobra.Command {
	req := &headscalev1.SetPolicyRequest{}
	cmd, read := c.policyFileCommand("set", "put a policy in force")
	cmd.Long = `Puts a policy in force, after it was checked and its tests and sshTests passed. What was in force before is kept: see
headscale policy history. With policy.mode file this is refused for the tailnet default: the file is its policy.`
	cmd.Aliases = []string{"put", "update"}
	changeFlags(cmd, &req.Note, &req.Unapprove)
	cmd.RunE = func(cmd *cobra.Command, _ []string) (err error) {
		if req.Policy, err = read(); err != nil {
			return err
		}
		req.Tailnet = c.tailnet
		return c.ask(cmd.Context(), func(ctx context.Context, server client) error {
			resp, err := server.SetPolicy(ctx, req)
			if err != nil {
				return err
			}
			c.warnAll(resp.GetWarnings())
			return c.show("Policy updated."+unapprovedFacts(resp.GetUnapproved()), resp)
		})
	}
	return cmd
}

// changeFlags are those of the commands that put a policy in force.
func changeFlags(cmd *cobra.Command, note *string, unapprove *bool) {
	cmd.Flags().StringVar(note, "note", "", "`text` to keep with this version: why")
	cmd.Flags().BoolVar(unapprove, "unapprove", false, "take back the approval of routes that autoApprovers approved before, and no longer do")
}

func unapprovedFacts(routes []*headscalev1.UnapprovedRoute) (text string) {
	for _, r := range routes {
		text += fmt.Sprintf("\nRoute %s of %s is no longer approved.", r.GetRoute(), oneLine(r.GetNode()))
	}
	return text
}

func (c *cli) policyCheck() *cobra.Command {
	cmd, read := c.policyFileCommand("check", "say whether a file could be the policy")
	cmd.Long = "Says whether a file could be the policy of the tailnet as it is now, its tests and sshTests included, and changes nothing."
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
	return cmd, func() (string, error) { return c.readPolicy(file) }
}

func (c *cli) readPolicy(file string) (string, error) {
	if file == "" {
		return "", errors.New("say the file with the policy: -f FILE")
	}
	text, err := c.readFile(file, maxPolicy)
	if err != nil {
		return "", fmt.Errorf("reading the policy: %w", err)
	}
	return string(text), nil
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
