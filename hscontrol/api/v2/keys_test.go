package v2_test

import (
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"tailscale.com/tailcfg"

	tailscale "tailscale.com/client/tailscale/v2"

	"github.com/keelscale/keelscale/hscontrol/hstest"
	"github.com/keelscale/keelscale/hscontrol/tailnet"
)

func TestAuthKeys(t *testing.T) {
	w := newWorld(t)
	w.SetPolicy(policyText)
	keys := w.admin.Keys()
	req := tailscale.CreateKeyRequest{ExpirySeconds: 3600, Description: "for CI"}
	req.Capabilities.Devices.Create.Reusable = true
	req.Capabilities.Devices.Create.Ephemeral = true
	req.Capabilities.Devices.Create.Preauthorized = true
	req.Capabilities.Devices.Create.Tags = []string{"tag:ci"}
	k := must[*tailscale.Key](t)(keys.CreateAuthKey(w.ctx, req))
	if k.Key == "" || k.KeyType != "auth" || time.Until(k.Expires) > time.Hour || k.Invalid {
		t.Errorf("made: got %+v", k)
	}
	n := w.Node("ci")
	n.Join(k.Key)
	if row := w.row(w.idOf(n)); !row.Ephemeral || !slices.Equal(row.Tags, []string{"tag:ci"}) {
		t.Errorf("the node that it makes: got %+v", row)
	}
	read := must[*tailscale.Key](t)(keys.Get(w.ctx, k.ID))
	create := read.Capabilities.Devices.Create
	if read.Key != "" || read.Description != "for CI" || !create.Reusable || !create.Ephemeral || !create.Preauthorized || !slices.Equal(create.Tags, []string{"tag:ci"}) {
		t.Errorf("read again: got %+v, want it without its secret", read)
	}
	if err := keys.Delete(w.ctx, k.ID); err != nil {
		t.Fatal(err)
	}
	if resp := must[*tailcfg.RegisterResponse](t)(w.Node("late").Register(w.ctx, hstest.WithKey(k.Key))); resp.Error == "" {
		t.Error("a deleted key still lets nodes in")
	}
	gone := must[*tailscale.Key](t)(keys.Get(w.ctx, k.ID))
	if !gone.Invalid || gone.Revoked.IsZero() || gone.KeyType != "auth" || gone.Created != k.Created || !gone.Capabilities.Devices.Create.Reusable || gone.ExpirySeconds == nil {
		t.Errorf("a deleted key: got %+v, want it as it was, and revoked", gone)
	}
	refused(t, "a deleted key, once more", keys.Delete(w.ctx, k.ID), http.StatusNotFound)
	refused(t, "a deleted key, of another tailnet", lose(w.client(w.key(tailnet.APIKey{TailnetID: w.other.ID, Scopes: []string{"all"}}), "").Keys().Get(w.ctx, k.ID)), http.StatusNotFound)
	refused(t, "a deleted key, without its scope", lose(w.client(w.key(tailnet.APIKey{Scopes: []string{"oauth_keys:read"}}), "").Keys().Get(w.ctx, k.ID)), http.StatusNotFound)

	plain := must[*tailscale.Key](t)(keys.CreateAuthKey(w.ctx, tailscale.CreateKeyRequest{}))
	if days := time.Until(plain.Expires).Hours() / 24; days < 89 || days > 90 {
		t.Errorf("a key that says no expiry: got %v days, want 90", days)
	}
	n = w.Node("odins")
	n.Join(plain.Key)
	if row := w.row(w.idOf(n)); row.UserID != w.owner.ID {
		t.Errorf("a node of a key without tags: got user %d, want the owner's %d", row.UserID, w.owner.ID)
	}
	if used := must[*tailscale.Key](t)(keys.Get(w.ctx, plain.ID)); !used.Invalid {
		t.Error("a key for one use is not shown as invalid when it was used")
	}
	req.Capabilities.Devices.Create.Tags = []string{"tag:unheard"}
	refused(t, "an unknown tag", lose(keys.CreateAuthKey(w.ctx, req)), http.StatusBadRequest)
	refused(t, "the past", lose(keys.CreateAuthKey(w.ctx, tailscale.CreateKeyRequest{ExpirySeconds: -1})), http.StatusBadRequest)
}

func TestOAuthClients(t *testing.T) {
	w := newWorld(t)
	w.SetPolicy(policyText)
	keys := w.admin.Keys()
	c := must[*tailscale.Key](t)(keys.CreateOAuthClient(w.ctx, tailscale.CreateOAuthClientRequest{Scopes: []string{"devices:core", "auth_keys"}, Tags: []string{"tag:ci"}, Description: "operator"}))
	if !strings.HasPrefix(c.Key, "hskey-client-") || c.KeyType != "client" || !slices.Equal(c.Tags, []string{"tag:ci"}) {
		t.Fatalf("made: got %+v", c)
	}
	changed := must[*tailscale.Key](t)(keys.SetOAuthClient(w.ctx, c.ID, tailscale.SetOAuthClientRequest{Scopes: []string{"dns:read"}, Description: "reader"}))
	if changed.Key != "" || !slices.Equal(changed.Scopes, []string{"dns:read"}) || changed.Description != "reader" {
		t.Errorf("changed: got %+v", changed)
	}
	f := must[*tailscale.Key](t)(keys.CreateFederatedIdentity(w.ctx, tailscale.CreateFederatedIdentityRequest{
		Scopes: []string{"users:read"}, Issuer: "https://issuer.example.com", Subject: "repo:*", CustomClaimRules: map[string]string{"env": "prod"}}))
	if f.KeyType != "federated" || f.Key != "" || f.Subject != "repo:*" || f.CustomClaimRules["env"] != "prod" {
		t.Errorf("federated: got %+v", f)
	}
	kinds := map[string]int{}
	for _, k := range must[[]tailscale.Key](t)(keys.List(w.ctx, true)) {
		kinds[k.KeyType]++
		if k.Key != "" {
			t.Errorf("the list tells the secret of %s", k.ID)
		}
	}
	if kinds["client"] != 1 || kinds["federated"] != 1 || kinds["api"] != 1 {
		t.Errorf("the list: got %v, want one of each kind", kinds)
	}
	refused(t, "no scopes", lose(keys.CreateOAuthClient(w.ctx, tailscale.CreateOAuthClientRequest{})), http.StatusBadRequest)
	refused(t, "an unknown scope", lose(keys.CreateOAuthClient(w.ctx, tailscale.CreateOAuthClientRequest{Scopes: []string{"everything"}})), http.StatusBadRequest)
	narrow := w.client(w.key(tailnet.APIKey{Scopes: []string{"oauth_keys", "dns:read"}}), "")
	refused(t, "more than one has", lose(narrow.Keys().CreateOAuthClient(w.ctx, tailscale.CreateOAuthClientRequest{Scopes: []string{"dns"}})), http.StatusForbidden)
	if err := lose(narrow.Keys().CreateOAuthClient(w.ctx, tailscale.CreateOAuthClientRequest{Scopes: []string{"dns:read"}})); err != nil {
		t.Errorf("as much as one has: %v", err)
	}
	refused(t, "another kind", lose(keys.SetFederatedIdentity(w.ctx, c.ID, tailscale.SetFederatedIdentityRequest{Scopes: []string{"dns"}})), http.StatusBadRequest)
	if err := keys.Delete(w.ctx, c.ID); err != nil {
		t.Fatal(err)
	}

	tagged := w.client(w.key(tailnet.APIKey{Scopes: []string{"auth_keys"}, Tags: []string{"tag:ci"}}), "")
	req := tailscale.CreateKeyRequest{}
	refused(t, "no tags, for a key that has some", lose(tagged.Keys().CreateAuthKey(w.ctx, req)), http.StatusBadRequest)
	req.Capabilities.Devices.Create.Tags = []string{"tag:web"}
	refused(t, "a tag that is not its own", lose(tagged.Keys().CreateAuthKey(w.ctx, req)), http.StatusForbidden)
	req.Capabilities.Devices.Create.Tags = []string{"tag:ci"}
	if err := lose(tagged.Keys().CreateAuthKey(w.ctx, req)); err != nil {
		t.Errorf("its own tag: %v", err)
	}
}
