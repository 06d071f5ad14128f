package redistest

import (
	"bytes"
	"fmt"
	"os"
	"syscall"
)

// DieWithParent makes the kernel kill the server when the test binary ends without its cleanups: a panic, a timeout, SIGKILL.
func DieWithParent() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
}

// stopped reports whether SIGSTOP has taken effect. Until then a thread on another core may still answer.
func stopped(pid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return false
	}
	// The state follows the name, which stands in parentheses and may hold anything.
	_, rest, found := bytes.Cut(stat[bytes.LastIndexByte(stat, ')')+1:], []byte(" "))
	return found && len(rest) > 0 && rest[0] == 'T'
}
