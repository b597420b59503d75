package hscontrol_test

import (
	"encoding/json"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/keelscale/keelscale/hscontrol/config"
	"github.com/keelscale/keelscale/hscontrol/hstest"
)

// uiStories are what the user interfaces of others do, in the order in which somebody would click through them. What is
// wanted of an answer is what they read of it.
var uiStories = []story{
	{"headplane since 0.6", []step{
		{ask: `GET /user`, want: `{"users":[]}`},
		{ask: `POST /user {"name":"amelia@","email":"amelia@example.com","displayName":"Amelia"}`, want: `{"user":{"id":"=uid","name":"amelia@","email":"amelia@example.com","displayName":"Amelia","createdAt":"<time>","provider":"","providerId":"","profilePicUrl":""}}`},
		{ask: `GET /user?id={uid}`, want: `{"users":[{"id":"{uid}"}]}`},
		{ask: `POST /user/{uid}/rename/amelia`, want: `{"user":{"name":"amelia"}}`},
		{ask: `GET /policy`, status: 404, want: `{"message":"acl policy not found: tailnet default has no policy, so everyone in it may reach everyone"}`},
		{ask: `PUT /policy {"policy":"{ \"groups\": [ }"}`, status: 400, want: `{"detail":"<text>","message":"parsing policy from bytes: line 1: column 15: invalid character '}' at start of value: look for a comma, quote or bracket that is missing or too many, there or before"}`},
		{ask: `POST /policy/check {"policy":"{\"groups\":7}"}`, status: 400, want: `{"message":"parsing policy from bytes: line 1: groups: this must be an object, {...}: it is a number"}`},
		{ask: `PUT /policy {"policy":"{\n  // ours\n  \"tagOwners\": {\"tag:web\": []},\n}"}`, want: `{"policy":"{\n  // ours\n  \"tagOwners\": {\"tag:web\": []},\n}","updatedAt":"<time>"}`},
		{ask: `GET /policy`, want: `{"policy":"<text>","updatedAt":"<time>"}`},
		{ask: `POST /preauthkey {"ephemeral":false,"reusable":false,"expiration":"2036-01-02T03:04:05.678Z","aclTags":["tag:headplane-agent"]}`, want: `{"preAuthKey":{"id":"<text>","key":"<text>","user":null,"aclTags":["tag:headplane-agent"],"expiration":"2036-01-02T03:04:05.678Z"}}`},
		{ask: `POST /preauthkey {"ephemeral":true,"reusable":true,"expiration":null,"user":"{uid}"}`, want: `{"preAuthKey":{"id":"=kid","key":"=key","user":{"id":"{uid}"},"reusable":true,"ephemeral":true,"used":false,"aclTags":[]}}`},
		{ask: `GET /preauthkey`, want: `{"preAuthKeys":[{"user":null},{"id":"{kid}","user":{"id":"{uid}"},"key":"=shown","createdAt":"<time>","expiration":"<time>"}]}`},
		{ask: `GET /preauthkey?user={uid}`, want: `{"preAuthKeys":[{"id":"{kid}","user":{"id":"{uid}"},"key":"{shown}"}]}`},
		{ask: `POST /preauthkey/expire {"id":"{kid}"}`, want: `{}`},
		{ask: `POST /preauthkey/expire {"user":"amelia","key":"{shown}"}`, want: `{}`},
		{ask: `POST /debug/node {"user":"amelia","key":"` + firstKey + `","name":"gate","routes":["10.0.0.0/24","0.0.0.0/0","::/0"]}`, want: `{}`},
		{ask: `POST /node/register?user=amelia&key=` + firstKey + ` {"user":"amelia","key":"` + firstKey + `"}`, want: `{"node":{"id":"=nid","name":"gate","registerMethod":"REGISTER_METHOD_CLI"}}`},
		{ask: `GET /node`, want: `{"nodes":[{"id":"{nid}","machineKey":"<text>","nodeKey":"<text>","discoKey":"<text>","ipAddresses":["<text>","<text>"],"name":"gate","givenName":"gate",
			"user":{"id":"{uid}","name":"amelia"},"lastSeen":null,"expiry":null,"preAuthKey":null,"createdAt":"<time>","online":false,"tags":[],"forcedTags":[],"validTags":[],"invalidTags":[],
			"approvedRoutes":[],"availableRoutes":["0.0.0.0/0","10.0.0.0/24","::/0"],"subnetRoutes":[]}]}`},
		{ask: `GET /node/{nid}`, want: `{"node":{"id":"{nid}","approvedRoutes":[]}}`},
		{ask: `GET /node/77`, status: 404, want: `{"message":"<text>"}`},
		{ask: `POST /node/{nid}/rename/front%2Dgate`, want: `{"node":{"givenName":"front-gate"}}`},
		{ask: `POST /node/{nid}/approve_routes {"routes":["10.0.0.0/24","0.0.0.0/0","::/0"]}`, want: `{"node":{"approvedRoutes":["0.0.0.0/0","10.0.0.0/24","::/0"]}}`},
		{ask: `POST /node/{nid}/approve_routes {"routes":[]}`, want: `{"node":{"approvedRoutes":[]}}`},
		{ask: `POST /node/{nid}/expire`, want: `{"node":{"expiry":"<time>"}}`},
		{ask: `POST /node/{nid}/expire?disableExpiry=true`, want: `{"node":{"expiry":null}}`},
		{ask: `POST /node/{nid}/expire?disableExpiry=false`, want: `{"node":{"expiry":"<time>"}}`},
		{ask: `POST /node/{nid}/tags {"tags":["tag:unheard"]}`, status: 400, want: `{"message":"<text>"}`},
		{ask: `POST /node/{nid}/tags {"tags":["tag:web"]}`, want: `{"node":{"tags":["tag:web"],"user":{"name":"tagged-devices"}}}`},
		{ask: `POST /user {"name":"other"}`, want: `{"user":{"id":"=other"}}`},
		{ask: `POST /node/{nid}/user {"user":"{other}"}`, want: `{"node":{"user":{"id":"{other}"}}}`}, // up to 0.27
		{ask: `DELETE /user/{other}`, status: 409, want: `{"message":"<text>"}`},
		{ask: `DELETE /node/{nid}`, want: `{}`},
		{ask: `DELETE /user/{other}`, want: `{}`},
	}},
	{"headscale-admin since 0.26", []step{
		{ask: `POST /user {"name":"amelia"}`, want: `{"user":{"id":"=uid","name":"amelia","createdAt":"<time>","displayName":"","email":"","providerId":"","provider":"","profilePicUrl":""}}`},
		{ask: `GET /user?name=amelia`, want: `{"users":[{"id":"{uid}"}]}`},
		{ask: `POST /user/{uid}/rename/lena {}`, want: `{"user":{"name":"lena"}}`},
		{ask: `POST /preauthkey {"user":"{uid}","reusable":false,"ephemeral":false,"expiration":"2036-01-02T03:04:05.678Z"}`, want: `{"preAuthKey":{"user":{"id":"{uid}"},"key":"=key","createdAt":"<time>"}}`},
		{ask: `GET /preauthkey?user={uid}`, want: `{"preAuthKeys":[{"user":{"id":"{uid}"},"key":"=shown","expiration":"<time>","used":false,"aclTags":[]}]}`},
		{ask: `POST /preauthkey/expire {"user":"{uid}","key":"{shown}"}`, want: `{}`},
		{ask: `POST /debug/node {"user":"lena","key":"` + firstKey + `","name":"gate","routes":["10.0.0.0/24"]}`, want: `{}`},
		{ask: `POST /node/register?user=lena&key=` + firstKey + ` {}`, want: `{"node":{"id":"=nid","givenName":"gate"}}`},
		{ask: `GET /node`, want: `{"nodes":[{"id":"{nid}","user":{"id":"{uid}"},"forcedTags":[],"validTags":[],"invalidTags":[],"approvedRoutes":[],"availableRoutes":["10.0.0.0/24"],"subnetRoutes":[],"expiry":null,"online":false}]}`},
		{ask: `POST /node/{nid}/approve_routes {"routes":["10.0.0.0/24"]}`, want: `{"node":{"id":"{nid}","approvedRoutes":["10.0.0.0/24"]}}`},
		{ask: `POST /node/{nid}/rename/front {}`, want: `{"node":{"givenName":"front"}}`},
		{ask: `POST /node/{nid}/expire {}`, want: `{"node":{"expiry":"<time>"}}`},
		{ask: `POST /node/{nid}/user {"user":"{uid}"}`, want: `{"node":{"user":{"name":"lena"}}}`},
		{ask: `PUT /policy {"policy":"{\n    \"tagOwners\": {\n        \"tag:web\": []\n    }\n}"}`, want: `{"policy":"<text>"}`},
		{ask: `POST /node/{nid}/tags {"tags":["tag:web"]}`, want: `{"node":{"forcedTags":["tag:web"]}}`},
		{ask: `GET /policy`, want: `{"policy":"<text>"}`},
		{ask: `DELETE /node/{nid}`, want: `{}`},
		{ask: `DELETE /user/{uid}`, want: `{}`},
	}},
	{"headscale-admin up to 0.25", []step{
		{ask: `POST /user {"name":"amelia"}`, want: `{"user":{"name":"amelia"}}`},
		{ask: `GET /machine`, want: `{"machines":[]}`},
		{ask: `POST /user/amelia/rename/lena {}`, want: `{"user":{"name":"lena"}}`},
		{ask: `POST /preauthkey {"user":"lena","reusable":true,"ephemeral":false,"expiration":"2036-01-02T03:04:05.678Z"}`, want: `{"preAuthKey":{"user":"lena","key":"=key"}}`},
		{ask: `GET /preauthkey?user=lena`, want: `{"preAuthKeys":[{"user":"lena","key":"=shown"}]}`},
		{ask: `POST /preauthkey/expire {"user":"lena","key":"{key}"}`, want: `{}`},
		{ask: `POST /debug/node {"user":"lena","key":"` + firstKey + `","name":"gate","routes":["10.0.0.0/24"]}`, want: `{}`},
		{ask: `POST /node/register?user=lena&key=nodekey:` + firstKey + ` {}`, want: `{"node":{"id":"=nid"}}`},
		{ask: `GET /routes`, want: `{"routes":[{"id":"=rid","prefix":"10.0.0.0/24","advertised":true,"enabled":false,"isPrimary":false,"createdAt":"<time>","deletedAt":null,"node":{"id":"{nid}","givenName":"gate"},"machine":{"id":"{nid}"}}]}`},
		{ask: `POST /routes/{rid}/enable {}`, want: `{}`},
		{ask: `POST /routes/{rid}/disable {}`, want: `{}`},
		{ask: `DELETE /routes/{rid}`, want: `{}`},
		{ask: `POST /node/{nid}/user {"user":"lena"}`, want: `{"node":{"user":{"name":"lena"}}}`},
		{ask: `DELETE /node/{nid}`, want: `{}`},
		{ask: `DELETE /user/lena`, want: `{}`},
	}},
	{"headscale-ui of 2025", []step{
		{ask: `POST /user {"name":"amelia"}`, want: `{"user":{"id":"=uid"}}`},
		{ask: `POST /user {"name":"lena"}`, want: `{"user":{"id":"=second"}}`},
		{ask: `POST /user {"name":"lena"}`, status: 409, want: `{"message":"<text>"}`},
		{ask: `GET /user`, want: `{"users":[{"id":"{uid}","name":"amelia","email":"","createdAt":"<time>"},{"id":"{second}"}]}`},
		{ask: `POST /user/{uid}/rename/amy`, want: `{"user":{"name":"amy"}}`},
		{ask: `POST /preauthkey {"user":"{uid}","expiration":"2036-01-02T03:04:05.678Z","reusable":true,"ephemeral":false}`, want: `{}`},
		{ask: `GET /preauthkey?user={uid}`, want: `{"preAuthKeys":[{"id":"<text>","key":"=shown","reusable":true,"used":false,"expiration":"<time>"}]}`},
		{ask: `POST /preauthkey/expire {"user":"{uid}","key":"{shown}"}`, want: `{}`},
		{ask: `POST /debug/node {"user":"amy","key":"` + firstKey + `","name":"gate","routes":["10.0.0.0/24"]}`, want: `{}`},
		{ask: `POST /node/register?user=amy&key=` + firstKey, want: `{"node":{"id":"=nid"}}`},
		{ask: `GET /node`, want: `{"nodes":[{"id":"{nid}","name":"gate","givenName":"gate","lastSeen":null,"ipAddresses":["<text>","<text>"],"tags":[],"approvedRoutes":[],"availableRoutes":["10.0.0.0/24"],"subnetRoutes":[],"user":{"id":"{uid}","name":"amy"},"online":false}]}`},
		{ask: `POST /node/{nid}/user {"user":{second}}`, want: `{"node":{"user":{"name":"lena"}}}`}, // parseInt(id)
		{ask: `POST /node/{nid}/rename/front`, want: `{}`},
		{ask: `POST /node/{nid}/rename/front%20door`, status: 400, want: `{"message":"<text>"}`},
		{ask: `POST /node/{nid}/approve_routes {"routes":["10.0.0.0/24"]}`, want: `{}`},
		{ask: `POST /node/{nid}/tags {"tags":["tag:unheard"]}`, status: 400, want: `{"message":"<text>"}`},
		{ask: `DELETE /node/{nid}`, want: `{}`},
		{ask: `DELETE /user/{uid}`, want: `{}`},
	}},
	{"headscale-ui of 2022", []step{
		{ask: `GET /machine`, want: `{"machines":[]}`},
		{ask: `POST /namespace {"name":"amelia"}`, want: `{"namespace":{"id":"<text>","name":"amelia","createdAt":"<time>"}}`},
		{ask: `GET /namespace`, want: `{"namespaces":[{"name":"amelia"}]}`},
		{ask: `POST /debug/machine {"namespace":"amelia","key":"` + firstKey + `","name":"gate","routes":["10.0.0.0/24"]}`, want: `{}`},
		{ask: `POST /machine/register?namespace=amelia&key=` + firstKey, want: `{"machine":{"id":"=nid"}}`},
		{ask: `GET /machine`, want: `{"machines":[{"id":"{nid}","name":"gate","givenName":"gate","lastSeen":null,"ipAddresses":["<text>","<text>"],"forcedTags":[],"validTags":[],"invalidTags":[],"namespace":{"name":"amelia"}}]}`},
		{ask: `GET /machine/{nid}/routes`, want: `{"routes":[{"id":"=rid","prefix":"10.0.0.0/24","advertised":true,"enabled":false}]}`},
		{ask: `POST /routes/{rid}/enable`, want: `{}`},
		{ask: `POST /preauthkey {"namespace":"amelia","expiration":"2036-01-02T03:04:05.678Z","reusable":true,"ephemeral":false}`, want: `{"preAuthKey":{"namespace":"amelia","key":"=key"}}`},
		{ask: `GET /preauthkey?namespace=amelia`, want: `{"preAuthKeys":[{"namespace":"amelia"}]}`},
		{ask: `POST /preauthkey/expire {"namespace":"amelia","key":"{key}"}`, want: `{}`},
		{ask: `DELETE /machine/{nid}`, want: `{}`},
		{ask: `DELETE /namespace/amelia`, want: `{}`},
	}},
}

func TestUserInterfaces(t *testing.T) {
	for _, story := range uiStories {
		t.Run(story.name, func(t *testing.T) { tell(t, hstest.Start(t), story, "application/json") })
	}
}

// TestKeysOfUserInterfaces is how they find the key that they were given among all: headscale-admin and headscale-ui by
// what is shown of it, headplane by that without asterisks. Then they put another in its place.
func TestKeysOfUserInterfaces(t *testing.T) {
	s := hstest.Start(t)
	ask := func(method, path, key, body string, answer any) int {
		status, text := call(t, method, s.URL+"/api/v1"+path, key, body, "application/json")
		if answer != nil {
			if err := json.Unmarshal([]byte(text), answer); err != nil {
				t.Fatalf("%s %s: got %d %s: %v", method, path, status, text, err)
			}
		}
		return status
	}
	key := apiKey(t, s)
	var listed struct{ APIKeys []struct{ Prefix string } }
	ask("GET", "/apikey", key, "", &listed)
	prefix := listed.APIKeys[0].Prefix
	if prefix == "" || !strings.HasPrefix(key, prefix) {
		t.Errorf("got %q, want what the key begins with", prefix)
	}
	for _, c := range []struct {
		name string
		says func(key string) string
	}{
		{"headscale-ui says what is listed", func(key string) string { return key[:len(prefix)] }},
		{"headscale-admin says what is before a dot", func(key string) string { return key }},
		{"others say what headscale lists", func(key string) string { return key[:len(prefix)] + "-***" }},
	} {
		var made struct{ APIKey string }
		ask("POST", "/apikey", key, `{"expiration":"2036-01-02T03:04:05.678Z"}`, &made)
		if status := ask("POST", "/apikey/expire", made.APIKey, `{"prefix":"`+c.says(key)+`"}`, nil); status != http.StatusOK {
			t.Errorf("%s: got %d, want the old key expired", c.name, status)
		}
		if status := ask("GET", "/apikey", key, "", nil); status != http.StatusUnauthorized {
			t.Errorf("%s: got %d with the old key, want 401", c.name, status)
		}
		key = made.APIKey
	}
}

// TestShortKeys makes a key that fits the 54 letters of some interfaces' fields, and that headscale-webui knows by its
// first ten.
func TestShortKeys(t *testing.T) {
	s := hstest.Start(t)
	_, text := call(t, "POST", s.URL+"/api/v1/apikey", apiKey(t, s), `{"short":true}`, "application/json")
	var made struct{ APIKey string }
	if err := json.Unmarshal([]byte(text), &made); err != nil || len(made.APIKey) != 54 {
		t.Fatalf("got %s, %v, want a key of 54 letters", text, err)
	}
	tell(t, s, story{"a short key", []step{
		{ask: `GET /apikey`, want: `{"apiKeys":["*",{"prefix":"` + made.APIKey[:10] + `"},"*"]}`},
	}}, "application/json")
	for _, step := range []struct {
		method, path, body string
		status             int
	}{
		{"GET", "/user", "", http.StatusOK},
		{"POST", "/apikey/expire", `{"prefix":"` + made.APIKey[:10] + `"}`, http.StatusOK},
		{"GET", "/user", "", http.StatusUnauthorized},
	} {
		if status, text := call(t, step.method, s.URL+"/api/v1"+step.path, made.APIKey, step.body, "application/json"); status != step.status {
			t.Errorf("%s %s: got %d %s, want %d", step.method, step.path, status, text, step.status)
		}
	}
}

// TestHeadplaneStarts is what it asks without a key.
func TestHeadplaneStarts(t *testing.T) {
	s := hstest.Start(t)
	resp, text := visit(t, "GET", s.URL+"/version", map[string]string{"Accept": "application/json"})
	var version struct{ Version string }
	if err := json.Unmarshal([]byte(text), &version); err != nil || resp.StatusCode != http.StatusOK || version.Version == "" {
		t.Errorf("got %d %s, want a version", resp.StatusCode, text)
	}
	if resp, text := visit(t, "GET", s.URL+"/health", map[string]string{"Accept": "application/json"}); resp.StatusCode != http.StatusOK {
		t.Errorf("got %d %s, want 200", resp.StatusCode, text)
	}
	for _, key := range []string{"wrong", "hskey-api-000000000000-" + strings.Repeat("0", 64), "wT3_k-9.abc"} {
		status, text := call(t, "GET", s.URL+"/api/v1/apikey", key, "", "application/json")
		var refused struct{ Message string }
		if err := json.Unmarshal([]byte(text), &refused); err != nil || status != http.StatusUnauthorized || refused.Message == "" {
			t.Errorf("%s: got %d %s, want 401 and a message", key, status, text)
		}
	}
}

// TestPolicyFileOfUserInterfaces tells headplane that the policy cannot be set: it has no time.
func TestPolicyFileOfUserInterfaces(t *testing.T) {
	file := filepath.Join(t.TempDir(), "policy.hujson")
	if err := os.WriteFile(file, []byte(`{"acls": []}`), 0o600); err != nil {
		t.Fatal(err)
	}
	s := hstest.Start(t, func(c *config.Config) { c.Policy.Mode, c.Policy.Path = "file", file })
	tell(t, s, story{"a policy file", []step{
		{ask: `GET /policy`, want: `{"policy":"{\"acls\": []}","updatedAt":null}`},
		{ask: `PUT /policy {"policy":"{}"}`, status: 409, want: `{"message":"update is disabled for modes other than 'database': the policy is the file ` + file + ` (policy.mode: file): edit it and run headscale reload, or set policy.mode to database"}`},
	}}, "application/json")
}
