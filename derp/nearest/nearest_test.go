package nearest_test

import (
	"strings"
	"testing"

	"github.com/keelscale/keelscale/derp/nearest"
)

func TestWord(t *testing.T) {
	known := []string{"RegionID", "RegionCode", "HostName", "DERPPort", "STUNPort", "a"}
	for _, tt := range []struct{ typed, want string }{
		{"regionid", "RegionID"},
		{"region_id", "RegionID"},
		{"regoinid", "RegionID"},
		{"hostnam", "HostName"},
		{"derport", "DERPPort"},
		{"stun_port", "STUNPort"},
		{"certificate", ""},
		{"b", ""},
		{"", ""},
		{strings.Repeat("x", 500), ""},
	} {
		if got := nearest.Word(tt.typed, known); got != tt.want {
			t.Errorf("Word(%.20q): got %q, want %q", tt.typed, got, tt.want)
		}
	}
	if got, want := nearest.Hint("regionId", known), ` (did you mean "RegionID"?)`; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}
