package group

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/rishi-platform/millrace/internal/redisstream"
	"github.com/rishi-platform/millrace/internal/wire"
)

// AllStreams is the topic that stands for every stream which the patterns name or match.
const AllStreams = "*"

// Config says what a consumer consumes, and how.
type Config struct {
	Group    string
	Name     string   // of the consumer; nobody else has it
	Topic    string   // a stream, or AllStreams
	Patterns []string // of what is handled here; empty: all types of the topic
	InFlight int      // places
	From     redisstream.ID
	FromNow  bool   // a group that does not exist begins at the end of its stream, else behind From
	Asked    string // what was asked for of these; empty: nothing
	Policy   Policy
}

// Policy is pipeline.Policy, with its defaults filled in.
type Policy struct {
	Attempts      int
	CrashLimit    int
	Backoff       func(failures int) time.Duration
	Timeout       time.Duration
	ClaimIdle     time.Duration
	DeadLetters   int
	DeadLetterAge time.Duration
	DrainTimeout  time.Duration
	PerSubject    bool
	NeverPause    bool
}

// Host is the process that a consumer runs in.
type Host struct {
	Log     Log
	Link    Link  // to Redis; nil: the log is memory
	Spool   Spool // whose events the group handles while Redis is away; nil: it does not
	Wire    wire.Format
	Outlet  Outlet
	Logger  *slog.Logger
	Started time.Time // of the process

	Shape     func(op, stream string, err error) error                       // gives an error of the log the shape that users know; nil stays nil
	About     func() string                                                  // what the consumer says of itself to others
	Announce  func(ctx context.Context, stream string, p Pause, paused bool) // tells everybody that the group was paused, or goes on
	Unhandled func(stream, eventType string)                                 // an event was acknowledged that the group does not take; nil: nobody asks
	Ended     func()                                                         // the consumer has stopped
}

// Link is what is known of the way to Redis.
type Link interface {
	Suspect()                 // an answer did not come: find out whether that is an outage
	RoundTrip() time.Duration // of an idle connection
}

type noLink struct{}

func (noLink) Suspect()                 {}
func (noLink) RoundTrip() time.Duration { return 0 }

// Outlet hands deliveries to handlers. Its methods are called by one goroutine at a time, but for New.
type Outlet interface {
	// New returns the Holding of a new delivery, of which it is a part: a group handles hundreds of
	// thousands a second, and each is one piece of memory. Event and Delivery are set.
	New() *Holding
	// HandOut gives the delivery to a handler, and calls Limit just before. It waits until one takes it, and returns false where the
	// consumer stops to read first.
	HandOut(h *Holding) bool
	// Close says that no more is handed out, and takes back what nobody has taken yet.
	Close()
}

// Delivery is what an Outlet makes of a Holding.
type Delivery interface {
	// Cancel ends the ctx of its handler.
	Cancel(cause error)
	// Ended is called once, when the handler has returned err. Where its time was up before, timeout says
	// how long that was; else it is 0. It returns what the failure means; nil: the event was handled. Most
	// are, on goroutines whose stacks are small: so nothing is told of those.
	Ended(err error, timeout time.Duration) *Result
	// TakenBack is called instead where nobody has taken it, or is to take it any more.
	TakenBack()
}

// Result is what became of an attempt that failed.
type Result struct {
	Err       error
	Kind      string
	Permanent bool   // no retry will help
	Stack     string // of a panic
	// Later: the handler asks for more time, After where it is positive. That costs no attempt.
	Later bool
	After time.Duration
	// Fault: the handler can't be run by this process, which costs no attempt either.
	Fault bool
}

// The causes of a delivery's cancelled context.
var (
	ErrLeaseLost      = errors.New("delivery was taken over by another consumer")
	ErrDrainDeadline  = errors.New("drain deadline has passed")
	ErrHandlerTimeout = errors.New("handler timeout has passed")
)

// isAway reports whether the server can't do it now, whoever asks.
func isAway(err error) bool {
	switch redisstream.Classify(err) {
	case redisstream.Away, redisstream.Silent, redisstream.Lost, redisstream.ReadOnly:
		return true
	}
	return false
}

// isDenied reports whether the server refuses for good.
func isDenied(err error) bool { return redisstream.Classify(err) == redisstream.Denied }

// shape gives an error of the log the shape that users know.
func (c *Consumer) shape(op, stream string, err error) error { return c.host.Shape(op, stream, err) }
