package derp

import (
	"fmt"
	"net/netip"
	"time"
)

// bytesText is a size for people.
func bytesText(n uint64) string {
	units := []string{"B", "kB", "MB", "GB", "TB", "PB"}
	v, i := float64(n), 0
	for v >= 999.5 && i < len(units)-1 {
		v /= 1000
		i++
	}
	if i == 0 {
		return fmt.Sprintf("%d B", n)
	}
	return fmt.Sprintf("%.3g %s", v, units[i])
}

func boundText(b Bound) string {
	if b.Rate == 0 {
		return "none"
	}
	return bytesText(b.Rate) + " per second"
}

func portText(a netip.AddrPort) string {
	if !a.IsValid() {
		return "closed"
	}
	return a.String()
}

func day(t time.Time) string { return t.UTC().Format(time.DateOnly) }

// span is a time for people, in its two largest units.
func span(d time.Duration) string {
	switch {
	case d < 0:
		return "the past"
	case d < time.Minute:
		return fmt.Sprintf("%d s", int(d.Seconds()))
	case d < time.Hour:
		return fmt.Sprintf("%d min", int(d.Minutes()))
	case d < 48*time.Hour:
		return fmt.Sprintf("%d h %d min", int(d.Hours()), int(d.Minutes())%60)
	}
	return fmt.Sprintf("%d days", int(d.Hours()/24))
}
