package hstest_test

import (
	"os"
	"strings"
	"testing"

	"tailscale.com/control/tsp"

	"github.com/keelscale/keelscale/hscontrol/config"
	"github.com/keelscale/keelscale/hscontrol/hstest"
)

// pair are two servers on one PostgreSQL.
type pair struct {
	db   *hstest.Postgres
	a, b *hstest.Server
}

// startPair starts both; the second has the first's key of the database's secrets.
func startPair(t testing.TB, edit ...func(*config.Config)) *pair {
	t.Helper()
	p := &pair{db: hstest.StartPostgres(t)}
	edit = append([]func(*config.Config){p.db.Database()}, edit...)
	p.a = hstest.Start(t, edit...)
	p.b = hstest.Prepare(t, append(edit, shareSecrets(p.a))...)
	p.b.Begin()
	return p
}

// shareSecrets copies the key file of another server.
func shareSecrets(from *hstest.Server) func(*config.Config) {
	return func(cfg *config.Config) { cfg.Database.SecretsKeyPath = from.Config.Database.SecretsKeyPath }
}

func noisePublic(t *testing.T, s *hstest.Server) string {
	t.Helper()
	k, err := tsp.DiscoverServerKey(hstest.Context(t), s.URL)
	if err != nil {
		t.Fatal(err)
	}
	return k.String()
}

// A server finds the Noise key in the database, or says what it misses.
func TestServersShareTheNoiseKey(t *testing.T) {
	db := hstest.StartPostgres(t)
	use := db.Database()
	a := hstest.Start(t, use)
	want := noisePublic(t, a)

	b := hstest.Prepare(t, use)
	if err := b.TryBegin(); err == nil || !strings.Contains(err.Error(), "copy "+b.Config.Database.SecretsKeyPath+" from a server that runs") {
		t.Errorf("without the key: got %v, want what to copy", err)
	}
	if err := os.WriteFile(b.Config.Database.SecretsKeyPath, []byte(strings.Repeat("0", 64)), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := b.TryBegin(); err == nil || !strings.Contains(err.Error(), "does not open") {
		t.Errorf("with a wrong key: got %v, want that it does not open", err)
	}
	text, err := os.ReadFile(a.Config.Database.SecretsKeyPath)
	if err != nil {
		t.Fatal(err)
	}
	b.Config.Database.SecretsKey = strings.TrimSpace(string(text)) // wins over the file
	b.Begin()
	if got := noisePublic(t, b); got != want {
		t.Errorf("got key %s at the second server, want %s", got, want)
	}
	for _, s := range []*hstest.Server{a, b} {
		if _, err := os.Stat(s.Config.Noise.PrivateKeyPath); err == nil {
			t.Errorf("%s was made, want the key in the database only", s.Config.Noise.PrivateKeyPath)
		}
	}
	if sealed := db.SQL("test1", "SELECT encode(sealed, 'escape') FROM secrets"); strings.Contains(sealed, "privkey") {
		t.Error("the database has the key readable")
	}

	// Another key in a file is not passed over.
	a.End()
	other := hstest.Start(t)
	a.Config.Noise.PrivateKeyPath = other.Config.Noise.PrivateKeyPath
	if err := a.TryBegin(); err == nil || !strings.Contains(err.Error(), "has another Noise key") {
		t.Errorf("with another key in the file: got %v, want a refusal", err)
	}
}

// An installation of before, with its key in a file, keeps it; a server that has not the file does not make another.
func TestNoiseKeyIsBroughtOnce(t *testing.T) {
	db := hstest.StartPostgres(t)
	use := db.Database()
	old := hstest.Start(t) // of an SQLite installation, for its key file
	want := noisePublic(t, old)
	a := hstest.Start(t, use)
	a.Node("n").Join(a.Key(a.User("anna")))
	a.End()
	db.SQL("test1", "DELETE FROM secrets") // as before there were any
	if err := a.TryBegin(); err == nil || !strings.Contains(err.Error(), "start that one first") {
		t.Errorf("nodes and no key: got %v, want a refusal", err)
	}
	a.Config.Noise.PrivateKeyPath = old.Config.Noise.PrivateKeyPath
	a.Begin()
	if got := noisePublic(t, a); got != want {
		t.Errorf("got key %s, want that of the file, %s", got, want)
	}
	b := hstest.Start(t, use, shareSecrets(a))
	if got := noisePublic(t, b); got != want {
		t.Errorf("got key %s at the second server, want %s", got, want)
	}
}
