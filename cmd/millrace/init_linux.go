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

// asInit does what the first process of a container has to do, where this one is it: the command runs as its child, is told of signals, and whatever
// processes others leave behind (commands of work --exec, say) are reaped, which nobody else does. It returns the exit code of the command.
func asInit() (code int, is bool) {
	if os.Getpid() != 1 || os.Getenv(initVariable) != "" {
		return 0, false
	}
	self, err := os.Executable()
	if err != nil {
		return 0, false // then this process is the command, and reaps nobody
	}
	signals, ends := make(chan os.Signal, 16), make(chan os.Signal, 1) // that a process has ended must not be lost among others
	signal.Notify(signals, syscall.SIGHUP, syscall.SIGINT, syscall.SIGQUIT, syscall.SIGTERM, syscall.SIGUSR1, syscall.SIGUSR2, syscall.SIGCONT, syscall.SIGWINCH)
	signal.Notify(ends, syscall.SIGCHLD)
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
	for {
		select {
		case s := <-signals:
			_ = cmd.Process.Signal(s) // it may have ended
		case <-ends:
			status, ended := reap(cmd.Process.Pid)
			switch {
			case !ended:
			case status.Signaled():
				return 128 + int(status.Signal()), true
			default:
				return status.ExitStatus(), true
			}
		}
	}
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
