package config

import (
	"math"
	"strconv"
	"strings"
)

// Size is a number of bytes, written like 500MB or 1TiB.
type Size uint64

// Bound is a token bucket, written like "2MB" or "2MB burst 8MB". The zero value is no bound.
type Bound struct {
	// Rate is in bytes per second.
	Rate Size
	// Burst is in bytes; zero leaves it to the relay.
	Burst Size
}

// units are what may stand behind a number, in lower case. Powers of ten, and of two with an i between.
var units = map[string]float64{
	"": 1, "b": 1,
	"k": 1e3, "kb": 1e3, "m": 1e6, "mb": 1e6, "g": 1e9, "gb": 1e9, "t": 1e12, "tb": 1e12,
	"kib": 1 << 10, "mib": 1 << 20, "gib": 1 << 30, "tib": 1 << 40,
	"kbit": 1e3 / 8., "mbit": 1e6 / 8., "gbit": 1e9 / 8.,
}

var errSize = hinted{"units are kB, MB, GB, TB, KiB, MiB, GiB, TiB, and kbit, Mbit, Gbit"}

func parseSize(text string) (Size, error) {
	text = strings.TrimSpace(text)
	end := strings.LastIndexAny(text, "0123456789.") + 1
	unit, ok := units[strings.ToLower(strings.TrimSpace(text[end:]))]
	number, err := strconv.ParseFloat(text[:end], 64)
	switch {
	case err != nil || !ok || strings.ContainsAny(text[:end], "eExX_"):
		return 0, errSize
	case number < 0:
		return 0, hinted{"a size cannot be negative"}
	case number*unit >= math.MaxInt64:
		return 0, hinted{"that is too much"}
	}
	return Size(math.Round(number * unit)), nil
}

// parseBound reads a rate, with or without "/s", and maybe a burst.
func parseBound(text string) (b Bound, err error) {
	rate, burst, both := strings.Cut(text, "burst")
	rate = strings.TrimRight(strings.TrimSpace(rate), ",")
	if b.Rate, err = parseSize(strings.TrimSuffix(rate, "/s")); err != nil {
		return Bound{}, err
	}
	if !both {
		return b, nil
	}
	if b.Burst, err = parseSize(burst); err != nil {
		return Bound{}, err
	}
	if b.Rate == 0 {
		return Bound{}, hinted{"a burst needs a rate before it"}
	}
	return b, nil
}
