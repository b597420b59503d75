package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/keelscale/keelscale/derp"
)

// monthCount is the file that keeps a monthly quota over restarts.
type monthCount struct {
	Month string `json:"month"` // UTC, as 2026-11
	Sent  uint64 `json:"sent"`  // bytes
}

const monthFormat = "2006-01"

// readMonth is what the file says of this month; zero if there is none.
func readMonth(path string, now time.Time) (uint64, error) {
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err == nil && info.Size() > 4096 {
		err = errors.New("it is too large for what we write")
	}
	var c monthCount
	if err == nil {
		var text []byte
		if text, err = os.ReadFile(path); err == nil {
			err = json.Unmarshal(text, &c)
		}
	}
	if err != nil {
		return 0, fmt.Errorf("reading the count of the month (-limit-state %s): %w", path, err)
	}
	if c.Month != now.UTC().Format(monthFormat) {
		return 0, nil
	}
	return c.Sent, nil
}

func writeMonth(path string, now time.Time, sent uint64) error {
	text, err := json.Marshal(monthCount{now.UTC().Format(monthFormat), sent})
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	if err := os.WriteFile(path+".new", append(text, '\n'), 0o600); err != nil {
		return err
	}
	return os.Rename(path+".new", path)
}

// monthEvery is how often the count is stored; what was sent since then is forgotten in a crash.
const monthEvery = time.Minute

// keepMonth stores the count until ctx ends, and once more then.
func (r *relay) keepMonth(ctx context.Context) {
	tick := time.NewTicker(monthEvery)
	defer tick.Stop()
	for over := false; !over; {
		select {
		case <-tick.C:
		case <-ctx.Done():
			over = true
		}
		now := r.settings.Load()
		if now.limitMonth == 0 {
			continue
		}
		if err := writeMonth(now.limitState, time.Now(), r.Load().SentThisMonth); err != nil {
			r.log.Warn("the count of the month was not stored", "file", now.limitState, "err", err)
		}
	}
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
