package main

import (
	"fmt"
	"math"
	"strconv"
	"strings"
)

// size is a number of bytes, or of bytes per second: "500k", "10MB", "1TiB".
type size uint64

var sizeUnits = []struct {
	name string
	n    float64
}{
	{"TiB", 1 << 40}, {"GiB", 1 << 30}, {"MiB", 1 << 20}, {"KiB", 1 << 10},
	{"TB", 1e12}, {"GB", 1e9}, {"MB", 1e6}, {"kB", 1e3},
	{"T", 1e12}, {"G", 1e9}, {"M", 1e6}, {"k", 1e3}, {"B", 1},
}

// Set implements flag.Value.
func (s *size) Set(text string) error {
	number, factor := strings.TrimSuffix(strings.TrimSpace(text), "/s"), 1.0
	for _, u := range sizeUnits {
		if len(number) > len(u.name) && strings.EqualFold(number[len(number)-len(u.name):], u.name) {
			number, factor = strings.TrimSpace(number[:len(number)-len(u.name)]), u.n
			break
		}
	}
	n, err := strconv.ParseFloat(number, 64)
	if err != nil || !(n >= 0) || n*factor >= math.MaxInt64 || strings.ContainsAny(number, "xXpP_") {
		return fmt.Errorf("%q is not a size such as 500kB, 10MB or 1TiB", text)
	}
	*s = size(n * factor)
	return nil
}

// String implements flag.Value.
func (s *size) String() string {
	if s == nil || *s == 0 {
		return "0"
	}
	for _, u := range sizeUnits {
		if whole := size(u.n); *s >= whole && *s%whole == 0 && len(u.name) > 1 {
			return strconv.FormatUint(uint64(*s/whole), 10) + u.name
		}
	}
	return strconv.FormatUint(uint64(*s), 10)
}

// Get implements flag.Getter.
func (s *size) Get() any { return *s }
