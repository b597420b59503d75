//go:build linux

package lab

import (
	"bufio"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// Host is one machine of the lab.
type Host struct {
	Name string
	lab  *Lab

	holder *exec.Cmd // the process that the namespaces belong to
	hold   io.Closer // its standard input: closing it ends it
	path   []string  // directories before the machine's PATH
	addr   netip.Addr
	cables []cable

	questions []string // lines to type when the scene has failed
}

// furnish is what a holder does in its fresh namespaces before it waits for the end. /etc is the
// machine's own with a layer over it, so that programs find what they expect and may write; /run
// and /var/lib are empty as on a new machine, which also keeps tailscaled away from the resolver
// services of the machine that runs the tests.
const furnish = `set -e
hostname "$1"
mount -t sysfs sysfs /sys
mount -t tmpfs tmpfs "$2"
mkdir "$2/upper" "$2/work"
mount -t overlay overlay -o "lowerdir=/etc,upperdir=$2/upper,workdir=$2/work" /etc
mount -t tmpfs tmpfs /run
mount -t tmpfs tmpfs /var/lib
mkdir -p /etc/headscale /run/headscale /var/lib/headscale /run/tailscale /var/lib/tailscale
rm -f /etc/resolv.conf
echo "nameserver 203.0.113.1" >/etc/resolv.conf
printf '127.0.0.1 localhost\n::1 localhost\n127.0.1.1 %s\n' "$1" >/etc/hosts
ip link set lo up
echo ready
exec cat`

// newHost makes a machine without any cable.
func (l *Lab) newHost(name string) *Host {
	l.t.Helper()
	h := &Host{Name: name, lab: l, path: []string{os.Getenv(binVar)}}
	if err := h.hatch(); err != nil {
		l.t.Fatalf("making host %s: %v", name, err)
	}
	l.mu.Lock()
	l.hosts = append(l.hosts, h)
	l.mu.Unlock()
	return h
}

// hatch starts the holder and waits until the machine is furnished.
func (h *Host) hatch() error {
	layers := filepath.Join(h.lab.dir, "etc-"+h.Name)
	if err := os.MkdirAll(layers, 0o755); err != nil {
		return err
	}
	h.holder = exec.Command("unshare", "--net", "--mount", "--uts", "sh", "-c", furnish, "sh", h.Name, layers)
	h.holder.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
	stdin, err := h.holder.StdinPipe()
	if err != nil {
		return err
	}
	stdout, err := h.holder.StdoutPipe()
	if err != nil {
		return err
	}
	var complaint strings.Builder
	h.holder.Stderr = &complaint
	h.hold = stdin
	if err := h.lab.fork(h.holder.Start); err != nil {
		return err
	}
	if line, err := bufio.NewReader(stdout).ReadString('\n'); line != "ready\n" {
		h.release()
		return fmt.Errorf("furnishing: %v: %s", err, complaint.String())
	}
	return nil
}

// release ends the holder, and with it the namespaces.
func (h *Host) release() {
	h.hold.Close()
	_ = h.holder.Wait() // ended by the closing of its input, or earlier
}

// environ is what every program on the host finds in its environment.
func (h *Host) environ() []string {
	path := strings.Join(append(h.path, "/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"), ":")
	return []string{"PATH=" + path, "HOME=/root", "LANG=C.UTF-8", "NO_COLOR=1"}
}

// Do types a line on the host, writes it and what it prints to the transcript, and returns the
// output without the last newline. A failing line ends the scene.
func (h *Host) Do(line string) string {
	h.lab.t.Helper()
	out, err := h.Try(line)
	if err != nil {
		h.lab.t.Fatalf("%s$ %s: %v", h.Name, line, err)
	}
	return out
}

// Refused types a line that must fail, and returns what it says.
func (h *Host) Refused(line string) string {
	h.lab.t.Helper()
	out, err := h.Try(line)
	if err == nil {
		h.lab.t.Fatalf("%s$ %s: it worked, but must be refused", h.Name, line)
	}
	return out
}

// Try types a line on the host and returns what it prints, and an error when it fails.
func (h *Host) Try(line string) (string, error) {
	h.lab.t.Helper()
	out, err := h.Quietly(line)
	h.lab.t.Logf("%s$ %s\n%s", h.Name, line, out)
	return out, err
}

// Quietly is Try without the transcript, for lines that are repeated until they work.
func (h *Host) Quietly(line string) (string, error) {
	p, err := h.tryStart("shell", nil, "sh", "-c", line)
	if err != nil {
		return "", err
	}
	defer h.lab.forget(p)
	select {
	case <-p.done:
	case <-time.After(h.lab.patience):
		p.Kill()
		return p.Output(), fmt.Errorf("no end after %v", h.lab.patience)
	}
	out := strings.TrimRight(p.Output(), "\n")
	if code := p.cmd.ProcessState.ExitCode(); code != 0 {
		return out, fmt.Errorf("exit code %d: %s", code, out)
	}
	return out, nil
}

// Begin types a line and leaves it running, as in a second terminal.
func (h *Host) Begin(line string) *Process {
	h.lab.t.Helper()
	h.lab.t.Logf("%s$ %s &", h.Name, line)
	p := h.start(strings.Fields(line)[0], nil, "sh", "-c", "exec "+line)
	p.daemon = true
	return p
}

// Eventually types a line until it succeeds and prints something that holds want ("" is anything).
func (h *Host) Eventually(line, want string) string {
	h.lab.t.Helper()
	var out string
	h.lab.Await(fmt.Sprintf("%q of `%s` on %s", want, line, h.Name), func() (err error) {
		if out, err = h.Quietly(line); err == nil && !strings.Contains(out, want) {
			err = fmt.Errorf("it prints %q", out)
		}
		return err
	})
	h.lab.t.Logf("%s$ %s\n%s", h.Name, line, out)
	return out
}

// Write puts a file on the host.
func (h *Host) Write(path, text string) {
	h.lab.t.Helper()
	if err := os.WriteFile(h.inside(path), []byte(text), 0o644); err != nil {
		h.lab.t.Fatalf("writing %s on %s: %v", path, h.Name, err)
	}
}

// Read returns a file of the host.
func (h *Host) Read(path string) string {
	h.lab.t.Helper()
	text, err := os.ReadFile(h.inside(path))
	if err != nil {
		h.lab.t.Fatalf("reading %s on %s: %v", path, h.Name, err)
	}
	return string(text)
}

// inside is the name that a file of the host has outside, where the tests run.
func (h *Host) inside(path string) string {
	return fmt.Sprintf("/proc/%d/root%s", h.holder.Process.Pid, path)
}

// Addr is the host's address on its first network.
func (h *Host) Addr() string { return h.addr.String() }

// inhabitants are the processes in the host's network, the holder left out.
func (h *Host) inhabitants() (pids []int) {
	ours, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/net", h.holder.Process.Pid))
	if err != nil {
		return nil // the holder has ended
	}
	links, _ := filepath.Glob("/proc/[0-9]*/ns/net")
	for _, link := range links {
		pid, _ := strconv.Atoi(strings.Split(link, "/")[2])
		if ns, err := os.Readlink(link); err == nil && ns == ours && pid != h.holder.Process.Pid {
			pids = append(pids, pid)
		}
	}
	return pids
}

// describe names a process for people.
func describe(pid int) string {
	line, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	return fmt.Sprintf("%d (%s)", pid, strings.TrimSpace(strings.ReplaceAll(string(line), "\x00", " ")))
}
