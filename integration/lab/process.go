//go:build linux

package lab

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"time"
)

// Process is a program that runs on a host until it ends or is stopped.
type Process struct {
	host   *Host
	name   string
	daemon bool // its log is worth printing when the scene fails
	cmd    *exec.Cmd
	out    *journal
	done   chan struct{} // closed when it has ended; cmd.ProcessState is set then
}

// start runs argv on the host with the variables env added. Its output goes to a journal and a log file.
func (h *Host) start(name string, env []string, argv ...string) *Process {
	h.lab.t.Helper()
	p, err := h.tryStart(name, env, argv...)
	if err != nil {
		h.lab.t.Fatalf("starting %s on %s: %v", name, h.Name, err)
	}
	return p
}

func (h *Host) tryStart(name string, env []string, argv ...string) (*Process, error) {
	out, err := newJournal(filepath.Join(h.lab.dir, h.Name+"-"+name+".log"))
	if err != nil {
		return nil, err
	}
	enter := []string{"--target", fmt.Sprint(h.holder.Process.Pid), "--net", "--mount", "--uts", "--"}
	cmd := exec.Command("nsenter", append(enter, argv...)...)
	cmd.Env = append(h.environ(), env...)
	cmd.Stdout, cmd.Stderr = out, out
	// A group of its own, so that a shell and what it started are ended together.
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
	cmd.WaitDelay = 2 * time.Second
	if err := h.lab.fork(cmd.Start); err != nil {
		out.Close()
		return nil, err
	}
	p := &Process{host: h, name: name, cmd: cmd, out: out, done: make(chan struct{})}
	h.lab.mu.Lock()
	h.lab.procs = append(h.lab.procs, p)
	h.lab.mu.Unlock()
	go func() { // ends with the process; Stop waits for done
		defer close(p.done)
		defer out.Close()
		_ = cmd.Wait() // the exit code is read from ProcessState
	}()
	return p, nil
}

// Await waits until the program has printed something that matches pattern, and returns the
// match and its groups. The scene ends when the program ends first, or when patience runs out.
func (p *Process) Await(pattern string) []string {
	p.host.lab.t.Helper()
	expr := regexp.MustCompile(pattern)
	timeout := time.After(p.host.lab.patience)
	for {
		text, more := p.out.read()
		if m := expr.FindStringSubmatch(text); m != nil {
			return m
		}
		select {
		case <-more:
		case <-p.done:
			text, _ = p.out.read()
			if m := expr.FindStringSubmatch(text); m != nil {
				return m
			}
			p.host.lab.t.Fatalf("%s on %s ended (%v) without printing %q:\n%s",
				p.name, p.host.Name, p.cmd.ProcessState, pattern, p.out.tail(40))
		case <-timeout:
			p.host.lab.t.Fatalf("%s on %s does not print %q:\n%s", p.name, p.host.Name, pattern, p.out.tail(40))
		}
	}
}

// Output is all that the program has printed until now.
func (p *Process) Output() string { text, _ := p.out.read(); return text }

// Ended waits for the program's end and returns its exit code (-1: by a signal).
func (p *Process) Ended() int {
	p.host.lab.t.Helper()
	select {
	case <-p.done:
	case <-time.After(p.host.lab.patience):
		p.host.lab.t.Fatalf("%s on %s does not end:\n%s", p.name, p.host.Name, p.out.tail(40))
	}
	return p.cmd.ProcessState.ExitCode()
}

// Alive says whether the program still runs.
func (p *Process) Alive() bool {
	select {
	case <-p.done:
		return false
	default:
		return true
	}
}

// Signal sends sig to the program itself.
func (p *Process) Signal(sig syscall.Signal) {
	p.host.lab.t.Helper()
	if err := p.cmd.Process.Signal(sig); err != nil {
		p.host.lab.t.Fatalf("sending %v to %s on %s: %v", sig, p.name, p.host.Name, err)
	}
}

// Kill ends the program and its children at once, as a power cut would, and waits.
func (p *Process) Kill() {
	if p.Alive() {
		_ = syscall.Kill(-p.cmd.Process.Pid, syscall.SIGKILL) // may have ended by itself just now
	}
	<-p.done
}

// Stop asks the program to end, waits, kills it after half a minute, and returns how long it took.
func (p *Process) Stop() time.Duration {
	begun := time.Now()
	if p.Alive() {
		_ = p.cmd.Process.Signal(syscall.SIGTERM) // it may end in between
	}
	select {
	case <-p.done:
	case <-time.After(30 * time.Second):
		p.host.lab.t.Logf("%s on %s had to be killed", p.name, p.host.Name)
	}
	p.Kill()
	return time.Since(begun)
}

// journal keeps what a program prints, in memory for the scene and in a file for people.
type journal struct {
	mu   sync.Mutex
	text bytes.Buffer
	file *os.File
	more chan struct{} // closed and replaced when text grows
}

// newJournal opens the log file at path and appends to it: a restarted daemon has one history.
func newJournal(path string) (*journal, error) {
	file, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, fmt.Errorf("opening log: %w", err)
	}
	return &journal{file: file, more: make(chan struct{})}, nil
}

func (j *journal) Write(b []byte) (int, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.text.Write(b)
	close(j.more)
	j.more = make(chan struct{})
	return j.file.Write(b)
}

func (j *journal) Close() error { return j.file.Close() }

// read returns the text so far and a channel that closes when there is more.
func (j *journal) read() (string, <-chan struct{}) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.text.String(), j.more
}

// tail returns the last n lines.
func (j *journal) tail(n int) string {
	text, _ := j.read()
	lines := strings.Split(strings.TrimRight(text, "\n"), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}
