package api_test

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/goccy/go-yaml"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/reflection/grpc_reflection_v1"

	headscalev1 "github.com/keelscale/keelscale/proto/headscale/v1"

	"github.com/keelscale/keelscale/hscontrol/api"
)

// ask makes a call over HTTP. Without a key it comes with none.
func (b *bench) ask(t *testing.T, method, path, key, body string) (int, map[string]any) {
	t.Helper()
	return b.askFrom(t, "192.0.2.1:1234", method, path, key, body)
}

func (b *bench) askFrom(t *testing.T, from, method, path, key, body string) (int, map[string]any) {
	t.Helper()
	r := httptest.NewRequestWithContext(t.Context(), method, path, strings.NewReader(body))
	if key != "" {
		r.Header.Set("Authorization", "Bearer "+key)
	}
	r.Header.Set("Accept", "*/*")
	r.RemoteAddr = from
	w := httptest.NewRecorder()
	b.rest.ServeHTTP(w, r)
	if got := w.Header().Get("Retry-After") != ""; got != (w.Code == http.StatusTooManyRequests) {
		t.Errorf("%s %s: got Retry-After: %v with %d", method, path, got, w.Code)
	}
	var answer map[string]any
	if err := json.Unmarshal(w.Body.Bytes(), &answer); err != nil {
		t.Fatalf("%s %s: got %q, which is no JSON object: %v", method, path, w.Body, err)
	}
	return w.Code, answer
}

func (b *bench) apiKey(t testing.TB, tailnetName string) string {
	t.Helper()
	resp, err := b.CreateApiKey(t.Context(), &headscalev1.CreateApiKeyRequest{Tailnet: tailnetName})
	if err != nil {
		t.Fatal(err)
	}
	return resp.GetApiKey()
}

// described is what tests need of a description.
type described struct {
	Paths map[string]map[string]struct {
		OperationID string `yaml:"operationId"`
		Deprecated  bool
		Parameters  []struct{ Name, In string }
	}
}

func describe(t *testing.T, b *bench, path string) (string, described) {
	t.Helper()
	w := httptest.NewRecorder()
	b.rest.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), "GET", path, nil))
	var d described
	if err := yaml.Unmarshal(w.Body.Bytes(), &d); err != nil || w.Code != http.StatusOK {
		t.Fatalf("%s: got %d, %v", path, w.Code, err)
	}
	return w.Body.String(), d
}

func TestEveryCallHasAPath(t *testing.T) {
	b := newBench(t)
	_, d := describe(t, b, "/api/v1/openapi.yaml")
	var ids []string
	for path, methods := range d.Paths {
		for method, op := range methods {
			if slices.Contains(ids, op.OperationID) {
				t.Errorf("%s %s: got %s twice", method, path, op.OperationID)
			}
			ids = append(ids, op.OperationID)
		}
	}
	for _, m := range headscalev1.HeadscaleService_ServiceDesc.Methods {
		found := slices.ContainsFunc(ids, func(id string) bool { return id == m.MethodName || strings.HasPrefix(id, m.MethodName+"_") })
		if !found {
			t.Errorf("%s: got no path for it, want one in the table of routes", m.MethodName)
		}
	}
}

func TestDescriptions(t *testing.T) {
	b := newBench(t)
	for path, ref := range map[string]string{
		"/api/v1/openapi.yaml": "#/components/schemas/", "/api/v1/openapi.json": "#/components/schemas/", "/swagger/v1/openapiv2.json": "#/definitions/",
	} {
		t.Run(path, func(t *testing.T) {
			text, d := describe(t, b, path)
			var tree any
			if err := yaml.Unmarshal([]byte(text), &tree); err != nil {
				t.Fatal(err)
			}
			resolve(t, tree, tree, ref)
			for p, methods := range d.Paths {
				for method, op := range methods {
					for segment := range strings.SplitSeq(p, "/") {
						name, wild := strings.CutPrefix(segment, "{")
						if wild && !slices.ContainsFunc(op.Parameters, func(a struct{ Name, In string }) bool {
							return a.In == "path" && a.Name == strings.TrimSuffix(name, "}")
						}) {
							t.Errorf("%s %s: got no parameter for %s", method, p, segment)
						}
					}
				}
			}
		})
	}
	for _, path := range []string{"/swagger", "/api/v1/docs"} {
		w := httptest.NewRecorder()
		b.rest.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), "GET", path, nil))
		page := w.Body.String()
		if w.Code != http.StatusOK || !strings.Contains(page, "POST /api/v1/node/{nodeId}/approve_routes") {
			t.Errorf("%s: got %d without the routes", path, w.Code)
		}
		if strings.Contains(page, "<script") || strings.Contains(page, "src=") {
			t.Errorf("%s: got a page that fetches something", path)
		}
	}
}

// TestSwaggerIsAsBefore counts parameters as headplane 0.6 does, which tells releases apart by how many an operation has:
// here are those of 0.28 and 0.29.
func TestSwaggerIsAsBefore(t *testing.T) {
	_, d := describe(t, newBench(t), "/swagger/v1/openapiv2.json")
	for op, want := range map[string]int{
		"get /api/v1/apikey": 0, "delete /api/v1/apikey/{prefix}": 2, "get /api/v1/health": 0, "get /api/v1/node": 1, "post /api/v1/node/{nodeId}/expire": 2,
		"get /api/v1/preauthkey": 0, "delete /api/v1/preauthkey": 1, "get /api/v1/policy": 0, "get /api/v1/user": 3, "delete /api/v1/user/{id}": 1,
	} {
		method, path, _ := strings.Cut(op, " ")
		if got := len(d.Paths[path][method].Parameters); got != want {
			t.Errorf("%s: got %d parameters, want %d", op, got, want)
		}
	}
}

// resolve follows every reference of a description.
func resolve(t *testing.T, at, top any, ref string) {
	t.Helper()
	switch at := at.(type) {
	case map[string]any:
		for k, v := range at {
			if k != "$ref" {
				resolve(t, v, top, ref)
				continue
			}
			name, ok := strings.CutPrefix(v.(string), ref)
			place := top
			for part := range strings.SplitSeq(strings.Trim(ref, "#/"), "/") {
				place = place.(map[string]any)[part]
			}
			if _, there := place.(map[string]any)[name]; !ok || !there {
				t.Errorf("got a reference to %v, which is not there", v)
			}
		}
	case []any:
		for _, v := range at {
			resolve(t, v, top, ref)
		}
	}
}

// wrongKey has the form of one.
const wrongKey = "hskey-api-000000000000-0000000000000000000000000000000000000000000000000000000000000000"

// Guessing is slow, for those who guess.
func TestWrongKeys(t *testing.T) {
	now := start
	b := newBench(t, func(c *api.Config) { c.Now = func() time.Time { return now } })
	const guesser, neighbour, stranger = "198.51.100.7:1000", "198.51.100.7:2000", "198.51.100.8:1000"
	ask := func(from, key string, want int) {
		t.Helper()
		if got, answer := b.askFrom(t, from, "GET", "/api/v1/user", key, ""); got != want {
			t.Fatalf("from %s: got %d %v, want %d", from, got, answer["message"], want)
		}
	}
	used, fresh := b.apiKey(t, ""), b.apiKey(t, "")
	ask(neighbour, used, 200)
	for range 20 {
		ask(guesser, wrongKey, 401)
	}
	ask(guesser, wrongKey, 429)
	ask(guesser, fresh, 429) // even if it were right
	ask(neighbour, used, 200)
	ask(stranger, wrongKey, 401)
	now = now.Add(4 * time.Second)
	ask(guesser, wrongKey, 401)
	ask(guesser, wrongKey, 429)

	for range 2000 {
		ask(stranger, fresh, 200)
	}
	ask(stranger, fresh, 429)
	ask(stranger, used, 200)
	now = now.Add(time.Second)
	ask(stranger, fresh, 200)
}

// What a key may do is decided where it is decided for gRPC; here is that it is asked at all, by each operation.
func TestRESTNeedsKey(t *testing.T) {
	b := newBench(t)
	_, d := describe(t, b, "/api/v1/openapi.yaml")
	var calls int
	for path, methods := range d.Paths {
		for method := range methods {
			path := strings.NewReplacer("{", "", "}", "").Replace(path)
			for name, key := range map[string]string{"no key": "", "a wrong key": wrongKey} {
				calls++
				from := netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, byte(calls >> 8), byte(calls)}), 1).String()
				if status, answer := b.askFrom(t, from, strings.ToUpper(method), path, key, "{"); status != http.StatusUnauthorized || answer["code"] != 16.0 {
					t.Errorf("%s %s with %s: got %d %v, want 401", method, path, name, status, answer["message"])
				}
			}
		}
	}
}

func TestRESTKeyOfOneTailnet(t *testing.T) {
	b := newBench(t)
	b.tailnet(t, "lab")
	b.user(t, "lena", "lab")
	alice := b.user(t, "alice", "")
	b.node(t, "bench", "lena", "lab")
	b.node(t, "box", "alice", "")
	if _, err := b.CreatePreAuthKey(t.Context(), &headscalev1.CreatePreAuthKeyRequest{User: alice.GetId()}); err != nil {
		t.Fatal(err)
	}
	key := b.apiKey(t, "lab")
	for _, c := range []struct {
		method, path, body string
		status             int
	}{
		{"GET", "/api/v1/node", "", 200},
		{"GET", "/api/v1/node/2", "", 404},
		{"DELETE", "/api/v1/node/2", "", 404},
		{"POST", "/api/v1/node/2/expire", "", 404},
		{"POST", "/api/v1/machine/2/rename/mine", "", 404},
		{"GET", "/api/v1/node?tailnet=default", "", 404},
		{"GET", "/api/v1/user/lena", "", 200},
		{"GET", "/api/v1/user/alice", "", 404},
		{"GET", "/api/v1/user?tailnet=default", "", 404},
		{"DELETE", "/api/v1/user/alice", "", 404},
		{"DELETE", "/api/v1/namespace/alice", "", 404},
		{"POST", "/api/v1/user/2/role", `{"role":"owner"}`, 404},
		{"POST", "/api/v1/preauthkey", `{"user":"2"}`, 404},
		{"POST", "/api/v1/preauthkey", `{"user":"alice"}`, 400},
		{"POST", "/api/v1/preauthkey/expire", `{"id":"1"}`, 404},
		{"POST", "/api/v1/preauthkey/expire", `{"user":"alice","id":"1"}`, 404},
		{"DELETE", "/api/v1/preauthkey?id=1", "", 404},
		{"PUT", "/api/v1/policy", `{"policy":"{}","tailnet":"default"}`, 404},
		{"POST", "/api/v1/tailnet", `{"name":"more"}`, 403},
		{"POST", "/api/v1/routes/20001/enable", "", 404},
	} {
		if status, answer := b.ask(t, c.method, c.path, key, c.body); status != c.status {
			t.Errorf("%s %s: got %d %v, want %d", c.method, c.path, status, answer["message"], c.status)
		}
	}
	if _, answer := b.ask(t, "GET", "/api/v1/node", key, ""); len(answer["nodes"].([]any)) != 1 {
		t.Errorf("got %v, want the one node of the tailnet", answer)
	}
}

// Who accepts nothing in particular gets what headscale 0.30 gives, and no more.
func TestBareAnswers(t *testing.T) {
	b := newBench(t)
	b.user(t, "alice", "")
	b.node(t, "box", "alice", "")
	r := httptest.NewRequestWithContext(t.Context(), "GET", "/api/v1/node", nil)
	r.Header.Set("Authorization", "Bearer "+b.apiKey(t, ""))
	for accept, want := range map[string]int{"": 18, "application/json": 31} {
		r.Header.Del("Accept")
		if accept != "" {
			r.Header.Set("Accept", accept)
		}
		w := httptest.NewRecorder()
		b.rest.ServeHTTP(w, r)
		var answer struct{ Nodes []map[string]any }
		if err := json.Unmarshal(w.Body.Bytes(), &answer); err != nil || len(answer.Nodes) != 1 {
			t.Fatalf("got %s, %v, want one node", w.Body, err)
		}
		if got := len(answer.Nodes[0]); got != want {
			t.Errorf("accepting %q: got %d members, want %d: %s", accept, got, want, w.Body)
		}
	}
}

// Of two who read the same policy only the first may replace it.
func TestPolicyIfMatch(t *testing.T) {
	b := newBench(t)
	key := b.apiKey(t, "")
	do := func(method, match, policy string, want int) string {
		t.Helper()
		body, err := json.Marshal(map[string]string{"policy": policy})
		if err != nil {
			t.Fatal(err)
		}
		r := httptest.NewRequestWithContext(t.Context(), method, "/api/v1/policy", strings.NewReader(string(body)))
		r.Header.Set("Authorization", "Bearer "+key)
		if match != "" {
			r.Header.Set("If-Match", match)
		}
		w := httptest.NewRecorder()
		b.rest.ServeHTTP(w, r)
		if w.Code != want {
			t.Errorf("%s with If-Match %s: got %d %s, want %d", method, match, w.Code, w.Body, want)
		}
		return w.Header().Get("ETag")
	}
	do("PUT", "*", "{}", http.StatusPreconditionFailed)
	do("PUT", "", "{}", http.StatusOK)
	read := do("GET", "", "", http.StatusOK)
	wrote := do("PUT", read, "{ }", http.StatusOK)
	if read == "" || wrote == read {
		t.Errorf("got ETag %s, then %s, want two of them", read, wrote)
	}
	do("PUT", read, "{  }", http.StatusPreconditionFailed)
	do("PUT", `"77", `+wrote, "{  }", http.StatusOK)
	do("PUT", "*", "{}", http.StatusOK)
}

// FuzzREST sends anything anywhere: the answer is JSON, and never the fault of the server.
func FuzzREST(f *testing.F) {
	b := newBench(f, func(c *api.Config) { c.Now = time.Now }) // or the key's calls run out
	key := b.apiKey(f, "")
	f.Add("POST", "user", "name=x", `{"name":"y","displayName":null}`)
	f.Add("POST", "user/x/rename/y", "", `{"oldId":"x"}`)
	f.Add("POST", "preauthkey", "", `{"user":"x","expiration":"2036-01-02T03:04:05Z","aclTags":["tag:a"]}`)
	f.Add("POST", "preauthkey/expire", "", `{"user":1e3,"key":[]}`)
	f.Add("POST", "node/1/approve_routes", "routes=10.0.0.0/8&routes=::/0", "")
	f.Add("POST", "debug/node", "", `{"user":{},"key":"`+strings.Repeat("0", 64)+`"}`)
	f.Add("PUT", "policy", "", `{"policy":"{}"}`)
	f.Add("DELETE", "apikey/%zz", "", "")
	f.Add("GET", "routes", "tailnet=*", "")
	f.Fuzz(func(t *testing.T, method, path, query, body string) {
		if !slices.Contains([]string{"GET", "POST", "PUT", "DELETE"}, method) {
			return
		}
		r := httptest.NewRequestWithContext(t.Context(), method, "/", strings.NewReader(body))
		r.URL.Path, r.URL.RawQuery = "/api/v1/"+path, query
		r.Header.Set("Authorization", "Bearer "+key)
		w := httptest.NewRecorder()
		b.rest.ServeHTTP(w, r)
		switch {
		case w.Code == http.StatusMovedPermanently || w.Code == http.StatusTemporaryRedirect:
		case w.Code >= 500 && w.Code != http.StatusNotImplemented:
			t.Errorf("%s %q ? %q %q: got %d %s", method, path, query, body, w.Code, w.Body)
		case strings.HasSuffix(w.Header().Get("Content-Type"), "json") && !json.Valid(w.Body.Bytes()):
			t.Errorf("%s %q ? %q %q: got %s, which is no JSON", method, path, query, body, w.Body)
		}
	})
}

func TestReflection(t *testing.T) {
	b := newBench(t)
	list := func(door grpc_reflection_v1.ServerReflectionClient, key string) (names []string, err error) {
		ctx := t.Context()
		if key != "" {
			ctx = metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+key)
		}
		stream, err := door.ServerReflectionInfo(ctx)
		if err != nil {
			return nil, err
		}
		if err := stream.Send(&grpc_reflection_v1.ServerReflectionRequest{MessageRequest: &grpc_reflection_v1.ServerReflectionRequest_ListServices{}}); err != nil {
			return nil, err
		}
		resp, err := stream.Recv()
		for _, s := range resp.GetListServicesResponse().GetService() {
			names = append(names, s.GetName())
		}
		return names, err
	}
	for name, c := range map[string]struct {
		door grpc_reflection_v1.ServerReflectionClient
		key  string
	}{
		"unix socket":         {grpc_reflection_v1.NewServerReflectionClient(b.localConn), ""},
		"TCP with an API key": {grpc_reflection_v1.NewServerReflectionClient(b.remoteConn), b.apiKey(t, "")},
	} {
		names, err := list(c.door, c.key)
		if err != nil || !slices.Contains(names, "headscale.v1.HeadscaleService") {
			t.Errorf("%s: got %v, %v, want the service", name, names, err)
		}
	}
	_, err := list(grpc_reflection_v1.NewServerReflectionClient(b.remoteConn), "")
	refused(t, err, codes.Unauthenticated, "an API key is needed")
}
