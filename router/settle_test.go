package router_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/google/go-cmp/cmp"

	"github.com/rishi-platform/millrace/pipeline"
	"github.com/rishi-platform/millrace/router"
)

func TestFailureIsTriedAgain(t *testing.T) {
	t.Parallel()
	for name, fail := range map[string]func() error{
		"error":  func() error { return errors.New("no") },
		"panic":  func() error { panic("no") },
		"index":  func() error { var none []error; return none[len(none)] },
		"goexit": func() error { runtime.Goexit(); return nil },
	} {
		t.Run(name, func(t *testing.T) {
			everywhere(t, func(t *testing.T, open opener) {
				bus := open(pipeline.Config{})
				r := newRouter(bus)
				attempts := make(chan int, 2)
				router.Handle(r.Group("billing", router.Policy{}), bookingCreated, func(_ context.Context, m router.Message[booking]) error {
					attempts <- m.Attempt
					if m.Attempt == 1 {
						return fail()
					}
					return nil
				})
				publish(t, t.Context(), bus, bookingCreated, 1)
				stop := start(t, r)
				for want := 1; want <= 2; want++ {
					if got := receive(t, attempts); got != want {
						t.Errorf("got attempt %d, want %d", got, want)
					}
				}
				if err := stop(); err != nil {
					t.Errorf("stop: %v", err)
				}
				if n := unsettled(t, bus, "booking", "billing"); n != 0 {
					t.Errorf("got %d unsettled events, want 0", n)
				}
			})
		})
	}
}

// TestDeliveryLearnsWhyItFailed looks at what a delivery is settled with, as telemetry sees it.
func TestDeliveryLearnsWhyItFailed(t *testing.T) {
	t.Parallel()
	errHandler := errors.New("no")
	for name, test := range map[string]struct {
		data    string
		handler func() error
		check   func(err error) bool
	}{
		"success":    {`{}`, func() error { return nil }, func(err error) bool { return err == nil }},
		"error":      {`{}`, func() error { return errHandler }, func(err error) bool { return err == errHandler }},
		"panic":      {`{}`, func() error { panic("boom") }, panicked("boom")},
		"panic nil":  {`{}`, func() error { panic(nil) }, panicked("panic called with nil argument")},
		"goexit":     {`{}`, func() error { runtime.Goexit(); return nil }, panicked("handler ended its goroutine")},
		"deep stack": {`{}`, func() error { return dig(500) }, panicked("at the bottom")},
		"bad payload": {`[]`, func() error { return errors.New("handler was called") }, func(err error) bool {
			_, ok := err.(*pipeline.DecodeError)
			return ok
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			settled := make(chan error, 1)
			bus := open(t, pipeline.Config{Hooks: pipeline.Hooks{
				Process: func(ctx context.Context, _ *pipeline.Delivery) (context.Context, func(error)) {
					return ctx, func(err error) { settled <- err }
				},
			}})
			r := newRouter(bus)
			router.Handle(r.Group("billing", router.Policy{Backoff: never}), bookingCreated, func(context.Context, router.Message[booking]) error {
				return test.handler()
			})
			start(t, r)
			if _, err := bus.Publish(t.Context(), pipeline.Event{Type: "booking.created", Data: []byte(test.data)}); err != nil {
				t.Fatal(err)
			}
			if err := receive(t, settled); !test.check(err) {
				t.Errorf("the delivery was settled with %#v", err)
			}
		})
	}
}

// never puts a failed delivery off until long after the test.
func never(int) time.Duration { return time.Hour }

func panicked(text string) func(error) bool {
	return func(err error) bool {
		p, ok := err.(*router.PanicError)
		return ok && strings.Contains(p.Error(), text) && p.ErrorType() == "panic" &&
			strings.Contains(p.Stack, "settle_test.go") && len(p.Stack) <= 8<<10
	}
}

func dig(depth int) error {
	if depth == 0 {
		panic("at the bottom")
	}
	return fmt.Errorf("%d: %w", depth, dig(depth-1))
}

func TestMiddlewareRunsAroundTheHandler(t *testing.T) {
	everywhere(t, func(t *testing.T, open opener) {
		bus := open(pipeline.Config{})
		r := newRouter(bus)
		var steps []string
		finished := make(chan struct{})
		step := func(name string) message.HandlerMiddleware {
			return func(next message.HandlerFunc) message.HandlerFunc {
				return func(msg *message.Message) ([]*message.Message, error) {
					steps = append(steps, name+" in")
					produced, err := next(msg)
					steps = append(steps, fmt.Sprint(name, " out: ", err))
					if name == "outer" {
						close(finished)
						return nil, nil // it takes the error away: the event counts as handled
					}
					return produced, err
				}
			}
		}
		r.Use(step("outer"), step("middle"))
		r.Use(step("inner"))
		router.Handle(r.Group("billing", router.Policy{}), bookingCreated, func(context.Context, router.Message[booking]) error {
			steps = append(steps, "handler")
			return errors.New("no")
		})
		publish(t, t.Context(), bus, bookingCreated, 1)
		stop := start(t, r)
		receive(t, finished)
		if err := stop(); err != nil {
			t.Errorf("stop: %v", err)
		}
		want := []string{"outer in", "middle in", "inner in", "handler", "inner out: no", "middle out: no", "outer out: no"}
		if diff := cmp.Diff(want, steps); diff != "" {
			t.Errorf("-want +got:\n%s", diff)
		}
		if n := unsettled(t, bus, "booking", "billing"); n != 0 {
			t.Errorf("got %d unsettled events, want 0", n)
		}
	})
}

func TestMiddlewareThatBreaksTheRulesIsAFailure(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		middleware message.HandlerMiddleware
		want       string
	}{
		"it loses the delivery": {func(next message.HandlerFunc) message.HandlerFunc {
			return func(msg *message.Message) ([]*message.Message, error) {
				msg.SetContext(context.Background())
				return next(msg)
			}
		}, "carries no delivery"},
		"it returns a message": {func(message.HandlerFunc) message.HandlerFunc {
			return func(msg *message.Message) ([]*message.Message, error) { return []*message.Message{msg}, nil }
		}, "returned output messages"},
		"it panics": {func(message.HandlerFunc) message.HandlerFunc {
			return func(*message.Message) ([]*message.Message, error) { panic("middleware") }
		}, "panic: middleware"},
		"it nacks only": {func(next message.HandlerFunc) message.HandlerFunc {
			return func(msg *message.Message) ([]*message.Message, error) {
				msg.Nack()
				return next(msg)
			}
		}, "<nil>"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			settled := make(chan error, 1)
			bus := open(t, pipeline.Config{Hooks: pipeline.Hooks{
				Process: func(ctx context.Context, _ *pipeline.Delivery) (context.Context, func(error)) {
					return ctx, func(err error) { settled <- err }
				},
			}})
			r := newRouter(bus)
			r.Use(test.middleware)
			r.Group("billing", router.Policy{Backoff: never}).Handle("booking.*", func(context.Context, *pipeline.Delivery) error { return nil })
			start(t, r)
			publish(t, t.Context(), bus, bookingCreated, 1)
			if got := fmt.Sprint(receive(t, settled)); !strings.Contains(got, test.want) {
				t.Errorf("the delivery was settled with %q, want %q in it", got, test.want)
			}
		})
	}
}

func TestFailuresAreLoggedOnce(t *testing.T) {
	t.Parallel()
	bus := open(t, pipeline.Config{})
	var out bytes.Buffer
	r := router.New(bus, router.Config{Logger: slog.New(slog.NewTextHandler(&out, nil))})
	handled := make(chan struct{}, 2)
	r.Group("billing", router.Policy{Backoff: never}).Handle("booking.*", func(_ context.Context, d *pipeline.Delivery) error {
		defer func() { handled <- struct{}{} }()
		if d.Event.Type == "booking.created" {
			return errors.New("no money")
		}
		panic("no idea")
	})
	created := publish(t, t.Context(), bus, bookingCreated, 1)
	cancelled := publish(t, t.Context(), bus, bookingCancelled, 2)
	stop := start(t, r)
	receive(t, handled)
	receive(t, handled)
	if err := stop(); err != nil {
		t.Errorf("stop: %v", err)
	}
	var failures []string
	for line := range strings.Lines(out.String()) {
		if strings.Contains(line, "no money") || strings.Contains(line, "no idea") {
			failures = append(failures, line)
		}
	}
	if len(failures) != 2 {
		t.Fatalf("got %d lines about 2 failures:\n%s", len(failures), out.String())
	}
	for _, want := range []string{
		`level=WARN msg="handler failed" group=billing type=booking.created id=` + created + ` attempt=1 err="no money"`,
		`level=ERROR msg="handler panicked" group=billing type=booking.cancelled id=` + cancelled + ` attempt=1 err="panic: no idea" stack=`,
	} {
		if !strings.Contains(strings.Join(failures, ""), want) {
			t.Errorf("no line has %s:\n%s", want, strings.Join(failures, ""))
		}
	}
}
