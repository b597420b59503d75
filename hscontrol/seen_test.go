package hscontrol_test

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/keelscale/keelscale/hscontrol/hstest"
)

type seenNode struct {
	Name                string
	LastSeen, CreatedAt *time.Time
	Online              bool
}

// listed lists two nodes, like a user interface.
func listed(t *testing.T, url, key string) []seenNode {
	t.Helper()
	_, text := call(t, "GET", url+"/api/v1/node", key, "", "application/json")
	var list struct{ Nodes []seenNode }
	if err := json.Unmarshal([]byte(text), &list); err != nil || len(list.Nodes) != 2 {
		t.Fatalf("got %s, %v, want two nodes", text, err)
	}
	return list.Nodes
}

// TestLastSeenOfUserInterfaces is that who is connected was seen within the last minute.
func TestLastSeenOfUserInterfaces(t *testing.T) {
	s := hstest.Start(t)
	secret := s.Key(s.User("odin"))
	s.Node("away").Join(secret)
	here := s.Node("here")
	here.Join(secret)
	here.Poll()
	key := apiKey(t, s)
	nodes := listed(t, s.URL, key)
	for deadline := time.Now().Add(hstest.Patience); !nodes[1].Online && time.Now().Before(deadline); nodes = listed(t, s.URL, key) {
		time.Sleep(10 * time.Millisecond)
	}
	for _, n := range nodes {
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
