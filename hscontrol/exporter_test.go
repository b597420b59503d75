package hscontrol_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"net/http/httptest"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	headscalev1 "github.com/keelscale/keelscale/proto/headscale/v1"

	"github.com/keelscale/keelscale/hscontrol/config"
	"github.com/keelscale/keelscale/hscontrol/hstest"
	"github.com/keelscale/keelscale/hscontrol/hstest/pgtest"
)

// TestExporter asks what exporters ask: everything at once, over TLS with an API key, on one connection, again and again.
func TestExporter(t *testing.T) {
	certificate, pool := exportedCertificate(t)
	port, err := pgtest.FreePort()
	if err != nil {
		t.Fatal(err)
	}
	addr := fmt.Sprintf("127.0.0.1:%d", port)
	s := hstest.Start(t, func(c *config.Config) {
		c.GRPCListenAddr, c.TLS.CertPath, c.TLS.KeyPath = addr, certificate, certificate
	})
	odin := s.User("odin")
	s.Key(odin)
	s.Key(odin)
	conn, err := grpc.NewClient(addr, grpc.WithTransportCredentials(credentials.NewTLS(&tls.Config{MinVersion: tls.VersionTLS12, RootCAs: pool})))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	client := headscalev1.NewHeadscaleServiceClient(conn)
	as := func(key string) context.Context {
		return metadata.AppendToOutgoingContext(t.Context(), "authorization", "Bearer "+key)
	}
	ctx := as(apiKey(t, s))
	if _, err := client.DebugCreateNode(ctx, &headscalev1.DebugCreateNodeRequest{User: "odin", Name: "box", Key: firstKey}); err != nil {
		t.Fatal(err)
	}
	if _, err := client.RegisterNode(ctx, &headscalev1.RegisterNodeRequest{User: "odin", Key: firstKey}); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		var scrape sync.WaitGroup
		collect := func(what string, ask func() (int, error), want int) {
			scrape.Go(func() {
				if got, err := ask(); err != nil || got != want {
					t.Errorf("%s: got %d, %v, want %d", what, got, err, want)
				}
			})
		}
		collect("nodes", func() (int, error) {
			r, err := client.ListNodes(ctx, &headscalev1.ListNodesRequest{})
			for _, n := range r.GetNodes() {
				if n.GetUser().GetName() != "odin" || n.GetName() == "" || n.GetMachineKey() == "" || !n.GetCreatedAt().IsValid() ||
					n.GetRegisterMethod() != headscalev1.RegisterMethod_REGISTER_METHOD_CLI {
					t.Errorf("got node %v", n)
				}
			}
			return len(r.GetNodes()), err
		}, 1)
		collect("users", func() (int, error) {
			r, err := client.ListUsers(ctx, &headscalev1.ListUsersRequest{})
			return len(r.GetUsers()), err
		}, 1)
		collect("pre-auth keys", func() (int, error) {
			r, err := client.ListPreAuthKeys(ctx, &headscalev1.ListPreAuthKeysRequest{})
			return len(r.GetPreAuthKeys()), err
		}, 2)
		collect("API keys", func() (int, error) {
			r, err := client.ListApiKeys(ctx, &headscalev1.ListApiKeysRequest{})
			return len(r.GetApiKeys()), err
		}, 1)
		collect("health", func() (int, error) {
			r, err := client.Health(ctx, &headscalev1.HealthRequest{})
			if !r.GetDatabaseConnectivity() {
				t.Error("got no database, want one")
			}
			return 0, err
		}, 0)
		scrape.Wait()
	}
	for name, ctx := range map[string]context.Context{"no key": t.Context(), "a wrong key": as("hskey-api-wrong")} {
		if _, err := client.ListNodes(ctx, &headscalev1.ListNodesRequest{}); status.Code(err) != codes.Unauthenticated {
			t.Errorf("%s: got %v, want %v", name, err, codes.Unauthenticated)
		}
	}
	ctx, stop := context.WithTimeout(t.Context(), 5*time.Second)
	defer stop()
	plain, err := grpc.NewClient(addr, grpc.WithTransportCredentials(credentials.NewTLS(&tls.Config{MinVersion: tls.VersionTLS12})))
	if err != nil {
		t.Fatal(err)
	}
	defer plain.Close()
	if _, err := headscalev1.NewHeadscaleServiceClient(plain).Health(ctx, &headscalev1.HealthRequest{}); err == nil {
		t.Error("got an answer without the certificate's root, want none")
	}
}

// exportedCertificate is a file with a certificate for 127.0.0.1 and its key, and the pool that trusts it.
func exportedCertificate(t *testing.T) (file string, pool *x509.CertPool) {
	t.Helper()
	lender := httptest.NewTLSServer(nil)
	defer lender.Close()
	pair := lender.TLS.Certificates[0]
	key, err := x509.MarshalPKCS8PrivateKey(pair.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	text := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: pair.Certificate[0]})
	text = append(text, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key})...)
	file = filepath.Join(t.TempDir(), "cert.pem")
	if err := os.WriteFile(file, text, 0o600); err != nil {
		t.Fatal(err)
	}
	pool = x509.NewCertPool()
	pool.AddCert(lender.Certificate())
	return file, pool
}
