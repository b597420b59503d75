package api

import (
	"fmt"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	headscalev1 "github.com/keelscale/keelscale/proto/headscale/v1"

	"github.com/keelscale/keelscale/hscontrol/tailnet"
)

// operation is a method and a path, and the rpc that they stand for. Wildcards of the path are fields of the request.
type operation struct {
	method, path, rpc string

	// until is the last release that had it; empty: it is current.
	until string
	// older are the words of that time for machine and namespace.
	older olderWords
	// user is the field with the ID of a user, who may be named instead.
	user string
	// answer makes something else of the answer. Nil: it stays.
	answer func(proto.Message) (proto.Message, error)
	// said makes something else of a refusal's sentence. Nil: it stays.
	said func(code codes.Code, text string) string
	// hinted is what older clients read instead of it, with the words that they look for. Nil: the same.
	hinted func(code codes.Code, text string) string
}

// explain is the error as this operation says it.
func (o operation) explain(err error) error {
	if o.said == nil {
		return err
	}
	s := status.Convert(err)
	return status.Error(s.Code(), o.said(s.Code(), s.Message()))
}

// operations are all that can be asked: those of today, then those of older releases.
func operations() []operation {
	return append(todays(), olderOperations()...)
}

func todays() []operation {
	return []operation{
		{method: "GET", path: "/user", rpc: "ListUsers"},
		{method: "POST", path: "/user", rpc: "CreateUser"},
		{method: "POST", path: "/user/{old_id}/rename/{new_name}", rpc: "RenameUser", user: "old_id"},
		{method: "POST", path: "/user/{id}/role", rpc: "SetUserRole", user: "id"},
		{method: "DELETE", path: "/user/{id}", rpc: "DeleteUser", user: "id"},

		{method: "GET", path: "/preauthkey", rpc: "ListPreAuthKeys"},
		{method: "POST", path: "/preauthkey", rpc: "CreatePreAuthKey"},
		{method: "POST", path: "/preauthkey/expire", rpc: "ExpirePreAuthKey"},
		{method: "DELETE", path: "/preauthkey", rpc: "DeletePreAuthKey"},

		{method: "GET", path: "/node", rpc: "ListNodes"},
		{method: "POST", path: "/node/register", rpc: "RegisterNode"},
		{method: "POST", path: "/node/backfillips", rpc: "BackfillNodeIPs"},
		{method: "GET", path: "/node/{node_id}", rpc: "GetNode"},
		{method: "DELETE", path: "/node/{node_id}", rpc: "DeleteNode"},
		{method: "POST", path: "/node/{node_id}/expire", rpc: "ExpireNode"},
		{method: "POST", path: "/node/{node_id}/rename/{new_name}", rpc: "RenameNode"},
		{method: "POST", path: "/node/{node_id}/tags", rpc: "SetTags"},
		{method: "POST", path: "/node/{node_id}/approve_routes", rpc: "SetApprovedRoutes"},
		{method: "POST", path: "/node/{node_id}/addresses", rpc: "SetNodeAddresses"},
		{method: "POST", path: "/node/{node_id}/authorize", rpc: "AuthorizeNode"},
		{method: "POST", path: "/debug/node", rpc: "DebugCreateNode"},

		{method: "POST", path: "/auth/register", rpc: "AuthRegister"},
		{method: "POST", path: "/auth/approve", rpc: "AuthApprove"},
		{method: "POST", path: "/auth/reject", rpc: "AuthReject"},

		{method: "GET", path: "/apikey", rpc: "ListApiKeys"},
		{method: "POST", path: "/apikey", rpc: "CreateApiKey"},
		{method: "POST", path: "/apikey/expire", rpc: "ExpireApiKey"},
		{method: "DELETE", path: "/apikey/{prefix}", rpc: "DeleteApiKey"},

		{method: "GET", path: "/oauthclient", rpc: "ListOAuthClients"},
		{method: "POST", path: "/oauthclient", rpc: "CreateOAuthClient"},
		{method: "DELETE", path: "/oauthclient/{client_id}", rpc: "DeleteOAuthClient"},

		{method: "GET", path: "/policy", rpc: "GetPolicy", said: noPolicy},
		{method: "PUT", path: "/policy", rpc: "SetPolicy", hinted: badPolicy},
		{method: "POST", path: "/policy/check", rpc: "CheckPolicy", hinted: badPolicy},
		{method: "POST", path: "/policy/test", rpc: "TestPolicy"},
		{method: "POST", path: "/policy/diff", rpc: "DiffPolicy"},
		{method: "POST", path: "/policy/explain", rpc: "ExplainPolicy"},
		{method: "GET", path: "/policy/versions", rpc: "ListPolicyVersions"},
		{method: "POST", path: "/policy/rollback", rpc: "RollbackPolicy"},

		{method: "GET", path: "/tailnet", rpc: "ListTailnets"},
		{method: "POST", path: "/tailnet", rpc: "CreateTailnet"},
		{method: "DELETE", path: "/tailnet/{name}", rpc: "DeleteTailnet"},

		{method: "GET", path: "/relay", rpc: "ListRelays"},
		{method: "DELETE", path: "/relay/{relay}", rpc: "RemoveRelay"},
		{method: "POST", path: "/relay/{relay}/drain", rpc: "DrainRelay"},
		{method: "POST", path: "/relay/{relay}/rename", rpc: "RenameRelay"},
		{method: "GET", path: "/relaykey", rpc: "ListRelayKeys"},
		{method: "POST", path: "/relaykey", rpc: "CreateRelayKey"},
		{method: "DELETE", path: "/relaykey", rpc: "DeleteRelayKey"},

		{method: "GET", path: "/audit", rpc: "ListAudit"},
		{method: "GET", path: "/audit/verify", rpc: "VerifyAudit"},
		{method: "GET", path: "/webhook", rpc: "ListWebhooks"},
		{method: "POST", path: "/webhook", rpc: "CreateWebhook"},
		{method: "GET", path: "/webhook/{id}", rpc: "GetWebhook"},
		{method: "DELETE", path: "/webhook/{id}", rpc: "DeleteWebhook"},
		{method: "POST", path: "/webhook/{id}/test", rpc: "TestWebhook"},
		{method: "POST", path: "/webhook/{id}/rotate", rpc: "RotateWebhook"},

		{method: "GET", path: "/settings", rpc: "GetSettings"},
		{method: "PATCH", path: "/settings", rpc: "SetSettings"},

		{method: "GET", path: "/health", rpc: "Health"},
		{method: "GET", path: "/status", rpc: "GetStatus"},
		{method: "POST", path: "/reload", rpc: "Reload"},
		{method: "GET", path: "/derpmap", rpc: "GetDERPMap"},
	}
}

// olderOperations are those that user interfaces still use, of releases since 0.15.
func olderOperations() []operation {
	nodes := func(until, family string, older olderWords) []operation {
		return []operation{
			{method: "GET", path: family + "/{node_id}/routes", rpc: "GetNodeRoutes", until: "0.25", older: older},
			{method: "POST", path: family + "/{node_id}/user", rpc: "MoveNode", until: "0.27", older: older},
			{method: "POST", path: family + "/{node_id}/namespace", rpc: "MoveNode", until: "0.18", older: older},
		}
	}
	ops := append(nodes("0.25", "/node", 0),
		operation{method: "GET", path: "/routes", rpc: "GetRoutes", until: "0.25", older: withMachine},
		operation{method: "POST", path: "/routes/{route_id}/enable", rpc: "EnableRoute", until: "0.25"},
		operation{method: "POST", path: "/routes/{route_id}/disable", rpc: "DisableRoute", until: "0.25"},
		operation{method: "DELETE", path: "/routes/{route_id}", rpc: "DeleteRoute", until: "0.25"},
		operation{method: "GET", path: "/user/{id}", rpc: "ListUsers", user: "id", answer: onlyUser, until: "0.23"},
	)
	ops = append(ops, nodes("0.22", "/machine", machineFamily)...)
	for _, op := range todays() {
		rest, isNode := strings.CutPrefix(op.path, "/node")
		if isNode && (rest == "" || rest[0] == '/') && op.rpc != "SetNodeAddresses" && op.rpc != "AuthorizeNode" {
			op.path, op.until, op.older = "/machine"+rest, "0.22", machineFamily
			ops = append(ops, op)
		}
		rest, isUser := strings.CutPrefix(op.path, "/user")
		if isUser && op.rpc != "SetUserRole" {
			op.path, op.until, op.older = "/namespace"+rest, "0.18", namespaceFamily
			ops = append(ops, op)
		}
	}
	return append(ops,
		operation{method: "GET", path: "/namespace/{id}", rpc: "ListUsers", user: "id", answer: onlyUser, until: "0.18", older: namespaceFamily},
		operation{method: "POST", path: "/debug/machine", rpc: "DebugCreateNode", until: "0.22", older: machineFamily},
	)
}

// onlyUser is the answer of GetUser, made of that of ListUsers.
func onlyUser(m proto.Message) (proto.Message, error) {
	users := m.(*headscalev1.ListUsersResponse).GetUsers()
	if len(users) != 1 {
		return nil, fmt.Errorf("%w: this user", tailnet.ErrNotFound)
	}
	return &headscalev1.CreateUserResponse{User: users[0]}, nil
}

// noPolicy says that there is none in the words that user interfaces look for.
func noPolicy(code codes.Code, text string) string {
	if code == codes.NotFound {
		return "acl policy not found: " + strings.TrimPrefix(text, "not found: ")
	}
	return text
}

// badPolicy says in the words that headplane looks for whether the fault is in the text, which it then shows beside the
// text, or whether the policy is a file.
func badPolicy(code codes.Code, text string) string {
	switch code {
	case codes.InvalidArgument:
		return "parsing policy from bytes: " + text
	case codes.FailedPrecondition:
		return "update is disabled for modes other than 'database': " + text
	}
	return text
}
