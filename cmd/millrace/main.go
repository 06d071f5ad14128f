// Command millrace is a durable event pipeline on Redis Streams: an HTTP server, worker services in any language, and the
// tools to publish, follow and look at events. It turns flags and environment into calls of the library, and nothing else.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/signal"
	"runtime/debug"
	"strings"
	"syscall"

	"github.com/rishi-platform/millrace/internal/terminal"
	"github.com/rishi-platform/millrace/pipeline"
)

// version is set by the linker.
var version = "dev"

// The exit codes, documented in docs/operations.md.
const (
	exitDone        = 0
	exitFailed      = 1
	exitUsage       = 2
	exitInterrupted = 130 // 128 + SIGINT: a second signal did not wait for the drain
	exitUnread      = 141 // 128 + SIGPIPE: nobody reads what is printed
)

func main() {
	// The heap of a busy process is a few MB, and Go's default would collect it some fifty times a second. GOGC overrides it.
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(gcPercent)
	}
	os.Exit(run())
}

// initVariable tells the command that process 1 is there for it (asInit).
const initVariable = "MILLRACE_INIT"

// gcPercent lets the heap grow to five times of what is in use: about 20 MB more for 20 % more events a second (docs/operations.md).
const gcPercent = 400

func run() int {
	if code, is := asInit(); is {
		return code
	}
	_ = os.Unsetenv(initVariable) // not for the commands that it runs
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	go onSignals(stop)

	root := newRootCommand()
	err := root.ExecuteContext(ctx)
	if err == nil {
		return exitDone
	}
	if isReaderGone(err) {
		return exitUnread
	}
	// One line, whatever the libraries below make of it.
	fmt.Fprintln(os.Stderr, "millrace:", terminal.Escape(strings.Join(strings.Fields(err.Error()), " "))+wayOut(err))
	var usage *usageError
	if errors.As(err, &usage) {
		return exitUsage
	}
	return exitFailed
}

// wayOut names the verb that helps, where the library can't know of it.
func wayOut(err error) string {
	switch {
	case errors.Is(err, pipeline.ErrUnknownGroup):
		return `; "millrace group ls" lists them`
	case errors.Is(err, pipeline.ErrNoDeadLetter):
		return `; "millrace dead ls" lists those there are`
	}
	return ""
}

// onSignals begins an orderly end at the first signal, and ends at once at the second. That nobody reads the log any more, or that the terminal is
// gone, begins one too: it must not end a worker in the middle of a delivery, and may be told many times.
func onSignals(stop func()) {
	signals, terminal := make(chan os.Signal, 2), make(chan os.Signal, 1)
	notify(signals)
	signal.Notify(terminal, syscall.SIGHUP)
	signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE) // a write fails instead; nobody is told: it may have been to any connection
	for asked := 0; asked < 2; stop() {
		select {
		case <-signals:
			asked++
		case <-terminal:
		case <-logGone:
		}
	}
	os.Exit(exitInterrupted)
}

// notify tells of those signals that ask for an end.
func notify(signals chan os.Signal) { signal.Notify(signals, os.Interrupt, syscall.SIGTERM) }

// logGone tells that nobody reads the log any more.
var logGone = make(chan struct{}, 1)

// logWriter is where the log goes.
type logWriter struct{ to io.Writer }

func (w logWriter) Write(line []byte) (int, error) {
	n, err := w.to.Write(line)
	if errors.Is(err, syscall.EPIPE) {
		select {
		case logGone <- struct{}{}:
		default: // it is told already
		}
	}
	return n, err
}

// isReaderGone reports whether an error is that nobody reads what is printed any more, as of "millrace tail | head".
func isReaderGone(err error) bool {
	var of *fs.PathError
	return errors.As(err, &of) && of.Path == os.Stdout.Name() && errors.Is(of.Err, syscall.EPIPE)
}

// usageError is a mistake in the command line.
type usageError struct{ err error }

func (e *usageError) Error() string { return e.err.Error() }
func (e *usageError) Unwrap() error { return e.err }

func usagef(format string, args ...any) error { return &usageError{fmt.Errorf(format, args...)} }
