package main

import (
	"context"
	"fmt"
	"strconv"

	"github.com/spf13/cobra"

	headscalev1 "github.com/keelscale/keelscale/proto/headscale/v1"
)

func (c *cli) policyHistory() *cobra.Command {
	var limit uint32
	cmd := &cobra.Command{
		Use:     "history",
		Aliases: []string{"versions", "log"},
		Short:   "list the versions of the policy: when, who, from where",
		Args:    exactly(0, ""),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return c.ask(cmd.Context(), func(ctx context.Context, server client) error {
				resp, err := server.ListPolicyVersions(ctx, &headscalev1.ListPolicyVersionsRequest{Tailnet: c.tailnet, Limit: limit})
				if err != nil {
					return err
				}
				t := newTable("Version", "In force", "Set", "By", "Who", "From", "Note")
				for _, v := range resp.GetVersions() {
					t.add(strconv.FormatUint(v.GetVersion(), 10), yesNo(v.GetInForce()), when(v.GetCreatedAt(), "-"),
						v.GetSource(), firstOf(v.GetAuthor(), "-"), firstOf(v.GetOrigin(), "-"), v.GetNote())
				}
				return showList(c, resp.GetVersions(), t)
			})
		},
	}
	cmd.Flags().Uint32Var(&limit, "limit", 0, "`number` of versions to list, the newest first (default: 100)")
	return cmd
}

func (c *cli) policyRollback() *cobra.Command {
	req := &headscalev1.RollbackPolicyRequest{}
	cmd := &cobra.Command{
		Use:   "rollback VERSION",
		Short: "put an older version of the policy in force again",
		Long: `Puts the text of an older version in force, as a new version, if it can still be one: it is checked and tested like any
other. headscale policy diff --version N shows beforehand what that changes.`,
		Args: exactly(1, "which version, as headscale policy history shows it"),
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			if req.Version, err = strconv.ParseUint(args[0], 10, 64); err != nil || req.Version == 0 {
				return fmt.Errorf("%q is no version: give the number that headscale policy history shows", args[0])
			}
			req.Tailnet = c.tailnet
			return c.ask(cmd.Context(), func(ctx context.Context, server client) error {
				resp, err := server.RollbackPolicy(ctx, req)
				if err != nil {
					return err
				}
				c.warnAll(resp.GetWarnings())
				return c.show(fmt.Sprintf("Policy rolled back to version %d, which is version %d now.%s",
					req.GetVersion(), resp.GetVersion(), unapprovedFacts(resp.GetUnapproved())), resp)
			})
		},
	}
	changeFlags(cmd, &req.Note, &req.Unapprove)
	return cmd
}
