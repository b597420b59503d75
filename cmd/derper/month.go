package main

import (
	"context"
	"fmt"
	"time"

	"github.com/keelscale/keelscale/derp"
)

// readMonth is what the relay sent in this month as far as it was written down.
func readMonth(path string, now time.Time) (uint64, error) {
	sent, err := derp.ReadMonth(path, now)
	if err != nil {
		return 0, fmt.Errorf("reading the count of the month (-limit-state %s): %w", path, err)
	}
	return sent, nil
}

// keepMonth writes it down, while there is a quota, until ctx ends.
func (r *relay) keepMonth(ctx context.Context) {
	r.KeepMonth(ctx, func() string {
		if now := r.settings.Load(); now.limitMonth > 0 {
			return now.limitState
		}
		return ""
	}, func(path string, err error) {
		r.log.Warn("the count of the month was not stored", "file", path, "err", err)
	})
}

// limits are what the relay's own settings say.
func (s *settings) limits() (l derp.Limits, err error) {
	node := derp.Bound{Rate: uint64(s.limitNode), Burst: uint64(s.limitNodeBurst)}
	if s.rateConfig != "" {
		if node, err = derp.LoadRate(s.rateConfig); err != nil {
			return l, err
		}
	}
	l.Node = derp.Each(node)
	l.Total = derp.Bound{Rate: uint64(s.limitTotal), Burst: uint64(s.limitTotalBurst)}
	if l.MonthlyQuota = uint64(s.limitMonth); l.MonthlyQuota > 0 {
		if l.UsedThisMonth, err = readMonth(s.limitState, time.Now()); err != nil {
			return l, err
		}
	}
	if s.acceptLimited() {
		l.ConnectionsPerSecond, l.ConnectionBurst = s.acceptLimit, s.acceptBurst
	}
	return l, nil
}
