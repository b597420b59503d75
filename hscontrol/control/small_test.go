package control_test

import (
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/keelscale/keelscale/hscontrol/hstest"
)

// A client that sets attributes of its device is told who may.
func TestDeviceSetsNoAttributes(t *testing.T) {
	s := hstest.Start(t)
	n := s.Node("alpha")
	n.Join(s.Key(s.User("alice")))
	req, err := http.NewRequestWithContext(hstest.Context(t), http.MethodPatch, "https://control/machine/set-device-attr", strings.NewReader("{}"))
	if err != nil {
		t.Fatal(err)
	}
	resp, err := n.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusForbidden || !strings.Contains(string(text), "from administrators") {
		t.Errorf("got %d %q, %v; want 403, and who may", resp.StatusCode, text, err)
	}
}
