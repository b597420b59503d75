package hscontrol_test

import (
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/keelscale/keelscale/hscontrol/hstest"
)

// provider is what Terraform's provider for headscale (0.5, for headscale 0.28) asks for each of its resources and data
// sources: create, read, plan, update, import, destroy. What is kept of an answer has to come again in the next one.
var provider = []story{
	{"user", []step{
		{ask: `POST /user {"name":"odin","displayName":"Odin","email":"odin@example.com","pictureUrl":"https://example.com/o.png"}`,
			want: `{"user":{"id":"=uid","name":"odin","createdAt":"=made","displayName":"Odin","email":"odin@example.com","profilePicUrl":"https://example.com/o.png"}}`},
		{ask: `GET /user?email=odin%40example.com&id={uid}&name=odin`, want: `{"users":[{"id":"{uid}","name":"odin","createdAt":"{made}","displayName":"Odin"}]}`},
		{ask: `POST /user/{uid}/rename/thor`, want: `{"user":{"id":"{uid}","name":"thor","createdAt":"{made}","email":"odin@example.com"}}`},
		{ask: `GET /user?email=odin%40example.com&id={uid}&name=thor`, want: `{"users":[{"id":"{uid}","createdAt":"{made}"}]}`},
		{ask: `GET /user?id={uid}`, want: `{"users":[{"name":"thor","createdAt":"{made}"}]}`},
		{ask: `GET /user?email=&id={uid}&name=`, want: `{"users":[{"name":"thor"}]}`},
		{ask: `GET /user?name=odin`, want: `{"users":[]}`},
		{ask: `GET /user`, want: `{"users":[{"name":"thor"}]}`},
		{ask: `POST /user {"name":"thor"}`, status: 409, want: `{"code":6,"message":"<text>","details":[]}`},
		{ask: `GET /node?user=thor`, want: `{"nodes":[]}`},
		{ask: `DELETE /user/{uid}`, want: `{}`},
		{ask: `GET /user?id={uid}`, want: `{"users":[]}`},
		{ask: `DELETE /user/{uid}`, status: 404, want: `{"code":5,"message":"<text>","details":[]}`},
	}},
	{"user with force_delete", []step{
		{ask: `POST /user {"name":"odin"}`, want: `{"user":{"id":"=uid","email":"","displayName":"","profilePicUrl":""}}`},
		{ask: `POST /debug/node {"user":"odin","key":"` + firstKey + `","name":"box"}`, want: `{}`},
		{ask: `POST /node/register?user=odin&key=` + firstKey, want: `{"node":{"id":"=nid"}}`},
		{ask: `GET /node?user=odin`, want: `{"nodes":[{"id":"{nid}"}]}`},
		{ask: `DELETE /node/{nid}`, want: `{}`},
		{ask: `DELETE /user/{uid}`, want: `{}`},
	}},
	{"pre_auth_key", []step{
		{ask: `POST /user {"name":"odin"}`, want: `{"user":{"id":"=uid"}}`},
		{ask: `POST /preauthkey {"aclTags":[],"expiration":"2036-01-02T03:04:05.678Z","user":"{uid}"}`,
			want: `{"preAuthKey":{"id":"=kid","user":{"id":"{uid}","name":"odin"},"key":"<text>","reusable":false,"ephemeral":false,"used":false,"expiration":"2036-01-02T03:04:05.678Z","createdAt":"=made","aclTags":[]}}`},
		{ask: `GET /preauthkey`, want: `{"preAuthKeys":[{"id":"{kid}","user":{"id":"{uid}"},"key":"<text>","reusable":false,"ephemeral":false,"used":false,"expiration":"2036-01-02T03:04:05.678Z","createdAt":"{made}","aclTags":[]}]}`},
		{ask: `POST /preauthkey/expire {"id":"{kid}"}`, want: `{}`},
		{ask: `POST /preauthkey/expire {"id":"{kid}"}`, want: `{}`},
		{ask: `POST /preauthkey {"aclTags":["tag:terra-form","tag:terraform"],"ephemeral":true,"expiration":"2036-01-02T03:04:05.000Z","reusable":true,"user":"{uid}"}`,
			want: `{"preAuthKey":{"id":"=kid","reusable":true,"ephemeral":true,"expiration":"=until"}}`},
		{ask: `GET /preauthkey`, want: `{"preAuthKeys":["*",{"id":"{kid}","reusable":true,"ephemeral":true,"expiration":"{until}","aclTags":["tag:terra-form","tag:terraform"]}]}`},
		{ask: `POST /preauthkey {"expiration":"2036-01-02T03:04:05Z","user":"99"}`, status: 404, want: `{"code":5,"message":"<text>","details":[]}`},
	}},
	{"api_key", []step{
		{ask: `GET /apikey`, want: `{"apiKeys":[{"id":"1","expiration":"<time>"}]}`},
		{ask: `POST /apikey {"expiration":"2036-01-02T03:04:05.678Z"}`, want: `{"apiKey":"<text>"}`},
		{ask: `GET /apikey`, want: `{"apiKeys":["*",{"id":"=kid","prefix":"=prefix","expiration":"2036-01-02T03:04:05.678Z","createdAt":"=made"}]}`},
		{ask: `GET /apikey`, want: `{"apiKeys":["*",{"id":"{kid}","prefix":"{prefix}","expiration":"2036-01-02T03:04:05.678Z","createdAt":"{made}"}]}`},
		{ask: `POST /apikey/expire {"id":"{kid}"}`, want: `{}`},
		{ask: `GET /apikey`, want: `{"apiKeys":["*",{"id":"{kid}","prefix":"{prefix}"}]}`},
		{ask: `POST /apikey/expire {"prefix":"{prefix}"}`, want: `{}`},
		{ask: `POST /apikey/expire {"id":"99"}`, status: 404, want: `{"code":5,"message":"<text>","details":[]}`},
	}},
	{"policy", []step{
		{ask: `GET /policy`, status: 404, want: `{"code":5,"message":"acl policy not found: tailnet default has no policy, so everyone in it may reach everyone","details":[]}`},
		{ask: `PUT /policy {"policy":"{\"acls\":[{\"action\":\"accept\",\"dst\":[\"*:*\"],\"src\":[\"tag:example\"]}],\"tagOwners\":{\"tag:example\":[\"user1@\"]}}"}`,
			want: `{"policy":"=text","updatedAt":"=made"}`},
		{ask: `GET /policy`, want: `{"policy":"{\"acls\":[{\"action\":\"accept\",\"dst\":[\"*:*\"],\"src\":[\"tag:example\"]}],\"tagOwners\":{\"tag:example\":[\"user1@\"]}}","updatedAt":"{made}"}`},
		{ask: `PUT /policy {"policy":"// later\n{\"acls\":[{\"action\":\"accept\",\"dst\":[\"*:22,80,443\"],\"src\":[\"tag:example\"]}],\"tagOwners\":{\"tag:example\":[\"user1@\",\"user2@\"]},}\n"}`,
			want: `{"policy":"<text>","updatedAt":"=made"}`},
		{ask: `GET /policy`, want: `{"policy":"// later\n{\"acls\":[{\"action\":\"accept\",\"dst\":[\"*:22,80,443\"],\"src\":[\"tag:example\"]}],\"tagOwners\":{\"tag:example\":[\"user1@\",\"user2@\"]},}\n","updatedAt":"{made}"}`},
		{ask: `PUT /policy {"policy":"{\"acls\":[{\"action\":\"accept\"}]}"}`, want: `{"policy":"{\"acls\":[{\"action\":\"accept\"}]}"}`},
		{ask: `PUT /policy {"policy":"{\"groups\":{\"group:admin\":[\"user1@\",\"user2@\"],\"group:dev\":[\"user3@\"]},\"tagOwners\":{\"tag:prod\":[\"group:admin\"],\"tag:dev\":[\"group:dev\"]},\"acls\":[{\"action\":\"accept\",\"src\":[\"group:admin\"],\"dst\":[\"*:*\"]},{\"action\":\"accept\",\"src\":[\"group:dev\"],\"dst\":[\"tag:dev:*\"]},{\"action\":\"accept\",\"src\":[\"tag:prod\"],\"dst\":[\"*:443\"]}],\"ssh\":[{\"action\":\"accept\",\"src\":[\"group:admin\"],\"dst\":[\"autogroup:member\"],\"users\":[\"root\",\"ubuntu\"]}]}"}`,
			want: `{"policy":"<text>"}`},
		{ask: `PUT /policy {"policy":"{"}`, status: 400, want: `{"code":3,"message":"<text>","details":[]}`},
		{ask: `PUT /policy {}`, want: `{"policy":"=text","updatedAt":"<time>"}`}, // an empty text is left out
		{ask: `GET /policy`, want: `{"policy":"<text>"}`},
	}},
	{"device_tags and device_subnet_routes", []step{
		{ask: `PUT /policy {"policy":"{\"tagOwners\":{\"tag:web\":[],\"tag:api\":[]}}"}`, want: `{}`},
		{ask: `POST /user {"name":"odin"}`, want: `{"user":{"id":"=uid"}}`},
		{ask: `POST /debug/node {"user":"odin","key":"` + firstKey + `","name":"gate","routes":["10.0.0.0/24","10.0.1.0/24","0.0.0.0/0","::/0"]}`, want: `{}`},
		{ask: `POST /node/register?user=odin&key=` + firstKey, want: `{"node":{"id":"=nid"}}`},
		{ask: `POST /node/{nid}/approve_routes {"routes":["10.0.1.0/24","10.0.0.0/24"]}`, want: `{"node":{"id":"{nid}"}}`},
		{ask: `GET /node/{nid}`, want: `{"node":{"id":"{nid}","availableRoutes":["0.0.0.0/0","10.0.0.0/24","10.0.1.0/24","::/0"],"approvedRoutes":["10.0.0.0/24","10.0.1.0/24"],"user":{"id":"{uid}"}}}`},
		{ask: `POST /node/{nid}/approve_routes {"routes":["0.0.0.0/0"]}`, want: `{"node":{"approvedRoutes":["0.0.0.0/0","::/0"]}}`},
		{ask: `POST /node/{nid}/approve_routes {"routes":[]}`, want: `{"node":{"approvedRoutes":[]}}`},
		{ask: `POST /node/{nid}/tags {"tags":["tag:api","tag:web"]}`, want: `{"node":{"id":"{nid}","tags":["tag:api","tag:web"]}}`},
		{ask: `GET /node/{nid}`, want: `{"node":{"id":"{nid}","tags":["tag:api","tag:web"],"user":{"id":"<text>","name":"tagged-devices"},"expiry":null}}`},
		{ask: `GET /node`, want: `{"nodes":[{"id":"{nid}","name":"gate","givenName":"gate","ipAddresses":["<text>","<text>"],"createdAt":"<time>","registerMethod":"REGISTER_METHOD_CLI","user":{"name":"<text>"},"preAuthKey":null}]}`},
		{ask: `GET /node/99`, status: 404, want: `{"code":5,"message":"<text>","details":[]}`},
		{ask: `POST /node/{nid}/tags {"tags":["tag:unheard"]}`, status: 400, want: `{"code":3,"message":"<text>","details":[]}`},
	}},
}

// A client that was generated from headscale's description reads JSON and nothing else, refusals too.
func TestHeadscaleProvider(t *testing.T) {
	for _, story := range provider {
		t.Run(story.name, func(t *testing.T) {
			s := hstest.Start(t)
			key, kept := apiKey(t, s), map[string]string{}
			for _, step := range story.steps {
				ask := fill(step.ask, kept)
				method, rest, _ := strings.Cut(ask, " ")
				path, body, _ := strings.Cut(rest, " ")
				status, got := generated(t, method, s.URL+"/api/v1"+path, key, body)
				if step.status == 0 {
					step.status = http.StatusOK
				}
				if status != step.status {
					t.Fatalf("%.200s: got %d %s, want %d", ask, status, got, step.status)
				}
				var answer, want any
				if err := json.Unmarshal(got, &answer); err != nil {
					t.Fatalf("%.200s: got %s, which is no JSON: %v", ask, got, err)
				}
				if err := json.Unmarshal([]byte(fill(step.want, kept)), &want); err != nil {
					t.Fatalf("%.200s: %s: %v", ask, step.want, err)
				}
				if err := has("", want, answer, kept); err != nil {
					t.Errorf("%.200s: %v in %s", ask, err, got)
				}
			}
		})
	}
}

// generated makes a call as such a client does.
func generated(t *testing.T, method, url, key, body string) (int, []byte) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+key)
	req.Header.Set("Accept", "application/json")
	req.Header.Set("Content-Type", "application/json")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err != nil {
		t.Fatal(err)
	}
	if got := resp.Header.Get("Content-Type"); got != "application/json" {
		t.Errorf("%s %s: got %q, want application/json", method, url, got)
	}
	return resp.StatusCode, text
}
