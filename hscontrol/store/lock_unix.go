//go:build unix

package store

import (
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"

	"github.com/keelscale/keelscale/hscontrol/tailnet"
)

// lockPatience is how long a server waits for the one that it replaces to end.
const lockPatience = 5 * time.Second

// lockDatabase keeps a second server away from a SQLite file: each would take the other's sessions for its own former
// ones. The lock goes with the process, however it ends. Tools that read or back up the file are not kept away.
func lockDatabase(path string) (*os.File, error) {
	f, err := openOrNew(path + ".lock")
	if err != nil {
		return nil, fmt.Errorf("%w: %w: give the server's user the right to write the directory of the database", tailnet.ErrReadOnly, err)
	}
	for end := time.Now().Add(lockPatience); ; time.Sleep(50 * time.Millisecond) {
		err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if !errors.Is(err, syscall.EWOULDBLOCK) {
			return f, nil // locked, or on a file system that has no locks
		}
		if time.Now().After(end) {
			f.Close()
			return nil, &heldError{path}
		}
	}
}

// heldError is that another process has the file. It is an ErrReadOnly with a sentence of its own: who copies a database
// only wants to read it.
type heldError struct{ path string }

func (e *heldError) Error() string {
	return fmt.Sprintf("another server uses %s: stop it first", e.path)
}

func (e *heldError) Unwrap() error { return tailnet.ErrReadOnly }
