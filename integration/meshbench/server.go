package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// server is a running server in a directory of its own.
type server struct {
	program, dir, url string
	ours              bool
	cmd               *exec.Cmd
	ended             chan error
}

// Times of a server's life.
const (
	startTime = 20 * time.Second
	endTime   = 15 * time.Second
)

// smallMap is the map of relays where no other is given. Nobody dials them.
const smallMap = `regions:
  1: {regionid: 1, regioncode: a, regionname: A, nodes: [{name: 1a, regionid: 1, hostname: a.example.com}]}
  2: {regionid: 2, regioncode: b, regionname: B, nodes: [{name: 2a, regionid: 2, hostname: b.example.com}]}
  3: {regionid: 3, regioncode: c, regionname: C, nodes: [{name: 3a, regionid: 3, hostname: c.example.com}]}
`

// start runs a server with an empty database.
func (b *bench) start() (_ *server, err error) {
	s := &server{program: b.program, ours: b.ours, ended: make(chan error, 1)}
	if s.dir, err = os.MkdirTemp("", "meshbench"); err != nil {
		return nil, err
	}
	derps := filepath.Join(s.dir, "derp.yaml")
	relays := []byte(smallMap)
	if b.derps != "" {
		if relays, err = os.ReadFile(b.derps); err != nil {
			return nil, err
		}
	}
	ports, err := freePorts(3)
	if err != nil {
		return nil, err
	}
	s.url = "http://" + ports[0]
	config := fmt.Sprintf(`server_url: %s
listen_addr: %s
metrics_listen_addr: %s
grpc_listen_addr: %s
unix_socket: %s
noise: {private_key_path: %s}
prefixes: {v4: 100.64.0.0/10, v6: "fd7a:115c:a1e0::/48"}
database: {type: sqlite, sqlite: {path: %s, write_ahead_log: true}}
derp: {server: {enabled: false}, urls: [], paths: [%s], auto_update_enabled: false}
dns: {magic_dns: true, base_domain: mesh.example, override_local_dns: false}
policy: {mode: database}
log: {level: warn}
`, s.url, ports[0], ports[1], ports[2], s.path("headscale.sock"), s.path("noise.key"), s.path("db.sqlite"), derps)
	if err := errors.Join(os.WriteFile(derps, relays, 0o600), os.WriteFile(s.path("config.yaml"), []byte(config), 0o600)); err != nil {
		return nil, err
	}
	log, err := os.Create(s.path("log"))
	if err != nil {
		return nil, err
	}
	defer log.Close()
	s.cmd = exec.Command(b.program, "-c", s.path("config.yaml"), "serve")
	s.cmd.Stdout, s.cmd.Stderr = log, log
	if err := s.cmd.Start(); err != nil {
		return nil, fmt.Errorf("starting the server: %w", err)
	}
	go func() { s.ended <- s.cmd.Wait() }()
	return s, s.await()
}

func (s *server) path(name string) string { return filepath.Join(s.dir, name) }

// await returns when the server answers clients and command lines.
func (s *server) await() error {
	for end := time.Now().Add(startTime); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		resp, err := http.Get(s.url + "/key?v=142")
		if err != nil {
			continue
		}
		resp.Body.Close()
		if _, err := os.Stat(s.path("headscale.sock")); err == nil {
			return nil
		}
	}
	log, _ := os.ReadFile(s.path("log"))
	s.stop()
	return fmt.Errorf("the server did not start:\n%s", log)
}

// stop ends the server and removes what it wrote.
func (s *server) stop() {
	s.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-s.ended:
	case <-time.After(endTime):
		s.cmd.Process.Kill()
		<-s.ended
	}
	os.RemoveAll(s.dir)
}

// cli runs a command of the server's program and returns what it printed.
func (s *server) cli(args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, s.program, append([]string{"-c", s.path("config.yaml")}, args...)...)
	out, err := cmd.Output()
	if err != nil {
		var exit *exec.ExitError
		if errors.As(err, &exit) {
			err = fmt.Errorf("%w: %s", err, exit.Stderr)
		}
		return "", fmt.Errorf("%s: %w", strings.Join(args, " "), err)
	}
	return strings.TrimSpace(string(out)), nil
}

// user makes a user and returns the number that keys are made for.
func (s *server) user(name string, more ...string) (string, error) {
	out, err := s.cli(append([]string{"users", "create", name, "-o", "json"}, more...)...)
	if err != nil {
		return "", err
	}
	var made struct{ ID json.RawMessage }
	if err := json.Unmarshal([]byte(out), &made); err != nil {
		return "", fmt.Errorf("reading the new user %s: %w", out, err)
	}
	return strings.Trim(string(made.ID), `"`), nil
}

// key makes a reusable key.
func (s *server) key(more ...string) (string, error) {
	out, err := s.cli(append([]string{"preauthkeys", "create", "--reusable", "--expiration", "24h", "-o", "json"}, more...)...)
	if err != nil {
		return "", err
	}
	var made struct{ Key string }
	if err := json.Unmarshal([]byte(out), &made); err != nil || made.Key == "" {
		return "", fmt.Errorf("no key in %s", out)
	}
	return made.Key, nil
}

// keyOf makes a user and a key for it.
func (s *server) keyOf(name string, more ...string) (string, error) {
	id, err := s.user(name, more...)
	if err != nil {
		return "", err
	}
	return s.key(append([]string{"--user", id}, more...)...)
}

// freePorts are addresses on the loopback where nobody listens.
func freePorts(n int) (addrs []string, err error) {
	for range n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, err
		}
		defer l.Close()
		addrs = append(addrs, l.Addr().String())
	}
	return addrs, nil
}
