package pipeline

import (
	"errors"
	"fmt"
	"strings"

	"github.com/rishi-platform/millrace/internal/group"
	"github.com/rishi-platform/millrace/internal/memstream"
)

// What Publish, Subscribe, History and the rest may return, compared with errors.Is. Each says in its comment what the
// caller can do.
var (
	// ErrClosed: the bus was closed. Nothing was published.
	ErrClosed = errors.New("bus is closed")
	// ErrUnavailable: Redis is away and nothing else may keep the event. It is certain that it was not stored; try again.
	ErrUnavailable = errors.New("redis is unavailable")
	// ErrUnknown: the reply never came, so the event may have been stored. Publish it again with the same ID and Once.
	ErrUnknown = errors.New("outcome is unknown")
	// ErrBackPressure: Redis (OOM) or the queue in front of it is full. Slow down and try again.
	ErrBackPressure = errors.New("back-pressure")
	// ErrTooLarge: data or metadata exceed their limit (Config.MaxDataBytes, Config.MaxMetadataBytes). Never heals.
	ErrTooLarge = errors.New("event is too large")
	// ErrDenied: Redis refuses for good: wrong password, missing right, key of another type. The text names key and right.
	ErrDenied = errors.New("redis refuses")
	// ErrInvalid: an argument breaks a rule; the error is a *ValidationError that says where. Never heals.
	ErrInvalid = errors.New("invalid")
	// ErrUnknownSubscription: Unsubscribe was called with an ID that is not subscribed.
	ErrUnknownSubscription = errors.New("no such subscription")
	// ErrLeaseLost is the cause of a delivery's cancelled context when the delivery was taken away from this consumer.
	ErrLeaseLost = group.ErrLeaseLost
	// ErrDrainDeadline is the cause of a delivery's cancelled context when a stop did not wait for it any longer.
	ErrDrainDeadline = group.ErrDrainDeadline
	// ErrHandlerTimeout is the cause of a delivery's cancelled context when the handler has run for Policy.Timeout.
	ErrHandlerTimeout = group.ErrHandlerTimeout
	// ErrSpoolFull: Redis is away, and the spool has no room; ErrSpoolFailed: it can't be written. Both are ErrUnavailable as well.
	ErrSpoolFull   = fmt.Errorf("spool is full: %w", ErrUnavailable)
	ErrSpoolFailed = fmt.Errorf("spool can't be written: %w", ErrUnavailable)
	// ErrConflict: PublishOptions.Key, or with Once an event's source and ID, was used for something else within its window.
	ErrConflict = errors.New("idempotency key, or source and ID, were used for something else")
	// ErrUnknownGroup: the stream has no group of that name.
	ErrUnknownGroup = memstream.ErrUnknownGroup
	// ErrUnknownPattern: the group does not take that pattern.
	ErrUnknownPattern = errors.New("the group does not take it")
	// ErrPatternNeeded: a live consumer of the group handles that pattern, or the group takes nothing else.
	ErrPatternNeeded = errors.New("the pattern is needed")
	// ErrNoDeadLetter: the group has no dead letter at that position.
	ErrNoDeadLetter = errors.New("no such dead letter")
	// errNacked is the cause of a failure that a foreign router tells by a Nack.
	errNacked = errors.New("nacked")
)

// Fault is one thing that is wrong with an argument: where, and what.
type Fault struct {
	Index  int    // of the event in the call; -1 where it is not about one event
	Field  string // "type", "id", "header.traceparent", …
	Reason string
}

// ValidationError lists everything that is wrong with a call at once. It is ErrInvalid, and ErrTooLarge as well where
// a size was exceeded.
type ValidationError struct {
	Faults   []Fault
	TooLarge bool
}

func (e *ValidationError) Error() string {
	var b strings.Builder
	for i, f := range e.Faults {
		if i > 0 {
			b.WriteString("; ")
		}
		if i == faultsTold {
			fmt.Fprintf(&b, "and %d more", len(e.Faults)-i)
			break
		}
		if f.Index > 0 {
			fmt.Fprintf(&b, "event %d: ", f.Index)
		}
		fmt.Fprintf(&b, "%s: %s", f.Field, f.Reason)
	}
	return b.String()
}

// faultsTold is how many faults the text of a ValidationError names.
const faultsTold = 10

// Is makes the error match ErrInvalid, and ErrTooLarge where a size was exceeded.
func (e *ValidationError) Is(target error) bool {
	return target == ErrInvalid || (e.TooLarge && target == ErrTooLarge)
}

// ErrorType is the stable, low-cardinality name of the error for telemetry.
func (e *ValidationError) ErrorType() string {
	if e.TooLarge {
		return "too_large"
	}
	return "invalid"
}

// DecodeError says that the payload of an event is not what its type promises. Retrying never heals it.
type DecodeError struct {
	ID, Type string
	Err      error
}

func (e *DecodeError) Error() string { return fmt.Sprintf("decode %s %s: %v", e.Type, e.ID, e.Err) }
func (e *DecodeError) Unwrap() error { return e.Err }

// ErrorType is the stable, low-cardinality name of the error for telemetry.
func (e *DecodeError) ErrorType() string { return "decode" }

// RedisError is what Redis, or the way to it, made of a call. It wraps one of ErrUnavailable, ErrUnknown,
// ErrBackPressure and ErrDenied (Kind) and what go-redis reported (Err), and carries a hint for the operator where there is a way out.
type RedisError struct {
	Op   string // "append", "read group", …
	Key  string // the key it was about, if any
	Kind error
	Err  error
	Hint string
}

func (e *RedisError) Error() string {
	var b strings.Builder
	b.WriteString(e.Op)
	if e.Key != "" {
		fmt.Fprintf(&b, " %q", e.Key)
	}
	fmt.Fprintf(&b, ": %v", e.Kind)
	if e.Err != nil {
		fmt.Fprintf(&b, ": %v", e.Err)
	}
	if e.Hint != "" {
		fmt.Fprintf(&b, " (%s)", e.Hint)
	}
	return b.String()
}

func (e *RedisError) Unwrap() []error { return []error{e.Kind, e.Err} }

// ErrorType is the stable, low-cardinality name of the error for telemetry.
func (e *RedisError) ErrorType() string {
	switch e.Kind {
	case ErrUnavailable:
		return "unavailable"
	case ErrUnknown:
		return "outcome_unknown"
	case ErrBackPressure:
		return "back_pressure"
	case ErrDenied:
		return "denied"
	}
	return "redis"
}
