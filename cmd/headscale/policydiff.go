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

func (c *cli) policyDiff() *cobra.Command {
	var p proposal
	var version uint64
	var failOnLoss bool
	cmd := &cobra.Command{
		Use:   "diff [OLD] NEW",
		Short: "show what another policy would change for whom",
		Long: `Compares the policy in force with the one in the file NEW, or with an older version, held against the nodes as they
are: who gains and loses which ports of whom, logins by SSH, routes, capabilities, approvals. Nothing is changed. With
--inventory both policies are files, and no server is asked. The exit code is 1 when NEW is refused, or with
--fail-on-loss when anybody loses anything, and 2 when there is no answer.`,
		Example: "headscale policy diff new.hujson --fail-on-loss",
		Args:    atMost(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			resp, err := c.compare(cmd.Context(), p, version, args)
			if err == nil {
				err = c.showChanges(resp)
			}
			if err == nil && failOnLoss && resp.GetLoss() {
				err = told{errors.New("somebody would lose something")}
			}
			return orNoAnswer(err)
		},
	}
	cmd.Flags().StringVarP(&p.file, "policy", "f", "", "same as NEW")
	cmd.Flags().StringVar(&p.file, "file", "", "same as NEW")
	hide(cmd.Flags(), "policy")
	hide(cmd.Flags(), "file")
	p.inventoryFlag(cmd)
	cmd.Flags().Uint64Var(&version, "version", 0, "`number` of a version, in place of NEW: what would a rollback to it change?")
	cmd.Flags().BoolVar(&failOnLoss, "fail-on-loss", false, "exit with 1 when anybody can do less than before")
	return cmd
}

func (c *cli) compare(ctx context.Context, p proposal, version uint64, files []string) (resp *headscalev1.DiffPolicyResponse, err error) {
	if p.file != "" {
		files = append(files, p.file)
	}
	if p.inventory != "" {
		if len(files) != 2 || version != 0 {
			return nil, errors.New("with --inventory, say both files: headscale policy diff OLD NEW --inventory FILE")
		}
		list, snapshot, err := c.compileFiles(p.inventory, files...)
		if err != nil {
			return nil, err
		}
		return api.ChangesMessage(list[0].Policy(), list[1], snapshot)
	}
	req := &headscalev1.DiffPolicyRequest{Version: version, Tailnet: c.tailnet}
	switch {
	case len(files) > 1:
		return nil, errors.New("the policy in force is the old one: say one file, or compare two over the nodes of an --inventory")
	case len(files)+int(min(version, 1)) != 1:
		return nil, errors.New("say the file with the other policy, or a --version, one of the two: headscale policy diff NEW")
	case len(files) == 1:
		p.file = files[0]
		if req.Policy, err = c.proposedText(p); err != nil {
			return nil, err
		}
	}
	err = c.ask(ctx, func(ctx context.Context, server client) (err error) {
		resp, err = server.DiffPolicy(ctx, req)
		return err
	})
	return resp, err
}

func (c *cli) showChanges(d *headscalev1.DiffPolicyResponse) error {
	c.warnAll(d.GetWarnings())
	if d.GetRefusal() != "" {
		c.warn("policy set would refuse it: %s", d.GetRefusal())
	}
	if c.output != "" {
		return c.show("", d)
	}
	if !d.GetChanged() {
		return c.say("Nothing changes for anybody.")
	}
	for _, part := range []struct {
		title string
		table *table
	}{
		{"Packets", packetTable(d.GetPackets())},
		{"Logins by SSH", loginTable(d.GetLogins())},
		{"Routes", routeChangeTable(d.GetRoutes())},
		{"Capabilities", capTable(d.GetCaps())},
		{"Relays", regionTable(d.GetRegions())},
		{"Routes approved by themselves", approvalTable(d.GetApprovals())},
	} {
		if len(part.table.rows) == 0 {
			continue
		}
		if err := c.say("%s:", part.title); err != nil {
			return err
		}
		if err := part.table.write(c.out, c.colour()); err != nil {
			return err
		}
		if err := c.say(""); err != nil {
			return err
		}
	}
	if d.GetLoss() {
		return c.say("Somebody can do less than before.")
	}
	return c.say("Nobody can do less than before.")
}

// shownNames bounds a list of names in a table; programs get all.
const shownNames = 8

// several are names as a table shows them.
func several(names []string) string {
	if n := len(names); n > shownNames+1 {
		return fmt.Sprintf("%s and %d more", strings.Join(names[:shownNames], ", "), n-shownNames)
	}
	return strings.Join(names, ", ")
}

func direction(lost bool) string {
	if lost {
		return "- loses"
	}
	return "+ gains"
}

func packetTable(list []*headscalev1.PacketChange) *table {
	t := newTable("Change", "From", "To", "Protocols", "Ports")
	for _, p := range list {
		t.add(direction(p.GetLost()), several(p.GetFrom()), several(p.GetTo()), p.GetProtocols(), p.GetPorts())
	}
	return t
}

func loginTable(list []*headscalev1.LoginChange) *table {
	t := newTable("From", "To", "As", "Was", "Is")
	for _, l := range list {
		t.add(several(l.GetFrom()), several(l.GetTo()), l.GetLogin(), l.GetWas(), l.GetIs())
	}
	return t
}

func routeChangeTable(list []*headscalev1.RouteChange) *table {
	t := newTable("Change", "Nodes", "Route", "At")
	for _, r := range list {
		t.add(direction(r.GetLost()), several(r.GetFrom()), r.GetRoute(), r.GetRouter())
	}
	return t
}

func capTable(list []*headscalev1.CapChange) *table {
	t := newTable("Change", "Nodes", "Capability")
	for _, n := range list {
		t.add(direction(n.GetLost()), several(n.GetNodes()), n.GetCap())
	}
	return t
}

func regionTable(list []*headscalev1.RegionChange) *table {
	t := newTable("Change", "Nodes", "Region")
	for _, r := range list {
		t.add(direction(r.GetLost()), several(r.GetNodes()), r.GetRegion())
	}
	return t
}

func approvalTable(list []*headscalev1.RouteChange) *table {
	t := newTable("Change", "Router", "Route")
	for _, r := range list {
		t.add(direction(r.GetLost()), r.GetRouter(), r.GetRoute())
	}
	return t
}
