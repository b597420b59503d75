package hscontrol_test

import (
	"fmt"
	"io"
	"net/http"
	"testing"

	"tailscale.com/tailcfg"
	"tailscale.com/types/key"

	"github.com/keelscale/keelscale/hscontrol/hstest"
	"github.com/keelscale/keelscale/hscontrol/store"
	"github.com/keelscale/keelscale/hscontrol/tailnet"
)

// BenchmarkRESTListNodes is what every open page of a user interface asks for every few seconds.
func BenchmarkRESTListNodes(b *testing.B) {
	const nodes = 5000
	s := hstest.Start(b)
	_, secret, err := s.Store().CreateAPIKey(b.Context(), tailnet.APIKey{Scopes: []string{tailnet.ScopeAll}})
	if err != nil {
		b.Fatal(err)
	}
	u := s.User("alice")
	joinKey := s.Key(u, func(k *tailnet.PreAuthKey) { k.Reusable = true })
	for i := range nodes {
		_, err := s.Store().JoinWithKey(b.Context(), joinKey, store.Join{
			MachineKey: key.NewMachine().Public(), NodeKey: key.NewNode().Public(), CapVersion: 113,
			Method: tailnet.RegisterByAuthKey, Hostinfo: &tailcfg.Hostinfo{Hostname: fmt.Sprintf("box%d", i), OS: "linux", IPNVersion: "1.98.1"},
		})
		if err != nil {
			b.Fatal(err)
		}
	}
	r, err := http.NewRequestWithContext(b.Context(), "GET", s.URL+"/api/v1/node", nil)
	if err != nil {
		b.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer "+secret.Reveal())
	r.Header.Set("Accept", "*/*")
	b.ReportAllocs()
	var size int64
	for b.Loop() {
		resp, err := http.DefaultClient.Do(r)
		if err != nil {
			b.Fatal(err)
		}
		if size, err = io.Copy(io.Discard, resp.Body); err != nil || size < nodes*500 {
			b.Fatalf("got %d bytes with %s, %v, want %d nodes", size, resp.Status, err, nodes)
		}
		resp.Body.Close()
	}
	b.ReportMetric(float64(size)/nodes, "bytes/node")
}
