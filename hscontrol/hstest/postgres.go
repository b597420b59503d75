package hstest

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"testing"

	"github.com/keelscale/keelscale/hscontrol/config"
	"github.com/keelscale/keelscale/hscontrol/hstest/pgtest"
)

// Postgres is a PostgreSQL of a test's own, which can be stopped as a power cut would.
type Postgres struct {
	*pgtest.Cluster

	t testing.TB
}

// StartPostgres runs a PostgreSQL until the test ends. Without the programs it skips the test.
func StartPostgres(t testing.TB) *Postgres {
	t.Helper()
	if _, err := pgtest.Program("initdb"); err != nil {
		t.Skipf("no PostgreSQL: %v", err)
	}
	c, err := pgtest.Start()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Remove(); err != nil {
			t.Errorf("ending PostgreSQL: %v", err)
		}
	})
	return &Postgres{c, t}
}

// Standby starts a server that follows p until the test ends.
func (p *Postgres) Standby() *Postgres {
	p.t.Helper()
	f, err := p.Cluster.Standby()
	if err != nil {
		p.t.Fatal(err)
	}
	p.t.Cleanup(func() {
		if err := f.Remove(); err != nil {
			p.t.Errorf("ending the standby: %v", err)
		}
	})
	return &Postgres{f, p.t}
}

// OrStandby gives a server the addresses of a database at both, of which it is to find the one that takes writes.
func (p *Postgres) OrStandby(f *Postgres) func(*config.Config) {
	return func(cfg *config.Config) {
		cfg.Database.Postgres.Host, cfg.Database.Postgres.Port = fmt.Sprintf("127.0.0.1:%d,127.0.0.1:%d", p.Port, f.Port), 0
	}
}

// Begin starts it again after End.
func (p *Postgres) Begin() {
	p.t.Helper()
	if err := p.Cluster.Begin(); err != nil {
		p.t.Fatal(err)
	}
}

// End stops it: see pgtest.Cluster.
func (p *Postgres) End(signal syscall.Signal) {
	p.t.Helper()
	if err := p.Cluster.End(signal); err != nil {
		p.t.Errorf("ending PostgreSQL: %v", err)
	}
}

// Database makes a new database and gives what a server needs to use it.
func (p *Postgres) Database() func(*config.Config) {
	p.t.Helper()
	name, err := p.CreateDatabase()
	if err != nil {
		p.t.Fatal(err)
	}
	return func(cfg *config.Config) {
		cfg.Database.Type = config.DatabasePostgres
		cfg.Database.Postgres.Host, cfg.Database.Postgres.Port = p.Dir, p.Port
		cfg.Database.Postgres.Name, cfg.Database.Postgres.User = name, pgtest.User
	}
}

// SQL runs statements in a database past every server, and gives the rows, a line each.
func (p *Postgres) SQL(database, statements string) string {
	p.t.Helper()
	rows, err := p.Cluster.SQL(database, statements)
	if err != nil {
		p.t.Fatal(err)
	}
	return rows
}

// PgBouncer runs a pgbouncer in front of it in a pool mode (session, transaction) until the test ends, and gives what a
// server needs to use it instead. Without the program it skips the test.
func (p *Postgres) PgBouncer(mode string) func(*config.Config) {
	p.t.Helper()
	program, err := exec.LookPath("pgbouncer")
	if err != nil {
		if program = "/usr/sbin/pgbouncer"; !exists(program) {
			p.t.Skipf("no pgbouncer: %v: apt-get install pgbouncer", err)
		}
	}
	port, err := pgtest.FreePort()
	if err != nil {
		p.t.Fatal(err)
	}
	users, settings := filepath.Join(p.Dir, "users"), filepath.Join(p.Dir, "pgbouncer-"+mode+".ini")
	text := fmt.Sprintf("[databases]\n* = user=keelscale host=%s port=%d\n[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = %d\nunix_socket_dir =\nauth_type = any\nauth_file = %s\npool_mode = %s\nmax_client_conn = 200\ndefault_pool_size = 20\n",
		p.Dir, p.Port, port, users, mode)
	if err := errors.Join(os.WriteFile(users, []byte("\"keelscale\" \"\"\n"), 0o644), os.WriteFile(settings, []byte(text), 0o644)); err != nil {
		p.t.Fatal(err)
	}
	cmd := exec.Command(program, settings)
	var log sync.WaitGroup
	if err := p.Run(cmd, "process up", &log); err != nil {
		p.t.Fatalf("starting pgbouncer: %v", err)
	}
	p.t.Cleanup(func() {
		cmd.Process.Signal(syscall.SIGQUIT)
		log.Wait()
		cmd.Wait()
	})
	return func(cfg *config.Config) {
		cfg.Database.Postgres.Host, cfg.Database.Postgres.Port = "127.0.0.1", port
	}
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}
