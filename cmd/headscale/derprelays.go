package main

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	headscalev1 "github.com/keelscale/keelscale/proto/headscale/v1"
)

func (c *cli) derpList() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "list",
		Aliases: []string{"ls", "show"},
		Short:   "list the relays that enrolled, and those inside servers, with how they do",
		Args:    exactly(0, ""),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return c.ask(cmd.Context(), func(ctx context.Context, server client) error {
				resp, err := server.ListRelays(ctx, &headscalev1.ListRelaysRequest{Tailnet: c.tailnet})
				if err != nil {
					return err
				}
				return showList(c, resp.GetRelays(), relayList(resp.GetRelays(), time.Now()))
			})
		},
	}
	c.withTailnet(cmd, " whose nodes they serve (default: all)")
	return cmd
}

// relayList is a table of relays as they are at a time.
func relayList(relays []*headscalev1.Relay, now time.Time) *table {
	t := newTable("ID", "Name", "Region", "Address", "Certificate until", "Clients", "Sent today", "This month", "Latency", "Health")
	ofOne := false
	for _, r := range relays {
		ofOne = ofOne || r.GetTailnet() != ""
	}
	if ofOne {
		t.head = append(t.head, "Tailnet")
	}
	for _, r := range relays {
		row := []string{
			"-",
			r.GetName(),
			fmt.Sprintf("%d %s", r.GetRegionId(), r.GetRegionCode()),
			firstOf(list(r.GetPublished()), "-"),
			certificateEnd(r, now),
			relayClients(r),
			size(r.GetToday().GetSent()), size(r.GetMonth().GetSent()),
			relayLatency(r),
			relayHealth(r),
		}
		if !r.GetEmbedded() {
			row[0] = strconv.FormatUint(r.GetId(), 10)
		}
		if ofOne {
			row = append(row, firstOf(r.GetTailnet(), "all"))
		}
		t.add(row...)
	}
	return t
}

// certificateEnd is the day on which the published certificate ends.
func certificateEnd(r *headscalev1.Relay, now time.Time) string {
	if len(r.GetCertificates()) == 0 || r.GetCertificates()[0].GetExpires() == nil {
		return "-"
	}
	end := r.GetCertificates()[0].GetExpires().AsTime()
	day := end.Local().Format(time.DateOnly)
	switch left := end.Sub(now); {
	case left <= 0:
		return day + ", expired"
	case left < 72*time.Hour:
		return fmt.Sprintf("%s, %d h left", day, int(left.Hours()))
	}
	return day
}

// relayClients is how many there are; of a relay that is not connected nobody knows.
func relayClients(r *headscalev1.Relay) string {
	if r.GetSeenAt() == nil || !r.GetOnline() {
		return "-"
	}
	return strconv.FormatUint(r.GetClients(), 10)
}

func relayLatency(r *headscalev1.Relay) string {
	switch ms := r.GetLatencyMs(); {
	case r.GetLatencyNodes() == 0:
		return "-"
	case ms < 10:
		return fmt.Sprintf("%.1f ms", ms)
	default:
		return fmt.Sprintf("%.0f ms", ms)
	}
}

// relayHealth is how a relay does, the worst first.
func relayHealth(r *headscalev1.Relay) string {
	var is []string
	if !r.GetHealthy() || r.GetOutBecause() != "" {
		is = append(is, "out of the map: "+firstOf(r.GetOutBecause(), "it is not well"))
	}
	if !r.GetOnline() && !r.GetEmbedded() {
		is = append(is, "not connected to the server")
	}
	if r.GetDraining() {
		is = append(is, "draining")
	}
	is = append(is, r.GetTroubles()...)
	if len(is) == 0 {
		return "healthy"
	}
	return list(is)
}

// size shows bytes for people: 1.2 GiB.
func size(bytes uint64) string {
	if bytes < 1024 {
		return fmt.Sprintf("%d B", bytes)
	}
	value, unit := float64(bytes), -1
	for value >= 1024 || math.Round(value*10) >= 10240 {
		value /= 1024
		unit++
	}
	return fmt.Sprintf("%.1f %ciB", value, "KMGTPE"[unit])
}

func (c *cli) derpDrain() *cobra.Command {
	req := &headscalev1.DrainRelayRequest{}
	cmd := &cobra.Command{
		Use:     "drain RELAY",
		Short:   "have a relay take nobody new and send its clients elsewhere",
		Example: "headscale derp drain home-1\nheadscale derp drain home-1 --undo",
		Args:    exactly(1, "which relay, by ID or name"),
		RunE: func(cmd *cobra.Command, args []string) error {
			req.Relay = args[0]
			return c.ask(cmd.Context(), func(ctx context.Context, server client) error {
				resp, err := server.DrainRelay(ctx, req)
				if err != nil {
					return err
				}
				said := "Relay %s drains: it takes nobody new and sends its clients elsewhere"
				if req.Undo {
					said = "Relay %s takes clients again"
				}
				return c.show(fmt.Sprintf(said, oneLine(resp.GetRelay().GetName())), resp.GetRelay())
			})
		},
	}
	cmd.Flags().BoolVar(&req.Undo, "undo", false, "take clients again")
	return cmd
}

func (c *cli) derpRename() *cobra.Command {
	req := &headscalev1.RenameRelayRequest{}
	cmd := &cobra.Command{
		Use:     "rename RELAY [NAME]",
		Short:   "give a relay or its region another name, or move it to another region",
		Example: "headscale derp rename 1 attic\nheadscale derp rename attic --region home --region-name 'Home, Berlin'",
		RunE: func(cmd *cobra.Command, args []string) error {
			req.Relay = args[0]
			if len(args) == 2 {
				req.Name = args[1]
			}
			if req.Name == "" && req.Region == "" && req.RegionName == "" {
				return errors.New("say what shall be called otherwise: a name behind the relay, --region or --region-name")
			}
			return c.ask(cmd.Context(), func(ctx context.Context, server client) error {
				resp, err := server.RenameRelay(ctx, req)
				if err != nil {
					return err
				}
				r := resp.GetRelay()
				return c.show(oneLine(fmt.Sprintf("Relay %d is %s in region %d %s (%s)", r.GetId(), r.GetName(), r.GetRegionId(), r.GetRegionCode(), r.GetRegionName())), r)
			})
		},
	}
	cmd.Args = func(cmd *cobra.Command, args []string) error {
		if len(args) == 0 {
			return exactly(1, "which relay, by ID or name")(cmd, args)
		}
		return atMost(2)(cmd, args)
	}
	f := cmd.Flags()
	f.StringVar(&req.Region, "region", "", "`code` of the region that it moves to, like home")
	f.StringVar(&req.RegionName, "region-name", "", "`name` of its region, for people")
	return cmd
}

func (c *cli) derpRemove() *cobra.Command {
	return &cobra.Command{
		Use:     "remove RELAY",
		Aliases: []string{"delete", "rm", "del"},
		Short:   "forget a relay, which then serves nobody",
		Args:    exactly(1, "which relay, by ID or name"),
		RunE: func(cmd *cobra.Command, args []string) error {
			ok, err := c.confirm("Do you want to remove the relay %q? To come back it needs a new key", args[0])
			if err != nil {
				return err
			}
			if !ok {
				return c.say("Relay not removed")
			}
			return c.ask(cmd.Context(), func(ctx context.Context, server client) error {
				resp, err := server.RemoveRelay(ctx, &headscalev1.RemoveRelayRequest{Relay: args[0]})
				if err != nil {
					return err
				}
				return c.show("Relay removed", resp)
			})
		},
	}
}
