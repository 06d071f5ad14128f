//go:build unix

package spool

import (
	"errors"
	"fmt"
	"os"
	"syscall"
)

// tryLock reports whether a living process has the lock. It is this one's else, as long as the file is open: the kernel gives it up for a process that
// dies.
func tryLock(f *os.File) (taken bool, err error) {
	err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	if errors.Is(err, syscall.EWOULDBLOCK) {
		return true, nil
	}
	if err != nil {
		return false, fmt.Errorf("lock %s: %w", f.Name(), err)
	}
	return false, nil
}

// unlock gives the lock up. To close the file would do, if no child that is just being started had it open as well.
func unlock(f *os.File) error { return syscall.Flock(int(f.Fd()), syscall.LOCK_UN) }
