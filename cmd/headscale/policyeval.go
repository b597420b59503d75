package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	headscalev1 "github.com/keelscale/keelscale/proto/headscale/v1"

	"github.com/keelscale/keelscale/hscontrol/policy"
)

// exitFailed is the exit code of policy eval where it gives no verdict: 1 says that the policy is refused.
const exitFailed = 2

// maxInventory bounds the file; a node takes about a kilobyte.
const maxInventory = 64 << 20 // bytes

func (c *cli) policyEval() *cobra.Command {
	var file, inventory string
	cmd := &cobra.Command{
		Use:   "eval",
		Short: "say, as JSON, what every node would be told under a policy",
		Long: `Holds a policy against an inventory, {"users": [...], "nodes": [...]} as users list and nodes list -o json show them, or
without one against the tailnet as the server has it, and changes nothing. The answer is JSON: for each node its map
response, as far as the policy decides it, and the routes that would be approved. The exit code is 1 when the policy is
refused, with {"error": "..."} as the answer, and 2 when there is no answer.`,
		Args: exactly(0, ""),
		RunE: func(cmd *cobra.Command, _ []string) error {
			err := c.evaluate(cmd.Context(), file, inventory)
			var told told
			if err == nil || errors.As(err, &told) {
				return err
			}
			return withCode{err, exitFailed}
		},
	}
	cmd.Flags().StringVarP(&file, "policy", "f", "", "`file` with the policy, in HuJSON")
	cmd.Flags().StringVar(&inventory, "inventory", "", "`file` with users and nodes, in JSON (default: ask the server)")
	return cmd
}

func (c *cli) evaluate(ctx context.Context, file, inventory string) error {
	if file == "" {
		return errors.New("say the file with the policy: --policy FILE")
	}
	text, err := c.readFile(file, maxPolicy)
	if err != nil {
		return fmt.Errorf("reading the policy: %w", err)
	}
	var nodes []byte
	if inventory != "" {
		nodes, err = c.readFile(inventory, maxInventory)
	} else {
		nodes, err = c.inventory(ctx)
	}
	if err != nil {
		return fmt.Errorf("reading the inventory: %w", err)
	}
	answer, refused, err := policy.EvalJSON(text, nodes)
	if err != nil {
		return err
	}
	if c.output == "" {
		c.output = "json-line"
	}
	if err := c.write(answer); err != nil {
		return err
	}
	if refused != nil {
		return told{refused}
	}
	return nil
}

// inventory is the tailnet as the server has it now.
func (c *cli) inventory(ctx context.Context) ([]byte, error) {
	tree := map[string][]json.RawMessage{}
	err := c.ask(ctx, func(ctx context.Context, server client) error {
		users, err := server.ListUsers(ctx, &headscalev1.ListUsersRequest{Tailnet: c.tailnet})
		if err != nil {
			return err
		}
		if tree["users"], err = raw(users.GetUsers()); err != nil {
			return err
		}
		nodes, err := server.ListNodes(ctx, &headscalev1.ListNodesRequest{Tailnet: c.tailnet})
		if err != nil {
			return err
		}
		tree["nodes"], err = raw(nodes.GetNodes())
		return err
	})
	if err != nil {
		return nil, err
	}
	return json.Marshal(tree)
}
