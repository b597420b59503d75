package main

import (
	"bytes"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	headscalev1 "github.com/keelscale/keelscale/proto/headscale/v1"
)

func TestRelayList(t *testing.T) {
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	until := func(d time.Duration) []*headscalev1.RelayCertificate {
		return []*headscalev1.RelayCertificate{{Expires: timestamppb.New(now.Add(d))}}
	}
	relays := []*headscalev1.Relay{
		{Name: "embedded", RegionId: 999, RegionCode: "headscale", Embedded: true, Online: true, Healthy: true, Clients: 4, SeenAt: timestamppb.New(now),
			Today: &headscalev1.RelayTraffic{Sent: 5 << 20}, Month: &headscalev1.RelayTraffic{Sent: 1 << 30}},
		{Id: 1, Name: "home-1", RegionId: 901, RegionCode: "home", Published: []string{"203.0.113.7:443", "[2001:db8::7]:443"},
			Certificates: until(90 * 24 * time.Hour), Online: true, Healthy: true, Clients: 12, SeenAt: timestamppb.New(now),
			Today: &headscalev1.RelayTraffic{Sent: 1288490189}, Month: &headscalev1.RelayTraffic{Sent: 1 << 40}, LatencyMs: 8.25, LatencyNodes: 7},
		{Id: 2, Name: "home-2", RegionId: 901, RegionCode: "home", Certificates: until(24 * time.Hour), Draining: true,
			OutBecause: "it does not answer at 203.0.113.8:443", SeenAt: timestamppb.New(now), Clients: 3, LatencyMs: 81.6, LatencyNodes: 1},
		{Id: 3, Name: "fra", RegionId: 902, RegionCode: "fra", Tailnet: "lab", Certificates: until(-time.Hour), Online: true, Healthy: true, Troubles: []string{"evil\x1b[31m"}},
	}
	want := "" +
		"ID | Name     | Region        | Address                            | Certificate until     | Clients | Sent today | This month | Latency | Health                                                                                       | Tailnet\n" +
		"-  | embedded | 999 headscale | -                                  | -                     | 4       | 5.0 MiB    | 1.0 GiB    | -       | healthy                                                                                      | all\n" +
		"1  | home-1   | 901 home      | 203.0.113.7:443, [2001:db8::7]:443 | 2026-05-30            | 12      | 1.2 GiB    | 1.0 TiB    | 8.2 ms  | healthy                                                                                      | all\n" +
		"2  | home-2   | 901 home      | -                                  | 2026-03-02, 24 h left | -       | 0 B        | 0 B        | 82 ms   | out of the map: it does not answer at 203.0.113.8:443, not connected to the server, draining | all\n" +
		"3  | fra      | 902 fra       | -                                  | 2026-03-01, expired   | -       | 0 B        | 0 B        | -       | evil?[31m                                                                                    | lab\n"
	var out bytes.Buffer
	if err := relayList(relays, now).write(&out, false); err != nil {
		t.Fatal(err)
	}
	if got := out.String(); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

func TestSize(t *testing.T) {
	for bytes, want := range map[uint64]string{
		0: "0 B", 1023: "1023 B", 1024: "1.0 KiB", 1536: "1.5 KiB", 1<<20 - 1: "1.0 MiB", 1288490189: "1.2 GiB", 1 << 50: "1.0 PiB", 1<<64 - 1: "16.0 EiB",
	} {
		if got := size(bytes); got != want {
			t.Errorf("%d: got %q, want %q", bytes, got, want)
		}
	}
}
