package api_test

import (
	"encoding/base64"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"tailscale.com/tailcfg"
	"tailscale.com/types/key"

	headscalev1 "github.com/keelscale/keelscale/proto/headscale/v1"

	"github.com/keelscale/keelscale/hscontrol/api"
	"github.com/keelscale/keelscale/hscontrol/store"
	"github.com/keelscale/keelscale/hscontrol/tailnet"
)

// lists are those of the API, with the member that is the list.
var lists = map[string]string{
	"/api/v1/node": "nodes", "/api/v1/user": "users", "/api/v1/preauthkey": "preAuthKeys", "/api/v1/apikey": "apiKeys",
	"/api/v1/routes": "routes", "/api/v1/node/1/routes": "routes", "/api/v1/tailnet": "tailnets",
	"/api/v1/relaykey": "relayKeys", "/api/v1/relay": "relays", "/api/v1/policy/versions": "versions",
	"/api/v1/machine": "machines", "/api/v1/namespace": "namespaces", "/api/v1/machine/1/routes": "routes",
}

// crowd fills a bench with seven of each kind.
func crowd(t *testing.T) (*bench, string) {
	t.Helper()
	b := newBench(t, func(c *api.Config) {
		c.ServerKey, c.ControlURL = key.NewMachine().Public(), "https://head.example.com"
		c.Embedded = func() []*api.EmbeddedRelay {
			return []*api.EmbeddedRelay{{Name: "embedded", RegionID: 999, RegionCode: "here"}}
		}
	})
	ctx := t.Context()
	for i := range 7 {
		name := fmt.Sprintf("user%d", i)
		b.user(t, name, "")
		made, err := b.CreatePreAuthKey(ctx, &headscalev1.CreatePreAuthKeyRequest{UserRef: name})
		must(t, err)
		_, err = b.store.JoinWithKey(ctx, made.GetPreAuthKey().GetKey(), store.Join{
			MachineKey: key.NewMachine().Public(), NodeKey: key.NewNode().Public(), CapVersion: 113, Method: tailnet.RegisterByAuthKey,
			Hostinfo: &tailcfg.Hostinfo{Hostname: name, RoutableIPs: []netip.Prefix{
				netip.MustParsePrefix(fmt.Sprintf("10.%d.0.0/16", i)), netip.MustParsePrefix("10.9.9.0/24"), netip.MustParsePrefix("fd00::/64"),
			}},
		})
		must(t, err)
		_, err = b.CreateApiKey(ctx, &headscalev1.CreateApiKeyRequest{})
		must(t, err)
		_, err = b.CreateRelayKey(ctx, &headscalev1.CreateRelayKeyRequest{})
		must(t, err)
		_, err = b.CreateTailnet(ctx, &headscalev1.CreateTailnetRequest{Name: "net" + name})
		must(t, err)
		_, err = b.SetPolicy(ctx, &headscalev1.SetPolicyRequest{Policy: fmt.Sprintf(`{"hosts": {"h": "10.0.0.%d"}, "acls": []}`, i)})
		must(t, err)
	}
	return b, b.apiKey(t, "")
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// TestPages reads every list page by page, and at once: it is the same list.
func TestPages(t *testing.T) {
	b, k := crowd(t)
	for path, member := range lists {
		t.Run(path, func(t *testing.T) {
			code, whole := b.ask(t, "GET", path, k, "")
			want, _ := whole[member].([]any)
			if code != http.StatusOK || len(want) == 0 {
				t.Fatalf("got %d and %d items, want some", code, len(want))
			}
			if _, there := whole["nextPageToken"]; there {
				t.Errorf("got nextPageToken in an answer that is no page")
			}
			for _, size := range []int{1, 2, 3, len(want), 1000} {
				var got []any
				token, pages := "", 0
				for {
					query := url.Values{"pageSize": {fmt.Sprint(size)}}
					if token != "" {
						query.Set("pageToken", token)
					}
					code, answer := b.ask(t, "GET", path+"?"+query.Encode(), k, "")
					part, _ := answer[member].([]any)
					if code != http.StatusOK || len(part) > size || len(part) == 0 {
						t.Fatalf("pages of %d: got %d with %d items: %v", size, code, len(part), answer["detail"])
					}
					got = append(got, part...)
					pages++
					if token, _ = answer["nextPageToken"].(string); token == "" {
						break
					}
				}
				if fmt.Sprint(got) != fmt.Sprint(want) || pages != (len(want)+size-1)/size {
					t.Errorf("pages of %d: got %d items on %d pages, want the %d of the whole list", size, len(got), pages, len(want))
				}
			}
		})
	}
}

// TestBarePages is about programs that compare answers with headscale's: they get what they ask for, and no more.
func TestBarePages(t *testing.T) {
	b, k := crowd(t)
	ask := func(path string) string {
		r := httptest.NewRequestWithContext(t.Context(), "GET", path, nil)
		r.Header.Set("Authorization", "Bearer "+k)
		w := httptest.NewRecorder()
		b.rest.ServeHTTP(w, r)
		return w.Body.String()
	}
	if got := ask("/api/v1/user"); strings.Contains(got, "PageToken") {
		t.Errorf("got %s, want no word of pages", got)
	}
	if got := ask("/api/v1/user?page_size=3"); !strings.Contains(got, `"nextPageToken":"`) || strings.Contains(got, "tailnet") {
		t.Errorf("got %s, want nextPageToken and nothing else of ours", got)
	}
}

// TestPagesWhileOthersComeAndGo shows what is there all the time exactly once.
func TestPagesWhileOthersComeAndGo(t *testing.T) {
	b, _ := crowd(t)
	ctx := t.Context()
	first, err := b.ListUsers(ctx, &headscalev1.ListUsersRequest{PageSize: 3})
	must(t, err)
	_, err = b.DeleteNode(ctx, &headscalev1.DeleteNodeRequest{NodeId: 3})
	must(t, err)
	_, err = b.DeleteUser(ctx, &headscalev1.DeleteUserRequest{Id: first.GetUsers()[2].GetId()}) // the one that the cursor stands on
	must(t, err)
	b.user(t, "late", "")
	rest, err := b.ListUsers(ctx, &headscalev1.ListUsersRequest{PageToken: first.GetNextPageToken()})
	must(t, err)
	var got []string
	for _, u := range append(first.GetUsers(), rest.GetUsers()...) {
		got = append(got, u.GetName())
	}
	if want := []string{"user0", "user1", "user2", "user3", "user4", "user5", "user6", "late"}; !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	if rest.GetNextPageToken() != "" {
		t.Errorf("got another page, want none")
	}
}

func TestPageMistakes(t *testing.T) {
	b, k := crowd(t)
	page, err := b.ListUsers(t.Context(), &headscalev1.ListUsersRequest{PageSize: 1})
	must(t, err)
	good := page.GetNextPageToken()
	for _, c := range []struct{ query, text string }{
		{"user?pageSize=1001", "at most"},
		{"user?pageSize=-1", "pageSize has to be a whole number"},
		{"user?pageSize=many", "pageSize has to be a whole number"},
		{"user?pageSize=99999999999", "pageSize has to be a whole number"},
		{"user?pageToken=x", "none that this server gives"},
		{"user?pageToken=%21%21%21", "none that this server gives"},
		{"user?pageToken=" + good[:8], "none that this server gives"},
		{"user?pageToken=" + base64.RawURLEncoding.EncodeToString(make([]byte, 40)), "none that this server gives"},
		{"user?pageToken=" + strings.Repeat("A", 600), "longer than 512 bytes"},
		{"user?name=user1&pageToken=" + good, "of another list"},
		{"user?tailnet=*&pageToken=" + good, "of another list"},
		{"node?pageToken=" + good, "of another list"},
	} {
		code, answer := b.ask(t, "GET", "/api/v1/"+c.query, k, "")
		if text, _ := answer["detail"].(string); code != http.StatusBadRequest || !strings.Contains(text, c.text) {
			t.Errorf("%s: got %d %q, want 400 and %q", c.query, code, text, c.text)
		}
	}
	_, err = b.ListNodes(t.Context(), &headscalev1.ListNodesRequest{PageToken: good})
	refused(t, err, codes.InvalidArgument, "of another list")
}

// TestEveryListHasPages holds the .proto files: what answers with a list of the service's nouns takes pages.
func TestEveryListHasPages(t *testing.T) {
	methods := headscalev1.File_headscale_v1_headscale_proto.Services().ByName("HeadscaleService").Methods()
	for i := range methods.Len() {
		m := methods.Get(i)
		if !strings.HasPrefix(string(m.Name()), "List") && !strings.HasSuffix(string(m.Name()), "Routes") || strings.HasPrefix(string(m.Name()), "Set") {
			continue
		}
		for _, f := range []struct {
			in     protoreflect.MessageDescriptor
			name   protoreflect.Name
			number protoreflect.FieldNumber
		}{{m.Input(), "page_size", 110}, {m.Input(), "page_token", 111}, {m.Output(), "next_page_token", 110}} {
			if got := f.in.Fields().ByName(f.name); got == nil || got.Number() != f.number {
				t.Errorf("%s: got no %s = %d in %s", m.Name(), f.name, f.number, f.in.Name())
			}
		}
	}
}

func FuzzPageToken(f *testing.F) {
	b := newBench(f)
	ctx := f.Context()
	for i := range 3 {
		if _, err := b.CreateUser(ctx, &headscalev1.CreateUserRequest{Name: fmt.Sprintf("u%d", i)}); err != nil {
			f.Fatal(err)
		}
	}
	page, err := b.ListUsers(ctx, &headscalev1.ListUsersRequest{PageSize: 1})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(page.GetNextPageToken())
	f.Add("AQ")
	f.Add("")
	f.Fuzz(func(t *testing.T, token string) {
		resp, err := b.ListUsers(t.Context(), &headscalev1.ListUsersRequest{PageSize: 2, PageToken: token})
		if err == nil && (len(resp.GetUsers()) > 2 || proto.Size(resp) == 0 && token == "") {
			t.Errorf("%q: got %d users, want 2 at most", token, len(resp.GetUsers()))
		}
	})
}
