package api

import (
	"context"
	"fmt"
	"strings"

	headscalev1 "github.com/keelscale/keelscale/proto/headscale/v1"

	"github.com/keelscale/keelscale/hscontrol/api/access"
	"github.com/keelscale/keelscale/hscontrol/tailnet"
)

// need is what a caller needs for an rpc.
type need struct {
	scope string // empty: a key is enough
	own   string // enough for a user who asks only for what is theirs; empty: there is nothing for them
}

// needs has each rpc. One that is not here is open to nobody over the network.
var needs = map[string]need{
	"ListUsers":   {scope: "users:read"},
	"CreateUser":  {scope: "users"},
	"RenameUser":  {scope: "users"},
	"DeleteUser":  {scope: "users"},
	"SetUserRole": {scope: "users"},

	"ListPreAuthKeys":  {scope: "auth_keys:read"},
	"CreatePreAuthKey": {scope: "auth_keys"},
	"ExpirePreAuthKey": {scope: "auth_keys"},
	"DeletePreAuthKey": {scope: "auth_keys"},

	"ListNodes":        {scope: "devices:core:read"},
	"GetNode":          {scope: "devices:core:read"},
	"RenameNode":       {scope: "devices:core", own: tailnet.ScopeOwnDevices},
	"ExpireNode":       {scope: "devices:core", own: tailnet.ScopeOwnDevices},
	"DeleteNode":       {scope: "devices:core", own: tailnet.ScopeOwnDevices},
	"SetTags":          {scope: "devices:core"},
	"MoveNode":         {scope: "devices:core"},
	"SetNodeAddresses": {scope: "devices:core"},
	"AuthorizeNode":    {scope: "devices:core"},
	"BackfillNodeIPs":  {scope: "devices:core"},
	"DebugCreateNode":  {scope: "devices:core"},
	"RegisterNode":     {scope: "devices:core"},
	"AuthRegister":     {scope: "devices:core"},
	"AuthApprove":      {scope: "devices:core"},
	"AuthReject":       {scope: "devices:core"},

	"GetRoutes":         {scope: "devices:routes:read"},
	"GetNodeRoutes":     {scope: "devices:routes:read"},
	"SetApprovedRoutes": {scope: "devices:routes"},
	"EnableRoute":       {scope: "devices:routes"},
	"DisableRoute":      {scope: "devices:routes"},
	"DeleteRoute":       {scope: "devices:routes"},

	"ListApiKeys":       {scope: "api_access_tokens:read"},
	"CreateApiKey":      {scope: "api_access_tokens"},
	"ExpireApiKey":      {scope: "api_access_tokens"},
	"DeleteApiKey":      {scope: "api_access_tokens"},
	"ListOAuthClients":  {scope: "oauth_keys:read"},
	"CreateOAuthClient": {scope: "oauth_keys"},
	"DeleteOAuthClient": {scope: "oauth_keys"},

	"GetPolicy":          {scope: "policy_file:read"},
	"CheckPolicy":        {scope: "policy_file:read"},
	"TestPolicy":         {scope: "policy_file:read"},
	"DiffPolicy":         {scope: "policy_file:read"},
	"ExplainPolicy":      {scope: "policy_file:read"},
	"ListPolicyVersions": {scope: "policy_file:read"},
	"SetPolicy":          {scope: "policy_file"},
	"RollbackPolicy":     {scope: "policy_file"},

	"ListTailnets":  {}, // of a key for one, that one
	"CreateTailnet": {scope: "tailnets"},
	"DeleteTailnet": {scope: tailnet.ScopeAll},

	"GetDERPMap":     {scope: "networking_settings:read"},
	"ListRelays":     {scope: "networking_settings:read"},
	"ListRelayKeys":  {scope: "networking_settings:read"},
	"CreateRelayKey": {scope: "networking_settings"},
	"DeleteRelayKey": {scope: "networking_settings"},
	"RemoveRelay":    {scope: "networking_settings"},
	"DrainRelay":     {scope: "networking_settings"},
	"RenameRelay":    {scope: "networking_settings"},

	"ListAudit":     {scope: "logs:configuration:read"},
	"VerifyAudit":   {scope: "logs:configuration:read"},
	"ListWebhooks":  {scope: "webhooks:read"},
	"GetWebhook":    {scope: "webhooks:read"},
	"CreateWebhook": {scope: "webhooks"},
	"DeleteWebhook": {scope: "webhooks"},
	"TestWebhook":   {scope: "webhooks"},
	"RotateWebhook": {scope: "webhooks"},

	"Health":      {},
	"GetStatus":   {scope: "feature_settings:read"},
	"GetSettings": {scope: "feature_settings:read"},
	"SetSettings": {scope: "feature_settings"},
	"Reload":      {scope: tailnet.ScopeAll},
}

// permit refuses a caller who may not call the method. Those of other services, of which there is reflection, tell
// nothing that is not public.
func permit(c access.Caller, method string) error {
	rpc, ours := strings.CutPrefix(method, "/"+headscalev1.HeadscaleService_ServiceDesc.ServiceName+"/")
	if !ours {
		return nil
	}
	n, known := needs[rpc]
	switch {
	case !known:
		return access.Forbid("%s has no scope", rpc)
	case n.own != "" && c.OwnOnly() && c.May(n.own):
		return nil // the methods see to it that it is their own
	}
	return c.Check(n.scope)
}

// mayTag refuses a caller of tags for tags that are not theirs. What such a caller makes belongs to nobody.
func (s *Server) mayTag(ctx context.Context, id tailnet.ID, tags []string, owner tailnet.UserID) error {
	c := access.Of(ctx)
	if c.Tags == nil {
		return nil
	}
	if owner != 0 {
		return fmt.Errorf("%w: what this key makes has tags, and no user", tailnet.ErrTagRefused)
	}
	return c.CheckTags(tags, func(by []string, tag string) bool {
		if s.cfg.View == nil {
			return false
		}
		v := s.cfg.View(id)
		return v != nil && v.Policy.TagOwnedBy(by, tag)
	})
}
