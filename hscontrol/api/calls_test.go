package api_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/known/timestamppb"

	headscalev1 "github.com/keelscale/keelscale/proto/headscale/v1"

	"github.com/keelscale/keelscale/hscontrol/api"
	"github.com/keelscale/keelscale/hscontrol/tailnet"
)

// TestFaults holds the table of errors: each fact has its code, and its sentence comes through.
func TestFaults(t *testing.T) {
	var fault error
	b := newBench(t, func(c *api.Config) {
		c.Approve = func(context.Context, string, string, string) (*tailnet.Node, error) { return nil, fault }
	})
	for _, c := range []struct {
		err  error
		code codes.Code
		text string
	}{
		{fmt.Errorf("approving: %w: user 7", tailnet.ErrNotFound), codes.NotFound, "approving: not found: user 7"},
		{fmt.Errorf("%w: name x", tailnet.ErrExists), codes.AlreadyExists, "already exists: name x"},
		{fmt.Errorf("%w: write it so", tailnet.ErrInvalid), codes.InvalidArgument, "write it so"},
		{fmt.Errorf("doing: %w: write it so", tailnet.ErrInvalid), codes.InvalidArgument, "doing: write it so"},
		{fmt.Errorf("%w: do that first", tailnet.ErrConflict), codes.FailedPrecondition, "do that first"},
		{tailnet.ErrKeyRefused, codes.PermissionDenied, "pre-auth key refused"},
		{tailnet.ErrTagRefused, codes.PermissionDenied, "tag refused"},
		{tailnet.ErrNodeKeyTaken, codes.AlreadyExists, "another machine"},
		{tailnet.ErrExhausted, codes.ResourceExhausted, "no address left"},
		{tailnet.ErrTooMany, codes.ResourceExhausted, "too many"},
		{tailnet.ErrReadOnly, codes.Unavailable, "store cannot write"},
		{tailnet.ErrStale, codes.Aborted, "stale"},
		{context.DeadlineExceeded, codes.DeadlineExceeded, ""},
		{fmt.Errorf("something else"), codes.Internal, "something else"},
	} {
		fault = c.err
		_, err := b.RegisterNode(t.Context(), &headscalev1.RegisterNodeRequest{User: "x", Key: strings.Repeat("0", 64)})
		refused(t, err, c.code, c.text)
	}
	if got := b.log.String(); !strings.Contains(got, "something else") || strings.Contains(got, "write it so") {
		t.Errorf("the log has %q, want what is the server's own fault and nothing else", got)
	}
}

func TestPanic(t *testing.T) {
	b := newBench(t, func(c *api.Config) { c.Health = func(context.Context) []api.Fault { panic("boom") } })
	_, err := b.Health(t.Context(), &headscalev1.HealthRequest{})
	refused(t, err, codes.Internal, "its log has the details")
	if !strings.Contains(b.log.String(), "boom") {
		t.Errorf("the log has %q, want the panic", b.log)
	}
	if _, err := b.ListUsers(t.Context(), &headscalev1.ListUsersRequest{}); err != nil {
		t.Errorf("after the panic: got %v, want an answer", err)
	}
}

func TestPreAuthKeys(t *testing.T) {
	b := newBench(t)
	ctx := t.Context()
	alice := b.user(t, "alice", "")
	in := func(d time.Duration) *timestamppb.Timestamp { return timestamppb.New(start.Add(d)) }
	for _, c := range []struct {
		name string
		req  *headscalev1.CreatePreAuthKeyRequest
		want *headscalev1.PreAuthKey
	}{
		{"by ID", &headscalev1.CreatePreAuthKeyRequest{User: alice.GetId()}, &headscalev1.PreAuthKey{User: alice, Expiration: in(time.Hour)}},
		{"by name", &headscalev1.CreatePreAuthKeyRequest{UserRef: "alice", Expiration: in(time.Minute)}, &headscalev1.PreAuthKey{User: alice, Expiration: in(time.Minute)}},
		{"for ever", &headscalev1.CreatePreAuthKeyRequest{UserRef: "id=1", NeverExpires: true, Description: "lab"}, &headscalev1.PreAuthKey{User: alice, Description: "lab"}},
		{"tags only", &headscalev1.CreatePreAuthKeyRequest{AclTags: []string{"tag:web"}, Reusable: true}, &headscalev1.PreAuthKey{AclTags: []string{"tag:web"}, Reusable: true, Expiration: in(time.Hour)}},
	} {
		t.Run(c.name, func(t *testing.T) {
			resp, err := b.CreatePreAuthKey(ctx, c.req)
			if err != nil {
				t.Fatal(err)
			}
			got := resp.GetPreAuthKey()
			c.want.Tailnet, c.want.CreatedAt = "default", timestamppb.New(start)
			if diff := cmp.Diff(c.want, got, protocmp.Transform(), protocmp.IgnoreFields(got, "id", "key")); diff != "" {
				t.Errorf("key (-want +got):\n%s", diff)
			}
			if _, err := tailnet.ParseSecret(tailnet.AuthKeySecret, got.GetKey()); err != nil {
				t.Errorf("key: %v", err)
			}
		})
	}
	for name, req := range map[string]*headscalev1.CreatePreAuthKeyRequest{
		"say whose nodes":            {},
		"not both":                   {User: 1, UserRef: "alice"},
		"never_expires":              {User: 1, NeverExpires: true, Expiration: in(time.Hour)},
		"has passed already":         {User: 1, Expiration: in(-time.Hour)},
		"write tag:NAME":             {AclTags: []string{"web"}},
		"the expiration is no time:": {User: 1, Expiration: &timestamppb.Timestamp{Nanos: -5}},
	} {
		_, err := b.CreatePreAuthKey(ctx, req)
		refused(t, err, codes.InvalidArgument, name)
	}
	_, err := b.CreatePreAuthKey(ctx, &headscalev1.CreatePreAuthKeyRequest{User: 99})
	refused(t, err, codes.NotFound, "user 99")

	list, err := b.ListPreAuthKeys(ctx, &headscalev1.ListPreAuthKeysRequest{})
	if err != nil || len(list.GetPreAuthKeys()) != 4 {
		t.Fatalf("got %d keys, %v, want 4", len(list.GetPreAuthKeys()), err)
	}
	shown := list.GetPreAuthKeys()[0].GetKey()
	if !strings.HasSuffix(shown, "-***") {
		t.Errorf("a list shows %q, want the secret part hidden", shown)
	}
	if _, err := b.ExpirePreAuthKey(ctx, &headscalev1.ExpirePreAuthKeyRequest{Key: shown}); err != nil {
		t.Errorf("expiring %s: %v", shown, err)
	}
	// A client of 0.27 says a user in the first field, and the key in the second.
	older := &headscalev1.ExpirePreAuthKeyRequest{Id: list.GetPreAuthKeys()[2].GetId()}
	older.ProtoReflect().SetUnknown(protowire.AppendString(protowire.AppendTag(nil, 2, protowire.BytesType), list.GetPreAuthKeys()[1].GetKey()))
	if _, err := b.ExpirePreAuthKey(ctx, older); err != nil {
		t.Errorf("expiring a key as before 0.28: %v", err)
	}
	again, err := b.ListPreAuthKeys(ctx, &headscalev1.ListPreAuthKeysRequest{})
	if err != nil {
		t.Fatal(err)
	}
	for i, k := range again.GetPreAuthKeys() {
		if expired := k.GetExpiration() != nil && !k.GetExpiration().AsTime().After(start); expired != (i < 2) {
			t.Errorf("key %d expires at %v: want the first two expired, and no other", i, k.GetExpiration().AsTime())
		}
	}
	_, err = b.ExpirePreAuthKey(ctx, &headscalev1.ExpirePreAuthKeyRequest{})
	refused(t, err, codes.InvalidArgument, "say which key")
	_, err = b.DeletePreAuthKey(ctx, &headscalev1.DeletePreAuthKeyRequest{Id: 99})
	refused(t, err, codes.NotFound, "99")
}

func TestPolicy(t *testing.T) {
	b := newBench(t)
	ctx := t.Context()
	_, err := b.GetPolicy(ctx, &headscalev1.GetPolicyRequest{})
	refused(t, err, codes.NotFound, "no policy")
	_, err = b.SetPolicy(ctx, &headscalev1.SetPolicyRequest{Policy: "nonsense"})
	refused(t, err, codes.InvalidArgument, "line 1: this is no policy")
	set, err := b.SetPolicy(ctx, &headscalev1.SetPolicyRequest{Policy: "{} // all"})
	if err != nil || len(set.GetWarnings()) != 1 {
		t.Fatalf("got %v, %v, want one warning", set, err)
	}
	got, err := b.GetPolicy(ctx, &headscalev1.GetPolicyRequest{})
	if err != nil || got.GetPolicy() != "{} // all" || got.GetSource() != "cli" || !got.GetUpdatedAt().AsTime().Equal(start) {
		t.Errorf("got %v, %v, want what was set, by cli, at %v", got, err, start)
	}
	ctx = b.withKey(t, "")
	if _, err := b.remote.SetPolicy(ctx, &headscalev1.SetPolicyRequest{Policy: "{}"}); err != nil {
		t.Fatal(err)
	}
	if got, err := b.remote.GetPolicy(ctx, &headscalev1.GetPolicyRequest{}); err != nil || got.GetSource() != "grpc" {
		t.Errorf("got %v, %v, want the source api", got, err)
	}
}

func TestPolicyInFile(t *testing.T) {
	b := newBench(t, func(c *api.Config) {
		c.PolicyFile = func(t *tailnet.Tailnet) (string, bool) {
			return "/etc/headscale/acl.hujson", t.Name == tailnet.DefaultName
		}
	})
	_, err := b.SetPolicy(t.Context(), &headscalev1.SetPolicyRequest{Policy: "{}"})
	refused(t, err, codes.FailedPrecondition, "/etc/headscale/acl.hujson")
	old, err := b.store.PutPolicy(t.Context(), 0, "{}", "file /etc/headscale/acl.hujson")
	if err != nil {
		t.Fatal(err)
	}
	_, err = b.RollbackPolicy(t.Context(), &headscalev1.RollbackPolicyRequest{Version: old.ID})
	refused(t, err, codes.FailedPrecondition, "/etc/headscale/acl.hujson")

	// The file is the policy of the default tailnet alone.
	b.tailnet(t, "lab")
	if _, err := b.SetPolicy(t.Context(), &headscalev1.SetPolicyRequest{Tailnet: "lab", Policy: "{} // lab"}); err != nil {
		t.Errorf("setting the policy of another tailnet: %v", err)
	}
	if got, err := b.GetPolicy(t.Context(), &headscalev1.GetPolicyRequest{Tailnet: "lab"}); err != nil || got.GetPolicy() != "{} // lab" || got.GetUpdatedAt() == nil {
		t.Errorf("the policy of another tailnet: got %v, %v, want what was set, and when", got, err)
	}
}

func TestAuth(t *testing.T) {
	b := newBench(t)
	ctx := t.Context()
	b.user(t, "alice", "")
	src, dst := b.node(t, "laptop", "alice", ""), b.node(t, "db", "alice", "")
	begun, err := b.store.BeginSSHCheck(ctx, tailnet.SSHCheck{SrcID: tailnet.NodeID(src.GetId()), DstID: tailnet.NodeID(dst.GetId()), Owner: "user 1", Login: "root"}, true)
	if err != nil {
		t.Fatal(err)
	}
	b.tailnet(t, "lab")
	_, err = b.remote.AuthApprove(b.withKey(t, "lab"), &headscalev1.AuthApproveRequest{AuthId: begun.ID})
	refused(t, err, codes.NotFound, "")
	if _, err := b.AuthApprove(ctx, &headscalev1.AuthApproveRequest{AuthId: begun.ID}); err != nil {
		t.Errorf("approving a login: %v", err)
	}
	if got, err := b.store.FindSSHCheck(ctx, begun.ID); err != nil || got.Verdict != tailnet.SSHApproved || got.DecidedBy != myName(t) {
		t.Errorf("the login: got %+v, %v, want it approved by %s", got, err, myName(t))
	}
	if _, err := b.AuthReject(ctx, &headscalev1.AuthRejectRequest{AuthId: begun.ID}); err != nil {
		t.Errorf("taking the approval back: %v", err)
	}
	_, err = b.AuthApprove(ctx, &headscalev1.AuthApproveRequest{AuthId: begun.ID})
	refused(t, err, codes.FailedPrecondition, "rejected before")
	_, err = b.AuthApprove(ctx, &headscalev1.AuthApproveRequest{AuthId: tailnet.RegistrationPrefix + strings.Repeat("b", 24)})
	refused(t, err, codes.NotFound, "")
	_, err = b.AuthApprove(ctx, &headscalev1.AuthApproveRequest{AuthId: "nonsense"})
	refused(t, err, codes.InvalidArgument, "is not a registration key")

	digits := strings.Repeat("0", 63) + "7"
	if _, err := b.DebugCreateNode(ctx, &headscalev1.DebugCreateNodeRequest{Name: "box", User: "alice", Key: digits}); err != nil {
		t.Fatal(err)
	}
	_, err = b.AuthApprove(ctx, &headscalev1.AuthApproveRequest{AuthId: digits})
	refused(t, err, codes.FailedPrecondition, "headscale auth register --user USER --auth-id hskey-authreq-")
	if _, err := b.AuthReject(ctx, &headscalev1.AuthRejectRequest{AuthId: digits}); err != nil {
		t.Errorf("rejecting: %v", err)
	}
}

func TestHealth(t *testing.T) {
	b := newBench(t, func(c *api.Config) {
		c.Health = func(context.Context) []api.Fault {
			return []api.Fault{{Name: "derp-map", Text: "there is no relay", Severe: true}}
		}
	})
	got, err := b.Health(t.Context(), &headscalev1.HealthRequest{})
	if err != nil {
		t.Fatal(err)
	}
	want := &headscalev1.HealthResponse{
		DatabaseConnectivity: true,
		Faults:               []*headscalev1.Fault{{Name: "derp-map", Text: "there is no relay", Severe: true}},
	}
	if diff := cmp.Diff(want, got, protocmp.Transform()); diff != "" {
		t.Errorf("health (-want +got):\n%s", diff)
	}
	if err := b.closeStore(); err != nil {
		t.Fatal(err)
	}
	if got, err = b.Health(t.Context(), &headscalev1.HealthRequest{}); err != nil || got.GetDatabaseConnectivity() || got.GetFaults()[0].GetName() != "database" {
		t.Errorf("with a closed database: got %v, %v, want it told", got, err)
	}
}

func TestUnwired(t *testing.T) {
	b := newBench(t, func(c *api.Config) { c.DERPMap = nil })
	_, err := b.GetDERPMap(t.Context(), &headscalev1.GetDERPMapRequest{})
	refused(t, err, codes.Unimplemented, "no DERP map")
	_, err = b.GetStatus(t.Context(), &headscalev1.GetStatusRequest{})
	refused(t, err, codes.Unimplemented, "no status")
	_, err = b.Reload(t.Context(), &headscalev1.ReloadRequest{})
	refused(t, err, codes.Unimplemented, "no configuration")
}
