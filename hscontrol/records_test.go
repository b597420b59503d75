package hscontrol_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/keelscale/keelscale/hscontrol/config"
	"github.com/keelscale/keelscale/hscontrol/hstest"
)

// A file of records that clients cannot use is refused at the start, and leaves the records before it later.
func TestBadRecordsFile(t *testing.T) {
	const (
		good = `[{"name": "db.example.com", "type": "A", "value": "100.64.0.9"}]`
		bad  = `[{"name": "db.example.com", "type": "CNAME", "value": "100.64.0.10"}]`
		said = "entry 1: db.example.com is of type CNAME"
	)
	records := filepath.Join(t.TempDir(), "records.json")
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(records, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(bad)
	s := hstest.Prepare(t, func(c *config.Config) { c.DNS.ExtraRecordsPath = records })
	if err := s.TryBegin(); err == nil || !strings.Contains(err.Error(), records) || !strings.Contains(err.Error(), said) {
		t.Errorf("starting with it: got %v, want to be told of the entry", err)
	}
	write(good)
	s.Begin()
	a := s.Node("alpha")
	a.Join(s.Key(s.User("alice")))
	p := a.Poll()
	defer p.Close()
	has := func(value string) func(*hstest.Netmap) bool {
		return func(m *hstest.Netmap) bool {
			return len(m.DNS.ExtraRecords) == 1 && m.DNS.ExtraRecords[0].Value == value
		}
	}
	p.Await("the record", has("100.64.0.9"))

	write(bad)
	if err := s.Reload(hstest.Context(t)); err == nil || !strings.Contains(err.Error(), said) {
		t.Errorf("a reload with it: got %v, want to be told of the entry", err)
	}
	faultsWith(t, s, "the records before stay in use") // the watched file
	if !has("100.64.0.9")(p.Netmap) {
		t.Errorf("with a bad file: got %+v, want the record before", p.Netmap.DNS.ExtraRecords)
	}
	write(strings.Replace(good, "100.64.0.9", "100.64.0.11", 1))
	p.Await("the record of a file that was mended", has("100.64.0.11"))
	if err := s.Reload(hstest.Context(t)); err != nil {
		t.Errorf("a reload with a file that was mended: %v", err)
	}
	if faults := strings.Join(s.Faults(hstest.Context(t)), "\n"); strings.Contains(faults, "records") {
		t.Errorf("health after that: got %q", faults)
	}
}
