package tailnet

import (
	"fmt"
	"slices"
	"strings"
)

// Scopes that stand for all others: everything, and everything as long as it only reads.
const (
	ScopeAll     = "all"
	ScopeAllRead = "all:read"
)

// ScopeOwnDevices is what members may do with their own devices. No key is made with it: it is a part of devices:core.
const ScopeOwnDevices = "devices:own"

// readSuffix is what a scope ends with that only reads.
const readSuffix = ":read"

// scopes are Tailscale's names of what a key may do; each but those of the logs also with :read. None changes.
var scopes = []string{
	ScopeAll,
	"account_settings", // contacts
	"api_access_tokens",
	"auth_keys",
	"device_invites",
	"devices:core",
	"devices:posture_attributes",
	"devices:routes",
	"dns",
	"feature_settings",
	"federated_keys",
	"log_streaming",
	"logs:configuration", // the audit log
	"logs:network",
	"networking_settings", // and relays
	"oauth_keys",
	"policy_file",
	"services",
	"tailnets", // to make some
	"user_invites",
	"users",
	"webhooks",
}

// Scopes are all that there are, in the order of the alphabet.
func Scopes() []string {
	list := make([]string, 0, 2*len(scopes))
	for _, s := range scopes {
		list = append(list, s, s+readSuffix)
	}
	slices.Sort(list)
	return list
}

// ValidateScopes returns scopes sorted and each once, or says which is none. At least one is needed.
func ValidateScopes(list []string) ([]string, error) {
	if len(list) == 0 {
		return nil, fmt.Errorf("%w: say which scopes: %q for everything, %q for everything as long as it only reads", ErrInvalid, ScopeAll, ScopeAllRead)
	}
	for _, s := range list {
		if !slices.Contains(scopes, strings.TrimSuffix(s, readSuffix)) {
			return nil, fmt.Errorf("%w: there is no scope %q: they are %s, each also with :read", ErrInvalid, s, strings.Join(scopes, ", "))
		}
	}
	list = slices.Clone(list)
	slices.Sort(list)
	return slices.Compact(list), nil
}

// ReadOnly are the same scopes, reading only.
func ReadOnly(list []string) []string {
	out := make([]string, len(list))
	for i, s := range list {
		out[i] = strings.TrimSuffix(s, readSuffix) + readSuffix
	}
	return out
}

// ScopesCover reports whether one of the scopes is the one that is wanted, or implies it: who may write may read.
func ScopesCover(list []string, want string) bool {
	return slices.ContainsFunc(list, func(s string) bool { return implies(s, want) })
}

func implies(s, want string) bool {
	switch {
	case s == want, s == ScopeAll:
		return true
	case s == ScopeAllRead:
		return strings.HasSuffix(want, readSuffix)
	}
	return s+readSuffix == want || s == "devices:core" && want == ScopeOwnDevices
}

// ScopesInBoth are the scopes for what both lists allow.
func ScopesInBoth(a, b []string) []string {
	both := []string{}
	for _, s := range a {
		for _, t := range b {
			switch {
			case implies(s, t):
				both = append(both, t)
			case implies(t, s):
				both = append(both, s)
			case implies(s, t+readSuffix):
				both = append(both, t+readSuffix)
			case implies(t, s+readSuffix):
				both = append(both, s+readSuffix)
			}
		}
	}
	slices.Sort(both)
	return slices.Compact(both)
}

// RoleScopes are what a user of a role may do at most. A member has no part in administration, and sees and changes only
// what is their own.
func RoleScopes(role string) []string {
	switch role {
	case "owner", "admin":
		return []string{ScopeAll}
	case "it-admin":
		return []string{ScopeAllRead, "api_access_tokens", "auth_keys", "device_invites", "devices:core", "devices:posture_attributes",
			"devices:routes", "feature_settings", "user_invites", "users"}
	case "network-admin":
		return []string{ScopeAllRead, "api_access_tokens", "devices:routes", "dns", "log_streaming", "networking_settings", "policy_file", "services"}
	case "billing-admin", "auditor":
		return []string{ScopeAllRead}
	}
	return []string{"devices:core:read", ScopeOwnDevices, "users:read"}
}
