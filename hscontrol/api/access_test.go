package api_test

import (
	"context"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"

	headscalev1 "github.com/keelscale/keelscale/proto/headscale/v1"
)

func TestRemoteNeedsKey(t *testing.T) {
	b := newBench(t)
	ctx := t.Context()
	list := func(ctx context.Context) error {
		_, err := b.remote.ListUsers(ctx, &headscalev1.ListUsersRequest{})
		return err
	}
	refused(t, list(ctx), codes.Unauthenticated, "an API key is needed")
	for name, header := range map[string]string{
		"no scheme":    "hskey-api-000000000000-00",
		"basic":        "Basic aGVhZHNjYWxl",
		"not a key":    "Bearer x",
		"unknown":      "Bearer hskey-api-000000000000-0000000000000000000000000000000000000000000000000000000000000000",
		"pre-auth key": "Bearer hskey-auth-000000000000-0000000000000000000000000000000000000000000000000000000000000000",
	} {
		t.Run(name, func(t *testing.T) {
			refused(t, list(metadata.AppendToOutgoingContext(ctx, "authorization", header)), codes.Unauthenticated, "headscale apikeys create")
		})
	}
	made, err := b.CreateApiKey(ctx, &headscalev1.CreateApiKeyRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if err := list(bearer(t, made.GetApiKey())); err != nil {
		t.Errorf("with a key: got %v, want none", err)
	}
	if err := list(metadata.AppendToOutgoingContext(ctx, "authorization", "bearer "+made.GetApiKey())); err != nil {
		t.Errorf("with the scheme in lower case: got %v, want none", err)
	}
	if _, err := b.ExpireApiKey(ctx, &headscalev1.ExpireApiKeyRequest{Id: 1}); err != nil {
		t.Fatal(err)
	}
	refused(t, list(bearer(t, made.GetApiKey())), codes.Unauthenticated, "expired")
	if _, err := b.DeleteApiKey(ctx, &headscalev1.DeleteApiKeyRequest{Id: 1}); err != nil {
		t.Fatal(err)
	}
	refused(t, list(bearer(t, made.GetApiKey())), codes.Unauthenticated, "not known")
}

// TestKeyOfOneTailnet holds every call against a key that is bound: what belongs to another tailnet is not there.
func TestKeyOfOneTailnet(t *testing.T) {
	b := newBench(t)
	b.tailnet(t, "lab")
	own, foreign := b.user(t, "lena", "lab"), b.user(t, "alice", "")
	ownNode, foreignNode := b.node(t, "bench", "lena", "lab", "10.1.0.0/16"), b.node(t, "box", "alice", "", "10.2.0.0/16")
	ownKey, err := b.CreatePreAuthKey(t.Context(), &headscalev1.CreatePreAuthKeyRequest{UserRef: "lena", Tailnet: "lab"})
	if err != nil {
		t.Fatal(err)
	}
	foreignKey, err := b.CreatePreAuthKey(t.Context(), &headscalev1.CreatePreAuthKeyRequest{User: foreign.GetId()})
	if err != nil {
		t.Fatal(err)
	}
	all, err := b.GetRoutes(t.Context(), &headscalev1.GetRoutesRequest{Tailnet: "*"})
	if err != nil || len(all.GetRoutes()) != 2 {
		t.Fatalf("got %d routes, %v, want 2", len(all.GetRoutes()), err)
	}
	b.withKey(t, "") // the key with ID 1 opens all
	ctx := b.withKey(t, "lab")
	r := b.remote

	calls := map[string]func(user, node, key, route uint64, tailnet string) error{
		"CreateUser": func(_, _, _, _ uint64, tn string) error {
			_, err := r.CreateUser(ctx, &headscalev1.CreateUserRequest{Name: "new", Tailnet: tn})
			return err
		},
		"RenameUser": func(u, _, _, _ uint64, _ string) error {
			_, err := r.RenameUser(ctx, &headscalev1.RenameUserRequest{OldId: u, NewName: "renamed"})
			return err
		},
		"SetUserRole": func(u, _, _, _ uint64, _ string) error {
			_, err := r.SetUserRole(ctx, &headscalev1.SetUserRoleRequest{Id: u, Role: "auditor"})
			return err
		},
		"CreatePreAuthKey": func(u, _, _, _ uint64, _ string) error {
			_, err := r.CreatePreAuthKey(ctx, &headscalev1.CreatePreAuthKeyRequest{User: u})
			return err
		},
		"ListPreAuthKeys": func(_, _, _, _ uint64, tn string) error {
			_, err := r.ListPreAuthKeys(ctx, &headscalev1.ListPreAuthKeysRequest{Tailnet: tn})
			return err
		},
		"ExpirePreAuthKey": func(_, _, k, _ uint64, _ string) error {
			_, err := r.ExpirePreAuthKey(ctx, &headscalev1.ExpirePreAuthKeyRequest{Id: k})
			return err
		},
		"GetNode": func(_, n, _, _ uint64, _ string) error {
			_, err := r.GetNode(ctx, &headscalev1.GetNodeRequest{NodeId: n})
			return err
		},
		"RenameNode": func(_, n, _, _ uint64, _ string) error {
			_, err := r.RenameNode(ctx, &headscalev1.RenameNodeRequest{NodeId: n, NewName: "renamed"})
			return err
		},
		"ExpireNode": func(_, n, _, _ uint64, _ string) error {
			_, err := r.ExpireNode(ctx, &headscalev1.ExpireNodeRequest{NodeId: n})
			return err
		},
		"AuthorizeNode": func(_, n, _, _ uint64, _ string) error {
			_, err := r.AuthorizeNode(ctx, &headscalev1.AuthorizeNodeRequest{NodeId: n})
			return err
		},
		"SetNodeAddresses": func(_, n, _, _ uint64, _ string) error {
			_, err := r.SetNodeAddresses(ctx, &headscalev1.SetNodeAddressesRequest{NodeId: n, IpAddresses: []string{"100.64.9.9"}})
			return err
		},
		"SetApprovedRoutes": func(_, n, _, _ uint64, _ string) error {
			_, err := r.SetApprovedRoutes(ctx, &headscalev1.SetApprovedRoutesRequest{NodeId: n, Routes: []string{"10.1.0.0/16"}})
			return err
		},
		"GetNodeRoutes": func(_, n, _, _ uint64, _ string) error {
			_, err := r.GetNodeRoutes(ctx, &headscalev1.GetNodeRoutesRequest{NodeId: n})
			return err
		},
		"EnableRoute": func(_, _, _, route uint64, _ string) error {
			_, err := r.EnableRoute(ctx, &headscalev1.EnableRouteRequest{RouteId: route})
			return err
		},
		"DisableRoute": func(_, _, _, route uint64, _ string) error {
			_, err := r.DisableRoute(ctx, &headscalev1.DisableRouteRequest{RouteId: route})
			return err
		},
		"SetTags": func(_, n, _, _ uint64, _ string) error {
			_, err := r.SetTags(ctx, &headscalev1.SetTagsRequest{NodeId: n, Tags: []string{"tag:web"}})
			return err
		},
		"ListNodes": func(_, _, _, _ uint64, tn string) error {
			_, err := r.ListNodes(ctx, &headscalev1.ListNodesRequest{Tailnet: tn})
			return err
		},
		"SetPolicy": func(_, _, _, _ uint64, tn string) error {
			_, err := r.SetPolicy(ctx, &headscalev1.SetPolicyRequest{Policy: "{}", Tailnet: tn})
			return err
		},
		"CheckPolicy": func(_, _, _, _ uint64, tn string) error {
			_, err := r.CheckPolicy(ctx, &headscalev1.CheckPolicyRequest{Policy: "{}", Tailnet: tn})
			return err
		},
		"BackfillNodeIPs": func(_, _, _, _ uint64, tn string) error {
			_, err := r.BackfillNodeIPs(ctx, &headscalev1.BackfillNodeIPsRequest{Confirmed: true, Tailnet: tn})
			return err
		},
	}
	route := map[uint64]uint64{}
	for _, each := range all.GetRoutes() {
		route[each.GetNode().GetId()] = each.GetId()
	}
	for name, call := range calls {
		t.Run(name, func(t *testing.T) {
			refused(t, call(foreign.GetId(), foreignNode.GetId(), foreignKey.GetPreAuthKey().GetId(), route[foreignNode.GetId()], "default"), codes.NotFound, "")
			if err := call(own.GetId(), ownNode.GetId(), ownKey.GetPreAuthKey().GetId(), route[ownNode.GetId()], "lab"); err != nil {
				t.Errorf("for the key's own tailnet: got %v, want none", err)
			}
		})
	}

	t.Run("all", func(t *testing.T) {
		nodes, err := r.ListNodes(ctx, &headscalev1.ListNodesRequest{Tailnet: "*"})
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff([]string{"renamed"}, given(nodes.GetNodes())); diff != "" {
			t.Errorf("nodes that the key sees (-want +got):\n%s", diff)
		}
		users, err := r.ListUsers(ctx, &headscalev1.ListUsersRequest{Id: foreign.GetId()})
		if err != nil || len(users.GetUsers()) != 0 {
			t.Errorf("foreign user by ID: got %v, %v, want none", users.GetUsers(), err)
		}
		keys, err := r.ListApiKeys(ctx, &headscalev1.ListApiKeysRequest{})
		if err != nil || len(keys.GetApiKeys()) != 1 {
			t.Errorf("API keys: got %v, %v, want the key itself", keys.GetApiKeys(), err)
		}
		_, err = r.DeleteApiKey(ctx, &headscalev1.DeleteApiKeyRequest{Id: 1})
		refused(t, err, codes.NotFound, "")
		_, err = r.ExpirePreAuthKey(ctx, &headscalev1.ExpirePreAuthKeyRequest{Key: foreignKey.GetPreAuthKey().GetKey()})
		refused(t, err, codes.NotFound, "")
		_, err = r.CreateApiKey(ctx, &headscalev1.CreateApiKeyRequest{Tailnet: "default"})
		refused(t, err, codes.NotFound, "")
		_, err = r.CreateTailnet(ctx, &headscalev1.CreateTailnetRequest{Name: "more"})
		refused(t, err, codes.PermissionDenied, "one tailnet only")
		_, err = r.DeleteTailnet(ctx, &headscalev1.DeleteTailnetRequest{Name: "default"})
		refused(t, err, codes.PermissionDenied, "one tailnet only")
	})

	t.Run("no way out", func(t *testing.T) {
		made, err := r.CreateApiKey(ctx, &headscalev1.CreateApiKeyRequest{Expiration: timestamppb.New(start.AddDate(1, 0, 0))})
		if err != nil {
			t.Fatal(err)
		}
		tailnets, err := r.ListTailnets(bearer(t, made.GetApiKey()), &headscalev1.ListTailnetsRequest{})
		if err != nil || len(tailnets.GetTailnets()) != 1 || tailnets.GetTailnets()[0].GetName() != "lab" {
			t.Errorf("tailnets of a key that a bound key made: got %v, %v, want lab alone", tailnets.GetTailnets(), err)
		}
	})
}

func TestLargeRequest(t *testing.T) {
	b := newBench(t)
	_, err := b.CheckPolicy(t.Context(), &headscalev1.CheckPolicyRequest{Policy: "{" + string(make([]byte, 5<<20)) + "}"})
	if got := status.Code(err); got != codes.ResourceExhausted {
		t.Errorf("a policy of 5 MiB: got %v, want %v", err, codes.ResourceExhausted)
	}
}
