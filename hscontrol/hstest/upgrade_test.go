package hstest_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/keelscale/keelscale/hscontrol/hstest"
)

// older builds the program of the release before; of the commit that OLDER names; or, while there is no release, of
// before the migrations changed last. Without the history it skips the test.
func older(t *testing.T) (program, commit string) {
	t.Helper()
	git := func(args ...string) string {
		out, err := exec.Command("git", append([]string{"-C", "../.."}, args...)...).Output()
		if err != nil {
			return ""
		}
		return strings.TrimSpace(string(out))
	}
	commit = os.Getenv("OLDER")
	if commit == "" {
		commit = git("describe", "--tags", "--abbrev=0")
	}
	if commit == "" {
		commit = git("log", "-1", "--format=%h", "--", "hscontrol/store/migrate.go") + "^"
	}
	if git("cat-file", "-t", commit) == "" {
		t.Skipf("the history of the program is not here: no commit %s", commit)
	}
	dir := t.TempDir()
	unpack := exec.Command("sh", "-c", `git -C ../.. archive "$1" | tar -x -C "$2"`, "sh", commit, dir)
	if out, err := unpack.CombinedOutput(); err != nil {
		t.Fatalf("unpacking %s: %v\n%s", commit, err, out)
	}
	return hstest.BuildProgram(t, dir), commit
}

// Two servers are upgraded one after the other: the older program works on beside the newer one, and may be started
// again; clients of both see each other's changes, new ones join at either, and nobody logs in anew.
func TestRollingUpgrade(t *testing.T) {
	old, commit := older(t)
	today := hstest.BuildProgram(t, ".")
	db := hstest.StartPostgres(t)
	text := section(db.Database(), filepath.Join(t.TempDir(), "secrets.key"))
	first := hstest.StartProgram(t, old, text)
	second := hstest.StartProgram(t, old, text)
	version := func() string { return db.SQL("test1", "SELECT version FROM schema_version") }
	before, secret := version(), first.ProcessKey()

	const nodes = 12
	all, polls := settle(t, secret, []*hstest.Server{&first.Server, &second.Server}, nodes)
	// turn has the nodes of a server that is started anew come back to it, as the balancer has them.
	turn := func(p *hstest.Process, parity int, program string) {
		t.Helper()
		p.End(syscall.SIGTERM)
		p.Program = program
		p.Begin()
		for i := parity; i < nodes; i += 2 {
			polls[i].Close()
			all[i].Disconnect()
			polls[i] = all[i].Poll()
			if polls[i].Netmap.Node.Expired {
				t.Errorf("node %d has to log in anew", i)
			}
		}
	}
	port := 1000
	// agree has a node of each server change, and one join at each: all know of it.
	joined := 0
	agree := func(when string) {
		t.Helper()
		port++
		for i, p := range []*hstest.Process{first, second} {
			all[i].Update(fmt.Sprintf("192.0.2.%d:%d", i+1, port))
			n := p.Node(fmt.Sprintf("late%d", joined))
			n.Join(secret)
			joined++
			p.CLI("nodes", "list")
		}
		for i, poll := range polls {
			poll.Await(when, func(m *hstest.Netmap) bool {
				for k := range 2 {
					if n := m.Peers[polls[k].Netmap.Node.ID]; i != k && (n == nil || len(n.Endpoints) != 1 || int(n.Endpoints[0].Port()) != port) {
						return false
					}
				}
				online := 0
				for _, n := range m.Peers {
					if n.Online != nil && *n.Online {
						online++
					}
				}
				return len(m.Peers) == nodes-1+joined && online == nodes-1 // the late ones only joined
			})
		}
	}
	agree("both are old")
	turn(first, 0, today)
	during := version()
	agree("one is new")
	turn(second, 1, old)
	agree("the old one was started again")
	turn(second, 1, today)
	agree("both are new")
	if after := version(); after != during {
		t.Errorf("got version %s of the schema, want %s as the first of the new ones left it", after, during)
	}
	t.Logf("from %s to today, schema %s to %s: %d nodes, none logged in anew", commit, before, during, nodes+joined)
}
