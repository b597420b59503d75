package main

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/keelscale/keelscale/derp"
	"github.com/keelscale/keelscale/derp/enrol"
)

// enrolment opens what the settings say of a control server; nil if they name none.
func (s *settings) enrolment(relay *derp.Config, log *slog.Logger) (*enrol.Agent, error) {
	if s.control == "" {
		return nil, nil
	}
	cfg := enrol.Config{
		Control:   s.control,
		Key:       s.enrollKey,
		StateFile: s.enrollState,
		Region:    s.region,
		Name:      s.name,
		Version:   versionText(),
		RelayKey:  relay.Key.Public(),
		Outage:    s.controlOutage,
		Limits:    relay.Limits,
		Log:       log,
	}
	if cfg.Outage == 0 {
		cfg.Outage = -1 // nobody without the control server; zero would leave it to that
	}
	agent, err := enrol.Open(cfg)
	if err != nil {
		return nil, err
	}
	relay.Admit = derp.All(agent.Admit, relay.Admit)
	return agent, nil
}

// Run runs the relay until ctx ends, and the session with the control server beside it.
func (r *relay) Run(ctx context.Context) error {
	if r.agent == nil {
		return r.Relay.Run(ctx)
	}
	// The relay goes on until the control server knows that it leaves.
	life, end := context.WithCancel(context.WithoutCancel(ctx))
	defer end()
	talk, hangUp := context.WithCancel(ctx)
	defer hangUp()
	var talking sync.WaitGroup
	var refused error
	talking.Go(func() {
		defer end()
		select {
		case ports := <-r.open:
			refused = r.agent.Run(talk, enrol.Host{
				Relay: r.Relay, Hostname: r.hostname, Ports: ports, Cert: r.cert,
			})
		case <-talk.Done():
		}
	})
	err := r.Relay.Run(life)
	hangUp()
	talking.Wait()
	return cmp.Or(err, refused)
}

// setLimits replaces the relay's own limits.
func (r *relay) setLimits(own derp.Limits) {
	if r.agent != nil {
		r.agent.SetLimits(own)
		return
	}
	r.Relay.SetLimits(own)
}

// enrolNotes tell on the status page how it stands with the control server.
func enrolNotes(st enrol.Status, now time.Time) []derp.Note {
	notes := []derp.Note{{Name: "Address", Text: withoutPassword(st.Control)}}
	add := func(name, text string, bad bool) { notes = append(notes, derp.Note{Name: name, Text: text, Bad: bad}) }
	if e := st.Enrolment; e.ID == 0 {
		add("Enrolled", "not yet", true)
	} else {
		add("Enrolled", fmt.Sprintf("as %s, region %d %s", e.Name, e.RegionID, e.RegionCode), false)
	}
	switch {
	case st.Connected:
		add("Session", "open", false)
	case st.Contact.IsZero():
		add("Session", cmp.Or(st.Trouble, "none yet"), true)
	default:
		add("Session", fmt.Sprintf("none: %s; last heard of %s ago", cmp.Or(st.Trouble, "the line is down"), now.Sub(st.Contact).Round(time.Second)), true)
	}
	if len(st.Published) > 0 {
		add("In the DERP map", strings.Join(st.Published, ", "), false)
	} else {
		add("In the DERP map", "no: "+cmp.Or(st.OutBecause, "the server has not said so yet"), true)
	}
	admits := fmt.Sprintf("%d nodes", st.Nodes)
	if !st.Until.IsZero() {
		admits += ", without the server until " + st.Until.UTC().Format("2006-01-02 15:04 UTC")
	}
	add("Admits", admits, st.Nodes == 0 && !st.Connected)
	return notes
}
