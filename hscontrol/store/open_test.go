package store_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"gorm.io/gorm/schema"

	"github.com/keelscale/keelscale/hscontrol/store"
	"github.com/keelscale/keelscale/hscontrol/tailnet"
)

func TestOpenRefused(t *testing.T) {
	ctx := context.Background()
	dir := t.TempDir()
	write := func(name, content string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	for name, c := range map[string]struct {
		cfg  store.Config
		want error
		says string
	}{
		"unknown type":     {store.Config{Type: "mysql"}, nil, "write sqlite or postgres"},
		"no path":          {store.Config{Type: "sqlite"}, tailnet.ErrInvalid, "database.sqlite.path"},
		"no database name": {store.Config{Type: "postgres"}, tailnet.ErrInvalid, "database.postgres.name"},
		"swapped prefixes": {store.Config{Type: "sqlite", PrefixV4: v6, PrefixV6: v4}, tailnet.ErrInvalid, "not one of IPv4"},
		"a directory":      {store.Config{Type: "sqlite", SQLite: store.SQLiteConfig{Path: dir}}, tailnet.ErrReadOnly, "is a directory"},
		"no database": {store.Config{Type: "sqlite", SQLite: store.SQLiteConfig{Path: write("x", strings.Repeat("no database ", 100))}},
			nil, "restore it from a backup"},
		"a file for a directory": {store.Config{Type: "sqlite", SQLite: store.SQLiteConfig{Path: filepath.Join(write("f", ""), "db")}},
			nil, "not a directory"},
		"no server": {store.Config{Type: "postgres", Postgres: store.PostgresConfig{Host: dir, Name: "x", User: "x", Pass: "hunter2"}},
			tailnet.ErrReadOnly, "see that PostgreSQL runs"},
	} {
		s, err := store.Open(ctx, c.cfg)
		if err == nil {
			s.Close()
		}
		if err == nil || c.want != nil && !errors.Is(err, c.want) || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: got %v, want %v that says %q", name, err, c.want, c.says)
		}
		if err != nil && strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%s: the error tells the password: %v", name, err)
		}
	}
}

func TestVersions(t *testing.T) {
	bothConfigs(t, func(t *testing.T, cfg store.Config) {
		ctx := context.Background()
		s, err := store.Open(ctx, cfg)
		if err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(s.Ping(ctx), s.Close()); err != nil {
			t.Fatal(err)
		}
		s, err = store.Open(ctx, cfg) // again, with nothing to migrate
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		if err := s.Ping(ctx); err == nil {
			t.Error("a closed store answers a ping")
		}
		db := raw(t, cfg)
		// A newer program that only added something may run beside this one.
		if _, err := db.Exec("UPDATE schema_version SET version = 1000"); err != nil {
			t.Fatal(err)
		}
		if s, err = store.Open(ctx, cfg); err != nil {
			t.Fatalf("beside a newer program: %v", err)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		var version int
		if err := db.QueryRow("SELECT version FROM schema_version").Scan(&version); err != nil || version != 1000 {
			t.Errorf("got version %d and %v after an older program ran, want 1000", version, err)
		}
		if _, err := db.Exec("UPDATE schema_version SET oldest = 1000"); err != nil {
			t.Fatal(err)
		}
		if s, err := store.Open(ctx, cfg); !errors.Is(err, tailnet.ErrTooNew) || !strings.Contains(err.Error(), "version 1000") {
			if err == nil {
				s.Close()
			}
			t.Errorf("newer schema: got %v, want %v", err, tailnet.ErrTooNew)
		}
	})
}

// TestForeignDatabase: tables of another program are left alone.
func TestForeignDatabase(t *testing.T) {
	bothConfigs(t, func(t *testing.T, cfg store.Config) {
		if cfg.Type == "sqlite" {
			if err := os.MkdirAll(filepath.Dir(cfg.SQLite.Path), 0o700); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := raw(t, cfg).Exec("CREATE TABLE users (id integer)"); err != nil {
			t.Fatal(err)
		}
		s, err := store.Open(context.Background(), cfg)
		if err == nil {
			s.Close()
		}
		if err == nil || !strings.Contains(err.Error(), "not made by this program") {
			t.Errorf("got %v, want that it was not made by this program", err)
		}
	})
}

// TestSecondServer: two servers cannot use one SQLite file.
func TestSecondServer(t *testing.T) {
	cfg := sqliteConfig(t)
	first, err := store.Open(context.Background(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	s, err := store.Open(context.Background(), cfg)
	if err == nil {
		s.Close()
	}
	if !errors.Is(err, tailnet.ErrReadOnly) || !strings.Contains(err.Error(), "another server uses") {
		t.Errorf("got %v, want %v for another server", err, tailnet.ErrReadOnly)
	}
	if err := errors.Join(first.Close(), first.Close()); err != nil {
		t.Errorf("closing, and again: %v", err)
	}
	open(t, cfg)
}

func TestOpenAtOnce(t *testing.T) {
	cfg := postgresConfig(t)
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			s, err := store.Open(context.Background(), cfg)
			if err != nil {
				t.Error(err)
				return
			}
			if err := s.Close(); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
}

func TestFilePermissions(t *testing.T) {
	cfg := sqliteConfig(t)
	open(t, cfg)
	for path, want := range map[string]os.FileMode{filepath.Dir(cfg.SQLite.Path): 0o700, cfg.SQLite.Path: 0o600} {
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		if got := info.Mode().Perm(); got != want {
			t.Errorf("%s: got mode %o, want %o", path, got, want)
		}
	}
}

// TestColumns: the schema has the columns that gorm takes from the nouns, and no others.
func TestColumns(t *testing.T) {
	cfg := sqliteConfig(t)
	open(t, cfg)
	db := raw(t, cfg)
	for _, noun := range []any{&tailnet.Tailnet{}, &tailnet.User{}, &tailnet.PreAuthKey{}, &tailnet.APIKey{}, &tailnet.OAuthClient{}, &tailnet.AccessToken{},
		&tailnet.PolicyVersion{},
		&tailnet.Node{}, &tailnet.Session{}, &tailnet.Registration{}} {
		parsed, err := schema.Parse(noun, &sync.Map{}, schema.NamingStrategy{})
		if err != nil {
			t.Fatal(err)
		}
		rows, err := db.Query("SELECT * FROM " + parsed.Table)
		if err != nil {
			t.Fatal(err)
		}
		columns, err := rows.Columns()
		if err != nil {
			t.Fatal(err)
		}
		rows.Close()
		there := map[string]bool{}
		for _, c := range columns {
			there[c] = true
			if parsed.FieldsByDBName[c] == nil {
				t.Errorf("table %s: column %s has no field", parsed.Table, c)
			}
		}
		for name := range parsed.FieldsByDBName {
			if !there[name] {
				t.Errorf("table %s: field %s has no column", parsed.Table, name)
			}
		}
	}
}

// TestMalformedRow: a row that somebody spoilt is named, with its table and column, and hurts no other.
func TestMalformedRow(t *testing.T) {
	bothConfigs(t, func(t *testing.T, cfg store.Config) {
		w := newWorld(t, cfg)
		good, bad := w.join("good"), w.join("bad")
		r := w.begin(waiting("x"))
		db := raw(t, cfg)
		for _, statement := range []string{
			"UPDATE nodes SET hostinfo = '{' WHERE given_name = 'bad'",
			"UPDATE pre_auth_keys SET tags = 'tag:x'",
			"UPDATE registrations SET machine_key = 'nonsense'",
		} {
			if _, err := db.Exec(statement); err != nil {
				t.Fatal(err)
			}
		}
		_, get := w.GetNode(w.ctx, bad.ID)
		_, list := w.ListNodes(w.ctx, store.NodeFilter{})
		_, since := w.Since(w.ctx, w.user.TailnetID, 0)
		_, rename := w.RenameNode(w.ctx, bad.ID, "x")
		_, keys := w.ListPreAuthKeys(w.ctx, store.KeyFilter{})
		_, join := w.JoinWithKey(w.ctx, w.secret, client("x"))
		_, registration := w.FindRegistration(w.ctx, tailnet.RegistrationRef{ID: r.ID})
		for name, c := range map[string]struct {
			got  error
			says []string
		}{
			"get node":          {get, []string{"table nodes, row 2", "hostinfo"}},
			"list nodes":        {list, []string{"table nodes, row 2", "hostinfo"}},
			"since":             {since, []string{"table nodes, row 2", "hostinfo"}},
			"rename node":       {rename, []string{"table nodes, row 2", "hostinfo"}},
			"list keys":         {keys, []string{"table pre_auth_keys, row 1, column tags"}},
			"join":              {join, []string{"table pre_auth_keys, row 1, column tags"}},
			"find registration": {registration, []string{"table registrations, row " + r.ID + ", column machine_key"}},
		} {
			for _, says := range c.says {
				if c.got == nil || !strings.Contains(c.got.Error(), says) {
					t.Errorf("%s: got %v, want an error that says %q", name, c.got, says)
				}
			}
		}
		if _, err := w.RenameNode(w.ctx, good.ID, "better"); err != nil {
			t.Errorf("the other node: %v", err)
		}
	})
}

// TestFullDisk: while the disk is full nothing can be written, what is there can be read, and when there is room again
// all is well.
func TestFullDisk(t *testing.T) {
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=2m"); err != nil {
		t.Skipf("cannot mount a small disk: %v", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
	})
	cfg := sqliteConfig(t)
	cfg.SQLite.Path = filepath.Join(dir, "db.sqlite")
	w := newWorld(t, cfg)
	n := w.join("web")
	ballast := filepath.Join(dir, "ballast")
	err := os.WriteFile(ballast, make([]byte, 2<<20), 0o600)
	if !errors.Is(err, syscall.ENOSPC) {
		t.Fatalf("filling the disk: got %v, want %v", err, syscall.ENOSPC)
	}
	for i := 0; err == nil || !errors.Is(err, tailnet.ErrReadOnly); i++ { // pages that are there already may still be used
		if _, err = w.JoinWithKey(w.ctx, w.secret, client("late")); i > 1000 {
			t.Fatalf("got %v after %d joins on a full disk, want %v", err, i, tailnet.ErrReadOnly)
		}
	}
	if !strings.Contains(err.Error(), "free some space") && !strings.Contains(err.Error(), "look at the disk") {
		t.Errorf("got %v, want what to do in it", err)
	}
	before := must[[]*tailnet.Node](t)(w.ListNodes(w.ctx, store.NodeFilter{}))
	if w.node(n.ID).GivenName != "web" {
		t.Error("what is there cannot be read")
	}
	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	w.join("again")
	after := must[[]*tailnet.Node](t)(w.ListNodes(w.ctx, store.NodeFilter{}))
	if len(after) != len(before)+1 {
		t.Errorf("got %d nodes after %d and a join, want one more", len(after), len(before))
	}
}

// TestReadOnlyFile: as before, for a file system that becomes read-only.
func TestReadOnlyFile(t *testing.T) {
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=8m"); err != nil {
		t.Skipf("cannot mount a disk: %v", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
	})
	cfg := sqliteConfig(t)
	cfg.SQLite.Path = filepath.Join(dir, "db.sqlite")
	ctx := context.Background()
	s, err := store.Open(ctx, cfg)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	remount := func(flags uintptr) {
		t.Helper()
		if err := syscall.Mount("tmpfs", dir, "tmpfs", syscall.MS_REMOUNT|flags, "size=8m"); err != nil {
			t.Fatal(err)
		}
	}
	remount(syscall.MS_RDONLY)
	if s, err := store.Open(ctx, cfg); !errors.Is(err, tailnet.ErrReadOnly) || !strings.Contains(err.Error(), "right to write") {
		if err == nil {
			s.Close()
		}
		t.Errorf("got %v, want %v and what to do", err, tailnet.ErrReadOnly)
	}
	remount(0)
	open(t, cfg)
}

// TestReadOnlyPostgres: a server that takes no writes, as a standby does, and then does again.
func TestReadOnlyPostgres(t *testing.T) {
	cfg := postgresConfig(t)
	w := newWorld(t, cfg)
	db := raw(t, cfg)
	db.SetMaxOpenConns(1)
	readOnly := func(on string) {
		t.Helper()
		for _, statement := range []string{
			"SET default_transaction_read_only = off", // for this connection, so that it may set it for the others
			"ALTER DATABASE " + cfg.Postgres.Name + " SET default_transaction_read_only = " + on,
		} {
			if _, err := db.Exec(statement); err != nil {
				t.Fatal(err)
			}
		}
		// The setting is for new connections: end those of the store.
		if _, err := db.Exec("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1 AND application_name = 'keelscale'",
			cfg.Postgres.Name); err != nil {
			t.Fatal(err)
		}
	}
	n := w.join("web")
	refused := func(what string, err error) {
		t.Helper()
		if !errors.Is(err, tailnet.ErrReadOnly) || !strings.Contains(err.Error(), "read-only transaction") {
			t.Errorf("%s: got %v, want %v for a read-only transaction", what, err, tailnet.ErrReadOnly)
		}
	}
	readOnly("on")
	_, err := w.JoinWithKey(w.ctx, w.secret, client("late"))
	refused("join", err)
	_, err = w.RenameNode(w.ctx, n.ID, "x")
	refused("rename", err)
	if got := w.node(n.ID).GivenName; got != "web" {
		t.Errorf("got name %s, want web", got)
	}
	readOnly("off")
	w.join("again") // on a new connection, for the old one is found dead when the transaction begins
}
