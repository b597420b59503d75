package api_test

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	headscalev1 "github.com/keelscale/keelscale/proto/headscale/v1"

	"github.com/keelscale/keelscale/hscontrol/store"
	"github.com/keelscale/keelscale/hscontrol/tailnet"
)

// needed is each rpc by the scope that it needs; "-" is none. It is written here once more on purpose: who makes an rpc
// says twice who may call it.
var needed = map[string]string{
	"-":                        "Health ListTailnets",
	"all":                      "DeleteTailnet Reload",
	"tailnets":                 "CreateTailnet",
	"api_access_tokens":        "CreateApiKey ExpireApiKey DeleteApiKey",
	"api_access_tokens:read":   "ListApiKeys",
	"auth_keys":                "CreatePreAuthKey ExpirePreAuthKey DeletePreAuthKey",
	"auth_keys:read":           "ListPreAuthKeys",
	"devices:core":             "SetTags MoveNode SetNodeAddresses AuthorizeNode BackfillNodeIPs DebugCreateNode RegisterNode AuthRegister AuthApprove AuthReject RenameNode ExpireNode DeleteNode",
	"devices:core:read":        "ListNodes GetNode",
	"devices:routes":           "SetApprovedRoutes EnableRoute DisableRoute DeleteRoute",
	"devices:routes:read":      "GetRoutes GetNodeRoutes",
	"feature_settings":         "SetSettings",
	"feature_settings:read":    "GetStatus GetSettings",
	"logs:configuration:read":  "ListAudit VerifyAudit",
	"webhooks":                 "CreateWebhook DeleteWebhook TestWebhook RotateWebhook",
	"webhooks:read":            "ListWebhooks GetWebhook",
	"networking_settings":      "CreateRelayKey DeleteRelayKey RemoveRelay DrainRelay RenameRelay",
	"networking_settings:read": "GetDERPMap ListRelays ListRelayKeys",
	"oauth_keys":               "CreateOAuthClient DeleteOAuthClient",
	"oauth_keys:read":          "ListOAuthClients",
	"policy_file":              "SetPolicy RollbackPolicy",
	"policy_file:read":         "GetPolicy CheckPolicy TestPolicy DiffPolicy ExplainPolicy ListPolicyVersions",
	"users":                    "CreateUser RenameUser DeleteUser SetUserRole",
	"users:read":               "ListUsers",
}

// forMembers are the rpcs for users who have no part in administration.
var forMembers = []string{"Health", "ListTailnets", "ListUsers", "ListNodes", "GetNode", "RenameNode", "ExpireNode", "DeleteNode"}

// rpcs are all that the service has.
func rpcs() (all []protoreflect.MethodDescriptor) {
	methods := headscalev1.File_headscale_v1_headscale_proto.Services().ByName("HeadscaleService").Methods()
	for i := range methods.Len() {
		all = append(all, methods.Get(i))
	}
	return all
}

// scopeOf is what an rpc needs.
func scopeOf(t *testing.T, rpc string) string {
	t.Helper()
	for scope, list := range needed {
		if slices.Contains(strings.Fields(list), rpc) {
			return strings.TrimPrefix(scope, "-")
		}
	}
	t.Fatalf("%s: no scope is known, want it in the table above", rpc)
	return ""
}

// message makes an empty one.
func message(t *testing.T, d protoreflect.MessageDescriptor) proto.Message {
	t.Helper()
	kind, err := protoregistry.GlobalTypes.FindMessageByName(d.FullName())
	if err != nil {
		t.Fatal(err)
	}
	return kind.New().Interface()
}

// invoke makes a call at the remote door.
func (b *bench) invoke(t *testing.T, ctx context.Context, rpc protoreflect.MethodDescriptor, req proto.Message) (string, error) {
	t.Helper()
	resp := message(t, rpc.Output())
	err := b.remoteConn.Invoke(ctx, fmt.Sprintf("/headscale.v1.HeadscaleService/%s", rpc.Name()), req, resp)
	return protojson.Format(resp), err
}

// grant makes a key that is not everybody's.
func (b *bench) grant(t *testing.T, k tailnet.APIKey) context.Context {
	t.Helper()
	_, secret, err := b.store.CreateAPIKey(t.Context(), k)
	if err != nil {
		t.Fatal(err)
	}
	return bearer(t, secret.Reveal())
}

// forbidden reports whether an error is that of a missing scope.
func forbidden(err error) bool {
	return status.Code(err) == codes.PermissionDenied && strings.Contains(status.Convert(err).Message(), "needs the scope")
}

// written is how much the audit log has: each change is there.
func (b *bench) written(t *testing.T) uint64 {
	t.Helper()
	head, err := b.store.AuditHead(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return head.ID
}

// TestEveryRPCWithEveryScope: a scope opens what it is for, and nothing else; one that only reads writes nothing.
func TestEveryRPCWithEveryScope(t *testing.T) {
	b := newBench(t)
	w := b.populate(t, "")
	keys := map[string]context.Context{}
	for _, scope := range tailnet.Scopes() {
		keys[scope] = b.grant(t, tailnet.APIKey{Scopes: []string{scope}})
	}
	for _, rpc := range rpcs() {
		need := scopeOf(t, string(rpc.Name()))
		for _, scope := range slices.Sorted(maps.Keys(keys)) {
			if scope == tailnet.ScopeAll {
				continue // some calls would take the world away from those after them
			}
			req := message(t, rpc.Input())
			if strings.HasSuffix(scope, ":read") {
				w.fill(string(rpc.Name()), req)
			}
			before := b.written(t)
			_, err := b.invoke(t, keys[scope], rpc, req)
			may := need == "" || tailnet.ScopesCover([]string{scope}, need)
			if got := !forbidden(err); got != may {
				t.Errorf("%s with %s: got %v, want it permitted: %v", rpc.Name(), scope, err, may)
			}
			if after := b.written(t); after != before && strings.HasSuffix(scope, ":read") {
				t.Errorf("%s with %s: got %d changes, want none", rpc.Name(), scope, after-before)
			}
		}
	}
	for _, rpc := range rpcs() {
		if _, err := b.invoke(t, keys[tailnet.ScopeAll], rpc, message(t, rpc.Input())); forbidden(err) {
			t.Errorf("%s with all: got %v", rpc.Name(), err)
		}
		if _, err := b.invoke(t, t.Context(), rpc, message(t, rpc.Input())); status.Code(err) != codes.Unauthenticated {
			t.Errorf("%s without a key: got %v", rpc.Name(), err)
		}
	}
}

// theirs is a tailnet full of things, by what requests call them.
type theirs map[string]any

// marker is in every name of a populated tailnet.
const marker = "zanzibar"

// populate makes a user, a node, keys and so on, of which others must see nothing. An empty name is the default tailnet.
func (b *bench) populate(t *testing.T, tailnetName string) theirs {
	t.Helper()
	ctx := t.Context()
	tn, err := b.store.FindTailnet(ctx, tailnetName)
	if err != nil {
		t.Fatal(err)
	}
	u := b.user(t, marker+"-user", tailnetName)
	n := b.node(t, marker+"-node", u.GetName(), tailnetName, "10.2.0.0/16")
	pre, err := b.CreatePreAuthKey(ctx, &headscalev1.CreatePreAuthKeyRequest{User: u.GetId(), Description: marker})
	if err != nil {
		t.Fatal(err)
	}
	k, _, err := b.store.CreateAPIKey(ctx, tailnet.APIKey{TailnetID: tn.ID, UserID: tailnet.UserID(u.GetId()), Scopes: []string{"all"}, Description: marker})
	if err != nil {
		t.Fatal(err)
	}
	o, _, err := b.store.CreateOAuthClient(ctx, tailnet.OAuthClient{
		TailnetID: tn.ID, UserID: tailnet.UserID(u.GetId()), Kind: tailnet.ClientBySecret, Scopes: []string{"all"}, Description: marker,
	})
	if err != nil {
		t.Fatal(err)
	}
	rk, relaySecret, err := b.store.CreateRelayKey(ctx, tailnet.RelayKey{TailnetID: tn.ID, Reusable: true, Description: marker})
	if err != nil {
		t.Fatal(err)
	}
	r, err := b.store.EnrolRelay(ctx, store.RelayEnrolment{Key: relaySecret.Reveal(), MachineKey: newMachine(), Region: marker})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := b.SetPolicy(ctx, &headscalev1.SetPolicyRequest{Policy: "{/* " + marker + " */}", Tailnet: tailnetName}); err != nil {
		t.Fatal(err)
	}
	link := "https://" + marker + ".example.com/policy"
	if _, err := b.SetSettings(ctx, &headscalev1.SetSettingsRequest{Tailnet: tailnetName, PolicyLink: &link}); err != nil {
		t.Fatal(err)
	}
	routes, err := b.GetRoutes(ctx, &headscalev1.GetRoutesRequest{Tailnet: tn.Name})
	if err != nil {
		t.Fatal(err)
	}
	return theirs{
		"tailnet": tn.Name, "node_id": n.GetId(), "user#": u.GetId(), "user": u.GetName(), "user_ref": u.GetName(), "old_id": u.GetId(),
		"route_id": routes.GetRoutes()[0].GetId(), "client_id": o.Prefix, "relay": r.Name, "prefix": k.Prefix, "version": uint64(1),
		"RenameUser.new_name": "other", "RenameNode.new_name": "other", "SetUserRole.role": "owner",
		"id of a user": u.GetId(), "id of a pre-auth key": pre.GetPreAuthKey().GetId(), "id of a relay key": uint64(rk.ID),
		"DeleteTailnet.name": tn.Name,
	}
}

// fill names them in a request.
func (w theirs) fill(rpc string, req proto.Message) {
	m := req.ProtoReflect()
	fields := m.Descriptor().Fields()
	for i := range fields.Len() {
		f := fields.Get(i)
		name := string(f.Name())
		v, there := w[rpc+"."+name]
		switch {
		case there:
		case name == "id" && strings.HasSuffix(rpc, "User") || name == "id" && rpc == "SetUserRole":
			v = w["id of a user"]
		case name == "id" && strings.HasSuffix(rpc, "PreAuthKey"):
			v = w["id of a pre-auth key"]
		case name == "id" && strings.HasSuffix(rpc, "RelayKey"):
			v = w["id of a relay key"]
		case name == "user" && f.Kind() == protoreflect.Uint64Kind:
			v = w["user#"]
		case name == "user_ref" && rpc == "CreatePreAuthKey", name == "page_token":
		default:
			v = w[name]
		}
		switch v := v.(type) {
		case string:
			m.Set(f, protoreflect.ValueOfString(v))
		case uint64:
			m.Set(f, protoreflect.ValueOfUint64(v))
		}
	}
}

// TestEveryRPCForStrangers: a key of another tailnet, and one of another user, see nothing and change nothing, whatever
// they ask.
func TestEveryRPCForStrangers(t *testing.T) {
	for name, c := range map[string]struct {
		key   func(t *testing.T, b *bench) context.Context
		calls []string // those that do not lack a scope; nil: all
	}{
		"another tailnet": {key: func(t *testing.T, b *bench) context.Context {
			b.tailnet(t, "lab")
			lab, err := b.store.FindTailnet(t.Context(), "lab")
			if err != nil {
				t.Fatal(err)
			}
			return b.grant(t, tailnet.APIKey{TailnetID: lab.ID, Scopes: []string{"all"}})
		}},
		"owner of another tailnet": {key: func(t *testing.T, b *bench) context.Context {
			b.tailnet(t, "lab")
			u := b.user(t, "lena", "lab")
			if _, err := b.SetUserRole(t.Context(), &headscalev1.SetUserRoleRequest{Id: u.GetId(), Role: "owner"}); err != nil {
				t.Fatal(err)
			}
			return b.grant(t, tailnet.APIKey{UserID: tailnet.UserID(u.GetId()), Scopes: []string{"all"}})
		}},
		"another user": {calls: forMembers, key: func(t *testing.T, b *bench) context.Context {
			return b.grant(t, tailnet.APIKey{UserID: tailnet.UserID(b.user(t, "bob", "").GetId()), Scopes: []string{"all"}})
		}},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			w := b.populate(t, "")
			ctx := c.key(t, b)
			before := b.written(t)
			for _, rpc := range rpcs() {
				req := message(t, rpc.Input())
				w.fill(string(rpc.Name()), req)
				answer, err := b.invoke(t, ctx, rpc, req)
				if strings.Contains(answer, marker) || strings.Contains(status.Convert(err).Message(), marker+" ") {
					t.Errorf("%s: got %s, %v, want nothing of others", rpc.Name(), answer, err)
				}
				if may := c.calls == nil || slices.Contains(c.calls, string(rpc.Name())); forbidden(err) == may {
					t.Errorf("%s: got %v, want it permitted: %v", rpc.Name(), err, may)
				}
			}
			entries, err := b.store.ListAudit(t.Context(), store.AuditFilter{After: before})
			if err != nil {
				t.Fatal(err)
			}
			for _, e := range entries {
				if e.TailnetID <= 1 {
					t.Errorf("got %s of %s %q in tailnet %d, want nothing changed", e.Action, e.Kind, e.TargetName, e.TailnetID)
				}
			}
		})
	}
}

// TestKeyOfUser: a key does no more than its user may, and a member has their own nodes.
func TestKeyOfUser(t *testing.T) {
	b := newBench(t)
	alice := b.user(t, "alice", "")
	node := b.node(t, "box", "alice", "")
	ctx := b.grant(t, tailnet.APIKey{UserID: tailnet.UserID(alice.GetId()), Scopes: []string{"all"}})
	readOnly := b.grant(t, tailnet.APIKey{UserID: tailnet.UserID(alice.GetId()), Scopes: []string{"all:read"}})
	r := b.remote
	rename := func(ctx context.Context, name string) error {
		_, err := r.RenameNode(ctx, &headscalev1.RenameNodeRequest{NodeId: node.GetId(), NewName: name})
		return err
	}
	if err := rename(ctx, "mine"); err != nil {
		t.Errorf("one's own node: got %v, want none", err)
	}
	refused(t, rename(readOnly, "other"), codes.PermissionDenied, "needs the scope devices:core")
	nodes, err := r.ListNodes(readOnly, &headscalev1.ListNodesRequest{})
	if err != nil || !slices.Equal(given(nodes.GetNodes()), []string{"mine"}) {
		t.Errorf("one's own nodes: got %v, %v", given(nodes.GetNodes()), err)
	}
	_, err = r.ExpireNode(ctx, &headscalev1.ExpireNodeRequest{NodeId: node.GetId(), DisableExpiry: true})
	refused(t, err, codes.PermissionDenied, "sooner, not later")
	_, err = r.CreateUser(ctx, &headscalev1.CreateUserRequest{Name: "eve"})
	refused(t, err, codes.PermissionDenied, "role of its user")

	role := func(name string) {
		t.Helper()
		if _, err := b.SetUserRole(t.Context(), &headscalev1.SetUserRoleRequest{Id: alice.GetId(), Role: name}); err != nil {
			t.Fatal(err)
		}
	}
	role("it-admin")
	made, err := r.CreateUser(ctx, &headscalev1.CreateUserRequest{Name: "eve"})
	if err != nil {
		t.Fatalf("as it-admin: got %v, want none", err)
	}
	for _, higher := range []string{"owner", "admin", "network-admin"} {
		_, err = r.SetUserRole(ctx, &headscalev1.SetUserRoleRequest{Id: made.GetUser().GetId(), Role: higher})
		refused(t, err, codes.PermissionDenied, "cannot do this with one of the role "+higher)
	}
	_, err = r.SetPolicy(ctx, &headscalev1.SetPolicyRequest{Policy: "{}"})
	refused(t, err, codes.PermissionDenied, "policy_file")
	_, err = r.CreateApiKey(ctx, &headscalev1.CreateApiKeyRequest{UserRef: "eve"})
	refused(t, err, codes.PermissionDenied, "for that user only")
	_, err = r.CreateApiKey(ctx, &headscalev1.CreateApiKeyRequest{Scopes: []string{"all"}})
	refused(t, err, codes.PermissionDenied, "does not have the scope all itself")
	child, err := r.CreateApiKey(ctx, &headscalev1.CreateApiKeyRequest{Scopes: []string{"users"}, ReadOnly: true})
	if err != nil || child.GetKey().GetUser().GetName() != "alice" || !slices.Equal(child.GetKey().GetScopes(), []string{"users:read"}) {
		t.Errorf("a key that a key made: got %v, %v, want alice's with users:read", child.GetKey(), err)
	}
	_, err = r.DeleteUser(bearer(t, child.GetApiKey()), &headscalev1.DeleteUserRequest{Id: made.GetUser().GetId()})
	refused(t, err, codes.PermissionDenied, "needs the scope users")

	role("auditor")
	_, err = r.CreateUser(ctx, &headscalev1.CreateUserRequest{Name: "mallory"})
	refused(t, err, codes.PermissionDenied, "needs the scope users")
	if _, err := r.GetPolicy(ctx, &headscalev1.GetPolicyRequest{}); status.Code(err) == codes.PermissionDenied {
		t.Errorf("as auditor: got %v for the policy, want it shown", err)
	}
}

// The same holds over HTTP.
func TestScopesOverHTTP(t *testing.T) {
	b := newBench(t)
	b.user(t, "alice", "")
	_, secret, err := b.store.CreateAPIKey(t.Context(), tailnet.APIKey{Scopes: []string{"users:read"}})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		method, path, body string
		want               int
	}{
		{"GET", "/api/v1/user", "", 200},
		{"GET", "/api/v1/namespace", "", 200},
		{"POST", "/api/v1/user", `{"name": "eve"}`, 403},
		{"DELETE", "/api/v1/user/1", "", 403},
		{"GET", "/api/v1/node", "", 403},
		{"GET", "/api/v1/machine", "", 403},
		{"GET", "/api/v1/apikey", "", 403},
		{"POST", "/api/v1/oauthclient", `{"scopes": ["users:read"]}`, 403},
		{"PUT", "/api/v1/policy", `nonsense`, 403}, // before the body is read
	} {
		got, answer := b.ask(t, c.method, c.path, secret.Reveal(), c.body)
		if got != c.want || got == 403 && !strings.Contains(fmt.Sprint(answer["detail"]), "needs the scope") {
			t.Errorf("%s %s: got %d %v, want %d", c.method, c.path, got, answer["detail"], c.want)
		}
	}
}
