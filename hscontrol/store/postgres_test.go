package store_test

import (
	"database/sql"
	"fmt"
	"os"
	"sync"
	"testing"

	"github.com/keelscale/keelscale/hscontrol/hstest/pgtest"
	"github.com/keelscale/keelscale/hscontrol/store"
)

// postgres starts the cluster when a test first asks for it; TestMain stops it.
var postgres = sync.OnceValues(pgtest.Start)

// started says whether TestMain has something to stop.
var started bool

func TestMain(m *testing.M) {
	code := m.Run()
	if started {
		if c, err := postgres(); err == nil {
			if err := c.Remove(); err != nil {
				fmt.Fprintln(os.Stderr, "stopping PostgreSQL:", err)
				code = max(code, 1)
			}
		}
	}
	os.Exit(code)
}

// postgresConfig is a fresh database in the cluster. Without PostgreSQL it skips the test.
func postgresConfig(t testing.TB) store.Config {
	t.Helper()
	if _, err := pgtest.Program("initdb"); err != nil {
		t.Skipf("no PostgreSQL: %v", err)
	}
	started = true
	c, err := postgres()
	if err != nil {
		t.Fatal(err)
	}
	name, err := c.CreateDatabase()
	if err != nil {
		t.Fatal(err)
	}
	return store.Config{
		Type:     "postgres",
		Postgres: store.PostgresConfig{Host: c.Dir, Port: c.Port, Name: name, User: pgtest.User, MaxOpenConns: 5},
		PrefixV4: v4,
		PrefixV6: v6,
	}
}

// bothEngines runs a test on a world in SQLite and on one in PostgreSQL.
func bothEngines(t *testing.T, test func(*testing.T, *world)) {
	t.Helper()
	t.Run("sqlite", func(t *testing.T) { test(t, newWorld(t, sqliteConfig(t))) })
	t.Run("postgres", func(t *testing.T) { test(t, newWorld(t, postgresConfig(t))) })
}

// bothConfigs runs a test with the configuration of a fresh database in each engine.
func bothConfigs(t *testing.T, test func(*testing.T, store.Config)) {
	t.Helper()
	t.Run("sqlite", func(t *testing.T) { test(t, sqliteConfig(t)) })
	t.Run("postgres", func(t *testing.T) { test(t, postgresConfig(t)) })
}

// raw is a connection to the same database past the store.
func raw(t testing.TB, cfg store.Config) *sql.DB {
	t.Helper()
	driver, dsn := "sqlite", "file:"+cfg.SQLite.Path+"?_pragma=busy_timeout(10000)"
	if cfg.Type == "postgres" {
		p := cfg.Postgres
		driver, dsn = "pgx", fmt.Sprintf("host=%s port=%d user=%s dbname=%s", p.Host, p.Port, p.User, p.Name)
	}
	db, err := sql.Open(driver, dsn)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	return db
}
