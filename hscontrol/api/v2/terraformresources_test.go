package v2_test

import (
	"fmt"
	"time"

	tailscale "tailscale.com/client/tailscale/v2"
)

const (
	firstPolicy = `
{
	// Access control lists.
	"ACLs": [
		{ "Action": "accept", "Users": ["*"], "Ports": ["*:*"] }
	],
	"TagOwners": {"tag:web": ["autogroup:member"], "tag:api": ["autogroup:member"], "tag:ci": ["autogroup:member"]},
}
`
	secondPolicy = `{"tagOwners": {"tag:web": ["autogroup:member"], "tag:api": ["autogroup:member"], "tag:ci": ["autogroup:member"]}}`
)

var onlyOnce = tailscale.DNSConfiguration{
	Nameservers: []tailscale.DNSConfigurationResolver{{Address: "192.0.2.8"}, {Address: "192.0.2.1", UseWithExitNode: true}},
	SplitDNS: map[string][]tailscale.DNSConfigurationResolver{
		"foo.example.com": {{Address: "192.0.2.2", UseWithExitNode: true}, {Address: "192.0.2.3"}}, "bar.example.com": {{Address: "192.0.2.4", UseWithExitNode: true}}},
	SearchPaths: []string{"example.com", "another.example.com"},
	Preferences: tailscale.DNSConfigurationPreferences{OverrideLocalDNS: true, MagicDNS: true},
}

// resources are those of the provider, in the order in which others need them.
var resources = []managed{
	{
		name: "acl",
		create: once(func(m *manager) error { // a plan is validated first
			if err := m.PolicyFile().Validate(m.w.ctx, firstPolicy); err != nil {
				return err
			}
			return m.PolicyFile().Set(m.w.ctx, firstPolicy, "ts-default")
		}),
		read: policyRead, created: firstPolicy,
		update:  func(m *manager, _ string) error { return m.PolicyFile().Set(m.w.ctx, secondPolicy, "") },
		updated: secondPolicy,
		destroy: func(m *manager, _ string) error { // and what others need is put in force again
			if err := m.PolicyFile().Set(m.w.ctx, "", ""); err != nil {
				return err
			}
			return m.PolicyFile().Set(m.w.ctx, secondPolicy, "ts-default")
		},
		left: secondPolicy,
	},
	{
		name: "contacts",
		create: once(func(m *manager) error {
			for _, kind := range []tailscale.ContactType{tailscale.ContactAccount, tailscale.ContactSupport, tailscale.ContactSecurity} {
				if err := m.Contacts().Update(m.w.ctx, kind, tailscale.UpdateContactRequest{Email: tailscale.PointerTo(string(kind) + "@example.com")}); err != nil {
					return err
				}
			}
			return nil
		}),
		read: func(m *manager, _ string) (any, error) {
			c, err := m.Contacts().Get(m.w.ctx)
			if err != nil {
				return nil, err
			}
			return []string{c.Account.Email, c.Support.Email, c.Security.Email}, nil
		},
		created: []string{"account@example.com", "support@example.com", "security@example.com"},
		update: func(m *manager, _ string) error {
			return m.Contacts().Update(m.w.ctx, tailscale.ContactSecurity, tailscale.UpdateContactRequest{Email: tailscale.PointerTo("other@example.com")})
		},
		updated: []string{"account@example.com", "support@example.com", "other@example.com"},
		destroy: func(*manager, string) error { return nil },
		left:    []string{"account@example.com", "support@example.com", "other@example.com"},
	},
	{
		name: "device_authorization",
		create: func(m *manager) (string, error) {
			if err := m.Devices().SetAuthorized(m.w.ctx, m.device, false); err != nil {
				return "", err
			}
			return m.device, m.Devices().SetAuthorized(m.w.ctx, m.device, true)
		},
		read:    deviceRead(func(d *tailscale.Device) any { return d.Authorized }),
		created: true, updated: true,
		destroy: func(*manager, string) error { return nil },
		left:    true,
	},
	{
		name: "device_key",
		create: func(m *manager) (string, error) {
			return m.device, m.Devices().SetKey(m.w.ctx, m.device, tailscale.DeviceKey{KeyExpiryDisabled: true})
		},
		read:    deviceRead(func(d *tailscale.Device) any { return d.KeyExpiryDisabled }),
		created: true,
		update:  func(m *manager, id string) error { return m.Devices().SetKey(m.w.ctx, id, tailscale.DeviceKey{}) },
		updated: false,
		destroy: func(m *manager, id string) error { return m.Devices().SetKey(m.w.ctx, id, tailscale.DeviceKey{}) },
		left:    false,
	},
	{
		name: "device_subnet_routes", // some are not announced
		create: func(m *manager) (string, error) {
			return m.device, m.Devices().SetSubnetRoutes(m.w.ctx, m.device, []string{"10.0.1.0/24", "198.51.100.0/24", "0.0.0.0/0", "::/0"})
		},
		read: func(m *manager, id string) (any, error) {
			r, err := m.Devices().SubnetRoutes(m.w.ctx, id)
			if err != nil {
				return nil, err
			}
			return sorted(r.Enabled), nil
		},
		created: []string{"0.0.0.0/0", "10.0.1.0/24", "198.51.100.0/24", "::/0"},
		update: func(m *manager, id string) error {
			return m.Devices().SetSubnetRoutes(m.w.ctx, id, []string{"10.0.1.0/24"})
		},
		updated: []string{"10.0.1.0/24"},
		destroy: func(m *manager, id string) error { return m.Devices().SetSubnetRoutes(m.w.ctx, id, []string{}) },
		left:    []string{},
	},
	{
		name: "device_tags",
		create: func(m *manager) (string, error) {
			return m.device, m.Devices().SetTags(m.w.ctx, m.device, []string{"tag:web", "tag:api"})
		},
		read:    deviceRead(func(d *tailscale.Device) any { return sorted(d.Tags) }),
		created: []string{"tag:api", "tag:web"},
		update: func(m *manager, id string) error {
			return m.Devices().SetTags(m.w.ctx, id, []string{"tag:web", "tag:ci"})
		},
		updated: []string{"tag:ci", "tag:web"},
		destroy: func(m *manager, id string) error { return m.Devices().SetTags(m.w.ctx, id, []string{}) },
		left:    []string{},
	},
	{
		name:    "dns_configuration",
		create:  once(func(m *manager) error { return m.DNS().SetConfiguration(m.w.ctx, onlyOnce) }),
		read:    dnsRead,
		created: onlyOnce,
		update: func(m *manager, _ string) error {
			return m.DNS().SetConfiguration(m.w.ctx, tailscale.DNSConfiguration{SearchPaths: []string{"another.example.com"}, SplitDNS: map[string][]tailscale.DNSConfigurationResolver{}})
		},
		updated: tailscale.DNSConfiguration{SearchPaths: []string{"another.example.com"}},
		destroy: func(m *manager, _ string) error {
			return m.DNS().SetConfiguration(m.w.ctx, tailscale.DNSConfiguration{})
		},
		left: tailscale.DNSConfiguration{},
	},
	{
		name: "dns_nameservers",
		create: once(func(m *manager) error {
			return m.DNS().SetNameservers(m.w.ctx, []string{"192.0.2.8", "192.0.2.1", "2001:db8::1"})
		}),
		read:    func(m *manager, _ string) (any, error) { return m.DNS().Nameservers(m.w.ctx) },
		created: []string{"192.0.2.8", "192.0.2.1", "2001:db8::1"},
		update:  func(m *manager, _ string) error { return m.DNS().SetNameservers(m.w.ctx, []string{"192.0.2.1"}) },
		updated: []string{"192.0.2.1"},
		destroy: func(m *manager, _ string) error { return m.DNS().SetNameservers(m.w.ctx, []string{}) },
		left:    []string{},
	},
	{
		name: "dns_preferences",
		create: once(func(m *manager) error {
			return m.DNS().SetPreferences(m.w.ctx, tailscale.DNSPreferences{MagicDNS: true})
		}),
		read:    func(m *manager, _ string) (any, error) { return m.DNS().Preferences(m.w.ctx) },
		created: &tailscale.DNSPreferences{MagicDNS: true},
		update:  func(m *manager, _ string) error { return m.DNS().SetPreferences(m.w.ctx, tailscale.DNSPreferences{}) },
		updated: &tailscale.DNSPreferences{},
		destroy: func(m *manager, _ string) error { return m.DNS().SetPreferences(m.w.ctx, tailscale.DNSPreferences{}) },
		left:    &tailscale.DNSPreferences{},
	},
	{
		name: "dns_search_paths",
		create: once(func(m *manager) error {
			return m.DNS().SetSearchPaths(m.w.ctx, []string{"b.example.com", "a.example.com"})
		}),
		read:    func(m *manager, _ string) (any, error) { return m.DNS().SearchPaths(m.w.ctx) },
		created: []string{"b.example.com", "a.example.com"},
		update:  func(m *manager, _ string) error { return m.DNS().SetSearchPaths(m.w.ctx, []string{"c.example.com"}) },
		updated: []string{"c.example.com"},
		destroy: func(m *manager, _ string) error { return m.DNS().SetSearchPaths(m.w.ctx, []string{}) },
		left:    []string{},
	},
	{
		name: "dns_split_nameservers",
		create: func(m *manager) (string, error) {
			return "example.com", lose(m.DNS().UpdateSplitDNS(m.w.ctx, tailscale.SplitDNSRequest{"example.com": {"192.0.2.3", "192.0.2.4"}}))
		},
		read: func(m *manager, id string) (any, error) {
			all, err := m.DNS().SplitDNS(m.w.ctx)
			return all[id], err
		},
		created: []string{"192.0.2.3", "192.0.2.4"},
		update: func(m *manager, id string) error {
			return lose(m.DNS().UpdateSplitDNS(m.w.ctx, tailscale.SplitDNSRequest{id: {"192.0.2.5"}}))
		},
		updated: []string{"192.0.2.5"},
		destroy: func(m *manager, id string) error {
			return lose(m.DNS().UpdateSplitDNS(m.w.ctx, tailscale.SplitDNSRequest{id: nil}))
		},
		left: []string(nil),
	},
	{
		name: "federated_identity",
		create: func(m *manager) (string, error) {
			k, err := m.Keys().CreateFederatedIdentity(m.w.ctx, tailscale.CreateFederatedIdentityRequest{Description: "first", Scopes: []string{"auth_keys", "devices:core"},
				Tags: []string{"tag:ci"}, Issuer: "https://issuer.example.com", Subject: "job-*", CustomClaimRules: map[string]string{"repo_name": "mine"}})
			if err != nil {
				return "", err
			}
			return k.ID, nil
		},
		read: keyRead,
		created: attrs{"description": "first", "invalid": false, "type": "federated", "scopes": []string{"auth_keys", "devices:core"}, "tags": []string{"tag:ci"}, "audience": true,
			"issuer": "https://issuer.example.com", "subject": "job-*", "claims": map[string]string{"repo_name": "mine"}},
		update: func(m *manager, id string) error {
			now, err := m.Keys().Get(m.w.ctx, id)
			if err != nil {
				return err
			}
			return lose(m.Keys().SetFederatedIdentity(m.w.ctx, id, tailscale.SetFederatedIdentityRequest{Description: "second", Scopes: []string{"auth_keys:read"}, Tags: []string{},
				Issuer: "https://issuer.example.com", Subject: "job-2", Audience: now.Audience, CustomClaimRules: map[string]string{}}))
		},
		updated: attrs{"description": "second", "invalid": false, "type": "federated", "scopes": []string{"auth_keys:read"}, "tags": []string{}, "audience": true,
			"issuer": "https://issuer.example.com", "subject": "job-2", "claims": map[string]string{}},
		destroy: func(m *manager, id string) error { return m.Keys().Delete(m.w.ctx, id) },
		left: attrs{"description": "second", "invalid": true, "type": "federated", "scopes": []string{"auth_keys:read"}, "tags": []string{}, "audience": true,
			"issuer": "https://issuer.example.com", "subject": "job-2", "claims": map[string]string(nil)},
	},
	{
		name: "logstream_configuration",
		create: func(m *manager) (string, error) {
			return "configuration", m.Logging().SetLogstreamConfiguration(m.w.ctx, tailscale.LogTypeConfig, tailscale.SetLogstreamConfigurationRequest{
				DestinationType: tailscale.LogstreamPantherEndpoint, URL: "https://192.0.2.1/logs", User: "user", Token: "secret", CompressionFormat: tailscale.CompressionFormatNone})
		},
		read: func(m *manager, id string) (any, error) {
			s, err := m.Logging().LogstreamConfiguration(m.w.ctx, tailscale.LogType(id))
			if err != nil {
				return nil, err
			}
			return *s, nil
		},
		created: tailscale.LogstreamConfiguration{LogType: tailscale.LogTypeConfig, DestinationType: tailscale.LogstreamPantherEndpoint, URL: "https://192.0.2.1/logs", User: "user",
			CompressionFormat: tailscale.CompressionFormatNone},
		update: func(m *manager, id string) error {
			return m.Logging().SetLogstreamConfiguration(m.w.ctx, tailscale.LogType(id), tailscale.SetLogstreamConfigurationRequest{
				DestinationType: tailscale.LogstreamCriblEndpoint, URL: "https://192.0.2.1/other", User: "cribl-user", Token: "secret", UploadPeriodMinutes: 5})
		},
		updated: tailscale.LogstreamConfiguration{LogType: tailscale.LogTypeConfig, DestinationType: tailscale.LogstreamCriblEndpoint, URL: "https://192.0.2.1/other", User: "cribl-user",
			UploadPeriodMinutes: 5, CompressionFormat: tailscale.CompressionFormatNone},
		destroy: func(m *manager, id string) error {
			return m.Logging().DeleteLogstreamConfiguration(m.w.ctx, tailscale.LogType(id))
		},
	},
	{
		name: "oauth_client",
		create: func(m *manager) (string, error) {
			k, err := m.Keys().CreateOAuthClient(m.w.ctx, tailscale.CreateOAuthClientRequest{Description: "first", Scopes: []string{"auth_keys", "devices:core"}, Tags: []string{"tag:ci"}})
			if err != nil {
				return "", err
			}
			if k.Key == "" || k.Created.IsZero() || k.Updated.IsZero() {
				return "", fmt.Errorf("got %+v, want its secret and times", k)
			}
			return k.ID, nil
		},
		read: keyRead,
		created: attrs{"description": "first", "invalid": false, "type": "client", "scopes": []string{"auth_keys", "devices:core"}, "tags": []string{"tag:ci"}, "audience": false,
			"issuer": "", "subject": "", "claims": map[string]string(nil)},
		update: func(m *manager, id string) error {
			return lose(m.Keys().SetOAuthClient(m.w.ctx, id, tailscale.SetOAuthClientRequest{Description: "second", Scopes: []string{"auth_keys:read"}}))
		},
		updated: attrs{"description": "second", "invalid": false, "type": "client", "scopes": []string{"auth_keys:read"}, "tags": []string{}, "audience": false,
			"issuer": "", "subject": "", "claims": map[string]string(nil)},
		destroy: func(m *manager, id string) error { return m.Keys().Delete(m.w.ctx, id) },
		left: attrs{"description": "second", "invalid": true, "type": "client", "scopes": []string{"auth_keys:read"}, "tags": []string{}, "audience": false,
			"issuer": "", "subject": "", "claims": map[string]string(nil)},
	},
	{
		name: "posture_integration",
		create: func(m *manager) (string, error) {
			p, err := m.DevicePosture().CreateIntegration(m.w.ctx, tailscale.CreatePostureIntegrationRequest{
				Provider: tailscale.PostureIntegrationProviderFalcon, CloudID: "us-1", ClientID: "first", ClientSecret: "secret"})
			if err != nil {
				return "", err
			}
			return p.ID, nil
		},
		read: func(m *manager, id string) (any, error) {
			p, err := m.DevicePosture().GetIntegration(m.w.ctx, id)
			if err != nil {
				return nil, err
			}
			return []string{string(p.Provider), p.CloudID, p.ClientID, p.TenantID}, nil
		},
		created: []string{"falcon", "us-1", "first", ""},
		update: func(m *manager, id string) error {
			return lose(m.DevicePosture().UpdateIntegration(m.w.ctx, id, tailscale.UpdatePostureIntegrationRequest{ClientID: "second", TenantID: "t", ClientSecret: tailscale.PointerTo("other")}))
		},
		updated: []string{"falcon", "", "second", "t"},
		destroy: func(m *manager, id string) error { return m.DevicePosture().DeleteIntegration(m.w.ctx, id) },
	},
	{
		name: "service",
		create: func(m *manager) (string, error) {
			return "svc:made", m.VIPServices().CreateOrUpdate(m.w.ctx, tailscale.VIPService{Name: "svc:made", Comment: "first", Ports: []string{"tcp:443"}, Tags: []string{"tag:web"}})
		},
		read: func(m *manager, id string) (any, error) {
			v, err := m.VIPServices().Get(m.w.ctx, id)
			if err != nil {
				return nil, err
			}
			return attrs{"name": v.Name, "comment": v.Comment, "ports": sorted(v.Ports), "tags": sorted(v.Tags), "addrs": len(v.Addrs)}, nil
		},
		created: attrs{"name": "svc:made", "comment": "first", "ports": []string{"tcp:443"}, "tags": []string{"tag:web"}, "addrs": 2},
		update: func(m *manager, id string) error {
			now, err := m.VIPServices().Get(m.w.ctx, id)
			if err != nil {
				return err
			}
			return m.VIPServices().CreateOrUpdate(m.w.ctx, tailscale.VIPService{Name: id, Addrs: now.Addrs, Ports: []string{"tcp:8080", "do-not-validate"}})
		},
		updated: attrs{"name": "svc:made", "comment": "", "ports": []string{"do-not-validate", "tcp:8080"}, "tags": []string{}, "addrs": 2},
		destroy: func(m *manager, id string) error { return m.VIPServices().Delete(m.w.ctx, id) },
	},
	{
		name: "tailnet_key",
		create: func(m *manager) (string, error) {
			req := tailscale.CreateKeyRequest{Description: "made", ExpirySeconds: 3600}
			create := &req.Capabilities.Devices.Create
			create.Reusable, create.Ephemeral, create.Preauthorized, create.Tags = true, true, true, []string{"tag:web", "tag:api"}
			k, err := m.Keys().CreateAuthKey(m.w.ctx, req)
			if err != nil {
				return "", err
			}
			if k.Key == "" || *k.ExpirySeconds != 3600 || k.Invalid {
				return "", fmt.Errorf("got %+v, want its secret and an hour", k)
			}
			return k.ID, nil
		},
		read: keyRead,
		created: attrs{"reusable": true, "ephemeral": true, "preauthorized": true, "tags": []string{"tag:api", "tag:web"}, "expiry": 3600, "description": "made",
			"invalid": false, "lasts": time.Hour},
		destroy: func(m *manager, id string) error { return m.Keys().Delete(m.w.ctx, id) },
		left: attrs{"reusable": true, "ephemeral": true, "preauthorized": true, "tags": []string{"tag:api", "tag:web"}, "expiry": 3600, "description": "made",
			"invalid": true, "lasts": time.Hour},
	},
	{
		name: "tailnet_settings",
		create: once(func(m *manager) error {
			yes := tailscale.PointerTo(true)
			return m.TailnetSettings().Update(m.w.ctx, tailscale.UpdateTailnetSettingsRequest{ACLsExternallyManagedOn: yes, ACLsExternalLink: tailscale.PointerTo("https://git.example.com/policy"),
				DevicesApprovalOn: yes, DevicesAutoUpdatesOn: yes, DevicesKeyDurationDays: tailscale.PointerTo(5), UsersApprovalOn: yes, PostureIdentityCollectionOn: yes, HTTPSEnabled: yes,
				UsersRoleAllowedToJoinExternalTailnets: tailscale.PointerTo(tailscale.RoleAllowedToJoinExternalTailnetsMember)})
		}),
		read: settingsRead,
		created: tailscale.TailnetSettings{ACLsExternallyManagedOn: true, ACLsExternalLink: "https://git.example.com/policy", DevicesApprovalOn: true, DevicesAutoUpdatesOn: true,
			DevicesKeyDurationDays: 5, UsersApprovalOn: true, PostureIdentityCollectionOn: true, HTTPSEnabled: true, UsersRoleAllowedToJoinExternalTailnets: tailscale.RoleAllowedToJoinExternalTailnetsMember},
		update: func(m *manager, _ string) error {
			no := tailscale.PointerTo(false)
			return m.TailnetSettings().Update(m.w.ctx, tailscale.UpdateTailnetSettingsRequest{ACLsExternallyManagedOn: no, DevicesApprovalOn: no, DevicesAutoUpdatesOn: no,
				DevicesKeyDurationDays: tailscale.PointerTo(10), UsersApprovalOn: no, PostureIdentityCollectionOn: no, HTTPSEnabled: no})
		},
		updated: tailscale.TailnetSettings{ACLsExternalLink: "https://git.example.com/policy", DevicesKeyDurationDays: 10, UsersRoleAllowedToJoinExternalTailnets: tailscale.RoleAllowedToJoinExternalTailnetsMember},
		destroy: func(*manager, string) error { return nil },
		left:    tailscale.TailnetSettings{ACLsExternalLink: "https://git.example.com/policy", DevicesKeyDurationDays: 10, UsersRoleAllowedToJoinExternalTailnets: tailscale.RoleAllowedToJoinExternalTailnetsMember},
	},
	{
		name: "webhook",
		create: func(m *manager) (string, error) {
			hook, err := m.Webhooks().Create(m.w.ctx, tailscale.CreateWebhookRequest{EndpointURL: "https://192.0.2.1/endpoint", ProviderType: tailscale.WebhookSlackProviderType,
				Subscriptions: []tailscale.WebhookSubscriptionType{tailscale.WebhookUserNeedsApproval, tailscale.WebhookNodeCreated, tailscale.WebhookCategoryDeviceMisconfigurations}})
			if err != nil {
				return "", err
			}
			if hook.Secret == nil || *hook.Secret == "" {
				return "", fmt.Errorf("got %+v, want its secret", hook)
			}
			return hook.EndpointID, nil
		},
		read: func(m *manager, id string) (any, error) {
			hook, err := m.Webhooks().Get(m.w.ctx, id)
			if err != nil {
				return nil, err
			}
			return attrs{"url": hook.EndpointURL, "provider": hook.ProviderType, "subscriptions": sorted(hook.Subscriptions)}, nil
		},
		created: attrs{"url": "https://192.0.2.1/endpoint", "provider": tailscale.WebhookSlackProviderType, "subscriptions": []string{"categoryDeviceMisconfigurations", "nodeCreated", "userNeedsApproval"}},
		update: func(m *manager, id string) error {
			return lose(m.Webhooks().Update(m.w.ctx, id, []tailscale.WebhookSubscriptionType{tailscale.WebhookCategoryTailnetManagement, tailscale.WebhookExitNodeIPForwardingNotEnabled}))
		},
		updated: attrs{"url": "https://192.0.2.1/endpoint", "provider": tailscale.WebhookSlackProviderType, "subscriptions": []string{"categoryTailnetManagement", "exitNodeIPForwardingNotEnabled"}},
		destroy: func(m *manager, id string) error { return m.Webhooks().Delete(m.w.ctx, id) },
	},
}
