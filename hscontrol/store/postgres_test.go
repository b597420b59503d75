package store_test

import (
	"bufio"
	"bytes"
	"context"
	"database/sql"
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

	"github.com/keelscale/keelscale/hscontrol/store"
)

// cluster is a PostgreSQL server of our own, in a directory of its own, for the time of the tests.
type cluster struct {
	dir  string
	port int
	cmd  *exec.Cmd
	log  sync.WaitGroup // reads what the server logs

	databases struct {
		sync.Mutex
		made int
	}
}

// postgres starts the cluster when a test first asks for it; TestMain stops it.
var postgres = sync.OnceValues(startCluster)

// started says whether TestMain has something to stop.
var started bool

func TestMain(m *testing.M) {
	code := m.Run()
	if started {
		if c, err := postgres(); err == nil {
			if err := c.stop(); err != nil {
				fmt.Fprintln(os.Stderr, "stopping PostgreSQL:", err)
				code = max(code, 1)
			}
		}
	}
	os.Exit(code)
}

// postgresConfig is a fresh database in the cluster. Without PostgreSQL it skips the test.
func postgresConfig(t testing.TB) store.Config {
	t.Helper()
	started = true
	c, err := postgres()
	if err != nil {
		t.Skipf("no PostgreSQL: %v", err)
	}
	name, err := c.createDatabase()
	if err != nil {
		t.Fatal(err)
	}
	return store.Config{
		Type:     "postgres",
		Postgres: store.PostgresConfig{Host: c.dir, Port: c.port, Name: name, User: "keelscale", MaxOpenConns: 5},
		PrefixV4: v4,
		PrefixV6: v6,
	}
}

func startCluster() (c *cluster, err error) {
	initdb, err := findProgram("initdb")
	if err != nil {
		return nil, err
	}
	server, err := findProgram("postgres")
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "keelpg")
	if err != nil {
		return nil, err
	}
	c = &cluster{dir: dir}
	defer func() {
		if err != nil {
			os.RemoveAll(dir)
		}
	}()
	attr, err := unprivileged(dir)
	if err != nil {
		return nil, err
	}
	data := filepath.Join(dir, "data")
	initialise := exec.Command(initdb, "-D", data, "-U", "keelscale", "-A", "trust", "-E", "UTF8", "--no-locale", "--no-sync")
	initialise.Dir, initialise.SysProcAttr = dir, attr
	if out, err := initialise.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("initdb: %w: %s", err, out)
	}
	if c.port, err = freePort(); err != nil {
		return nil, err
	}
	c.cmd = exec.Command(server, "-D", data, "-k", dir, "-h", "127.0.0.1", "-p", strconv.Itoa(c.port), "-c", "fsync=off", "-c", "max_connections=200")
	c.cmd.Dir, c.cmd.SysProcAttr = dir, attr
	return c, c.run()
}

// findProgram looks in PATH and where Debian keeps the programs of PostgreSQL.
func findProgram(name string) (string, error) {
	if path, err := exec.LookPath(name); err == nil {
		return path, nil
	}
	found, _ := filepath.Glob("/usr/lib/postgresql/*/bin/" + name)
	if len(found) == 0 {
		return "", fmt.Errorf("%s is not installed: apt-get install postgresql", name)
	}
	return found[len(found)-1], nil
}

// unprivileged is how to start a program in dir as somebody whom PostgreSQL accepts: root it does not.
func unprivileged(dir string) (*syscall.SysProcAttr, error) {
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
	uid, err := strconv.Atoi(u.Uid)
	if err != nil {
		return nil, err
	}
	gid, err := strconv.Atoi(u.Gid)
	if err != nil {
		return nil, err
	}
	attr.Credential = &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
	return attr, os.Chown(dir, uid, gid)
}

func freePort() (int, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port, nil
}

// run starts the server and waits until it says that it is ready.
func (c *cluster) run() error {
	stderr, err := c.cmd.StderrPipe()
	if err != nil {
		return err
	}
	if err := c.cmd.Start(); err != nil {
		return err
	}
	ready := make(chan error, 1)
	c.log.Go(func() {
		var said bytes.Buffer
		lines := bufio.NewScanner(stderr)
		for lines.Scan() {
			if strings.Contains(lines.Text(), "ready to accept connections") {
				ready <- nil
				_, _ = io.Copy(io.Discard, stderr)
				return
			}
			said.WriteString(lines.Text() + "\n")
		}
		ready <- fmt.Errorf("PostgreSQL did not start: %s", said.String())
	})
	select {
	case err = <-ready:
	case <-time.After(time.Minute):
		err = errors.New("PostgreSQL did not start within a minute")
	}
	if err != nil {
		_ = c.cmd.Process.Kill()
		c.log.Wait()
		_ = c.cmd.Wait()
	}
	return err
}

func (c *cluster) stop() error {
	err := c.cmd.Process.Signal(syscall.SIGINT) // a fast shutdown
	c.log.Wait()
	return errors.Join(err, c.cmd.Wait(), os.RemoveAll(c.dir))
}

func (c *cluster) createDatabase() (string, error) {
	c.databases.Lock()
	defer c.databases.Unlock()
	db, err := sql.Open("pgx", fmt.Sprintf("host=%s port=%d user=keelscale dbname=postgres", c.dir, c.port))
	if err != nil {
		return "", err
	}
	defer db.Close()
	c.databases.made++
	name := fmt.Sprintf("test%d", c.databases.made)
	_, err = db.ExecContext(context.Background(), "CREATE DATABASE "+name)
	return name, err
}

// bothEngines runs a test on a world in SQLite and on one in PostgreSQL.
func bothEngines(t *testing.T, test func(*testing.T, *world)) {
	t.Helper()
	t.Run("sqlite", func(t *testing.T) { test(t, newWorld(t, sqliteConfig(t))) })
	t.Run("postgres", func(t *testing.T) { test(t, newWorld(t, postgresConfig(t))) })
}

// bothConfigs runs a test with the configuration of a fresh database in each engine.
func bothConfigs(t *testing.T, test func(*testing.T, store.Config)) {
	t.Helper()
	t.Run("sqlite", func(t *testing.T) { test(t, sqliteConfig(t)) })
	t.Run("postgres", func(t *testing.T) { test(t, postgresConfig(t)) })
}

// raw is a connection to the same database past the store.
func raw(t testing.TB, cfg store.Config) *sql.DB {
	t.Helper()
	driver, dsn := "sqlite", "file:"+cfg.SQLite.Path+"?_pragma=busy_timeout(10000)"
	if cfg.Type == "postgres" {
		p := cfg.Postgres
		driver, dsn = "pgx", fmt.Sprintf("host=%s port=%d user=%s dbname=%s", p.Host, p.Port, p.User, p.Name)
	}
	db, err := sql.Open(driver, dsn)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	return db
}
