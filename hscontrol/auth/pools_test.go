package auth_test

import (
	"strings"
	"testing"

	"tailscale.com/tailcfg"
	"tailscale.com/types/key"

	"github.com/keelscale/keelscale/hscontrol/tailnet"
)

// A node that joins gets an address of the ranges that the policy has for its owner; one that is there keeps its own.
func TestAddressPools(t *testing.T) {
	r := newRoom(t)
	ctx := t.Context()
	secrets := map[string]string{}
	for _, name := range []string{"alice", "bob"} {
		u, err := r.Store.FindUser(ctx, r.State.Views()[0].Tailnet.ID, name)
		if err != nil {
			t.Fatal(err)
		}
		_, secret, err := r.Store.CreatePreAuthKey(ctx, tailnet.PreAuthKey{UserID: u.ID, Reusable: true})
		if err != nil {
			t.Fatal(err)
		}
		secrets[name] = secret.Reveal()
	}
	join := func(machine key.MachinePublic, name string) (*tailcfg.RegisterRequest, *tailcfg.RegisterResponse) {
		t.Helper()
		req := &tailcfg.RegisterRequest{
			Version: 142, NodeKey: key.NewNode().Public(), Hostinfo: &tailcfg.Hostinfo{Hostname: "box"},
			Auth: &tailcfg.RegisterResponseAuth{AuthKey: secrets[name]},
		}
		resp, err := r.Register(ctx, machine, req)
		if err != nil {
			t.Fatal(err)
		}
		return req, resp
	}
	address := func(machine key.MachinePublic, name string) string {
		t.Helper()
		req, resp := join(machine, name)
		if resp.Error != "" {
			t.Fatalf("%s joins: %s", name, resp.Error)
		}
		n, err := r.Store.FindNodeByKey(ctx, req.NodeKey)
		if err != nil {
			t.Fatal(err)
		}
		return n.IPv4.String()
	}
	early := key.NewMachine().Public()
	if got := address(early, "alice"); got != "100.64.0.1" {
		t.Errorf("without pools: got %s, want 100.64.0.1", got)
	}
	v, err := r.Store.PutPolicy(ctx, 0, `{"nodeAttrs": [{"target": ["alice@"], "ipPool": ["100.81.0.0/31"]}]}`, "test")
	if err != nil {
		t.Fatal(err)
	}
	if err := r.State.AwaitPolicy(ctx, v.TailnetID, v.ID); err != nil {
		t.Fatal(err)
	}
	if got := address(early, "alice"); got != "100.64.0.1" {
		t.Errorf("a node that was there before: got %s, want 100.64.0.1 as before", got)
	}
	for _, want := range []string{"100.81.0.0", "100.81.0.1"} {
		if got := address(key.NewMachine().Public(), "alice"); got != want {
			t.Errorf("a node of alice: got %s, want %s", got, want)
		}
	}
	if got := address(key.NewMachine().Public(), "bob"); !strings.HasPrefix(got, "100.64.0.") {
		t.Errorf("a node of bob: got %s, want one that is in no pool", got)
	}
	req, resp := join(key.NewMachine().Public(), "alice")
	if !strings.Contains(resp.Error, "no address left") || !strings.Contains(resp.Error, "ipPool") {
		t.Errorf("pools that are used up: got %+v, want it said", resp)
	}
	if n, err := r.Store.FindNodeByKey(ctx, req.NodeKey); err == nil {
		t.Errorf("pools that are used up: got node %d, want none", n.ID)
	}
}
