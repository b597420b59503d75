package policy_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"tailscale.com/tailcfg"

	"github.com/keelscale/keelscale/hscontrol/policy"
)

func TestExtras(t *testing.T) {
	p := parsed(t, "{\"derpMap\": {\n // none of the usual\n \"OmitDefaultRegions\": true},\n"+`
		"EXTRADNSRECORDS": [
			{"Name": "grafana.example.com", "Value": "100.64.0.7"},
			{"name": "db.example.com.", "type": "AAAA", "value": "fd7a:115c:a1e0::7"},
		]}`)
	if text, line := p.DERPMap(); text != `{"OmitDefaultRegions":true}` || line != 1 {
		t.Errorf("derpMap: got %q in line %d", text, line)
	}
	want := []tailcfg.DNSRecord{
		{Name: "grafana.example.com", Value: "100.64.0.7"},
		{Name: "db.example.com", Type: "AAAA", Value: "fd7a:115c:a1e0::7"},
	}
	if diff := cmp.Diff(want, p.ExtraRecords()); diff != "" {
		t.Errorf("extraDNSRecords (-want +got):\n%s", diff)
	}
	var none *policy.Policy
	if text, _ := none.DERPMap(); text != "" || none.ExtraRecords() != nil {
		t.Error("no policy has extras")
	}
}
