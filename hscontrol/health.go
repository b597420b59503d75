package hscontrol

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"tailscale.com/tailcfg"
	"tailscale.com/types/key"

	"github.com/keelscale/keelscale/hscontrol/api"
	"github.com/keelscale/keelscale/hscontrol/state"
	"github.com/keelscale/keelscale/hscontrol/tailnet"
)

// setFault remembers something that is not as it should be, for `headscale health`; an empty text takes it back.
func (s *Server) setFault(name, text string, severe bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if text == "" {
		delete(s.faults, name)
		return
	}
	s.faults[name] = api.Fault{Name: name, Text: text, Severe: severe}
}

// Health is everything that is not as it should be, beside the database.
func (s *Server) Health(ctx context.Context) []api.Fault {
	s.mu.Lock()
	var faults []api.Fault
	for _, name := range slices.Sorted(maps.Keys(s.faults)) {
		faults = append(faults, s.faults[name])
	}
	loader, reloadErr := s.derpMap, s.reloadAs
	s.mu.Unlock()
	if reloadErr != "" {
		faults = append(faults, api.Fault{Name: "reload", Text: "the last reload failed: " + reloadErr, Severe: true})
	}
	for _, p := range s.state.Problems() {
		faults = append(faults, api.Fault{Name: "policy", Text: fmt.Sprintf("tailnet %s: %s", p.Tailnet, p.Text), Severe: true})
	}
	if _, err := s.store.Listening(); err != nil {
		faults = append(faults, api.Fault{Name: "database-notifications", Text: "changes of other servers are seen late, by reading the revisions: " + err.Error()})
	}
	for _, st := range loader.Status() {
		if st.Err != nil {
			faults = append(faults, api.Fault{Name: "derp-source", Text: fmt.Sprintf("%s cannot be read: %v; the last good copy has %d regions", st.Source, st.Err, st.Regions)})
		}
	}
	if m := s.clientsDERPMap(); !hasRelays(m) {
		faults = append(faults, api.Fault{Name: "derp-map", Text: "the DERP map is empty: clients behind hard NATs cannot reach each other; turn derp.server.enabled on, name a source in derp.urls or derp.paths, or enrol a relay (headscale derp enroll-keys create)", Severe: true})
	}
	return slices.Concat(faults, s.serversFaults(), s.relayFaults(ctx))
}

// hasRelays reports whether a map has any relay that clients may connect to.
func hasRelays(m *tailcfg.DERPMap) bool {
	if m == nil {
		return false
	}
	for _, r := range m.Regions {
		if slices.ContainsFunc(r.Nodes, func(n *tailcfg.DERPNode) bool { return !n.STUNOnly }) {
			return true
		}
	}
	return false
}

// relayFaults are the relays that enrolled and that clients are not told of, though nobody wanted that, and what troubles
// the others.
func (s *Server) relayFaults(ctx context.Context) (faults []api.Fault) {
	if !s.config().DERP.Relays.Enabled {
		return nil
	}
	for _, r := range s.state.Clashes() {
		faults = append(faults, api.Fault{Name: "relay-region", Text: fmt.Sprintf(
			"region %d of derp.urls, derp.paths or derp.server.region_id has the number of the enrolled relays of region %s, which are left out: give it another number", r.ID, r.Code)})
	}
	loads, err := s.store.RelayLoads(ctx)
	if err != nil {
		s.log.Debug("reading how relays do", "err", err) // the database is what health tells of then
	}
	told := map[tailnet.RelayID]bool{}
	for _, v := range s.state.Views() {
		for _, r := range v.Relays {
			if r.Draining || told[r.ID] {
				continue
			}
			told[r.ID] = true
			if r.Healthy {
				faults = append(faults, troubles(r, loads[r.ID])...)
				continue
			}
			faults = append(faults, api.Fault{Name: "relay", Text: fmt.Sprintf("relay %s is out of the DERP map: %s", r.Name, r.OutBecause)})
		}
	}
	return faults
}

// troubles are what a relay that is connected says.
func troubles(r *tailnet.Relay, l *tailnet.RelayLoad) (faults []api.Fault) {
	if l == nil || !r.Online {
		return nil
	}
	for _, text := range l.Troubles {
		faults = append(faults, api.Fault{Name: "relay", Text: fmt.Sprintf("relay %s: %s", r.Name, text)})
	}
	return faults
}

// apiConfig is what administrators may see and do.
func (s *Server) apiConfig(serverKey key.MachinePublic) api.Config {
	cfg := s.config()
	return api.Config{
		Store:       s.store,
		PolicyFile:  s.policyFile,
		CheckPolicy: s.checkPolicy,
		TagExists: func(_ context.Context, id tailnet.ID, tag string) bool {
			v := s.state.View(id)
			return v != nil && v.Policy.TagExists(tag)
		},
		View:        s.state.View,
		AwaitPolicy: s.state.AwaitPolicy,
		Problems:    s.policyProblems,
		Approve:     s.auth.Approve,

		WebhookSecret: s.hookKey.Secret,
		DERPMap:       s.clientsDERPMap,
		ServerKey:     serverKey,
		ControlURL:    cfg.ServerURL,
		Embedded:      s.embeddedRelays,
		Health:        s.Health,
		Status:        s.status,
		Reload:        s.Reload,
		Log:           s.log,
	}
}

// checkPolicy says whether the text can be a tailnet's policy.
func (s *Server) checkPolicy(ctx context.Context, id tailnet.ID, text string) (warnings []string, err error) {
	if _, err := s.state.Fresh(ctx, id); err != nil {
		return nil, err
	}
	return s.state.CheckPolicy(id, text)
}

// clientsDERPMap is the map as the nodes of the default tailnet get it.
func (s *Server) clientsDERPMap() *tailcfg.DERPMap {
	for _, v := range s.state.Views() {
		if v.Tailnet.Name == tailnet.DefaultName {
			return v.DERPMap
		}
	}
	return s.state.DERPMap()
}

// policyProblems are the policies that are not in force as they should be: those stored, and that of the file.
func (s *Server) policyProblems() []state.Problem {
	problems := s.state.Problems()
	s.mu.Lock()
	fault, bad := s.faults[policyFileFault]
	s.mu.Unlock()
	if !bad {
		return problems
	}
	for _, v := range s.state.Views() {
		if v.Tailnet.Name == tailnet.DefaultName {
			problems = append(problems, state.Problem{TailnetID: v.Tailnet.ID, Tailnet: v.Tailnet.Name, Text: fault.Text})
		}
	}
	return problems
}

func (s *Server) status() api.Status {
	s.mu.Lock()
	defer s.mu.Unlock()
	return api.Status{
		Version: s.opts.Version, ConfigFile: s.cfg.File, ServerURL: s.cfg.ServerURL,
		StartedAt: s.started, ReloadedAt: s.reloaded, ReloadError: s.reloadAs,
	}
}

// metrics are what Prometheus reads.
func (s *Server) metrics() *prometheus.Registry {
	r := prometheus.NewRegistry()
	r.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	gauge := func(name, help string, value func() float64) {
		r.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Namespace: "headscale", Name: name, Help: help}, value))
	}
	count := func(of func(*tailnet.Node) bool) func() float64 {
		return func() float64 {
			n := 0
			for _, v := range s.state.Views() {
				for _, node := range v.Nodes {
					if of(node) {
						n++
					}
				}
			}
			return float64(n)
		}
	}
	r.MustRegister(pipeline{s.store, s.state, s.control})
	gauge("nodes", "Nodes of all tailnets.", count(func(*tailnet.Node) bool { return true }))
	gauge("nodes_online", "Nodes that are connected.", count(func(n *tailnet.Node) bool { return n.Online }))
	gauge("nodes_expired", "Nodes whose key has expired.", count(func(n *tailnet.Node) bool { return n.Lapsed }))
	gauge("sessions", "Map streams that are open at this server.", func() float64 { return float64(s.control.Sessions()) })
	gauge("tailnets", "Tailnets.", func() float64 { return float64(len(s.state.Views())) })
	gauge("uptime_seconds", "Time since the start.", func() float64 { return time.Since(s.started).Seconds() })
	return r
}
