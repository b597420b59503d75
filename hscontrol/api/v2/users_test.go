package v2_test

import (
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"tailscale.com/tailcfg"

	tailscale "tailscale.com/client/tailscale/v2"

	"github.com/keelscale/keelscale/hscontrol/hstest"
	"github.com/keelscale/keelscale/hscontrol/tailnet"
)

// A suspended user's nodes reach nobody and are reached by nobody, until the user is restored; a deleted user's are gone.
func TestUsers(t *testing.T) {
	w := newWorld(t)
	loki := must[*tailnet.User](t)(w.Store().CreateUser(w.ctx, tailnet.User{Name: "loki"}))
	path := "/users/" + strconv.FormatUint(uint64(loki.ID), 10)
	mine, _ := w.node("mine")
	his := w.Node("his")
	his.Join(w.Key(loki))
	poll, hisPoll := mine.Poll(), his.Poll()
	defer poll.Close()
	defer hisPoll.Close()
	poll.Await("his node", func(m *hstest.Netmap) bool { return len(m.Peers) == 1 })
	status := func(want string) {
		t.Helper()
		u := must[*tailscale.User](t)(w.admin.Users().Get(w.ctx, strconv.FormatUint(uint64(loki.ID), 10)))
		if string(u.Status) != want || u.DeviceCount != 1 || u.LoginName != "loki" || u.Type != tailscale.UserTypeMember {
			t.Errorf("got %+v, want it %s with one device", u, want)
		}
	}
	status("active")
	w.done("POST", path+"/suspend", "")
	status("suspended")
	poll.Await("his end", func(m *hstest.Netmap) bool { return len(m.Peers) == 0 })
	hisPoll.Await("being cut off", func(m *hstest.Netmap) bool { return len(m.Peers) == 0 && !m.Node.MachineAuthorized })
	again := w.Node("again")
	if resp := must[*tailcfg.RegisterResponse](t)(again.Register(w.ctx, hstest.WithKey(w.Key(loki)))); resp.MachineAuthorized {
		t.Errorf("another node of his: got %+v, want it kept out", resp)
	}
	if err := w.admin.Devices().Delete(w.ctx, w.idOf(again)); err != nil {
		t.Fatal(err)
	}
	w.done("POST", path+"/restore", "")
	status("active")
	poll.Await("his return", func(m *hstest.Netmap) bool { return len(m.Peers) == 1 })
	hisPoll.Await("being let in", func(m *hstest.Netmap) bool { return len(m.Peers) == 1 && m.Node.MachineAuthorized })

	w.done("POST", path+"/role", `{"role":"network-admin"}`)
	role := tailscale.UserRoleNetworkAdmin
	if got := must[[]tailscale.User](t)(w.admin.Users().List(w.ctx, nil, &role)); len(got) != 1 || got[0].LoginName != "loki" {
		t.Errorf("network admins: got %+v, want loki", got)
	}
	w.is("POST", path+"/role", `{"role":"king"}`, http.StatusBadRequest)
	owner := "/users/" + strconv.FormatUint(uint64(w.owner.ID), 10)
	for _, act := range []string{"/suspend", "/delete"} {
		w.is("POST", owner+act, "", http.StatusConflict) // the last owner
	}
	w.is("POST", owner+"/role", `{"role":"member"}`, http.StatusConflict)
	w.is("POST", path+"/restore", "", http.StatusOK)

	w.done("POST", path+"/delete", "")
	poll.Await("his end", func(m *hstest.Netmap) bool { return len(m.Peers) == 0 })
	w.is("GET", path, "", http.StatusNotFound)
}

// Who logs in for the first time waits where that is asked for, but for the invited.
func TestUserApproval(t *testing.T) {
	w := newWorld(t)
	on := true
	if err := w.admin.TailnetSettings().Update(w.ctx, tailscale.UpdateTailnetSettingsRequest{UsersApprovalOn: &on}); err != nil {
		t.Fatal(err)
	}
	_, invited := w.ask("POST", "/tailnet/-/user-invites", `[{"role":"admin","email":"Freya@Example.com"}]`)
	if !strings.Contains(invited, `"freya@example.com"`) {
		t.Fatalf("inviting: got %s", invited)
	}
	login := func(name string) *tailnet.User {
		return must[*tailnet.User](t)(w.Store().CreateUser(w.ctx, tailnet.User{
			Name: name, Email: name + "@example.com", Provider: "oidc", ProviderIdentifier: "https://issuer.example.com/" + name}))
	}
	if u := login("freya"); u.Status != tailnet.UserActive || u.Role != "admin" {
		t.Errorf("the invited: got %+v, want an active admin", u)
	}
	if _, list := w.ask("GET", "/tailnet/-/user-invites", ""); strings.TrimSpace(list) != "[]" {
		t.Errorf("the invitation that was taken up: got %s, want none left", list)
	}
	u := login("thor")
	if u.Status != tailnet.UserNeedsApproval {
		t.Errorf("another: got %+v, want one that waits", u)
	}
	n := w.Node("thors")
	if resp := must[*tailcfg.RegisterResponse](t)(n.Register(w.ctx, hstest.WithKey(w.Key(u)))); resp.MachineAuthorized {
		t.Errorf("a node of who waits: got %+v, want it kept out", resp)
	}
	w.done("POST", "/users/"+strconv.FormatUint(uint64(u.ID), 10)+"/approve", "")
	poll := n.Poll()
	defer poll.Close()
	poll.Await("being let in", func(m *hstest.Netmap) bool { return m.Node.MachineAuthorized })
	w.is("POST", "/tailnet/-/user-invites", `[{"role":"owner","email":"x@example.com"}]`, http.StatusBadRequest)
	w.is("GET", "/user-invites/99", "", http.StatusNotFound)
}

// Each setting does what it says, or is refused with the reason.
func TestSettings(t *testing.T) {
	w := newWorld(t)
	settings := w.admin.TailnetSettings()
	yes := true
	if err := settings.Update(w.ctx, tailscale.UpdateTailnetSettingsRequest{
		DevicesKeyDurationDays: tailscale.PointerTo(7), DevicesAutoUpdatesOn: &yes,
		ACLsExternallyManagedOn: &yes, ACLsExternalLink: tailscale.PointerTo("https://git.example.com/policy"),
	}); err != nil {
		t.Fatal(err)
	}
	got := must[*tailscale.TailnetSettings](t)(settings.Get(w.ctx))
	want := tailscale.TailnetSettings{DevicesKeyDurationDays: 7, DevicesAutoUpdatesOn: true, ACLsExternallyManagedOn: true,
		ACLsExternalLink: "https://git.example.com/policy", UsersRoleAllowedToJoinExternalTailnets: tailscale.RoleAllowedToJoinExternalTailnetsNone}
	if *got != want {
		t.Errorf("got %+v, want %+v", *got, want)
	}
	n, id := w.node("box")
	expiry := w.row(id).Expiry
	if expiry == nil || time.Until(*expiry) > 7*24*time.Hour || time.Until(*expiry) < 7*24*time.Hour-time.Minute {
		t.Errorf("the key of a new node: got expiry %v, want it in 7 days", expiry)
	}
	poll := n.Poll()
	defer poll.Close()
	if v := poll.Netmap.Node.CapMap[tailcfg.NodeAttrDefaultAutoUpdate]; len(v) != 1 || v[0] != "true" {
		t.Errorf("automatic updates: got %v, want them on", v)
	}
	no := false
	for what, req := range map[string]tailscale.UpdateTailnetSettingsRequest{
		"flow logs": {NetworkFlowLoggingOn: &yes}, "regional routing": {RegionalRoutingOn: &yes},
	} {
		req.DevicesKeyDurationDays = tailscale.PointerTo(9)
		refused(t, what, settings.Update(w.ctx, req), http.StatusNotImplemented)
	}
	for what, req := range map[string]tailscale.UpdateTailnetSettingsRequest{
		"no days": {DevicesKeyDurationDays: tailscale.PointerTo(0)}, "too many": {DevicesKeyDurationDays: tailscale.PointerTo(181)},
		"no link": {ACLsExternalLink: tailscale.PointerTo("ftp:x")}, "no role": {UsersRoleAllowedToJoinExternalTailnets: tailscale.PointerTo(tailscale.RoleAllowedToJoinExternalTailnets("king"))},
	} {
		refused(t, what, settings.Update(w.ctx, req), http.StatusBadRequest)
	}
	if got := must[*tailscale.TailnetSettings](t)(settings.Get(w.ctx)); got.DevicesKeyDurationDays != 7 {
		t.Errorf("what was refused changed something: got %+v", got)
	}
	if err := settings.Update(w.ctx, tailscale.UpdateTailnetSettingsRequest{NetworkFlowLoggingOn: &no, HTTPSEnabled: &no}); err != nil {
		t.Errorf("off is what they are: %v", err)
	}
}

func TestContacts(t *testing.T) {
	w := newWorld(t)
	contacts := w.admin.Contacts()
	if err := contacts.Update(w.ctx, tailscale.ContactSupport, tailscale.UpdateContactRequest{Email: tailscale.PointerTo("help@example.com")}); err != nil {
		t.Fatal(err)
	}
	got := must[*tailscale.Contacts](t)(contacts.Get(w.ctx))
	if got.Support.Email != "help@example.com" || got.Support.NeedsVerification || got.Account.Email != "" {
		t.Errorf("got %+v", got)
	}
	refused(t, "no address", contacts.Update(w.ctx, tailscale.ContactSupport, tailscale.UpdateContactRequest{Email: tailscale.PointerTo("nobody")}), http.StatusBadRequest)
	refused(t, "no contact", contacts.Update(w.ctx, "sales", tailscale.UpdateContactRequest{}), http.StatusNotFound)
}
