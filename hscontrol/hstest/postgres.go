package hstest

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/keelscale/keelscale/hscontrol/config"
)

// Postgres is a PostgreSQL of a test's own, which can be stopped as a power cut would.
type Postgres struct {
	Dir  string // of its unix socket
	Port int

	t       testing.TB
	attr    *syscall.SysProcAttr
	command *exec.Cmd
	log     sync.WaitGroup // reads what it logs
	made    int            // databases
}

// StartPostgres runs a PostgreSQL until the test ends. Without the programs it skips the test.
func StartPostgres(t testing.TB) *Postgres {
	t.Helper()
	initdb, err := postgresProgram("initdb")
	if err != nil {
		t.Skipf("no PostgreSQL: %v", err)
	}
	dir, err := os.MkdirTemp("", "hspg")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	p := &Postgres{Dir: dir, Port: freeTCPPort(t), t: t}
	if p.attr, err = asNobody(dir); err != nil {
		t.Fatalf("finding a user for PostgreSQL: %v", err)
	}
	initialise := exec.Command(initdb, "-D", p.data(), "-U", "keelscale", "-A", "trust", "-E", "UTF8", "--no-locale", "--no-sync")
	initialise.Dir, initialise.SysProcAttr = dir, p.attr
	if out, err := initialise.CombinedOutput(); err != nil {
		t.Fatalf("initdb: %v: %s", err, out)
	}
	p.Begin()
	t.Cleanup(func() {
		if p.command != nil {
			p.End(syscall.SIGINT) // a fast shutdown
		}
	})
	return p
}

func (p *Postgres) data() string { return filepath.Join(p.Dir, "data") }

// Begin starts it, again after End, and waits until it takes connections.
func (p *Postgres) Begin() {
	p.t.Helper()
	program, err := postgresProgram("postgres")
	if err != nil {
		p.t.Fatal(err)
	}
	p.command = exec.Command(program, "-D", p.data(), "-k", p.Dir, "-h", "127.0.0.1", "-p", strconv.Itoa(p.Port),
		"-c", "fsync=off", "-c", "max_connections=200")
	p.command.Dir, p.command.SysProcAttr = p.Dir, p.attr
	if err := awaitLine(p.command, "ready to accept connections", &p.log); err != nil {
		p.command = nil
		p.t.Fatalf("starting PostgreSQL: %v", err)
	}
}

// End sends a signal and waits for the end: SIGQUIT is an immediate shutdown, which breaks all connections.
func (p *Postgres) End(signal syscall.Signal) {
	p.t.Helper()
	if err := p.command.Process.Signal(signal); err != nil {
		p.t.Errorf("ending PostgreSQL: %v", err)
	}
	p.log.Wait()
	if err := p.command.Wait(); err != nil && signal == syscall.SIGINT {
		p.t.Errorf("PostgreSQL ended: %v", err)
	}
	p.command = nil
}

// Database makes a new database and gives what a server needs to use it.
func (p *Postgres) Database() func(*config.Config) {
	p.t.Helper()
	p.made++
	name := fmt.Sprintf("test%d", p.made)
	p.SQL("postgres", "CREATE DATABASE "+name)
	return func(cfg *config.Config) {
		cfg.Database.Type = config.DatabasePostgres
		cfg.Database.Postgres.Host, cfg.Database.Postgres.Port = p.Dir, p.Port
		cfg.Database.Postgres.Name, cfg.Database.Postgres.User = name, "keelscale"
	}
}

// SQL runs statements in a database past every server, and gives the rows, a line each.
func (p *Postgres) SQL(database, statements string) string {
	p.t.Helper()
	psql, err := postgresProgram("psql")
	if err != nil {
		p.t.Skipf("no psql: %v", err)
	}
	cmd := exec.Command(psql, "-h", p.Dir, "-p", strconv.Itoa(p.Port), "-U", "keelscale", "-d", database, "-AtqX", "-v", "ON_ERROR_STOP=1", "-c", statements)
	out, err := cmd.CombinedOutput()
	if err != nil {
		p.t.Fatalf("%s: %v: %s", statements, err, out)
	}
	return strings.TrimSpace(string(out))
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
	port := freeTCPPort(p.t)
	users, settings := filepath.Join(p.Dir, "users"), filepath.Join(p.Dir, "pgbouncer-"+mode+".ini")
	text := fmt.Sprintf("[databases]\n* = user=keelscale host=%s port=%d\n[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = %d\nunix_socket_dir =\nauth_type = any\nauth_file = %s\npool_mode = %s\nmax_client_conn = 200\ndefault_pool_size = 20\n",
		p.Dir, p.Port, port, users, mode)
	if err := errors.Join(os.WriteFile(users, []byte("\"keelscale\" \"\"\n"), 0o644), os.WriteFile(settings, []byte(text), 0o644)); err != nil {
		p.t.Fatal(err)
	}
	cmd := exec.Command(program, settings)
	cmd.Dir, cmd.SysProcAttr = p.Dir, p.attr
	var log sync.WaitGroup
	if err := awaitLine(cmd, "process up", &log); err != nil {
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

// postgresProgram looks in PATH and where Debian keeps the programs of PostgreSQL.
func postgresProgram(name string) (string, error) {
	if found, _ := filepath.Glob("/usr/lib/postgresql/*/bin/" + name); len(found) > 0 {
		return found[len(found)-1], nil
	}
	path, err := exec.LookPath(name)
	if err != nil {
		return "", fmt.Errorf("%s is not installed: apt-get install postgresql", name)
	}
	return path, nil
}

// asNobody is how to start a program in dir as somebody whom PostgreSQL accepts: root it does not.
func asNobody(dir string) (*syscall.SysProcAttr, error) {
	attr := &syscall.SysProcAttr{Pdeathsig: syscall.SIGQUIT}
	if os.Getuid() != 0 {
		return attr, nil
	}
	u, err := user.Lookup("postgres")
	if err != nil {
		if u, err = user.Lookup("nobody"); err != nil {
			return nil, err
		}
	}
	uid, errUID := strconv.Atoi(u.Uid)
	gid, errGID := strconv.Atoi(u.Gid)
	if err := errors.Join(errUID, errGID); err != nil {
		return nil, err
	}
	attr.Credential = &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
	return attr, os.Chown(dir, uid, gid)
}

func freeTCPPort(t testing.TB) int {
	t.Helper()
	_, port, err := net.SplitHostPort(freePort(t))
	if err != nil {
		t.Fatal(err)
	}
	n, err := strconv.Atoi(port)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// awaitLine starts a program and waits until it logs a line that has the words. log reads on until the program ends.
func awaitLine(cmd *exec.Cmd, words string, log *sync.WaitGroup) error {
	stderr, err := cmd.StderrPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	ready := make(chan error, 1)
	log.Go(func() {
		var said bytes.Buffer
		lines := bufio.NewScanner(stderr)
		for lines.Scan() {
			if strings.Contains(lines.Text(), words) {
				ready <- nil
				_, _ = io.Copy(io.Discard, stderr)
				return
			}
			said.WriteString(lines.Text() + "\n")
		}
		ready <- fmt.Errorf("it ended: %s", said.String())
	})
	select {
	case err = <-ready:
	case <-ctx.Done():
		err = fmt.Errorf("it does not say %q within a minute", words)
	}
	if err != nil {
		_ = cmd.Process.Kill()
		log.Wait()
		_ = cmd.Wait()
	}
	return err
}
