package hscontrol

import (
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"

	"tailscale.com/types/key"

	"github.com/keelscale/keelscale/derp"
	"github.com/keelscale/keelscale/hscontrol/control"
)

// keepRelay has the embedded relay serve whom relays may serve now, within the bounds of the configuration, until ctx
// ends.
func (s *Server) keepRelay(ctx context.Context) error {
	if s.relay == nil {
		return nil
	}
	evict := func(k key.NodePublic) { s.relay.Evict(k) }
	if !s.config().DERP.Server.VerifyClients {
		evict = func(key.NodePublic) {}
	}
	used, err := readMonth(s.monthFile(), time.Now())
	if err != nil {
		s.log.Warn("what the embedded relay has sent in this month is not known; it is counted from now on", "err", err)
	}
	var wait sync.WaitGroup
	wait.Go(func() { s.keepMonth(ctx) })
	s.control.WatchAdmission(ctx, evict, func(r *control.RelayRules) { s.relay.SetLimits(s.relayLimits(r, used)) })
	wait.Wait()
	return nil
}

// relayLimits are the bounds of the embedded relay.
func (s *Server) relayLimits(r *control.RelayRules, used uint64) derp.Limits {
	bound := func(b control.RelayBound) derp.Bound { return derp.Bound{Rate: b.Rate, Burst: b.Burst} }
	l := derp.Limits{
		Node: derp.Each(bound(r.PerNode)), Total: bound(r.Total),
		MonthlyQuota: r.MonthlyQuota, UsedThisMonth: used,
		ConnectionsPerSecond: r.ConnectionsPerSecond,
	}
	if len(r.PerTag) > 0 {
		l.Node = func(k key.NodePublic) derp.Bound {
			if _, n := s.state.Find(k); n != nil {
				return bound(r.BoundOf(n))
			}
			return bound(r.PerNode)
		}
	}
	return l
}

// month is what the embedded relay sent in one, kept over restarts.
type month struct {
	Month string `json:"month"` // UTC, as 2026-11
	Sent  uint64 `json:"sent"`  // bytes
}

const (
	monthForm  = "2006-01"
	monthEvery = time.Minute // what is not kept when the machine dies
	maxMonth   = 1 << 10     // bytes of the file
)

func (s *Server) monthFile() string { return filepath.Join(s.config().DataDir, "derp_month.json") }

// keepMonth writes down what the embedded relay has sent, while there is a quota, until ctx ends.
func (s *Server) keepMonth(ctx context.Context) {
	tick := time.NewTicker(monthEvery)
	defer tick.Stop()
	for ended := false; !ended; {
		select {
		case <-tick.C:
		case <-ctx.Done():
			ended = true
		}
		if s.config().DERP.Limits.MonthlyQuota == 0 {
			continue
		}
		if err := writeMonth(s.monthFile(), time.Now(), s.relay.Load().SentThisMonth); err != nil {
			s.log.Error("writing down what the embedded relay has sent", "err", err)
		}
	}
}

// readMonth is what the file says of this month, zero where it is of another one.
func readMonth(path string, now time.Time) (uint64, error) {
	text, err := readBounded(path, maxMonth)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	var m month
	if err == nil {
		err = json.Unmarshal(text, &m)
	}
	if err != nil || m.Month != now.UTC().Format(monthForm) {
		return 0, err
	}
	return m.Sent, nil
}

func writeMonth(path string, now time.Time, sent uint64) error {
	text, err := json.Marshal(month{Month: now.UTC().Format(monthForm), Sent: sent})
	if err != nil {
		return err
	}
	if err := os.WriteFile(path+".new", append(text, '\n'), 0o600); err != nil {
		return err
	}
	return os.Rename(path+".new", path)
}
