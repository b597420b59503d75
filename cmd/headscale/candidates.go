package main

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/tailscale/hujson"

	headscalev1 "github.com/keelscale/keelscale/proto/headscale/v1"
)

// What the server has, as candidates: a function a noun, by what the command lines name it.

func nodesByAny(q *question) (out []string, err error) {
	err = q.look(func(ctx context.Context, server client) error {
		resp, err := server.ListNodes(ctx, &headscalev1.ListNodesRequest{Tailnet: q.tailnet})
		for _, n := range resp.GetNodes() {
			out = append(out, candidate(number(n.GetId()), n.GetGivenName(), n.GetUser().GetName(), online(n)))
		}
		for _, n := range resp.GetNodes() {
			out = append(out, candidate(n.GetGivenName(), "node "+number(n.GetId()), n.GetUser().GetName(), online(n)))
		}
		return err
	})
	return out, err
}

func (q *question) users(word func(*headscalev1.User) string) (out []string, err error) {
	err = q.look(func(ctx context.Context, server client) error {
		resp, err := server.ListUsers(ctx, &headscalev1.ListUsersRequest{Tailnet: q.tailnet})
		for _, u := range resp.GetUsers() {
			if w := word(u); w != "" {
				out = append(out, candidate(w, "user "+number(u.GetId()), u.GetDisplayName(), u.GetEmail()))
			}
		}
		return err
	})
	return out, err
}

func userNames(q *question) ([]string, error) { return q.users((*headscalev1.User).GetName) }

func userIDs(q *question) ([]string, error) {
	return q.users(func(u *headscalev1.User) string { return number(u.GetId()) })
}

// users are those of flags that take a name, an e-mail address or an ID.
func users(q *question) ([]string, error) {
	byName, err := userNames(q)
	if err != nil {
		return nil, err
	}
	byMail, err := q.users((*headscalev1.User).GetEmail)
	if err != nil {
		return nil, err
	}
	byID, err := userIDs(q)
	return slices.Concat(byName, byMail, byID), err
}

func tailnets(q *question) (out []string, err error) {
	err = q.look(func(ctx context.Context, server client) error {
		resp, err := server.ListTailnets(ctx, &headscalev1.ListTailnetsRequest{})
		for _, t := range resp.GetTailnets() {
			out = append(out, candidate(t.GetName(), fmt.Sprintf("%d users", t.GetUsers()), fmt.Sprintf("%d nodes", t.GetNodes())))
		}
		return err
	})
	return out, err
}

// tags are those that the policy knows.
func tags(q *question) (out []string, err error) {
	err = q.look(func(ctx context.Context, server client) error {
		resp, err := server.GetPolicy(ctx, &headscalev1.GetPolicyRequest{Tailnet: q.tailnet})
		if err != nil {
			return err
		}
		text, err := hujson.Standardize([]byte(resp.GetPolicy()))
		if err != nil {
			return fmt.Errorf("reading the policy: %w", err)
		}
		var p struct{ TagOwners map[string]json.RawMessage }
		if err := json.Unmarshal(text, &p); err != nil {
			return fmt.Errorf("reading the policy: %w", err)
		}
		for _, tag := range slices.Sorted(maps.Keys(p.TagOwners)) {
			out = append(out, oneLine(tag))
		}
		return nil
	})
	return out, err
}

func routesByAny(q *question) (out []string, err error) {
	node, _ := q.cmd.Flags().GetString("identifier") // every command with --route has it
	if node != "" {
		return routesOfNode(q)
	}
	err = q.look(func(ctx context.Context, server client) error {
		resp, err := server.GetRoutes(ctx, &headscalev1.GetRoutesRequest{Tailnet: q.tailnet})
		for _, r := range resp.GetRoutes() {
			state := "not enabled"
			if r.GetEnabled() {
				state = "enabled"
			}
			out = append(out, candidate(number(r.GetId()), r.GetPrefix(), r.GetNode().GetGivenName(), state))
		}
		return err
	})
	return out, err
}

// routesOfNode are the prefixes of the node that the command line names before.
func routesOfNode(q *question) (out []string, err error) {
	ref, _ := q.cmd.Flags().GetString("identifier") // every command with routes has it
	if ref == "" && len(q.args) > 0 {
		ref = q.args[0]
	}
	if ref == "" {
		return nil, nil
	}
	err = q.look(func(ctx context.Context, server client) error {
		id, err := q.nodeID(ctx, server, ref)
		if err != nil {
			return err
		}
		resp, err := server.GetNodeRoutes(ctx, &headscalev1.GetNodeRoutesRequest{NodeId: id})
		for _, r := range resp.GetRoutes() {
			out = append(out, candidate(r.GetPrefix(), r.GetNode().GetGivenName()))
		}
		return err
	})
	return out, err
}

func (q *question) preAuthKeys(word func(*headscalev1.PreAuthKey) string) (out []string, err error) {
	err = q.look(func(ctx context.Context, server client) error {
		resp, err := server.ListPreAuthKeys(ctx, &headscalev1.ListPreAuthKeysRequest{Tailnet: firstOf(q.tailnet, "*")})
		for _, k := range resp.GetPreAuthKeys() {
			out = append(out, candidate(word(k), "key "+number(k.GetId()), firstOf(list(k.GetAclTags()), k.GetUser().GetName()),
				"expires "+when(k.GetExpiration(), "never"), k.GetDescription()))
		}
		return err
	})
	return out, err
}

func preAuthKeyIDs(q *question) ([]string, error) {
	return q.preAuthKeys(func(k *headscalev1.PreAuthKey) string { return number(k.GetId()) })
}

// preAuthKeyPrefixes are what a list shows of the keys, without the stars, which shells would take for a pattern.
func preAuthKeyPrefixes(q *question) ([]string, error) {
	return q.preAuthKeys(func(k *headscalev1.PreAuthKey) string { return strings.TrimRight(k.GetKey(), "-*") })
}

func (q *question) apiKeys(word func(*headscalev1.ApiKey) string) (out []string, err error) {
	err = q.look(func(ctx context.Context, server client) error {
		resp, err := server.ListApiKeys(ctx, &headscalev1.ListApiKeysRequest{})
		for _, k := range resp.GetApiKeys() {
			out = append(out, candidate(word(k), "key "+number(k.GetId()), k.GetPrefix(), "expires "+when(k.GetExpiration(), "never")))
		}
		return err
	})
	return out, err
}

func apiKeyIDs(q *question) ([]string, error) {
	return q.apiKeys(func(k *headscalev1.ApiKey) string { return number(k.GetId()) })
}

func apiKeyPrefixes(q *question) ([]string, error) { return q.apiKeys((*headscalev1.ApiKey).GetPrefix) }

func oauthClientIDs(q *question) (out []string, err error) {
	err = q.look(func(ctx context.Context, server client) error {
		resp, err := server.ListOAuthClients(ctx, &headscalev1.ListOAuthClientsRequest{})
		for _, o := range resp.GetClients() {
			out = append(out, candidate(o.GetClientId(), list(o.GetScopes()), o.GetDescription()))
		}
		return err
	})
	return out, err
}

func relayKeyIDs(q *question) (out []string, err error) {
	err = q.look(func(ctx context.Context, server client) error {
		resp, err := server.ListRelayKeys(ctx, &headscalev1.ListRelayKeysRequest{})
		for _, k := range resp.GetRelayKeys() {
			out = append(out, candidate(number(k.GetId()), k.GetKey(), "expires "+when(k.GetExpiration(), "never"), k.GetDescription()))
		}
		return err
	})
	return out, err
}

func relays(q *question) (out []string, err error) {
	err = q.look(func(ctx context.Context, server client) error {
		resp, err := server.ListRelays(ctx, &headscalev1.ListRelaysRequest{})
		for _, r := range resp.GetRelays() {
			if !r.GetEmbedded() {
				out = append(out, candidate(r.GetName(), fmt.Sprintf("%d %s", r.GetRegionId(), r.GetRegionCode())))
			}
		}
		return err
	})
	return out, err
}

func policyVersions(q *question) (out []string, err error) {
	err = q.look(func(ctx context.Context, server client) error {
		resp, err := server.ListPolicyVersions(ctx, &headscalev1.ListPolicyVersionsRequest{Tailnet: q.tailnet})
		for _, v := range resp.GetVersions() {
			out = append(out, candidate(number(v.GetVersion()), when(v.GetCreatedAt(), ""), v.GetAuthor(), v.GetNote()))
		}
		return err
	})
	return out, err
}
