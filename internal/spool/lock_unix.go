//go:build unix

package spool

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"time"
)

// tryLock reports whether a living process has the lock. It is this one's else, as long as the file is open: the kernel gives it up for a process that
// dies.
func tryLock(f *os.File) (taken bool, err error) { return flock(f, syscall.LOCK_EX) }

// tryShare is the same for those who only look: they do not keep each other out.
func tryShare(f *os.File) (taken bool, err error) { return flock(f, syscall.LOCK_SH) }

// lookFor is for how long a lock is tried: those who only look have it for less than that.
const lookFor = 3 * time.Millisecond

func flock(f *os.File, how int) (taken bool, err error) {
	for begun := time.Now(); ; time.Sleep(lookFor / 3) {
		err = syscall.Flock(int(f.Fd()), how|syscall.LOCK_NB)
		if !errors.Is(err, syscall.EWOULDBLOCK) || time.Since(begun) > lookFor {
			break
		}
	}
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

// likeFolder gives a file the owner of the folder that it was made in: who looks after a spool may not be the user of the server, which has
// to open it. Where that can't be done it stays as it is.
func likeFolder(path string) {
	info, err := os.Stat(filepath.Dir(path))
	if err != nil {
		return
	}
	if of, ok := info.Sys().(*syscall.Stat_t); ok && (int(of.Uid) != os.Geteuid() || int(of.Gid) != os.Getegid()) {
		_ = os.Chown(path, int(of.Uid), int(of.Gid))
	}
}

// keepOwner gives a file the owner of the one that it is to replace: who changes a spool may not be the user of the server.
func keepOwner(f *os.File, path string) error {
	info, err := os.Stat(path)
	if err != nil {
		return nil // it replaces none
	}
	old, ok := info.Sys().(*syscall.Stat_t)
	if !ok || int(old.Uid) == os.Geteuid() && int(old.Gid) == os.Getegid() {
		return nil
	}
	return f.Chown(int(old.Uid), int(old.Gid))
}
