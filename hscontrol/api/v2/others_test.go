package v2_test

import (
	"encoding/json"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	tailscale "tailscale.com/client/tailscale/v2"
)

func TestAttributes(t *testing.T) {
	w := newWorld(t)
	n := w.Node("box")
	n.Hostinfo.IPNVersion = "1.81.3-dev"
	n.Join(w.Key(w.owner))
	id := w.idOf(n)
	devices := w.admin.Devices()
	soon := time.Now().Add(time.Hour).UTC().Truncate(time.Second)
	for name, req := range map[string]tailscale.DevicePostureAttributeRequest{
		"custom:text":   {Value: "yes", Comment: "by hand"},
		"custom:number": {Value: 7, Expiry: tailscale.Time{Time: soon}},
		"custom:flag":   {Value: true},
	} {
		if err := devices.SetPostureAttribute(w.ctx, id, name, req); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	got := must[*tailscale.DevicePostureAttributes](t)(devices.GetPostureAttributes(w.ctx, id))
	for name, want := range map[string]any{"custom:text": "yes", "custom:number": 7.0, "custom:flag": true, "node:os": "linux", "node:tsVersion": "1.81.3", "node:tsReleaseTrack": "unstable"} {
		if got.Attributes[name] != want {
			t.Errorf("%s: got %v, want %v", name, got.Attributes[name], want)
		}
	}
	if len(got.Expiries) != 1 || !got.Expiries["custom:number"].Equal(soon) {
		t.Errorf("expiries: got %v, want that of the number", got.Expiries)
	}
	if err := devices.DeletePostureAttribute(w.ctx, id, "custom:flag"); err != nil {
		t.Error(err)
	}
	refused(t, "one that is gone", devices.DeletePostureAttribute(w.ctx, id, "custom:flag"), http.StatusNotFound)
	for name, req := range map[string]tailscale.DevicePostureAttributeRequest{
		"node:os": {Value: "x"}, "custom:": {Value: "x"}, "custom:a b": {Value: "x"},
		"custom:list": {Value: []int{1}}, "custom:none": {}, "custom:past": {Value: 1, Expiry: tailscale.Time{Time: time.Now().Add(-time.Hour)}},
	} {
		refused(t, name, devices.SetPostureAttribute(w.ctx, id, name, req), http.StatusBadRequest)
	}
	w.done("PATCH", "/tailnet/-/device-attributes", `{"nodes":{"`+id+`":{"custom:text":null,"custom:more":{"value":"z"}}},"comment":"all at once"}`)
	got = must[*tailscale.DevicePostureAttributes](t)(devices.GetPostureAttributes(w.ctx, id))
	if got.Attributes["custom:text"] != nil || got.Attributes["custom:more"] != "z" {
		t.Errorf("after changing many: got %v", got.Attributes)
	}
	w.is("PATCH", "/tailnet/-/device-attributes", `{"nodes":{"99":{"custom:x":{"value":1}}}}`, http.StatusNotFound)
	w.is("PATCH", "/tailnet/elsewhere/device-attributes", `{"nodes":{"`+id+`":{"custom:x":{"value":1}}}}`, http.StatusNotFound)
}

// Services are kept with addresses that no node gets.
func TestServices(t *testing.T) {
	w := newWorld(t)
	w.SetPolicy(policyText)
	services := w.admin.VIPServices()
	if err := services.CreateOrUpdate(w.ctx, tailscale.VIPService{Name: "svc:web", Comment: "front", Ports: []string{"tcp:443", "tcp:8000-8080"}, Tags: []string{"tag:web"},
		Annotations: map[string]string{"owner": "me"}}); err != nil {
		t.Fatal(err)
	}
	first := must[*tailscale.VIPService](t)(services.Get(w.ctx, "svc:web"))
	if len(first.Addrs) != 2 || first.Comment != "front" || first.Annotations["owner"] != "me" || len(first.Ports) != 2 {
		t.Fatalf("got %+v, want two addresses", first)
	}
	if err := services.CreateOrUpdate(w.ctx, tailscale.VIPService{Name: "svc:web", Comment: "other"}); err != nil {
		t.Fatal(err)
	}
	if got := must[*tailscale.VIPService](t)(services.Get(w.ctx, "svc:web")); got.Comment != "other" || !slices.Equal(got.Addrs, first.Addrs) || got.Ports != nil {
		t.Errorf("replaced: got %+v, want the same addresses", got)
	}
	_, id := w.node("box")
	refused(t, "a service's address for a node", w.admin.Devices().SetIPv4Address(w.ctx, id, first.Addrs[0]), http.StatusConflict)
	refused(t, "a node's address for a service", services.CreateOrUpdate(w.ctx, tailscale.VIPService{Name: "svc:b", Addrs: []string{w.row(id).IPv4.String()}}), http.StatusConflict)

	// The next address that a node would get is a service's.
	next := w.row(id).IPv4.Next()
	if err := services.CreateOrUpdate(w.ctx, tailscale.VIPService{Name: "svc:next", Addrs: []string{next.String()}}); err != nil {
		t.Fatal(err)
	}
	_, second := w.node("second")
	if got := w.row(second).IPv4; got == next || !got.IsValid() {
		t.Errorf("a node beside a service: got %v, want another than %v", got, next)
	}
	if list := must[[]tailscale.VIPService](t)(services.List(w.ctx)); len(list) != 2 {
		t.Errorf("the list: got %+v, want two", list)
	}
	for what, v := range map[string]tailscale.VIPService{
		"no name": {Name: "web"}, "a port": {Name: "svc:a", Ports: []string{"443"}}, "a range": {Name: "svc:a", Ports: []string{"tcp:9-8"}},
		"a tag": {Name: "svc:a", Tags: []string{"tag:unheard"}}, "an address": {Name: "svc:a", Addrs: []string{"x"}}, "one of elsewhere": {Name: "svc:a", Addrs: []string{"192.0.2.1"}},
	} {
		refused(t, what, services.CreateOrUpdate(w.ctx, v), http.StatusBadRequest)
	}
	if err := services.Delete(w.ctx, "svc:web"); err != nil {
		t.Error(err)
	}
	if err := w.admin.Devices().SetIPv4Address(w.ctx, id, first.Addrs[0]); err != nil {
		t.Errorf("an address that is free again: %v", err)
	}
	w.is("GET", "/tailnet/-/services/svc:next/devices", "", http.StatusNotImplemented)
	w.is("POST", "/tailnet/-/services/svc:next/device/"+id+"/approved", `{"approved":true}`, http.StatusNotImplemented)
	w.is("POST", "/device-invites/-/accept", `{"invite":"x"}`, http.StatusNotImplemented)
}

func TestWebhooks(t *testing.T) {
	w := newWorld(t)
	hooks := w.admin.Webhooks()
	made := must[*tailscale.Webhook](t)(hooks.Create(w.ctx, tailscale.CreateWebhookRequest{
		EndpointURL: "https://example.com/hook", ProviderType: "slack", Subscriptions: []tailscale.WebhookSubscriptionType{tailscale.WebhookNodeCreated, tailscale.WebhookPolicyUpdate}}))
	if made.Secret == nil || *made.Secret == "" || made.EndpointID == "" || made.ProviderType != "slack" || len(made.Subscriptions) != 2 || made.CreatorLoginName == "" {
		t.Errorf("made: got %+v", made)
	}
	read := must[*tailscale.Webhook](t)(hooks.Get(w.ctx, made.EndpointID))
	if read.Secret != nil || read.EndpointURL != "https://example.com/hook" {
		t.Errorf("read again: got %+v, want it without its secret", read)
	}
	rotated := must[*tailscale.Webhook](t)(hooks.RotateSecret(w.ctx, made.EndpointID))
	if rotated.Secret == nil || *rotated.Secret == *made.Secret {
		t.Error("the secret is the same as before")
	}
	for what, req := range map[string]tailscale.CreateWebhookRequest{
		"no URL": {EndpointURL: "x", Subscriptions: []tailscale.WebhookSubscriptionType{"nodeCreated"}}, "no events": {EndpointURL: "https://example.com"},
		"an unknown event": {EndpointURL: "https://example.com", Subscriptions: []tailscale.WebhookSubscriptionType{"rain"}},
		"an unknown chat":  {EndpointURL: "https://example.com", ProviderType: "irc", Subscriptions: []tailscale.WebhookSubscriptionType{"nodeCreated"}},
	} {
		refused(t, what, lose(hooks.Create(w.ctx, req)), http.StatusBadRequest)
	}
}

// What the API changes is in the audit log, by whom, and the log is told of as Tailscale tells it.
func TestAuditLog(t *testing.T) {
	w := newWorld(t)
	_, id := w.node("box")
	if err := w.admin.Devices().SetName(w.ctx, id, "renamed"); err != nil {
		t.Fatal(err)
	}
	if err := w.admin.TailnetSettings().Update(w.ctx, tailscale.UpdateTailnetSettingsRequest{DevicesKeyDurationDays: tailscale.PointerTo(5)}); err != nil {
		t.Fatal(err)
	}
	type entry struct {
		Action, Origin string
		Actor          struct{ LoginName string }
		Target         struct{ ID, Type, Name, Property string }
		Old, New       json.RawMessage
	}
	var log struct{ Logs []entry }
	if err := json.Unmarshal([]byte(w.is("GET", "/tailnet/-/logging/configuration", "", http.StatusOK)), &log); err != nil {
		t.Fatal(err)
	}
	has := func(ok func(entry) bool) bool { return slices.ContainsFunc(log.Logs, ok) }
	if !has(func(e entry) bool {
		return e.Action == "UPDATE" && e.Target.Type == "NODE" && e.Target.ID == id && strings.Contains(string(e.New), "renamed") &&
			e.Origin == "CONFIG_API" && strings.HasPrefix(e.Actor.LoginName, "apikey:")
	}) {
		t.Errorf("the new name is not in the log: %+v", log.Logs)
	}
	if !has(func(e entry) bool {
		return e.Target.Type == "TAILNET" && strings.Contains(string(e.New), `"KeyDays":5`)
	}) {
		t.Errorf("the setting is not in the log: %+v", log.Logs)
	}
	if text := w.is("GET", "/tailnet/elsewhere/logging/configuration", "", http.StatusOK); strings.Contains(text, "renamed") {
		t.Errorf("the log of another tailnet: got %s", text)
	}
	w.is("GET", "/tailnet/-/logging/configuration?start=yesterday", "", http.StatusBadRequest)
	w.is("GET", "/tailnet/-/logging/configuration?start=2026-02-01T00:00:00Z&end=2026-01-01T00:00:00Z", "", http.StatusBadRequest)
}

func TestLogStream(t *testing.T) {
	w := newWorld(t)
	logs := w.admin.Logging()
	refused(t, "none is set", lose(logs.LogstreamConfiguration(w.ctx, tailscale.LogTypeConfig)), http.StatusNotFound)
	set := tailscale.SetLogstreamConfigurationRequest{DestinationType: tailscale.LogstreamElasticEndpoint, URL: "https://logs.example.com/in", User: "elastic", Token: "hunter2"}
	if err := logs.SetLogstreamConfiguration(w.ctx, tailscale.LogTypeConfig, set); err != nil {
		t.Fatal(err)
	}
	got := must[*tailscale.LogstreamConfiguration](t)(logs.LogstreamConfiguration(w.ctx, tailscale.LogTypeConfig))
	if got.URL != set.URL || got.User != "elastic" || got.DestinationType != tailscale.LogstreamElasticEndpoint {
		t.Errorf("got %+v", got)
	}
	if text := w.is("GET", "/tailnet/-/logging/configuration/stream", "", http.StatusOK); strings.Contains(text, "hunter2") {
		t.Errorf("the token is told: %s", text)
	}
	if text := w.is("GET", "/tailnet/-/logging/configuration/stream/status", "", http.StatusOK); !strings.Contains(text, `"lastActivity":"2`) || !strings.Contains(text, `"lastError":"`) {
		t.Errorf("its status: got %s", text)
	}
	w.is("GET", "/tailnet/-/logging/network/stream/status", "", http.StatusNotImplemented)
	refused(t, "a bucket", logs.SetLogstreamConfiguration(w.ctx, tailscale.LogTypeConfig, tailscale.SetLogstreamConfigurationRequest{DestinationType: tailscale.LogstreamS3Endpoint}), http.StatusNotImplemented)
	refused(t, "flow logs", logs.SetLogstreamConfiguration(w.ctx, tailscale.LogTypeNetwork, set), http.StatusNotImplemented)
	refused(t, "no URL", logs.SetLogstreamConfiguration(w.ctx, tailscale.LogTypeConfig, tailscale.SetLogstreamConfigurationRequest{DestinationType: tailscale.LogstreamAxiomEndpoint}), http.StatusBadRequest)
	refused(t, "an unknown destination", logs.SetLogstreamConfiguration(w.ctx, tailscale.LogTypeConfig, tailscale.SetLogstreamConfigurationRequest{DestinationType: "paper"}), http.StatusBadRequest)
	if err := logs.DeleteLogstreamConfiguration(w.ctx, tailscale.LogTypeConfig); err != nil {
		t.Error(err)
	}
	refused(t, "one that is gone", logs.DeleteLogstreamConfiguration(w.ctx, tailscale.LogTypeConfig), http.StatusNotFound)
	w.is("GET", "/tailnet/-/logging/configuration/stream/status", "", http.StatusNotFound)
}

// Bodies that are no JSON, of the wrong type, with unknown members, or too long, are refused by every operation that
// reads one, and nothing breaks.
func TestBadBodies(t *testing.T) {
	w := newWorld(t)
	w.SetPolicy(policyText)
	o := w.things()
	device, t1 := "/device/"+o.device, "/tailnet/-"
	for _, op := range []string{
		"POST " + device + "/authorized", "POST " + device + "/name", "POST " + device + "/tags", "POST " + device + "/key", "POST " + device + "/ip",
		"POST " + device + "/routes", "POST " + device + "/attributes/custom:x", "PATCH " + t1 + "/device-attributes",
		"POST " + t1 + "/keys", "PUT " + t1 + "/keys/" + o.client, "POST " + t1 + "/dns/nameservers", "POST " + t1 + "/dns/searchpaths", "POST " + t1 + "/dns/preferences",
		"PUT " + t1 + "/dns/split-dns", "PATCH " + t1 + "/dns/split-dns", "POST " + t1 + "/dns/configuration", "POST /users/" + o.user + "/role",
		"POST " + t1 + "/user-invites", "PATCH " + t1 + "/settings", "PATCH " + t1 + "/contacts/support", "POST " + t1 + "/webhooks", "PATCH /webhooks/" + o.webhook,
		"PUT " + t1 + "/logging/configuration/stream", "PUT " + t1 + "/vip-services/svc:x", "POST " + t1 + "/acl", "POST " + t1 + "/acl/validate",
		"POST " + tailnetsPath,
	} {
		method, path, _ := strings.Cut(op, " ")
		for _, body := range []string{"", "{", "nonsense", `{"surely": "unknown"}`, `{"a":1}{"b":2}`, "17", `"x"`, "\x00", "[[]]"} {
			if body == "" && strings.HasSuffix(op, "/acl") {
				body = " \n" // no policy at all is one
			}
			w.is(method, path, body, http.StatusBadRequest)
		}
	}
	w.is("POST", t1+"/dns/nameservers", `{"dns":["`+strings.Repeat("x", 9<<20)+`"]}`, http.StatusRequestEntityTooLarge)
	w.is("POST", t1+"/acl", strings.Repeat(" ", 9<<20), http.StatusRequestEntityTooLarge)
	for _, absent := range []string{"GET /nothing", "GET /tailnet/-/nothing", "GET /users/0", "GET /webhooks/x", "GET /user-invites/-1", "GET /tailnet/-/keys/zzz", "GET /tailnet/-/vip-services/svc:none",
		"GET /device-invites/7", "DELETE /device-invites/7", "POST /device-invites/7/resend"} {
		method, path, _ := strings.Cut(absent, " ")
		w.is(method, path, "", http.StatusNotFound)
	}
	w.is("DELETE", t1+"/devices", "", http.StatusMethodNotAllowed)
}

// A key that is bound to a member sees that member's devices and no others.
func TestOwnOnly(t *testing.T) {
	w := newWorld(t)
	_, mine := w.node("mine")
	thor := w.User("thor")
	n := w.Node("thors")
	n.Join(w.Key(thor))
	his := w.idOf(n)
	c := w.client(w.userKey(thor), "")
	list := must[[]tailscale.Device](t)(c.Devices().List(w.ctx))
	if len(list) != 1 || list[0].NodeID != his {
		t.Errorf("got %+v, want thor's device", list)
	}
	refused(t, "another's device", lose(c.Devices().Get(w.ctx, mine)), http.StatusNotFound)
	refused(t, "authorizing one's own", c.Devices().SetAuthorized(w.ctx, his, true), http.StatusForbidden)
	refused(t, "a key that never expires", c.Devices().SetKey(w.ctx, his, tailscale.DeviceKey{KeyExpiryDisabled: true}), http.StatusForbidden)
	refused(t, "another's name", c.Devices().SetName(w.ctx, mine, "taken"), http.StatusNotFound)
	if err := c.Devices().SetName(w.ctx, his, "hammer"); err != nil {
		t.Errorf("one's own name: %v", err)
	}
	refused(t, "settings", lose(c.TailnetSettings().Get(w.ctx)), http.StatusForbidden)
	if got := must[[]tailscale.User](t)(c.Users().List(w.ctx, nil, nil)); len(got) != 1 {
		t.Errorf("users: got %+v, want thor alone", got)
	}
}
