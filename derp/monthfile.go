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

// monthCount is what the file says.
type monthCount struct {
	Month string `json:"month"` // UTC, as 2026-11
	Sent  uint64 `json:"sent"`  // bytes
}

const (
	monthFormat = "2006-01"
	monthEvery  = time.Minute // what was sent since then is forgotten in a crash
	maxMonth    = 1 << 10     // bytes of the file
)

// ReadMonth is how many bytes were sent in the month of now (UTC), as WriteMonth wrote it to the
// file at path; zero if there is no file, or if it is of another month. It is meant for
// Limits.UsedThisMonth.
func ReadMonth(path string, now time.Time) (uint64, error) {
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err == nil && info.Size() > maxMonth {
		err = fmt.Errorf("%s is larger than %d bytes", path, maxMonth)
	}
	if err != nil {
		return 0, err
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return 0, err
	}
	var c monthCount
	if err := json.Unmarshal(text, &c); err != nil {
		return 0, err
	}
	if c.Month != now.UTC().Format(monthFormat) {
		return 0, nil
	}
	return c.Sent, nil
}

// WriteMonth writes for ReadMonth how many bytes were sent in the month of now. It makes the
// directory if it is missing.
func WriteMonth(path string, now time.Time, sent uint64) error {
	text, err := json.Marshal(monthCount{now.UTC().Format(monthFormat), sent})
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	return ReplaceFile(path, append(text, '\n'))
}

// KeepMonth writes down each minute what the relay has sent in the month, and once more when ctx
// ends, at which it returns. file is asked each time where; "" is nowhere, as without a quota.
// failed hears of what could not be written.
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
		if err := WriteMonth(path, time.Now(), r.Load().SentThisMonth); err != nil {
			failed(path, err)
		}
	}
}
