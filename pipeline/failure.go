package pipeline

import (
	"errors"
	"fmt"
	"time"
)

// The kinds of failure, as dead letters name them.
const (
	KindError     = "error"     // the handler returned an error, attempts are used up
	KindPermanent = "permanent" // the handler said that no retry will help
	KindPanic     = "panic"     // the handler panicked, attempts are used up
	KindTimeout   = "timeout"   // the handler ran longer than Policy.Timeout, attempts are used up
	KindCrash     = "crash"     // the process died while it ran, more often than Policy.CrashLimit allows
	KindDecode    = "decode"    // the payload is not what its type promises
	KindForeign   = "foreign"   // the entry is not one of ours, and nobody in the group handles the stream's name as a type
)

// PermanentError is a failure that no retry will heal: the delivery becomes a dead letter at once.
type PermanentError struct{ Err error }

func (e *PermanentError) Error() string { return e.Err.Error() }
func (e *PermanentError) Unwrap() error { return e.Err }

// ErrorType is the stable, low-cardinality name of the error for telemetry.
func (e *PermanentError) ErrorType() string { return "permanent" }

// RetryAfterError puts a delivery off without counting an attempt: what the handler needs is not there yet, and it knows for how long.
// A delivery that has been put off for 24 h since its first attempt is treated as failed.
type RetryAfterError struct {
	Err error
	// After is how long; more than 24 h is taken for 24 h. Where it is not positive the back-off of
	// the policy says it, which grows with each time that the delivery is put off like that.
	After time.Duration
}

func (e *RetryAfterError) Error() string { return e.Err.Error() }
func (e *RetryAfterError) Unwrap() error { return e.Err }

// ErrorType is the stable, low-cardinality name of the error for telemetry.
func (e *RetryAfterError) ErrorType() string { return "retry_after" }

// WorkerError says that this process can't run the handler at all: the program is missing, say, or may
// not be executed. That is no fault of the event, so it costs no attempt: the delivery is handed back, and
// the consumer stops itself, until one delivery that it tries from time to time (after 5 s, 10 s … up to
// a minute) succeeds. Other consumers of the group go on. A day after the first attempt it is a failure
// like others.
type WorkerError struct{ Err error }

func (e *WorkerError) Error() string { return e.Err.Error() }
func (e *WorkerError) Unwrap() error { return e.Err }

// ErrorType is the stable, low-cardinality name of the error for telemetry.
func (e *WorkerError) ErrorType() string { return "worker" }

// PanicError is the failure of a handler that panicked.
type PanicError struct {
	Value any    // what it panicked with; nil where it ended its goroutine instead (runtime.Goexit)
	Stack string // at most 8 KiB, innermost frames first
}

func (e *PanicError) Error() string {
	if e.Value == nil {
		return "handler ended its goroutine"
	}
	return fmt.Sprintf("panic: %v", e.Value)
}

// ErrorType is the stable, low-cardinality name of the error for telemetry.
func (e *PanicError) ErrorType() string { return "panic" }

// TimeoutError is the failure of a handler that ran longer than Policy.Timeout, whatever it returned then.
type TimeoutError struct {
	Timeout time.Duration
	Err     error // that the handler returned; may be nil
}

func (e *TimeoutError) Error() string {
	if e.Err == nil {
		return fmt.Sprintf("handler ran longer than %s", e.Timeout)
	}
	return fmt.Sprintf("handler ran longer than %s: %v", e.Timeout, e.Err)
}
func (e *TimeoutError) Unwrap() error { return e.Err }

// ErrorType is the stable, low-cardinality name of the error for telemetry.
func (e *TimeoutError) ErrorType() string { return "timeout" }

// kindOf is the kind of a failure, and whether no retry will heal it.
func kindOf(d *Delivery, err error) (kind string, permanent bool) {
	var timeout *TimeoutError
	var panicked *PanicError
	var decode *DecodeError
	var never *PermanentError
	switch {
	case errors.As(err, &timeout): // first: what came of a handler that was told to stop says little about the event
		return KindTimeout, false
	case errors.As(err, &never):
		return KindPermanent, true
	case errors.As(err, &decode) && d.Event.ContentType == ContentTypeFields:
		return KindForeign, true
	case errors.As(err, &decode):
		return KindDecode, true
	case errors.As(err, &panicked):
		return KindPanic, false
	}
	return KindError, false
}
