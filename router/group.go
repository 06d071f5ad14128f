package router

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"runtime/pprof"
	"slices"
	"strings"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/rishi-platform/millrace/pipeline"
)

// Policy says how a group takes its events and what becomes of those whose handler fails. The zero value is useful.
type Policy struct {
	// InFlight bounds the handlers of the group that run at the same time in this instance. Default: 256.
	InFlight int
	// PerSubject runs the deliveries of one subject one after the other within this instance. One that failed holds its subject until it
	// was tried again.
	PerSubject bool
	// NeverPause keeps the group from being paused, and this instance from stopping itself, where nearly everything fails.
	NeverPause bool
	// Attempts is how often a delivery may fail before it becomes a dead letter. Default: 20, which
	// with the default Backoff takes about 2.5 hours; negative: without end.
	Attempts int
	// CrashLimit is how often processes may die while they handle a delivery before it becomes a dead letter. Default: 3; negative: without
	// end.
	CrashLimit int
	// Backoff returns how long a delivery waits after it failed for the given time (1, 2, …); that
	// it was put off without a time (RetryAfter) counts here as well. Default:
	// pipeline.DefaultBackoff, 1 s doubling to 15 min, ± 20 %.
	Backoff func(failures int) time.Duration
	// Timeout is how long a handler may run; then its ctx is cancelled, and whatever it returns is a failure. Default: 0, without end.
	Timeout time.Duration
	// ClaimIdle is after how long a delivery is taken that a consumer of other software in this group has left pending. Default: 60 s.
	ClaimIdle time.Duration
	// DeadLetters and DeadLetterAge bound the dead letters of the group. Defaults: 100,000 and 30 days.
	DeadLetters   int
	DeadLetterAge time.Duration
	// From is where the group starts when it does not exist yet. Default: pipeline.Oldest, so that nothing is missed.
	From pipeline.Position
}

// Permanent marks a handler's error as one that no retry will heal: the delivery becomes a dead letter at once. Permanent(nil) is nil.
func Permanent(err error) error {
	if err == nil {
		return nil
	}
	return &pipeline.PermanentError{Err: err}
}

// RetryAfter marks a handler's error as one that time will heal: the delivery is tried again after
// d, at no cost of an attempt. More than 24 h is taken for 24 h. Where d is not positive the
// back-off of the policy says when, which grows with each time that the delivery is put off like
// that. A day after the first attempt it is a failure like others. RetryAfter(nil, d) is nil.
func RetryAfter(err error, d time.Duration) error {
	if err == nil {
		return nil
	}
	return &pipeline.RetryAfterError{Err: err, After: d}
}

// CannotRun marks a handler's error as a fault of this process: it can't run the handler at all. That
// costs no attempt. The delivery goes to another instance of the group, and this one stops itself until a
// delivery that it tries from time to time succeeds; see pipeline.WorkerError. CannotRun(nil) is nil.
func CannotRun(err error) error {
	if err == nil {
		return nil
	}
	return &pipeline.WorkerError{Err: err}
}

// Handler handles one delivery, whatever its type. nil acknowledges it, an error makes the attempt a failure.
type Handler func(ctx context.Context, d *pipeline.Delivery) error

// Group is a consumer group and the handlers that this instance has for it.
type Group struct {
	name   string
	policy Policy
	exact  map[string]Handler // by event type
	wild   []route            // in the order of their registration
	errs   []error            // what is wrong with the registrations so far
}

type route struct {
	pattern string
	handler Handler
}

// Group adds a consumer group. The name is 1 to 64 of [A-Za-z0-9._-]; it is a fault to add one twice.
func (r *Router) Group(name string, p Policy) *Group {
	g := &Group{name: name, policy: p, exact: map[string]Handler{}}
	r.groups = append(r.groups, g)
	return g
}

// Handle registers the handler of an event type. What cannot be decoded fails with the *pipeline.DecodeError, and the handler
// is not called.
func Handle[T any](g *Group, t pipeline.EventType[T], h func(context.Context, Message[T]) error) {
	if err := pipeline.CheckType(t.Name); err != nil {
		g.fault("event type %q %w", t.Name, err)
		return
	}
	g.Handle(t.Name, func(ctx context.Context, d *pipeline.Delivery) error {
		data, err := t.Decode(d.Event)
		if err != nil {
			return err
		}
		return h(ctx, Message[T]{Event: d.Event, Delivery: d, Data: data})
	})
}

// Handle registers a handler for all event types that match the pattern, for those who need no Go type of the payload. A
// handler of the very type goes before one of a pattern with wildcards; of several such patterns the one registered first wins.
func (g *Group) Handle(pattern string, h Handler) {
	if err := pipeline.CheckPattern(pattern); err != nil {
		g.fault("pattern %q %w", pattern, err)
		return
	}
	if g.registered(pattern) {
		g.fault("%q has two handlers", pattern)
		return
	}
	if strings.Contains(pattern, "*") {
		g.wild = append(g.wild, route{pattern, h})
	} else {
		g.exact[pattern] = h
	}
}

func (g *Group) registered(pattern string) bool {
	for _, r := range g.wild {
		if r.pattern == pattern {
			return true
		}
	}
	return g.exact[pattern] != nil
}

func (g *Group) fault(format string, args ...any) {
	g.errs = append(g.errs, fmt.Errorf("group %q: "+format, append([]any{g.name}, args...)...))
}

// faults returns everything that is wrong with what was registered.
func (r *Router) faults() error {
	var errs []error
	if len(r.groups) == 0 {
		errs = append(errs, errors.New("it has no group"))
	}
	if r.cfg.DrainTimeout < 0 {
		errs = append(errs, errors.New("DrainTimeout is negative"))
	}
	seen := map[string]bool{}
	for _, g := range r.groups {
		if seen[g.name] {
			g.fault("added twice")
		}
		seen[g.name] = true
		g.check()
		errs = append(errs, g.errs...)
	}
	return errors.Join(errs...)
}

func (g *Group) check() {
	if err := pipeline.CheckName(g.name); err != nil {
		g.errs = append(g.errs, fmt.Errorf("group %w", err))
	}
	if len(g.exact)+len(g.wild) == 0 && len(g.errs) == 0 {
		g.fault("has no handler")
	}
	if g.policy.InFlight < 0 {
		g.fault("InFlight is negative")
	}
	for name, d := range map[string]time.Duration{"Timeout": g.policy.Timeout, "ClaimIdle": g.policy.ClaimIdle, "DeadLetterAge": g.policy.DeadLetterAge} {
		if d < 0 {
			g.fault("%s is negative", name)
		}
	}
	if g.policy.DeadLetters < 0 {
		g.fault("DeadLetters is negative")
	}
	if from := g.policy.From; from != "" {
		if _, err := pipeline.ParsePosition(string(from)); err != nil {
			g.fault("%w", err)
		}
	}
}

// config is the group as the bus sees it.
func (g *Group) config(drain time.Duration, middleware bool) pipeline.GroupConfig {
	patterns := slices.Sorted(maps.Keys(g.exact))
	for _, r := range g.wild {
		patterns = append(patterns, r.pattern)
	}
	p := g.policy
	return pipeline.GroupConfig{
		Group:    g.name,
		Patterns: patterns,
		InFlight: p.InFlight,
		From:     p.From,
		Policy: pipeline.Policy{
			Attempts: p.Attempts, CrashLimit: p.CrashLimit, Backoff: p.Backoff, Timeout: p.Timeout, ClaimIdle: p.ClaimIdle,
			DeadLetters: p.DeadLetters, DeadLetterAge: p.DeadLetterAge, DrainTimeout: drain, PerSubject: p.PerSubject,
			NeverPause: p.NeverPause,
		},
		SettledByHandler: true,
		WithoutMetadata:  !middleware,
	}
}

// dispatch is the innermost step: it calls the handler of the delivery's type.
func (g *Group) dispatch(msg *message.Message) error {
	d := pipeline.CurrentDelivery(msg.Context())
	if d == nil {
		return errNoDelivery
	}
	return g.handle(msg.Context(), d)
}

// dispatchPayload is dispatch behind middleware, which may have changed the payload: the handler gets
// it as it is now. The delivery itself keeps what is stored: that is what a retry brings again.
func (g *Group) dispatchPayload(msg *message.Message) error {
	d := pipeline.CurrentDelivery(msg.Context())
	if d == nil {
		return errNoDelivery
	}
	if !bytes.Equal(msg.Payload, d.Event.Data) {
		changed := *d
		changed.Event.Data = msg.Payload
		d = &changed
	}
	return g.handle(msg.Context(), d)
}

func (g *Group) handle(ctx context.Context, d *pipeline.Delivery) error {
	if d.Labelled() { // for the stack of a handler that does not return; the goroutine ends with the delivery
		pprof.SetGoroutineLabels(pprof.WithLabels(ctx, pprof.Labels(pipeline.LabelDelivery, d.Event.ID)))
	}
	h := g.handler(d.Event.Type)
	if h == nil {
		// The bus hands over only what matches the patterns it was given, so this is a defect, and a failure keeps the event.
		return fmt.Errorf("no handler for type %q", d.Event.Type)
	}
	return h(ctx, d)
}

func (g *Group) handler(eventType string) Handler {
	if h := g.exact[eventType]; h != nil {
		return h
	}
	for _, r := range g.wild {
		if pipeline.Match(r.pattern, eventType) {
			return r.handler
		}
	}
	return nil
}
