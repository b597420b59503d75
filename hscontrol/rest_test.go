package hscontrol_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/keelscale/keelscale/hscontrol/hstest"
	"github.com/keelscale/keelscale/hscontrol/tailnet"
)

// TestRESTGoldens has what headscale's own server answers, by the runner that comes with the cases.
func TestRESTGoldens(t *testing.T) {
	goldens, err := filepath.Abs("../../shared/goldens")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(goldens, "api.jsonl.gz")); err != nil {
		t.Skipf("the cases are not here: %v", err)
	}
	runner := filepath.Join(t.TempDir(), "run")
	build := exec.Command("go", "build", "-o", runner, "./run")
	build.Dir = goldens
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("building the runner: %v\n%s", err, out)
	}
	s := hstest.Start(t)
	out, err := exec.Command(runner, "-api", s.URL, "-key", apiKey(t, s), "-min", "1", "-v", goldens).CombinedOutput()
	if err != nil {
		t.Errorf("got %v, want every case as it is there:\n%s", err, out)
	}
}

func apiKey(t *testing.T, s *hstest.Server) string {
	t.Helper()
	_, secret, err := s.Store().CreateAPIKey(t.Context(), tailnet.APIKey{Scopes: []string{tailnet.ScopeAll}})
	if err != nil {
		t.Fatal(err)
	}
	return secret.Reveal()
}

// story is what a program of some release does, one request after another, with what it needs of each answer.
type story struct {
	name  string
	steps []step
}

// step is a request, "METHOD path body", and what is needed of the answer: members that it names must be there as it has
// them. "*" stands for anything, "<text>" for a text that is not empty, "<time>" for a time, "<name>" with a = before it
// for a text that is kept for {name} in later steps.
type step struct {
	ask    string
	status int // zero: 200
	want   string
}

// Nodes of the stories come like clients do: under a registration key.
const (
	firstKey  = "hskey-authreq-000000000000000000000001"
	secondKey = "hskey-authreq-000000000000000000000002"
)

var stories = []story{
	{"0.15 and 0.16: namespaces and machines", []step{
		{ask: `POST /namespace {"name":"vpn"}`, want: `{"namespace":{"id":"=uid","name":"vpn","createdAt":"<time>"}}`},
		{ask: `GET /namespace`, want: `{"namespaces":[{"name":"vpn"}]}`},
		{ask: `GET /namespace/vpn`, want: `{"namespace":{"name":"vpn"}}`},
		{ask: `POST /namespace/vpn/rename/net`, want: `{"namespace":{"name":"net"}}`},
		{ask: `POST /preauthkey {"namespace":"net","reusable":true}`, want: `{"preAuthKey":{"namespace":"net","user":"net","key":"=key","reusable":true,"ephemeral":false,"used":false}}`},
		{ask: `GET /preauthkey?namespace=net`, want: `{"preAuthKeys":[{"namespace":"net","id":"<text>"}]}`},
		{ask: `POST /preauthkey/expire {"namespace":"net","key":"{key}"}`, want: `{}`},
		{ask: `POST /debug/machine {"namespace":"net","key":"` + firstKey + `","name":"box","routes":["10.0.0.0/24"]}`, want: `{"machine":{"name":"box"}}`},
		{ask: `POST /machine/register?namespace=net&key=` + firstKey, want: `{"machine":{"id":"=nid","namespace":{"name":"net"},"forcedTags":[],"validTags":[],"invalidTags":[]}}`},
		{ask: `GET /machine?namespace=net`, want: `{"machines":[{"id":"{nid}","namespace":{"name":"net"},"givenName":"box","registerMethod":"REGISTER_METHOD_CLI"}]}`},
		{ask: `GET /machine/{nid}`, want: `{"machine":{"id":"{nid}"}}`},
		{ask: `POST /machine/{nid}/rename/printer`, want: `{"machine":{"givenName":"printer"}}`},
		{ask: `POST /machine/{nid}/expire`, want: `{"machine":{"expiry":"<time>"}}`},
		{ask: `POST /namespace {"name":"other"}`, want: `{}`},
		{ask: `POST /machine/{nid}/namespace?namespace=other`, want: `{"machine":{"namespace":{"name":"other"}}}`},
		{ask: `DELETE /namespace/other`, status: 409, want: `{"message":"<text>"}`},
		{ask: `DELETE /machine/{nid}`, want: `{}`},
		{ask: `DELETE /namespace/other`, want: `{}`},
	}},
	{"0.22 and 0.23: users by name, routes with IDs", []step{
		{ask: `POST /user {"name":"odin"}`, want: `{"user":{"id":"<text>","name":"odin"}}`},
		{ask: `GET /user/odin`, want: `{"user":{"name":"odin"}}`},
		{ask: `GET /user/nobody`, status: 404, want: `{"code":5,"message":"<text>","details":[]}`},
		{ask: `POST /preauthkey {"user":"odin","reusable":false,"ephemeral":true,"expiration":"2036-01-02T03:04:05Z","aclTags":[]}`, want: `{"preAuthKey":{"user":"odin","ephemeral":true,"expiration":"2036-01-02T03:04:05Z"}}`},
		{ask: `POST /debug/node {"user":"odin","key":"` + firstKey + `","name":"gate","routes":["10.0.0.0/24","0.0.0.0/0"]}`, want: `{}`},
		{ask: `POST /node/register?user=odin&key=` + firstKey + ` {"user":"odin","key":"` + firstKey + `"}`, want: `{"node":{"id":"=nid","user":{"name":"odin"}}}`},
		{ask: `GET /node/{nid}/routes`, want: `{"routes":[{"prefix":"0.0.0.0/0"},{"id":"=rid","prefix":"10.0.0.0/24","advertised":true,"enabled":false,"isPrimary":false,"deletedAt":null,"node":{"id":"{nid}"}}]}`},
		{ask: `GET /machine/{nid}/routes`, want: `{"routes":[{"machine":{"id":"{nid}"}},"*"]}`},
		{ask: `POST /routes/{rid}/enable`, want: `{}`},
		{ask: `GET /routes`, want: `{"routes":[{"enabled":false},{"id":"{rid}","enabled":true,"node":{"id":"{nid}"},"machine":{"id":"{nid}"}}]}`},
		{ask: `POST /routes/{rid}/disable`, want: `{}`},
		{ask: `DELETE /routes/{rid}`, want: `{}`},
		{ask: `POST /routes/99/enable`, status: 404, want: `{"code":5}`},
		{ask: `POST /user {"name":"freya"}`, want: `{}`},
		{ask: `POST /node/{nid}/user?user=freya`, want: `{"node":{"user":{"name":"freya"}}}`},
		{ask: `POST /user/freya/rename/frigg`, want: `{"user":{"name":"frigg"}}`},
		{ask: `DELETE /user/odin`, want: `{}`},
	}},
	{"0.24 to 0.27: users by ID, forced tags, approved routes", []step{
		{ask: `PUT /policy {"policy":"{\"tagOwners\":{\"tag:web\":[]}}"}`, want: `{"policy":"<text>","updatedAt":"<time>"}`},
		{ask: `POST /user {"name":"odin","displayName":"Odin","email":"odin@example.com","pictureUrl":"https://example.com/o.png"}`, want: `{"user":{"id":"=uid","profilePicUrl":"https://example.com/o.png"}}`},
		{ask: `GET /user?name=odin`, want: `{"users":[{"id":"{uid}"}]}`},
		{ask: `GET /user?id={uid}`, want: `{"users":[{"name":"odin"}]}`},
		{ask: `GET /user?email=odin@example.com`, want: `{"users":[{"name":"odin"}]}`},
		{ask: `POST /preauthkey {"user":"{uid}","reusable":true}`, want: `{"preAuthKey":{"user":{"id":"{uid}","name":"odin"},"key":"=key"}}`},
		{ask: `GET /preauthkey?user={uid}`, want: `{"preAuthKeys":[{"user":{"name":"odin"}}]}`},
		{ask: `GET /preauthkey?user=odin`, want: `{"preAuthKeys":[{"user":"odin"}]}`},
		{ask: `POST /preauthkey/expire {"user":"{uid}","key":"{key}"}`, want: `{}`},
		{ask: `POST /debug/node {"user":"odin","key":"` + firstKey + `","name":"gate","routes":["10.0.0.0/24"]}`, want: `{}`},
		{ask: `POST /node/register?user=odin&key=` + firstKey, want: `{"node":{"id":"=nid"}}`},
		{ask: `POST /node/{nid}/approve_routes {"routes":["10.0.0.0/24"]}`, want: `{"node":{"approvedRoutes":["10.0.0.0/24"],"availableRoutes":["10.0.0.0/24"],"subnetRoutes":["10.0.0.0/24"]}}`},
		{ask: `POST /node/{nid}/tags {"tags":["tag:web"]}`, want: `{"node":{"tags":["tag:web"],"forcedTags":["tag:web"],"validTags":[],"invalidTags":[]}}`},
		{ask: `POST /node/{nid}/tags {"tags":["tag:unheard"]}`, status: 400, want: `{"code":3,"message":"<text>"}`},
		{ask: `POST /node/{nid}/user {"user":{uid}}`, want: `{"node":{"user":{"name":"odin"},"tags":[]}}`},
		{ask: `DELETE /user/{uid}`, status: 409, want: `{"detail":"<text>"}`},
	}},
	{"0.28 to 0.30: keys by ID, tags alone", []step{
		{ask: `GET /policy`, status: 404, want: `{"type":"about:blank","title":"Not Found","status":404,"detail":"acl policy not found: tailnet default has no policy, so everyone in it may reach everyone"}`},
		{ask: `POST /user {"name":"odin"}`, want: `{"user":{"id":"=uid"}}`},
		{ask: `POST /preauthkey {"user":{uid},"reusable":true}`, want: `{"preAuthKey":{"id":"=kid","user":{"id":"{uid}"}}}`},
		{ask: `POST /preauthkey {"aclTags":["tag:ci"],"ephemeral":true}`, want: `{"preAuthKey":{"user":null,"aclTags":["tag:ci"]}}`},
		{ask: `GET /preauthkey`, want: `{"preAuthKeys":[{"user":{"name":"odin"},"expiration":"<time>"},{"user":null}]}`},
		{ask: `POST /preauthkey/expire {"id":"{kid}"}`, want: `{}`},
		{ask: `DELETE /preauthkey?id={kid}`, want: `{}`},
		{ask: `DELETE /preauthkey?id={kid}`, status: 404, want: `{"code":5}`},
		{ask: `POST /debug/node {"user":"odin","key":"` + firstKey + `","name":"box"}`, want: `{}`},
		{ask: `POST /auth/register {"user":"odin","authId":"` + firstKey + `"}`, want: `{"node":{"id":"=nid"}}`},
		{ask: `POST /node/{nid}/expire {"expiry":"2036-01-02T03:04:05Z"}`, want: `{"node":{"expiry":"2036-01-02T03:04:05Z"}}`},
		{ask: `POST /node/{nid}/expire {"disableExpiry":true}`, want: `{"node":{"expiry":null}}`},
		{ask: `POST /debug/node {"user":"odin","key":"` + secondKey + `","name":"box"}`, want: `{}`},
		{ask: `POST /auth/reject {"authId":"` + secondKey + `"}`, want: `{}`},
		{ask: `POST /node/backfillips?confirmed=true`, want: `{"changes":[]}`},
		{ask: `GET /node?user=odin`, want: `{"nodes":[{"id":"{nid}"}]}`},
		{ask: `POST /policy/check {"policy":"{}"}`, want: `{}`},
		{ask: `PUT /policy {"policy":"{"}`, status: 400, want: `{"code":3,"detail":"<text>"}`},
		{ask: `GET /health`, want: `{"databaseConnectivity":true}`},
	}},
	{"API keys, as user interfaces log in with them", []step{
		{ask: `GET /apikey`, want: `{"apiKeys":[{"id":"1","prefix":"<text>","expiration":"9999-12-31T23:59:59Z","createdAt":"<time>"}]}`},
		{ask: `POST /apikey {"expiration":"2036-01-02T03:04:05Z"}`, want: `{"apiKey":"=key"}`},
		{ask: `POST /apikey/expire {"prefix":"{key}"}`, want: `{}`},
		{ask: `GET /apikey`, want: `{"apiKeys":["*",{"prefix":"=prefix"}]}`},
		{ask: `DELETE /apikey/{prefix}`, want: `{}`},
		{ask: `DELETE /apikey/{prefix}`, status: 404, want: `{}`},
		{ask: `POST /apikey/expire {"id":"1","prefix":"x"}`, status: 400, want: `{}`},
	}},
	{"our own", []step{
		{ask: `POST /tailnet {"name":"lab","prefixV4":"100.100.0.0/24"}`, want: `{"tailnet":{"name":"lab"}}`},
		{ask: `GET /tailnet`, want: `{"tailnets":[{"name":"default"},{"name":"lab"}]}`},
		{ask: `POST /user {"name":"eve","tailnet":"lab"}`, want: `{"user":{"id":"=uid","tailnet":"lab"}}`},
		{ask: `POST /user/{uid}/role {"role":"auditor"}`, want: `{"user":{"role":"auditor"}}`},
		{ask: `DELETE /user/{uid}`, want: `{}`},
		{ask: `DELETE /tailnet/lab`, want: `{}`},
		{ask: `POST /node/99/authorize`, status: 404, want: `{"code":5}`},
		{ask: `GET /relay`, want: `{"relays":[]}`},
		{ask: `POST /relaykey {"reusable":true}`, want: `{"relayKey":{"id":"=kid","key":"<text>"},"controlUrl":"<text>"}`},
		{ask: `GET /relaykey`, want: `{"relayKeys":[{"id":"{kid}"}]}`},
		{ask: `DELETE /relaykey?id={kid}`, want: `{}`},
		{ask: `POST /relay/nothing/drain`, status: 404, want: `{}`},
		{ask: `GET /derpmap`, want: `{"json":"<text>"}`},
		{ask: `GET /status`, want: `{"serverUrl":"<text>"}`},
		{ask: `POST /reload`, want: `{"applied":[]}`},
		{ask: `PUT /policy {"policy":"{\"acls\":[]}"}`, want: `{"version":"1"}`},
		{ask: `GET /policy/versions?limit=5`, want: `{"versions":[{"version":"1","inForce":true}]}`},
		{ask: `POST /policy/diff {"policy":"{}"}`, want: `{"changed":false}`},
		{ask: `POST /policy/test`, want: `{"passed":0}`},
		{ask: `POST /policy/rollback {"version":"1","note":"again"}`, want: `{"version":"1"}`},
	}},
	{"what is refused", []step{
		{ask: `GET /nothing`, status: 404, want: `{"title":"Not Found","code":5}`},
		{ask: `PATCH /user`, status: 405, want: `{"code":12,"message":"PATCH does nothing here; GET or POST does"}`},
		{ask: `POST /user {"name":"odin"`, status: 400, want: `{"code":3}`},
		{ask: `POST /user []`, status: 400, want: `{"message":"the body has to be a JSON object, and is a JSON array"}`},
		{ask: `POST /user {"name":7}`, status: 400, want: `{"message":"name has to be a text"}`},
		{ask: `POST /user {"nam":"odin"}`, status: 400, want: `{"message":"there is no \"nam\" here, only name, displayName, email, pictureUrl, tailnet, role"}`},
		{ask: `GET /node?usr=odin`, status: 400, want: `{"message":"there is no \"usr\" here, only user, tailnet, pageSize, pageToken"}`},
		{ask: `GET /node?_=1700000000`, want: `{"nodes":[]}`},
		{ask: `GET /node/0`, status: 400, want: `{}`},
		{ask: `GET /node/-1`, status: 400, want: `{"message":"nodeId has to be a whole number"}`},
		{ask: `POST /node/7/expire {"nodeId":"8"}`, status: 400, want: `{"message":"nodeId is there twice, and not the same"}`},
		{ask: `POST /node/7/expire {"expiry":"tomorrow"}`, status: 400, want: `{"message":"expiry has to be a time like 2026-05-04T12:00:00Z"}`},
		{ask: `POST /node/7/tags {"tags":"tag:web"}`, status: 400, want: `{"message":"tags has to be a list of texts"}`},
		{ask: `POST /preauthkey {"user":"nobody"}`, status: 400, want: `{"message":"there is no user \"nobody\""}`},
		{ask: `POST /preauthkey {"user":["nobody"]}`, status: 400, want: `{"message":"user has to be a whole number"}`},
		{ask: `POST /user {"name":"` + strings.Repeat("x", 5<<20) + `"}`, status: 413, want: `{"message":"the body is longer than 4 MiB"}`},
	}},
}

func TestRESTStories(t *testing.T) {
	for _, story := range stories {
		t.Run(story.name, func(t *testing.T) { tell(t, hstest.Start(t), story, "*/*") })
	}
}

// tell goes through a story as a program that accepts that.
func tell(t *testing.T, s *hstest.Server, story story, accept string) {
	t.Helper()
	key, kept := apiKey(t, s), map[string]string{}
	for _, step := range story.steps {
		ask := fill(step.ask, kept)
		method, rest, _ := strings.Cut(ask, " ")
		path, body, _ := strings.Cut(rest, " ")
		status, text := call(t, method, s.URL+"/api/v1"+path, key, body, accept)
		if step.status == 0 {
			step.status = http.StatusOK
		}
		if status != step.status {
			t.Fatalf("%.200s: got %d %s, want %d", ask, status, text, step.status)
		}
		var got, want any
		if err := json.Unmarshal([]byte(text), &got); err != nil {
			t.Fatalf("%.200s: got %s, which is no JSON: %v", ask, text, err)
		}
		if err := json.Unmarshal([]byte(fill(step.want, kept)), &want); err != nil {
			t.Fatalf("%.200s: %s: %v", ask, step.want, err)
		}
		if err := has("", want, got, kept); err != nil {
			t.Errorf("%.200s: %v in %s", ask, err, text)
		}
	}
}

// call is made like user interfaces make it: with a body of JSON that is not said to be that.
func call(t *testing.T, method, url, key, body, accept string) (int, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+key)
	req.Header.Set("Accept", accept)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err != nil {
		t.Fatal(err)
	}
	kind := "application/json"
	if resp.StatusCode >= 400 && accept == "*/*" {
		kind = "application/problem+json"
	}
	if got := resp.Header.Get("Content-Type"); got != kind && accept == "*/*" {
		t.Errorf("%s %s: got %q, want %q", method, url, got, kind)
	}
	return resp.StatusCode, string(text)
}

var keptName = regexp.MustCompile(`\{[a-z]+\}`)

func fill(text string, kept map[string]string) string {
	return keptName.ReplaceAllStringFunc(text, func(name string) string {
		if value, ok := kept[strings.Trim(name, "{}")]; ok {
			return value
		}
		return name
	})
}

// has says where got lacks something of want.
func has(at string, want, got any, kept map[string]string) error {
	switch want := want.(type) {
	case map[string]any:
		object, ok := got.(map[string]any)
		if !ok {
			return fmt.Errorf("%s: want an object", at)
		}
		for name, each := range want {
			value, there := object[name]
			if !there {
				return fmt.Errorf("%s/%s: is missing", at, name)
			}
			if err := has(at+"/"+name, each, value, kept); err != nil {
				return err
			}
		}
		return nil
	case []any:
		list, ok := got.([]any)
		if !ok || len(list) != len(want) {
			return fmt.Errorf("%s: want a list of %d", at, len(want))
		}
		for i, each := range want {
			if err := has(at+"/"+strconv.Itoa(i), each, list[i], kept); err != nil {
				return err
			}
		}
		return nil
	case string:
		text, isText := got.(string)
		name, keep := strings.CutPrefix(want, "=")
		_, notTime := time.Parse(time.RFC3339Nano, text)
		switch {
		case want == "*", want == "<text>" && text != "", want == "<time>" && notTime == nil, isText && text == want:
			return nil
		case keep && text != "":
			kept[name] = text
			return nil
		}
	}
	if got != want {
		return fmt.Errorf("%s: want %v", at, want)
	}
	return nil
}
