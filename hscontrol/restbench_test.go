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
	_, ask := startRESTBench(b, nodes)
	b.ReportAllocs()
	var size int64
	for b.Loop() {
		if size = ask(b, "GET", "/node"); size < nodes*500 {
			b.Fatalf("got %d bytes, want %d nodes", size, nodes)
		}
	}
	b.ReportMetric(float64(size)/nodes, "bytes/node")
}

// BenchmarkREST is the usual small calls to a server with a thousand nodes and three hundred keys.
func BenchmarkREST(b *testing.B) {
	s, ask := startRESTBench(b, 1000)
	u := s.User("bob")
	for range 300 {
		s.Key(u)
	}
	s.SetPolicy(`{"acls": [{"action": "accept", "src": ["*"], "dst": ["*:*"]}]}`)
	for _, path := range []string{"/node/77", "/node?pageSize=50", "/user", "/preauthkey?pageSize=50", "/policy", "/apikey", "/health"} {
		b.Run(path[1:], func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				ask(b, "GET", path)
			}
		})
	}
}

// startRESTBench starts a server with nodes, and gives what makes a call and tells how long the answer is.
func startRESTBench(b *testing.B, nodes int) (*hstest.Server, func(b *testing.B, method, path string) int64) {
	b.Helper()
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
	return s, func(b *testing.B, method, path string) int64 {
		r, err := http.NewRequestWithContext(b.Context(), method, s.URL+"/api/v1"+path, nil)
		if err != nil {
			b.Fatal(err)
		}
		r.Header.Set("Authorization", "Bearer "+secret.Reveal())
		r.Header.Set("Accept", "*/*")
		resp, err := http.DefaultClient.Do(r)
		if err != nil {
			b.Fatal(err)
		}
		defer resp.Body.Close()
		size, err := io.Copy(io.Discard, resp.Body)
		if err != nil || resp.StatusCode != http.StatusOK {
			b.Fatalf("%s: got %s, %v", path, resp.Status, err)
		}
		return size
	}
}
