//go:build unix

package handlers

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/rishi-platform/millrace/pipeline"
	"github.com/rishi-platform/millrace/router"
)

// ExecConfig varies Exec. The zero value is useful.
type ExecConfig struct {
	// Stdout and Stderr get what the commands write. Default: it is dropped.
	Stdout, Stderr io.Writer
	// Env returns variables ("NAME=value") to set besides ours: TRACEPARENT. Default: none.
	Env func(ctx context.Context, d *pipeline.Delivery) []string
	// KillAfter is how long a command may go on after SIGTERM. Default: 5 s.
	KillAfter time.Duration
}

// ExitError is the failure of a command.
type ExitError struct {
	Code   int            // exit status; -1 where a signal ended it
	Signal syscall.Signal // that ended it; 0 where it exited
	Stderr string         // the last lines that it wrote to stderr, at most 4 KiB
	Err    error          // why the handler stopped it: the cause of ctx; nil where it ended by itself
}

func (e *ExitError) Error() string {
	var text string
	switch {
	case e.Err != nil:
		text = "command was stopped: " + e.Err.Error()
	case e.Signal != 0:
		text = "command was ended by signal: " + e.Signal.String()
	default:
		text = "command exited with status " + strconv.Itoa(e.Code)
	}
	if last := e.Stderr[strings.LastIndexByte(e.Stderr, '\n')+1:]; last != "" {
		text += ": " + last
	}
	return text
}

func (e *ExitError) Unwrap() error { return e.Err }

// ErrorType is the stable, low-cardinality name of the error for telemetry.
func (e *ExitError) ErrorType() string {
	switch {
	case e.Err != nil:
		return "stopped"
	case e.Signal != 0:
		return "signal"
	}
	return "exit_" + strconv.Itoa(e.Code)
}

// Exec returns a handler that runs command for each event, as /bin/sh -c command in a process group of its own. The
// command gets the CloudEvent as one line of JSON on stdin, which it need not read, and in its environment, besides that of
// this process, MILLRACE_EVENT_ID, MILLRACE_EVENT_TYPE, MILLRACE_STREAM, MILLRACE_POSITION, MILLRACE_SUBJECT,
// MILLRACE_GROUP, MILLRACE_ATTEMPT and MILLRACE_CORRELATION_ID. A value of more than 32 KiB, which may be more than a system
// takes, is left out: it stands in the event. TRACEPARENT, TRACESTATE and BAGGAGE of this process are not passed on: they
// are about something else.
//
// Exit status 0 acknowledges the event. 100 says that no retry will help: the event becomes a dead
// letter. 101 says "later", at no cost of an attempt: after the time that the last line of its
// output names ("retry-after: 30s"), 24 h at most, else after the back-off of the group, which
// grows with each time. 126 and 127, with which the shell says that a command can't be executed or is
// not found, and a shell that can't be started are faults of this process (router.CannotRun): they
// cost no attempt, and this instance of the group takes no more. Anything else, a signal included,
// is a failure. The error wraps an *ExitError where the shell has run. When ctx ends, the process group gets SIGTERM, and SIGKILL after
// KillAfter; a command that exits with 0 on SIGTERM has failed too, since nobody knows whether it
// was done. Processes that a command left in the background when it exited by itself are not
// touched, and hold nothing up; what they write is passed on as long as this process lives.
func Exec(command string, cfg ExecConfig) router.Handler {
	if cfg.KillAfter == 0 {
		cfg.KillAfter = 5 * time.Second
	}
	mu := new(sync.Mutex) // commands run at the same time, and Stdout and Stderr may be the same writer
	cfg.Stdout, cfg.Stderr = shared(cfg.Stdout, mu), shared(cfg.Stderr, mu)
	return func(ctx context.Context, d *pipeline.Delivery) error {
		input, err := json.Marshal(d.Event)
		if err != nil {
			return fmt.Errorf("run command: %w", err)
		}
		env := environment(d)
		if cfg.Env != nil {
			env = append(env, cfg.Env(ctx, d)...)
		}
		return run(ctx, command, append(input, '\n'), env, cfg)
	}
}

// run runs one command to its end. Neither a command that does not read its input nor one whose output can't be passed on has failed.
func run(ctx context.Context, command string, input []byte, env []string, cfg ExecConfig) error {
	var stopped time.Time // when the group got SIGTERM
	cmd := exec.CommandContext(ctx, "/bin/sh", "-c", command)
	cmd.Env = append(inherited(), env...)
	stdout, stderr := &output{also: cfg.Stdout}, &output{also: cfg.Stderr}
	stdin, err := cmd.StdinPipe()
	if err == nil {
		cmd.Stdout, err = stdout.open()
	}
	if err == nil {
		cmd.Stderr, err = stderr.open()
	}
	defer stdout.close()
	defer stderr.close()
	if err != nil {
		if stdin != nil {
			_ = stdin.Close()
		}
		return notStarted(ctx, err)
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.WaitDelay = cfg.KillAfter
	cmd.Cancel = func() error {
		if err := syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM); err != nil {
			return os.ErrProcessDone // it has ended by itself; what it ended with counts
		}
		stopped = time.Now()
		return nil
	}

	if err := cmd.Start(); err != nil {
		return notStarted(ctx, err)
	}
	go func() { // it ends with the command, which closes the pipe, read or not
		_, _ = stdin.Write(input)
		_ = stdin.Close()
	}()
	err = cmd.Wait()
	outputs := time.Now().Add(lastWords)
	stdout.wait(outputs, cfg.KillAfter)
	stderr.wait(outputs, cfg.KillAfter)
	if !stopped.IsZero() {
		endGroup(cmd.Process.Pid, stopped.Add(cfg.KillAfter))
	}
	if err == nil || cmd.ProcessState.Success() && stopped.IsZero() {
		return nil
	}
	exit := &ExitError{Code: cmd.ProcessState.ExitCode(), Stderr: stderr.String()}
	if status, ok := cmd.ProcessState.Sys().(syscall.WaitStatus); ok && status.Signaled() {
		exit.Signal = status.Signal()
	}
	switch {
	case !stopped.IsZero():
		exit.Err = context.Cause(ctx)
	case exit.Code == exitPermanent:
		return router.Permanent(exit)
	case exit.Code == exitLater:
		return router.RetryAfter(exit, retryAfter(stdout.String()))
	case exit.Code == exitNoExec, exit.Code == exitNotFound:
		return router.CannotRun(exit)
	}
	return exit
}

// notStarted is the error of a command that was not started. That is a fault of this process: no shell, no
// memory or no room for a process. It is not where ctx has ended, nor where the environment is too large,
// which is the event's: it would stop one instance after the other.
func notStarted(ctx context.Context, err error) error {
	err = fmt.Errorf("run command: %w", err)
	if ctx.Err() != nil || errors.Is(err, syscall.E2BIG) {
		return err
	}
	return router.CannotRun(err)
}

// The exit statuses with a meaning of their own (DESIGN §15).
const (
	exitPermanent = 100
	exitLater     = 101
	exitNoExec    = 126 // said by the shell, as POSIX has it: the command can't be executed
	exitNotFound  = 127 // or was not found
)

// retryAfter reads the wait out of the last line of a command's output; 0 where it names none.
func retryAfter(output string) time.Duration {
	last := strings.TrimSpace(output[strings.LastIndexByte(output, '\n')+1:])
	text, named := strings.CutPrefix(last, "retry-after:")
	wait, err := time.ParseDuration(strings.TrimSpace(text))
	if !named || err != nil {
		return 0
	}
	return max(0, wait)
}

// endGroup waits until the process group is gone, and kills what is left of it at the deadline. All but its leader are no
// children of ours, so there is nothing to wait on: it has to ask.
func endGroup(pgid int, deadline time.Time) {
	for time.Now().Before(deadline) {
		if err := syscall.Kill(-pgid, 0); err != nil {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	_ = syscall.Kill(-pgid, syscall.SIGKILL) // it may be gone by now
}

// environment is what a command learns of its delivery besides the event itself.
func environment(d *pipeline.Delivery) []string {
	vars := [][2]string{
		{"MILLRACE_EVENT_ID", d.Event.ID},
		{"MILLRACE_EVENT_TYPE", d.Event.Type},
		{"MILLRACE_STREAM", d.Stream},
		{"MILLRACE_POSITION", string(d.Position)},
		{"MILLRACE_SUBJECT", d.Event.Subject},
		{"MILLRACE_GROUP", d.Group},
		{"MILLRACE_ATTEMPT", strconv.Itoa(d.Attempt)},
		{"MILLRACE_CORRELATION_ID", d.Event.CorrelationID},
	}
	var env []string
	for _, v := range vars {
		if len(v[1]) > maxVariable {
			continue
		}
		// With a NUL byte in its environment no command would ever start, so one in a subject would fail for ever.
		env = append(env, v[0]+"="+strings.ReplaceAll(v[1], "\x00", ""))
	}
	return env
}

// maxVariable is how long a value in the environment may be, in bytes: Linux takes 128 KiB, and 2 MiB of all together.
const maxVariable = 32 << 10

// inherited is the environment of this process, without what is about the work that it was started for.
func inherited() []string {
	return slices.DeleteFunc(os.Environ(), func(v string) bool {
		name, _, _ := strings.Cut(v, "=")
		return name == "TRACEPARENT" || name == "TRACESTATE" || name == "BAGGAGE"
	})
}

// output passes on what a command writes, and keeps the end of it. The command has a pipe of its own, and not one of os/exec, which
// would wait for all who have it open, or close it and have them end with SIGPIPE.
type output struct {
	also  io.Writer // nil: nothing
	write *os.File  // the command's end
	ended chan struct{}
	mu    sync.Mutex // guards what follows
	kept  tail
	busy  bool // something is being passed on
}

// lastWords is how long the end of a command's output is waited for while somebody else has it open.
const lastWords = 250 * time.Millisecond

// open returns what the command is to write to.
func (o *output) open() (*os.File, error) {
	read, write, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	o.write, o.ended = write, make(chan struct{})
	go func() {
		defer close(o.ended)
		defer read.Close()
		_, _ = io.Copy(o, read)
	}()
	return write, nil
}

// Write takes what the command has written. That it can't be passed on is no failure of the command.
func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	_, _ = o.kept.Write(p)
	o.busy = o.also != nil
	o.mu.Unlock()
	if o.also != nil {
		_, _ = o.also.Write(p)
		o.mu.Lock()
		o.busy = false
		o.mu.Unlock()
	}
	return len(p), nil
}

func (o *output) isBusy() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.busy
}

// close closes this process' copy of the command's end, and wait waits for what the command has written.
func (o *output) close() {
	if o.write != nil {
		_ = o.write.Close()
	}
}

// It gives up at the time given: somebody else has it open. Where what was written can't be passed on faster it waits on, for up to most in all.
func (o *output) wait(until time.Time, most time.Duration) {
	o.close()
	for begun := time.Now(); ; until = time.Now().Add(lastWords) {
		select {
		case <-o.ended:
			return
		case <-time.After(time.Until(until)):
		}
		if !o.isBusy() || time.Since(begun) > most {
			return
		}
	}
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.kept.String()
}

// shared returns a writer for several commands at once. A file needs no lock: a command gets it as it is.
func shared(w io.Writer, mu *sync.Mutex) io.Writer {
	if _, isFile := w.(*os.File); isFile || w == nil {
		return w
	}
	return &lockedWriter{mu: mu, w: w}
}

type lockedWriter struct {
	mu *sync.Mutex
	w  io.Writer
}

func (l *lockedWriter) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.w.Write(p)
}

// maxTail bounds what a tail keeps.
const maxTail = 4 << 10

// tail keeps the last maxTail bytes that were written to it.
type tail struct{ kept []byte }

func (t *tail) Write(p []byte) (int, error) {
	t.kept = append(t.kept, p[max(0, len(p)-maxTail):]...)
	if over := len(t.kept) - maxTail; over > 0 {
		t.kept = append(t.kept[:0], t.kept[over:]...)
	}
	return len(p), nil
}

// String is what was kept, as text, without the line feed at its end.
func (t *tail) String() string {
	return strings.TrimSpace(strings.ToValidUTF8(string(t.kept), "\uFFFD"))
}
