//go:build linux

package lab

import (
	"encoding/json"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// Relay is a host that runs `derper`, enrolled at a control server.
type Relay struct {
	*Host
	flags string
	proc  *Process
}

// Enrolled starts derper with a fresh enrolment key of the server and further flags, and waits until the server has
// taken it in. The line is the one that `headscale derp enroll-keys create` prints for the operator.
func (h *Host) Enrolled(s *Server, flags ...string) *Relay {
	h.lab.t.Helper()
	r := &Relay{Host: h, flags: strings.Join(flags, " ")}
	said := s.Do("headscale derp enroll-keys create")
	line := ""
	for _, l := range strings.Split(said, "\n") {
		if l = strings.TrimSpace(l); strings.HasPrefix(l, "derper --control ") {
			line = l
		}
	}
	if line == "" {
		h.lab.t.Fatalf("no line for the relay in %q", said)
	}
	r.begin(line + " " + r.flags)
	r.proc.Await("enrolled as [^\n]*")
	return r
}

// Boot starts derper again: it has its enrolment in a file, so the flags without the key do.
func (r *Relay) Boot(control string) {
	r.lab.t.Helper()
	r.begin("derper --control " + control + " " + r.flags)
}

func (r *Relay) begin(line string) { r.proc = r.Begin(line) }

// Proc is the running derper.
func (r *Relay) Proc() *Process { return r.proc }

// RelayRow is what scenes read of `headscale derp list -o json`.
type RelayRow struct {
	ID        string   `json:"id"`
	Name      string   `json:"name"`
	Region    string   `json:"regionCode"`
	Published []string `json:"published"`
	Healthy   bool     `json:"healthy"`
	Online    bool     `json:"online"`
	Clients   int      `json:"clients,string"`
}

// Relays are the relays that the server lists.
func (s *Server) Relays() ([]RelayRow, error) {
	text, err := s.Quietly("headscale derp list -o json")
	if err != nil {
		return nil, err
	}
	var list []RelayRow
	if err := json.Unmarshal([]byte(text), &list); err != nil {
		return nil, fmt.Errorf("reading the list of relays: %w in %q", err, text)
	}
	return list, nil
}

// AwaitRelay waits until the server's relay of that name is as ok wants it.
func (s *Server) AwaitRelay(name, what string, ok func(RelayRow) bool) {
	s.lab.t.Helper()
	s.lab.Await(fmt.Sprintf("relay %s: %s", name, what), func() error {
		list, err := s.Relays()
		if err != nil {
			return err
		}
		for _, r := range list {
			if r.Name == name {
				if ok(r) {
					return nil
				}
				return fmt.Errorf("it is %+v", r)
			}
		}
		return fmt.Errorf("the server lists %+v", list)
	})
}

// Pinging is a ping that goes on, several times a second.
type Pinging struct{ *Process }

// PingSteadily begins to ping and waits for the first answer.
func (h *Host) PingSteadily(ip string) *Pinging {
	h.lab.t.Helper()
	p := &Pinging{h.Begin("ping -D -i 0.2 " + ip)}
	p.Await(`\n\[[^\n]* bytes from`)
	return p
}

// answered are the times of the lines with which ping -D tells of answers.
var answered = regexp.MustCompile(`(?m)^\[(\d+\.\d+)\] \d+ bytes from`)

// Answers are the times of all answers until now.
func (p *Pinging) Answers() (at []time.Time) {
	for _, m := range answered.FindAllStringSubmatch(p.Output(), -1) {
		if seconds, err := strconv.ParseFloat(m[1], 64); err == nil {
			at = append(at, time.UnixMicro(int64(seconds*1e6)))
		}
	}
	return at
}

// AwaitAnswer waits for an answer that comes after the moment at.
func (p *Pinging) AwaitAnswer(at time.Time) {
	p.host.lab.t.Helper()
	p.host.lab.Await("an answer to the pings of "+p.host.Name, func() error {
		all := p.Answers()
		if len(all) == 0 || !all[len(all)-1].After(at) {
			return fmt.Errorf("%d answers, none since %s", len(all), at.Format(time.TimeOnly))
		}
		return nil
	})
}

// LongestGap is the longest time without an answer, until now.
func (p *Pinging) LongestGap() (gap time.Duration) {
	at := append(p.Answers(), time.Now())
	for i := range at[1:] {
		gap = max(gap, at[i+1].Sub(at[i]))
	}
	return gap
}
