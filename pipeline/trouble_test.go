package pipeline

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/redis/go-redis/v9"
	"github.com/rishi-platform/millrace/internal/redisstream"
	"github.com/rishi-platform/millrace/internal/redistest"
)

// ack counts a message and acknowledges it.
func (c *tally) ack(m *message.Message, _ *Delivery) {
	c.add(m.UUID)
	m.Ack()
}

// behind returns a bus on the same server as others, by a proxy.
func behind(t testing.TB, namespace string) (*Bus, *redistest.Proxy) {
	t.Helper()
	proxy := redistest.NewProxy(t, redistest.Shared(t).Addr())
	return openBus(t, Config{Redis: &redis.UniversalOptions{Addrs: []string{proxy.Addr()}}, Namespace: namespace}), proxy
}

// A retry that does not fit into a full lane must not hold up acknowledgements: only they make room there.
func TestFullLaneHoldsNothingElseUp(t *testing.T) {
	t.Parallel()
	b := openBus(t, Config{})
	const bound = 50
	b.local.Bound(bound)
	handled := newTally()
	_ = consume(t, b, GroupConfig{Group: "g", Patterns: []string{"booking.*"}}, AllStreams, handled.ack).Close()
	for i := range bound {
		full := []redisstream.Copy{{Message: encode(&Event{ID: fmt.Sprint("lane-", i), Type: "booking.created"})}}
		if done, _, err := b.local.Enqueue(t.Context(), "booking", "g", full); done != 1 || err != nil {
			t.Fatal(err)
		}
	}
	publish(t, b, Event{ID: "bad", Type: "booking.created"})
	consume(t, b, GroupConfig{Group: "g", Patterns: []string{"booking.*"}, InFlight: 4}, AllStreams, func(m *message.Message, d *Delivery) {
		if m.UUID == "bad" && d.Attempt == 1 {
			m.Nack()
			return
		}
		handled.ack(m, d)
	})
	handled.await(t, bound+1)
	awaitSettled(t, b, "booking", "g")
}

// A right that was taken away for one stream concerns that stream only, and heals when it is given again.
func TestF18RefusedAckHoldsNothingElseUp(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	client := server.Client(t)
	allow := func(keys ...any) {
		args := append([]any{"ACL", "SETUSER", "worker", "on", ">secret", "+@all", "resetkeys"}, keys...)
		if err := client.Do(t.Context(), args...).Err(); err != nil {
			t.Fatal(err)
		}
	}
	allow("~*")
	options := server.Options()
	options.Username, options.Password = "worker", "secret"
	log := newLogged()
	b := openBus(t, Config{Redis: options, Logger: slog.New(log)})
	taken := make(chan *message.Message, 2)
	consume(t, b, GroupConfig{Group: "g", Patterns: []string{"aaa.*", "bbb.*"}}, AllStreams, func(m *message.Message, _ *Delivery) { taken <- m })
	publish(t, b, Event{ID: "a", Type: "aaa.x"}, Event{ID: "b", Type: "bbb.x"})
	messages := map[string]*message.Message{}
	for range 2 {
		m := within(t, "a delivery", taken)
		messages[m.UUID] = m
	}
	allow("~bbb", "~{bbb}*", "~{aaa}*", "~millrace:*")
	messages["a"].Ack()
	awaitFact(t, "the refusal", func() bool { return len(log.with("results can't be written now")) > 0 })
	messages["b"].Ack()
	admin := openBus(t, Config{Redis: server.Options()})
	awaitSettled(t, admin, "bbb", "g")
	if n := client.XPending(t.Context(), "aaa", "g").Val().Count; n != 1 {
		t.Errorf("%d pending in the stream that is refused, want 1", n)
	}
	allow("~*")
	awaitSettled(t, admin, "aaa", "g")
}

func TestF41KeyOfAnotherTypeStopsItsOwnStreamOnly(t *testing.T) {
	t.Parallel()
	server, namespace := redistest.Shared(t), redistest.Namespace(t)
	b := openBus(t, Config{Redis: server.Options(), Namespace: namespace})
	handled := newTally()
	consume(t, b, GroupConfig{Group: "g", Patterns: []string{"aaa.*", "bbb.*"}}, AllStreams, handled.ack)
	publish(t, b, Event{ID: "b1", Type: "bbb.x"})
	handled.await(t, 1)
	if err := server.Client(t).Set(t.Context(), namespace+":aaa", "x", 0).Err(); err != nil {
		t.Fatal(err)
	}
	publish(t, b, Event{ID: "b2", Type: "bbb.x"})
	handled.await(t, 2)

	// A group that finds its streams starts all the same, one that names the stream does not.
	other := newTally()
	consume(t, b, GroupConfig{Group: "all", Patterns: []string{"*.x"}}, AllStreams, other.ack)
	other.await(t, 2)
	if _, err := b.Subscriber(GroupConfig{Group: "named", Patterns: []string{"aaa.*"}}).Subscribe(t.Context(), AllStreams); !errors.Is(err, ErrDenied) {
		t.Errorf("subscribe to it by name: %v, want it denied", err)
	}

	h := b.Health(t.Context())
	if len(h.Streams) != 1 || h.Streams[0].Name != "bbb" || h.Status != StatusDegraded || !hasProblem(h, "stream-refused") {
		t.Errorf("health %s, streams %+v, problems %+v; want the good stream, and the bad one as a problem", h.Status, h.Streams, h.Problems)
	}
}

func hasProblem(h Health, code string) bool {
	for _, p := range h.Problems {
		if p.Code == code {
			return true
		}
	}
	return false
}

// A consumer whose handler is slow beats on while it takes over: otherwise it would be taken over from itself.
func TestConsumerBeatsWhileItTakesOver(t *testing.T) {
	t.Parallel()
	server, namespace := redistest.Shared(t), redistest.Namespace(t)
	b := openBus(t, Config{Redis: server.Options(), Namespace: namespace})
	g := GroupConfig{Group: "g", Patterns: []string{"booking.*"}, Policy: Policy{DrainTimeout: time.Millisecond}}
	began := make(chan struct{}, 10)
	leaving := consume(t, b, g, AllStreams, func(*message.Message, *Delivery) { began <- struct{}{} })
	publish(t, b, events(5, "booking.created")...)
	for range 5 {
		within(t, "a delivery", began)
	}
	messages, err := b.Subscriber(g).Subscribe(t.Context(), AllStreams)
	if err != nil {
		t.Fatal(err)
	}
	_ = leaving.Close()
	first := within(t, "a delivery that was taken over", messages) // the others wait, nobody takes them
	name := CurrentDelivery(first.Context()).Consumer
	beat := func() float64 {
		return server.Client(t).ZScore(t.Context(), "{"+namespace+":booking}:alive:g", name).Val()
	}
	for beats, last := 0, beat(); beats < 2; {
		if now := beat(); now != last {
			beats, last = beats+1, now
		}
		if t.Context().Err() != nil {
			t.Fatal("it does not beat")
		}
		<-time.After(20 * time.Millisecond)
	}
}

func TestGroupFromNowMissesNothingOfAStreamMadeLater(t *testing.T) {
	eachBus(t, func(t *testing.T, open func(func(*Config)) *Bus) {
		b := open(nil)
		publish(t, b, Event{ID: "old", Type: "booking.created"})
		handled := newTally()
		consume(t, b, GroupConfig{Group: "g", Patterns: []string{"*.created"}, From: Now}, AllStreams, handled.ack)
		publish(t, b, Event{ID: "first", Type: "invoice.created"})
		handled.await(t, 1)
		if handled.count["old"] != 0 {
			t.Error("an event of before was handled")
		}
	})
}

func TestF02GroupFromNowMissesNothingAfterAFlush(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	b := openBus(t, Config{Redis: server.Options()})
	handled := newTally()
	consume(t, b, GroupConfig{Group: "g", Patterns: []string{"booking.*"}, From: Now}, AllStreams, handled.ack)
	for i := range 5 {
		publish(t, b, Event{ID: fmt.Sprint("e-", i), Type: "booking.created"})
		handled.await(t, i+1)
		server.Flush(t)
	}
}

// A peer that made the group anew begins with the first version of its patterns.
func TestF02PatternsOfAGroupThatWasMadeAnew(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	b := openBus(t, Config{Redis: server.Options()})
	none := func(m *message.Message, _ *Delivery) { m.Ack() }
	_ = consume(t, b, GroupConfig{Group: "g", Patterns: []string{"booking.created"}}, AllStreams, none).Close()
	g := GroupConfig{Group: "g", Patterns: []string{"booking.created", "booking.cancelled"}, InFlight: 1}
	began, release := make(chan string, 10), make(chan struct{})
	consume(t, b, g, AllStreams, func(m *message.Message, _ *Delivery) { // at version 2 of the patterns
		began <- m.UUID
		<-release
		m.Ack()
	})
	publish(t, b, Event{ID: "slow", Type: "booking.created"})
	within(t, "the slow delivery", began)
	server.Flush(t)
	_ = consume(t, b, g, AllStreams, none).Close() // makes the group anew, at version 1
	close(release)
	publish(t, b, Event{ID: "outside", Type: "booking.other"})
	awaitGroup(t, b, "booking", "g", func(g redisstream.GroupInfo) bool {
		return g.Lag == 0 && g.Pending == 0 && g.Unhandled["booking.other"] == 1
	})
	publish(t, b, Event{ID: "next", Type: "booking.created"})
	if got := within(t, "the next event", began); got != "next" {
		t.Errorf("handled %s, want next", got)
	}
}

func TestF32ConsumerJoinsUnderOutOfMemory(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	publish(t, openBus(t, Config{Redis: server.Options()}), Event{ID: "e", Type: "booking.created"})
	if err := server.Client(t).ConfigSet(t.Context(), "maxmemory", "1000").Err(); err != nil {
		t.Fatal(err)
	}
	handled := newTally()
	consume(t, openBus(t, Config{Redis: server.Options()}), GroupConfig{Group: "g", Patterns: []string{"booking.*"}}, AllStreams, handled.ack)
	handled.await(t, 1)
}

func TestSubscribeOnAClosedBusLeavesNothingBehind(t *testing.T) {
	t.Parallel()
	b := openBus(t, Config{Redis: redistest.Shared(t).Options(), Namespace: redistest.Namespace(t)})
	closeBus(t, b)
	// The ctx goes on: what is left behind is found when the test binary ends.
	_, err := b.Subscriber(GroupConfig{Group: "g", Patterns: []string{"booking.*"}}).Subscribe(context.WithoutCancel(t.Context()), AllStreams)
	if err == nil {
		t.Error("a closed bus takes a subscriber")
	}
}

func TestCloseOfASubscriberReachesEachOfItsConsumers(t *testing.T) {
	t.Parallel()
	b := openBus(t, Config{})
	for range 100 {
		sub := b.Subscriber(GroupConfig{Group: "g"})
		var both sync.WaitGroup
		both.Go(func() {
			if messages, err := sub.Subscribe(t.Context(), "booking"); err == nil {
				within(t, "the end of the messages", messages)
			}
		})
		both.Go(func() { _ = sub.Close() })
		both.Wait()
	}
}

// What is queued behind an append that waits for a reply in vain is refused when the outage is known, not tried one by one.
func TestF53PublishInABlackHoleAnswersSoon(t *testing.T) {
	t.Parallel()
	b, proxy := behind(t, redistest.Namespace(t))
	for i := range 8 {
		publish(t, b, Event{Type: fmt.Sprintf("s%d.x", i), Subject: "same"}) // one writer for all
	}
	proxy.Freeze()
	t.Cleanup(proxy.Thaw)
	var calls sync.WaitGroup
	begun := time.Now()
	for i := range 8 {
		calls.Go(func() {
			r, err := b.Publish(t.Context(), Event{Type: fmt.Sprintf("s%d.x", i), Subject: "same"})
			if took := time.Since(begun); took > 8*time.Second || r.Durability() > Unknown || err == nil {
				t.Errorf("%v after %v: %v", r.Durability(), took, err)
			}
		})
	}
	calls.Wait()
	if b.State() != StateUnavailable {
		t.Errorf("state %s, want unavailable", b.State())
	}
}

func TestF53CloseInABlackHoleEndsSoon(t *testing.T) {
	t.Parallel()
	b, proxy := behind(t, redistest.Namespace(t))
	handled := newTally()
	for i := range 15 {
		publish(t, b, Event{ID: fmt.Sprint(i), Type: fmt.Sprintf("s%d.x", i)})
	}
	consume(t, b, GroupConfig{Group: "g", Patterns: []string{"*.x"}}, AllStreams, handled.ack)
	handled.await(t, 15)
	proxy.Freeze()
	t.Cleanup(proxy.Thaw)
	ctx, cancel := context.WithTimeout(t.Context(), 15*time.Second)
	defer cancel()
	if err := b.Close(ctx); err != nil {
		t.Errorf("close: %v", err)
	}
}

func TestCloseThatTookTooLongEndsAllTheSame(t *testing.T) {
	t.Parallel()
	b := openBus(t, Config{Redis: redistest.Shared(t).Options(), Namespace: redistest.Namespace(t)})
	began, release := make(chan struct{}), make(chan struct{})
	consume(t, b, GroupConfig{Group: "g", Patterns: []string{"booking.*"}}, AllStreams, func(m *message.Message, _ *Delivery) {
		close(began)
		<-release
		m.Ack()
	})
	publish(t, b, Event{Type: "booking.created"})
	within(t, "the delivery", began)
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if err := b.Close(ended); !errors.Is(err, context.Canceled) {
		t.Errorf("close: %v, want the end of its ctx", err)
	}
	close(release)
	closeBus(t, b) // waits for the rest
	if _, err := b.redis.Ping(t.Context()); !errors.Is(err, redis.ErrClosed) {
		t.Errorf("ping: %v, want the connections closed", err)
	}
}

func TestPublishWithACtxThatHasEndedStoresNothing(t *testing.T) {
	eachBus(t, func(t *testing.T, open func(func(*Config)) *Bus) {
		b := open(nil)
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		r, err := b.Publish(ctx, Event{ID: "e", Type: "booking.created"})
		if !errors.Is(err, context.Canceled) || r.Durability() != Refused {
			t.Errorf("%v, %v; want it refused", r.Durability(), err)
		}
		publish(t, b, Event{ID: "f", Type: "booking.created"})
		if got := ids(records(t, b, Query{})); len(got) != 1 || got[0] != "f" {
			t.Errorf("history has %v, want f", got)
		}
	})
}

func TestHealthSaysThatAGroupWithWorkHasNoConsumer(t *testing.T) {
	eachBus(t, func(t *testing.T, open func(func(*Config)) *Bus) {
		b := open(nil)
		publish(t, b, Event{ID: "e", Type: "booking.created"})
		again := make(chan *message.Message)
		g := GroupConfig{Group: "g", Patterns: []string{"booking.*"}, Policy: Policy{DrainTimeout: time.Millisecond}}
		sub := consume(t, b, g, AllStreams, func(m *message.Message, d *Delivery) {
			if d.Attempt == 1 {
				m.Nack() // by the lane
				return
			}
			again <- m
		})
		within(t, "the second attempt", again)
		if h := b.Health(t.Context()); hasProblem(h, "group-without-consumer") {
			t.Errorf("with a consumer: %+v", h.Problems)
		}
		_ = sub.Close()
		if h := b.Health(t.Context()); !hasProblem(h, "group-without-consumer") {
			t.Errorf("without a consumer, and a delivery in the lane: %+v", h.Problems)
		}
	})
}
