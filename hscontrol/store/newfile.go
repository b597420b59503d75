package store

import (
	"errors"
	"os"
	"path/filepath"
)

// NewFile makes a file that was not there (mode 0600, else os.ErrExist), and the directories above it (0700). What root
// makes belongs to whom the directory above belongs to: a command that an administrator runs as root leaves no files
// that the server's user cannot read.
func NewFile(path string) (*os.File, error) {
	if err := makeDirs(filepath.Dir(path)); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, err
	}
	if err := giveToOwner(f, filepath.Dir(path)); err != nil {
		return nil, errors.Join(err, f.Close(), os.Remove(path))
	}
	return f, nil
}

// openOrNew opens a file to read and write, and makes it where it is missing.
func openOrNew(path string) (*os.File, error) {
	f, err := NewFile(path)
	if errors.Is(err, os.ErrExist) {
		return os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	}
	return f, err
}

// makeDirs is os.MkdirAll for owners as NewFile has them.
func makeDirs(dir string) error {
	if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
		return os.MkdirAll(dir, 0o700) // says so if it is no directory
	}
	if err := makeDirs(filepath.Dir(dir)); err != nil {
		return err
	}
	if err := os.Mkdir(dir, 0o700); errors.Is(err, os.ErrExist) {
		return nil // another process was faster
	} else if err != nil {
		return err
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(giveToOwner(d, filepath.Dir(dir)), d.Close())
}
