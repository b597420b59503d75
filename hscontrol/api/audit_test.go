package api_test

import (
	"testing"
	"time"

	headscalev1 "github.com/keelscale/keelscale/proto/headscale/v1"
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
