package main

import (
	"context"
	"log/slog"
	"os"
	"os/signal"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"

	"github.com/keelscale/keelscale/derp"
	"github.com/keelscale/keelscale/derp/enrol"
)

// relay is a derp.Relay and what can be read again while it runs.
type relay struct {
	*derp.Relay
	log      *slog.Logger
	level    *slog.LevelVar
	cert     *derp.Cert // nil without TLS
	started  *settings
	settings atomic.Pointer[settings]  // those in force, as far as they are live
	read     func() (*settings, error) // reads the settings again

	agent    *enrol.Agent    // nil without a control server
	open     chan derp.Ports // receives once, when everything is open
	hostname string
}

// live are the flags that SIGHUP changes; all others need a restart.
var live = []string{
	"limit-node", "limit-node-burst", "limit-total", "limit-total-burst", "limit-month", "limit-state",
	"accept-connection-limit", "accept-connection-burst", "rate-config", "mesh-with", "log-level",
}

// attend reloads on SIGHUP and keeps count of the month until ctx ends. The returned function
// waits for its end.
func (r *relay) attend(ctx context.Context) (wait func()) {
	hup := make(chan os.Signal, 1)
	signal.Notify(hup, syscall.SIGHUP)
	var running sync.WaitGroup
	running.Go(func() {
		defer signal.Stop(hup)
		for {
			select {
			case <-ctx.Done():
				return
			case <-hup:
				r.reload()
			}
		}
	})
	running.Go(func() { r.keepMonth(ctx) })
	return running.Wait
}

// reload reads again what may have changed. What cannot be used stays as it was.
func (r *relay) reload() {
	if r.cert != nil {
		if err := r.cert.Reload(); err != nil {
			r.log.Warn("the certificate was not reloaded, the old one stays", "err", err)
		}
	}
	next, err := r.read()
	if err != nil {
		r.log.Warn("the settings were not reloaded, the old ones stay", "err", err)
		return
	}
	limits, err := next.limits()
	if err != nil {
		r.log.Warn("the limits were not reloaded, the old settings stay", "err", err)
		return
	}
	if err := r.SetMeshWith(splitList(next.meshWith)); err != nil {
		r.log.Warn("the relays of the mesh were not reloaded, the old settings stay", "err", err)
		return
	}
	r.setLimits(limits)
	r.level.UnmarshalText([]byte(next.logLevel)) // which check has tried
	changed, _ := compare(r.settings.Load(), next)
	_, waiting := compare(r.started, next)
	r.settings.Store(next)
	if len(waiting) > 0 {
		r.log.Warn("these settings have changed and need a restart", "settings", strings.Join(waiting, ", "))
	}
	r.log.Info("reloaded", "changed", strings.Join(changed, ", "))
}

// compare names the settings that differ: those that are in force now, and those that need a
// restart.
func compare(old, now *settings) (changed, waiting []string) {
	for name, value := range now.values {
		switch {
		case value == old.values[name]:
		case slices.Contains(live, name):
			changed = append(changed, "-"+name)
		default:
			waiting = append(waiting, "-"+name)
		}
	}
	slices.Sort(changed)
	slices.Sort(waiting)
	return changed, waiting
}
