package hstest_test

import (
	"fmt"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"tailscale.com/control/tsp"

	"github.com/keelscale/keelscale/hscontrol/hstest"
)

// An installation moves from SQLite to PostgreSQL and back: the nodes find the server that they know, and theirs again.
func TestInstallationMoves(t *testing.T) {
	db := hstest.StartPostgres(t)
	secrets := filepath.Join(t.TempDir(), "secrets.key")
	postgres := section(db.Database(), secrets)
	dsn := fmt.Sprintf("postgres:host=%s port=%d user=keelscale dbname=test1", db.Dir, db.Port)
	p := hstest.StartProcess(t, "database:\n  secrets_key_path: "+secrets+"\n")
	secret := p.ProcessKey()
	key := func() string {
		k, err := tsp.DiscoverServerKey(hstest.Context(t), p.URL)
		if err != nil {
			t.Fatal(err)
		}
		return k.String()
	}
	want := key()
	nodes := map[string]*hstest.Node{}
	come := func(name string) {
		n := p.Node(name)
		n.Join(secret)
		n.Poll().Close()
		nodes[name] = n
	}
	come("one")
	come("two")
	names := func() (all []string) {
		for name := range nodes {
			all = append(all, name)
		}
		return all
	}
	check := func(where string) {
		t.Helper()
		if got := key(); got != want {
			t.Errorf("%s: got the server's key %s, want %s", where, got, want)
		}
		for name, n := range nodes {
			n.Disconnect()
			poll := n.Poll() // without a new login
			if poll.Netmap.Node.Expired || len(poll.Netmap.Peers) != len(nodes)-1 {
				t.Errorf("%s: %s got expired %v and peers %v, want all of %v", where, name, poll.Netmap.Node.Expired, poll.Netmap.Names(), names())
			}
			poll.Close()
		}
	}
	p.End(syscall.SIGTERM)
	if said := p.CLI("db", "copy", "--to", dsn); !strings.Contains(said, "nodes: 2 of 2 rows") || !strings.Contains(said, "Copied and compared") {
		t.Errorf("got %q, want how it went", said)
	}
	p.Configure(postgres)
	p.Begin()
	check("with PostgreSQL")
	come("three")
	p.End(syscall.SIGTERM)

	back := filepath.Join(t.TempDir(), "back.sqlite")
	p.CLI("db", "copy", "--to", "sqlite:"+back)
	p.Configure("database:\n  sqlite: {path: " + back + "}\n")
	p.Begin()
	check("with SQLite again")
	come("four")
}
