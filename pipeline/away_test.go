package pipeline

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/redis/go-redis/v9"
	"github.com/rishi-platform/millrace/internal/redistest"
)

// states collects the changes of state of a bus.
func states(cfg *Config) <-chan State {
	changes := make(chan State, 100)
	cfg.Hooks.State = func(_, to State, _ error) { changes <- to }
	return changes
}

func TestBusOpensWhileRedisIsAwayAndGoesOnTrying(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	server.Stop(t)
	cfg := Config{Redis: server.Options()}
	changes := states(&cfg)
	b := openBus(t, cfg)
	if got := within(t, "the first check", changes); got != StateUnavailable || b.Ready() == nil {
		t.Fatalf("state %s, ready %v; want unavailable", got, b.Ready())
	}
	if h := b.Health(t.Context()); h.Status != StatusUnhealthy || h.Redis.Connected || h.Redis.LastError == "" {
		t.Errorf("health %s, redis %+v", h.Status, h.Redis)
	}

	tally := newTally()
	heard := make(chan string, 10)
	consume(t, b, GroupConfig{Group: "g", Patterns: []string{"booking.*"}}, AllStreams, func(m *message.Message, _ *Delivery) { tally.add(m.UUID); m.Ack() })
	begun := time.Now()
	r, err := b.Publish(t.Context(), Event{Type: "booking.created"})
	if !errors.Is(err, ErrUnavailable) || r.Outcomes[0].Durability != Refused || time.Since(begun) > 5*time.Second {
		t.Errorf("publish: %+v, %v after %v; want it refused at once", r, err, time.Since(begun))
	}

	server.StartAgain(t)
	if got := within(t, "the way back", changes); got != StateDurable {
		t.Fatalf("state %s, want durable", got)
	}
	if _, err := b.Subscribe(t.Context(), Subscription{Patterns: []string{"booking.*"}}, func(_ context.Context, e Event) error { heard <- e.ID; return nil }); err != nil {
		t.Fatalf("subscribe: %v", err)
	}
	id := publish(t, b, Event{Type: "booking.created"}).Outcomes[0].ID
	tally.await(t, 1)
	if got := within(t, "the event", heard); got != id {
		t.Errorf("heard %s, want %s", got, id)
	}
}

// What connecting takes, over a slow link, is no outage: a one-shot verb would give up at once.
func TestBusOpensOverASlowLink(t *testing.T) {
	t.Parallel()
	proxy := redistest.NewProxy(t, redistest.Shared(t).Addr())
	proxy.Delay(500 * time.Millisecond) // each way; connecting takes two round trips
	b := openBus(t, Config{Redis: &redis.UniversalOptions{Addrs: []string{proxy.Addr()}}, Namespace: redistest.Namespace(t)})
	if err := b.Ready(); err != nil {
		t.Errorf("after opening: %v, want it ready", err)
	}
	proxy.Delay(0)
}

// A restart is not an outage: who publishes meanwhile waits, groups and subscriptions go on, and nothing is missing.
func TestF08RestartOfRedisIsSurvived(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, "--appendonly", "yes", "--appendfsync", "always")
	b := openBus(t, Config{Redis: server.Options()})
	handled, heard := newTally(), newTally()
	consume(t, b, GroupConfig{Group: "g", Patterns: []string{"booking.*"}}, AllStreams, func(m *message.Message, _ *Delivery) { handled.add(m.UUID); m.Ack() })
	if _, err := b.Subscribe(t.Context(), Subscription{Patterns: []string{"booking.*"}}, func(_ context.Context, e Event) error { heard.add(e.ID); return nil }); err != nil {
		t.Fatal(err)
	}
	published := make(chan error, 1)
	started := make(chan struct{})
	go func() {
		for i := range 300 {
			if i == 100 {
				close(started)
			}
			if _, err := b.Publish(t.Context(), Event{Type: "booking.created", ID: fmt.Sprintf("e-%d", i)}); err != nil {
				published <- fmt.Errorf("event %d: %w", i, err)
				return
			}
		}
		published <- nil
	}()
	within(t, "100 events", started)
	server.Kill(t)
	server.StartAgain(t)
	if err := within(t, "the publisher", published); err != nil {
		t.Fatal(err)
	}
	handled.await(t, 300)
	heard.await(t, 300)
	if n := len(records(t, b, Query{})); n != 300 {
		t.Errorf("history has %d events, want 300", n)
	}
	if twice := heard.more(); len(twice) > 0 {
		t.Errorf("heard more than once: %v", twice)
	}
}

func TestF35LostReplyStoresOnce(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	proxy := redistest.NewProxy(t, server.Addr())
	options := server.Options()
	options.Addrs = []string{proxy.Addr()}
	options.ReadTimeout = 200 * time.Millisecond
	b := openBus(t, Config{Redis: options})
	publish(t, b, Event{Type: "booking.created", ID: "first"})
	proxy.DropReplies(true)
	outcome := make(chan Receipt, 1)
	go func() {
		r, _ := b.Publish(t.Context(), Event{Type: "booking.created", ID: "second"})
		outcome <- r
	}()
	client := server.Client(t)
	for client.XLen(t.Context(), "booking").Val() < 2 { // it was stored, and nobody was told
		if t.Context().Err() != nil {
			t.Fatal("the append does not arrive")
		}
	}
	proxy.DropReplies(false)
	proxy.Reset()
	if r := within(t, "the outcome", outcome); r.Durability() != Stored {
		t.Errorf("outcome %+v, want stored", r.Outcomes)
	}
	if n := client.XLen(t.Context(), "booking").Val(); n != 2 {
		t.Errorf("stream has %d entries, want 2: the repetition stores nothing", n)
	}
}

func TestF36EndOfCtxIsUnknown(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	b := openBus(t, Config{Redis: server.Options()})
	publish(t, b, Event{Type: "booking.created"})
	server.Freeze(t)
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	r, err := b.Publish(ctx, Event{Type: "booking.created"})
	server.Thaw(t)
	if !errors.Is(err, ErrUnknown) || errors.Is(err, ErrUnavailable) || r.Outcomes[0].Durability != Unknown {
		t.Errorf("%+v, %v; want an unknown outcome", r.Outcomes, err)
	}
}

func TestF55WrongPasswordIsRefusedAtOnce(t *testing.T) {
	t.Parallel()
	options := redistest.Start(t, "--requirepass", "secret").Options()
	options.Password = "wrong"
	if b, err := Open(t.Context(), Config{Redis: options}); !errors.Is(err, ErrDenied) {
		t.Errorf("open: %v, %v; want it denied", b, err)
	}
}

func TestF41KeyOfAnotherTypeIsNamed(t *testing.T) {
	t.Parallel()
	server, namespace := redistest.Shared(t), redistest.Namespace(t)
	b := openBus(t, Config{Redis: server.Options(), Namespace: namespace})
	if err := server.Client(t).Set(t.Context(), namespace+":booking", "x", 0).Err(); err != nil {
		t.Fatal(err)
	}
	_, err := b.Publish(t.Context(), Event{Type: "booking.created"})
	var refused *RedisError
	if !errors.Is(err, ErrDenied) || !errors.As(err, &refused) || refused.Key != namespace+":booking" || refused.Hint == "" {
		t.Errorf("%v, want it denied with the key and a hint", err)
	}
	if b.State() != StateDurable {
		t.Errorf("state %s: one key of another type is no outage", b.State())
	}
}

func TestOutOfMemoryIsBackPressure(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	b := openBus(t, Config{Redis: server.Options()})
	tally := newTally()
	release := make(chan struct{})
	consume(t, b, GroupConfig{Group: "g"}, "booking", func(m *message.Message, _ *Delivery) { <-release; tally.add(m.UUID); m.Ack() })
	publish(t, b, events(10, "booking.created")...)
	if err := server.Client(t).ConfigSet(t.Context(), "maxmemory", "1000").Err(); err != nil {
		t.Fatal(err)
	}
	if _, err := b.Publish(t.Context(), Event{Type: "booking.created"}); !errors.Is(err, ErrBackPressure) {
		t.Errorf("publish: %v, want back-pressure", err)
	}
	close(release) // F32: consumers go on, and free what they can
	tally.await(t, 10)
	awaitSettled(t, b, "booking", "g")
}

// A close sends what is queued: every call that was accepted is answered for sure.
func TestF06CloseSendsWhatIsQueued(t *testing.T) {
	t.Parallel()
	server := redistest.Shared(t)
	b := openBus(t, Config{Redis: server.Options(), Namespace: redistest.Namespace(t)})
	var publishers sync.WaitGroup
	begun := make(chan struct{}, 1000)
	for range 50 {
		publishers.Go(func() {
			for {
				r, err := b.Publish(context.Background(), Event{Type: "booking.created"})
				switch {
				case err == nil:
					select {
					case begun <- struct{}{}:
					default:
					}
				case !errors.Is(err, ErrClosed) || r.Outcomes[0].Durability != Refused:
					t.Errorf("%v: %v", r.Outcomes[0].Durability, err)
					return
				default:
					return
				}
			}
		})
	}
	for range 500 {
		<-begun
	}
	closeBus(t, b)
	publishers.Wait()
}
