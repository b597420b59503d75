package main

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/common/model"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// parseID reads an ID as lists show it.
func parseID(text, list string) (uint64, error) {
	id, err := strconv.ParseUint(text, 10, 64)
	if err != nil || id == 0 {
		return 0, fmt.Errorf("%q is no ID: give the number that headscale %s shows", text, list)
	}
	return id, nil
}

// parseExpiration reads when something ends: a duration like 24h or 90d, a time, or "never" (also 0).
func parseExpiration(text string, now time.Time) (at *timestamppb.Timestamp, never bool, err error) {
	if text == "never" || text == "0" {
		return nil, true, nil
	}
	for _, layout := range []string{time.RFC3339, "2006-01-02 15:04:05", "2006-01-02"} {
		if t, err := time.ParseInLocation(layout, text, time.Local); err == nil {
			return timestamppb.New(t), false, nil
		}
	}
	d, err := parseDuration(text)
	if err != nil {
		return nil, false, err
	}
	return timestamppb.New(now.Add(d)), false, nil
}

// parseDuration reads the durations of Prometheus (90d, 1y, 1h30m) and those of Go (1.5h).
func parseDuration(text string) (time.Duration, error) {
	var d time.Duration
	if p, err := model.ParseDuration(text); err == nil {
		d = time.Duration(p)
	} else if d, err = time.ParseDuration(text); err != nil {
		return 0, fmt.Errorf("%q is no duration: write 30m, 24h, 90d, 1y or never", text)
	}
	if d <= 0 {
		return 0, fmt.Errorf("the duration %q is not in the future", text)
	}
	return d, nil
}

// when shows a time in the zone of this machine, or other where there is none.
func when(t *timestamppb.Timestamp, other string) string {
	if t == nil {
		return other
	}
	return t.AsTime().Local().Format("2006-01-02 15:04:05")
}

func yesNo(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}

func list(items []string) string { return strings.Join(items, ", ") }

// firstOf is the first that is not empty.
func firstOf(texts ...string) string {
	for _, t := range texts {
		if t != "" {
			return t
		}
	}
	return ""
}
