//go:build linux

package lab_test

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/keelscale/keelscale/integration/lab"
)

// victim tells TestScene that it runs in the process which TestKilledRunLeavesNothing kills.
const victim = "KEELSCALE_LAB_VICTIM"

// TestKilledRunLeavesNothing kills a whole test run with SIGKILL in the middle of a scene: no
// cleanup of its own can run, and still every namespace must be empty, and so gone, at once.
func TestKilledRunLeavesNothing(t *testing.T) {
	if why := lab.Unable(); why != "" {
		t.Skip("the lab needs a machine that it does not have: " + why)
	}
	run := exec.Command(os.Args[0], "-test.run=^TestScene$")
	run.Env = append(os.Environ(), victim+"=1", "TMPDIR="+t.TempDir())
	stdout, err := run.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdin, err := run.StdinPipe() // the scene lasts until we close it, or kill the run
	if err != nil {
		t.Fatal(err)
	}
	defer stdin.Close()
	if err := run.Start(); err != nil {
		t.Fatal(err)
	}
	var spaces string
	for lines := bufio.NewScanner(stdout); spaces == "" && lines.Scan(); {
		_, spaces, _ = strings.Cut(lines.Text(), "namespaces: ")
	}
	if got := len(tenants(spaces)); got < 2 {
		t.Errorf("processes in the namespaces %q of the scene: got %d, want the holder and the web server at least", spaces, got)
	}
	if err := run.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = run.Wait() // killed, as it must be
	deadline := time.Now().Add(time.Minute)
	for len(tenants(spaces)) > 0 && time.Now().Before(deadline) {
		time.Sleep(20 * time.Millisecond)
	}
	if left := tenants(spaces); len(left) > 0 {
		t.Errorf("left in the namespaces of the killed run: got %v, want no process", left)
	}
}

// TestScene is the scene that gets killed. It tells its namespaces and then waits for its end.
func TestScene(t *testing.T) {
	if os.Getenv(victim) == "" {
		t.Skip("runs only as the victim of TestKilledRunLeavesNothing")
	}
	l := lab.New(t)
	shop := l.Public("shop", "203.0.113.10")
	shop.Web("80")
	fmt.Println("namespaces:", shop.Do("readlink /proc/self/ns/net"))
	_, _ = io.Copy(io.Discard, os.Stdin)
}

// tenants are the processes in the network namespace named like "net:[4026532]".
func tenants(space string) (pids []string) {
	links, _ := filepath.Glob("/proc/[0-9]*/ns/net")
	for _, link := range links {
		if ns, err := os.Readlink(link); err == nil && ns == space {
			pids = append(pids, strings.Split(link, "/")[2])
		}
	}
	return pids
}
