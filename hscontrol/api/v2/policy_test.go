package v2_test

import (
	"crypto/sha256"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/tailscale/hujson"
	tailscale "tailscale.com/client/tailscale/v2"

	"github.com/keelscale/keelscale/hscontrol/config"
)

func TestPolicyFile(t *testing.T) {
	w := newWorld(t)
	file := w.admin.PolicyFile()
	before := must[*tailscale.RawACL](t)(file.Raw(w.ctx))
	if before.ETag == "" || !strings.Contains(before.HuJSON, `"*:*"`) {
		t.Errorf("without a policy: got %+v, want one that lets everyone", before)
	}
	refused(t, "a tag of long ago", file.Set(w.ctx, policyText, "0123"), http.StatusPreconditionFailed)
	if err := file.Set(w.ctx, policyText, "ts-default"); err != nil {
		t.Fatalf("as long as nobody has set one: %v", err)
	}
	refused(t, "ts-default, when somebody has", file.Set(w.ctx, policyText, "ts-default"), http.StatusPreconditionFailed)
	first := must[*tailscale.RawACL](t)(file.Raw(w.ctx))
	if first.HuJSON != policyText {
		t.Errorf("got %q, want what was set, comments and all", first.HuJSON)
	}
	acl := must[*tailscale.ACL](t)(file.Get(w.ctx))
	if formatted, err := hujson.Format([]byte(policyText)); err != nil || strings.Trim(first.ETag, `"`) != fmt.Sprintf("%x", sha256.Sum256(formatted)) {
		t.Errorf("got ETag %s, want the hash of the text as hujson formats it (%v)", first.ETag, err)
	}
	if acl.ETag != first.ETag || len(acl.ACLs) != 1 || len(acl.TagOwners) != 2 {
		t.Errorf("as JSON: got %+v", acl)
	}
	acl.ACLs[0].Destination = []string{"*:22"}
	second := must[*tailscale.ACL](t)(file.SetAndGet(w.ctx, tailscale.ACL{ACLs: acl.ACLs, TagOwners: acl.TagOwners}, acl.ETag))
	if second.ETag == first.ETag || second.ACLs[0].Destination[0] != "*:22" {
		t.Errorf("replaced: got %+v", second)
	}
	refused(t, "the tag of before", file.Set(w.ctx, policyText, first.ETag), http.StatusPreconditionFailed)

	for what, bad := range map[string]string{
		"no policy": "[]", "half a policy": `{"acls": [`, "an unknown section": `{"aclz": []}`,
		"a test that fails": `{"acls": [], "tests": [{"src": "odin@example.com", "accept": ["100.64.0.1:22"]}]}`,
	} {
		refused(t, what, file.Set(w.ctx, bad, ""), http.StatusBadRequest)
	}
	if err := file.Validate(w.ctx, `{"acls": [], "tests": [{"src": "odin@example.com", "accept": ["100.64.0.1:22"]}]}`); err == nil || !strings.Contains(err.Error(), "odin") {
		t.Errorf("validating a test that fails: got %v, want it named", err)
	}
	status, body := w.ask("POST", "/tailnet/-/acl/validate", `[{"src": "odin@example.com", "deny": ["100.64.0.1:22"]}]`)
	if status != http.StatusOK || !strings.Contains(body, "message") {
		t.Errorf("tests alone, which fail: got %d %s", status, body)
	}
	status, body = w.ask("POST", "/tailnet/-/acl/validate", `[{"src": "odin@example.com", "deny": ["100.64.0.1:23"]}]`)
	if status != http.StatusOK || strings.Contains(body, "message") {
		t.Errorf("tests alone, which pass: got %d %s", status, body)
	}
	if now := must[*tailscale.ACL](t)(file.Get(w.ctx)); now.ETag != second.ETag {
		t.Error("what was refused or validated changed the policy")
	}

	// An empty policy takes back what was set: then nobody has set one, again.
	if err := file.Set(w.ctx, "", ""); err != nil {
		t.Fatalf("taking it back: %v", err)
	}
	if now := must[*tailscale.RawACL](t)(file.Raw(w.ctx)); *now != *before {
		t.Errorf("taken back: got %+v, want %+v", now, before)
	}
	if err := file.Set(w.ctx, policyText, "ts-default"); err != nil {
		t.Errorf("setting one when the former was taken back: %v", err)
	}
}

func TestPolicyInAFile(t *testing.T) {
	w := newWorld(t, func(c *config.Config) { c.Policy.Mode = config.PolicyFile })
	refused(t, "setting it", w.admin.PolicyFile().Set(w.ctx, policyText, ""), http.StatusConflict)
	if err := lose(w.admin.PolicyFile().Get(w.ctx)); err != nil {
		t.Errorf("reading it: %v", err)
	}
	if err := w.client(w.admin.APIKey, "elsewhere").PolicyFile().Set(w.ctx, policyText, ""); err != nil {
		t.Errorf("setting that of another tailnet: %v", err)
	}
}

// Which rules of a policy concern whom, as programs ask that show what a change would do.
func TestPolicyPreview(t *testing.T) {
	w := newWorld(t)
	w.SetPolicy(policyText)
	_, id := w.node("box")
	const proposal = "{\n\t\"acls\": [\n\t\t{\"action\": \"accept\", \"src\": [\"odin@example.com\"], \"dst\": [\"*:22\"]}, // where he looks\n\t],\n}"
	told := func(query, body string) string {
		status, answer := w.ask("POST", "/tailnet/-/acl/preview?"+query, body)
		return fmt.Sprint(status, " ", strings.TrimSpace(answer))
	}
	const found = `[{"users":["odin@example.com"],"ports":["*:22"],"lineNumber":3,"postures":[]}]`
	at := w.row(id).IPv4.String()
	for _, ask := range []struct{ query, body, want string }{
		{"type=user&previewFor=odin@example.com", proposal, `200 {"matches":` + found + `,"type":"user","previewFor":"odin@example.com","postures":{}}`},
		{"type=ipport&previewFor=" + at + ":22", proposal, `200 {"matches":` + found + `,"type":"ipport","previewFor":"` + at + `:22","postures":{}}`},
		{"type=ipport&previewFor=" + at + ":23", proposal, `200 {"matches":[],"type":"ipport","previewFor":"` + at + `:23","postures":{}}`},
		{"type=user&previewFor=odin@example.com", "", `200 {"matches":[{"users":["*"],"ports":["*:*"],"lineNumber":4,"postures":[]}],"type":"user","previewFor":"odin@example.com","postures":{}}`},
		{"type=user&previewFor=loki@example.com", proposal, "400 "},
		{"type=ipport&previewFor=" + at, proposal, "400 "},
		{"type=user", proposal, "400 "},
		{"type=tailnet&previewFor=odin@example.com", proposal, "400 "},
		{"type=user&previewFor=odin@example.com", `{"aclz": []}`, "400 "},
	} {
		if got := told(ask.query, ask.body); got != ask.want && (ask.want != "400 " || !strings.HasPrefix(got, ask.want)) {
			t.Errorf("%s: got %s, want %s", ask.query, got, ask.want)
		}
	}
	if now := must[*tailscale.RawACL](t)(w.admin.PolicyFile().Raw(w.ctx)); now.HuJSON != policyText {
		t.Errorf("got %s afterwards, want the policy as it was", now.HuJSON)
	}
}
