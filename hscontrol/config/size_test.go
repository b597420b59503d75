package config_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/keelscale/keelscale/hscontrol/config"
)

func TestLimits(t *testing.T) {
	got, warnings, err := config.Load(write(t, head+`
derp:
  limits:
    per_node: 2MB/s burst 8MB
    per_tag: {"tag:nas": 10 MiB, "tag:slow": "400kbit, burst 1MB"}
    total: 1Gbit/s
    monthly_quota: 1.5TiB
    connections_per_second: 50
`), []string{"HEADSCALE_DERP_LIMITS_PER_TAG={\"tag:nas\": 20MiB}", "HEADSCALE_DERP_RELAYS_OUTAGE=2d"})
	if err != nil || len(warnings) > 0 {
		t.Fatalf("got error %v and warnings %v, want none", err, warnings)
	}
	want := config.DERPLimits{
		PerNode:              config.Bound{Rate: 2e6, Burst: 8e6},
		PerTag:               map[string]config.Bound{"tag:nas": {Rate: 20 << 20}},
		Total:                config.Bound{Rate: 125e6},
		MonthlyQuota:         3 << 39,
		ConnectionsPerSecond: 50,
	}
	if diff := cmp.Diff(want, got.DERP.Limits); diff != "" {
		t.Errorf("got (+) other limits than wanted (-):\n%s", diff)
	}
	if got.DERP.Relays.Outage.Hours() != 48 {
		t.Errorf("got an outage of %v, want two days", got.DERP.Relays.Outage)
	}
}

func TestLimitsRefused(t *testing.T) {
	for text, want := range map[string]string{
		"limits: {per_node: fast}":             "bytes per second like 2MB",
		"limits: {per_node: burst 2MB}":        "bytes per second like 2MB",
		"limits: {per_node: 0 burst 2MB}":      "needs a rate",
		"limits: {per_node: 10}":               "did you mean 10MB?",
		"limits: {total: -1MB}":                "negative",
		"limits: {total: 0x10}":                "units are",
		"limits: {total: 99999999999TiB}":      "too much",
		"limits: {per_tag: {nas: 1MB}}":        "write tag:nas",
		"limits: {per_tag: [a]}":               "names with their values",
		"limits: {monthly_quota: 1 parsec}":    "a size like 500MB",
		"limits: {connections_per_second: -1}": "0 sets no bound",
		"limits: {per_user: 1MB}":              "unknown key",
		"relays: {outage: 5s}":                 "write 7d",
		"relays: {probe_interval: 10ms}":       "too often",
		"relays: {probe_timeout: 0}":           "write 3s",
	} {
		_, _, err := config.Load(write(t, head+"derp: {"+text+"}\n"), nil)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want it to say %q", text, err, want)
		}
	}
}
