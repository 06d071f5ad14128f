package pipeline

import (
	"context"
	"testing"
	"time"

	"github.com/rishi-platform/millrace/internal/redistest"
)

func TestOnceStoreRemembersByIdentityAndGroup(t *testing.T) {
	eachBus(t, func(t *testing.T, open func(func(*Config)) *Bus) {
		b := open(nil)
		got := make(chan Delivery, 10)
		for _, group := range []string{"g", "h"} {
			handle(t, b, GroupConfig{Group: group, Patterns: []string{"booking.*"}}, AllStreams, func(_ context.Context, d *Delivery) error { got <- *d; return nil })
		}
		publish(t, b, Event{ID: "e", Type: "booking.created", Source: "billing", Data: []byte("1")})
		first, other := within(t, "a delivery", got), within(t, "a delivery", got)
		store := b.OnceStore(time.Hour)
		done := func(d Delivery) bool {
			t.Helper()
			done, err := store.Done(t.Context(), &d)
			if err != nil {
				t.Fatal(err)
			}
			return done
		}
		if done(first) {
			t.Error("it is done before it was marked")
		}
		for range 2 {
			if err := store.Mark(t.Context(), &first); err != nil {
				t.Fatal(err)
			}
		}
		if !done(first) || done(other) {
			t.Errorf("done %v in its group and %v in the other, want it in its group only", done(first), done(other))
		}
		again := first
		again.Position, again.Attempt, again.Origin = "1-1", 7, OriginReplay
		if !done(again) {
			t.Error("the same event at another position is not known")
		}
		for _, change := range []func(*Event){func(e *Event) { e.ID = "f" }, func(e *Event) { e.Source = "mail" }} {
			if d := first; true {
				change(&d.Event)
				if done(d) {
					t.Errorf("%s of %s was never marked: an equal payload is no identity", d.Event.ID, d.Event.Source)
				}
			}
		}

		brief := b.OnceStore(time.Millisecond)
		if err := brief.Mark(t.Context(), &other); err != nil {
			t.Fatal(err)
		}
		awaitFact(t, "the end of the mark", func() bool { return !done(other) })
	})
}

// What is remembered stands beside the stream, so that a cluster has it in the same slot, and the server forgets it.
func TestOnceStoreKeys(t *testing.T) {
	t.Parallel()
	server, namespace := redistest.Shared(t), redistest.Namespace(t)
	b := openBus(t, Config{Redis: server.Options(), Namespace: namespace})
	d := Delivery{Stream: "booking", Group: "g", Event: Event{ID: "e", Source: "billing"}}
	if err := b.OnceStore(0).Mark(t.Context(), &d); err != nil {
		t.Fatal(err)
	}
	const key = "B9x2z2bo2xd0c7MBlasMzn" // of "billing", NUL, "e": pinned, since workers of two versions share it
	client := server.Client(t)
	if ttl := client.PTTL(t.Context(), "{"+namespace+":booking}:once:g:"+key).Val(); ttl <= OnceFor-time.Minute || ttl > OnceFor {
		t.Errorf("keys %v, ttl %v", client.Keys(t.Context(), "{"+namespace+":booking}:*").Val(), ttl)
	}
}
