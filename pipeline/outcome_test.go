package pipeline

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/rishi-platform/millrace/internal/redistest"
)

// A batch of which some can't be stored: each event has its own outcome, in its place.
func TestF38EachEventHasItsOwnOutcome(t *testing.T) {
	t.Parallel()
	server, namespace := redistest.Shared(t), redistest.Namespace(t)
	b := openBus(t, Config{Redis: server.Options(), Namespace: namespace})
	if err := server.Client(t).Set(t.Context(), namespace+":invoice", "x", 0).Err(); err != nil {
		t.Fatal(err)
	}
	r, err := b.Publish(t.Context(), Event{ID: "0", Type: "booking.created"}, Event{ID: "1", Type: "invoice.issued"}, Event{ID: "2", Type: "booking.created"}, Event{ID: "3", Type: "order.placed"})
	if !errors.Is(err, ErrDenied) {
		t.Errorf("got %v, want the first of the outcomes' errors", err)
	}
	for i, o := range r.Outcomes {
		want := Stored
		if i == 1 {
			want = Refused
		}
		if o.ID != fmt.Sprint(i) || o.Durability != want || (o.Err == nil) != (want == Stored) || (o.Position != "") != (want == Stored) {
			t.Errorf("outcome %d: %+v, want %v", i, o, want)
		}
	}
	if n := len(records(t, b, Query{Streams: []string{"booking", "order"}})); n != 3 {
		t.Errorf("%d are stored, want 3", n)
	}
}

// What is too large is refused here, by name, and never looks like an outage.
func TestF40LargePayloadIsRefusedBeforeItIsSent(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	if err := server.Client(t).ConfigSet(t.Context(), "proto-max-bulk-len", "1048576").Err(); err != nil {
		t.Fatal(err)
	}
	b := openBus(t, Config{Redis: server.Options()})
	r, err := b.Publish(t.Context(), Event{Type: "booking.created", Data: []byte(`"` + strings.Repeat("x", 3<<19) + `"`)})
	var invalid *ValidationError
	if !errors.As(err, &invalid) || !invalid.TooLarge || r.Durability() != Refused {
		t.Errorf("got %v, %v; want it refused as too large", r.Durability(), err)
	}
	if b.State() != StateDurable {
		t.Errorf("state %s", b.State())
	}
	publish(t, b, Event{Type: "booking.created", Data: []byte(`"` + strings.Repeat("x", 1000_000) + `"`)})
}

// A server that has too few replicas refuses writes: it is not away, publishing is refused with the reason, and heals.
func TestF42TooFewReplicas(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	client := server.Client(t)
	b := openBus(t, Config{Redis: server.Options()})
	handled := newTally()
	consume(t, b, GroupConfig{Group: "g", Patterns: []string{"booking.*"}}, AllStreams, handled.ack)
	publish(t, b, Event{ID: "before", Type: "booking.created"})
	handled.await(t, 1)
	if err := client.ConfigSet(t.Context(), "min-replicas-to-write", "1").Err(); err != nil {
		t.Fatal(err)
	}
	begun := time.Now()
	_, err := b.Publish(t.Context(), Event{ID: "refused", Type: "booking.created"})
	if !errors.Is(err, ErrUnavailable) || !strings.Contains(fmt.Sprint(err), "replicas") || time.Since(begun) > 6*time.Second {
		t.Errorf("got %v after %v, want the reason soon", err, time.Since(begun))
	}
	if err := client.ConfigSet(t.Context(), "min-replicas-to-write", "0").Err(); err != nil {
		t.Fatal(err)
	}
	awaitFact(t, "publishing again", func() bool {
		_, err := b.Publish(t.Context(), Event{ID: "after", Type: "booking.created"})
		return err == nil
	})
	handled.await(t, 2)
}

// A replica answers everything but writes: it is no place to publish to, and health says so.
func TestF49ReplicaIsNotHealthy(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	client := server.Client(t)
	b := openBus(t, Config{Redis: server.Options()})
	handled := newTally()
	consume(t, b, GroupConfig{Group: "g", Patterns: []string{"booking.*"}}, AllStreams, handled.ack)
	publish(t, b, Event{ID: "before", Type: "booking.created"})
	handled.await(t, 1)
	if err := client.Do(t.Context(), "REPLICAOF", "127.0.0.1", "1").Err(); err != nil {
		t.Fatal(err)
	}
	awaitFact(t, "the state", func() bool { return b.State() == StateUnavailable })
	if h := b.Health(t.Context()); h.Status != StatusUnhealthy || !hasProblem(h, "redis-unavailable") {
		t.Errorf("health %s, %+v", h.Status, h.Problems)
	}
	if _, err := b.Publish(t.Context(), Event{Type: "booking.created"}); !errors.Is(err, ErrUnavailable) {
		t.Errorf("publish: %v", err)
	}
	if err := client.Do(t.Context(), "REPLICAOF", "NO", "ONE").Err(); err != nil {
		t.Fatal(err)
	}
	awaitFact(t, "its end", func() bool { return b.State() == StateDurable })
	publish(t, b, Event{ID: "after", Type: "booking.created"})
	handled.await(t, 2)
}

// A server that stands still for a moment: who publishes waits, and nothing else happens.
func TestF52StallIsNoOutage(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	cfg := Config{Redis: server.Options()}
	changes := states(&cfg)
	b := openBus(t, cfg)
	publish(t, b, Event{Type: "booking.created"})
	server.Freeze(t)
	frozen := time.Now()
	published := make(chan error, 1)
	go func() {
		_, err := b.Publish(t.Context(), Event{Type: "booking.created"})
		published <- err
	}()
	awaitFact(t, "a second", func() bool { return time.Since(frozen) > time.Second })
	server.Thaw(t)
	if err := within(t, "the outcome", published); err != nil {
		t.Errorf("publish during the stall: %v", err)
	}
	select {
	case s := <-changes:
		t.Errorf("the state became %s", s)
	default:
	}
}
