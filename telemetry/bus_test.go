package telemetry_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/google/go-cmp/cmp"
	"go.opentelemetry.io/otel/codes"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"

	"github.com/rishi-platform/millrace/pipeline"
	"github.com/rishi-platform/millrace/telemetry"
)

// openBus returns a bus in memory with the hooks under test.
func openBus(t *testing.T, hooks pipeline.Hooks) *pipeline.Bus {
	t.Helper()
	bus, err := pipeline.Open(t.Context(), pipeline.Config{Service: "api", Hooks: hooks})
	if err != nil {
		t.Fatal(err)
	}
	return bus
}

// consume runs handle for the events of the patterns until it has acked as many as wanted, then drains and closes
// the bus: after that every span has ended. In between, start is called once the group has been joined.
func consume(t *testing.T, bus *pipeline.Bus, wantAcks int, start func(), handle func(context.Context, *pipeline.Delivery) error, patterns ...string) {
	t.Helper()
	subscriber := bus.Subscriber(pipeline.GroupConfig{Group: "billing", Patterns: patterns, InFlight: 1})
	messages, err := subscriber.Subscribe(t.Context(), pipeline.AllStreams)
	if err != nil {
		t.Fatal(err)
	}
	start()
	for acked := 0; acked < wantAcks; {
		select {
		case m := <-messages:
			if err := handle(m.Context(), pipeline.CurrentDelivery(m.Context())); err != nil {
				m.Nack()
				continue
			}
			m.Ack()
			acked++
		case <-time.After(20 * time.Second):
			t.Fatalf("handled %d events, want %d", acked, wantAcks)
		}
	}
	closeAll(t, subscriber, bus)
}

func closeAll(t *testing.T, subscriber message.Subscriber, bus *pipeline.Bus) {
	t.Helper()
	if err := subscriber.Close(); err != nil {
		t.Errorf("close subscriber: %v", err)
	}
	if err := bus.Close(context.WithoutCancel(t.Context())); err != nil {
		t.Errorf("close bus: %v", err)
	}
}

func publish(ctx context.Context, t *testing.T, bus *pipeline.Bus, events ...pipeline.Event) {
	t.Helper()
	if _, err := bus.Publish(ctx, events...); err != nil {
		t.Errorf("publish: %v", err)
	}
}

// named returns the spans of a name.
func named(spans tracetest.SpanStubs, name string) tracetest.SpanStubs {
	var out tracetest.SpanStubs
	for _, s := range spans {
		if s.Name == name {
			out = append(out, s)
		}
	}
	return out
}

// TestStoryOfOneCorrelation follows a booking to its invoice: each span of the story carries the correlation, each event
// knows what caused it, and neither payload nor headers show anywhere.
func TestStoryOfOneCorrelation(t *testing.T) {
	t.Parallel()
	r := newRecorder(t)
	bus := openBus(t, r.hooks(telemetry.Auto))
	consume(t, bus, 2,
		func() {
			ctx := pipeline.WithCorrelationID(t.Context(), "abc-1")
			publish(ctx, t, bus, pipeline.Event{Type: "booking.created", Header: map[string]string{"secret": "MARKER-H"}, Data: []byte(`"MARKER-D"`)})
		},
		func(ctx context.Context, d *pipeline.Delivery) error {
			if d.Stream == "booking" {
				publish(ctx, t, bus, pipeline.Event{Type: "invoice.issued", Data: d.Event.Data})
			}
			return nil
		}, "booking.*", "invoice.*")

	spans := r.spans()
	one := func(name string) tracetest.SpanStub {
		found := named(spans, name)
		if len(found) != 1 {
			t.Fatalf("got %d spans %s, want one: %v", len(found), name, names(spans))
		}
		if got := attributes(found[0].Attributes)["messaging.message.conversation_id"]; got != "abc-1" {
			t.Errorf("%s: conversation ID: got %v, want abc-1", name, got)
		}
		return found[0]
	}
	chain := []tracetest.SpanStub{one("publish booking"), one("process booking"), one("publish invoice"), one("process invoice")}
	if len(spans) != len(chain) {
		t.Errorf("got %v, want no more than the four", names(spans))
	}
	for i, span := range chain[1:] {
		if !span.Parent.Equal(chain[i].SpanContext.WithRemote(span.Parent.IsRemote())) {
			t.Errorf("parent of %s: got %s, want %s", span.Name, traceParent(span.Parent), chain[i].Name)
		}
	}
	for _, i := range []int{1, 3} {
		if diff := cmp.Diff(map[string]string{"creation": traceParent(chain[i-1].SpanContext)}, links(chain[i])); diff != "" {
			t.Errorf("links of %s (-want +got):\n%s", chain[i].Name, diff)
		}
	}
	booking := attributes(chain[0].Attributes)
	for _, i := range []int{2, 3} {
		if got, want := attributes(chain[i].Attributes)["millrace.causation_id"], booking["messaging.message.id"]; got != want {
			t.Errorf("causation of %s: got %v, want the booking %v", chain[i].Name, got, want)
		}
	}
	if got, want := attributes(chain[1].Attributes)["millrace.stream.position"], booking["millrace.stream.position"]; got != want || want == nil {
		t.Errorf("position of the booking: processed %v, published %v", got, want)
	}
	assertAbsent(t, spans, "MARKER", "db.statement")
}

func TestRetriesOnTheBus(t *testing.T) {
	t.Parallel()
	for mode, wantParents := range map[telemetry.Mode][3]bool{
		telemetry.Auto:     {true, false, false},
		telemetry.Continue: {true, true, true},
		telemetry.Link:     {false, false, false},
	} {
		t.Run(mode.String(), func(t *testing.T) {
			t.Parallel()
			r := newRecorder(t)
			bus := openBus(t, r.hooks(mode))
			consume(t, bus, 1,
				func() { publish(t.Context(), t, bus, pipeline.Event{Type: "booking.created"}) },
				func(_ context.Context, d *pipeline.Delivery) error {
					if d.Attempt < 3 {
						return errors.New("not yet")
					}
					return nil
				}, "booking.*")

			published, attempts := named(r.spans(), "publish booking")[0], named(r.spans(), "process booking")
			if len(attempts) != 3 {
				t.Fatalf("got %v, want three attempts", names(r.spans()))
			}
			for i, span := range attempts {
				if got := attributes(span.Attributes)["millrace.delivery.attempt"]; got != int64(i+1) {
					t.Errorf("attempt %d: got number %v", i+1, got)
				}
				if failed := span.Status.Code == codes.Error; failed != (i < 2) {
					t.Errorf("attempt %d: got status %v", i+1, span.Status.Code)
				}
				if got := span.Parent.SpanID() == published.SpanContext.SpanID(); got != wantParents[i] {
					t.Errorf("attempt %d: child of the publish is %t, want %t", i+1, got, wantParents[i])
				}
				want := map[string]string{"creation": traceParent(published.SpanContext)}
				if i > 0 {
					want["previous_attempt"] = traceParent(attempts[i-1].SpanContext)
				}
				if diff := cmp.Diff(want, links(span)); diff != "" {
					t.Errorf("attempt %d: links (-want +got):\n%s", i+1, diff)
				}
			}
		})
	}
}

func TestUnsampledUpstreamOnTheBus(t *testing.T) {
	t.Parallel()
	r := newRecorder(t, sdktrace.WithSampler(sdktrace.ParentBased(sdktrace.AlwaysSample())))
	bus := openBus(t, r.hooks(telemetry.Auto))
	consume(t, bus, 1,
		func() {
			ctx := pipeline.WithCorrelationID(remote(creationTrace, creationSpan, 0), "abc-1")
			publish(ctx, t, bus, pipeline.Event{Type: "booking.created"})
		},
		func(ctx context.Context, d *pipeline.Delivery) error {
			if got := trace.SpanContextFromContext(ctx); got.TraceID().String() != creationTrace || got.IsSampled() {
				t.Errorf("trace of the handler: got %s, sampled %t, want the caller's, unsampled", got.TraceID(), got.IsSampled())
			}
			if got := pipeline.CorrelationID(ctx); got != "abc-1" {
				t.Errorf("correlation: got %q, want abc-1", got)
			}
			return nil
		}, "booking.*")
	if spans := r.spans(); len(spans) != 0 {
		t.Errorf("exported %v, want nothing", names(spans))
	}
}

func TestGarbageIsDelivered(t *testing.T) {
	t.Parallel()
	r := newRecorder(t)
	bus := openBus(t, r.hooks(telemetry.Auto))
	consume(t, bus, 1,
		func() {
			publish(t.Context(), t, bus, pipeline.Event{Type: "booking.created", Header: map[string]string{"traceparent": "garbage"}})
		},
		func(context.Context, *pipeline.Delivery) error { return nil }, "booking.*")
	if got := names(r.spans()); len(got) != 2 {
		t.Errorf("got %v, want publish and process", got)
	}
	if got := r.invalid.Load(); got != 1 {
		t.Errorf("counted %d malformed contexts, want 1", got)
	}
}

// TestIdlenessMakesNoSpans lets a consumer and a subscription wait for a minute.
func TestIdlenessMakesNoSpans(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRecorder(t)
		bus := openBus(t, r.hooks(telemetry.Auto))
		subscriber := bus.Subscriber(pipeline.GroupConfig{Group: "billing", Patterns: []string{"booking.*"}})
		messages, err := subscriber.Subscribe(t.Context(), pipeline.AllStreams)
		if err != nil {
			t.Fatal(err)
		}
		heard := make(chan struct{}, 1)
		if _, err := bus.Subscribe(t.Context(), pipeline.Subscription{}, func(context.Context, pipeline.Event) error {
			heard <- struct{}{}
			return nil
		}); err != nil {
			t.Fatal(err)
		}

		time.Sleep(time.Minute) // of the bubble's time
		if spans := r.spans(); len(spans) != 0 {
			t.Errorf("a minute of idleness made %v", names(spans))
		}

		// They were awake all the time, and the subscription adds no span even now.
		publish(t.Context(), t, bus, pipeline.Event{Type: "booking.created"})
		(<-messages).Ack()
		<-heard
		closeAll(t, subscriber, bus)
		if got := names(r.spans()); len(got) != 2 {
			t.Errorf("an event made %v, want publish and process", got)
		}
	})
}

func TestLostEventsAreCounted(t *testing.T) {
	t.Parallel()
	r := newRecorder(t)
	hooks := r.hooks(telemetry.Auto)
	hooks.Lost(pipeline.Loss{Stream: "booking", Reason: pipeline.ReasonRewound, Events: 3})
	hooks.Lost(pipeline.Loss{Stream: "invoice", Reason: pipeline.ReasonRewound, Events: 4})
	if got := r.lost.Load(); got != 7 {
		t.Errorf("%d events are counted, want 7", got)
	}
}
