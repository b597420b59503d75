package hscontrol

import (
	"fmt"
	"os"

	"tailscale.com/tailcfg"

	"github.com/keelscale/keelscale/hscontrol/config"
	"github.com/keelscale/keelscale/hscontrol/control"
	"github.com/keelscale/keelscale/hscontrol/state"
)

// settingsOf is the part of the configuration that nodes are told.
func settingsOf(cfg *config.Config) (*state.Settings, error) {
	records, err := extraRecords(cfg)
	if err != nil {
		return nil, err
	}
	return &state.Settings{
		BaseDomain:          cfg.DNS.BaseDomain,
		MagicDNS:            cfg.DNS.MagicDNS,
		OverrideLocalDNS:    cfg.DNS.OverrideLocalDNS,
		Nameservers:         cfg.DNS.Nameservers.Global,
		SplitDNS:            cfg.DNS.Nameservers.Split,
		SearchDomains:       cfg.DNS.SearchDomains,
		ExtraRecords:        records,
		PrefixV4:            cfg.Prefixes.V4,
		PrefixV6:            cfg.Prefixes.V6,
		Taildrop:            cfg.TaildropEnabled,
		Logtail:             cfg.LogtailEnabled,
		AutoUpdate:          cfg.AutoUpdateEnabled,
		RandomizeClientPort: cfg.RandomizeClientPort,
		NoRelays:            !cfg.DERP.Relays.Enabled,
	}, nil
}

// relayRules is the part of the configuration that relays are told, those that enrol and the one inside this server.
func relayRules(cfg *config.Config) *control.RelayRules {
	bound := func(b config.Bound) control.RelayBound {
		return control.RelayBound{Rate: uint64(b.Rate), Burst: uint64(b.Burst)}
	}
	limits, relays := cfg.DERP.Limits, cfg.DERP.Relays
	r := &control.RelayRules{
		Off:     !relays.Enabled,
		PerNode: bound(limits.PerNode), PerTag: map[string]control.RelayBound{}, Total: bound(limits.Total),
		MonthlyQuota: uint64(limits.MonthlyQuota), ConnectionsPerSecond: float64(limits.ConnectionsPerSecond),
		Outage: relays.Outage, ProbeEvery: relays.ProbeInterval, ProbeTime: relays.ProbeTimeout,
	}
	for tag, b := range limits.PerTag {
		r.PerTag[tag] = bound(b)
	}
	return r
}

func extraRecords(cfg *config.Config) ([]tailcfg.DNSRecord, error) {
	records := cfg.DNS.ExtraRecords
	if cfg.DNS.ExtraRecordsPath != "" {
		var err error
		if records, err = cfg.DNS.ReadRecords(); err != nil {
			return nil, err
		}
	}
	var out []tailcfg.DNSRecord
	for _, r := range records {
		out = append(out, tailcfg.DNSRecord{Name: r.Name, Type: r.Type, Value: r.Value.String()})
	}
	return out, nil
}

func readBounded(path string, limit int64) ([]byte, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if info.Size() > limit {
		return nil, fmt.Errorf("%s is larger than %d bytes", path, limit)
	}
	return os.ReadFile(path)
}
