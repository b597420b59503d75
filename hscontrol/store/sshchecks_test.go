package store_test

import (
	"errors"
	"path/filepath"
	"testing"
	"time"

	"github.com/keelscale/keelscale/hscontrol/store"
	"github.com/keelscale/keelscale/hscontrol/tailnet"
)

func TestSSHChecks(t *testing.T) {
	bothEngines(t, func(t *testing.T, w *world) {
		src, dst := w.join("laptop"), w.join("db")
		login := tailnet.SSHCheck{SrcID: src.ID, DstID: dst.ID, Owner: "user 1", Login: "root"}
		begin := func(c tailnet.SSHCheck, shared bool) *tailnet.SSHCheck {
			t.Helper()
			return must[*tailnet.SSHCheck](t)(w.BeginSSHCheck(w.ctx, c, shared))
		}
		one := begin(login, true)
		if one.Verdict != tailnet.SSHWaiting || one.TailnetID != src.TailnetID || one.ExpiresAt.Sub(one.CreatedAt) != 15*time.Minute {
			t.Errorf("a new login: got %+v, want it to wait 15 minutes in tailnet %d", one, src.TailnetID)
		}
		if again := begin(login, true); again.ID != one.ID {
			t.Errorf("the same login twice: got %s, want %s", again.ID, one.ID)
		}
		own := begin(login, false)
		other := login
		other.Login = "postgres"
		if second := begin(other, true); second.ID == one.ID || own.ID == one.ID {
			t.Error("another name, and a login that shares nothing: got the ID of the first")
		}
		approved := func(c tailnet.SSHCheck, since time.Time) bool {
			t.Helper()
			_, err := w.FindSSHApproval(w.ctx, c, since)
			if err != nil && !errors.Is(err, tailnet.ErrNotFound) {
				t.Fatal(err)
			}
			return err == nil
		}
		start := w.clock.now()
		if approved(login, start) {
			t.Error("a login that waits counts as approved")
		}
		decide := func(id string, approve bool, within tailnet.ID) error {
			_, err := w.DecideSSHCheck(w.ctx, store.SSHDecision{ID: id, Approve: approve, By: "anna", Within: within})
			return err
		}
		if err := decide(one.ID, true, 99); !errors.Is(err, tailnet.ErrNotFound) {
			t.Errorf("approving in another tailnet: got %v, want %v", err, tailnet.ErrNotFound)
		}
		w.clock.advance(time.Minute)
		if err := errors.Join(decide(one.ID, true, 0), decide(one.ID, true, src.TailnetID)); err != nil {
			t.Errorf("approving, twice: %v", err)
		}
		if got := must[*tailnet.SSHCheck](t)(w.FindSSHCheck(w.ctx, one.ID)); got.Verdict != tailnet.SSHApproved || got.DecidedBy != "anna" || got.DecidedAt == nil {
			t.Errorf("the approved login: got %+v", got)
		}
		stranger, reverse := login, login
		stranger.Owner = "user 2"
		reverse.SrcID, reverse.DstID = login.DstID, login.SrcID
		if !approved(login, start) || approved(other, start) || approved(stranger, start) || approved(reverse, start) {
			t.Error("the approval is not for the one login only")
		}
		if approved(login, w.clock.advance(time.Hour)) {
			t.Error("an approval of an hour ago counts since now")
		}
		if err := errors.Join(decide(one.ID, false, 0)); err != nil || approved(login, start) {
			t.Errorf("taking an approval back: %v, or it still counts", err)
		}
		if err := decide(one.ID, true, 0); !errors.Is(err, tailnet.ErrConflict) {
			t.Errorf("approving what was rejected: got %v, want %v", err, tailnet.ErrConflict)
		}
		if err := decide(own.ID, true, 0); !errors.Is(err, tailnet.ErrNotFound) {
			t.Errorf("approving after an hour: got %v, want %v", err, tailnet.ErrNotFound)
		}
		late := begin(login, true)
		if err := w.DeleteNode(w.ctx, src.ID); err != nil {
			t.Fatal(err)
		}
		if _, err := w.FindSSHCheck(w.ctx, late.ID); !errors.Is(err, tailnet.ErrNotFound) {
			t.Errorf("after its node was deleted: got %v, want %v", err, tailnet.ErrNotFound)
		}
	})
}

func TestSSHChecksAreBounded(t *testing.T) {
	w := newWorld(t, sqliteConfig(t))
	src, dst := w.join("laptop"), w.join("db")
	login := tailnet.SSHCheck{SrcID: src.ID, DstID: dst.ID, Owner: "user 1", Login: "root"}
	var err error
	for range 101 {
		if _, err = w.BeginSSHCheck(w.ctx, login, false); err != nil {
			break
		}
	}
	if !errors.Is(err, tailnet.ErrTooMany) {
		t.Errorf("got %v, want %v", err, tailnet.ErrTooMany)
	}
	w.clock.advance(16 * time.Minute)
	if _, err := w.BeginSSHCheck(w.ctx, login, false); err != nil {
		t.Errorf("after their lifetime: got %v, want room again", err)
	}
}

// Who approved what is not forgotten by a restart.
func TestSSHApprovalsSurvive(t *testing.T) {
	c := newClock()
	cfg := store.Config{Type: "sqlite", SQLite: store.SQLiteConfig{Path: filepath.Join(t.TempDir(), "db.sqlite"), WAL: true}, PrefixV4: v4, Now: c.now}
	first := newWorld(t, cfg)
	src, dst := first.join("laptop"), first.join("db")
	login := tailnet.SSHCheck{SrcID: src.ID, DstID: dst.ID, Owner: "user 1", Login: "root"}
	begun := must[*tailnet.SSHCheck](t)(first.BeginSSHCheck(first.ctx, login, true))
	if _, err := first.DecideSSHCheck(first.ctx, store.SSHDecision{ID: begun.ID, Approve: true}); err != nil {
		t.Fatal(err)
	}
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := open(t, cfg).FindSSHApproval(first.ctx, login, c.now().Add(-time.Hour)); err != nil {
		t.Errorf("after a restart: got %v, want the approval", err)
	}
}

func TestPolicyVersions(t *testing.T) {
	bothEngines(t, func(t *testing.T, w *world) {
		var last *tailnet.PolicyVersion
		for _, v := range []tailnet.PolicyVersion{
			{Text: "{}", Source: "cli", Author: "anna", Origin: "unix socket", Note: "at first"},
			{Text: `{"acls": []}`, Source: "api", Author: "API key 0123", Origin: "192.0.2.7"},
		} {
			last = must[*tailnet.PolicyVersion](t)(w.PutPolicyVersion(w.ctx, v))
		}
		list := must[[]*tailnet.PolicyVersion](t)(w.PolicyHistory(w.ctx, 0, 10))
		if len(list) != 2 || list[0].ID != last.ID || list[0].Text != "" || list[1].Author != "anna" || list[1].Note != "at first" || list[0].Origin != "192.0.2.7" {
			t.Errorf("history: got %+v, %+v", list[0], list[1])
		}
		if got := must[[]*tailnet.PolicyVersion](t)(w.PolicyHistory(w.ctx, 0, 1)); len(got) != 1 {
			t.Errorf("history of one: got %d", len(got))
		}
		if got := must[*tailnet.PolicyVersion](t)(w.GetPolicyVersion(w.ctx, 0, list[1].ID)); got.Text != "{}" {
			t.Errorf("version %d: got %q, want {}", got.ID, got.Text)
		}
		lab := must[*tailnet.Tailnet](t)(w.CreateTailnet(w.ctx, "lab", v4, v6))
		for _, c := range []struct {
			id      tailnet.ID
			version uint64
		}{{0, 99}, {lab.ID, last.ID}} {
			if _, err := w.GetPolicyVersion(w.ctx, c.id, c.version); !errors.Is(err, tailnet.ErrNotFound) {
				t.Errorf("version %d of tailnet %d: got %v, want %v", c.version, c.id, err, tailnet.ErrNotFound)
			}
		}
	})
}
