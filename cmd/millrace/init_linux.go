package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"syscall"

	"golang.org/x/term"
)

// asInit does what the first process of a container has to do, where this one is it: the command runs as its child, is told all signals, and whatever
// processes others leave behind (commands of work --exec, say) are reaped, which nobody else does. It returns the exit code of the command.
func asInit() (code int, is bool) {
	if os.Getpid() != 1 || os.Getenv(initVariable) != "" {
		return 0, false
	}
	self, err := os.Executable()
	if err != nil {
		return 0, false // then this process is the command, and reaps nobody
	}
	signals := make(chan os.Signal, 64)
	signal.Notify(signals)
	cmd := exec.Command(self, os.Args[1:]...)
	cmd.Args[0] = os.Args[0]
	cmd.Env = append(os.Environ(), initVariable+"=1")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	// A group of its own: what a terminal tells the group in its foreground is told once.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Foreground: term.IsTerminal(0)}
	if err := cmd.Start(); err != nil {
		fmt.Fprintln(os.Stderr, "millrace: process 1 can't start the command:", err)
		return exitFailed, true
	}
	for s := range signals {
		if s != syscall.SIGCHLD {
			_ = cmd.Process.Signal(s) // it may have ended
			continue
		}
		if status, ended := reap(cmd.Process.Pid); ended {
			if status.Signaled() {
				return 128 + int(status.Signal()), true
			}
			return status.ExitStatus(), true
		}
	}
	return exitFailed, true // the channel is never closed
}

// reap takes what is to be had of processes that have ended, and reports whether the command is one of them.
func reap(command int) (of syscall.WaitStatus, ended bool) {
	for {
		var status syscall.WaitStatus
		pid, err := syscall.Wait4(-1, &status, syscall.WNOHANG, nil)
		switch {
		case errors.Is(err, syscall.EINTR):
			continue
		case err != nil || pid <= 0:
			return of, ended
		case pid == command:
			of, ended = status, true
		}
	}
}
