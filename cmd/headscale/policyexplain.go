package main

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	headscalev1 "github.com/keelscale/keelscale/proto/headscale/v1"

	"github.com/keelscale/keelscale/hscontrol/api"
	"github.com/keelscale/keelscale/hscontrol/policy"
)

func (c *cli) policyExplain() *cobra.Command {
	var p proposal
	var failOnDeny bool
	req := &headscalev1.ExplainPolicyRequest{}
	cmd := &cobra.Command{
		Use:   "explain",
		Short: "say whether one may reach another, by which rule, and if not what is lacking",
		Long: `Says whether packets from one end reach a port at the other, or with --ssh whether a login is let in: yes or no, the very
rule with its line, and each step from the ends to the rule; for a no the rule that comes nearest, and what it lacks.
An end is a node, a host of the policy or an address; a user or a tag stands for its first node. The exit code is 0 when
there is an answer, be it yes or no; with --fail-on-deny it is 1 for a no. It is 2 when there is no answer.`,
		Example: `headscale policy explain --from alice-laptop --to db:5432
headscale policy explain --from alice-laptop --to db --ssh root`,
		Args: exactly(0, ""),
		RunE: func(cmd *cobra.Command, _ []string) error {
			resp, err := c.explain(cmd.Context(), p, req)
			if err == nil {
				err = c.show(explainFacts(req, resp), resp)
			}
			if err != nil {
				return withCode{err, exitFailed}
			}
			if failOnDeny && !resp.GetAllowed() {
				return told{errors.New("the policy denies it")}
			}
			return nil
		},
	}
	f := cmd.Flags()
	f.StringVar(&req.From, "from", "", "where it comes from: a `node`, host, address, user or tag")
	f.StringVar(&req.To, "to", "", "where it goes: `HOST:PORT`")
	f.StringVar(&req.Proto, "proto", "", "`protocol`, by name or number (default: tcp)")
	f.StringVar(&req.Ssh, "ssh", "", "ask about a login by SSH under this `name`")
	f.BoolVar(&failOnDeny, "fail-on-deny", false, "exit with 1 when the answer is no")
	p.flags(cmd)
	return cmd
}

func (c *cli) explain(ctx context.Context, p proposal, req *headscalev1.ExplainPolicyRequest) (resp *headscalev1.ExplainPolicyResponse, err error) {
	q, err := policy.ParseQuestion(req.GetFrom(), req.GetTo(), req.GetProto(), req.GetSsh())
	if err != nil {
		return nil, fmt.Errorf("%w: headscale policy explain --from NODE --to HOST:PORT", err)
	}
	if p.inventory != "" {
		list, snapshot, err := c.compileFiles(p.inventory, p.file)
		if err != nil {
			return nil, err
		}
		answer, err := list[0].Explain(snapshot, q)
		if err != nil {
			return nil, err
		}
		return api.AnswerMessage(answer), nil
	}
	if req.Policy, err = c.proposedText(p); err != nil {
		return nil, err
	}
	req.Tailnet = c.tailnet
	err = c.ask(ctx, func(ctx context.Context, server client) (err error) {
		resp, err = server.ExplainPolicy(ctx, req)
		return err
	})
	return resp, err
}

// explainFacts is the answer for people.
func explainFacts(req *headscalev1.ExplainPolicyRequest, a *headscalev1.ExplainPolicyResponse) string {
	what := fmt.Sprintf("%s reaches %s by %s", req.GetFrom(), req.GetTo(), firstOf(req.GetProto(), "tcp"))
	no := fmt.Sprintf("%s does not reach %s by %s", req.GetFrom(), req.GetTo(), firstOf(req.GetProto(), "tcp"))
	if req.GetSsh() != "" {
		what = fmt.Sprintf("%s logs in to %s as %s", req.GetFrom(), req.GetTo(), req.GetSsh())
		no = fmt.Sprintf("%s cannot log in to %s as %s", req.GetFrom(), req.GetTo(), req.GetSsh())
	}
	var b strings.Builder
	line := func(format string, args ...any) { b.WriteString(oneLine(fmt.Sprintf(format, args...)) + "\n") }
	switch {
	case a.GetOutcome() == "check":
		line("yes, once a person approves it: %s", what)
	case a.GetAllowed():
		line("yes: %s", what)
	default:
		line("no: %s", no)
	}
	for _, step := range a.GetSteps() {
		line("  %s", step)
	}
	switch {
	case a.GetAllowed():
		line("by %s", ruleName(a.GetRule()))
	case a.GetRule() != nil:
		line("the nearest rule is %s", ruleName(a.GetRule()))
	}
	for _, lack := range a.GetLacks() {
		line("  %s", lack)
	}
	return strings.TrimSuffix(b.String(), "\n")
}

func ruleName(r *headscalev1.PolicyRule) string {
	if r.GetLine() == 0 {
		return "the default: where neither acls nor grants are given, everything within the tailnet is allowed"
	}
	return fmt.Sprintf("%s[%d], line %d: %s", r.GetSection(), r.GetIndex(), r.GetLine(), r.GetText())
}
