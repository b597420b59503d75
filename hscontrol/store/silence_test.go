package store_test

import (
	"errors"
	"net"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/keelscale/keelscale/hscontrol/hstest/pgtest"
	"github.com/keelscale/keelscale/hscontrol/store"
	"github.com/keelscale/keelscale/hscontrol/tailnet"
)

// pooler stands before a database. Stuck, it keeps all connections, takes what comes, and passes nothing on.
type pooler struct {
	listener net.Listener
	target   string
	stuck    sync.RWMutex // while it is locked
	wait     sync.WaitGroup
	open     sync.Map // net.Conn
}

func newPooler(t *testing.T, target string) *pooler {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &pooler{listener: l, target: target}
	p.wait.Go(p.accept)
	t.Cleanup(func() {
		l.Close()
		p.open.Range(func(c, _ any) bool { c.(net.Conn).Close(); return true })
		p.wait.Wait()
	})
	return p
}

func (p *pooler) accept() {
	for {
		client, err := p.listener.Accept()
		if err != nil {
			return
		}
		server, err := net.Dial("tcp", p.target)
		if err != nil {
			client.Close()
			continue
		}
		p.open.Store(client, true)
		p.open.Store(server, true)
		p.wait.Go(func() { p.carry(server, client) })
		p.wait.Go(func() { p.carry(client, server) })
	}
}

// pass waits while it is stuck.
func (p *pooler) pass() {
	p.stuck.RLock()
	defer p.stuck.RUnlock()
}

func (p *pooler) carry(to, from net.Conn) {
	defer to.Close()
	b := make([]byte, 16<<10)
	for {
		n, err := from.Read(b)
		p.pass()
		if _, werr := to.Write(b[:n]); err != nil || werr != nil {
			return
		}
	}
}

// TestDatabaseHangs: behind a pooler nothing breaks when the database says nothing more. Whoever waits is told so after
// a while, and when it answers again all is well.
func TestDatabaseHangs(t *testing.T) {
	const answerTime = 3 * time.Second // within which a busy one answers
	cfg := postgresConfig(t)
	c, err := postgres()
	if err != nil {
		t.Fatal(err)
	}
	p := newPooler(t, net.JoinHostPort("127.0.0.1", strconv.Itoa(c.Port)))
	port := p.listener.Addr().(*net.TCPAddr).Port
	cfg.Postgres = store.PostgresConfig{Host: "127.0.0.1", Port: port, Name: cfg.Postgres.Name, User: pgtest.User, MaxOpenConns: 5, AnswerTime: answerTime}
	w := newWorld(t, cfg)
	n := w.join("web")

	p.stuck.Lock()
	begun := time.Now()
	_, writing := w.RenameNode(t.Context(), n.ID, "x")
	_, reading := w.Since(t.Context(), w.user.TailnetID, 0)
	took := time.Since(begun)
	p.stuck.Unlock()
	for what, err := range map[string]error{"write": writing, "read": reading} {
		if !errors.Is(err, tailnet.ErrReadOnly) {
			t.Errorf("%s: got %v, want %v", what, err, tailnet.ErrReadOnly)
		}
	}
	if took < answerTime || took > 20*answerTime {
		t.Errorf("got the errors after %v, want them after %v each", took, answerTime)
	}
	deadline := time.Now().Add(patience)
	for {
		if _, err = w.RenameNode(t.Context(), n.ID, "y"); err == nil || time.Now().After(deadline) {
			break
		}
	}
	if err != nil || w.node(n.ID).GivenName != "y" {
		t.Errorf("when the database answers again: %v", err)
	}
}
