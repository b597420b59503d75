//go:build !linux

package store

import "time"

// limitSilence is Linux's; elsewhere keep-alives and the kernel's own times have to do.
func limitSilence(uintptr, time.Duration) {}
