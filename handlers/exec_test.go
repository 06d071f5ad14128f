//go:build unix

package handlers

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/rishi-platform/millrace/pipeline"
)

func TestExecPassesTheEventToTheCommand(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	handle := Exec(`env | grep -E '^(MILLRACE_|TRACEPARENT)' | sort; cat`, ExecConfig{
		Stdout: &out,
		Env: func(_ context.Context, d *pipeline.Delivery) []string {
			return []string{"TRACEPARENT=of " + d.Event.ID}
		},
	})
	d := delivery(`"` + strings.Repeat("x", 1<<20) + `"`)
	d.Event.Subject = "invoice/\x007" // no environment can hold a NUL
	if err := handle(t.Context(), d); err != nil {
		t.Fatal(err)
	}
	env, event, _ := strings.Cut(out.String(), "{")
	want := `MILLRACE_ATTEMPT=2
MILLRACE_CORRELATION_ID=abc-1
MILLRACE_EVENT_ID=e-1
MILLRACE_EVENT_TYPE=invoice.issued
MILLRACE_GROUP=mail
MILLRACE_POSITION=1764000000000-3
MILLRACE_STREAM=invoice
MILLRACE_SUBJECT=invoice/7
TRACEPARENT=of e-1
`
	if diff := cmp.Diff(want, env); diff != "" {
		t.Errorf("environment: -want +got:\n%s", diff)
	}
	var got struct{ ID, Data string }
	if err := json.Unmarshal([]byte("{"+event), &got); err != nil {
		t.Fatal(err)
	}
	if got.ID != "e-1" || len(got.Data) != 1<<20 || !strings.HasSuffix(event, "}\n") {
		t.Errorf("got an event of %d bytes on stdin that is not what was sent as one line", len(event))
	}
}

func TestExecFailsUnlessTheCommandExitsWithZero(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		command string
		want    ExitError
		text    string
	}{
		"status":       {`exit 3`, ExitError{Code: 3}, "command exited with status 3"},
		"stderr":       {`echo a >&2; echo b >&2; exit 1`, ExitError{Code: 1, Stderr: "a\nb"}, "command exited with status 1: b"},
		"signal":       {`kill -TERM $$`, ExitError{Code: -1, Signal: syscall.SIGTERM}, "command was ended by signal: terminated"},
		"unread input": {`exec <&-; exit 4`, ExitError{Code: 4}, "command exited with status 4"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			err := Exec(test.command, ExecConfig{})(t.Context(), delivery(`"`+strings.Repeat("x", 1<<20)+`"`))
			var got *ExitError
			if !errors.As(err, &got) {
				t.Fatalf("got %v, want an *ExitError", err)
			}
			if diff := cmp.Diff(test.want, *got); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
			if got.Error() != test.text {
				t.Errorf("got %q, want %q", got.Error(), test.text)
			}
		})
	}
}

// A command that this machine can't run is no fault of the event.
func TestG09CommandThatCannotBeRunIsAFaultOfTheWorker(t *testing.T) {
	t.Parallel()
	plain := filepath.Join(t.TempDir(), "plain")
	if err := os.WriteFile(plain, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	large := func(context.Context, *pipeline.Delivery) []string { return []string{"X=" + strings.Repeat("x", 1<<20)} } // what the event says, say
	for name, test := range map[string]struct {
		command string
		env     func(context.Context, *pipeline.Delivery) []string
		want    bool
	}{
		"not found":            {"./missing.sh", nil, true},
		"not executable":       {plain, nil, true},
		"not started":          {"true\x00", nil, true},
		"failed":               {"exit 1", nil, false},
		"given up":             {"exit 100", nil, false},
		"too much environment": {"true", large, false},
	} {
		err := Exec(test.command, ExecConfig{Env: test.env})(t.Context(), delivery(`{}`))
		var fault *pipeline.WorkerError
		if err == nil || errors.As(err, &fault) != test.want {
			t.Errorf("%s: got %v, a fault of the worker: %v, want %v", name, err, fault != nil, test.want)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	var fault *pipeline.WorkerError
	if err := Exec("true", ExecConfig{})(ctx, delivery(`{}`)); err == nil || errors.As(err, &fault) {
		t.Errorf("interrupted: got %v, want a failure", err)
	}
}

func TestExecKeepsTheEndOfStderr(t *testing.T) {
	t.Parallel()
	var all bytes.Buffer
	err := Exec(`i=0; while [ $i -lt 2000 ]; do echo "line $i" >&2; i=$((i+1)); done; exit 1`, ExecConfig{Stderr: &all})(t.Context(), delivery(`{}`))
	var got *ExitError
	if !errors.As(err, &got) {
		t.Fatalf("got %v, want an *ExitError", err)
	}
	if len(got.Stderr) > 4<<10 || !strings.HasSuffix(got.Stderr, "line 1998\nline 1999") {
		t.Errorf("got %d bytes that end in %q, want at most 4 KiB up to line 1999", len(got.Stderr), got.Stderr[max(0, len(got.Stderr)-30):])
	}
	if lines := strings.Count(all.String(), "\n"); lines != 2000 {
		t.Errorf("got %d lines passed on, want all 2000", lines)
	}
}

func TestExecTakesACommandThatDoesNotReadItsInput(t *testing.T) {
	t.Parallel()
	for _, command := range []string{`true`, `exec <&-`, `head -c 1 >/dev/null`} {
		if err := Exec(command, ExecConfig{})(t.Context(), delivery(`"`+strings.Repeat("x", 1<<20)+`"`)); err != nil {
			t.Errorf("%s: got %v, want nil", command, err)
		}
	}
}

func TestExecDoesNotWaitForWhatACommandLeavesBehind(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "pid")
	var out bytes.Buffer // a pipe, since it is no file, which what is left behind keeps open
	err := Exec(`sleep 600 & echo $! >`+file, ExecConfig{Stdout: &out, KillAfter: 50 * time.Millisecond})(t.Context(), delivery(`{}`))
	if err != nil {
		t.Errorf("got %v, want nil: the command itself exited with 0", err)
	}
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Errorf("kill what was left behind: got %v, want it alive", err)
	}
}

// TestExecEndsTheWholeGroupWithItsContext holds the stdout of the commands as a pipe of its own: the end of file is read
// only when the last process that had it open is gone.
func TestExecEndsTheWholeGroupWithItsContext(t *testing.T) {
	t.Parallel()
	errStop := errors.New("time to go")
	for name, test := range map[string]struct {
		command   string
		killAfter time.Duration
		want      ExitError
	}{
		"SIGTERM ends it": {
			`sleep 600 & echo ready; wait`, 10 * time.Second, ExitError{Code: -1, Signal: syscall.SIGTERM},
		},
		"SIGTERM is ignored": {
			`trap '' TERM; sleep 600 & echo ready; wait`, 50 * time.Millisecond, ExitError{Code: -1, Signal: syscall.SIGKILL},
		},
		"a child ignores SIGTERM": {
			`(trap '' TERM; exec 2>&-; echo ready; exec sleep 600) & wait`, 50 * time.Millisecond, ExitError{Code: -1, Signal: syscall.SIGTERM},
		},
		"SIGTERM makes it exit with 0": {
			`trap 'exit 0' TERM; sleep 600 & echo ready; wait`, 10 * time.Second, ExitError{},
		},
		"SIGTERM makes it exit with 100": {
			`trap 'exit 100' TERM; sleep 600 & echo ready; wait`, 10 * time.Second, ExitError{Code: 100},
		},
		"SIGTERM makes it exit with 101": {
			`trap 'exit 101' TERM; sleep 600 & echo ready; wait`, 10 * time.Second, ExitError{Code: 101},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r, w, err := os.Pipe()
			if err != nil {
				t.Fatal(err)
			}
			defer r.Close()
			ctx, stop := context.WithCancelCause(t.Context())
			failed := make(chan error, 1)
			go func() {
				failed <- Exec(test.command, ExecConfig{Stdout: w, KillAfter: test.killAfter})(ctx, delivery(`{}`))
				w.Close()
			}()
			ready := make([]byte, len("ready\n"))
			if _, err := io.ReadFull(r, ready); err != nil {
				t.Fatal(err)
			}
			stop(errStop)

			err = <-failed
			var got *ExitError
			if !errors.As(err, &got) || !errors.Is(err, errStop) {
				t.Fatalf("got %v, want an *ExitError that is %v", err, errStop)
			}
			// Stopped by a timeout or a drain, it did not get to judge the event: its status means nothing.
			var permanent *pipeline.PermanentError
			var later *pipeline.RetryAfterError
			if errors.As(err, &permanent) || errors.As(err, &later) {
				t.Errorf("got %v, want a plain failure", err)
			}
			got.Err = nil
			if diff := cmp.Diff(test.want, *got); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
			if _, err := io.ReadAll(r); err != nil { // hangs where a process has survived
				t.Error(err)
			}
		})
	}
}

func TestExecStartsNothingOnceItsContextHasEnded(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	var out bytes.Buffer
	err := Exec(`echo started`, ExecConfig{Stdout: &out})(ctx, delivery(`{}`))
	if !errors.Is(err, context.Canceled) || out.Len() > 0 {
		t.Errorf("got %v and output %q, want context.Canceled and none", err, out.String())
	}
}

func TestExecStatusesWithAMeaning(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		command   string
		permanent bool
		later     bool
		after     time.Duration
	}{
		"100":                          {command: `exit 100`, permanent: true},
		"100, whatever it prints":      {command: `echo retry-after: 30s; exit 100`, permanent: true},
		"101":                          {command: `exit 101`, later: true},
		"101 with a time":              {command: `echo busy; echo "retry-after: 1m30s"; exit 101`, later: true, after: 90 * time.Second},
		"101, no line feed at the end": {command: `printf 'retry-after:2s'; exit 101`, later: true, after: 2 * time.Second},
		"101, not the last line":       {command: `echo retry-after: 30s; echo bye; exit 101`, later: true},
		"101 with nonsense":            {command: `echo retry-after: soon; exit 101`, later: true},
		"101 in the past":              {command: `echo retry-after: -5s; exit 101`, later: true},
		"1 with a time":                {command: `echo retry-after: 30s; exit 1`},
		"101, blank lines behind it":   {command: `printf 'retry-after: 30s\r\n\n'; exit 101`, later: true, after: 30 * time.Second},
		"101 behind much output":       {command: `yes | head -c 100000; echo retry-after: 30s; exit 101`, later: true, after: 30 * time.Second},
		"101 with the time on stderr":  {command: `echo retry-after: 30s >&2; exit 101`, later: true},
		"99":                           {command: `exit 99`},
		"102":                          {command: `exit 102`},
		"signal":                       {command: `echo retry-after: 30s; kill -KILL $$`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			err := Exec(test.command, ExecConfig{})(t.Context(), delivery(`{}`))
			var exit *ExitError
			var permanent *pipeline.PermanentError
			var later *pipeline.RetryAfterError
			if !errors.As(err, &exit) || errors.As(err, &permanent) != test.permanent || errors.As(err, &later) != test.later {
				t.Fatalf("got %#v, want permanent %v, later %v", err, test.permanent, test.later)
			}
			if later != nil && later.After != test.after {
				t.Errorf("after %v, want %v", later.After, test.after)
			}
		})
	}
}

// What a command has left in the background holds no event up, lives on, and is still heard.
func TestP22BackgroundProcessHoldsNothingUp(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	out := &heard{}
	ended := make(chan error, 1)
	go func() {
		ended <- Exec(`(while [ ! -e `+dir+`/go ]; do sleep 0.02; done; echo late) & echo early`, ExecConfig{Stdout: out})(t.Context(), delivery(`{}`))
	}()
	select {
	case err := <-ended:
		if err != nil || out.String() != "early\n" {
			t.Errorf("%v, %q", err, out)
		}
	case <-time.After(20 * time.Second):
		t.Error("the command has ended, and its event has not")
	}
	if err := os.WriteFile(dir+"/go", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(20 * time.Second); out.String() != "early\nlate\n"; <-time.After(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("heard %q", out)
		}
	}
}

// heard is what was written, by anybody at any time.
type heard struct {
	mu   sync.Mutex
	text strings.Builder
}

func (h *heard) Write(p []byte) (int, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.text.Write(p)
}

func (h *heard) String() string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.text.String()
}

// A subject that no environment takes stands in the event alone.
func TestP21LargeSubjectIsNoVariable(t *testing.T) {
	t.Parallel()
	d := delivery(`{}`)
	d.Event.Subject = strings.Repeat("s", 200<<10)
	var out bytes.Buffer
	err := Exec(`echo "${MILLRACE_SUBJECT-none} $MILLRACE_EVENT_ID"; [ $(tr -cd s | wc -c) -ge 204800 ] && echo whole`, ExecConfig{Stdout: &out})(t.Context(), d)
	if got := strings.Fields(out.String()); err != nil || !cmp.Equal(got, []string{"none", d.Event.ID, "whole"}) {
		t.Errorf("%v, %.100q", err, out.String())
	}
}

// The trace context that a worker was started with is about something else than its events.
func TestP21TraceOfTheWorkerIsNotPassedOn(t *testing.T) {
	t.Setenv("TRACEPARENT", "of the worker")
	t.Setenv("MILLRACE_TEST", "of the worker")
	var out bytes.Buffer
	command := `echo "${TRACEPARENT-none} $MILLRACE_TEST"`
	if err := Exec(command, ExecConfig{Stdout: &out})(t.Context(), delivery(`{}`)); err != nil {
		t.Fatal(err)
	}
	of := func(context.Context, *pipeline.Delivery) []string { return []string{"TRACEPARENT=of the event"} }
	if err := Exec(command, ExecConfig{Stdout: &out, Env: of})(t.Context(), delivery(`{}`)); err != nil {
		t.Fatal(err)
	}
	if got := out.String(); got != "none of the worker\nof the event of the worker\n" {
		t.Errorf("got %q", got)
	}
}

// What a command has written last is read though nobody takes what it wrote before.
func TestP22SlowOutputLosesNoLastWord(t *testing.T) {
	t.Parallel()
	out := slowWriter(2 * lastWords)
	err := Exec(`echo busy; sleep 0.1; echo retry-after: 30s; exit 101`, ExecConfig{Stdout: out})(t.Context(), delivery(`{}`))
	var later *pipeline.RetryAfterError
	if !errors.As(err, &later) || later.After != 30*time.Second {
		t.Errorf("got %v", err)
	}
}

// slowWriter takes so long for each write.
type slowWriter time.Duration

func (w slowWriter) Write(p []byte) (int, error) {
	<-time.After(time.Duration(w))
	return len(p), nil
}
