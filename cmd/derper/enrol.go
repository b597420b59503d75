package main

import (
	"cmp"
	"context"
	"log/slog"
	"sync"

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
