package v2_test

import (
	"fmt"
	"net/http"
	"net/netip"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	tailscale "tailscale.com/client/tailscale/v2"

	"github.com/keelscale/keelscale/hscontrol/tailnet"
)

// managed is a resource of Terraform's provider: the calls that it makes to create, read, update and destroy one, and what
// it reads of the answers. A state that changes without an update is a plan that is never empty.
type managed struct {
	name    string
	create  func(m *manager) (id string, err error)
	read    func(m *manager, id string) (state any, err error)
	created any // the state after create; nil: whatever it is
	update  func(m *manager, id string) error
	updated any
	destroy func(m *manager, id string) error
	left    any // the state when it was destroyed; nil: it is not found
}

// manager is a run of the program with some credentials.
type manager struct {
	*tailscale.Client
	w      *world
	device string
}

// attrs are what a program keeps of an answer.
type attrs = map[string]any

// sorted is a list as a set has it.
func sorted[T ~string](list []T) []string {
	out := make([]string, len(list))
	for i, v := range list {
		out[i] = string(v)
	}
	slices.Sort(out)
	return out
}

// dnsRead is the whole configuration; nil lists are as good as empty ones.
func dnsRead(m *manager, _ string) (any, error) {
	c, err := m.DNS().Configuration(m.w.ctx)
	if err != nil {
		return nil, err
	}
	return *c, nil
}

func policyRead(m *manager, _ string) (any, error) {
	raw, err := m.PolicyFile().Raw(m.w.ctx)
	if err != nil {
		return nil, err
	}
	return raw.HuJSON, nil
}

func settingsRead(m *manager, _ string) (any, error) {
	s, err := m.TailnetSettings().Get(m.w.ctx)
	if err != nil {
		return nil, err
	}
	return *s, nil
}

func keyRead(m *manager, id string) (any, error) {
	k, err := m.Keys().Get(m.w.ctx, id)
	if err != nil {
		return nil, err
	}
	create := k.Capabilities.Devices.Create
	a := attrs{"description": k.Description, "invalid": k.Invalid, "type": k.KeyType, "scopes": sorted(k.Scopes), "tags": sorted(k.Tags),
		"audience": k.Audience != "", "issuer": k.Issuer, "subject": k.Subject, "claims": k.CustomClaimRules}
	if k.KeyType == "auth" {
		a = attrs{"reusable": create.Reusable, "ephemeral": create.Ephemeral, "preauthorized": create.Preauthorized, "tags": sorted(create.Tags),
			"expiry": int(*k.ExpirySeconds), "description": k.Description, "invalid": k.Invalid, "lasts": k.Expires.Sub(k.Created)}
	}
	if k.Invalid != !k.Revoked.IsZero() {
		return nil, fmt.Errorf("got a key that is invalid: %v and revoked at %v", k.Invalid, k.Revoked)
	}
	return a, nil
}

func deviceRead(what func(*tailscale.Device) any) func(m *manager, id string) (any, error) {
	return func(m *manager, id string) (any, error) {
		d, err := m.Devices().Get(m.w.ctx, id)
		if err != nil {
			return nil, err
		}
		if d.ID != id && d.NodeID != id {
			return nil, fmt.Errorf("got device %s, %s, want %s", d.ID, d.NodeID, id)
		}
		return what(d), nil
	}
}

// once is for what a provider keeps one of: the ID is its own.
func once(do func(m *manager) error) func(m *manager) (string, error) {
	return func(m *manager) (string, error) { return "singleton", do(m) }
}

// Every resource of Terraform's provider, with every kind of credentials that it takes.
func TestTerraform(t *testing.T) {
	for name, credentials := range map[string]func(w *world) *tailscale.Client{
		"API key": func(w *world) *tailscale.Client { return w.client(w.key(tailnet.APIKey{Scopes: []string{"all"}}), "-") },
		"API key of a tailnet": func(w *world) *tailscale.Client {
			return w.client(w.key(tailnet.APIKey{TailnetID: w.owner.TailnetID, Scopes: []string{"all"}}), tailnet.DefaultName)
		},
		"API key of a user": func(w *world) *tailscale.Client { return w.client(w.userKey(w.owner), "-") },
		"OAuth client": func(w *world) *tailscale.Client {
			made := must[*tailscale.Key](w.t)(w.admin.Keys().CreateOAuthClient(w.ctx, tailscale.CreateOAuthClientRequest{Scopes: []string{"all"}}))
			return &tailscale.Client{BaseURL: w.base(), Tailnet: "-", Auth: &tailscale.OAuth{ClientID: made.ID, ClientSecret: made.Key}}
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			n := w.Node("box")
			n.Hostinfo.RoutableIPs = []netip.Prefix{netip.MustParsePrefix("10.0.1.0/24")}
			n.Join(w.Key(w.owner))
			m := &manager{Client: credentials(w), w: w, device: w.idOf(n)}
			for _, r := range resources {
				t.Run(r.name, func(t *testing.T) { r.run(t, m) })
			}
		})
	}
}

// run is the life of a resource.
func (r *managed) run(t *testing.T, m *manager) {
	id, err := r.create(m)
	if err != nil || id == "" {
		t.Fatalf("create: got %q, %v", id, err)
	}
	r.is(t, m, "after create", id, r.created)
	r.is(t, m, "the plan after create", id, r.created)
	want := r.created
	if r.update != nil {
		if err := r.update(m, id); err != nil {
			t.Fatalf("update: %v", err)
		}
		want = r.updated
		r.is(t, m, "after update", id, want)
	}
	// An import reads what has this ID, and nothing else is known of it.
	r.is(t, &manager{Client: m.w.admin, w: m.w}, "an import", id, want)
	if err := r.destroy(m, id); err != nil {
		t.Fatalf("destroy: %v", err)
	}
	if r.left != nil {
		r.is(t, m, "after destroy", id, r.left)
		return
	}
	refused(t, "after destroy", lose(r.read(m, id)), http.StatusNotFound)
	if err := r.destroy(m, id); !tailscale.IsNotFound(err) {
		t.Errorf("destroying it once more: got %v, want that it is not found", err)
	}
}

func (r *managed) is(t *testing.T, m *manager, when, id string, want any) {
	t.Helper()
	got, err := r.read(m, id)
	if err != nil {
		t.Fatalf("%s: %v", when, err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("%s: want - got +\n%s", when, diff)
	}
}
