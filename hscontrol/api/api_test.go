package api_test

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"tailscale.com/tailcfg"
	"tailscale.com/types/key"

	headscalev1 "github.com/keelscale/keelscale/proto/headscale/v1"

	"github.com/keelscale/keelscale/hscontrol/api"
	"github.com/keelscale/keelscale/hscontrol/store"
	"github.com/keelscale/keelscale/hscontrol/tailnet"
)

// start is when every test begins; its clock does not move by itself.
var start = time.Date(2026, 5, 4, 12, 0, 0, 0, time.UTC)

// bench is a service over a real store, with its two doors: local for those on the machine, remote for API keys.
type bench struct {
	headscalev1.HeadscaleServiceClient // local
	remote                             headscalev1.HeadscaleServiceClient
	rest                               http.Handler
	localConn, remoteConn              *grpc.ClientConn
	store                              *store.Store
	log                                *strings.Builder
	closeStore                         func() error
}

func newBench(t testing.TB, change ...func(*api.Config)) *bench {
	t.Helper()
	ctx := t.Context()
	now := func() time.Time { return start }
	quiet := slog.New(slog.NewTextHandler(io.Discard, nil))
	db, err := store.Open(ctx, store.Config{
		Type:     "sqlite",
		SQLite:   store.SQLiteConfig{Path: filepath.Join(t.TempDir(), "db.sqlite"), WAL: true},
		PrefixV4: netip.MustParsePrefix("100.64.0.0/10"),
		PrefixV6: netip.MustParsePrefix("fd7a:115c:a1e0::/48"),
		Now:      now,
		Log:      quiet,
	})
	if err != nil {
		t.Fatal(err)
	}
	b := &bench{store: db, log: &strings.Builder{}, closeStore: sync.OnceValue(db.Close)}
	t.Cleanup(func() {
		if err := b.closeStore(); err != nil {
			t.Error(err)
		}
	})
	cfg := api.Config{
		Store:       db,
		CheckPolicy: checkPolicy,
		TagExists:   func(_ context.Context, _ tailnet.ID, tag string) bool { return tag == "tag:web" || tag == "tag:db" },
		Approve:     b.approve,
		DERPMap: func() *tailcfg.DERPMap {
			return &tailcfg.DERPMap{Regions: map[int]*tailcfg.DERPRegion{901: {RegionID: 901, RegionCode: "home"}}}
		},
		Now: now,
		Log: slog.New(slog.NewTextHandler(b.log, nil)),
	}
	for _, c := range change {
		c(&cfg)
	}
	server := api.NewServer(cfg)
	b.localConn, b.remoteConn = dial(t, server.Local()), dial(t, server.Remote())
	b.HeadscaleServiceClient = headscalev1.NewHeadscaleServiceClient(b.localConn)
	b.remote = headscalev1.NewHeadscaleServiceClient(b.remoteConn)
	b.rest = server.REST()
	return b
}

// dial serves on a unix socket, and stops at the end of the test.
func dial(t testing.TB, g *grpc.Server) *grpc.ClientConn {
	t.Helper()
	l, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- g.Serve(l) }()
	conn, err := grpc.NewClient("unix:"+l.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		conn.Close()
		g.Stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return conn
}

func checkPolicy(_ context.Context, _ tailnet.ID, text string) ([]string, error) {
	if !strings.HasPrefix(text, "{") {
		return nil, errors.New("line 1: this is no policy")
	}
	return []string{"it is short"}, nil
}

// approve does what hscontrol/auth does, without a policy.
func (b *bench) approve(ctx context.Context, ref, userRef, tailnetName string) (*tailnet.Node, error) {
	parsed, err := tailnet.ParseRegistrationRef(ref)
	if err != nil {
		return nil, err
	}
	t, err := b.store.FindTailnet(ctx, tailnetName)
	if err != nil {
		return nil, err
	}
	u, err := b.store.FindUser(ctx, t.ID, userRef)
	if err != nil {
		return nil, err
	}
	reg, err := b.store.FindRegistration(ctx, parsed)
	if err != nil {
		return nil, err
	}
	return b.store.Approve(ctx, reg.ID, u.ID, store.ApproveOptions{})
}

func (b *bench) user(t *testing.T, name, tailnetName string) *headscalev1.User {
	t.Helper()
	resp, err := b.CreateUser(t.Context(), &headscalev1.CreateUserRequest{Name: name, Tailnet: tailnetName})
	if err != nil {
		t.Fatal(err)
	}
	return resp.GetUser()
}

// node registers a client that announces routes, as a user of a tailnet.
func (b *bench) node(t *testing.T, name, user, tailnetName string, routes ...string) *headscalev1.Node {
	t.Helper()
	digits := strings.TrimPrefix(key.NewMachine().Public().String(), "mkey:")
	_, err := b.DebugCreateNode(t.Context(), &headscalev1.DebugCreateNodeRequest{Name: name, Key: digits, User: user, Tailnet: tailnetName, Routes: routes})
	if err != nil {
		t.Fatal(err)
	}
	resp, err := b.RegisterNode(t.Context(), &headscalev1.RegisterNodeRequest{User: user, Key: digits, Tailnet: tailnetName})
	if err != nil {
		t.Fatal(err)
	}
	return resp.GetNode()
}

func (b *bench) tailnet(t *testing.T, name string) {
	t.Helper()
	if _, err := b.CreateTailnet(t.Context(), &headscalev1.CreateTailnetRequest{Name: name}); err != nil {
		t.Fatal(err)
	}
}

// withKey makes an API key for a tailnet (empty: all) and gives it to the calls of the context.
func (b *bench) withKey(t *testing.T, tailnetName string) context.Context {
	t.Helper()
	resp, err := b.CreateApiKey(t.Context(), &headscalev1.CreateApiKeyRequest{Tailnet: tailnetName})
	if err != nil {
		t.Fatal(err)
	}
	return bearer(t, resp.GetApiKey())
}

func bearer(t *testing.T, secret string) context.Context {
	return metadata.AppendToOutgoingContext(t.Context(), "authorization", "Bearer "+secret)
}

// refused checks the code of an error and a part of its sentence.
func refused(t *testing.T, err error, code codes.Code, part string) {
	t.Helper()
	if got := status.Code(err); got != code || !strings.Contains(status.Convert(err).Message(), part) {
		t.Errorf("got %v, want %v: …%s…", err, code, part)
	}
}

func given(nodes []*headscalev1.Node) []string {
	names := make([]string, len(nodes))
	for i, n := range nodes {
		names[i] = n.GetGivenName()
	}
	slices.Sort(names)
	return names
}

func newMachine() key.MachinePublic { return key.NewMachine().Public() }
