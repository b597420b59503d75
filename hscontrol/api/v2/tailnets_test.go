package v2_test

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"
	"time"

	tailscale "tailscale.com/client/tailscale/v2"

	"github.com/keelscale/keelscale/hscontrol/hstest"
	"github.com/keelscale/keelscale/hscontrol/tailnet"
)

// madeTailnet is what programs keep of a tailnet.
type madeTailnet struct {
	ID          string    `json:"id"`
	DisplayName string    `json:"displayName"`
	OrgID       string    `json:"orgId"`
	DNSName     string    `json:"dnsName"`
	CreatedAt   time.Time `json:"createdAt"`
	OAuthClient *struct {
		ID     string `json:"id"`
		Secret string `json:"secret"`
	} `json:"oauthClient"`
}

const tailnetsPath = "/organizations/-/tailnets"

// listed are the tailnets by their display names.
func (w *world) listed(key string) map[string]madeTailnet {
	w.t.Helper()
	status, body := w.askAs(key, "GET", tailnetsPath, "")
	var answer map[string][]madeTailnet // as version 2.11 of the library decodes it
	if err := json.Unmarshal([]byte(body), &answer); err != nil || status != http.StatusOK {
		w.t.Fatalf("listing tailnets: got %d %s (%v)", status, body, err)
	}
	found := map[string]madeTailnet{}
	for _, each := range answer["tailnets"] {
		found[each.DisplayName] = each
	}
	return found
}

// Terraform's tailscale_tailnet: made with the provider's credentials, filled and deleted with those that come with it.
func TestTailnets(t *testing.T) {
	w := newWorld(t)
	maker := w.key(tailnet.APIKey{Scopes: []string{"tailnets"}})
	status, body := w.askAs(maker, "POST", tailnetsPath, `{"displayName": "Our Lab"}`)
	var made madeTailnet
	if err := json.Unmarshal([]byte(body), &made); err != nil || status != http.StatusOK || made.OAuthClient == nil {
		t.Fatalf("making one: got %d %s (%v)", status, body, err)
	}
	if made.DisplayName != "Our Lab" || made.ID == "" || made.OrgID == "" || !strings.HasPrefix(made.DNSName, "our-lab.") || made.CreatedAt.IsZero() {
		t.Errorf("making one: got %+v", made)
	}
	found := w.listed(maker)
	if again := found["Our Lab"]; len(found) != 3 || again.ID != made.ID || again.OrgID != made.OrgID || !again.CreatedAt.Equal(made.CreatedAt) || again.OAuthClient != nil {
		t.Errorf("the plan: got %+v, want default, elsewhere, and %+v without its secret", found, made)
	}

	child := func(name string) *tailscale.Client {
		return &tailscale.Client{BaseURL: w.base(), Tailnet: name, Auth: &tailscale.OAuth{ClientID: made.OAuthClient.ID, ClientSecret: made.OAuthClient.Secret, Scopes: []string{"all"}}}
	}
	for _, name := range []string{made.ID, made.DNSName, "our-lab", "-"} {
		if err := child(name).PolicyFile().Set(w.ctx, policyText, ""); err != nil {
			t.Errorf("as %s: %v", name, err)
		}
		refused(t, "the default tailnet with its client", lose(child("default").PolicyFile().Raw(w.ctx)), http.StatusNotFound)
	}
	var create tailscale.KeyCapabilities
	create.Devices.Create.Tags = []string{"tag:web"}
	key := must[*tailscale.Key](t)(child(made.ID).Keys().CreateAuthKey(w.ctx, tailscale.CreateKeyRequest{Capabilities: create}))
	guest := w.Node("guest")
	guest.Join(key.Key)
	poll := guest.Poll()
	must[*tailnet.User](t)(w.Store().CreateUser(w.ctx, tailnet.User{TailnetID: must[*tailnet.Tailnet](t)(w.Store().FindTailnet(w.ctx, "our-lab")).ID, Name: "thor", Role: "owner"}))
	if devices := must[[]tailscale.Device](t)(child(made.ID).Devices().List(w.ctx)); len(devices) != 1 {
		t.Errorf("got devices %+v, want the guest alone", devices)
	}
	must[*tailscale.Webhook](t)(child("-").Webhooks().Create(w.ctx, tailscale.CreateWebhookRequest{EndpointURL: "https://example.com/hook", Subscriptions: []tailscale.WebhookSubscriptionType{"nodeDeleted"}}))

	status, body = w.askAs(maker, "DELETE", "/tailnet/"+made.ID, "")
	if status != http.StatusForbidden {
		t.Errorf("deleting it with the maker's key: got %d %s, want 403", status, body)
	}
	own := (&tailscale.OAuth{ClientID: made.OAuthClient.ID, ClientSecret: made.OAuthClient.Secret}).HTTPClient(http.DefaultClient, w.URL)
	if status, body := w.askAs("", "DELETE", "/tailnet/"+made.ID, "", own); status != http.StatusOK {
		t.Fatalf("deleting it: got %d %s", status, body)
	}
	poll.Await("that it is gone", func(m *hstest.Netmap) bool { return m.Node.Expired && len(m.Peers) == 0 })
	poll.Close()
	if found := w.listed(maker); len(found) != 2 {
		t.Errorf("deleted: got %v, want the two others", found)
	}
	w.is("DELETE", "/tailnet/"+made.ID, "", http.StatusNotFound)
}

func TestTailnetsRefused(t *testing.T) {
	w := newWorld(t)
	bound := w.key(tailnet.APIKey{TailnetID: w.other.ID, Scopes: []string{"all"}})
	if found := w.listed(bound); len(found) != 1 || found["elsewhere"].ID == "" {
		t.Errorf("with a key for one: got %v, want that one", found)
	}
	thor := w.User("thor")
	if _, err := w.Store().SetUserRole(w.ctx, thor.ID, "admin"); err != nil {
		t.Fatal(err)
	}
	admin := w.key(tailnet.APIKey{UserID: thor.ID, Scopes: []string{"all"}})
	for _, ask := range []struct {
		key, method, path, body string
		want                    int
	}{
		{bound, "POST", tailnetsPath, `{"displayName": "more"}`, http.StatusForbidden},
		{bound, "DELETE", "/tailnet/default", "", http.StatusNotFound},
		{admin, "DELETE", "/tailnet/-", "", http.StatusForbidden},
		{w.admin.APIKey, "DELETE", "/tailnet/-", "", http.StatusConflict},
		{w.admin.APIKey, "POST", tailnetsPath, `{"displayName": "Elsewhere"}`, http.StatusConflict},
		{w.admin.APIKey, "POST", tailnetsPath, `{"displayName": "+++"}`, http.StatusBadRequest},
		{w.admin.APIKey, "POST", tailnetsPath, `{}`, http.StatusBadRequest},
		{bound, "DELETE", "/tailnet/elsewhere", "", http.StatusOK},
	} {
		if status, body := w.askAs(ask.key, ask.method, ask.path, ask.body); status != ask.want {
			t.Errorf("%s %s %s: got %d %s, want %d", ask.method, ask.path, ask.body, status, body, ask.want)
		}
	}
	if all := must[[]*tailnet.Tailnet](t)(w.Store().ListTailnets(w.ctx)); len(all) != 1 {
		t.Errorf("got %d tailnets, want the default one", len(all))
	}
}
