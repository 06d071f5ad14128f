package router_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/rishi-platform/millrace/internal/redistest"
	"github.com/rishi-platform/millrace/pipeline"
	"github.com/rishi-platform/millrace/router"
)

func TestMain(m *testing.M) { os.Exit(redistest.Run(m)) }

type booking struct {
	Total int `json:"total"`
}

var (
	bookingCreated   = pipeline.EventType[booking]{Name: "booking.created"}
	bookingCancelled = pipeline.EventType[booking]{Name: "booking.cancelled"}
	invoiceIssued    = pipeline.EventType[booking]{Name: "invoice.issued"}
	mailSent         = pipeline.EventType[booking]{Name: "mail.sent"}
)

// opener opens one more instance of a service. Instances of one test see the same streams.
type opener func(cfg pipeline.Config) *pipeline.Bus

// everywhere runs a test on a bus in memory, where all instances are one bus, and on Redis, where each has its own.
func everywhere(t *testing.T, test func(t *testing.T, open opener)) {
	t.Parallel()
	t.Run("memory", func(t *testing.T) {
		t.Parallel()
		var only *pipeline.Bus
		test(t, func(cfg pipeline.Config) *pipeline.Bus {
			if only == nil {
				only = open(t, cfg)
			}
			return only
		})
	})
	t.Run("redis", func(t *testing.T) {
		t.Parallel()
		namespace := redistest.Namespace(t)
		test(t, func(cfg pipeline.Config) *pipeline.Bus {
			cfg.Redis = &redis.UniversalOptions{Addrs: []string{redistest.Shared(t).Addr()}}
			cfg.Namespace = namespace
			return open(t, cfg)
		})
	})
}

func open(t *testing.T, cfg pipeline.Config) *pipeline.Bus {
	t.Helper()
	cfg.Service = "test"
	cfg.Logger = slog.New(slog.DiscardHandler)
	bus, err := pipeline.Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := bus.Close(context.Background()); err != nil {
			t.Errorf("close bus: %v", err)
		}
	})
	return bus
}

func newRouter(src router.Source) *router.Router {
	return router.New(src, router.Config{Logger: slog.New(slog.DiscardHandler)})
}

// start runs the router and returns the function that stops it and returns what Run did. The test stops it at its end at
// the latest, and wants a nil that nobody else asked for.
func start(t *testing.T, r *router.Router) (stop func() error) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- r.Run(ctx) }()
	asked := false
	once := sync.OnceValue(func() error { cancel(); return receive(t, ended) })
	t.Cleanup(func() {
		if err := once(); err != nil && !asked {
			t.Errorf("run router: %v", err)
		}
	})
	return func() error { asked = true; return once() }
}

// publish publishes an event of the type with the given total and returns its ID.
func publish(t *testing.T, ctx context.Context, bus *pipeline.Bus, typ pipeline.EventType[booking], total int) (id string) {
	t.Helper()
	e, err := typ.New(booking{total})
	if err != nil {
		t.Fatal(err)
	}
	e.Subject = fmt.Sprintf("booking/%d", total)
	receipt, err := bus.Publish(ctx, e)
	if err != nil {
		t.Fatalf("publish %s: %v", typ.Name, err)
	}
	return receipt.Outcomes[0].ID
}

// receive waits for a fact. Its deadline is met by a broken program only.
func receive[T any](t *testing.T, facts <-chan T) T {
	t.Helper()
	select {
	case fact := <-facts:
		return fact
	case <-time.After(90 * time.Second):
		t.Fatal("waited for 90 s in vain")
		panic("unreachable")
	}
}

// unsettled returns how many events of the stream the group has neither handled nor handed on, or never got.
func unsettled(t *testing.T, bus *pipeline.Bus, stream, group string) int64 {
	t.Helper()
	for _, s := range bus.Health(t.Context()).Streams {
		for _, g := range s.Groups {
			if s.Name == stream && g.Name == group {
				if g.Lag == nil {
					t.Fatalf("lag of %s/%s is unknown", stream, group)
				}
				return g.Pending + g.Deferred + *g.Lag
			}
		}
	}
	t.Fatalf("health has no group %s/%s", stream, group)
	return 0
}

func TestHandlerGetsTheEventAndItsPayload(t *testing.T) {
	everywhere(t, func(t *testing.T, open opener) {
		bus := open(pipeline.Config{})
		r := newRouter(bus)
		got := make(chan router.Message[booking], 1)
		router.Handle(r.Group("billing", router.Policy{}), bookingCreated, func(_ context.Context, m router.Message[booking]) error {
			got <- m
			return nil
		})
		id := publish(t, t.Context(), bus, bookingCreated, 12)
		stop := start(t, r)

		m := receive(t, got)
		if m.ID != id || m.Type != "booking.created" || m.Subject != "booking/12" || m.Source != "test" || m.Data.Total != 12 {
			t.Errorf("got event %+v with data %+v, want the one that was published", m.Event, m.Data)
		}
		if m.Attempt != 1 || m.Group != "billing" || m.Stream() != "booking" || m.Position == "" || string(m.Event.Data) != `{"total":12}` {
			t.Errorf("got delivery %+v, want the first attempt of group billing", *m.Delivery)
		}
		if err := stop(); err != nil {
			t.Errorf("stop: %v", err)
		}
		if n := unsettled(t, bus, "booking", "billing"); n != 0 {
			t.Errorf("got %d unsettled events after a clean stop, want 0", n)
		}
	})
}

func TestEachGroupGetsEveryEvent(t *testing.T) {
	everywhere(t, func(t *testing.T, open opener) {
		const events = 50
		bus := open(pipeline.Config{})
		r := newRouter(bus)
		got := make(chan string, 2*events)
		for _, group := range []string{"billing", "notifications"} {
			router.Handle(r.Group(group, router.Policy{InFlight: 8}), bookingCreated, func(_ context.Context, m router.Message[booking]) error {
				got <- m.Group + m.ID
				return nil
			})
		}
		start(t, r)
		want := map[string]bool{}
		for i := range events {
			id := publish(t, t.Context(), bus, bookingCreated, i)
			want["billing"+id], want["notifications"+id] = true, true
		}
		for range 2 * events {
			one := receive(t, got)
			if !want[one] {
				t.Errorf("%s came twice or is not known", one)
			}
			delete(want, one)
		}
	})
}

func TestEachEventIsHandledByOneInstance(t *testing.T) {
	everywhere(t, func(t *testing.T, open opener) {
		const events = 200
		var (
			mu      sync.Mutex
			handled = map[string]int{}
			all     = make(chan struct{})
		)
		var stops []func() error
		for range 2 {
			r := newRouter(open(pipeline.Config{}))
			router.Handle(r.Group("billing", router.Policy{}), bookingCreated, func(_ context.Context, m router.Message[booking]) error {
				mu.Lock()
				defer mu.Unlock()
				if handled[m.ID]++; len(handled) == events && handled[m.ID] == 1 {
					close(all)
				}
				return nil
			})
			stops = append(stops, start(t, r))
		}
		bus := open(pipeline.Config{})
		for i := range events {
			publish(t, t.Context(), bus, bookingCreated, i)
		}
		receive(t, all)
		for _, stop := range stops {
			if err := stop(); err != nil {
				t.Errorf("stop: %v", err)
			}
		}
		for id, n := range handled {
			if n != 1 {
				t.Errorf("%s was handled %d times, want once", id, n)
			}
		}
		if n := unsettled(t, bus, "booking", "billing"); n != 0 {
			t.Errorf("got %d unsettled events, want 0", n)
		}
	})
}

func TestEventOfASiblingsTypeGoesToTheSibling(t *testing.T) {
	everywhere(t, func(t *testing.T, open opener) {
		got := make(chan string, 4)
		for _, typ := range []pipeline.EventType[booking]{bookingCreated, bookingCancelled} {
			log := announcer{slog.DiscardHandler, make(chan string, 10)}
			r := router.New(open(pipeline.Config{}), router.Config{Logger: slog.New(log)})
			router.Handle(r.Group("billing", router.Policy{}), typ, func(_ context.Context, m router.Message[booking]) error {
				got <- typ.Name + m.ID
				return nil
			})
			start(t, r)
			// Before the second instance has joined, its type is none of the group's.
			for receive(t, log.lines) != "router is running" {
			}
		}
		bus := open(pipeline.Config{})
		want := map[string]bool{}
		for i := range 2 {
			want["booking.created"+publish(t, t.Context(), bus, bookingCreated, i)] = true
			want["booking.cancelled"+publish(t, t.Context(), bus, bookingCancelled, i)] = true
		}
		for range 4 {
			one := receive(t, got) // an event waits for 5 s each time that the wrong instance gets it
			if !want[one] {
				t.Errorf("%s came twice or is not known", one)
			}
			delete(want, one)
		}
	})
}

func TestEventOutsideOfTheGroupIsCounted(t *testing.T) {
	everywhere(t, func(t *testing.T, open opener) {
		unhandled := make(chan string, 1)
		bus := open(pipeline.Config{Hooks: pipeline.Hooks{
			Unhandled: func(stream, group, eventType string) { unhandled <- stream + " " + group + " " + eventType },
		}})
		r := newRouter(bus)
		router.Handle(r.Group("billing", router.Policy{}), bookingCreated, func(_ context.Context, m router.Message[booking]) error {
			t.Errorf("got %s, which has no handler", m.Type)
			return nil
		})
		publish(t, t.Context(), bus, bookingCancelled, 1)
		stop := start(t, r)
		if got, want := receive(t, unhandled), "booking billing booking.cancelled"; got != want {
			t.Errorf("got %q, want %q", got, want)
		}
		if err := stop(); err != nil {
			t.Errorf("stop: %v", err)
		}
		if n := unsettled(t, bus, "booking", "billing"); n != 0 {
			t.Errorf("got %d unsettled events, want 0", n)
		}
	})
}

func TestHandlersAreChosenByTypeThenByPattern(t *testing.T) {
	everywhere(t, func(t *testing.T, open opener) {
		bus := open(pipeline.Config{})
		r := newRouter(bus)
		group := r.Group("audit", router.Policy{})
		got := make(chan string, 1)
		named := func(name string) router.Handler {
			return func(_ context.Context, d *pipeline.Delivery) error { got <- name + " " + d.Event.Type; return nil }
		}
		group.Handle("booking.*", named("first"))
		group.Handle("booking.**", named("second"))
		group.Handle("booking.created", named("exact"))
		start(t, r)
		for typ, want := range map[string]string{
			"booking.created":      "exact booking.created",
			"booking.cancelled":    "first booking.cancelled",
			"booking.seat.changed": "second booking.seat.changed",
		} {
			publish(t, t.Context(), bus, pipeline.EventType[booking]{Name: typ}, 1)
			if one := receive(t, got); one != want {
				t.Errorf("got %q, want %q", one, want)
			}
		}
	})
}

func TestWhatAHandlerPublishesBelongsToTheSameStory(t *testing.T) {
	everywhere(t, func(t *testing.T, open opener) {
		bus := open(pipeline.Config{})
		r := newRouter(bus)
		relay := func(group string, from, to pipeline.EventType[booking]) {
			router.Handle(r.Group(group, router.Policy{}), from, func(ctx context.Context, m router.Message[booking]) error {
				e, err := to.New(m.Data)
				if err != nil {
					return err
				}
				_, err = bus.Publish(ctx, e)
				return err
			})
		}
		relay("billing", bookingCreated, invoiceIssued)
		relay("mail", invoiceIssued, mailSent)
		ends := make(chan pipeline.Event, 2)
		audit := r.Group("audit", router.Policy{})
		collect := func(_ context.Context, d *pipeline.Delivery) error { ends <- d.Event; return nil }
		audit.Handle("invoice.*", collect)
		audit.Handle("mail.*", collect)
		start(t, r)

		first := publish(t, pipeline.WithCorrelationID(t.Context(), "abc-1"), bus, bookingCreated, 1)
		events := map[string]pipeline.Event{}
		for range 2 {
			e := receive(t, ends)
			events[e.Type] = e
		}
		invoice, mail := events["invoice.issued"], events["mail.sent"]
		if invoice.CorrelationID != "abc-1" || mail.CorrelationID != "abc-1" {
			t.Errorf("got correlation IDs %q and %q, want abc-1", invoice.CorrelationID, mail.CorrelationID)
		}
		if invoice.CausationID != first || mail.CausationID != invoice.ID {
			t.Errorf("got causation IDs %q and %q, want %q and %q", invoice.CausationID, mail.CausationID, first, invoice.ID)
		}
	})
}

func TestClosedBusEndsTheRouter(t *testing.T) {
	everywhere(t, func(t *testing.T, open opener) {
		bus := open(pipeline.Config{})
		r := newRouter(bus)
		handled := make(chan struct{}, 1)
		router.Handle(r.Group("billing", router.Policy{}), bookingCreated, func(context.Context, router.Message[booking]) error {
			handled <- struct{}{}
			return nil
		})
		ended := make(chan error, 1)
		go func() { ended <- r.Run(context.Background()) }()
		publish(t, t.Context(), bus, bookingCreated, 1)
		receive(t, handled)
		if err := bus.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := receive(t, ended); !errors.Is(err, pipeline.ErrClosed) {
			t.Errorf("got %v, want pipeline.ErrClosed", err)
		}
	})
}
