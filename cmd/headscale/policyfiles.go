package main

import (
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/keelscale/keelscale/hscontrol/policy"
	"github.com/keelscale/keelscale/hscontrol/state"
	"github.com/keelscale/keelscale/hscontrol/tailnet"
)

// proposal is a policy in a file, and the nodes that it is held against: those of the server, or of a file too.
type proposal struct {
	file      string // empty: the policy in force
	inventory string // empty: the server's
}

// flags let a command take a proposal.
func (p *proposal) flags(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVarP(&p.file, "policy", "f", "", "`file` with the policy, in HuJSON; - reads the standard input (default: the policy in force)")
	f.StringVar(&p.file, "file", "", "same as --policy")
	hide(f, "file")
	p.inventoryFlag(cmd)
}

func (p *proposal) inventoryFlag(cmd *cobra.Command) {
	cmd.Flags().StringVar(&p.inventory, "inventory", "", "`file` with users and nodes, in JSON, as policy eval takes it: then no server is asked")
}

// text is the policy that the server shall take in place of the one in force; empty for none.
func (c *cli) proposedText(p proposal) (string, error) {
	if p.file == "" {
		return "", nil
	}
	text, err := c.readPolicy(p.file)
	if err == nil && strings.TrimSpace(text) == "" {
		_, err = policy.Parse(text) // says that it is empty
	}
	return text, err
}

// compileFiles reads policies and an inventory from files, for commands that need no server.
func (c *cli) compileFiles(inventory string, files ...string) ([]*policy.Compiled, *tailnet.Snapshot, error) {
	nodes, err := c.readFile(inventory, maxInventory)
	if err != nil {
		return nil, nil, fmt.Errorf("reading the inventory: %w", err)
	}
	snapshot, err := policy.ReadInventory(nodes)
	if err != nil {
		return nil, nil, err
	}
	var list []*policy.Compiled
	for _, file := range files {
		if file == "" {
			return nil, nil, errors.New("with --inventory, say the file with the policy too: -f FILE")
		}
		text, err := c.readPolicy(file)
		if err != nil {
			return nil, nil, err
		}
		p, err := policy.Parse(text)
		if err != nil {
			return nil, nil, fmt.Errorf("%s: %w", file, err)
		}
		if _, err := state.PolicyDERPMap(p); err != nil {
			return nil, nil, fmt.Errorf("%s: %w", file, err)
		}
		compiled, err := policy.Compile(p, snapshot)
		if err != nil {
			return nil, nil, fmt.Errorf("%s: %w", file, err)
		}
		list = append(list, compiled)
	}
	return list, snapshot, nil
}

// orNoAnswer gives an error the exit code that says that there is no answer, unless it is the answer: the policy is
// refused, or it was shown already.
func orNoAnswer(err error) error {
	var told told
	var refusal *policy.Refusal
	if err == nil || errors.As(err, &told) || errors.As(err, &refusal) || status.Code(err) == codes.InvalidArgument {
		return err
	}
	return withCode{err, exitFailed}
}
