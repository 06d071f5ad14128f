package main

import (
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/rishi-platform/millrace/internal/redistest"
)

func TestMain(m *testing.M) {
	if os.Getenv(asFirst) != "" {
		if err := ownProc(); err != nil {
			os.Exit(99)
		}
		os.Exit(firstProcess())
	}
	if os.Getenv(asMillrace) != "" {
		os.Exit(run())
	}
	os.Exit(redistest.Run(m))
}

// asFirst makes the test binary the first process of a container: this is what it runs as a command.
const asFirst = "MILLRACE_TEST_FIRST"

// firstProcess is main where the test binary is to be process 1, or its command.
func firstProcess() (code int) {
	if code, is := asInit(); is {
		return code
	}
	// A process is left behind, whose end is not waited for by anybody here.
	if err := exec.Command("/bin/sh", "-c", "sleep 0.01 & exit 0").Run(); err != nil {
		return 98
	}
	for range 1000 { // until process 1 has reaped it
		if n := zombies(); n == 0 && os.Getppid() == 1 {
			break
		} else if n < 0 {
			return 97
		}
		_ = exec.Command("/bin/sleep", "0.01").Run()
	}
	if zombies() != 0 {
		return 96
	}
	signals := make(chan os.Signal, 1)
	notify(signals)
	_, _ = os.Stdout.WriteString("ready\n")
	<-signals
	return 42
}

// zombies counts those whose parent is process 1.
func zombies() (n int) {
	out, err := exec.Command("/bin/sh", "-c", `cat /proc/[0-9]*/stat 2>/dev/null`).Output()
	if err != nil && len(out) == 0 {
		return -1
	}
	for line := range strings.Lines(string(out)) {
		_, rest, _ := strings.Cut(line, ") ")
		if fields := strings.Fields(rest); len(fields) > 1 && fields[0] == "Z" && fields[1] == "1" {
			n++
		}
	}
	return n
}
