// Package pgtest runs a PostgreSQL of the tests' own, which can be stopped as a power cut would.
package pgtest

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// User is the superuser of every Cluster; no password is asked for.
const User = "keelscale"

// Cluster is a PostgreSQL server in a directory of its own.
type Cluster struct {
	Dir  string // of its unix socket
	Port int    // on 127.0.0.1

	attr    *syscall.SysProcAttr
	program string
	command *exec.Cmd
	log     sync.WaitGroup // reads what it logs
	made    atomic.Int32   // databases
}

// Start makes a Cluster and starts it. It fails where the programs are not installed.
func Start() (c *Cluster, err error) {
	c = new(Cluster)
	initdb, err := Program("initdb")
	if err != nil {
		return nil, err
	}
	if c.program, err = Program("postgres"); err != nil {
		return nil, err
	}
	if c.Port, err = FreePort(); err != nil {
		return nil, err
	}
	if c.Dir, err = os.MkdirTemp("", "keelpg"); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			os.RemoveAll(c.Dir)
		}
	}()
	if c.attr, err = unprivileged(c.Dir); err != nil {
		return nil, fmt.Errorf("finding a user for PostgreSQL: %w", err)
	}
	initialise := exec.Command(initdb, "-D", c.data(), "-U", User, "-A", "trust", "-E", "UTF8", "--no-locale", "--no-sync")
	initialise.Dir, initialise.SysProcAttr = c.Dir, c.attr
	if out, err := initialise.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("initdb: %w: %s", err, out)
	}
	return c, c.Begin()
}

// Standby copies c and starts the copy as one that follows c, until it is promoted.
func (c *Cluster) Standby() (follower *Cluster, err error) {
	backup, err := Program("pg_basebackup")
	if err != nil {
		return nil, err
	}
	f := &Cluster{program: c.program}
	if f.Port, err = FreePort(); err != nil {
		return nil, err
	}
	if f.Dir, err = os.MkdirTemp("", "keelpg"); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			os.RemoveAll(f.Dir)
		}
	}()
	if f.attr, err = unprivileged(f.Dir); err != nil {
		return nil, fmt.Errorf("finding a user for PostgreSQL: %w", err)
	}
	copying := exec.Command(backup, "-h", c.Dir, "-p", strconv.Itoa(c.Port), "-U", User, "-D", f.data(), "-R", "-X", "stream", "-c", "fast", "--no-sync")
	copying.Dir, copying.SysProcAttr = f.Dir, f.attr
	if out, err := copying.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("pg_basebackup: %w: %s", err, out)
	}
	return f, f.Begin()
}

// Promote makes a standby take writes.
func (c *Cluster) Promote() error {
	_, err := c.SQL("postgres", "SELECT pg_promote()")
	return err
}

// Forsake has a standby hear no more of the cluster that it follows, as if the network between them were slow.
func (c *Cluster) Forsake() error {
	_, err := c.SQL("postgres", "ALTER SYSTEM SET primary_conninfo = ''")
	if err == nil {
		_, err = c.SQL("postgres", "SELECT pg_reload_conf()")
	}
	return err
}

func (c *Cluster) data() string { return filepath.Join(c.Dir, "data") }

// Begin starts it, again after End, and waits until it takes connections.
func (c *Cluster) Begin() error {
	c.command = exec.Command(c.program, "-D", c.data(), "-k", c.Dir, "-h", "127.0.0.1", "-p", strconv.Itoa(c.Port),
		"-c", "fsync=off", "-c", "max_connections=200")
	if err := c.Run(c.command, "ready to accept", &c.log); err != nil { // "connections", or "read-only connections" as a standby
		c.command = nil
		return fmt.Errorf("starting PostgreSQL: %w", err)
	}
	return nil
}

// End sends a signal and waits for the end: SIGINT is a fast shutdown, SIGQUIT an immediate one, which breaks all
// connections.
func (c *Cluster) End(signal syscall.Signal) error {
	err := c.command.Process.Signal(signal)
	c.log.Wait()
	if ended := c.command.Wait(); signal == syscall.SIGINT {
		err = errors.Join(err, ended)
	}
	c.command = nil
	return err
}

// Remove ends it, if it runs, and deletes all.
func (c *Cluster) Remove() (err error) {
	if c.command != nil {
		err = c.End(syscall.SIGINT)
	}
	return errors.Join(err, os.RemoveAll(c.Dir))
}

// CreateDatabase makes a new database and gives its name.
func (c *Cluster) CreateDatabase() (name string, err error) {
	name = fmt.Sprintf("test%d", c.made.Add(1))
	_, err = c.SQL("postgres", "CREATE DATABASE "+name)
	return name, err
}

// SQL runs statements in a database, and gives the rows, a line each.
func (c *Cluster) SQL(database, statements string) (rows string, err error) {
	psql, err := Program("psql")
	if err != nil {
		return "", err
	}
	out, err := exec.Command(psql, "-h", c.Dir, "-p", strconv.Itoa(c.Port), "-U", User, "-d", database,
		"-AtqX", "-v", "ON_ERROR_STOP=1", "-c", statements).CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("%s: %w: %s", statements, err, out)
	}
	return strings.TrimSpace(string(out)), nil
}

// Run starts a program as the Cluster's user, in its directory, and waits until it logs a line that has the words. log
// reads on until the program ends.
func (c *Cluster) Run(cmd *exec.Cmd, words string, log *sync.WaitGroup) error {
	cmd.Dir, cmd.SysProcAttr = c.Dir, c.attr
	stderr, err := cmd.StderrPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
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
	late := time.NewTimer(3 * time.Minute)
	defer late.Stop()
	select {
	case err = <-ready:
	case <-late.C:
		err = fmt.Errorf("it does not say %q within three minutes", words)
	}
	if err != nil {
		_ = cmd.Process.Kill()
		log.Wait()
		_ = cmd.Wait()
	}
	return err
}

// Program looks where Debian keeps the programs of PostgreSQL, and in PATH.
func Program(name string) (string, error) {
	if found, _ := filepath.Glob("/usr/lib/postgresql/*/bin/" + name); len(found) > 0 {
		return found[len(found)-1], nil
	}
	path, err := exec.LookPath(name)
	if err != nil {
		return "", fmt.Errorf("%s is not installed: apt-get install postgresql", name)
	}
	return path, nil
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
	uid, errUID := strconv.Atoi(u.Uid)
	gid, errGID := strconv.Atoi(u.Gid)
	if err := errors.Join(errUID, errGID); err != nil {
		return nil, err
	}
	attr.Credential = &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
	return attr, os.Chown(dir, uid, gid)
}
