package hstest

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// Process is a server of its own process, which can be killed as a power cut would.
type Process struct {
	Server // what Node and its kin need; it has no store

	Program string // what is run

	config  string
	base    string // of the configuration file
	extra   string // the rest of it
	public  string // its server_url
	command *exec.Cmd
	exited  chan error
}

// StartProcess builds the program and runs `serve` on loopback until the test ends. What extra says is added to its
// configuration file.
func StartProcess(t testing.TB, extra ...string) *Process {
	t.Helper()
	return StartProgram(t, BuildProgram(t, "."), extra...)
}

// BuildProgram builds the program from the sources below a directory, and gives its path; that of this module, unless
// KEELSCALE_BIN names the directory of one that was built before.
func BuildProgram(t testing.TB, module string) string {
	t.Helper()
	if dir := os.Getenv("KEELSCALE_BIN"); dir != "" && module == "." {
		return filepath.Join(dir, "headscale")
	}
	program := filepath.Join(t.TempDir(), "headscale")
	build := exec.Command("go", "build", "-o", program, "github.com/keelscale/keelscale/cmd/headscale")
	build.Dir = module
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("building headscale: %v\n%s", err, out)
	}
	return program
}

// StartProgram is StartProcess of a program that was built before.
func StartProgram(t testing.TB, program string, extra ...string) *Process {
	t.Helper()
	dir, err := os.MkdirTemp("", "hsproc") // short: a unix socket's path has 108 bytes
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	p := &Process{Program: program, config: filepath.Join(dir, "config.yaml")}
	p.t = t
	addr := freePort(t)
	p.URL = "http://" + addr
	p.public = p.URL
	text := fmt.Sprintf("listen_addr: %s\nmetrics_listen_addr: \"\"\ndata_dir: %s\nunix_socket: %s\nderp:\n  server:\n    enabled: true\n    stun_listen_addr: \"\"\nnoise:\n  also_on_443: false\n",
		addr, filepath.Join(dir, "data"), filepath.Join(dir, "hs.sock"))
	p.base = text
	p.Configure(extra...)
	p.Begin()
	t.Cleanup(func() { p.End(syscall.SIGTERM) })
	return p
}

// Configure replaces what was added to the configuration file, for the next start.
func (p *Process) Configure(extra ...string) {
	p.t.Helper()
	p.extra = strings.Join(extra, "")
	p.configure()
}

// Behind makes the address of a load balancer its server_url, for the next start.
func (p *Process) Behind(url string) {
	p.t.Helper()
	p.public = url
	p.configure()
}

func (p *Process) configure() {
	p.t.Helper()
	if err := os.WriteFile(p.config, []byte("server_url: "+p.public+"\n"+p.base+p.extra), 0o600); err != nil {
		p.t.Fatal(err)
	}
}

// Begin starts the process and waits until it answers.
func (p *Process) Begin() {
	p.t.Helper()
	p.command = exec.Command(p.Program, "serve", "-c", p.config)
	p.command.Stdout, p.command.Stderr = testWriter{p.t}, testWriter{p.t}
	if err := p.command.Start(); err != nil {
		p.t.Fatalf("starting headscale: %v", err)
	}
	p.exited = make(chan error, 1)
	go func() { p.exited <- p.command.Wait() }()
	for deadline := time.Now().Add(Patience); ; {
		if answers("tcp", strings.TrimPrefix(p.URL, "http://")) && answers("unix", filepath.Join(filepath.Dir(p.config), "hs.sock")) {
			return
		}
		select {
		case err := <-p.exited:
			p.t.Fatalf("headscale ended at its start: %v", err)
		case <-time.After(2 * time.Millisecond):
		}
		if time.Now().After(deadline) {
			p.t.Fatalf("headscale does not answer at %s", p.URL)
		}
	}
}

// answers reports whether somebody listens there.
func answers(network, addr string) bool {
	conn, err := net.Dial(network, addr)
	if err != nil {
		return false
	}
	conn.Close()
	return true
}

// End sends a signal and waits for the process to be gone.
func (p *Process) End(signal syscall.Signal) {
	p.t.Helper()
	if p.command == nil {
		return
	}
	if err := p.command.Process.Signal(signal); err != nil && !errors.Is(err, os.ErrProcessDone) {
		p.t.Errorf("ending headscale: %v", err)
	}
	select {
	case <-p.exited:
	case <-time.After(Patience):
		p.command.Process.Kill()
		<-p.exited
		p.t.Errorf("headscale did not end at %v", signal)
	}
	p.command = nil
}

// CLI runs the command line against the process and gives what it printed.
func (p *Process) CLI(args ...string) string {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), Patience)
	defer cancel()
	out, err := exec.CommandContext(ctx, p.Program, append([]string{"-c", p.config}, args...)...).CombinedOutput()
	if err != nil {
		p.t.Fatalf("headscale %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return strings.TrimSpace(string(out))
}

// ProcessKey makes a user and a reusable pre-auth key of it, and gives its text.
func (p *Process) ProcessKey() string {
	p.t.Helper()
	p.CLI("users", "create", "bench")
	return p.CLI("preauthkeys", "create", "--reusable", "-e", "24h", "--user", "bench")
}

// PID is the number of the process.
func (p *Process) PID() int { return p.command.Process.Pid }
