package main

import (
	"errors"
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"github.com/keelscale/keelscale/hscontrol/policy"
)

func (c *cli) policyFmt() *cobra.Command {
	var file string
	var write, check bool
	cmd := &cobra.Command{
		Use:     "fmt FILE",
		Aliases: []string{"format"},
		Short:   "lay a policy out in the usual way; comments stay",
		Long: `Writes the policy in the file, laid out in the usual way, to the standard output, or with -w back into the file. Comments
stay. No server is asked, and what the policy says is not checked.`,
		Example: "headscale policy fmt -w /etc/headscale/policy.hujson",
		Args:    atMost(1),
		RunE: func(_ *cobra.Command, args []string) error {
			if len(args) == 1 {
				file = args[0]
			}
			was, err := c.readPolicy(file)
			if err != nil {
				return err
			}
			is, err := policy.Format(was)
			switch {
			case err != nil:
				return fmt.Errorf("%s: %w", file, err)
			case check && was != is:
				return fmt.Errorf("%s is not laid out in the usual way: headscale policy fmt -w %s", file, file)
			case check || write && was == is:
				return nil
			case write && file == "-":
				return errors.New("the standard input cannot be written back: leave -w out")
			case write:
				return rewrite(file, is)
			}
			_, err = c.out.Write([]byte(is))
			return err
		},
	}
	cmd.Flags().StringVarP(&file, "file", "f", "", "same as FILE; - reads the standard input")
	cmd.Flags().BoolVarP(&write, "write", "w", false, "write the result back into the file")
	cmd.Flags().BoolVar(&check, "check", false, "write nothing, and exit with 1 when something would change")
	return cmd
}

// rewrite puts a new text into a file, which keeps its owner and mode.
func rewrite(name, text string) error {
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_TRUNC, 0)
	if err != nil {
		return fmt.Errorf("writing the policy: %w", err)
	}
	_, err = f.WriteString(text)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return fmt.Errorf("writing the policy: %w", err)
	}
	return nil
}
