package enrol_test

import (
	"net/netip"
	"path/filepath"
	"testing"

	"tailscale.com/types/key"

	"github.com/keelscale/keelscale/derp/enrol"
)

// One question to Admit, with a long list.
func BenchmarkAdmit(b *testing.B) {
	const nodes = 100_000
	list := make([]key.NodePublic, nodes)
	for i := range list {
		list[i] = key.NewNode().Public()
	}
	path := filepath.Join(b.TempDir(), "enrolment.json")
	if err := enrol.StoreList(path, list); err != nil {
		b.Fatal(err)
	}
	a, err := enrol.Open(enrol.Config{Control: "http://203.0.113.5:8080", StateFile: path, RelayKey: list[0]})
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	b.ResetTimer()
	for i := 0; b.Loop(); i++ {
		if ok, err := a.Admit(b.Context(), list[i%nodes], netip.Addr{}); !ok {
			b.Fatal(err)
		}
	}
}
