package redistest

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
)

// childVariable makes TestChild do something; the tests here run it in a test binary of its own.
const childVariable = "REDISTEST_CHILD"

// TestChild is the body of the child test binaries.
func TestChild(t *testing.T) {
	t.Parallel()
	behaviour := os.Getenv(childVariable)
	if behaviour == "" {
		t.Skip("only in a child test binary")
	}
	fmt.Printf("server=%s\n", Shared(t).Addr())
	switch behaviour {
	case "leak":
		go func() { select {} }()
	case "die":
		os.Exit(7)
	}
}

func TestRunStopsTheSharedServer(t *testing.T) {
	t.Parallel()
	c := runChild(t, "pass")
	if c.exitCode != 0 {
		t.Errorf("exit %d, want 0; it said:\n%s", c.exitCode, c.stderr)
	}
	if err := dial(c.server); err == nil {
		t.Errorf("the server at %s outlived its test binary", c.server)
	}
	left, err := os.ReadDir(c.tempDir)
	if err != nil || len(left) != 0 {
		t.Errorf("left in the folder for temporary files: %v, %v", left, err)
	}
}

func TestRunFailsWhenGoroutinesAreLeft(t *testing.T) {
	t.Parallel()
	c := runChild(t, "leak")
	if c.exitCode != 1 || !strings.Contains(c.stderr, "goroutines are left") {
		t.Errorf("exit %d, want 1 and a word on goroutines; it said:\n%s", c.exitCode, c.stderr)
	}
}

func TestRestartOverSocket(t *testing.T) {
	t.Parallel()
	s := Start(t, "--appendonly", "yes", "--appendfsync", "always")
	set(t, s, "survivor")
	pid := s.PID()
	var command []string
	t.Run("while the test runs", func(t *testing.T) {
		command = RestartOverSocket(t, s)
		for range 2 {
			if output, err := exec.Command(command[0], command[1:]...).CombinedOutput(); err != nil {
				t.Fatalf("%v: %s", err, output)
			}
			if s.PID() == pid {
				t.Error("the process is the old one")
			}
			pid = s.PID()
			if !has(t, s, "survivor") {
				t.Error("the key is gone")
			}
		}
	})
	output, err := exec.Command(command[0], command[1:]...).CombinedOutput()
	if err == nil || !strings.Contains(string(output), "redistest: restart:") {
		t.Errorf("after the test: %v, %q, want a failure that says whose", err, output)
	}
	if s.PID() != pid {
		t.Error("restarted after the test")
	}
}

type child struct {
	exitCode        int
	server, tempDir string
	stderr          string
}

// runChild runs this test binary again, with TestChild alone.
func runChild(t *testing.T, behaviour string) child {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	c := child{tempDir: t.TempDir()}
	var stdout, stderr bytes.Buffer
	cmd := exec.CommandContext(t.Context(), self, "-test.run=^TestChild$")
	cmd.Env = append(os.Environ(), childVariable+"="+behaviour, "TMPDIR="+c.tempDir)
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	_ = cmd.Run()
	c.exitCode, c.stderr = cmd.ProcessState.ExitCode(), stderr.String()
	for line := range strings.Lines(stdout.String()) {
		if addr, found := strings.CutPrefix(strings.TrimSpace(line), "server="); found {
			c.server = addr
		}
	}
	if c.server == "" {
		t.Fatalf("the child had no server; it said:\n%s%s", stdout.String(), c.stderr)
	}
	return c
}
