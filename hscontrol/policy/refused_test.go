package policy_test

import (
	"bufio"
	"compress/gzip"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/keelscale/keelscale/hscontrol/policy"
	"github.com/keelscale/keelscale/hscontrol/tailnet"
)

// TestGoldenRefusalsSayWhere takes the cases that the hosted service refused, and looks whether we name the line and
// the remedy. Whether the words are the same is for TestGoldens.
func TestGoldenRefusalsSayWhere(t *testing.T) {
	files, err := filepath.Glob("../../../shared/goldens/policy-*.jsonl.gz")
	if err != nil || len(files) == 0 {
		t.Skipf("the golden cases are not here: %v", err)
	}
	seen := 0
	for _, file := range files {
		for id, text := range refusedCases(t, file) {
			seen++
			var refusal *policy.Refusal
			_, err := policy.Eval(text.Policy, text.snapshot())
			switch {
			case err == nil:
				t.Errorf("%s: got it accepted", id)
			case errors.As(err, &refusal) && (refusal.Line == 0 || refusal.Remedy == ""):
				t.Errorf("%s: got %+v, want a line and a remedy", id, refusal)
			case refusal == nil && (!errors.Is(err, policy.ErrTestsFailed) || !strings.Contains(err.Error(), "line ")):
				t.Errorf("%s: got %v, want a refusal, or tests by their lines", id, err)
			}
		}
	}
	if seen < 80 {
		t.Errorf("got %d refused cases, want more", seen)
	}
}

type goldenCase struct {
	ID     string
	Policy string
	Users  []struct {
		ID          tailnet.UserID
		Name, Email string
		Role        string
	}
	Nodes []struct {
		ID         tailnet.NodeID
		Name, User string
		Tags       []string
		IPv4, IPv6 string
	}
	Expect struct{ Accept bool }
}

func refusedCases(t *testing.T, file string) map[string]goldenCase {
	t.Helper()
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	cases := map[string]goldenCase{}
	lines := bufio.NewScanner(z)
	lines.Buffer(nil, 16<<20)
	for lines.Scan() {
		var c goldenCase
		if err := json.Unmarshal(lines.Bytes(), &c); err != nil {
			t.Fatal(err)
		}
		if !c.Expect.Accept {
			cases[c.ID] = c
		}
	}
	return cases
}

// snapshot is the tailnet of the case, without its routes.
func (c goldenCase) snapshot() *tailnet.Snapshot {
	s := &tailnet.Snapshot{Tailnet: &tailnet.Tailnet{ID: 1}, Users: map[tailnet.UserID]*tailnet.User{}}
	owners := map[string]tailnet.UserID{}
	for _, u := range c.Users {
		s.Users[u.ID] = &tailnet.User{ID: u.ID, Name: u.Name, Email: u.Email, Role: u.Role}
		owners[u.Name] = u.ID
	}
	for _, n := range c.Nodes {
		node := &tailnet.Node{ID: n.ID, GivenName: n.Name, Tags: n.Tags, UserID: owners[n.User]}
		for text, addr := range map[string]interface{ UnmarshalText([]byte) error }{n.IPv4: &node.IPv4, n.IPv6: &node.IPv6} {
			if err := addr.UnmarshalText([]byte(text)); err != nil {
				panic(err)
			}
		}
		s.Nodes = append(s.Nodes, node)
	}
	return s
}
