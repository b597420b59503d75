package hscontrol_test

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/keelscale/keelscale/hscontrol/hstest"
)

// TestLastSeenOfUserInterfaces is that who is connected was seen within the last minute.
func TestLastSeenOfUserInterfaces(t *testing.T) {
	s := hstest.Start(t)
	secret := s.Key(s.User("odin"))
	s.Node("away").Join(secret)
	here := s.Node("here")
	here.Join(secret)
	here.Poll()
	_, text := callAs(t, "GET", s.URL+"/api/v1/node", apiKey(t, s), "", "application/json")
	var listed struct {
		Nodes []struct {
			Name                string
			LastSeen, CreatedAt *time.Time
			Online              bool
		}
	}
	if err := json.Unmarshal([]byte(text), &listed); err != nil || len(listed.Nodes) != 2 {
		t.Fatalf("got %s, %v, want two nodes", text, err)
	}
	for _, n := range listed.Nodes {
		if n.Online != (n.Name == "here") {
			t.Errorf("%s: got online %v", n.Name, n.Online)
		}
		switch {
		case !n.Online && n.LastSeen != nil:
			t.Errorf("%s: got seen %v, want never", n.Name, n.LastSeen)
		case n.Online && (n.LastSeen == nil || n.LastSeen.Before(*n.CreatedAt) || time.Since(*n.LastSeen) > 2*time.Minute):
			t.Errorf("%s: got seen %v, want this minute", n.Name, n.LastSeen)
		}
	}
}
