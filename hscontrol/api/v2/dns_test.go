package v2_test

import (
	"net/http"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	tailscale "tailscale.com/client/tailscale/v2"

	"github.com/keelscale/keelscale/hscontrol/config"
	"github.com/keelscale/keelscale/hscontrol/hstest"
)

// What is set goes over what the configuration says, reaches nodes at once, and outlives the server.
func TestDNS(t *testing.T) {
	w := newWorld(t, func(c *config.Config) {
		c.DNS.Nameservers.Global = []string{"192.0.2.10"}
		c.DNS.Nameservers.Split = map[string][]string{"corp.example.com": {"192.0.2.11"}}
		c.DNS.SearchDomains = []string{"corp.example.com"}
	})
	dns := w.admin.DNS()
	if got := must[[]string](t)(dns.Nameservers(w.ctx)); !slices.Equal(got, []string{"192.0.2.10"}) {
		t.Errorf("of the configuration: got %v", got)
	}
	n, _ := w.node("box")
	poll := n.Poll()

	if err := dns.SetNameservers(w.ctx, []string{"192.0.2.53", "https://dns.example.com/q"}); err != nil {
		t.Fatal(err)
	}
	poll.Await("the nameservers", func(m *hstest.Netmap) bool {
		all := append(m.DNS.Resolvers, m.DNS.FallbackResolvers...)
		return len(all) == 2 && all[0].Addr == "192.0.2.53"
	})
	split := must[tailscale.SplitDNSResponse](t)(dns.UpdateSplitDNS(w.ctx, tailscale.SplitDNSRequest{"example.org": {"192.0.2.54"}}))
	want := tailscale.SplitDNSResponse{"corp.example.com": {"192.0.2.11"}, "example.org": {"192.0.2.54"}}
	if diff := cmp.Diff(want, split); diff != "" {
		t.Errorf("split DNS after a patch (-want +got):\n%s", diff)
	}
	poll.Await("split DNS", func(m *hstest.Netmap) bool { return len(m.DNS.Routes["example.org"]) == 1 })
	split = must[tailscale.SplitDNSResponse](t)(dns.UpdateSplitDNS(w.ctx, tailscale.SplitDNSRequest{"corp.example.com": nil}))
	if diff := cmp.Diff(tailscale.SplitDNSResponse{"example.org": {"192.0.2.54"}}, split); diff != "" {
		t.Errorf("split DNS without a domain (-want +got):\n%s", diff)
	}
	poll.Await("its end", func(m *hstest.Netmap) bool { return len(m.DNS.Routes["corp.example.com"]) == 0 })
	if err := dns.SetPreferences(w.ctx, tailscale.DNSPreferences{MagicDNS: false}); err != nil {
		t.Fatal(err)
	}
	poll.Await("no MagicDNS", func(m *hstest.Netmap) bool { return !m.DNS.Proxied })

	set := tailscale.DNSConfiguration{
		Nameservers: []tailscale.DNSConfigurationResolver{{Address: "192.0.2.99", UseWithExitNode: true}},
		SplitDNS:    map[string][]tailscale.DNSConfigurationResolver{"a.example": {{Address: "192.0.2.98"}}},
		SearchPaths: []string{"a.example", "b.example"},
		Preferences: tailscale.DNSConfigurationPreferences{OverrideLocalDNS: true, MagicDNS: true},
	}
	if err := dns.SetConfiguration(w.ctx, set); err != nil {
		t.Fatal(err)
	}
	poll.Await("the whole configuration", func(m *hstest.Netmap) bool {
		d := m.DNS
		return d.Proxied && len(d.Resolvers) == 1 && d.Resolvers[0].UseWithExitNode && slices.Contains(d.Domains, "b.example") && len(d.Routes["a.example"]) == 1
	})
	poll.Close()
	w.End()
	w.Begin()
	if got := must[*tailscale.DNSConfiguration](t)(dns.Configuration(w.ctx)); !cmp.Equal(*got, set) {
		t.Errorf("after a restart (-want +got):\n%s", cmp.Diff(set, *got))
	}
	if got := must[[]string](t)(w.client(w.admin.APIKey, "elsewhere").DNS().Nameservers(w.ctx)); !slices.Equal(got, []string{"192.0.2.10"}) {
		t.Errorf("another tailnet: got %v, want what the configuration says", got)
	}
	refused(t, "a name for a nameserver", dns.SetNameservers(w.ctx, []string{"dns.example.com"}), http.StatusBadRequest)
	refused(t, "no domain", dns.SetSearchPaths(w.ctx, []string{"a..b"}), http.StatusBadRequest)
	refused(t, "split DNS of no domain", dns.SetSplitDNS(w.ctx, tailscale.SplitDNSRequest{"": {"192.0.2.1"}}), http.StatusBadRequest)
}
