package main

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	headscalev1 "github.com/keelscale/keelscale/proto/headscale/v1"

	"github.com/keelscale/keelscale/hscontrol/api"
)

func (c *cli) policyTest() *cobra.Command {
	var p proposal
	cmd := &cobra.Command{
		Use:   "test",
		Short: "run the tests and sshTests of a policy",
		Long: `Runs the tests and sshTests of the policy in force, or of a file, and changes nothing. The exit code is 1 when one fails
or the policy is refused, and 2 when there is no answer.`,
		Example: "headscale policy test -f new.hujson --inventory inventory.json",
		Args:    exactly(0, ""),
		RunE: func(cmd *cobra.Command, _ []string) error {
			resp, err := c.runTests(cmd.Context(), p)
			if err == nil {
				err = c.showTests(resp)
			}
			return orNoAnswer(err)
		},
	}
	p.flags(cmd)
	return cmd
}

func (c *cli) runTests(ctx context.Context, p proposal) (resp *headscalev1.TestPolicyResponse, err error) {
	if p.inventory != "" {
		list, snapshot, err := c.compileFiles(p.inventory, p.file)
		if err != nil {
			return nil, err
		}
		return api.TestsMessage(list[0], snapshot), nil
	}
	text, err := c.proposedText(p)
	if err != nil {
		return nil, err
	}
	err = c.ask(ctx, func(ctx context.Context, server client) (err error) {
		resp, err = server.TestPolicy(ctx, &headscalev1.TestPolicyRequest{Policy: text, Tailnet: c.tailnet})
		return err
	})
	return resp, err
}

// showTests is a table for people, with the failures in full below it.
func (c *cli) showTests(resp *headscalev1.TestPolicyResponse) error {
	c.warnAll(resp.GetWarnings())
	if c.output != "" {
		if err := c.show("", resp); err != nil {
			return err
		}
	} else if err := c.writeTests(resp); err != nil {
		return err
	}
	if resp.GetFailed() > 0 {
		return told{errors.New("tests of the policy failed")}
	}
	return nil
}

func (c *cli) writeTests(resp *headscalev1.TestPolicyResponse) error {
	if len(resp.GetTests()) == 0 {
		return c.say("The policy has no tests.")
	}
	t := newTable("Line", "Test", "Source", "Result")
	var failures []string
	for _, r := range resp.GetTests() {
		name, result := fmt.Sprintf("%s[%d]", r.GetSection(), r.GetIndex()), "passed"
		if !r.GetPassed() {
			result = "FAILED"
		}
		t.add(fmt.Sprint(r.GetLine()), name, r.GetSrc(), result)
		for _, why := range r.GetFailures() {
			failures = append(failures, fmt.Sprintf("line %d: %s: %s", r.GetLine(), name, oneLine(why)))
		}
	}
	if err := t.write(c.out, c.colour()); err != nil {
		return err
	}
	return c.say("%s", strings.Join(append(failures, fmt.Sprintf("%d passed, %d failed", resp.GetPassed(), resp.GetFailed())), "\n"))
}
