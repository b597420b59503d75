//go:build linux

// Package lab builds small internets out of Linux namespaces and runs real programs in them.
//
// A Lab is one simulated internet. Every Host in it is nearly a machine of its own: it has its
// own network, host name, /etc, /run and /var/lib, so that a scene can type the same lines that
// a user types, `headscale namespaces create vpn`, and find the same files where a user finds them.
//
// Nothing has a name outside: no `ip netns` entry, no bridge, no mount in the machine that runs
// the tests. A host lives as long as its holder, one small process; holders and programs are
// started by one thread and die with it (PR_SET_PDEATHSIG). So a scene that ends, fails, panics,
// runs into the test timeout or is killed with -9 leaves neither process nor namespace behind.
//
//	lab.go      the lab, its end
//	host.go     one machine: namespaces, files, commands
//	network.go  bridges, cables, addresses, NATs
//	process.go  a running program and what it prints
//	client.go   tailscaled on a host
//	server.go   headscale on a host
//	roles.go    the small servers that scenes talk to
//	names.go    the internet's name service
package lab

import (
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"
)

// patience is how long a scene waits for something that ought to come at once. It is generous,
// because the machine may be busy with other tests; LAB_PATIENCE=SECONDS overrides it.
func patience() time.Duration {
	if s, err := strconv.Atoi(os.Getenv("LAB_PATIENCE")); err == nil {
		return time.Duration(s) * time.Second
	}
	return 120 * time.Second
}

// Lab is one simulated internet with the hosts in it. Make it with New; the end of the test ends it.
type Lab struct {
	t        testing.TB
	dir      string      // mount points and logs
	forks    chan func() // run by the one thread that starts processes
	ended    chan struct{}
	patience time.Duration
	begun    time.Time

	internet *Host
	public   *Network

	mu    sync.Mutex
	hosts []*Host
	procs []*Process
}

// New makes an internet for the scene t, or skips the scene with the reason when this machine
// cannot have one. The scene's end takes everything away and complains about what would not go.
func New(t testing.TB) *Lab {
	t.Helper()
	if why := Unable(); why != "" {
		t.Skip("the lab needs a machine that it does not have: " + why)
	}
	l := &Lab{t: t, dir: logDir(t), forks: make(chan func()), ended: make(chan struct{}), patience: patience(), begun: time.Now()}
	go l.starter()
	t.Cleanup(l.close)

	l.internet = l.newHost("internet")
	l.public = l.internet.bridge("br0", "203.0.113.1/24", "2001:db8:113::1/64")
	l.internet.silently("ip addr add 198.51.100.1/24 dev br0")
	l.internet.silently("sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1")
	l.names()
	return l
}

// logDir is the directory for logs: a place of the test's own, or a stable one below LAB_LOGS.
func logDir(t testing.TB) string {
	top := os.Getenv("LAB_LOGS")
	if top == "" {
		return t.TempDir()
	}
	dir := filepath.Join(top, t.Name())
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatalf("making the directory for logs: %v", err)
	}
	return dir
}

// starter runs every fork on one thread and never gives that thread back: when it returns, the
// thread ends, and the kernel kills what was started on it and still lives.
func (l *Lab) starter() {
	runtime.LockOSThread()
	defer close(l.ended)
	for fork := range l.forks {
		fork()
	}
}

// fork runs start on the thread that owns all processes of the lab.
func (l *Lab) fork(start func() error) error {
	result := make(chan error)
	l.forks <- func() { result <- start() }
	return <-result
}

// Step tells the reader of the transcript what comes next.
func (l *Lab) Step(text string) {
	l.t.Helper()
	l.t.Logf("── %s (after %.1f s)", text, time.Since(l.begun).Seconds())
}

// Await asks ok again and again until it says nil, and ends the scene when patience runs out. The
// error is the reason why it is not so yet; the last one is printed.
func (l *Lab) Await(what string, ok func() error) {
	l.t.Helper()
	if err := l.within(l.patience, ok); err != nil {
		l.t.Fatalf("waiting for %s: %v", what, err)
	}
}

// within polls ok, fast at first and slower later, and returns its last error when d is over.
func (l *Lab) within(d time.Duration, ok func() error) error {
	deadline := time.Now().Add(d)
	for pause := 20 * time.Millisecond; ; pause = min(pause*3/2, 400*time.Millisecond) {
		err := ok()
		if err == nil || time.Now().After(deadline) {
			return err
		}
		time.Sleep(pause)
	}
}

// Holds asks ok for as long as d and ends the scene at the first error: what ought not to happen
// can only be shown over a time.
func (l *Lab) Holds(d time.Duration, what string, ok func() error) {
	l.t.Helper()
	for deadline := time.Now().Add(d); time.Now().Before(deadline); time.Sleep(100 * time.Millisecond) {
		if err := ok(); err != nil {
			l.t.Fatalf("%s did not hold: %v", what, err)
		}
	}
}

// close stops the programs, then the hosts, then the thread they hang on, and looks whether all is gone.
func (l *Lab) close() {
	if l.t.Failed() {
		l.inquire()
		l.tellLogs()
	}
	l.mu.Lock()
	procs, hosts := l.procs, l.hosts
	l.mu.Unlock()

	var stopping sync.WaitGroup
	for _, p := range procs {
		stopping.Go(func() { p.Stop() })
	}
	stopping.Wait()
	for _, h := range hosts {
		for _, pid := range h.inhabitants() {
			l.t.Errorf("process %s outlived the scene on %s", describe(pid), h.Name)
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
		h.release()
	}
	close(l.forks)
	<-l.ended
}

// forget drops a process that has ended from the list of those to stop.
func (l *Lab) forget(p *Process) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.procs = slices.DeleteFunc(l.procs, func(q *Process) bool { return q == p })
}

// inquire asks the servers and clients of a failed scene how things stand.
func (l *Lab) inquire() {
	for _, h := range l.hosts {
		for _, line := range h.questions {
			out, err := h.Quietly(line)
			l.t.Logf("── asked after the failure: %s$ %s (%v)\n%s", h.Name, line, err, out)
		}
	}
}

// tellLogs prints the end of every program's log, so that a failure in CI can be read.
func (l *Lab) tellLogs() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, p := range l.procs {
		if p.daemon {
			l.t.Logf("── log of %s on %s ends:\n%s", p.name, p.host.Name, p.out.tail(40))
		}
	}
}

// Patient runs f with n times the usual patience, for what takes long by design.
func (l *Lab) Patient(n int, f func()) {
	l.patience *= time.Duration(n)
	defer func() { l.patience /= time.Duration(n) }()
	f()
}
