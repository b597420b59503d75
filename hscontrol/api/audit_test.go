package api_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/metadata"

	headscalev1 "github.com/keelscale/keelscale/proto/headscale/v1"

	"github.com/keelscale/keelscale/hscontrol/store"
	"github.com/keelscale/keelscale/hscontrol/tailnet"
)

// TestVerifyPrunedAudit: the answer says up to where the log was pruned, from the first request on.
func TestVerifyPrunedAudit(t *testing.T) {
	b := newBench(t)
	for _, name := range []string{"alice", "bob"} {
		if _, err := b.CreateUser(t.Context(), &headscalev1.CreateUserRequest{Name: name}); err != nil {
			t.Fatal(err)
		}
	}
	verify := func() *headscalev1.VerifyAuditResponse {
		t.Helper()
		resp, err := b.VerifyAudit(t.Context(), &headscalev1.VerifyAuditRequest{})
		if err != nil {
			t.Fatal(err)
		}
		return resp
	}
	before := verify()
	if before.GetPruned() != 0 || before.GetPrunedHash() != "" || before.GetLast() != 2 {
		t.Errorf("got %v, want two rows and none pruned", before)
	}
	if _, err := b.store.PruneAudit(t.Context(), start.Add(48*time.Hour)); err != nil {
		t.Fatal(err)
	}
	after := verify()
	if after.GetPruned() != 2 || after.GetPrunedHash() != before.GetHash() || after.GetLast() != 3 || !after.GetEnd() || after.GetBroken() != 0 {
		t.Errorf("got %v, want two rows pruned and the third to hold", after)
	}
}

// TestActors: the log says of a change, and of a login by SSH that was decided, by which door it came and who made it.
func TestActors(t *testing.T) {
	b := newBench(t)
	b.user(t, "alice", "")
	src, dst := b.node(t, "laptop", "alice", ""), b.node(t, "db", "alice", "")
	key, secret, err := b.store.CreateAPIKey(t.Context(), tailnet.APIKey{Scopes: []string{tailnet.ScopeAll}})
	if err != nil {
		t.Fatal(err)
	}
	bearer := "Bearer " + secret.Reveal()
	withKey := metadata.AppendToOutgoingContext(t.Context(), "authorization", bearer)
	rest := func(path, body string) error {
		r := httptest.NewRequest(http.MethodPost, "/api/v1"+path, strings.NewReader(body))
		r.Header.Set("Authorization", bearer)
		r.RemoteAddr = "192.0.2.9:1234"
		w := httptest.NewRecorder()
		if b.rest.ServeHTTP(w, r); w.Code != http.StatusOK {
			return fmt.Errorf("%s: %d: %s", path, w.Code, w.Body)
		}
		return nil
	}
	waits := 0
	login := func() string { // a login by SSH that waits for a person
		t.Helper()
		waits++
		c, err := b.store.BeginSSHCheck(t.Context(), tailnet.SSHCheck{
			SrcID: tailnet.NodeID(src.GetId()), DstID: tailnet.NodeID(dst.GetId()), Owner: "user 1", Login: fmt.Sprint("login", waits),
		}, false)
		if err != nil {
			t.Fatal(err)
		}
		return c.ID
	}
	here := tailnet.Actor{Via: tailnet.ViaCLI, Who: myName(t)}
	grpc := tailnet.Actor{Via: tailnet.ViaGRPC, Who: "apikey:" + key.Prefix}
	overREST := tailnet.Actor{Via: tailnet.ViaREST, Who: "apikey:" + key.Prefix, From: "192.0.2.9"}
	for _, c := range []struct {
		action string
		want   tailnet.Actor
		do     func() error
	}{
		{"user.create", here, func() error {
			_, err := b.CreateUser(t.Context(), &headscalev1.CreateUserRequest{Name: "bob"})
			return err
		}},
		{"user.create", grpc, func() error {
			_, err := b.remote.CreateUser(withKey, &headscalev1.CreateUserRequest{Name: "carol"})
			return err
		}},
		{"user.create", overREST, func() error { return rest("/user", `{"name": "dave"}`) }},
		{"ssh.approve", here, func() error {
			_, err := b.AuthApprove(t.Context(), &headscalev1.AuthApproveRequest{AuthId: login()})
			return err
		}},
		{"ssh.reject", grpc, func() error {
			_, err := b.remote.AuthReject(withKey, &headscalev1.AuthRejectRequest{AuthId: login()})
			return err
		}},
		{"ssh.approve", overREST, func() error { return rest("/auth/approve", `{"authId": "`+login()+`"}`) }},
	} {
		if err := c.do(); err != nil {
			t.Fatalf("%s by %s: %v", c.action, c.want.Via, err)
		}
		rows, err := b.store.ListAudit(t.Context(), store.AuditFilter{Newest: true, Limit: 1})
		if err != nil || len(rows) != 1 {
			t.Fatal(rows, err)
		}
		got := rows[0].Actor
		if c.want.Via == tailnet.ViaGRPC {
			got.From = "" // the tests' gRPC has no address
		}
		if rows[0].Action != c.action || got != c.want {
			t.Errorf("got %s by %+v, want %s by %+v", rows[0].Action, rows[0].Actor, c.action, c.want)
		}
	}
}
