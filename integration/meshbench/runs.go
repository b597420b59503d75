package main

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"
)

// bench measures one program.
type bench struct {
	program, load, policy, derps string
	ours                         bool
	got                          figures
}

// measurement is a fresh server and a load.
type measurement struct {
	name string
	run  func(*bench, *server) error
}

// measurements are all that there are, in the order in which they are taken.
var measurements = []measurement{
	{"200", (*bench).small},
	{"500", (*bench).middle},
	{"1000", (*bench).large},
	{"2000", (*bench).herd},
	{"5000", (*bench).several},
	{"policy", (*bench).governed},
	{"tailnets", (*bench).tailnets},
	{"beside", (*bench).beside},
}

func (b *bench) measure(m measurement) error {
	s, err := b.start()
	if err != nil {
		return err
	}
	defer s.stop()
	return m.run(b, s)
}

// small is 200 nodes without a policy.
func (b *bench) small(s *server) error {
	const rounds = 50
	l, err := b.plain(s, "-nodes", "200", "-rounds", strconv.Itoa(rounds))
	if err != nil {
		return err
	}
	return errors.Join(b.registered(l, "200"), b.changed(l, "200", rounds), b.lost(l, "200"))
}

// middle is 500.
func (b *bench) middle(s *server) error {
	const joins = 10
	l, err := b.plain(s, "-nodes", "500", "-update-all", "1", "-joins", strconv.Itoa(joins), "-storms", "1")
	if err != nil {
		return err
	}
	if p, err := l.phase("update-all"); err == nil {
		b.got["all-500"] = []float64{p.Figures["all_know_s"], p.cpu(), p.Messages / p.Nodes}
	}
	if p, err := l.phase("join"); err == nil {
		// Less the whole map that each joiner got.
		whole := joins * (500 + joins/2.0)
		b.got["join-500"] = []float64{p.Latency["the joiner has its map"].P50, p.cpu() / joins, (p.Records + p.Patches - whole) / joins / p.Nodes}
	}
	return errors.Join(b.registered(l, "500"), b.reconnected(l, "500"), b.lost(l, "500"))
}

// large is 1,000.
func (b *bench) large(s *server) error {
	const rounds = 20
	l, err := b.plain(s, "-nodes", "1000", "-rounds", strconv.Itoa(rounds), "-churn-rate", "100", "-churn-duration", "15s")
	if err != nil {
		return err
	}
	if p, err := l.phase("register"); err == nil {
		b.got["memory-1000"] = []float64{p.End, p.Peak}
		b.got["received-1000"] = []float64{p.Received / p.Nodes / 1000}
	}
	if p, err := l.phase("churn"); err == nil {
		b.got["churn-1000"] = []float64{p.Latency["each pair"].P99}
	}
	return errors.Join(b.registered(l, "1000"), b.changed(l, "1000", rounds), b.lost(l, "1000"))
}

// herd is 2,000.
func (b *bench) herd(s *server) error {
	l, err := b.plain(s, "-nodes", "2000", "-storms", "1")
	if err != nil {
		return err
	}
	return errors.Join(b.registered(l, "2000"), b.reconnected(l, "2000"), b.lost(l, "2000"))
}

// several is 5,000, of five simulators.
func (b *bench) several(s *server) error {
	key, err := s.keyOf("bench")
	if err != nil {
		return err
	}
	const simulators = 5
	begun := time.Now()
	before, err := s.cpu()
	if err != nil {
		return err
	}
	var waits []func() (*loaded, error)
	for i := range simulators {
		waits = append(waits, b.simulation(s, "load"+strconv.Itoa(i), []string{key}, "-nodes", "1000", "-concurrency", "20", "-quiet", "3s"))
	}
	var errs []error
	for _, wait := range waits {
		l, err := wait()
		if err == nil {
			_, err = l.phase("register")
		}
		errs = append(errs, err)
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	after, err := s.cpu()
	b.got["register-5000"] = []float64{time.Since(begun).Seconds(), after - before}
	return err
}

// governed is 200 with a policy.
func (b *bench) governed(s *server) error {
	const rounds, joins = 50, 10
	var keys []string
	for i := range 20 {
		key, err := s.keyOf(fmt.Sprintf("u%02d", i))
		if err != nil {
			return err
		}
		keys = append(keys, key)
	}
	if _, err := s.cli("policy", "set", "-f", b.policy); err != nil {
		return err
	}
	for i := range 10 {
		key, err := s.key("--user", "1", "--tags", fmt.Sprintf("tag:t%d", i))
		if err != nil {
			return err
		}
		keys = append(keys, key)
	}
	l, err := b.simulate(s, keys, "-expect", "policy", "-nodes", "200", "-rounds", strconv.Itoa(rounds), "-joins", strconv.Itoa(joins), "-storms", "1")
	if err != nil {
		return err
	}
	change, err1 := l.phase("fanout-endpoints")
	join, err2 := l.phase("join")
	storm, err3 := l.phase("reconnect")
	if err := errors.Join(err1, err2, err3); err != nil {
		return err
	}
	b.got["change-policy"] = []float64{change.cpu() / rounds, join.cpu() / joins, storm.cpu()}
	// Those that may see it get one, and the node that changed one about itself.
	hidden := (change.Messages - change.Latency["each watcher"].N - rounds) / rounds
	b.got["hidden-policy"] = []float64{max(hidden, 0) / change.Nodes}
	return errors.Join(b.registered(l, "policy"), b.lost(l, "policy"))
}

// tailnets is 5,000 nodes in 100 tailnets.
func (b *bench) tailnets(s *server) error {
	if !b.ours {
		return errors.New("only ours has several tailnets")
	}
	const tailnets = 100
	var keys []string
	for i := range tailnets {
		name := fmt.Sprintf("net%d", i)
		if _, err := s.cli("tailnets", "create", name); err != nil {
			return err
		}
		key, err := s.keyOf(fmt.Sprintf("bench%d", i), "--tailnet", name)
		if err != nil {
			return err
		}
		keys = append(keys, key)
	}
	l, err := b.simulate(s, keys, "-expect", "policy", "-nodes", strconv.Itoa(50*tailnets))
	if err != nil {
		return err
	}
	return b.registered(l, "tailnets")
}

// beside is a storm in one tailnet, and changes in another.
func (b *bench) beside(s *server) error {
	if !b.ours {
		return errors.New("only ours has several tailnets")
	}
	stormy, err := s.keyOf("stormy")
	if err != nil {
		return err
	}
	if _, err := s.cli("tailnets", "create", "quiet"); err != nil {
		return err
	}
	quiet, err := s.keyOf("quiet", "--tailnet", "quiet")
	if err != nil {
		return err
	}
	const rounds = 60 // of about 250 ms
	storm := b.simulation(s, "storm", []string{stormy}, "-nodes", "1000", "-duration", "25s", "-storms", "4", "-limit", "2m")
	time.Sleep(8 * time.Second) // until they have registered
	calm, err := b.changes(s, "calm", quiet, rounds)
	if err != nil {
		return err
	}
	time.Sleep(5 * time.Second) // until the first storm
	during, err := b.changes(s, "during", quiet, rounds)
	if _, stormErr := storm(); errors.Join(err, stormErr) != nil {
		return errors.Join(err, stormErr)
	}
	b.got["beside-storm"] = []float64{during / calm}
	return nil
}

// changes is the p99 of changes among 50 nodes.
func (b *bench) changes(s *server, name, key string, rounds int) (float64, error) {
	l, err := b.simulation(s, name, []string{key}, "-expect", "policy", "-nodes", "50", "-concurrency", "10", "-rounds", strconv.Itoa(rounds))()
	if err != nil {
		return 0, err
	}
	p, err := l.phase("fanout-endpoints")
	if err != nil {
		return 0, err
	}
	return p.Latency["each watcher"].P99, nil
}

// plain is a load on a tailnet of one user and no policy.
func (b *bench) plain(s *server, args ...string) (*loaded, error) {
	key, err := s.keyOf("bench")
	if err != nil {
		return nil, err
	}
	return b.simulate(s, []string{key}, args...)
}

func (b *bench) registered(l *loaded, size string) error {
	p, err := l.phase("register")
	if err != nil {
		return err
	}
	b.got["register-"+size] = []float64{p.Figures["converged_s"], p.cpu()}
	return nil
}

func (b *bench) reconnected(l *loaded, size string) error {
	p, err := l.phase("reconnect")
	if err != nil {
		return err
	}
	b.got["reconnect-"+size] = []float64{p.Figures["all_have_maps_s"], p.cpu()}
	return nil
}

func (b *bench) changed(l *loaded, size string, rounds float64) error {
	p, err := l.phase("fanout-endpoints")
	if err != nil {
		return err
	}
	seen := p.Latency["each watcher"]
	b.got["change-"+size] = []float64{seen.P50, seen.P99, 1000 * p.cpu() / rounds}
	b.got["bytes-"+size] = []float64{p.Received / rounds / p.Nodes}
	return nil
}

func (b *bench) lost(l *loaded, size string) error {
	b.got["lost-"+size] = []float64{l.Lost}
	return nil
}

// ticksPerSecond is the unit of CPU times in /proc.
const ticksPerSecond = 100

// cpu is what the server has used so far, in seconds.
func (s *server) cpu() (float64, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", s.cmd.Process.Pid))
	if err != nil {
		return 0, err
	}
	_, rest, _ := strings.Cut(string(text), ") ")
	fields := strings.Fields(rest)
	if len(fields) < 13 {
		return 0, fmt.Errorf("/proc says %q of the server", text)
	}
	user, err1 := strconv.ParseFloat(fields[11], 64)
	sys, err2 := strconv.ParseFloat(fields[12], 64)
	return (user + sys) / ticksPerSecond, errors.Join(err1, err2)
}
