package derp

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"
)

// A monthly quota outlives the process by a file that says what was sent so far.

// monthCount is what the file says. Sent is as the quota counts; Carried is of packets alone.
type monthCount struct {
	Month   string  `json:"month"` // UTC, as 2026-11
	Sent    uint64  `json:"sent"`  // bytes
	Carried Carried `json:"carried"`
	Day     string  `json:"day,omitempty"` // UTC, as 2026-11-22
	Today   Carried `json:"today"`
}

// Traffic is what a relay has carried in the calendar day and month (UTC), also before it was started.
type Traffic struct{ Today, Month Carried }

const (
	monthFormat = "2006-01"
	monthEvery  = time.Minute // what was sent since then is forgotten in a crash
	maxMonth    = 1 << 10     // bytes of the file
)

// ReadMonth is how many bytes were sent in the month of now (UTC), as WriteMonth wrote it to the
// file at path; zero if there is no file, or if it is of another month. It is meant for
// Limits.UsedThisMonth.
func ReadMonth(path string, now time.Time) (uint64, error) {
	c, err := readMonth(path)
	if err != nil || c.Month != now.UTC().Format(monthFormat) {
		return 0, err
	}
	return c.Sent, nil
}

// ReadTraffic is what KeepMonth wrote beside that, for Relay.Resume. What is of another day or month is zero.
func ReadTraffic(path string, now time.Time) (t Traffic, err error) {
	c, err := readMonth(path)
	if err != nil {
		return t, err
	}
	if c.Month == now.UTC().Format(monthFormat) {
		t.Month = c.Carried
	}
	if c.Day == now.UTC().Format(dayFormat) {
		t.Today = c.Today
	}
	return t, nil
}

// readMonth reads the file; it is empty where there is none.
func readMonth(path string) (c monthCount, err error) {
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return c, nil
	}
	if err == nil && info.Size() > maxMonth {
		err = fmt.Errorf("%s is larger than %d bytes", path, maxMonth)
	}
	if err != nil {
		return c, err
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return c, err
	}
	err = json.Unmarshal(text, &c)
	return c, err
}

// WriteMonth writes for ReadMonth how many bytes were sent in the month of now. It makes the
// directory if it is missing.
func WriteMonth(path string, now time.Time, sent uint64) error {
	return writeMonth(path, monthCount{Month: now.UTC().Format(monthFormat), Sent: sent})
}

func writeMonth(path string, c monthCount) error {
	text, err := json.Marshal(c)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	return ReplaceFile(path, append(text, '\n'))
}

// KeepMonth writes down each minute what the relay has sent in the month, and what it has carried
// in the day and the month, and once more when ctx ends, at which it returns. file is asked each
// time where; "" is nowhere. failed hears of what could not be written.
func (r *Relay) KeepMonth(ctx context.Context, file func() string, failed func(path string, err error)) {
	tick := time.NewTicker(monthEvery)
	defer tick.Stop()
	for over := false; !over; {
		select {
		case <-tick.C:
		case <-ctx.Done():
			over = true
		}
		path := file()
		if path == "" {
			continue
		}
		now, l := time.Now().UTC(), r.Load()
		c := monthCount{Month: now.Format(monthFormat), Sent: l.SentThisMonth, Carried: l.Month, Day: now.Format(dayFormat), Today: l.Today}
		if err := writeMonth(path, c); err != nil {
			failed(path, err)
		}
	}
}
