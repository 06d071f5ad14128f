package main

import "syscall"

// dieWithParent makes the kernel kill a child when this process ends without its cleanups.
func dieWithParent() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
}
