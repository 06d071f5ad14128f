package pipeline

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/rishi-platform/millrace/internal/redistest"
)

// A handler that runs for three times the claim idle runs once, with one consumer and with two; so does what waits behind it.
func TestF12SlowHandlerRunsOnce(t *testing.T) {
	t.Parallel()
	for name, consumers := range map[string]int{"one consumer": 1, "two consumers": 2} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := openBus(t, Config{Redis: redistest.Shared(t).Options(), Namespace: redistest.Namespace(t)})
			handled := newTally()
			var slow sync.WaitGroup
			g := GroupConfig{Group: "g", Patterns: []string{"booking.*"}, InFlight: 2, Policy: Policy{ClaimIdle: 400 * time.Millisecond}}
			for range consumers {
				handle(t, b, g, AllStreams, func(ctx context.Context, d *Delivery) error {
					slow.Add(1)
					defer slow.Done()
					handled.add(d.Event.ID)
					select {
					case <-time.After(1200 * time.Millisecond):
					case <-ctx.Done():
						t.Errorf("%s: %v", d.Event.ID, context.Cause(ctx))
					}
					return nil
				})
			}
			publish(t, b, events(6, "booking.created")...)
			handled.await(t, 6)
			awaitSettled(t, b, "booking", "g")
			if twice := handled.more(); len(twice) > 0 {
				t.Errorf("handled more than once: %v", twice)
			}
		})
	}
}

// A consumer of other software that never acknowledges: what it holds is claimed after a while, and not before.
func TestF13DeliveriesOfOtherSoftwareAreClaimed(t *testing.T) {
	t.Parallel()
	server, namespace := redistest.Shared(t), redistest.Namespace(t)
	client, key := server.Client(t), namespace+":booking"
	b := openBus(t, Config{Redis: server.Options(), Namespace: namespace})
	g := GroupConfig{Group: "g", Patterns: []string{"booking.*"}, Policy: Policy{ClaimIdle: 500 * time.Millisecond}}
	_ = consumeNothing(t, b, g).Close()
	publish(t, b, events(150, "booking.created")...) // more than one batch
	started := time.Now()
	if _, err := client.XReadGroup(t.Context(), &redis.XReadGroupArgs{Group: "g", Consumer: "theirs", Streams: []string{key, ">"}, Count: 150, Block: -1}).Result(); err != nil {
		t.Fatal(err)
	}
	handled := newTally()
	handle(t, b, g, AllStreams, func(_ context.Context, d *Delivery) error {
		if !d.Claimed || time.Since(started) < 500*time.Millisecond {
			t.Errorf("%s after %v, claimed %v", d.Event.ID, time.Since(started), d.Claimed)
		}
		handled.add(d.Event.ID)
		return nil
	})
	handled.await(t, 150)
	awaitSettled(t, b, "booking", "g")
}

// Somebody takes a delivery that is being handled here: the handler is told, and its result settles nothing of theirs.
func TestF12DeliveryThatIsTakenAwayEndsItsHandler(t *testing.T) {
	t.Parallel()
	server, namespace := redistest.Shared(t), redistest.Namespace(t)
	client, key := server.Client(t), namespace+":booking"
	b := openBus(t, Config{Redis: server.Options(), Namespace: namespace})
	causes := make(chan error, 1)
	g := GroupConfig{Group: "g", Patterns: []string{"booking.*"}, Policy: Policy{ClaimIdle: time.Second, Backoff: atOnce}}
	handle(t, b, g, AllStreams, func(ctx context.Context, d *Delivery) error {
		client.XClaim(ctx, &redis.XClaimArgs{Stream: key, Group: "g", Consumer: "theirs", Messages: []string{string(d.Position)}})
		<-ctx.Done()
		causes <- context.Cause(ctx)
		return ctx.Err()
	})
	publish(t, b, Event{Type: "booking.created"})
	if err := within(t, "the end of the handler's context", causes); !errors.Is(err, ErrLeaseLost) {
		t.Errorf("got %v, want ErrLeaseLost", err)
	}
	pending := client.XPending(t.Context(), key, "g").Val()
	if pending.Count != 1 || pending.Consumers["theirs"] != 1 {
		t.Errorf("pending %+v, want it with whoever took it", pending)
	}
	_ = client.XAck(t.Context(), key, "g", pending.Lower)
}

// Other software in the group claims what was idle for long. What is being handled here is not idle.
func TestF12OtherSoftwareClaimsNothingThatIsHandled(t *testing.T) {
	t.Parallel()
	server, namespace := redistest.Shared(t), redistest.Namespace(t)
	client, key := server.Client(t), namespace+":booking"
	b := openBus(t, Config{Redis: server.Options(), Namespace: namespace})
	const idle = 1500 * time.Millisecond
	began, handled := make(chan struct{}), newTally()
	handle(t, b, GroupConfig{Group: "g", Patterns: []string{"booking.*"}, Policy: Policy{ClaimIdle: idle}}, AllStreams, func(ctx context.Context, d *Delivery) error {
		close(began)
		for end := time.Now().Add(2 * idle); time.Now().Before(end); {
			taken, _, err := client.XAutoClaimJustID(ctx, &redis.XAutoClaimArgs{Stream: key, Group: "g", Consumer: "theirs", MinIdle: idle, Start: "0"}).Result()
			if err != nil || len(taken) > 0 {
				t.Errorf("other software claimed %v: %v", taken, err)
				break
			}
			<-time.After(20 * time.Millisecond)
		}
		handled.add(d.Event.ID)
		return nil
	})
	publish(t, b, Event{ID: "slow", Type: "booking.created"})
	within(t, "the delivery", began)
	handled.await(t, 1)
	awaitSettled(t, b, "booking", "g")
}
