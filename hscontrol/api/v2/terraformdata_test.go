package v2_test

import (
	"encoding/json"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	tailscale "tailscale.com/client/tailscale/v2"

	"github.com/keelscale/keelscale/hscontrol/tailnet"
)

// The data sources of Terraform's provider find what they look for, and the same again.
func TestTerraformData(t *testing.T) {
	w := newWorld(t)
	w.SetPolicy(policyText)
	_, first := w.node("first")
	ephemeral, second := w.node("second", func(k *tailnet.PreAuthKey) { k.Ephemeral = true })
	if err := w.admin.Devices().SetTags(w.ctx, second, []string{"tag:ci", "tag:web"}); err != nil {
		t.Fatal(err)
	}

	devices := must[[]tailscale.Device](t)(w.admin.Devices().List(w.ctx))
	if again := must[[]tailscale.Device](t)(w.admin.Devices().List(w.ctx)); len(devices) != 2 || !cmp.Equal(devices, again) {
		t.Errorf("devices: got %+v and %+v, want the same two", devices, again)
	}
	for _, d := range devices { // by name, by host name, and by ID
		name, _, _ := strings.Cut(d.Name, ".")
		if name != d.Hostname || !strings.Contains(d.Name, ".") || d.Created.IsZero() || len(d.Addresses) != 2 || d.MachineKey == "" || d.NodeKey == "" || d.User == "" {
			t.Errorf("device: got %+v, want a whole name and all that the source tells", d)
		}
		if one := must[*tailscale.Device](t)(w.admin.Devices().Get(w.ctx, d.NodeID)); !cmp.Equal(*one, d) {
			t.Errorf("device %s alone: got %+v, want %+v", d.Hostname, *one, d)
		}
	}
	filtered := must[[]tailscale.Device](t)(w.admin.Devices().List(w.ctx, tailscale.WithFilter("isEphemeral", []string{"true"}), tailscale.WithFilter("tags", []string{"tag:web", "tag:api"})))
	if len(filtered) != 1 || filtered[0].NodeID != second || filtered[0].Hostname != ephemeral.Hostinfo.Hostname {
		t.Errorf("filtered: got %+v, want the second", filtered)
	}
	refused(t, "a device that is not there", lose(w.admin.Devices().Get(w.ctx, first+"0")), http.StatusNotFound)

	var anyType tailscale.UserType // as the source writes no filter
	var anyRole tailscale.UserRole
	users := must[[]tailscale.User](t)(w.admin.Users().List(w.ctx, &anyType, &anyRole))
	if len(users) != 1 || users[0].LoginName != "odin@example.com" || users[0].Type != tailscale.UserTypeMember || users[0].Role != tailscale.UserRoleOwner || users[0].DeviceCount != 1 {
		t.Errorf("users: got %+v, want odin with a device", users)
	}
	if one := must[*tailscale.User](t)(w.admin.Users().Get(w.ctx, users[0].ID)); one.LoginName != users[0].LoginName {
		t.Errorf("user alone: got %+v, want %+v", *one, users[0])
	}
	admin := tailscale.UserRoleAdmin
	if list := must[[]tailscale.User](t)(w.admin.Users().List(w.ctx, nil, &admin)); len(list) != 0 {
		t.Errorf("admins: got %+v, want none", list)
	}

	if raw := must[*tailscale.RawACL](t)(w.admin.PolicyFile().Raw(w.ctx)); raw.HuJSON != policyText {
		t.Errorf("acl: got %q, want it as it was set", raw.HuJSON)
	}
	if err := w.admin.VIPServices().CreateOrUpdate(w.ctx, tailscale.VIPService{Name: "svc:web", Comment: "c", Ports: []string{"tcp:443"}, Tags: []string{"tag:web"}}); err != nil {
		t.Fatal(err)
	}
	v := must[*tailscale.VIPService](t)(w.admin.VIPServices().Get(w.ctx, "svc:web"))
	if len(v.Addrs) != 2 || v.Comment != "c" || !slices.Equal(v.Ports, []string{"tcp:443"}) || !slices.Equal(v.Tags, []string{"tag:web"}) {
		t.Errorf("service: got %+v", v)
	}
}

// Clients after 2.9 write nameservers with what else they are; a plain address leaves that as it is.
func TestNameserversAsObjects(t *testing.T) {
	w := newWorld(t)
	said := func(text string) any {
		var v any
		if err := json.Unmarshal([]byte(text), &v); err != nil {
			t.Fatal(err)
		}
		return v
	}
	for _, step := range []struct{ ask, want string }{
		{`POST /tailnet/-/dns/nameservers {"dns":[{"address":"192.0.2.1","useWithExitNode":true},{"address":"192.0.2.2"}]}`,
			`{"dns":[{"address":"192.0.2.1","useWithExitNode":true},{"address":"192.0.2.2"}],"magicDNS":true}`},
		{`GET /tailnet/-/dns/nameservers`, `{"dns":["192.0.2.1","192.0.2.2"]}`},
		{`POST /tailnet/-/dns/nameservers {"dns":["192.0.2.3","192.0.2.1"]}`, `{"dns":["192.0.2.3","192.0.2.1"],"magicDNS":true}`},
		{`PATCH /tailnet/-/dns/split-dns {"example.com":[{"address":"192.0.2.4","useWithExitNode":true}]}`, `{"example.com":[{"address":"192.0.2.4","useWithExitNode":true}]}`},
		{`PATCH /tailnet/-/dns/split-dns {"example.com":["192.0.2.4","192.0.2.5"]}`, `{"example.com":["192.0.2.4","192.0.2.5"]}`},
		{`GET /tailnet/-/dns/configuration`, `{"nameservers":[{"address":"192.0.2.3"},{"address":"192.0.2.1","useWithExitNode":true}],
			"splitDNS":{"example.com":[{"address":"192.0.2.4","useWithExitNode":true},{"address":"192.0.2.5"}]},"preferences":{"overrideLocalDNS":false,"magicDNS":true}}`},
		{`PATCH /tailnet/-/dns/split-dns {"example.com":null}`, `{}`},
		{`POST /tailnet/-/dns/nameservers {"dns":[]}`, `{"dns":[],"magicDNS":true}`},
		{`GET /tailnet/-/dns/configuration`, `{"preferences":{"overrideLocalDNS":false,"magicDNS":true}}`},
	} {
		method, rest, _ := strings.Cut(step.ask, " ")
		path, body, _ := strings.Cut(rest, " ")
		if diff := cmp.Diff(said(step.want), said(w.is(method, path, body, http.StatusOK))); diff != "" {
			t.Errorf("%s: want - got +\n%s", step.ask, diff)
		}
	}
	for _, bad := range []string{`{"dns":[{"address":"192.0.2.1","colour":"red"}]}`, `{"dns":[7]}`, `{"dns":[{"address":7}]}`, `{"dns":[null]}`, `{"dns":[[]]}`} {
		w.is("POST", "/tailnet/-/dns/nameservers", bad, http.StatusBadRequest)
	}
}
