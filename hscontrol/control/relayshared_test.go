package control_test

import (
	"testing"
	"time"

	"github.com/keelscale/keelscale/hscontrol/config"
	"github.com/keelscale/keelscale/hscontrol/hstest"
)

// Two servers on one database: a relay at one of them serves the nodes of both, and when its server dies and it does
// too, the other one takes it out.
func TestRelayWithTwoServers(t *testing.T) {
	shared := hstest.StartPostgres(t).Database()
	one := hstest.Start(t, probing, shared)
	two := hstest.Start(t, probing, shared, func(c *config.Config) { c.Database.SecretsKeyPath = one.Config.Database.SecretsKeyPath })
	secret := one.Key(one.User("alice"))
	a := two.Node("alpha")
	a.Join(secret)
	p := a.Poll()
	r := newRelay(t, relayKey(t, one))
	l := r.connect(one.URL, r.hello())
	l.awaitPublished(r.at("127.0.0.1"))
	l.await("the other server's node", func() bool { _, ok := l.admitted[a.Key.Public()]; return ok })
	p.Await("the relay", func(m *hstest.Netmap) bool { return derpNode(m, 901) != "" })

	found, err := two.Store().FindNodeByKey(hstest.Context(t), a.Key.Public())
	if err != nil {
		t.Fatal(err)
	}
	b := two.Node("beta")
	b.Join(secret)
	q := b.Poll()
	began := time.Now()
	if err := two.Store().DeleteNode(hstest.Context(t), found.ID); err != nil {
		t.Fatal(err)
	}
	l.await("the node to be gone", func() bool { _, ok := l.admitted[a.Key.Public()]; return !ok })
	took := time.Since(began)
	t.Logf("deleted at another server: gone after %v", took)
	if took > gone {
		t.Errorf("deleted at another server: gone after %v, want %v at most", took, gone)
	}

	// Its server ends: the other one probes it, and it stays.
	one.End()
	q.Await("nothing", func(m *hstest.Netmap) bool { return derpNode(m, 901) != "" })
	r.answers.Store(false)
	q.Await("the relay to be out", func(m *hstest.Netmap) bool { return derpNode(m, 901) == "" })
	r.answers.Store(true)
	q.Await("the relay to be back", func(m *hstest.Netmap) bool { return derpNode(m, 901) != "" })

	// It comes to the other server, and is the same relay there.
	r.secret = ""
	l = r.connect(two.URL, r.hello())
	l.awaitPublished(r.at("127.0.0.1"))
	if l.enrolled.Id != 1 || l.enrolled.RegionId != 901 {
		t.Errorf("at the other server: got %v, want the same relay", l.enrolled)
	}
}
