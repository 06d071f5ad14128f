package router_test

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/google/go-cmp/cmp"

	"github.com/rishi-platform/millrace/pipeline"
	"github.com/rishi-platform/millrace/router"
)

// source is a bus that notes subscriptions and refuses those of one group.
type source struct {
	refuse string

	mu     sync.Mutex // guards what follows
	opened []string
	closed []string
}

func (s *source) Subscriber(g pipeline.GroupConfig) message.Subscriber {
	return &subscription{s, g.Group, make(chan *message.Message)}
}

type subscription struct {
	source   *source
	group    string
	messages chan *message.Message
}

func (s *subscription) Subscribe(context.Context, string) (<-chan *message.Message, error) {
	s.source.mu.Lock()
	defer s.source.mu.Unlock()
	s.source.opened = append(s.source.opened, s.group)
	if s.group == s.source.refuse {
		return nil, errors.New("refused")
	}
	return s.messages, nil
}

func (s *subscription) Close() error {
	s.source.mu.Lock()
	defer s.source.mu.Unlock()
	s.source.closed = append(s.source.closed, s.group)
	close(s.messages)
	return nil
}

func nothing(context.Context, *pipeline.Delivery) error { return nil }

func TestRunReportsAllFaultsBeforeItStartsAnything(t *testing.T) {
	t.Parallel()
	src := &source{}
	r := router.New(src, router.Config{Logger: slog.New(slog.DiscardHandler), DrainTimeout: -1})
	r.Group("empty", router.Policy{})
	r.Group("bad name", router.Policy{}).Handle("booking.*", nothing)
	twice := r.Group("twice", router.Policy{InFlight: -1, From: "yesterday"})
	twice.Handle("booking.*", nothing)
	twice.Handle("booking.*", nothing)
	twice.Handle("booking.created", nothing)
	router.Handle(twice, bookingCreated, func(context.Context, router.Message[booking]) error { return nil })
	twice.Handle("Booking", nothing)
	router.Handle(twice, pipeline.EventType[booking]{Name: "booking.*"}, func(context.Context, router.Message[booking]) error { return nil })
	r.Group("twice", router.Policy{}).Handle("booking.*", nothing)

	err := r.Run(t.Context())
	if err == nil {
		t.Fatal("got nil, want an error")
	}
	want := []string{
		`run router: DrainTimeout is negative`,
		`group "empty": has no handler`,
		`group "bad name": want 1 to 64 of A-Z a-z 0-9 . _ -`,
		`group "twice": "booking.*" has two handlers`,
		`group "twice": "booking.created" has two handlers`,
		`group "twice": pattern "Booking" segment "Booking": only a-z, 0-9, _ and - are allowed`,
		`group "twice": event type "booking.*" segment "*": only a-z, 0-9, _ and - are allowed`,
		`group "twice": InFlight is negative`,
		`group "twice": position "yesterday": want oldest, now, or an entry ID such as 1764000000000-0`,
		`group "twice": added twice`,
	}
	if diff := cmp.Diff(want, strings.Split(err.Error(), "\n")); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	if len(src.opened) > 0 {
		t.Errorf("groups %v were subscribed", src.opened)
	}
	if err := newRouter(src).Run(t.Context()); err == nil {
		t.Error("a router without groups: got nil, want an error")
	}
}

func TestRunStartsAllGroupsOrNone(t *testing.T) {
	t.Parallel()
	src := &source{refuse: "b"}
	r := newRouter(src)
	for _, group := range []string{"a", "b", "c"} {
		r.Group(group, router.Policy{}).Handle("booking.*", nothing)
	}
	err := r.Run(t.Context())
	if err == nil || err.Error() != `run router: subscribe group "b": refused` {
		t.Errorf("got %v, want the refusal of group b", err)
	}
	if diff := cmp.Diff([]string{"a", "b"}, src.opened); diff != "" {
		t.Errorf("opened: -want +got:\n%s", diff)
	}
	if diff := cmp.Diff([]string{"a"}, src.closed); diff != "" {
		t.Errorf("closed: -want +got:\n%s", diff)
	}
}

func TestRouterRunsOnce(t *testing.T) {
	t.Parallel()
	r := newRouter(&source{})
	r.Group("a", router.Policy{}).Handle("booking.*", nothing)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := r.Run(ctx); err != nil {
		t.Errorf("first run: %v", err)
	}
	if err := r.Run(ctx); err == nil {
		t.Error("second run: got nil, want an error")
	}
}

// announcer tells of each line that is logged.
type announcer struct {
	slog.Handler
	lines chan string
}

func (a announcer) Enabled(_ context.Context, l slog.Level) bool { return l >= slog.LevelInfo }
func (a announcer) Handle(_ context.Context, r slog.Record) error {
	a.lines <- r.Message
	return nil
}

func TestStopLetsAHandlerFinish(t *testing.T) {
	everywhere(t, func(t *testing.T, open opener) {
		bus := open(pipeline.Config{})
		log := announcer{slog.DiscardHandler, make(chan string, 10)}
		r := router.New(bus, router.Config{Logger: slog.New(log)})
		running, finish := make(chan struct{}), make(chan struct{})
		router.Handle(r.Group("billing", router.Policy{}), bookingCreated, func(ctx context.Context, m router.Message[booking]) error {
			close(running)
			<-finish
			// What it publishes while the router drains is stored, too.
			e, err := invoiceIssued.New(m.Data)
			if err != nil {
				return err
			}
			_, err = bus.Publish(ctx, e)
			return errors.Join(err, ctx.Err())
		})
		publish(t, t.Context(), bus, bookingCreated, 1)

		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- r.Run(ctx) }()
		receive(t, running)
		stop()
		for receive(t, log.lines) != "router is draining" {
		}
		close(finish)
		if err := receive(t, ended); err != nil {
			t.Errorf("got %v, want nil after a clean stop", err)
		}
		if n := unsettled(t, bus, "booking", "billing"); n != 0 {
			t.Errorf("got %d unsettled events, want 0", n)
		}
		published := 0
		for _, err := range bus.History(t.Context(), pipeline.Query{Streams: []string{"invoice"}}) {
			if err != nil {
				t.Fatal(err)
			}
			published++
		}
		if published != 1 {
			t.Errorf("got %d events published by the handler, want 1", published)
		}
	})
}

func TestDrainDeadlineHandsBack(t *testing.T) {
	everywhere(t, func(t *testing.T, open opener) {
		bus := open(pipeline.Config{})
		first := router.New(bus, router.Config{Logger: slog.New(slog.DiscardHandler), DrainTimeout: 20 * time.Millisecond})
		running, cause := make(chan struct{}), make(chan error, 1)
		router.Handle(first.Group("billing", router.Policy{}), bookingCreated, func(ctx context.Context, _ router.Message[booking]) error {
			close(running)
			<-ctx.Done()
			cause <- context.Cause(ctx)
			return ctx.Err()
		})
		id := publish(t, t.Context(), bus, bookingCreated, 1)
		stop := start(t, first)
		receive(t, running)
		if err := stop(); !errors.Is(err, pipeline.ErrDrainDeadline) || !strings.Contains(err.Error(), "1 handlers were cut off, 0 of them") {
			t.Errorf("got %v, want pipeline.ErrDrainDeadline and one handler", err)
		}
		if err := receive(t, cause); !errors.Is(err, pipeline.ErrDrainDeadline) {
			t.Errorf("got cause %v, want pipeline.ErrDrainDeadline", err)
		}

		second := newRouter(bus)
		again := make(chan router.Message[booking], 1)
		router.Handle(second.Group("billing", router.Policy{}), bookingCreated, func(_ context.Context, m router.Message[booking]) error {
			again <- m
			return nil
		})
		start(t, second)
		if m := receive(t, again); m.ID != id || m.Attempt != 1 {
			t.Errorf("got %s, attempt %d, want %s, attempt 1: an interruption is no failure", m.ID, m.Attempt, id)
		}
	})
}

// TestRunLeavesAHandlerBehindThatDoesNotHeedItsContext takes the 6 s that such a handler is waited for.
func TestRunLeavesAHandlerBehindThatDoesNotHeedItsContext(t *testing.T) {
	t.Parallel()
	bus := open(t, pipeline.Config{})
	r := router.New(bus, router.Config{Logger: slog.New(slog.DiscardHandler), DrainTimeout: 20 * time.Millisecond})
	running, finish, finished := make(chan struct{}), make(chan struct{}), make(chan struct{})
	r.Group("billing", router.Policy{}).Handle("booking.*", func(context.Context, *pipeline.Delivery) error {
		defer close(finished)
		close(running)
		<-finish
		return nil
	})
	publish(t, t.Context(), bus, bookingCreated, 1)
	stop := start(t, r)
	receive(t, running)
	if err := stop(); !errors.Is(err, pipeline.ErrDrainDeadline) || !strings.Contains(err.Error(), "1 of them are still running") {
		t.Errorf("got %v, want pipeline.ErrDrainDeadline and one handler that runs", err)
	}
	close(finish)
	receive(t, finished)
}

// A handler that publishes while its router, or the whole bus, is stopped: what it publishes is stored, and it is acknowledged.
func TestF39HandlerPublishesDuringAStop(t *testing.T) {
	for name, halt := range map[string]func(t *testing.T, stop func() error, bus *pipeline.Bus) error{
		"router stops": func(_ *testing.T, stop func() error, _ *pipeline.Bus) error { return stop() },
		"bus closes": func(t *testing.T, stop func() error, bus *pipeline.Bus) error {
			err := bus.Close(t.Context())
			_ = stop() // it says that its bus was closed
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			everywhere(t, func(t *testing.T, open opener) {
				bus := open(pipeline.Config{})
				began, goOn := make(chan context.Context, 1), make(chan struct{})
				published := make(chan error, 1)
				r := newRouter(bus)
				router.Handle(r.Group("billing", router.Policy{}), bookingCreated, func(ctx context.Context, m router.Message[booking]) error {
					began <- ctx
					<-goOn
					receipt, err := bus.Publish(ctx, pipeline.Event{ID: "issued", Type: "invoice.issued"})
					if err == nil && receipt.Durability() < pipeline.Volatile {
						err = errors.New("durability " + receipt.Durability().String())
					}
					published <- err
					return err
				})
				stop := start(t, r)
				publish(t, t.Context(), bus, bookingCreated, 7)
				receive(t, began)
				ended := make(chan error, 1)
				go func() { ended <- halt(t, stop, bus) }()
				select {
				case err := <-ended:
					t.Fatalf("it did not wait for the handler: %v", err)
				case <-time.After(100 * time.Millisecond): // it waits: nothing else can be seen of it
				}
				close(goOn)
				if err := receive(t, published); err != nil {
					t.Errorf("publish during the stop: %v", err)
				}
				if err := receive(t, ended); err != nil {
					t.Errorf("stop: %v", err)
				}
			})
		})
	}
}
