package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"

	"github.com/spf13/cobra"

	headscalev1 "github.com/keelscale/keelscale/proto/headscale/v1"
)

// routesCommand is the group routes in its two older forms: by node and prefix (0.15: enable -i 6 -r 10.0.0.0/8), and
// by the number of the route (0.18 to 0.25: enable -r 61234). Today's form is nodes approve-routes.
func (c *cli) routesCommand() *cobra.Command {
	r := &routes{cli: c}
	cmd := group(&cobra.Command{
		Use:     "routes",
		Aliases: []string{"route", "r"},
		Short:   "the subnet and exit routes that nodes announce",
		Long: `Routes that nodes announce serve nobody until they are enabled.
A route is named by its node and prefix (-i 6 -r 10.0.0.0/8) or by its ID (-r 61234), as headscale routes list shows them.`,
	})
	c.withTailnet(cmd, " (default: default; '*' lists all)")
	f := cmd.PersistentFlags()
	f.StringP("namespace", "n", "", "not needed: routes belong to nodes")
	hide(f, "namespace")
	r.fill(cmd)
	return cmd
}

// nestedRoutes is the same below nodes, as in 0.15; alone it is list-routes, as today.
func nestedRoutes(n *nodes) *cobra.Command {
	r := &routes{cli: n.cli}
	cmd := n.listRoutes()
	cmd.Use, cmd.Aliases, cmd.Hidden = "routes", []string{"route", "r"}, true
	cmd.Annotations = map[string]string{legacyNote: "list-routes"}
	r.fill(cmd)
	return cmd
}

type routes struct {
	*cli
	node   string
	routes []string
	all    bool
}

func (r *routes) fill(cmd *cobra.Command) {
	cmd.AddCommand(r.list(), r.enable(), r.disable(), r.delete())
}

func (r *routes) flags(cmd *cobra.Command, act string) {
	cmd.Flags().StringVarP(&r.node, "identifier", "i", "", "`ID` or name of the node")
	if act != "" {
		cmd.Flags().StringSliceVarP(&r.routes, "route", "r", nil, "`routes` to "+act+": prefixes with -i, or IDs of routes")
	}
}

func (r *routes) list() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "list",
		Aliases: []string{"ls", "show"},
		Short:   "list the routes of all nodes, or of one",
		Args:    exactly(0, ""),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return r.ask(cmd.Context(), func(ctx context.Context, server client) error {
				if r.node != "" {
					id, err := r.nodeID(ctx, server, r.node)
					if err != nil {
						return err
					}
					return r.showNode(ctx, server, id)
				}
				resp, err := server.GetRoutes(ctx, &headscalev1.GetRoutesRequest{Tailnet: r.tailnet})
				if err != nil {
					return err
				}
				return r.print(resp.GetRoutes())
			})
		},
	}
	r.flags(cmd, "")
	return cmd
}

func (r *routes) showNode(ctx context.Context, server client, id uint64) error {
	resp, err := server.GetNodeRoutes(ctx, &headscalev1.GetNodeRoutesRequest{NodeId: id})
	if err != nil {
		return err
	}
	return r.print(resp.GetRoutes())
}

func (r *routes) print(routes []*headscalev1.Route) error {
	t := newTable("ID", "Node", "Prefix", "Advertised", "Enabled", "Primary")
	if r.compat == compat015 {
		t = newTable("Route", "Enabled")
	}
	for _, route := range routes {
		row := []string{
			strconv.FormatUint(route.GetId(), 10),
			route.GetNode().GetGivenName(),
			route.GetPrefix(),
			strconv.FormatBool(route.GetAdvertised()),
			strconv.FormatBool(route.GetEnabled()),
			primary(route),
		}
		if r.compat == compat015 {
			row = []string{row[2], row[4]}
		}
		t.add(row...)
	}
	return showList(r.cli, routes, t)
}

// primary is about subnet routes: everyone who uses an exit node has chosen it.
func primary(r *headscalev1.Route) string {
	if p, err := netip.ParsePrefix(r.GetPrefix()); err == nil && p.Bits() == 0 {
		return "-"
	}
	return strconv.FormatBool(r.GetIsPrimary())
}

func (r *routes) enable() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "enable",
		Short:   "enable routes; with -i, these and no others of the node",
		Example: `headscale routes enable -i 6 -r 192.168.100.0/24`,
		Args:    exactly(0, ""),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return r.change(cmd.Context(), func(ctx context.Context, server client, id uint64) error {
				_, err := server.EnableRoute(ctx, &headscalev1.EnableRouteRequest{RouteId: id})
				return err
			}, func(_, given []string) []string { return given })
		},
	}
	r.flags(cmd, "enable")
	cmd.Flags().BoolVarP(&r.all, "all", "a", false, "all routes that the node announces")
	return cmd
}

func (r *routes) disable() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "disable",
		Short: "disable routes",
		Args:  exactly(0, ""),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return r.change(cmd.Context(), func(ctx context.Context, server client, id uint64) error {
				_, err := server.DisableRoute(ctx, &headscalev1.DisableRouteRequest{RouteId: id})
				return err
			}, remove)
		},
	}
	r.flags(cmd, "disable")
	cmd.Flags().BoolVarP(&r.all, "all", "a", false, "all routes of the node")
	return cmd
}

func (r *routes) delete() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "delete",
		Short: "disable routes; they are listed for as long as the node announces them",
		Args:  exactly(0, ""),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return r.change(cmd.Context(), func(ctx context.Context, server client, id uint64) error {
				_, err := server.DeleteRoute(ctx, &headscalev1.DeleteRouteRequest{RouteId: id})
				return err
			}, remove)
		},
	}
	r.flags(cmd, "delete")
	return cmd
}

// remove is approved less given; the exit routes go as a pair.
func remove(approved, given []string) []string {
	gone := slices.Clone(given)
	if slices.Contains(gone, "0.0.0.0/0") || slices.Contains(gone, "::/0") {
		gone = append(gone, "0.0.0.0/0", "::/0")
	}
	return slices.DeleteFunc(slices.Clone(approved), func(p string) bool { return slices.Contains(gone, p) })
}

// change changes routes by their IDs, one by one, or the set of a node by prefixes, at once.
func (r *routes) change(ctx context.Context, one func(context.Context, client, uint64) error, set func(approved, given []string) []string) error {
	ids, prefixes, err := splitRoutes(r.routes)
	switch {
	case err != nil:
		return err
	case len(ids)+len(prefixes) == 0 && !r.all:
		return errors.New("say which routes, with -r: headscale routes list shows them")
	case len(ids) > 0 && len(prefixes) > 0:
		return errors.New("say routes by their IDs or by their prefixes, not both at once")
	case (len(prefixes) > 0 || r.all) && r.node == "":
		return errors.New("a prefix needs its node, with -i ID: headscale nodes list shows the IDs")
	}
	return r.ask(ctx, func(ctx context.Context, server client) error {
		if len(ids) > 0 {
			return r.changeByID(ctx, server, ids, one)
		}
		id, err := r.nodeID(ctx, server, r.node)
		if err != nil {
			return err
		}
		resp, err := server.GetNode(ctx, &headscalev1.GetNodeRequest{NodeId: id})
		if err != nil {
			return err
		}
		if r.all {
			prefixes = slices.Concat(resp.GetNode().GetAvailableRoutes(), resp.GetNode().GetApprovedRoutes())
		}
		approved := set(resp.GetNode().GetApprovedRoutes(), prefixes)
		if _, err := server.SetApprovedRoutes(ctx, &headscalev1.SetApprovedRoutesRequest{NodeId: id, Routes: approved}); err != nil {
			return err
		}
		return r.showNode(ctx, server, id)
	})
}

func (r *routes) changeByID(ctx context.Context, server client, ids []uint64, one func(context.Context, client, uint64) error) error {
	for _, id := range ids {
		if err := one(ctx, server, id); err != nil {
			return err
		}
	}
	resp, err := server.GetRoutes(ctx, &headscalev1.GetRoutesRequest{Tailnet: "*"})
	if err != nil {
		return err
	}
	return r.print(slices.DeleteFunc(resp.GetRoutes(), func(route *headscalev1.Route) bool {
		return !slices.Contains(ids, route.GetId())
	}))
}

// splitRoutes tells IDs from prefixes.
func splitRoutes(words []string) (ids []uint64, prefixes []string, err error) {
	for _, w := range words {
		if id, err := strconv.ParseUint(w, 10, 64); err == nil {
			ids = append(ids, id)
		} else if p, err := netip.ParsePrefix(w); err == nil {
			prefixes = append(prefixes, p.String())
		} else {
			return nil, nil, fmt.Errorf("%q is no route: write a prefix like 192.168.100.0/24, or the ID of a route", w)
		}
	}
	return ids, prefixes, nil
}

// listRoutes shows the routes of nodes, a node a line.
func (n *nodes) listRoutes() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "list-routes",
		Aliases: []string{"lsr"},
		Short:   "list the routes of nodes: approved, announced, served",
		Args:    cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				return unknownCommand(cmd, args[0])
			}
			return n.ask(cmd.Context(), func(ctx context.Context, server client) error {
				list, err := n.withRoutes(ctx, server)
				if err != nil {
					return err
				}
				return showList(n.cli, list, routeTable(list))
			})
		},
	}
	n.which(cmd)
	return cmd
}

// withRoutes is the node that was asked for, or all that have routes.
func (n *nodes) withRoutes(ctx context.Context, server client) ([]*headscalev1.Node, error) {
	if n.ref != "" {
		id, err := n.nodeID(ctx, server, n.ref)
		if err != nil {
			return nil, err
		}
		resp, err := server.GetNode(ctx, &headscalev1.GetNodeRequest{NodeId: id})
		return []*headscalev1.Node{resp.GetNode()}, err
	}
	resp, err := server.ListNodes(ctx, &headscalev1.ListNodesRequest{User: n.user, Tailnet: n.tailnet})
	return slices.DeleteFunc(resp.GetNodes(), func(n *headscalev1.Node) bool {
		return len(n.GetAvailableRoutes())+len(n.GetApprovedRoutes()) == 0
	}), err
}

func routeTable(nodes []*headscalev1.Node) *table {
	t := newTable("ID", "Hostname", "Approved", "Available", "Serving (Primary)")
	for _, n := range nodes {
		t.add(strconv.FormatUint(n.GetId(), 10), n.GetGivenName(), list(n.GetApprovedRoutes()), list(n.GetAvailableRoutes()), list(n.GetSubnetRoutes()))
	}
	return t
}

func (n *nodes) approveRoutes() *cobra.Command {
	var routes []string
	cmd := &cobra.Command{
		Use:     "approve-routes [NODE]",
		Short:   "replace the set of routes that a node may serve; an empty set withdraws all",
		Example: `headscale nodes approve-routes -i 6 -r 192.168.100.0/24,10.0.0.0/8`,
		Args:    atMost(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if !cmd.Flags().Changed("routes") {
				return errors.New(`say the routes, with -r 10.0.0.0/8,192.168.0.0/24; -r "" withdraws all`)
			}
			routes = slices.DeleteFunc(routes, func(r string) bool { return r == "" })
			return n.one(cmd.Context(), args, func(ctx context.Context, server client, id uint64) error {
				resp, err := server.SetApprovedRoutes(ctx, &headscalev1.SetApprovedRoutesRequest{NodeId: id, Routes: routes})
				if err != nil {
					return err
				}
				return n.cli.show(n.noun+" updated", resp.GetNode())
			})
		},
	}
	n.which(cmd)
	cmd.Flags().StringSliceVarP(&routes, "routes", "r", nil, "the `prefixes`; one exit route stands for both")
	return cmd
}
