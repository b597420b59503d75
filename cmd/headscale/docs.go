package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

//go:generate sh -c "go run . docs > ../../docs/cli.md.new && mv ../../docs/cli.md.new ../../docs/cli.md"

func (c *cli) docsCommand() *cobra.Command {
	return &cobra.Command{
		Use:    "docs",
		Short:  "write the reference of all commands in Markdown",
		Hidden: true,
		Args:   exactly(0, ""),
		RunE: func(cmd *cobra.Command, _ []string) error {
			_, err := c.out.Write([]byte(reference(cmd.Root())))
			return err
		},
	}
}

// reference is docs/cli.md.
func reference(root *cobra.Command) string {
	var b strings.Builder
	b.WriteString(`# headscale: all commands

<!-- Written by go generate ./cmd/headscale from the command tree; change the commands, not this file. -->

Every command but ` + "`serve`" + ` and the few that need no server asks a running one: the server on this machine over its
unix socket, or one elsewhere with ` + "`--address host:port --api-key KEY`" + `. Failures exit with 1 and one sentence on the
standard error; with ` + "`-o json`" + ` that is ` + "`{\"error\": \"…\"}`" + `.

`)
	b.WriteString("## Flags of every command\n\n")
	flagTable(&b, root.PersistentFlags())
	describe(&b, root)
	b.WriteString(olderNames)
	return b.String()
}

// olderNames are the commands that the tree hides.
const olderNames = `
## Older names

Command lines written for headscale 0.15 and later go on working:

| older | today |
|---|---|
| ` + "`namespaces`, `namespace`, `ns`" + ` | ` + "`users`" + `, with the words of its time: ` + "`Namespace created`" + ` |
| ` + "`machines`, `machine`" + ` | ` + "`nodes`" + `, likewise: ` + "`Machine renamed`" + ` |
| ` + "`-n NAME`, `--namespace NAME`" + `, also before the command: ` + "`headscale -n vpn nodes register --key KEY`" + ` | ` + "`--user NAME`" + ` |
| ` + "`nodes routes list`, `nodes routes enable`" + ` | ` + "`routes list`, `routes enable`" + ` |
| ` + "`policy … --bypass-grpc-and-access-database-directly`" + ` | ` + "`--bypass-server-and-access-database-directly`" + ` |

A user is named by name, e-mail address or ID everywhere; where a name is a number, ` + "`name=12` and `id=12`" + ` leave no doubt.
A registration key is taken in every form: ` + "`hskey-authreq-…`, `hskey-reg-…`, `mkey:…`, `nodekey:…`" + `, or the digits alone.
`

func describe(b *strings.Builder, parent *cobra.Command) {
	for _, cmd := range parent.Commands() {
		if cmd.Hidden || cmd.Name() == "help" {
			continue
		}
		level := min(strings.Count(cmd.CommandPath(), " ")+1, 4)
		fmt.Fprintf(b, "\n%s %s\n\n", strings.Repeat("#", level), cmd.CommandPath())
		if cmd.HasParent() && cmd.Runnable() && !cmd.HasAvailableSubCommands() {
			fmt.Fprintf(b, "    %s\n\n", cmd.UseLine())
		}
		about := cmd.Long
		if about == "" || cmd.Parent().Name() == "completion" {
			about = strings.ToUpper(cmd.Short[:1]) + cmd.Short[1:] + "."
		}
		b.WriteString(strings.TrimSpace(about) + "\n")
		if cmd.Example != "" {
			fmt.Fprintf(b, "\n```\n%s\n```\n", cmd.Example)
		}
		if len(cmd.Aliases) > 0 {
			fmt.Fprintf(b, "\nAlso: `%s`\n", strings.Join(cmd.Aliases, "`, `"))
		}
		if cmd.HasAvailableLocalFlags() {
			b.WriteString("\n")
			flagTable(b, cmd.LocalFlags())
		}
		describe(b, cmd)
	}
}

func flagTable(b *strings.Builder, flags *pflag.FlagSet) {
	rows := 0
	flags.VisitAll(func(f *pflag.Flag) {
		if f.Hidden || f.Name == "help" {
			return
		}
		if rows++; rows == 1 {
			b.WriteString("| flag | meaning |\n|---|---|\n")
		}
		value, usage := pflag.UnquoteUsage(f)
		name := "--" + f.Name
		if f.Shorthand != "" {
			name = "-" + f.Shorthand + ", " + name
		}
		if value != "" {
			name += " " + strings.ToUpper(strings.ReplaceAll(value, " ", "_"))
		}
		if f.DefValue != "" && f.DefValue != "false" && f.DefValue != "[]" {
			usage += " (default: " + f.DefValue + ")"
		}
		fmt.Fprintf(b, "| `%s` | %s |\n", name, strings.ReplaceAll(usage, "|", "\\|"))
	})
}
