//go:build linux

package lab

import (
	"fmt"
	"strings"
	"time"
)

// Server is a host that runs `headscale serve` with its configuration at the usual place.
type Server struct {
	*Host
	proc *Process
}

// Headscale writes the configuration to /etc/headscale/config.yaml ("" is no file at all), starts the
// server and waits until it says that it is well.
func (h *Host) Headscale(config string) *Server {
	h.lab.t.Helper()
	if config != "" {
		h.Write("/etc/headscale/config.yaml", config)
	}
	s := &Server{Host: h}
	h.questions = append(h.questions, "headscale nodes list", "headscale nodes list -o json | grep -E 'givenName|endpoints|:[0-9]+\"'")
	s.Boot()
	return s
}

// Boot starts the server and waits until `headscale health` is content, but for relays, which may come later.
func (s *Server) Boot() {
	s.lab.t.Helper()
	s.lab.t.Logf("%s$ headscale serve &", s.Name)
	s.proc = s.start("headscale", nil, "headscale", "serve")
	s.proc.daemon = true
	s.lab.Await("headscale to be well", func() error {
		if !s.proc.Alive() {
			s.lab.t.Fatalf("headscale has ended (%v):\n%s", s.proc.cmd.ProcessState, s.proc.out.tail(40))
		}
		out, err := s.Quietly("headscale health")
		if err != nil && strings.Count(out, "FAULT") == 1 && strings.Contains(out, "FAULT: derp-map: the DERP map is empty") {
			return nil // its relays are yet to enrol
		}
		return err
	})
}

// Proc is the running server.
func (s *Server) Proc() *Process { return s.proc }

// PowerCut kills the server with SIGKILL and starts it again.
func (s *Server) PowerCut() {
	s.lab.t.Helper()
	s.lab.t.Logf("%s: kill -9 of headscale", s.Name)
	s.proc.Kill()
	s.Boot()
}

// Restart stops the server as a service manager does, starts it again, and returns how long stopping took.
func (s *Server) Restart() time.Duration {
	s.lab.t.Helper()
	s.lab.t.Logf("%s: restart of headscale", s.Name)
	took := s.proc.Stop()
	s.Boot()
	return took
}

// Config is a configuration of today for a server at the given public address, followed by further
// lines: plain http on port 8080, both address families, the embedded relay, names below lab.example.
func Config(addr string, more ...string) string {
	return fmt.Sprintf(`server_url: http://%[1]s:8080
listen_addr: 0.0.0.0:8080
metrics_listen_addr: 127.0.0.1:9090
unix_socket: /var/run/headscale/headscale.sock
noise:
  private_key_path: /var/lib/headscale/noise_private.key
prefixes:
  v4: 100.64.0.0/10
  v6: fd7a:115c:a1e0::/48
database:
  type: sqlite
  sqlite:
    path: /var/lib/headscale/db.sqlite
derp:
  server:
    enabled: true
    region_id: 999
    region_code: headscale
    region_name: Headscale Embedded DERP
    stun_listen_addr: 0.0.0.0:3478
    private_key_path: /var/lib/headscale/derp_server_private.key
    ipv4: %[1]s
  urls: []
  paths: []
dns:
  magic_dns: true
  base_domain: lab.example
  override_local_dns: false
%[2]s`, addr, strings.Join(more, "\n"))
}

// Key makes a pre-auth key with the given arguments of `headscale preauthkeys create`.
func (s *Server) Key(args string) string {
	s.lab.t.Helper()
	return s.Do("headscale preauthkeys create " + args)
}
