//go:build unix

package store

import (
	"errors"
	"os"
	"syscall"
)

// giveToOwner gives a new file of root's to the owner of the directory above it. Others own what they make, and so does a
// root that may give nothing away, as in a container without CAP_CHOWN, or to whom that owner has no number (EINVAL).
func giveToOwner(f *os.File, dir string) error {
	if os.Geteuid() != 0 {
		return nil
	}
	info, err := os.Stat(dir)
	if err != nil {
		return err
	}
	of, ok := info.Sys().(*syscall.Stat_t)
	if !ok || of.Uid == 0 {
		return nil
	}
	err = f.Chown(int(of.Uid), int(of.Gid))
	if errors.Is(err, os.ErrPermission) || errors.Is(err, syscall.EINVAL) {
		return nil
	}
	return err
}
