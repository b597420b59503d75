//go:build unix

package store_test

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/keelscale/keelscale/hscontrol/store"
)

// What root makes belongs to whom the directory belongs to: else an administrator's copy is a server's that cannot read
// it.
func TestRootMakesFilesForTheOwner(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("skipping: only root makes files for others")
	}
	const owner, group = 12345, 12346
	dir := t.TempDir()
	if err := os.Chown(dir, owner, group); err != nil {
		t.Fatal(err)
	}
	from := sqliteConfig(t)
	s, err := store.Open(context.Background(), from)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	to := from
	to.SQLite.Path = filepath.Join(dir, "below", "copy.sqlite")
	if _, err := store.Copy(context.Background(), from, to, store.CopyOptions{}); err != nil {
		t.Fatal(err)
	}
	f, err := store.NewFile(filepath.Join(dir, "keys", "noise.key"))
	if err != nil {
		t.Fatal(err)
	}
	f.Close()
	var names []string
	err = filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := e.Info()
		if err != nil {
			return err
		}
		names = append(names, e.Name())
		if of := info.Sys().(*syscall.Stat_t); of.Uid != owner || of.Gid != group {
			t.Errorf("%s: got owner %d:%d, want %d:%d", path, of.Uid, of.Gid, owner, group)
		}
		return nil
	})
	if got := strings.Join(names[1:], " "); err != nil || got != "below copy.sqlite copy.sqlite.lock keys noise.key" {
		t.Errorf("got the files %q, %v", got, err)
	}
	if _, err := store.NewFile(filepath.Join(dir, "keys", "noise.key")); !errors.Is(err, os.ErrExist) {
		t.Errorf("a file that is there: got %v, want %v", err, os.ErrExist)
	}
}

// A server's own log files follow its database.
func TestRootServesForTheOwner(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("skipping: only root makes files for others")
	}
	const owner = 12345
	cfg := sqliteConfig(t)
	dir := t.TempDir()
	if err := os.Chown(dir, owner, owner); err != nil {
		t.Fatal(err)
	}
	cfg.SQLite.Path, cfg.SQLite.WAL = filepath.Join(dir, "db.sqlite"), true
	open(t, cfg)
	files, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil || len(files) < 3 {
		t.Fatalf("got %q, %v, want the database, its lock and its log", files, err)
	}
	for _, file := range files {
		info, err := os.Stat(file)
		if err != nil {
			t.Fatal(err)
		}
		if of := info.Sys().(*syscall.Stat_t); of.Uid != owner {
			t.Errorf("%s: got owner %d, want %d", file, of.Uid, owner)
		}
	}
}
