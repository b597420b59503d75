package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"golang.org/x/term"
)

// cli is one run of the command line: where it reads and writes, and what the global flags said.
type cli struct {
	in       io.Reader
	out, err io.Writer
	env      []string

	configFile string
	socket     string
	address    string
	apiKey     string
	insecure   bool
	output     string // "", json, json-line or yaml
	compat     string // "", or the release whose answers are wanted
	force      bool
	tailnet    string   // of the commands that have --tailnet
	bypass     bool     // of the policy commands
	problems   []string // those of the server that were told already
}

func newCLI(in io.Reader, out, err io.Writer, env []string) *cli {
	return &cli{in: in, out: out, err: err, env: env}
}

// run runs one command and gives the exit code: 0, or 1 on any failure but those that say another.
func (c *cli) run(ctx context.Context, args []string) int {
	root := c.tree()
	root.SetArgs(args)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return 0
	}
	var told told
	if !errors.As(err, &told) {
		c.complain(err, wantsJSON(c.output, args))
	}
	var coded withCode
	if errors.As(err, &coded) {
		return coded.code
	}
	return 1
}

// told is an error that was shown already.
type told struct{ error }

// withCode is an error with an exit code of its own.
type withCode struct {
	error
	code int
}

// complain writes the error: as a sentence, or as JSON for programs.
func (c *cli) complain(err error, asJSON bool) {
	var coded withCode
	if errors.As(err, &coded) {
		err = coded.error
	}
	text := sentence(err)
	if !asJSON {
		fmt.Fprintln(c.err, "Error:", text)
		return
	}
	out, jsonErr := json.Marshal(map[string]string{"error": text})
	if jsonErr != nil { // a map of strings always marshals
		panic(jsonErr)
	}
	fmt.Fprintln(c.err, string(out))
}

// wantsJSON looks at the arguments too: the flag may stand behind the one that is wrong.
func wantsJSON(output string, args []string) bool {
	if output != "" {
		return output != "yaml"
	}
	for i, a := range args {
		value, joined := strings.CutPrefix(a, "--output=")
		if !joined && i+1 < len(args) && (a == "-o" || a == "--output") {
			value = args[i+1]
		}
		if value == "json" || value == "json-line" || a == "-ojson" || a == "-ojson-line" {
			return true
		}
	}
	return false
}

// tree is the whole command tree.
func (c *cli) tree() *cobra.Command {
	root := group(&cobra.Command{
		Use:   "headscale",
		Short: "control server of a tailnet, and the command line for it",
		Long: `headscale runs the control server of a tailnet (headscale serve). Every other command asks a running server:
the one on this machine, over its unix socket, or another one with --address and --api-key.`,
	})
	root.SilenceErrors, root.SilenceUsage, root.DisableSuggestions = true, true, true
	root.SetIn(c.in)
	root.SetOut(c.out)
	root.SetErr(c.err)
	root.SetFlagErrorFunc(flagError)
	root.PersistentPreRunE = func(*cobra.Command, []string) error { return c.checkOutput() }
	f := root.PersistentFlags()
	f.StringVarP(&c.configFile, "config", "c", "", "`file` with the configuration (or HEADSCALE_CONFIG; default: config.yaml in /etc/headscale, ~/.headscale or here)")
	f.StringVarP(&c.output, "output", "o", "", "`form` of the answer for programs: json, json-line or yaml")
	f.StringVar(&c.compat, "output-compat", "", "`release` whose JSON and YAML to write: 0.29 (or HEADSCALE_CLI_OUTPUT_COMPAT); 0.15 for the table of routes")
	f.BoolVar(&c.force, "force", false, "ask nothing")
	f.StringVar(&c.socket, "socket", "", "unix socket of the server on this `path` (or HEADSCALE_UNIX_SOCKET)")
	f.StringVar(&c.address, "address", "", "`host:port` of the gRPC of a server elsewhere (or HEADSCALE_CLI_ADDRESS)")
	f.StringVar(&c.apiKey, "api-key", "", "`key` for that server (or HEADSCALE_CLI_API_KEY)")
	f.BoolVar(&c.insecure, "insecure", false, "do not check that server's certificate (or HEADSCALE_CLI_INSECURE)")

	root.AddCommand(
		c.serveCommand(),
		c.dbCommand(),
		c.usersCommand(modern), c.usersCommand(legacy),
		c.nodesCommand(modern), c.nodesCommand(legacy),
		c.routesCommand(),
		c.preAuthKeysCommand(),
		c.apiKeysCommand(), c.oauthClientsCommand(),
		c.authCommand(),
		c.policyCommand(),
		c.tailnetsCommand(),
		c.derpCommand(),
		c.auditCommand(), c.webhooksCommand(), c.settingsCommand(),
		c.healthCommand(), c.statusCommand(), c.reloadCommand(),
		c.configTestCommand(), c.dumpConfigCommand(),
		c.generateCommand(),
		c.debugCommand(),
		c.versionCommand(),
		c.docsCommand(),
	)
	root.InitDefaultCompletionCmd()
	c.complete(root)
	bareUsage(root)
	return root
}

// bareUsage leaves "[flags]" out of the lines that show how a command is written.
func bareUsage(cmd *cobra.Command) {
	cmd.DisableFlagsInUseLine = true
	for _, sub := range cmd.Commands() {
		bareUsage(sub)
	}
}

func (c *cli) checkOutput() error {
	if forms := []string{"", "json", "json-line", "yaml"}; !slices.Contains(forms, c.output) {
		return fmt.Errorf("there is no output form %q: use json, json-line or yaml", c.output)
	}
	c.compat = firstOf(c.compat, c.getenv("HEADSCALE_CLI_OUTPUT_COMPAT"))
	return c.checkCompat()
}

// generation is whose words a command answers in: today's, or those of headscale 0.15, which scripts may look for.
type generation bool

const (
	modern generation = false
	legacy generation = true
)

// legacyNote marks a hidden command that is still suggested: an older name for another.
const legacyNote = "older name"

// withTailnet gives a group the flag --tailnet.
func (c *cli) withTailnet(cmd *cobra.Command, what string) {
	cmd.PersistentFlags().StringVar(&c.tailnet, "tailnet", "", "`name` of the tailnet"+what)
}

// userFlags are the flags that name a user in every command of a group: -u today, -n in older command lines, which may
// stand before the command too.
func userFlags(cmd *cobra.Command, user *string) {
	f := cmd.PersistentFlags()
	f.StringVarP(user, "user", "u", "", "`user`, by name, e-mail or ID")
	f.StringVarP(user, "namespace", "n", "", "older name of --user")
	hide(f, "namespace")
}

func hide(f *pflag.FlagSet, name string) { f.Lookup(name).Hidden = true }

// group makes a command that only holds others: alone it shows its help, and a wrong word after it is an error.
func group(cmd *cobra.Command) *cobra.Command {
	cmd.Args = cobra.ArbitraryArgs
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if len(args) > 0 {
			return unknownCommand(cmd, args[0])
		}
		return cmd.Help()
	}
	return cmd
}

// isTerminal reports whether a person sits at the other end.
func isTerminal(stream any) bool {
	f, ok := stream.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

// getenv reads the environment of this run.
func (c *cli) getenv(name string) string {
	for _, pair := range slices.Backward(c.env) {
		if v, ok := strings.CutPrefix(pair, name+"="); ok {
			return v
		}
	}
	return ""
}
