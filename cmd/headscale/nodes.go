package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"

	"github.com/spf13/cobra"
	"tailscale.com/types/key"

	headscalev1 "github.com/keelscale/keelscale/proto/headscale/v1"
)

// nodesCommand is the group nodes, or machines, as headscale called it until 0.22.
func (c *cli) nodesCommand(g generation) *cobra.Command {
	n := &nodes{cli: c, noun: "Node"}
	cmd := group(&cobra.Command{
		Use:     "nodes",
		Aliases: []string{"node"},
		Short:   "the machines in the tailnet",
		Long:    "Nodes are named by their ID (-i 6) or, where there is room, by their name. Older releases call them machines: the group is also there as machines and machine.",
	})
	if g == legacy {
		n.noun = "Machine"
		cmd.Use, cmd.Aliases, cmd.Hidden = "machines", []string{"machine"}, true
		cmd.Annotations = map[string]string{legacyNote: "nodes"}
	}
	userFlags(cmd, &n.user)
	c.withTailnet(cmd, " (default: default; '*' lists all)")
	cmd.AddCommand(n.list(), n.show(), n.register(), n.expire(), n.rename(), n.delete(), n.authorize(), n.tag(), n.move(), n.setIP(),
		n.listRoutes(), n.approveRoutes(), n.backfill(), nestedRoutes(n))
	return cmd
}

// nodes are the commands of the group with what its flags said.
type nodes struct {
	*cli
	noun string // "Node", or "Machine" for scripts that look for it
	user string
	ref  string // the node, as given with -i
}

// which gives a command the flag -i and, with it, the node that flag or argument name.
func (n *nodes) which(cmd *cobra.Command) {
	cmd.Flags().StringVarP(&n.ref, "identifier", "i", "", "`ID` or name of the node")
}

// one runs do with the ID of the node that -i or the argument names.
func (n *nodes) one(ctx context.Context, args []string, do func(context.Context, client, uint64) error) error {
	ref := n.ref
	if len(args) > 0 {
		if ref != "" {
			return errors.New("say the node once: as an argument or with -i")
		}
		ref = args[0]
	}
	if ref == "" {
		return errors.New("say which node, with -i ID: headscale nodes list shows the IDs")
	}
	return n.ask(ctx, func(ctx context.Context, server client) error {
		id, err := n.nodeID(ctx, server, ref)
		if err != nil {
			return err
		}
		return do(ctx, server, id)
	})
}

// nodeID reads an ID, or finds the node of that name.
func (c *cli) nodeID(ctx context.Context, server client, ref string) (uint64, error) {
	if id, err := strconv.ParseUint(ref, 10, 64); err == nil {
		return id, nil
	}
	resp, err := server.ListNodes(ctx, &headscalev1.ListNodesRequest{Tailnet: c.tailnet})
	if err != nil {
		return 0, err
	}
	for _, node := range resp.GetNodes() {
		if node.GetGivenName() == ref {
			return node.GetId(), nil
		}
	}
	return 0, fmt.Errorf("there is no node %q: see headscale nodes list", ref)
}

func (n *nodes) list() *cobra.Command {
	var waiting bool
	cmd := &cobra.Command{
		Use:     "list",
		Aliases: []string{"ls"},
		Short:   "list nodes",
		Args:    exactly(0, ""),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return n.ask(cmd.Context(), func(ctx context.Context, server client) error {
				resp, err := server.ListNodes(ctx, &headscalev1.ListNodesRequest{User: n.user, Tailnet: n.tailnet})
				if err != nil {
					return err
				}
				nodes := resp.GetNodes()
				if waiting {
					nodes = slices.DeleteFunc(nodes, func(node *headscalev1.Node) bool { return !node.GetUnauthorized() })
				}
				return showList(n.cli, nodes, n.table(nodes))
			})
		},
	}
	cmd.Flags().BoolVar(&waiting, "unauthorized", false, "those alone that wait to be authorized")
	cmd.Flags().BoolP("tags", "t", false, "show tags, which is always so")
	hide(cmd.Flags(), "tags")
	return cmd
}

func (n *nodes) table(nodes []*headscalev1.Node) *table {
	t := newTable("ID", "Hostname", "Name", "MachineKey", "NodeKey", "User", "Tags", "IP addresses", "Ephemeral",
		"Last seen", "Expiration", "Connected", "Expired")
	if n.tailnet == "*" {
		t.head = append(t.head, "Tailnet")
	}
	for _, node := range nodes {
		row := []string{
			strconv.FormatUint(node.GetId(), 10),
			node.GetName(),
			node.GetGivenName(),
			shortMachineKey(node.GetMachineKey()),
			shortNodeKey(node.GetNodeKey()),
			node.GetUser().GetName(),
			list(node.GetTags()),
			list(node.GetIpAddresses()),
			strconv.FormatBool(node.GetEphemeral()),
			lastSeen(node),
			when(node.GetExpiry(), "never"),
			online(node),
			yesNo(node.GetExpired()),
		}
		if n.tailnet == "*" {
			row = append(row, node.GetTailnet())
		}
		t.add(row...)
	}
	return t
}

func lastSeen(n *headscalev1.Node) string {
	if n.GetOnline() {
		return "now"
	}
	return when(n.GetLastSeen(), "never")
}

func online(n *headscalev1.Node) string {
	if n.GetOnline() {
		return "online"
	}
	return "offline"
}

// shortMachineKey is the key as logs of clients show it.
func shortMachineKey(text string) string {
	var k key.MachinePublic
	if err := k.UnmarshalText([]byte(text)); err != nil {
		return text
	}
	return k.ShortString()
}

func shortNodeKey(text string) string {
	var k key.NodePublic
	if err := k.UnmarshalText([]byte(text)); err != nil {
		return text
	}
	return k.ShortString()
}

func (n *nodes) show() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "show [NODE]",
		Aliases: []string{"get"},
		Short:   "show all about a node; without a node, list them",
		Args:    atMost(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 && n.ref == "" {
				return n.list().RunE(cmd, nil)
			}
			return n.one(cmd.Context(), args, func(ctx context.Context, server client, id uint64) error {
				resp, err := server.GetNode(ctx, &headscalev1.GetNodeRequest{NodeId: id})
				if err != nil {
					return err
				}
				return n.cli.show(nodeFacts(resp.GetNode()), resp.GetNode())
			})
		},
	}
	n.which(cmd)
	return cmd
}

// nodeFacts is a node for people, one fact a line.
func nodeFacts(n *headscalev1.Node) string {
	facts := [][2]string{
		{"ID", strconv.FormatUint(n.GetId(), 10)},
		{"Name", n.GetGivenName()},
		{"Hostname", n.GetName()},
		{"Tailnet", n.GetTailnet()},
		{"User", n.GetUser().GetName()},
		{"Tags", list(n.GetTags())},
		{"IP addresses", list(n.GetIpAddresses())},
		{"Connected", online(n)},
		{"Last seen", lastSeen(n)},
		{"Key expires", when(n.GetExpiry(), "never")},
		{"Key expired", yesNo(n.GetExpired())},
		{"Authorized", yesNo(!n.GetUnauthorized())},
		{"Ephemeral", yesNo(n.GetEphemeral())},
		{"Registered", when(n.GetCreatedAt(), "")},
		{"System", n.GetOs()},
		{"Client", n.GetClientVersion()},
		{"Home DERP", strconv.Itoa(int(n.GetHomeDerp()))},
		{"Endpoints", list(n.GetEndpoints())},
		{"Routes announced", list(n.GetAvailableRoutes())},
		{"Routes approved", list(n.GetApprovedRoutes())},
		{"Routes served", list(n.GetSubnetRoutes())},
		{"Machine key", n.GetMachineKey()},
		{"Node key", n.GetNodeKey()},
	}
	text := ""
	for i, f := range facts {
		if i > 0 {
			text += "\n"
		}
		text += fmt.Sprintf("%-17s %s", f[0]+":", firstOf(oneLine(f[1]), "-"))
	}
	return text
}

func (n *nodes) register() *cobra.Command {
	var ref string
	cmd := &cobra.Command{
		Use:     "register",
		Short:   "let in a client that shows a registration key (also: auth register)",
		Example: `headscale nodes register --user alice --key hskey-authreq-0123456789abcdef01234567`,
		Args:    exactly(0, ""),
		RunE: func(cmd *cobra.Command, _ []string) error {
			// The guide of 0.15 says -n, and scripts of its time look for its words.
			old := n.noun == "Machine" || cmd.Flags().Changed("namespace")
			return n.cli.register(cmd.Context(), n.user, ref, "--key", old)
		},
	}
	cmd.Flags().StringVarP(&ref, "key", "k", "", "registration `key` that the client's page shows")
	return cmd
}

// register lets in a client.
func (c *cli) register(ctx context.Context, user, ref, flag string, old bool) error {
	switch {
	case user == "":
		return errors.New("say whose node it will be: --user USER")
	case ref == "":
		return fmt.Errorf("say the registration key that the client's page shows: %s KEY", flag)
	}
	return c.ask(ctx, func(ctx context.Context, server client) error {
		resp, err := server.RegisterNode(ctx, &headscalev1.RegisterNodeRequest{User: user, Key: ref, Tailnet: c.tailnet})
		if err != nil {
			return err
		}
		said := fmt.Sprintf("Node %s registered", oneLine(resp.GetNode().GetGivenName()))
		if old {
			said = "Machine registered: " + said
		}
		return c.show(said, resp.GetNode())
	})
}
