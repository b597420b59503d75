package config_test

import (
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/keelscale/keelscale/hscontrol/config"
)

// The file of records is held to what the key is held to.
func TestRecordsFile(t *testing.T) {
	for _, tt := range []struct {
		name, text string
		want       []config.ExtraRecord
		faults     []string
	}{
		{"good", `[{"name": "Db.Example.com.", "type": "a", "value": "100.64.0.1"}, {"name": "six.example.com", "value": "fd7a::1", "comment": "by hand"}]`,
			[]config.ExtraRecord{
				{Name: "db.example.com", Type: "A", Value: netip.MustParseAddr("100.64.0.1")},
				{Name: "six.example.com", Type: "AAAA", Value: netip.MustParseAddr("fd7a::1")},
			}, nil},
		{"empty", `[]`, nil, nil},
		{"bad", `[
			{"name": "good.example", "value": "1.2.3.4"},
			{"name": "a.example", "type": "CNAME", "value": "1.2.3.4"},
			{"name": "b.example", "type": "AAAA", "value": "1.2.3.4"},
			{"name": "*.example", "type": "A", "value": "1.2.3.4"},
			{"name": "c.example", "type": "A"},
			{"name": "d.example", "type": "A", "value": "elsewhere"}
		]`, nil, []string{
			`FILE: dns.extra_records_path: entry 2: a.example is of type CNAME; clients answer A and AAAA only`,
			`FILE: dns.extra_records_path: entry 3: b.example: 1.2.3.4 is no address for type AAAA; A takes IPv4, AAAA takes IPv6`,
			`FILE: dns.extra_records_path: entry 4: "*.example" is no name; write a full one like grafana.tailnet.internal`,
			`FILE: dns.extra_records_path: entry 5: c.example has no address; write it behind value`,
			`FILE: dns.extra_records_path: entry 6: d.example has no address; write it behind value`,
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dns := config.Default(t.TempDir()).DNS
			dns.ExtraRecordsPath = filepath.Join(t.TempDir(), "records.json")
			if err := os.WriteFile(dns.ExtraRecordsPath, []byte(tt.text), 0o600); err != nil {
				t.Fatal(err)
			}
			got, err := dns.ReadRecords()
			var faults []string
			if wrong := (*config.Error)(nil); errors.As(err, &wrong) {
				for _, p := range wrong.Problems {
					faults = append(faults, strings.Replace(p.String(), dns.ExtraRecordsPath, "FILE", 1))
				}
			} else if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.faults, faults); diff != "" {
				t.Errorf("faults (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(tt.want, got, cmpopts.EquateEmpty(), cmpopts.EquateComparable(netip.Addr{})); diff != "" {
				t.Errorf("records (-want +got):\n%s", diff)
			}
		})
	}
}

func TestRecordsFileThatIsNoList(t *testing.T) {
	dns := config.Default(t.TempDir()).DNS
	dns.ExtraRecordsPath = filepath.Join(t.TempDir(), "records.json")
	if _, err := dns.ReadRecords(); err == nil || !strings.Contains(err.Error(), dns.ExtraRecordsPath) {
		t.Errorf("no file: got %v, want it named", err)
	}
	if err := os.WriteFile(dns.ExtraRecordsPath, []byte(`{"name": "a.example"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := dns.ReadRecords(); err == nil || !strings.Contains(err.Error(), "it should be a JSON list") {
		t.Errorf("no list: got %v, want to be told what it should be", err)
	}
}

func FuzzRecordsFile(f *testing.F) {
	f.Add(`[{"name": "db.example.com", "type": "A", "value": "100.64.0.1"}]`)
	f.Add(`[{"name": "", "type": "TXT", "value": "fe80::1%eth0"}, null]`)
	f.Fuzz(func(t *testing.T, text string) {
		records, err := config.ParseRecords("records.json", []byte(text), "tailnet.internal")
		if err != nil {
			return
		}
		for _, r := range records {
			if r.Type != "A" && r.Type != "AAAA" || !r.Value.IsValid() || r.Name == "" {
				t.Errorf("got %+v from %q", r, text)
			}
		}
	})
}
