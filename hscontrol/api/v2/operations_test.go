package v2_test

import (
	"fmt"
	"net/http"
	"reflect"
	"strconv"
	"strings"
	"testing"
	"time"

	tailscale "tailscale.com/client/tailscale/v2"

	"github.com/keelscale/keelscale/hscontrol/tailnet"
)

// things are objects of the default tailnet that operations are tried on.
type things struct {
	device, user, authKey, client, federated, webhook, service, integration string
}

// operation is one method of Tailscale's client, the request that it makes, and how it should end for a key that may do
// everything.
type operation struct {
	method  string
	request string
	scope   string
	status  int // zero: 200
	do      func(w *world, c *tailscale.Client, o things) error
}

func lose[T any](_ T, err error) error { return err }

var operations = []operation{
	{"Contacts.Get", "GET contacts", "account_settings:read", 0, func(w *world, c *tailscale.Client, o things) error { return lose(c.Contacts().Get(w.ctx)) }},
	{"Contacts.Update", "PATCH contacts/*", "account_settings", 0, func(w *world, c *tailscale.Client, o things) error {
		return c.Contacts().Update(w.ctx, tailscale.ContactSecurity, tailscale.UpdateContactRequest{Email: tailscale.PointerTo("s@example.com")})
	}},

	{"DevicePosture.ListIntegrations", "GET posture", "feature_settings:read", 0, func(w *world, c *tailscale.Client, o things) error {
		return lose(c.DevicePosture().ListIntegrations(w.ctx))
	}},
	{"DevicePosture.CreateIntegration", "POST posture", "feature_settings", 0, func(w *world, c *tailscale.Client, o things) error {
		return lose(c.DevicePosture().CreateIntegration(w.ctx, tailscale.CreatePostureIntegrationRequest{Provider: "intune", ClientSecret: "secret"}))
	}},
	{"DevicePosture.UpdateIntegration", "PATCH posture/*", "feature_settings", 0, func(w *world, c *tailscale.Client, o things) error {
		return lose(c.DevicePosture().UpdateIntegration(w.ctx, o.integration, tailscale.UpdatePostureIntegrationRequest{CloudID: "us-2"}))
	}},
	{"DevicePosture.DeleteIntegration", "DELETE posture/*", "feature_settings", 0, func(w *world, c *tailscale.Client, o things) error {
		return c.DevicePosture().DeleteIntegration(w.ctx, o.integration)
	}},
	{"DevicePosture.GetIntegration", "GET posture/*", "feature_settings:read", 0, func(w *world, c *tailscale.Client, o things) error {
		return lose(c.DevicePosture().GetIntegration(w.ctx, o.integration))
	}},

	{"Devices.Get", "GET device/*", "devices:core:read", 0, func(w *world, c *tailscale.Client, o things) error { return lose(c.Devices().Get(w.ctx, o.device)) }},
	{"Devices.GetWithAllFields", "GET device/*", "devices:core:read", 0, func(w *world, c *tailscale.Client, o things) error {
		return lose(c.Devices().GetWithAllFields(w.ctx, o.device))
	}},
	{"Devices.GetPostureAttributes", "GET device/*/attributes", "devices:posture_attributes:read", 0, func(w *world, c *tailscale.Client, o things) error {
		return lose(c.Devices().GetPostureAttributes(w.ctx, o.device))
	}},
	{"Devices.SetPostureAttribute", "POST device/*/attributes/*", "devices:posture_attributes", 0, func(w *world, c *tailscale.Client, o things) error {
		return c.Devices().SetPostureAttribute(w.ctx, o.device, "custom:ticket", tailscale.DevicePostureAttributeRequest{Value: "T-1"})
	}},
	{"Devices.DeletePostureAttribute", "DELETE device/*/attributes/*", "devices:posture_attributes", 0, func(w *world, c *tailscale.Client, o things) error {
		return c.Devices().DeletePostureAttribute(w.ctx, o.device, "custom:ticket")
	}},
	{"Devices.List", "GET devices", "devices:core:read", 0, func(w *world, c *tailscale.Client, o things) error { return lose(c.Devices().List(w.ctx)) }},
	{"Devices.ListWithAllFields", "GET devices", "devices:core:read", 0, func(w *world, c *tailscale.Client, o things) error {
		return lose(c.Devices().ListWithAllFields(w.ctx))
	}},
	{"Devices.SetAuthorized", "POST device/*/authorized", "devices:core", 0, func(w *world, c *tailscale.Client, o things) error {
		return c.Devices().SetAuthorized(w.ctx, o.device, true)
	}},
	{"Devices.SetName", "POST device/*/name", "devices:core", 0, func(w *world, c *tailscale.Client, o things) error {
		return c.Devices().SetName(w.ctx, o.device, "renamed")
	}},
	{"Devices.SetKey", "POST device/*/key", "devices:core", 0, func(w *world, c *tailscale.Client, o things) error {
		return c.Devices().SetKey(w.ctx, o.device, tailscale.DeviceKey{KeyExpiryDisabled: true})
	}},
	{"Devices.SetIPv4Address", "POST device/*/ip", "devices:core", 0, func(w *world, c *tailscale.Client, o things) error {
		return c.Devices().SetIPv4Address(w.ctx, o.device, "100.64.77.7")
	}},
	{"Devices.SetSubnetRoutes", "POST device/*/routes", "devices:routes", 0, func(w *world, c *tailscale.Client, o things) error {
		return c.Devices().SetSubnetRoutes(w.ctx, o.device, []string{"10.0.0.0/24"})
	}},
	{"Devices.SubnetRoutes", "GET device/*/routes", "devices:routes:read", 0, func(w *world, c *tailscale.Client, o things) error {
		return lose(c.Devices().SubnetRoutes(w.ctx, o.device))
	}},
	{"Devices.SetTags", "POST device/*/tags", "devices:core", 0, func(w *world, c *tailscale.Client, o things) error {
		return c.Devices().SetTags(w.ctx, o.device, []string{"tag:web"})
	}},
	{"Devices.Delete", "DELETE device/*", "devices:core", 0, func(w *world, c *tailscale.Client, o things) error { return c.Devices().Delete(w.ctx, o.device) }},

	{"DNS.SetNameservers", "POST dns/nameservers", "dns", 0, func(w *world, c *tailscale.Client, o things) error {
		return c.DNS().SetNameservers(w.ctx, []string{"192.0.2.53"})
	}},
	{"DNS.Nameservers", "GET dns/nameservers", "dns:read", 0, func(w *world, c *tailscale.Client, o things) error { return lose(c.DNS().Nameservers(w.ctx)) }},
	{"DNS.SetSearchPaths", "POST dns/searchpaths", "dns", 0, func(w *world, c *tailscale.Client, o things) error {
		return c.DNS().SetSearchPaths(w.ctx, []string{"corp.example.com"})
	}},
	{"DNS.SearchPaths", "GET dns/searchpaths", "dns:read", 0, func(w *world, c *tailscale.Client, o things) error { return lose(c.DNS().SearchPaths(w.ctx)) }},
	{"DNS.SetPreferences", "POST dns/preferences", "dns", 0, func(w *world, c *tailscale.Client, o things) error {
		return c.DNS().SetPreferences(w.ctx, tailscale.DNSPreferences{MagicDNS: true})
	}},
	{"DNS.Preferences", "GET dns/preferences", "dns:read", 0, func(w *world, c *tailscale.Client, o things) error { return lose(c.DNS().Preferences(w.ctx)) }},
	{"DNS.SetSplitDNS", "PUT dns/split-dns", "dns", 0, func(w *world, c *tailscale.Client, o things) error {
		return c.DNS().SetSplitDNS(w.ctx, tailscale.SplitDNSRequest{"example.org": {"192.0.2.1"}})
	}},
	{"DNS.UpdateSplitDNS", "PATCH dns/split-dns", "dns", 0, func(w *world, c *tailscale.Client, o things) error {
		return lose(c.DNS().UpdateSplitDNS(w.ctx, tailscale.SplitDNSRequest{"example.com": {"192.0.2.2"}}))
	}},
	{"DNS.SplitDNS", "GET dns/split-dns", "dns:read", 0, func(w *world, c *tailscale.Client, o things) error { return lose(c.DNS().SplitDNS(w.ctx)) }},
	{"DNS.SetConfiguration", "POST dns/configuration", "dns", 0, func(w *world, c *tailscale.Client, o things) error {
		return c.DNS().SetConfiguration(w.ctx, tailscale.DNSConfiguration{Nameservers: []tailscale.DNSConfigurationResolver{{Address: "192.0.2.3"}}})
	}},
	{"DNS.Configuration", "GET dns/configuration", "dns:read", 0, func(w *world, c *tailscale.Client, o things) error { return lose(c.DNS().Configuration(w.ctx)) }},

	{"Keys.Create", "POST keys", "auth_keys", 0, func(w *world, c *tailscale.Client, o things) error {
		return lose(c.Keys().Create(w.ctx, tailscale.CreateKeyRequest{Description: "made"}))
	}},
	{"Keys.CreateAuthKey", "POST keys", "auth_keys", 0, func(w *world, c *tailscale.Client, o things) error {
		return lose(c.Keys().CreateAuthKey(w.ctx, tailscale.CreateKeyRequest{}))
	}},
	{"Keys.CreateOAuthClient", "POST keys", "oauth_keys", 0, func(w *world, c *tailscale.Client, o things) error {
		return lose(c.Keys().CreateOAuthClient(w.ctx, tailscale.CreateOAuthClientRequest{Scopes: []string{"oauth_keys:read"}}))
	}},
	{"Keys.CreateFederatedIdentity", "POST keys", "federated_keys", 0, func(w *world, c *tailscale.Client, o things) error {
		return lose(c.Keys().CreateFederatedIdentity(w.ctx, tailscale.CreateFederatedIdentityRequest{Scopes: []string{"federated_keys:read"}, Issuer: "https://issuer.example.com", Subject: "job:*"}))
	}},
	{"Keys.SetOAuthClient", "PUT keys/*", "oauth_keys", 0, func(w *world, c *tailscale.Client, o things) error {
		return lose(c.Keys().SetOAuthClient(w.ctx, o.client, tailscale.SetOAuthClientRequest{Scopes: []string{"oauth_keys:read"}, Description: "other"}))
	}},
	{"Keys.SetFederatedIdentity", "PUT keys/*", "federated_keys", 0, func(w *world, c *tailscale.Client, o things) error {
		return lose(c.Keys().SetFederatedIdentity(w.ctx, o.federated, tailscale.SetFederatedIdentityRequest{Scopes: []string{"federated_keys:read"}, Issuer: "https://issuer.example.com", Subject: "job:2"}))
	}},
	{"Keys.Get", "GET keys/*", "auth_keys:read", 0, func(w *world, c *tailscale.Client, o things) error { return lose(c.Keys().Get(w.ctx, o.authKey)) }},
	{"Keys.List", "GET keys", "auth_keys:read", 0, func(w *world, c *tailscale.Client, o things) error { return lose(c.Keys().List(w.ctx, true)) }},
	{"Keys.Delete", "DELETE keys/*", "auth_keys", 0, func(w *world, c *tailscale.Client, o things) error { return c.Keys().Delete(w.ctx, o.authKey) }},

	{"Logging.SetLogstreamConfiguration", "PUT logging/*/stream", "log_streaming", 0, func(w *world, c *tailscale.Client, o things) error {
		return c.Logging().SetLogstreamConfiguration(w.ctx, tailscale.LogTypeConfig, tailscale.SetLogstreamConfigurationRequest{
			DestinationType: tailscale.LogstreamSplunkEndpoint, URL: "https://logs.example.com", Token: "secret"})
	}},
	{"Logging.LogstreamConfiguration", "GET logging/*/stream", "log_streaming:read", 0, func(w *world, c *tailscale.Client, o things) error {
		return lose(c.Logging().LogstreamConfiguration(w.ctx, tailscale.LogTypeConfig))
	}},
	{"Logging.DeleteLogstreamConfiguration", "DELETE logging/*/stream", "log_streaming", 0, func(w *world, c *tailscale.Client, o things) error {
		return c.Logging().DeleteLogstreamConfiguration(w.ctx, tailscale.LogTypeConfig)
	}},
	{"Logging.CreateOrGetAwsExternalId", "POST aws-external-id", "log_streaming", 501, func(w *world, c *tailscale.Client, o things) error {
		return lose(c.Logging().CreateOrGetAwsExternalId(w.ctx, true))
	}},
	{"Logging.ValidateAWSTrustPolicy", "POST aws-external-id/*/validate", "log_streaming", 501, func(w *world, c *tailscale.Client, o things) error {
		return c.Logging().ValidateAWSTrustPolicy(w.ctx, "id", "arn")
	}},
	{"Logging.GetNetworkFlowLogs", "GET logging/network", "logs:network:read", 501, func(w *world, c *tailscale.Client, o things) error {
		err := c.Logging().GetNetworkFlowLogs(w.ctx, tailscale.NetworkFlowLogsRequest{Start: time.Now().Add(-time.Hour), End: time.Now()}, func(tailscale.NetworkFlowLog) error { return nil })
		return flowLogFault(err)
	}},

	{"PolicyFile.Set", "POST acl", "policy_file", 0, func(w *world, c *tailscale.Client, o things) error {
		return c.PolicyFile().Set(w.ctx, policyText, "")
	}},
	{"PolicyFile.Get", "GET acl", "policy_file:read", 0, func(w *world, c *tailscale.Client, o things) error { return lose(c.PolicyFile().Get(w.ctx)) }},
	{"PolicyFile.Raw", "GET acl", "policy_file:read", 0, func(w *world, c *tailscale.Client, o things) error { return lose(c.PolicyFile().Raw(w.ctx)) }},
	{"PolicyFile.SetAndGet", "POST acl", "policy_file", 0, func(w *world, c *tailscale.Client, o things) error {
		return lose(c.PolicyFile().SetAndGet(w.ctx, tailscale.ACL{ACLs: []tailscale.ACLEntry{{Action: "accept", Source: []string{"*"}, Destination: []string{"*:*"}}},
			TagOwners: map[string][]string{"tag:web": {}}}, ""))
	}},
	{"PolicyFile.Validate", "POST acl/validate", "policy_file:read", 0, func(w *world, c *tailscale.Client, o things) error {
		return c.PolicyFile().Validate(w.ctx, policyText)
	}},

	{"TailnetSettings.Get", "GET settings", "feature_settings:read", 0, func(w *world, c *tailscale.Client, o things) error { return lose(c.TailnetSettings().Get(w.ctx)) }},
	{"TailnetSettings.Update", "PATCH settings", "feature_settings", 0, func(w *world, c *tailscale.Client, o things) error {
		return c.TailnetSettings().Update(w.ctx, tailscale.UpdateTailnetSettingsRequest{DevicesKeyDurationDays: tailscale.PointerTo(30)})
	}},

	{"Users.List", "GET users", "users:read", 0, func(w *world, c *tailscale.Client, o things) error { return lose(c.Users().List(w.ctx, nil, nil)) }},
	{"Users.Get", "GET users/*", "users:read", 0, func(w *world, c *tailscale.Client, o things) error { return lose(c.Users().Get(w.ctx, o.user)) }},

	{"VIPServices.CreateOrUpdate", "PUT vip-services/*", "services", 0, func(w *world, c *tailscale.Client, o things) error {
		return c.VIPServices().CreateOrUpdate(w.ctx, tailscale.VIPService{Name: "svc:made", Ports: []string{"tcp:443"}})
	}},
	{"VIPServices.List", "GET vip-services", "services:read", 0, func(w *world, c *tailscale.Client, o things) error { return lose(c.VIPServices().List(w.ctx)) }},
	{"VIPServices.Get", "GET vip-services/*", "services:read", 0, func(w *world, c *tailscale.Client, o things) error {
		return lose(c.VIPServices().Get(w.ctx, o.service))
	}},
	{"VIPServices.Delete", "DELETE vip-services/*", "services", 0, func(w *world, c *tailscale.Client, o things) error { return c.VIPServices().Delete(w.ctx, o.service) }},

	{"Webhooks.Create", "POST webhooks", "webhooks", 0, func(w *world, c *tailscale.Client, o things) error {
		return lose(c.Webhooks().Create(w.ctx, tailscale.CreateWebhookRequest{EndpointURL: "https://example.com/x", Subscriptions: []tailscale.WebhookSubscriptionType{tailscale.WebhookNodeCreated}}))
	}},
	{"Webhooks.List", "GET webhooks", "webhooks:read", 0, func(w *world, c *tailscale.Client, o things) error { return lose(c.Webhooks().List(w.ctx)) }},
	{"Webhooks.Get", "GET webhooks/*", "webhooks:read", 0, func(w *world, c *tailscale.Client, o things) error { return lose(c.Webhooks().Get(w.ctx, o.webhook)) }},
	{"Webhooks.Update", "PATCH webhooks/*", "webhooks", 0, func(w *world, c *tailscale.Client, o things) error {
		return lose(c.Webhooks().Update(w.ctx, o.webhook, []tailscale.WebhookSubscriptionType{tailscale.WebhookPolicyUpdate}))
	}},
	{"Webhooks.Test", "POST webhooks/*/test", "webhooks", 0, func(w *world, c *tailscale.Client, o things) error { return c.Webhooks().Test(w.ctx, o.webhook) }},
	{"Webhooks.RotateSecret", "POST webhooks/*/rotate", "webhooks", 0, func(w *world, c *tailscale.Client, o things) error {
		return lose(c.Webhooks().RotateSecret(w.ctx, o.webhook))
	}},
	{"Webhooks.Delete", "DELETE webhooks/*", "webhooks", 0, func(w *world, c *tailscale.Client, o things) error { return c.Webhooks().Delete(w.ctx, o.webhook) }},
}

// flowLogFault makes of the client's own error for streams what it makes of others.
func flowLogFault(err error) error {
	if err == nil {
		return nil
	}
	text, ok := strings.CutPrefix(err.Error(), "HTTP ")
	if !ok || len(text) < 3 {
		return err
	}
	status, _ := strconv.Atoi(text[:3])
	return tailscale.APIError{Status: status, Message: text}
}

// things makes a set of objects.
func (w *world) things() things {
	w.t.Helper()
	var o things
	machine := w.Node("thing")
	machine.Join(w.Key(w.owner))
	o.device = w.idOf(machine)
	o.user = strconv.FormatUint(uint64(w.owner.ID), 10)
	authKey := must[*tailscale.Key](w.t)(w.admin.Keys().CreateAuthKey(w.ctx, tailscale.CreateKeyRequest{}))
	client := must[*tailscale.Key](w.t)(w.admin.Keys().CreateOAuthClient(w.ctx, tailscale.CreateOAuthClientRequest{Scopes: []string{"dns"}}))
	federated := must[*tailscale.Key](w.t)(w.admin.Keys().CreateFederatedIdentity(w.ctx, tailscale.CreateFederatedIdentityRequest{
		Scopes: []string{"dns"}, Issuer: "https://issuer.example.com", Subject: "x"}))
	hook := must[*tailscale.Webhook](w.t)(w.admin.Webhooks().Create(w.ctx, tailscale.CreateWebhookRequest{
		EndpointURL: "https://192.0.2.1/hook", Subscriptions: []tailscale.WebhookSubscriptionType{tailscale.WebhookNodeCreated}}))
	posture := must[*tailscale.PostureIntegration](w.t)(w.admin.DevicePosture().CreateIntegration(w.ctx, tailscale.CreatePostureIntegrationRequest{
		Provider: tailscale.PostureIntegrationProviderFalcon, CloudID: "us-1", ClientID: "id", ClientSecret: "secret"}))
	o.integration = posture.ID
	o.authKey, o.client, o.federated, o.webhook, o.service = authKey.ID, client.ID, federated.ID, hook.EndpointID, "svc:thing"
	for _, err := range []error{
		w.admin.VIPServices().CreateOrUpdate(w.ctx, tailscale.VIPService{Name: o.service}),
		w.admin.Devices().SetPostureAttribute(w.ctx, o.device, "custom:ticket", tailscale.DevicePostureAttributeRequest{Value: 1}),
		w.admin.Logging().SetLogstreamConfiguration(w.ctx, tailscale.LogTypeConfig, tailscale.SetLogstreamConfigurationRequest{
			DestinationType: tailscale.LogstreamAxiomEndpoint, URL: "https://192.0.2.1/logs", Token: "secret"}),
	} {
		if err != nil {
			w.t.Fatal(err)
		}
	}
	return o
}

// Every operation, with every kind of key that may not do it, and then with one that may.
func TestEveryOperation(t *testing.T) {
	w := newWorld(t)
	w.SetPolicy(policyText)
	readOnly := w.client(w.key(tailnet.APIKey{Scopes: []string{"all:read"}}), "")
	foreigner := w.key(tailnet.APIKey{TailnetID: w.other.ID, Scopes: []string{"all"}})
	working := map[string]bool{}
	for _, op := range operations {
		t.Run(op.method, func(t *testing.T) {
			o := w.things()
			write := !strings.HasSuffix(op.scope, ":read")
			if write {
				refused(t, "a key that only reads", op.do(w, readOnly, o), http.StatusForbidden)
			}
			lacks := w.client(w.key(tailnet.APIKey{Scopes: []string{lacking(op.scope)}}), "")
			refused(t, "a key with another scope", op.do(w, lacks, o), http.StatusForbidden)
			refused(t, "no tailnet", op.do(w, w.client(foreigner, "nowhere"), o), http.StatusNotFound)
			refused(t, "a key of another tailnet", op.do(w, w.client(foreigner, tailnet.DefaultName), o), http.StatusNotFound)
			narrow := w.client(w.key(tailnet.APIKey{Scopes: []string{op.scope}}), "")
			err := op.do(w, narrow, o)
			if op.status != 0 {
				refused(t, "with its scope", err, op.status)
				return
			}
			if err != nil {
				t.Fatalf("with its scope: %v", err)
			}
			if !write {
				if err := op.do(w, readOnly, o); err != nil {
					t.Errorf("a key that only reads: %v", err)
				}
			}
			working[op.request] = true
		})
	}
	requests := map[string]bool{}
	for _, op := range operations {
		requests[op.request] = true
	}
	const tokens = 2 // oauth/token and token-exchange, tried elsewhere
	t.Logf("%d of %d operations work", len(working)+tokens, len(requests)+tokens)
	if got := len(requests) + tokens; got != 62 {
		t.Errorf("got %d operations in the table, want 62", got)
	}
	if got := len(working) + tokens; got < 55 {
		t.Errorf("got %d operations that work, want 55 at least", got)
	}
}

// Who has no key learns nothing, not even which things there are; and after some guesses has to wait.
func TestWrongKeys(t *testing.T) {
	w := newWorld(t)
	w.SetPolicy(policyText)
	o := w.things()
	wrong := w.client("hskey-api-"+strings.Repeat("0", 12)+"-"+strings.Repeat("0", 64), "")
	last := http.StatusUnauthorized
	for _, op := range operations {
		err := op.do(w, wrong, o)
		if got := statusOf(err); got != last && got == http.StatusTooManyRequests {
			last = got
		}
		refused(t, op.method, err, last)
	}
	if last != http.StatusTooManyRequests {
		t.Error("guessing keys is not slowed down")
	}
	if err := lose(w.admin.Devices().List(w.ctx)); err != nil {
		t.Errorf("a key that is known, from the same place: %v", err)
	}
	none := w.client("", "")
	if got := statusOf(lose(none.Devices().List(w.ctx))); got != http.StatusUnauthorized {
		t.Errorf("no key: got status %d, want 401", got)
	}
}

// lacking is a scope that does not help with another.
func lacking(scope string) string {
	if strings.HasPrefix(scope, "dns") {
		return "users"
	}
	return "dns"
}

// The table has every method of Tailscale's client that makes a request.
func TestOperationsAreComplete(t *testing.T) {
	has := map[string]bool{}
	for _, op := range operations {
		has[op.method] = true
	}
	client := reflect.TypeFor[*tailscale.Client]()
	embedded := map[string]bool{}
	for i := range client.NumMethod() {
		embedded[client.Method(i).Name] = true
	}
	for i := range client.NumMethod() {
		resource := client.Method(i)
		made := resource.Type.Out(0)
		for j := range made.NumMethod() {
			name := fmt.Sprintf("%s.%s", resource.Name, made.Method(j).Name)
			if !embedded[made.Method(j).Name] && !has[name] {
				t.Errorf("%s is not tried", name)
			}
		}
	}
}
