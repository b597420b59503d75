package derp

import (
	_ "embed"
	"fmt"
	"html/template"
	"io"
	"net/http"
	"time"
)

// The status page, for the operator: what matters, and nothing to click.

// Note is a line of the status page that somebody else writes, such as about an enrolment.
type Note struct {
	Name, Text string
	Bad        bool // it needs looking after
}

//go:embed status.html
var statusHTML string

var statusPage = template.Must(template.New("status").Parse(statusHTML))

// statusView is what the page shows.
type statusView struct {
	Key, Up   string
	Troubles  []string
	Sections  []statusSection
	Generated string
}

type statusSection struct {
	Title string
	Rows  []Note
}

// troubles are sentences about what is wrong now.
func (r *Relay) troubles(now time.Time) []string {
	list := r.Load().Troubles
	if cert := r.cfg.Listen.Cert; cert != nil {
		switch end := cert.Expires(); {
		case end.IsZero():
			list = append(list, "there is no certificate yet")
		case now.After(end):
			list = append(list, "the certificate has expired on "+day(end))
		}
	}
	return list
}

// serveHealth says whether the relay does what it is for.
func (r *Relay) serveHealth(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("Cache-Control", "no-store")
	list := r.troubles(time.Now())
	if len(list) == 0 {
		io.WriteString(w, "ok\n")
		return
	}
	w.WriteHeader(http.StatusServiceUnavailable)
	for _, t := range list {
		fmt.Fprintln(w, t)
	}
}

// servePublicHealth says no more than whether; why is the operator's.
func (r *Relay) servePublicHealth(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("Cache-Control", "no-store")
	if len(r.troubles(time.Now())) > 0 {
		http.Error(w, "not well", http.StatusServiceUnavailable)
		return
	}
	io.WriteString(w, "ok\n")
}

func (r *Relay) serveStatus(w http.ResponseWriter, _ *http.Request) {
	now := time.Now()
	v := statusView{
		Key:       r.PublicKey().String(),
		Up:        span(now.Sub(r.engine.start)),
		Troubles:  r.troubles(now),
		Generated: now.UTC().Format("2006-01-02 15:04:05 UTC"),
	}
	v.Sections = append(v.Sections, r.trafficSection(), r.dropSection(), r.certSection(now), r.placeSection())
	if notes := r.cfg.Listen.Notes; notes != nil {
		if rows := notes(); len(rows) > 0 {
			v.Sections = append(v.Sections, statusSection{"Control server", rows})
		}
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.Header().Set("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'")
	w.Header().Set("Cache-Control", "no-store")
	if err := statusPage.Execute(w, v); err != nil {
		r.log.Debug("writing the status page", "err", err)
	}
}

func (r *Relay) trafficSection() statusSection {
	n, l := r.engine.census(), r.Load()
	limits := r.engine.limits.Load()
	s := statusSection{Title: "Clients and traffic"}
	s.add("Nodes connected", fmt.Sprint(len(r.Clients())))
	if n.dupConns > 0 {
		s.add("Keys with several connections", fmt.Sprint(n.dupKeys))
	}
	s.add("Nodes reached by other relays", fmt.Sprint(n.remote))
	s.add("Received", fmt.Sprintf("%s in %d packets", bytesText(l.ReceivedBytes), l.ReceivedPackets))
	s.add("Sent", fmt.Sprintf("%s in %d packets", bytesText(l.SentBytes), l.SentPackets))
	month := bytesText(l.SentThisMonth)
	if q := limits.MonthlyQuota; q > 0 {
		month += fmt.Sprintf(" of %s (%d %%)", bytesText(q), uint64(100*float64(l.SentThisMonth)/float64(q)))
	}
	s.Rows = append(s.Rows, Note{"Sent this month", month, limits.MonthlyQuota > 0 && l.SentThisMonth >= limits.MonthlyQuota})
	s.add("Refused", fmt.Sprintf("%d connections", l.Refused))
	s.add("Limit of all nodes", boundText(limits.Total))
	if limits.Node == nil {
		s.add("Limit of each node", "none")
	} else {
		s.add("Limit of each node", "set")
	}
	if per := limits.ConnectionsPerSecond; per > 0 {
		s.add("New connections", fmt.Sprintf("at most %g per second", per))
	}
	return s
}

func (r *Relay) dropSection() statusSection {
	s := statusSection{Title: "Packets dropped"}
	for why := range dropReasons {
		var n int64
		for kind := range kinds {
			n += r.engine.count.dropped[why][kind].Load()
		}
		if n > 0 {
			s.add(why.sentence(), fmt.Sprint(n))
		}
	}
	if len(s.Rows) == 0 {
		s.add("None", "")
	}
	return s
}

func (r *Relay) certSection(now time.Time) statusSection {
	s := statusSection{Title: "Certificate"}
	cert := r.cfg.Listen.Cert
	if cert == nil {
		s.add("None", "plain HTTP, for a TLS proxy in front")
		return s
	}
	s.add("Mode", cert.Mode())
	list := cert.Certificates()
	if len(list) == 0 {
		s.Rows = append(s.Rows, Note{"Certificate", "there is none yet", true})
	}
	for i, info := range list {
		name := "Published"
		if i > 0 {
			name = "Old, still served"
		}
		text := "until " + day(info.Expires) + ", in " + span(info.Expires.Sub(now))
		if info.Pin != "" {
			text += ", pin " + info.Pin
		}
		s.Rows = append(s.Rows, Note{name, text, i == 0 && now.After(info.Expires)})
	}
	return s
}

func (r *Relay) placeSection() statusSection {
	s := statusSection{Title: "Ports and mesh"}
	for _, p := range []struct{ name, at string }{
		{"Relay", portText(r.ports.Relay)}, {"http", portText(r.ports.HTTP)}, {"STUN", portText(r.ports.STUN)},
	} {
		s.add(p.name, p.at)
	}
	if r.stun != nil {
		c := r.stun.Counts()
		s.add("STUN answers", fmt.Sprintf("%d over IPv4, %d over IPv6", c.IPv4, c.IPv6))
	}
	s.add("Relays of the mesh connected", fmt.Sprint(r.engine.census().meshed))
	return s
}

func (s *statusSection) add(name, text string) { s.Rows = append(s.Rows, Note{Name: name, Text: text}) }

// sentence says to people what String says to programs.
func (r dropReason) sentence() string {
	return [dropReasons]string{
		"for nodes that are not here", "from other relays, for nodes that are not here", "the receiver left",
		"the receiver's queue was full", "waited too long", "the queue to another relay was full", "writing failed",
	}[r]
}
