package main

import (
	"context"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/keelscale/keelscale/hscontrol/tailnet"
)

// Completion asks the server what there is: IDs and names of nodes, users, keys, routes, tailnets and relays. Shells run
// "headscale __complete WORDS..." for it and show what it writes, so that nothing is told but candidates: where no server
// answers, there are none.

// completionTime bounds how long somebody waits who pressed Tab.
const completionTime = 2 * time.Second

// question is one press of Tab.
type question struct {
	*cli
	ctx  context.Context
	cmd  *cobra.Command
	args []string // before the word that is completed
}

// source lists candidates for an argument or a flag, each with what it is behind a tab.
type source func(*question) ([]string, error)

// words are candidates that are always the same.
func words(list ...string) source {
	return func(*question) ([]string, error) { return list, nil }
}

// roles are those that a user may have.
func roles(*question) ([]string, error) {
	return []string{"owner", "admin", "it-admin", "network-admin", "billing-admin", "auditor", "member"}, nil
}

// flagSources are the flags that are completed, by the name of their group; "" is every group.
func flagSources() map[string]map[string]source {
	return map[string]map[string]source{
		"": {
			"output": words("json", "json-line", "yaml"), "output-compat": words(compat029, compat015), "user": users, "namespace": users, "tailnet": tailnets,
			"tags": tags, "role": roles, "node": nodesByAny,
		},
		"users":         {"identifier": userIDs, "name": userNames},
		"nodes":         {"identifier": nodesByAny, "routes": routesOfNode},
		"routes":        {"identifier": nodesByAny, "route": routesByAny},
		"preauthkeys":   {"id": preAuthKeyIDs},
		"apikeys":       {"id": apiKeyIDs, "prefix": apiKeyPrefixes, "scopes": words(tailnet.Scopes()...)},
		"oauth-clients": {"id": oauthClientIDs, "scope": words(tailnet.Scopes()...), "tag": tags},
		"enroll-keys":   {"id": relayKeyIDs},
		"settings":      {"auto-updates": words("on", "off", "default")},
		"policy":        {"version": policyVersions},
	}
}

// argumentSources are the arguments that are completed, by the names of group and command.
func argumentSources() map[string][]source {
	return map[string][]source{
		"users destroy": {userNames}, "users rename": {userNames}, "users set-role": {userNames, roles},
		"nodes show": {nodesByAny}, "nodes expire": {nodesByAny}, "nodes delete": {nodesByAny}, "nodes tag": {nodesByAny},
		"nodes move": {nodesByAny}, "nodes approve-routes": {nodesByAny},
		"preauthkeys expire": {preAuthKeyPrefixes}, "preauthkeys delete": {preAuthKeyPrefixes},
		"tailnets delete": {tailnets}, "enroll-keys delete": {relayKeyIDs}, "policy rollback": {policyVersions},
		"derp drain": {relays}, "derp rename": {relays}, "derp remove": {relays},
	}
}

// complete gives the command, and all below it, their completions. A command whose arguments are not known here is
// completed with files only where it says that it takes some.
func (c *cli) complete(cmd *cobra.Command) {
	group := ""
	if cmd.HasParent() {
		group = todaysName(cmd.Parent())
	}
	flags := flagSources()
	cmd.NonInheritedFlags().VisitAll(func(f *pflag.Flag) {
		s := flags[group][f.Name]
		if s == nil {
			s = flags[""][f.Name]
		}
		if s == nil {
			return
		}
		if err := cmd.RegisterFlagCompletionFunc(f.Name, c.candidates([]source{s}, false)); err != nil {
			panic(err) // no flag is visited twice
		}
	})
	if below := cmd.Commands(); len(below) > 0 {
		for _, sub := range below {
			c.complete(sub)
		}
		return
	}
	if s := argumentSources()[group+" "+cmd.Name()]; s != nil {
		cmd.ValidArgsFunction = c.candidates(s, true)
	} else if cmd.ValidArgsFunction == nil && !strings.Contains(cmd.Use, "FILE") && !strings.Contains(cmd.Use, "NEW") {
		cmd.ValidArgsFunction = cobra.NoFileCompletions
	}
}

// todaysName is what a group is called today.
func todaysName(cmd *cobra.Command) string {
	if name := cmd.Annotations[legacyNote]; name != "" && cmd.Parent() == cmd.Root() {
		return name
	}
	return cmd.Name()
}

// candidates asks the sources, of arguments each for the one in its place. Of a list behind commas the last one is
// completed.
func (c *cli) candidates(sources []source, ofArguments bool) cobra.CompletionFunc {
	return func(cmd *cobra.Command, args []string, typed string) ([]string, cobra.ShellCompDirective) {
		place := 0
		if ofArguments {
			if place = len(args); named(cmd) {
				place++ // a flag stands for the first one
			}
		}
		if place >= len(sources) {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		ctx, cancel := context.WithTimeout(cmd.Context(), completionTime)
		defer cancel()
		quiet := *c
		quiet.err = io.Discard
		list, err := sources[place](&question{cli: &quiet, ctx: ctx, cmd: cmd, args: args})
		if err != nil {
			cobra.CompDebugln(sentence(err), false) // into the file that somebody names who looks for the cause
			return nil, cobra.ShellCompDirectiveNoFileComp | cobra.ShellCompDirectiveError
		}
		before := typed[:strings.LastIndexByte(typed, ',')+1]
		var out []string
		for _, candidate := range list {
			if candidate = before + candidate; strings.HasPrefix(candidate, typed) {
				out = append(out, candidate)
			}
		}
		if len(out) == 0 {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		return out, cobra.ShellCompDirectiveNoFileComp | cobra.ShellCompDirectiveKeepOrder
	}
}

// named reports whether a flag says already what the first argument would.
func named(cmd *cobra.Command) bool {
	return slices.ContainsFunc([]string{"identifier", "id", "name"}, cmd.Flags().Changed)
}

// look asks the server.
func (q *question) look(do func(context.Context, client) error) error {
	if q.bypass {
		return nil // opening the database for a Tab would keep a server out
	}
	return q.ask(q.ctx, do)
}

// candidate is a word and what it is.
func candidate(word string, about ...string) string {
	about = slices.DeleteFunc(about, func(s string) bool { return s == "" })
	return oneLine(word) + "\t" + oneLine(strings.Join(about, ", "))
}

func number(id uint64) string { return strconv.FormatUint(id, 10) }
