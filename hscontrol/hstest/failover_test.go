package hstest_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/keelscale/keelscale/hscontrol/config"
	"github.com/keelscale/keelscale/hscontrol/hstest"
	"github.com/keelscale/keelscale/hscontrol/tailnet"
)

// startReplicated are two servers on a PostgreSQL with a standby, both of whose addresses they have.
func startReplicated(t *testing.T) (p *pair, standby *hstest.Postgres) {
	t.Helper()
	p = &pair{db: hstest.StartPostgres(t)}
	use := p.db.Database()
	standby = p.db.Standby()
	edits := []func(*config.Config){use, p.db.OrStandby(standby)}
	p.a = hstest.Start(t, edits...)
	p.b = hstest.Start(t, append(edits, shareSecrets(p.a))...)
	return p, standby
}

// replicated waits until a standby has all that was written.
func replicated(t *testing.T, db, standby *hstest.Postgres) {
	t.Helper()
	written := db.SQL("test1", "SELECT pg_current_wal_lsn()")
	await(t, "the standby has all", func() bool {
		return standby.SQL("test1", "SELECT pg_last_wal_replay_lsn() >= '"+written+"'") == "t"
	})
}

// The primary dies under churn, and its standby takes over: maps are served all the time, writes are refused for as long
// as nobody takes them, and afterwards every client has the right picture.
func TestPrimaryIsReplaced(t *testing.T) {
	nodes := setting(t, "NODES", 40)
	p, standby := startReplicated(t)
	servers := []*hstest.Server{p.a, p.b}
	all, polls := settle(t, p.a.Key(p.a.User("anna")), servers, nodes)
	replicated(t, p.db, standby)
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	var wg sync.WaitGroup
	churns := make([]*churn, nodes)
	for i, n := range all {
		churns[i] = &churn{node: n}
		if i%2 == 0 { // the others come and go, see below
			wg.Go(func() { churns[i].run(t, ctx, i) })
		}
	}
	time.Sleep(time.Second)
	p.db.End(syscall.SIGQUIT)
	for i := 1; i < nodes; i += 2 {
		polls[i].Close()
		all[i].Disconnect()
		fresh, err := all[i].TryPoll()
		if err != nil || len(fresh.Netmap.Peers) != nodes-1 {
			t.Fatalf("node %d polls while there is no primary: got %v, want %d peers", i, err, nodes-1)
		}
		polls[i] = fresh
	}
	for i, s := range servers {
		if _, err := s.Store().CreateUser(hstest.Context(t), tailnet.User{TailnetID: 1, Name: "late"}); !errors.Is(err, tailnet.ErrReadOnly) {
			t.Errorf("server %d creates a user while there is no primary: got %v, want %v", i, err, tailnet.ErrReadOnly)
		}
	}
	await(t, "some updates are refused", func() bool {
		return slices.ContainsFunc(churns, func(c *churn) bool { return c.said.Load() > 0 })
	})
	promoted := time.Now()
	if err := standby.Promote(); err != nil {
		t.Fatal(err)
	}
	for i, s := range servers {
		await(t, "a write works again", func() bool {
			_, err := s.Store().CreateUser(hstest.Context(t), tailnet.User{TailnetID: 1, Name: fmt.Sprintf("late%d", i)})
			return err == nil
		})
	}
	writes := time.Since(promoted)
	time.Sleep(time.Second)
	stop()
	wg.Wait()
	refused := 0
	for i, c := range churns {
		refused += int(c.said.Load())
		await(t, fmt.Sprintf("node %d updates", i), func() bool {
			status, _ := all[i].TryUpdate(hstest.Context(t), fmt.Sprintf("192.0.2.%d:61000", i+1))
			return status == http.StatusOK
		})
	}
	wrong := awaitPictures(polls, func(m *hstest.Netmap) bool {
		if len(m.Peers) != nodes-1 || !allOnline(m) {
			return false
		}
		for _, p := range m.Peers {
			if len(p.Endpoints) != 1 || p.Endpoints[0].Port() != 61000 {
				return false
			}
		}
		return true
	})
	t.Logf("writes work again %v after the promotion, %d updates were refused; views wrong afterwards: %d of %d", writes, refused, wrong, nodes)
	if wrong > 0 {
		t.Errorf("got %d wrong views, want none", wrong)
	}
	for i, s := range servers {
		await(t, fmt.Sprintf("server %d listens at the new primary", i), listening(s))
	}
}

// A standby that lags when its primary dies has not the last changes: their revisions are given out anew, to other
// changes. What the servers show is what the database has all the same.
func TestLostChangesAreTakenBack(t *testing.T) {
	p, standby := startReplicated(t)
	secret := p.a.Key(p.a.User("anna"))
	watchers := []*hstest.Node{p.a.Node("left"), p.b.Node("right")}
	var polls []*hstest.Poll
	for _, w := range watchers {
		w.Join(secret)
		polls = append(polls, w.Poll())
	}
	const boxes = 10
	ids := make([]tailnet.NodeID, boxes)
	for i := range boxes {
		n := p.a.Node(fmt.Sprintf("box%d", i))
		n.Join(secret)
		row, err := p.a.Store().FindNodeByKey(hstest.Context(t), n.Key.Public())
		if err != nil {
			t.Fatal(err)
		}
		ids[i] = row.ID
	}
	named := func(i int, want string) func(*hstest.Netmap) bool {
		return func(m *hstest.Netmap) bool {
			p := m.Peer(fmt.Sprintf("box%d", i))
			return p != nil && (p.Name == want || strings.HasPrefix(p.Name, want+"."))
		}
	}
	replicated(t, p.db, standby)
	if err := standby.Forsake(); err != nil {
		t.Fatal(err)
	}
	await(t, "the standby hears no more", func() bool { return standby.SQL("test1", "SELECT count(*) FROM pg_stat_wal_receiver") == "0" })
	for i := range boxes / 2 { // are lost
		if _, err := p.a.Store().RenameNode(hstest.Context(t), ids[i], fmt.Sprintf("lost%d", i)); err != nil {
			t.Fatal(err)
		}
	}
	for _, poll := range polls {
		poll.Await("the names that will be lost", named(boxes/2-1, fmt.Sprintf("lost%d", boxes/2-1)))
	}
	p.db.End(syscall.SIGQUIT)
	if err := standby.Promote(); err != nil {
		t.Fatal(err)
	}
	for i := boxes / 2; i < boxes; i++ { // get the same revisions, and more
		await(t, fmt.Sprintf("box%d is renamed", i), func() bool {
			_, err := p.b.Store().RenameNode(hstest.Context(t), ids[i], fmt.Sprintf("kept%d", i))
			return err == nil
		})
	}
	for round := range 5 {
		if _, err := p.b.Store().RenameNode(hstest.Context(t), ids[boxes-1], fmt.Sprintf("last%d", round)); err != nil {
			t.Fatal(err)
		}
	}
	for i, poll := range polls {
		for box := range boxes / 2 {
			poll.Await(fmt.Sprintf("box%d to have its old name at server %d", box, i), named(box, fmt.Sprintf("box%d", box)))
		}
		for box := boxes / 2; box < boxes-1; box++ {
			poll.Await("a name that was given since", named(box, fmt.Sprintf("kept%d", box)))
		}
		poll.Await("the last name", named(boxes-1, "last4"))
	}
}
