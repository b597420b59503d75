package docs_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/keelscale/keelscale/hscontrol/tailnet"
)

// The pages have each scope that there is.
func TestScopesAreTold(t *testing.T) {
	want := slices.DeleteFunc(tailnet.Scopes(), func(s string) bool { return strings.HasSuffix(s, ":read") })
	for file, heading := range map[string]string{"api.md": "### What each scope opens", "zh/api.md": "### 各作用域的内容"} {
		got := column(t, file, heading)
		slices.Sort(got)
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("scopes in %s (-the program +the page):\n%s", file, diff)
		}
	}
}
