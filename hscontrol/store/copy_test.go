package store_test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/keelscale/keelscale/hscontrol/store"
	"github.com/keelscale/keelscale/hscontrol/tailnet"
)

// furnished is a store with something of everything.
func furnished(t *testing.T, cfg store.Config) *world {
	w := newWorld(t, cfg)
	other := must[*tailnet.Tailnet](t)(w.CreateTailnet(w.ctx, "other", netip.Prefix{}, netip.Prefix{}))
	bob := w.newUser(other.ID, "bob")
	w.newKey(tailnet.PreAuthKey{TailnetID: other.ID, UserID: bob.ID, Tags: []string{"tag:a"}})
	var last *tailnet.Node
	for i := range 450 { // more than are written at once
		last = w.join(fmt.Sprintf("node-%d", i))
	}
	w.online(last.ID)
	gone := w.join("gone")
	if err := w.DeleteNode(w.ctx, gone.ID); err != nil { // its ID is not to be used again
		t.Fatal(err)
	}
	if _, err := w.PutPolicy(w.ctx, w.user.TailnetID, `{"acls": []} // žluťoučký \ ' "`, "test"); err != nil {
		t.Fatal(err)
	}
	w.enrol(store.RelayEnrolment{Region: "home"})
	if _, err := w.BeginRegistration(w.ctx, tailnet.Registration{MachineKey: last.MachineKey, NodeKey: client("x").NodeKey, Hostinfo: last.Hostinfo, CapVersion: 113}); err != nil {
		t.Fatal(err)
	}
	return w
}

// TestCopy: whichever way it goes, everything is there, and the next ID is the next.
func TestCopy(t *testing.T) {
	engines := map[string]func(testing.TB) store.Config{"sqlite": sqliteConfig, "postgres": postgresConfig}
	for from, source := range engines {
		for to, target := range engines {
			t.Run(from+" to "+to, func(t *testing.T) { testCopy(t, source(t), target(t)) })
		}
	}
}

func testCopy(t *testing.T, from, to store.Config) {
	ctx := context.Background()
	w := furnished(t, from)
	want := must[tailnet.Delta](t)(w.Since(ctx, w.user.TailnetID, 0))
	newest := want.Nodes[len(want.Nodes)-1].ID + 1 // that of the node that was deleted
	if from.Type == "sqlite" {
		if _, err := store.Copy(ctx, from, to, store.CopyOptions{}); err == nil || !strings.Contains(err.Error(), "another server uses") {
			t.Errorf("while a server uses it: got %v, want a refusal", err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	var told []string
	rows, err := store.Copy(ctx, from, to, store.CopyOptions{Progress: func(table string, done, all int) {
		if done == all && all > 0 {
			told = append(told, fmt.Sprintf("%s %d", table, done))
		}
	}})
	if err != nil || rows < 900 || !slices.Contains(told, "nodes 450") {
		t.Fatalf("got %d rows, %v, told of %v", rows, err, told)
	}
	if _, err := store.Copy(ctx, from, to, store.CopyOptions{}); !errors.Is(err, tailnet.ErrConflict) || !strings.Contains(err.Error(), "not empty") {
		t.Errorf("into one that is not empty: got %v, want a refusal", err)
	}
	w.Store = open(t, to)
	got := must[tailnet.Delta](t)(w.Since(ctx, w.user.TailnetID, 0))
	if to.Type == "sqlite" { // a server alone ends all sessions of before
		if d := must[tailnet.Delta](t)(w.Since(ctx, w.user.TailnetID, want.Rev)); d.Full || len(d.Nodes) != 1 || d.Nodes[0].Online {
			t.Errorf("since the copy: got %+v, want one node offline", d)
		}
		for i, n := range got.Nodes {
			n.Online, n.LastSeen = want.Nodes[i].Online, want.Nodes[i].LastSeen
		}
		got.Rev = want.Rev
	}
	if diff := cmp.Diff(want, got, comparable...); diff != "" {
		t.Errorf("the copy (-want +got):\n%.3000s", diff)
	}
	if n := w.join("after"); n.ID != newest+1 {
		t.Errorf("the next node: got ID %d, want %d", n.ID, newest+1)
	}
}

// TestCopyRefuses what it cannot copy.
func TestCopyRefuses(t *testing.T) {
	ctx := context.Background()
	missing, to := sqliteConfig(t), sqliteConfig(t)
	if _, err := store.Copy(ctx, missing, to, store.CopyOptions{}); err == nil || !strings.Contains(err.Error(), "no such file") {
		t.Errorf("from a file that is not there: got %v", err)
	}
	live := postgresConfig(t)
	w := newWorld(t, live)
	if _, err := store.Copy(ctx, live, to, store.CopyOptions{}); !errors.Is(err, tailnet.ErrConflict) || !strings.Contains(err.Error(), "stop them") {
		t.Errorf("while servers run: got %v, want a refusal", err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := raw(t, live).Exec("UPDATE schema_version SET version = 3"); err != nil {
		t.Fatal(err)
	}
	if _, err := store.Copy(ctx, live, to, store.CopyOptions{}); !errors.Is(err, tailnet.ErrInvalid) || !strings.Contains(err.Error(), "version 3") {
		t.Errorf("an older schema: got %v, want a refusal", err)
	}
}
