package api

import (
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/keelscale/keelscale/hscontrol/tailnet"
)

// FuzzEventMark: what comes as the ID of an event is refused, or is a place that is written as it was read.
func FuzzEventMark(f *testing.F) {
	for _, text := range []string{"0", "12-1:55,2:7", "12-", "-1:2", "x", "1-1:1,1:2", "9223372036854775808", "1-1"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		m, err := parseEventMark(text)
		if err != nil {
			if !errors.Is(err, tailnet.ErrInvalid) {
				t.Errorf("%q: got %v, want it to be invalid", text, err)
			}
			return
		}
		again, err := parseEventMark(m.String())
		if err != nil {
			t.Fatalf("%q is written as %q: %v", text, m, err)
		}
		if diff := cmp.Diff(m, again, cmp.AllowUnexported(eventMark{})); diff != "" {
			t.Errorf("%q (-read +written and read):\n%s", text, diff)
		}
	})
}
