package main

import (
	"context"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"tailscale.com/tailcfg"

	headscalev1 "github.com/keelscale/keelscale/proto/headscale/v1"
)

func (c *cli) derpCommand() *cobra.Command {
	cmd := c.derpMap()
	cmd.Use, cmd.Example, cmd.Short = "derp", "", "relays: the map of them, and those that enrolled"
	cmd.Long = `Alone it shows the relays as clients get them. The commands below are about relays of your own that enrolled:
make a key with headscale derp enroll-keys create, and start derper with it.`
	run := cmd.RunE
	cmd.Args = cobra.ArbitraryArgs
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if len(args) > 0 {
			return unknownCommand(cmd, args[0])
		}
		return run(cmd, args)
	}
	cmd.AddCommand(c.derpMap(), c.derpList(), c.derpDrain(), c.derpRename(), c.derpRemove(), c.enrollKeysCommand())
	return cmd
}

func (c *cli) derpMap() *cobra.Command {
	var node string
	cmd := &cobra.Command{
		Use:     "map",
		Short:   "show all relays as clients get them",
		Example: "headscale derp map --node laptop",
		Args:    exactly(0, ""),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return c.ask(cmd.Context(), func(ctx context.Context, server client) (err error) {
				req := &headscalev1.GetDERPMapRequest{}
				if node != "" {
					if req.NodeId, err = c.nodeID(ctx, server, node); err != nil {
						return err
					}
				}
				resp, err := server.GetDERPMap(ctx, req)
				if err != nil {
					return err
				}
				return c.showMap(resp.GetJson())
			})
		},
	}
	cmd.Flags().StringVar(&node, "node", "", "`ID` or name of a node: show what it gets, by the rules of the policy's derpMap")
	return cmd
}

func (c *cli) showMap(text string) error {
	if c.output != "" {
		return c.write([]byte(text))
	}
	var m tailcfg.DERPMap
	if err := json.Unmarshal([]byte(text), &m); err != nil {
		return fmt.Errorf("reading the DERP map: %w", err)
	}
	return relayTable(&m).write(c.out, c.colour())
}

func relayTable(m *tailcfg.DERPMap) *table {
	t := newTable("Region", "Code", "Name", "Node", "Host", "IPv4", "IPv6", "DERP port", "STUN port", "Notes")
	for _, id := range m.RegionIDs() {
		r := m.Regions[id]
		if len(r.Nodes) == 0 {
			t.add(strconv.Itoa(id), r.RegionCode, r.RegionName, "-", "-", "-", "-", "-", "-", "no relay")
		}
		for _, n := range r.Nodes {
			t.add(strconv.Itoa(id), r.RegionCode, r.RegionName, n.Name, n.HostName, firstOf(n.IPv4, "-"), firstOf(n.IPv6, "-"),
				derpPort(n), stunPort(n), relayNotes(r, n))
		}
	}
	return t
}

func derpPort(n *tailcfg.DERPNode) string {
	switch {
	case n.STUNOnly:
		return "-"
	case n.DERPPort == 0:
		return "443"
	}
	return strconv.Itoa(n.DERPPort)
}

func stunPort(n *tailcfg.DERPNode) string {
	switch {
	case n.STUNPort < 0:
		return "-"
	case n.STUNPort == 0:
		return "3478"
	}
	return strconv.Itoa(n.STUNPort)
}

// relayNotes is what is out of the ordinary.
func relayNotes(r *tailcfg.DERPRegion, n *tailcfg.DERPNode) string {
	var notes []string
	for _, note := range []struct {
		on   bool
		text string
	}{
		{n.STUNOnly, "STUN only"},
		{r.Avoid, "avoided"},
		{r.NoMeasureNoHome, "nobody's home"},
		{n.InsecureForTests, "certificate not checked"},
		{strings.HasPrefix(n.CertName, "sha256-raw:"), "certificate pinned"},
		{n.CanPort80, "port 80"},
	} {
		if note.on {
			notes = append(notes, note.text)
		}
	}
	return list(notes)
}
