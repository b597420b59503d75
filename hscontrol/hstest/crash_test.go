package hstest_test

import (
	"context"
	"crypto/rand"
	"fmt"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/keelscale/keelscale/hscontrol/hstest"
	"github.com/keelscale/keelscale/hscontrol/hstest/pgtest"
)

// crashing are two server processes, the first of which is killed at some point of a change, and a watcher at each.
type crashing struct {
	*testing.T
	db            *hstest.Postgres
	first, second *hstest.Process
	watchers      [2]*hstest.Node
	polls         [2]*hstest.Poll
	frozen        *freezer // between the first watcher and the first server
	secret        string
}

// crashPoints are the steps between which the first server dies: it commits, learns so, publishes, writes a frame. Each
// has a newcomer registering, and leaves the server killed. rows are what the database has of the newcomer then.
var crashPoints = []struct {
	name string
	rows string
	die  func(c *crashing, newcomer *hstest.Node)
}{
	{"before the commit", "0", func(c *crashing, newcomer *hstest.Node) {
		release := c.lockTailnets()
		defer release()
		c.joining(newcomer, "wait_event_type = 'Lock'")
		c.first.End(syscall.SIGKILL)
	}},
	{"after the commit, before it is known", "1", func(c *crashing, newcomer *hstest.Node) {
		c.standbys("nobody") // a commit is durable, and not answered
		c.joining(newcomer, "wait_event = 'SyncRep' AND pid IN (SELECT pid FROM pg_locks WHERE relation = 'nodes'::regclass AND mode = 'RowExclusiveLock')")
		c.first.End(syscall.SIGKILL)
		c.standbys("")
	}},
	{"after the commit, before it is published", "1", func(c *crashing, newcomer *hstest.Node) {
		c.freeze()
		newcomer.Use(&c.second.Server)
		newcomer.Join(c.secret)
		c.first.End(syscall.SIGKILL)
		newcomer.Use(&c.first.Server)
	}},
	{"in the midst of a frame", "1", func(c *crashing, newcomer *hstest.Node) {
		c.frozen.left.Store(16 << 10)
		newcomer.Hostinfo = newcomer.Hostinfo.Clone()
		newcomer.Hostinfo.SSH_HostKeys = noise(50 << 10)
		newcomer.Join(c.secret)
		await(c.T, "the watcher to have got its part", func() bool { return c.frozen.left.Load() == 0 })
		c.first.End(syscall.SIGKILL)
		c.frozen.left.Store(-1)
	}},
}

// A server that is killed at any step of a change leaves the change whole or undone, and everybody right afterwards.
func TestCrashPoints(t *testing.T) {
	c := startCrashing(t)
	for i, point := range crashPoints {
		t.Run(point.name, func(t *testing.T) {
			c.T = t
			newcomer := c.second.Node("newcomer" + strconv.Itoa(i))
			newcomer.Use(&c.first.Server)
			point.die(c, newcomer)
			c.polls[0].AwaitEnd()
			c.polls[0].Close()
			of := "SELECT count(*) FROM nodes WHERE hostname = '" + newcomer.Name + "'"
			await(t, "the database to have "+point.rows+" of it", func() bool { return c.db.SQL("test1", of) == point.rows })

			c.first.Begin()
			newcomer.Disconnect()
			newcomer.Join(c.secret) // as a client does that got no answer
			if got := c.db.SQL("test1", of); got != "1" {
				t.Errorf("got %s nodes after the client tried again, want one", got)
			}
			c.watch(0)
			for k, p := range c.polls {
				p.Await(fmt.Sprintf("the newcomer once, at server %d", k), func(m *hstest.Netmap) bool {
					return strings.Count(strings.Join(m.Names(), " ")+" ", newcomer.Name+" ") == 1 && len(m.Peers) == 2+i
				})
				if p.Netmap.Node.Expired {
					t.Errorf("the watcher at server %d has to log in anew", k)
				}
			}
		})
	}
}

func startCrashing(t *testing.T) *crashing {
	c := &crashing{T: t, db: hstest.StartPostgres(t)}
	text := section(c.db.Database(), filepath.Join(t.TempDir(), "secrets.key"))
	c.first = hstest.StartProcess(t, text)
	c.second = hstest.StartProgram(t, c.first.Program, text)
	c.secret = c.first.ProcessKey()
	c.frozen = newFreezer(t, c.first.URL)
	near := c.first.Server
	near.URL = "http://" + c.frozen.listener.Addr().String()
	for i, s := range []*hstest.Server{&near, &c.second.Server} {
		c.watchers[i] = s.Node("watcher" + strconv.Itoa(i))
		c.watchers[i].Join(c.secret)
		c.watch(i)
	}
	return c
}

// watch has a watcher poll anew.
func (c *crashing) watch(i int) {
	c.Helper()
	c.watchers[i].Disconnect()
	c.polls[i] = c.watchers[i].Poll()
}

// joining sends the request of a newcomer, which is not answered, and waits until the server's transaction is where the
// condition says.
func (c *crashing) joining(newcomer *hstest.Node, where string) {
	c.Helper()
	go func() {
		if resp, err := newcomer.Register(context.Background(), hstest.WithKey(c.secret)); err == nil {
			c.Errorf("the server answered %+v, want it killed before", resp)
		}
	}()
	await(c.T, where, func() bool {
		return c.db.SQL("test1", "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'keelscale' AND "+where) != "0"
	})
}

// standbys has the database answer a commit when these standbys have it, and returns when that is in force: new
// connections see it once all processes were told, and the checkpointer, which is who counts, has then read it when it
// made the next checkpoint.
func (c *crashing) standbys(names string) {
	c.Helper()
	c.db.SQL("test1", "ALTER SYSTEM SET synchronous_standby_names = '"+names+"'")
	c.db.SQL("test1", "SELECT pg_reload_conf()")
	await(c.T, "the standbys are set", func() bool { return c.db.SQL("test1", "SHOW synchronous_standby_names") == names })
	c.db.SQL("test1", "CHECKPOINT")
}

// freeze stops the first server between two transactions: in the midst of one it would keep the other server waiting, and
// that is another point.
func (c *crashing) freeze() {
	c.Helper()
	await(c.T, "the first server to be between two transactions", func() bool {
		c.signal(syscall.SIGSTOP)
		since := c.db.SQL("test1", "SELECT clock_timestamp()")
		for range 50 {
			if c.db.SQL("test1", "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'keelscale' AND xact_start <= '"+since+"'") == "0" {
				return true
			}
			time.Sleep(20 * time.Millisecond)
		}
		c.signal(syscall.SIGCONT)
		return false
	})
}

func (c *crashing) signal(s syscall.Signal) {
	c.Helper()
	if err := syscall.Kill(c.first.PID(), s); err != nil {
		c.Fatal(err)
	}
}

// lockTailnets keeps every transaction that changes a tailnet waiting until release.
func (c *crashing) lockTailnets() (release func()) {
	c.Helper()
	psql, err := pgtest.Program("psql")
	if err != nil {
		c.Fatal(err)
	}
	cmd := exec.Command(psql, "-h", c.db.Dir, "-p", strconv.Itoa(c.db.Port), "-U", pgtest.User, "-d", "test1", "-qX",
		"-c", "BEGIN; SELECT id FROM tailnets FOR UPDATE; SELECT pg_sleep(600)")
	if err := cmd.Start(); err != nil {
		c.Fatal(err)
	}
	await(c.T, "the lock", func() bool {
		return c.db.SQL("test1", "SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%pg_sleep(600)' AND wait_event = 'PgSleep'") == "1"
	})
	return func() {
		c.db.SQL("test1", "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE wait_event = 'PgSleep'")
		_ = cmd.Wait() // its backend was ended
	}
}

// noise is text of about so many bytes that no compression makes shorter.
func noise(bytes int) (lines []string) {
	for ; bytes > 0; bytes -= 26 {
		lines = append(lines, rand.Text())
	}
	return lines
}
