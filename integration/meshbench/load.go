package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
)

// loaded is what the simulator says of a run.
type loaded struct {
	OK     bool     `json:"ok"`
	Phases []*phase `json:"phases"`
	Lost   float64  `json:"polls_lost"`
}

type phase struct {
	Name     string             `json:"name"`
	OK       bool               `json:"ok"`
	Nodes    float64            `json:"nodes"`
	Figures  map[string]float64 `json:"figures"`
	User     float64            `json:"server_user_s"`
	Sys      float64            `json:"server_sys_s"`
	End      float64            `json:"server_rss_mb"`
	Peak     float64            `json:"server_peak_rss_mb"`
	Received float64            `json:"rx_bytes"`
	Map      float64            `json:"map_bytes_compressed"`
	Messages float64            `json:"map_messages"`
	Records  float64            `json:"peer_records"`
	Patches  float64            `json:"peer_patches"`
	Latency  map[string]struct {
		N   float64 `json:"n"`
		P50 float64 `json:"p50_ms"`
		P99 float64 `json:"p99_ms"`
	} `json:"latency"`
}

func (p *phase) cpu() float64 { return p.User + p.Sys }

// phase is the one with that name; an empty one if it did not take place or went wrong.
func (l *loaded) phase(name string) (*phase, error) {
	for _, p := range l.Phases {
		if p.Name != name {
			continue
		}
		if !p.OK {
			return nil, fmt.Errorf("phase %s was not correct", name)
		}
		return p, nil
	}
	return nil, fmt.Errorf("phase %s did not take place", name)
}

// simulate runs the simulator against a server to its end.
func (b *bench) simulate(s *server, keys []string, args ...string) (*loaded, error) {
	return b.simulation(s, "load", keys, args...)()
}

// simulation starts the simulator; what it returns waits for its end.
func (b *bench) simulation(s *server, name string, keys []string, args ...string) func() (*loaded, error) {
	list, result := s.path(name+".keys"), s.path(name+".json")
	fail := func(err error) func() (*loaded, error) { return func() (*loaded, error) { return nil, err } }
	if err := os.WriteFile(list, []byte(strings.Join(keys, "\n")), 0o600); err != nil {
		return fail(err)
	}
	all := append([]string{
		"-server", s.url, "-authkey", "@" + list, "-server-pid", strconv.Itoa(s.cmd.Process.Pid), "-json", result, "-host-prefix", name,
		"-concurrency", "100", "-duration", "0s", "-rounds", "0", "-joins", "0", "-storms", "0", "-update-all", "0", "-kinds", "endpoints",
	}, args...)
	cmd := exec.Command(b.load, all...)
	var said strings.Builder
	cmd.Stdout, cmd.Stderr = &said, &said
	if err := cmd.Start(); err != nil {
		return fail(fmt.Errorf("starting the simulator: %w", err))
	}
	return func() (*loaded, error) {
		err := cmd.Wait()
		var exit *exec.ExitError
		if err != nil && !(errors.As(err, &exit) && exit.ExitCode() == 3) {
			return nil, fmt.Errorf("the simulator: %w:\n%s", err, said.String())
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, said.String())
		}
		text, err := os.ReadFile(result)
		if err != nil {
			return nil, err
		}
		l := new(loaded)
		if err := json.Unmarshal(text, l); err != nil {
			return nil, fmt.Errorf("reading what the simulator says: %w", err)
		}
		return l, nil
	}
}
