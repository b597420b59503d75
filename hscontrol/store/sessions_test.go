package store_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/keelscale/keelscale/hscontrol/store"
	"github.com/keelscale/keelscale/hscontrol/tailnet"
)

func TestSessions(t *testing.T) {
	bothEngines(t, func(t *testing.T, w *world) {
		n := w.join("web")
		open := func(session string) (raised bool) {
			t.Helper()
			before := w.revision()
			if err := w.OpenSession(w.ctx, n.ID, session); err != nil {
				t.Fatal(err)
			}
			return w.revision() > before
		}
		end := func(session string) (raised bool) {
			t.Helper()
			before := w.revision()
			if err := w.CloseSessions(w.ctx, []store.SessionRef{{NodeID: n.ID, SessionID: session}, {NodeID: 99, SessionID: session}}); err != nil {
				t.Fatal(err)
			}
			return w.revision() > before
		}
		if !open("one") || !w.node(n.ID).Online || w.node(n.ID).LastSeen != nil {
			t.Errorf("got %+v, want it online by a new revision, never seen before", w.node(n.ID))
		}
		if open("two") {
			t.Error("a reconnect raised the revision: nothing changed for anyone")
		}
		w.clock.advance(time.Minute)
		if end("one") || !w.node(n.ID).Online {
			t.Error("the late close of a former session ended the current one")
		}
		if !end("two") || w.node(n.ID).Online {
			t.Error("the close of the current session left the node online")
		}
		if got, want := w.node(n.ID).LastSeen, w.clock.now().Truncate(time.Microsecond); got == nil || !got.Equal(want) {
			t.Errorf("got last seen %v, want %v", got, want)
		}
		if end("two") {
			t.Error("a second close raised the revision")
		}
		if err := w.OpenSession(w.ctx, 99, "x"); !errors.Is(err, tailnet.ErrNotFound) {
			t.Errorf("session of an unknown node: got %v, want %v", err, tailnet.ErrNotFound)
		}
		w.online(n.ID)
		if err := w.DeleteNode(w.ctx, n.ID); err != nil {
			t.Errorf("deleting a connected node: %v", err)
		}
	})
}

// TestRestart: a server that starts again ends the sessions of its former life, and those of no other replica.
func TestRestart(t *testing.T) {
	bothConfigs(t, func(t *testing.T, cfg store.Config) {
		ctx := context.Background()
		cfg.Replica = "one"
		c := newClock()
		cfg.Now = c.now
		w := &world{t: t, clock: c, ctx: ctx}
		var err error
		if w.Store, err = store.Open(ctx, cfg); err != nil {
			t.Fatal(err)
		}
		w.user = w.newUser(0, "anna")
		w.secret = w.newKey(tailnet.PreAuthKey{UserID: w.user.ID, Reusable: true})
		mine, theirs := w.join("mine").ID, w.join("theirs").ID
		w.online(mine)
		if cfg.Type == "postgres" {
			other := cfg
			other.Replica = "two"
			s := open(t, other)
			if err := s.OpenSession(ctx, theirs, "x"); err != nil {
				t.Fatal(err)
			}
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		at := c.advance(time.Minute)
		w.Store = open(t, cfg)
		if n := w.node(mine); n.Online || n.LastSeen == nil || !n.LastSeen.Equal(at.Truncate(time.Microsecond)) {
			t.Errorf("got %+v, want it offline, last seen at the restart", n)
		}
		if n := w.node(theirs); n.Online != (cfg.Type == "postgres") {
			t.Errorf("got online %v for a node of another replica", n.Online)
		}
	})
}

// TestDeadReplica: the sessions of a server that died are ended by another.
func TestDeadReplica(t *testing.T) {
	cfg := postgresConfig(t)
	cfg.DeadAfter = 5 * time.Second // within which a busy machine opens a session and looks at it
	w := newWorld(t, cfg)
	mine, theirs := w.join("mine").ID, w.join("theirs").ID
	w.online(mine)
	other := cfg
	other.Replica, other.DeadAfter = "two", time.Hour // it says that it lives once, and then it is silent
	s := open(t, other)
	if err := s.OpenSession(w.ctx, theirs, "x"); err != nil {
		t.Fatal(err)
	}
	if !w.node(mine).Online || !w.node(theirs).Online {
		t.Error("a session of a server that lives was ended")
	}
	w.until("the node of the dead server is offline", func() bool { n := w.node(theirs); return !n.Online && n.LastSeen != nil })
	if !w.node(mine).Online {
		t.Error("the session of the server that lives was ended")
	}
}

// patience is how long a test waits for what should take moments.
const patience = 2 * time.Minute

// until waits for what a commit brings.
func (w *world) until(what string, ok func() bool) {
	w.t.Helper()
	late := time.After(patience)
	for {
		moved := w.Moved()
		if ok() {
			return
		}
		select {
		case <-moved:
		case <-late:
			w.t.Fatalf("not so: %s", what)
		}
	}
}
