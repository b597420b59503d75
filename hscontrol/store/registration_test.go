package store_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"tailscale.com/tailcfg"
	"tailscale.com/types/key"

	"github.com/keelscale/keelscale/hscontrol/store"
	"github.com/keelscale/keelscale/hscontrol/tailnet"
)

func waiting(hostname string) tailnet.Registration {
	j := client(hostname)
	return tailnet.Registration{MachineKey: j.MachineKey, NodeKey: j.NodeKey, Hostinfo: j.Hostinfo, CapVersion: j.CapVersion}
}

func (w *world) begin(r tailnet.Registration) *tailnet.Registration {
	w.t.Helper()
	return must[*tailnet.Registration](w.t)(w.BeginRegistration(w.ctx, r))
}

func TestBeginRegistration(t *testing.T) {
	bothEngines(t, func(t *testing.T, w *world) {
		r := waiting("web")
		first := w.begin(r)
		if want := w.clock.now().Add(15 * time.Minute).Truncate(time.Microsecond); !first.ExpiresAt.Equal(want) {
			t.Errorf("got lifetime until %s, want %s", first.ExpiresAt, want)
		}
		w.clock.advance(10 * time.Minute)
		r.Hostinfo = &tailcfg.Hostinfo{Hostname: "renamed"}
		again := w.begin(r)
		if again.ID != first.ID || !again.ExpiresAt.After(first.ExpiresAt) || again.Hostinfo.Hostname != "renamed" {
			t.Errorf("got %+v, want ID %s again, a longer life and the new host name", again, first.ID)
		}
		thief := r
		thief.MachineKey = key.NewMachine().Public()
		if _, err := w.BeginRegistration(w.ctx, thief); !errors.Is(err, tailnet.ErrNodeKeyTaken) {
			t.Errorf("the same node key on another machine: got %v, want %v", err, tailnet.ErrNodeKeyTaken)
		}
		for _, ref := range []string{first.ID, strings.TrimPrefix(first.ID, tailnet.RegistrationPrefix), r.MachineKey.String(), r.NodeKey.String()} {
			parsed := must[tailnet.RegistrationRef](t)(tailnet.ParseRegistrationRef(ref))
			if got, err := w.FindRegistration(w.ctx, parsed); err != nil || got.ID != first.ID {
				t.Errorf("FindRegistration(%s): got %+v, %v, want %s", ref, got, err, first.ID)
			}
		}
		w.clock.advance(16 * time.Minute)
		_, err := w.FindRegistration(w.ctx, tailnet.RegistrationRef{ID: first.ID})
		if !errors.Is(err, tailnet.ErrNotFound) || !strings.Contains(err.Error(), "run tailscale up again") {
			t.Errorf("past its lifetime: got %v, want %v and what to do", err, tailnet.ErrNotFound)
		}
		if got := w.begin(r); got.ID == first.ID {
			t.Errorf("got ID %s again after it expired, want a new one", got.ID)
		}
	})
}

func TestApprove(t *testing.T) {
	bothEngines(t, func(t *testing.T, w *world) {
		r := w.begin(waiting("web"))
		expiry := w.clock.now().Add(time.Hour)
		n := must[*tailnet.Node](t)(w.Approve(w.ctx, r.ID, w.user.ID, store.ApproveOptions{Expiry: &expiry, Method: tailnet.RegisterByOIDC}))
		if n.UserID != w.user.ID || n.GivenName != "web" || n.RegisterMethod != tailnet.RegisterByOIDC || n.Expiry == nil || n.NodeKey != r.NodeKey {
			t.Errorf("got %+v, want web of user %d by oidc with an expiry", n, w.user.ID)
		}
		found := must[*tailnet.Registration](t)(w.FindRegistration(w.ctx, tailnet.RegistrationRef{ID: r.ID}))
		if found.NodeID != n.ID {
			t.Errorf("got node %d on the registration, want %d", found.NodeID, n.ID)
		}
		again, err := w.Approve(w.ctx, r.ID, w.user.ID, store.ApproveOptions{})
		if err != nil || again.ID != n.ID {
			t.Errorf("approved twice: got %+v, %v, want node %d again", again, err, n.ID)
		}
		bob := w.newUser(0, "bob")
		if _, err := w.Approve(w.ctx, r.ID, bob.ID, store.ApproveOptions{}); !errors.Is(err, tailnet.ErrConflict) {
			t.Errorf("approved again for another user: got %v, want %v", err, tailnet.ErrConflict)
		}
		if err := w.Reject(w.ctx, r.ID); !errors.Is(err, tailnet.ErrConflict) {
			t.Errorf("rejected after it was approved: got %v, want %v", err, tailnet.ErrConflict)
		}

		tagged := w.begin(waiting("db"))
		n = must[*tailnet.Node](t)(w.Approve(w.ctx, tagged.ID, w.user.ID, store.ApproveOptions{Tags: []string{"tag:db"}, Expiry: &expiry}))
		if n.UserID != 0 || !n.HasTag("tag:db") || n.Expiry != nil || n.RegisterMethod != tailnet.RegisterByCLI {
			t.Errorf("got %+v, want a tagged node without owner and expiry", n)
		}
		// Logging in again without tags makes it a user's node.
		back := waiting("db")
		back.MachineKey, back.NodeKey = n.MachineKey, n.NodeKey
		n2 := must[*tailnet.Node](t)(w.Approve(w.ctx, w.begin(back).ID, bob.ID, store.ApproveOptions{}))
		if n2.ID != n.ID || n2.UserID != bob.ID || n2.IsTagged() {
			t.Errorf("got %+v, want node %d as bob's", n2, n.ID)
		}
	})
}

func TestApproveRefused(t *testing.T) {
	bothEngines(t, func(t *testing.T, w *world) {
		r, rejected, late := w.begin(waiting("a")), w.begin(waiting("b")), w.begin(waiting("c"))
		if err := w.Reject(w.ctx, rejected.ID); err != nil {
			t.Fatal(err)
		}
		if got := must[*tailnet.Registration](t)(w.FindRegistration(w.ctx, tailnet.RegistrationRef{ID: rejected.ID})); !got.Rejected {
			t.Errorf("got %+v, want it rejected", got)
		}
		approve := func(id string, user tailnet.UserID, tags ...string) error {
			_, err := w.Approve(w.ctx, id, user, store.ApproveOptions{Tags: tags})
			return err
		}
		thief := client("thief")
		thief.NodeKey = r.NodeKey
		for name, c := range map[string]struct{ got, want error }{
			"unknown user":         {approve(r.ID, 99), tailnet.ErrNotFound},
			"unknown registration": {approve(tailnet.RegistrationPrefix+strings.Repeat("0", 24), w.user.ID), tailnet.ErrNotFound},
			"bad tag":              {approve(r.ID, w.user.ID, "web"), tailnet.ErrInvalid},
			"rejected":             {approve(rejected.ID, w.user.ID), tailnet.ErrConflict},
			"reject unknown":       {w.Reject(w.ctx, "x"), tailnet.ErrNotFound},
		} {
			if !errors.Is(c.got, c.want) {
				t.Errorf("%s: got %v, want %v", name, c.got, c.want)
			}
		}
		must[*tailnet.Node](t)(w.JoinWithKey(w.ctx, w.secret, thief)) // came first with the node key
		if err := approve(r.ID, w.user.ID); !errors.Is(err, tailnet.ErrNodeKeyTaken) {
			t.Errorf("node key of another machine: got %v, want %v", err, tailnet.ErrNodeKeyTaken)
		}
		w.clock.advance(16 * time.Minute)
		if err := approve(late.ID, w.user.ID); !errors.Is(err, tailnet.ErrNotFound) {
			t.Errorf("late: got %v, want %v", err, tailnet.ErrNotFound)
		}
		// A client that was refused may ask again.
		if again := w.begin(waiting("b")); again.ID == rejected.ID {
			t.Errorf("got ID %s again, want a new one", again.ID)
		}
	})
}

func TestTooManyRegistrations(t *testing.T) {
	bothConfigs(t, func(t *testing.T, cfg store.Config) {
		w := newWorld(t, cfg)
		first := w.begin(waiting("first"))
		db := raw(t, cfg)
		// Fill the table past the store: 9,999 clients more.
		insert := `INSERT INTO registrations (id, machine_key, node_key, cap_version, ephemeral, rejected, created_at, expires_at)
			WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 9999)
			SELECT 'r' || i, 'm' || i, 'n' || i, 1, false, false, created_at, expires_at FROM n, registrations`
		if _, err := db.Exec(insert); err != nil {
			t.Fatal(err)
		}
		if _, err := w.BeginRegistration(w.ctx, waiting("x")); !errors.Is(err, tailnet.ErrTooMany) {
			t.Errorf("got %v, want %v", err, tailnet.ErrTooMany)
		}
		r := tailnet.Registration{MachineKey: first.MachineKey, NodeKey: first.NodeKey}
		if got := w.begin(r); got.ID != first.ID {
			t.Errorf("got %s for one that waits already, want %s", got.ID, first.ID)
		}
		w.clock.advance(time.Hour)
		w.begin(waiting("x")) // the others have expired
	})
}
