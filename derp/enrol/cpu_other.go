//go:build !unix

package enrol

import "time"

// cpuTime is not known here.
func cpuTime() time.Duration { return 0 }
