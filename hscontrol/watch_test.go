package hscontrol_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/keelscale/keelscale/hscontrol/config"
	"github.com/keelscale/keelscale/hscontrol/hstest"
)

// What a reload names is watched from then on, and what it names no more is not.
func TestReloadWatchesNewFiles(t *testing.T) {
	write := func(path, text string) {
		t.Helper()
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	policy, records := filepath.Join(t.TempDir(), "policy.hujson"), filepath.Join(t.TempDir(), "records.json")
	write(policy, `{"acls": []}`)
	write(records, `[]`)
	s := hstest.Start(t)
	ctx := hstest.Context(t)
	secret := s.Key(s.User("alice"))
	a, b := s.Node("alpha"), s.Node("beta")
	a.Join(secret)
	b.Join(secret)
	p := a.Poll()
	defer p.Close()
	p.Await("beta, without a policy", func(m *hstest.Netmap) bool { return m.Peer("beta") != nil })

	s.Next = func(c *config.Config) {
		c.Policy.Mode, c.Policy.Path = config.PolicyFile, policy
		c.DNS.ExtraRecordsPath = records
	}
	if err := s.Reload(ctx); err != nil {
		t.Fatal(err)
	}
	p.Await("nobody, by the file", func(m *hstest.Netmap) bool { return len(m.Peers) == 0 })
	write(policy, `{"acls": [{"action": "accept", "src": ["alice@"], "dst": ["alice@:22"]}]}`)
	p.Await("beta again, by the file that was written", func(m *hstest.Netmap) bool { return m.Peer("beta") != nil })
	write(records, `[{"name": "db.example.com", "type": "A", "value": "100.64.0.9"}]`)
	p.Await("the record that was written", func(m *hstest.Netmap) bool {
		return len(m.DNS.ExtraRecords) == 1 && strings.HasPrefix(m.DNS.ExtraRecords[0].Name, "db.example.com")
	})

	// Without the path the policy stays, whatever is in the file then.
	s.Next = func(c *config.Config) { c.DNS.ExtraRecordsPath = records }
	if err := s.Reload(ctx); err != nil {
		t.Fatal(err)
	}
	write(policy, `{"acls": []}`)
	write(records, `[]`)
	p.Await("the records that were written after", func(m *hstest.Netmap) bool { return len(m.DNS.ExtraRecords) == 0 })
	if p.Netmap.Peer("beta") == nil {
		t.Error("after the path was taken out: got no beta, want the policy before it to stay")
	}
	if got, err := s.Store().GetPolicy(ctx, 0); err != nil || !strings.Contains(got.Text, ":22") {
		t.Errorf("the policy that is stored: got %+v, %v, want what the file said last", got, err)
	}
}
