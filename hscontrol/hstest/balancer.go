package hstest

import (
	"bufio"
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

// Balancer is an haproxy before servers of their own processes. To nodes it is a server: they Use it.
type Balancer struct {
	Server

	names  []string
	socket string // where it takes orders
}

// balancerConfig is the configuration that docs/scaling.md shows, with the times and addresses of a test: a server that
// was killed is given up after two seconds, and one that only waits for a processor is not. HTTP mode speaks of it as a
// proxy does that may end TLS: requests are looked at, and one that asks for an upgrade becomes a tunnel.
const balancerConfig = `global
  stats socket %[1]s level admin
defaults
  mode %[2]s
  timeout connect 10s
  timeout client 3m
  timeout server 3m
  timeout tunnel 24h
  timeout check 10s
  retries 3
  option redispatch
frontend clients
  bind %[3]s
  default_backend headscale
backend headscale
  balance leastconn
  option httpchk GET /version
  default-server check inter 1s fall 2 rise 1 on-marked-down shutdown-sessions
%[4]s`

// StartBalancer runs an haproxy (mode "tcp" or "http") before servers until the test ends, and has them take its
// address for server_url: they are started anew. Without the program it skips the test.
func StartBalancer(t testing.TB, mode string, servers ...*Process) *Balancer {
	t.Helper()
	program, err := exec.LookPath("haproxy")
	if err != nil {
		if program = "/usr/sbin/haproxy"; !exists(program) {
			t.Skipf("no haproxy: %v: apt-get install haproxy", err)
		}
	}
	dir, err := os.MkdirTemp("", "hsproxy") // short: a unix socket's path has 108 bytes
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	addr := freePort(t)
	b := &Balancer{Server: Server{URL: "http://" + addr, t: t}, socket: filepath.Join(dir, "orders")}
	var lines strings.Builder
	for i, s := range servers {
		b.names = append(b.names, fmt.Sprintf("s%d", i))
		fmt.Fprintf(&lines, "  server s%d %s\n", i, strings.TrimPrefix(s.URL, "http://"))
		s.End(syscall.SIGTERM)
		s.Behind(b.URL)
		s.Begin()
	}
	config := filepath.Join(dir, "haproxy.cfg")
	if err := os.WriteFile(config, fmt.Appendf(nil, balancerConfig, b.socket, mode, addr, lines.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(program, "-db", "-q", "-f", config)
	cmd.Stdout, cmd.Stderr = testWriter{t}, testWriter{t}
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatalf("starting haproxy: %v", err)
	}
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	for deadline := time.Now().Add(Patience); !answers("tcp", addr) || !answers("unix", b.socket); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("haproxy does not answer")
		}
	}
	return b
}

// Only sends whoever comes from now on to one of the servers, counted from 0. Connections that are there stay.
func (b *Balancer) Only(server int) {
	b.t.Helper()
	b.order("set server headscale/" + b.names[server] + " state ready")
	for i, name := range b.names {
		if i != server {
			b.order("set server headscale/" + name + " state drain")
		}
	}
}

// All sends those who come to any of them again.
func (b *Balancer) All() {
	b.t.Helper()
	for _, name := range b.names {
		b.order("set server headscale/" + name + " state ready")
	}
}

// Connections are how many connections (mode tcp) or tunnels and requests (http) are open at each server.
func (b *Balancer) Connections() []int {
	b.t.Helper()
	counts := make([]int, len(b.names))
	for line := range strings.Lines(b.order("show stat")) {
		fields := strings.Split(line, ",") // proxy, server, waiting now and at most, open now, ...
		for i, name := range b.names {
			if len(fields) > 4 && fields[1] == name {
				fmt.Sscan(fields[4], &counts[i])
			}
		}
	}
	return counts
}

// order gives an order and the answer to it.
func (b *Balancer) order(text string) string {
	b.t.Helper()
	conn, err := net.DialTimeout("unix", b.socket, Patience)
	if err != nil {
		b.t.Fatalf("giving haproxy an order: %v", err)
	}
	defer conn.Close()
	fmt.Fprintln(conn, text)
	var answer strings.Builder
	lines := bufio.NewScanner(conn)
	for lines.Scan() {
		answer.WriteString(lines.Text() + "\n")
	}
	return answer.String()
}
