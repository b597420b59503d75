package config_test

import (
	"reflect"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/keelscale/keelscale/hscontrol/config"
)

func TestChanges(t *testing.T) {
	for _, tt := range []struct {
		name          string
		change        func(c *config.Config)
		live, restart []string
	}{
		{name: "nothing", change: func(c *config.Config) {}},
		{name: "none and empty", change: func(c *config.Config) { c.DERP.URLs, c.DNS.Nameservers.Split = []string{}, map[string][]string{} }},
		{name: "another file", change: func(c *config.Config) { c.File = "/other" }},
		{
			name: "live",
			change: func(c *config.Config) {
				c.Policy.Path = "/p"
				c.DNS.MagicDNS = false
				c.DNS.Nameservers.Global = []string{"1.1.1.1"}
				c.DERP.UpdateFrequency++
				c.Log.Level = "debug"
				c.TLS.KeyPath = "/k"
			},
			live: []string{"derp.update_frequency", "tls_key_path", "log.level", "policy.path", "dns.magic_dns", "dns.nameservers.global"},
		},
		{
			name: "both",
			change: func(c *config.Config) {
				c.ListenAddr = ":1"
				c.Prefixes.V4 = c.Prefixes.V6
				c.DNS.ExtraRecordsPath = "/r"
			},
			live:    []string{"dns.extra_records_path"},
			restart: []string{"listen_addr", "prefixes.v4"},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			older, newer := config.Default("/d"), config.Default("/d")
			tt.change(newer)
			live, restart := config.Changes(older, newer)
			if diff := cmp.Diff(tt.live, live); diff != "" {
				t.Errorf("got (+) other live keys than wanted (-):\n%s", diff)
			}
			if diff := cmp.Diff(tt.restart, restart); diff != "" {
				t.Errorf("got (+) other keys for a restart than wanted (-):\n%s", diff)
			}
		})
	}
}

// What can be applied live is a promise to people who edit the file under a running server.
func TestLiveKeys(t *testing.T) {
	live, restart := config.Changes(&config.Config{}, everythingSet())
	want := []string{"derp.urls", "derp.paths", "derp.auto_update_enabled", "derp.update_frequency",
		"derp.limits.per_node", "derp.limits.per_tag", "derp.limits.total", "derp.limits.monthly_quota", "derp.limits.connections_per_second",
		"derp.relays.enabled", "derp.relays.outage", "derp.relays.probe_interval", "derp.relays.probe_timeout", "tls_cert_path", "tls_key_path",
		"log.level", "policy.mode", "policy.path", "dns.magic_dns", "dns.base_domain", "dns.override_local_dns", "dns.nameservers.global",
		"dns.nameservers.split", "dns.search_domains", "dns.extra_records", "dns.extra_records_path",
		"cors.allowed_origins", "ui.static_dirs", "audit.retention"}
	if diff := cmp.Diff(want, live); diff != "" {
		t.Errorf("got (+) other live keys than wanted (-):\n%s", diff)
	}
	if got := len(live) + len(restart); got != len(allKeys()) {
		t.Errorf("got %d changed keys, want all %d", got, len(allKeys()))
	}
}

// A reload takes what can be taken and leaves what is running alone.
func TestWithLive(t *testing.T) {
	was, next := config.Default("/d"), config.Default("/d")
	next.ListenAddr, next.Log.Level, next.DNS.BaseDomain = ":1", "debug", "new.example"
	got := config.WithLive(was, next)
	want := config.Default("/d")
	want.Log.Level, want.DNS.BaseDomain = "debug", "new.example"
	if diff := cmp.Diff(want, got, comparePrefixes); diff != "" {
		t.Errorf("got (+) another configuration than wanted (-):\n%s", diff)
	}
	if diff := cmp.Diff(config.Default("/d"), was, comparePrefixes); diff != "" {
		t.Errorf("the running configuration itself was changed (+):\n%s", diff)
	}
}

// everythingSet differs from the zero Config in every key.
func everythingSet() *config.Config {
	c := &config.Config{}
	fillValue(reflect.ValueOf(c).Elem())
	return c
}

func fillValue(v reflect.Value) {
	switch d := config.Default("/d"); v.Type() {
	case reflect.TypeOf(d.Prefixes.V4):
		v.Set(reflect.ValueOf(d.Prefixes.V4))
		return
	case reflect.TypeOf(d.DERP.Server.IPv4):
		v.Set(reflect.ValueOf(d.Prefixes.V4.Addr()))
		return
	}
	switch v.Kind() {
	case reflect.String:
		v.SetString("x")
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Int, reflect.Int64:
		v.SetInt(1)
	case reflect.Uint32, reflect.Uint64:
		v.SetUint(1)
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 1, 1))
	case reflect.Map:
		v.Set(reflect.MakeMap(v.Type()))
		v.SetMapIndex(reflect.ValueOf("x"), reflect.Zero(v.Type().Elem()))
	case reflect.Struct:
		for i := range v.NumField() {
			fillValue(v.Field(i))
		}
	}
}
