package v2_test

import (
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"testing"
)

// FuzzBodies: whatever the body, the answer is JSON, and never that the server broke.
func FuzzBodies(f *testing.F) {
	w := newWorld(f)
	w.SetPolicy(policyText)
	_, id := w.node("box")
	device, own := "/device/"+id, "/tailnet/-"
	requests := []string{
		"POST " + device + "/name", "POST " + device + "/tags", "POST " + device + "/routes", "POST " + device + "/ip", "POST " + device + "/attributes/custom:x",
		"PATCH " + own + "/device-attributes", "POST " + own + "/keys", "POST " + own + "/dns/configuration", "PATCH " + own + "/dns/split-dns",
		"PATCH " + own + "/settings", "PATCH " + own + "/contacts/account", "POST " + own + "/webhooks", "POST " + own + "/user-invites",
		"PUT " + own + "/vip-services/svc:x", "PUT " + own + "/logging/configuration/stream", "POST " + own + "/acl/validate", "POST " + own + "/acl",
		"POST " + own + "/acl/preview?type=user&previewFor=odin@example.com",
	}
	for i, body := range []string{
		`{"name":"box"}`, `{"tags":["tag:web"]}`, `{"routes":["10.0.0.0/24"]}`, `{"ipv4":"100.64.0.9"}`, `{"value":1e400,"expiry":"0001-01-01T00:00:00Z"}`,
		`{"nodes":{"1":{"custom:a":null}}}`, `{"capabilities":{"devices":{"create":{"reusable":true}}},"expirySeconds":9223372036854775807}`,
		`{"nameservers":[{"address":"192.0.2.1"}],"splitDNS":{"\u0000":[]}}`, `{"a.example":null}`, `{"devicesKeyDurationDays":-1}`, `{"email":"a@b\u0000"}`,
		`{"endpointUrl":"https://[::1","subscriptions":["nodeCreated"]}`, `[{"email":"a@b"}]`, `{"addrs":["::"],"ports":["tcp:0-99999"]}`,
		`{"destinationType":"splunk","url":"https://x"}`, `[{"src":"a","accept":["b:1"]}]`, `{"acls":[],}`,
	} {
		f.Add(uint8(i), body)
	}
	f.Fuzz(func(t *testing.T, which uint8, body string) {
		method, path, _ := strings.Cut(requests[int(which)%len(requests)], " ")
		req := must[*http.Request](t)(http.NewRequestWithContext(t.Context(), method, w.URL+"/api/v2"+path, strings.NewReader(body)))
		req.SetBasicAuth(w.admin.APIKey, "")
		resp := must[*http.Response](t)(http.DefaultClient.Do(req))
		defer resp.Body.Close()
		text := must[[]byte](t)(io.ReadAll(resp.Body))
		if !json.Valid(text) || resp.StatusCode >= 500 && resp.StatusCode != http.StatusNotImplemented {
			t.Errorf("%s %s with %q: got %d %s", method, path, body, resp.StatusCode, text)
		}
	})
}
