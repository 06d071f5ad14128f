package pipeline

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/google/go-cmp/cmp"
	"github.com/redis/go-redis/v9"
	"github.com/rishi-platform/millrace/internal/redisstream"
	"github.com/rishi-platform/millrace/internal/redistest"
	"github.com/rishi-platform/millrace/internal/wire"
)

// consume subscribes in a group and hands each message to the function.
func consume(t testing.TB, b *Bus, g GroupConfig, topic string, handle func(m *message.Message, d *Delivery)) message.Subscriber {
	t.Helper()
	sub := b.Subscriber(g)
	messages, err := sub.Subscribe(t.Context(), topic)
	if err != nil {
		t.Fatalf("subscribe: %v", err)
	}
	go func() {
		for m := range messages {
			handle(m, CurrentDelivery(m.Context()))
		}
	}()
	return sub
}

// tally counts what was handled, by event ID.
type tally struct {
	mu      sync.Mutex
	count   map[string]int
	changed chan struct{}
}

func newTally() *tally { return &tally{count: map[string]int{}, changed: make(chan struct{}, 1)} }

func (c *tally) add(id string) {
	c.mu.Lock()
	c.count[id]++
	c.mu.Unlock()
	select {
	case c.changed <- struct{}{}:
	default:
	}
}

// await waits until n different events were handled.
func (c *tally) await(t testing.TB, n int) {
	t.Helper()
	for {
		c.mu.Lock()
		have := len(c.count)
		c.mu.Unlock()
		if have >= n {
			return
		}
		within(t, fmt.Sprintf("%d events, have %d", n, have), c.changed)
	}
}

func (c *tally) more() map[string]int {
	c.mu.Lock()
	defer c.mu.Unlock()
	twice := map[string]int{}
	for id, n := range c.count {
		if n > 1 {
			twice[id] = n
		}
	}
	return twice
}

func events(n int, eventType string) []Event {
	var events []Event
	for i := range n {
		events = append(events, Event{ID: fmt.Sprintf("e%05d", i), Type: eventType})
	}
	return events
}

func TestEachEventGoesToOneConsumerOfEachGroup(t *testing.T) {
	eachBus(t, func(t *testing.T, open func(func(*Config)) *Bus) {
		b := open(nil)
		publish(t, b, events(300, "booking.created")...)
		tallies := map[string]*tally{"billing": newTally(), "notifications": newTally()}
		for group, tally := range tallies {
			for range 3 {
				consume(t, b, GroupConfig{Group: group, Patterns: []string{"booking.*"}, InFlight: 8}, AllStreams, func(m *message.Message, d *Delivery) {
					tally.add(m.UUID)
					m.Ack()
				})
			}
		}
		for group, tally := range tallies {
			tally.await(t, 300)
			if twice := tally.more(); len(twice) > 0 {
				t.Errorf("group %s handled some events more than once: %v", group, twice)
			}
		}
		awaitSettled(t, b, "booking", "billing")
	})
}

// awaitSettled waits until the group has nothing pending, deferred or unread.
func awaitSettled(t testing.TB, b *Bus, stream, group string) {
	t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for {
		groups, err := b.log.Groups(t.Context(), stream)
		if err != nil {
			t.Fatal(err)
		}
		for _, g := range groups {
			if g.Name == group && g.Pending == 0 && g.Deferred == 0 && g.Lane == 0 && g.Lag == 0 {
				return
			}
		}
		if time.Now().After(deadline) {
			t.Fatalf("group %s is not settled: %+v", group, groups)
		}
		<-time.After(5 * time.Millisecond)
	}
}

func TestFailedDeliveryComesAgainWithTheNextAttempt(t *testing.T) {
	eachBus(t, func(t *testing.T, open func(func(*Config)) *Bus) {
		b := open(nil)
		r := publish(t, b, Event{ID: "bad", Type: "booking.created", Subject: "s", Header: map[string]string{"k": "v"}, Data: []byte("1")}, Event{ID: "good", Type: "booking.created"})
		attempts := make(chan Delivery, 10)
		good := make(chan struct{}, 10)
		consume(t, b, GroupConfig{Group: "billing", Patterns: []string{"booking.*"}, Policy: Policy{Backoff: func(attempt int) time.Duration {
			return time.Duration(attempt-1) * 10 * time.Millisecond
		}}}, AllStreams, func(m *message.Message, d *Delivery) {
			if m.UUID == "good" {
				m.Ack()
				good <- struct{}{}
				return
			}
			attempts <- *d
			if d.Attempt < 3 {
				m.Nack()
			} else {
				m.Ack()
			}
		})
		within(t, "the good event", good)
		for want := 1; want <= 3; want++ {
			d := within(t, "an attempt", attempts)
			if d.Attempt != want || d.Position != r.Outcomes[0].Position || d.Stream != "booking" {
				t.Errorf("attempt %d at %s of %s, want %d at %s of booking", d.Attempt, d.Position, d.Stream, want, r.Outcomes[0].Position)
			}
			if d.Event.Subject != "s" || d.Event.Header["k"] != "v" || string(d.Event.Data) != "1" {
				t.Errorf("attempt %d carries another event: %+v", want, d.Event)
			}
			origin := OriginRetry
			if want == 1 {
				origin = OriginFresh
			}
			if d.Origin != origin {
				t.Errorf("attempt %d has origin %q, want %q", want, d.Origin, origin)
			}
		}
		awaitSettled(t, b, "booking", "billing")
	})
}

func TestOneInFlightIsInOrderAndOneAtATime(t *testing.T) {
	eachBus(t, func(t *testing.T, open func(func(*Config)) *Bus) {
		b := open(nil)
		publish(t, b, events(200, "booking.created")...)
		var got []string
		running := 0
		done := make(chan struct{})
		var mu sync.Mutex
		consume(t, b, GroupConfig{Group: "g", InFlight: 1}, "booking", func(m *message.Message, d *Delivery) {
			mu.Lock()
			running++
			if running > 1 {
				t.Error("two messages in flight")
			}
			got = append(got, m.UUID)
			running--
			last := len(got) == 200
			mu.Unlock()
			m.Ack()
			if last {
				close(done)
			}
		})
		within(t, "200 events", done)
		if !slices.IsSorted(got) {
			t.Errorf("handled out of order: %v", got)
		}
	})
}

func TestPerSubjectRunsOneDeliveryOfASubjectAtATime(t *testing.T) {
	eachBus(t, func(t *testing.T, open func(func(*Config)) *Bus) {
		b := open(nil)
		var batch []Event
		for i := range 200 {
			batch = append(batch, Event{ID: fmt.Sprintf("%05d", i), Type: "order.step", Subject: fmt.Sprint(i % 4)})
		}
		publish(t, b, batch...)
		var mu sync.Mutex
		running, last := map[string]bool{}, map[string]string{}
		handled := newTally()
		sub := b.Subscriber(GroupConfig{Group: "g", Patterns: []string{"order.*"}, Policy: Policy{PerSubject: true}})
		messages, err := sub.Subscribe(t.Context(), AllStreams)
		if err != nil {
			t.Fatal(err)
		}
		go func() {
			for m := range messages {
				go func() {
					subject := CurrentDelivery(m.Context()).Event.Subject
					mu.Lock()
					if running[subject] {
						t.Errorf("two deliveries of subject %s at once", subject)
					}
					if m.UUID < last[subject] {
						t.Errorf("subject %s: %s came behind %s", subject, m.UUID, last[subject])
					}
					running[subject], last[subject] = true, m.UUID
					mu.Unlock()
					mu.Lock()
					running[subject] = false
					mu.Unlock()
					handled.add(m.UUID)
					m.Ack()
				}()
			}
		}()
		handled.await(t, 200)
	})
}

// What one instance does not handle goes to the instance that does; nothing that the group takes is acked unseen.
func TestInstancesOfOneGroupWithDifferentPatterns(t *testing.T) {
	eachBus(t, func(t *testing.T, open func(func(*Config)) *Bus) {
		b := open(nil)
		created, cancelled := newTally(), newTally()
		consume(t, b, GroupConfig{Group: "g", Patterns: []string{"booking.created"}}, AllStreams, func(m *message.Message, d *Delivery) {
			created.add(d.Event.Type + m.UUID)
			m.Ack()
		})
		consume(t, b, GroupConfig{Group: "g", Patterns: []string{"booking.cancelled"}}, AllStreams, func(m *message.Message, d *Delivery) {
			cancelled.add(d.Event.Type + m.UUID)
			m.Ack()
		})
		publish(t, b, events(20, "booking.created")...)
		publish(t, b, events(20, "booking.cancelled")...)
		created.await(t, 20)
		cancelled.await(t, 20)
		awaitSettled(t, b, "booking", "g")
		for id := range created.count {
			if id[:len("booking.created")] != "booking.created" {
				t.Errorf("the first instance got %s", id)
			}
		}
	})
}

func TestHealthSaysWhichTypeWaitsForWhom(t *testing.T) {
	eachBus(t, func(t *testing.T, open func(func(*Config)) *Bus) {
		b := open(nil)
		nack := func(m *message.Message, _ *Delivery) { m.Nack() }
		_ = consume(t, b, GroupConfig{Group: "g", Patterns: []string{"booking.cancelled"}}, AllStreams, nack).Close()
		consume(t, b, GroupConfig{Group: "g", Patterns: []string{"booking.created"}}, AllStreams, nack)
		publish(t, b, Event{ID: "e", Type: "booking.cancelled"})
		awaitGroup(t, b, "booking", "g", func(g redisstream.GroupInfo) bool { return g.Pending == 0 && g.Lag == 0 && g.Deferred == 1 })
		if h := b.Health(t.Context()); hasProblem(h, "type-waits") || len(h.Streams[0].Groups[0].Waiting) != 1 {
			t.Errorf("it has just begun to wait: %+v, %+v", h.Streams, h.Problems)
		}
		since := time.Now().Add(-2 * time.Minute)
		waitSince(t, b, "booking", "g", "booking.cancelled", since)
		h := b.Health(t.Context())
		if got := h.Streams[0].Groups[0].Waiting; len(got) != 1 || got[0].Type != "booking.cancelled" || !got[0].Since.Equal(since.Truncate(time.Millisecond)) && !got[0].Since.Equal(since) {
			t.Errorf("waiting %+v, want booking.cancelled since %v", got, since)
		}
		if !hasProblem(h, "type-waits") || !strings.Contains(h.Problems[len(h.Problems)-1].Text, "booking.cancelled") || h.Status != StatusDegraded {
			t.Errorf("after two minutes: %s, %+v", h.Status, h.Problems)
		}

		// Whoever handles the type gets it at once.
		tally := newTally()
		consume(t, b, GroupConfig{Group: "g", Patterns: []string{"booking.cancelled"}}, AllStreams, tally.ack)
		tally.await(t, 1)
		awaitSettled(t, b, "booking", "g")
	})
}

// waitSince makes the one event of a type that waits do so for longer.
func waitSince(t testing.TB, b *Bus, stream, group, eventType string, since time.Time) {
	t.Helper()
	if b.redis == nil {
		b.local.WaitsSince(stream, group, eventType, since)
		return
	}
	client := redistest.Shared(t).Client(t)
	key := "{" + wire.Format{Namespace: b.cfg.Namespace}.Key(stream) + "}:waiting:" + group
	member := client.ZRange(t.Context(), key, 0, 0).Val()[0]
	_, rest, _ := strings.Cut(member, "\x00")
	_, packed, _ := strings.Cut(rest, "\x00")
	older := fmt.Sprintf("%s\x00%012d%06d\x00%s", eventType, since.Unix(), since.Nanosecond()/1000, packed)
	if err := errors.Join(client.ZAdd(t.Context(), key, redis.Z{Member: older}).Err(), client.ZRem(t.Context(), key, member).Err()); err != nil {
		t.Fatal(err)
	}
}

// Two instances that handle different types fetch what the other one can't handle, however many there are.
func TestInstancesWithDifferentPatternsAreSoonDone(t *testing.T) {
	eachBus(t, func(t *testing.T, open func(func(*Config)) *Bus) {
		b := open(nil)
		tallies := map[string]*tally{"booking.created": newTally(), "booking.cancelled": newTally()}
		for eventType, tally := range tallies {
			consume(t, b, GroupConfig{Group: "g", Patterns: []string{eventType}, InFlight: 16}, AllStreams, tally.ack)
		}
		for eventType := range tallies {
			for i := range 500 {
				publish(t, b, Event{ID: fmt.Sprint(eventType, i), Type: eventType})
			}
		}
		for eventType, tally := range tallies {
			tally.await(t, 500) // within 20 s; sent around at random, half of them each 5 s, it takes 45
			if twice := tally.more(); len(twice) > 0 {
				t.Errorf("%s: handled more than once: %v", eventType, twice)
			}
		}
		awaitSettled(t, b, "booking", "g")
	})
}

func TestEventOutsideOfTheGroupIsAckedAndCounted(t *testing.T) {
	eachBus(t, func(t *testing.T, open func(func(*Config)) *Bus) {
		unhandled := make(chan string, 10)
		b := open(func(c *Config) {
			c.Hooks.Unhandled = func(stream, group, eventType string) { unhandled <- stream + "/" + group + "/" + eventType }
		})
		publish(t, b, Event{Type: "booking.other"}, Event{Type: "booking.created"})
		done := make(chan struct{}, 1)
		consume(t, b, GroupConfig{Group: "g", Patterns: []string{"booking.created"}}, AllStreams, func(m *message.Message, d *Delivery) {
			m.Ack()
			done <- struct{}{}
		})
		if got := within(t, "the hook", unhandled); got != "booking/g/booking.other" {
			t.Errorf("unhandled %s, want booking/g/booking.other", got)
		}
		within(t, "the handled one", done)
		awaitSettled(t, b, "booking", "g")
		h := b.Health(t.Context())
		want := []UnhandledRow{{Type: "booking.other", Count: 1}}
		if diff := cmp.Diff(want, h.Streams[0].Groups[0].Unhandled); diff != "" {
			t.Errorf("health (-want +got):\n%s", diff)
		}
	})
}

func TestGroupStartsWhereItIsTold(t *testing.T) {
	eachBus(t, func(t *testing.T, open func(func(*Config)) *Bus) {
		b := open(nil)
		r := publish(t, b, events(3, "booking.created")...)
		for from, want := range map[Position]string{Oldest: "e00000", Now: "new", r.Outcomes[1].Position: "e00001"} {
			first := make(chan string, 10)
			consume(t, b, GroupConfig{Group: "g-" + string(from), Patterns: []string{"booking.*"}, InFlight: 1, From: from}, AllStreams, func(m *message.Message, d *Delivery) {
				first <- m.UUID
				m.Ack()
			})
			if from == Now {
				publish(t, b, Event{ID: "new", Type: "booking.created"})
			}
			if got := within(t, "the first event", first); got != want {
				t.Errorf("group from %s got %s first, want %s", from, got, want)
			}
		}
	})
}

// F16: a stop lets the handler finish with a live ctx, acknowledges it, and hands back what has not begun.
func TestF16CloseDrains(t *testing.T) {
	eachBus(t, func(t *testing.T, open func(func(*Config)) *Bus) {
		b := open(nil)
		publish(t, b, events(10, "booking.created")...)
		began, finish := make(chan *message.Message, 10), make(chan struct{})
		g := GroupConfig{Group: "g", Patterns: []string{"booking.*"}, InFlight: 2}
		sub := consume(t, b, g, AllStreams, func(m *message.Message, d *Delivery) {
			began <- m
			go func() {
				<-finish
				if m.Context().Err() != nil {
					t.Error("ctx of a handler ended while it was drained")
				}
				m.Ack()
			}()
		})
		handled := []string{within(t, "a delivery", began).UUID, within(t, "a delivery", began).UUID}
		closed := make(chan struct{})
		go func() { defer close(closed); _ = sub.Close() }()
		select {
		case <-closed:
			t.Error("close did not wait for handlers")
		case <-time.After(50 * time.Millisecond):
		}
		close(finish)
		within(t, "close", closed)

		rest := newTally()
		consume(t, b, g, AllStreams, func(m *message.Message, d *Delivery) {
			if slices.Contains(handled, m.UUID) {
				t.Errorf("%s was handled again after a clean stop", m.UUID)
			}
			if d.Attempt != 1 {
				t.Errorf("%s has attempt %d: a hand-back costs none", m.UUID, d.Attempt)
			}
			rest.add(m.UUID)
			m.Ack()
		})
		rest.await(t, 8)
		awaitSettled(t, b, "booking", "g")
	})
}

// What the drain deadline has interrupted comes again at no cost of an attempt, also where its handler has returned before the last results are
// written.
func TestF16WhatIsInterruptedHasNotFailed(t *testing.T) {
	eachBus(t, func(t *testing.T, open func(func(*Config)) *Bus) {
		b := open(nil)
		g := GroupConfig{Group: "g", Patterns: []string{"booking.*"}, SettledByHandler: true}
		sub := b.Subscriber(g)
		messages, err := sub.Subscribe(t.Context(), AllStreams)
		if err != nil {
			t.Fatal(err)
		}
		publish(t, b, Event{Type: "booking.created"})
		m := within(t, "a delivery", messages)
		d := CurrentDelivery(m.Context())
		if !d.Begin() {
			t.Fatal("it may not begin")
		}
		onlyConsumer(t, b).Abandon(ErrDrainDeadline)
		within(t, "the end of its ctx", m.Context().Done())
		d.Settle(context.Cause(m.Context()))
		_ = sub.Close()

		attempts := make(chan int, 1)
		handle(t, b, g, AllStreams, func(_ context.Context, d *Delivery) error { attempts <- d.Attempt; return nil })
		if attempt := within(t, "the delivery", attempts); attempt != 1 {
			t.Errorf("it comes again as attempt %d: an interruption is no failure", attempt)
		}
		awaitSettled(t, b, "booking", "g")
	})
}

func TestDrainDeadlineEndsCtxAndHandsBack(t *testing.T) {
	eachBus(t, func(t *testing.T, open func(func(*Config)) *Bus) {
		b := open(nil)
		publish(t, b, Event{ID: "stuck", Type: "booking.created"})
		began := make(chan *message.Message, 1)
		g := GroupConfig{Group: "g", Patterns: []string{"booking.*"}, Policy: Policy{DrainTimeout: 50 * time.Millisecond}}
		sub := consume(t, b, g, AllStreams, func(m *message.Message, d *Delivery) { began <- m })
		m := within(t, "the delivery", began)
		_ = sub.Close()
		within(t, "the end of its ctx", m.Context().Done())
		if got := context.Cause(m.Context()); got != ErrDrainDeadline {
			t.Errorf("cause = %v, want ErrDrainDeadline", got)
		}
		again := make(chan string, 1)
		consume(t, b, g, AllStreams, func(m *message.Message, d *Delivery) { m.Ack(); again <- m.UUID })
		if got := within(t, "the same event again", again); got != "stuck" {
			t.Errorf("got %s, want stuck", got)
		}
	})
}

// F12, F20: who is slow or has nothing to do is not dead. F07: who is dead is taken over from within 10 s, whatever it was handed.
func TestF07DeadConsumerIsTakenOverFrom(t *testing.T) {
	t.Parallel()
	server := redistest.Shared(t)
	namespace := redistest.Namespace(t)
	cfg := Config{Redis: server.Options(), Namespace: namespace}
	alive := openBus(t, cfg)
	proxy := redistest.NewProxy(t, server.Addr())
	cfg.Redis = &redis.UniversalOptions{Addrs: []string{proxy.Addr()}}
	dead := openBus(t, cfg)
	publish(t, dead, events(20, "booking.created")...)
	g := GroupConfig{Group: "g", Patterns: []string{"booking.*"}, InFlight: 10, Policy: Policy{DrainTimeout: time.Millisecond}}
	began := make(chan string, 20)
	consume(t, dead, g, AllStreams, func(m *message.Message, d *Delivery) { began <- m.UUID })
	for range 10 {
		within(t, "a delivery", began)
	}
	proxy.Freeze() // nothing comes from it any more, nor is anything handed back
	t.Cleanup(proxy.Thaw)
	handled := newTally()
	started := time.Now()
	consume(t, alive, g, AllStreams, func(m *message.Message, d *Delivery) { handled.add(m.UUID); m.Ack() })
	handled.await(t, 20)
	// About 8 s; a machine that stalls for longer than a second begins to count anew.
	if took := time.Since(started); took > 20*time.Second {
		t.Errorf("taking over took %v, want at most about 10 s", took)
	}
	if twice := handled.more(); len(twice) > 0 {
		t.Errorf("handled more than once by the survivor: %v", twice)
	}
}

// However many types pass by that a group does not take, what is kept of them is bounded, and all
// are counted.
func TestG19UnhandledTypesAreBounded(t *testing.T) {
	eachBus(t, func(t *testing.T, open func(func(*Config)) *Bus) {
		const types, perType, more = redisstream.UnhandledTypes, 2, 50
		b := open(nil)
		c := redisstream.Consumer{Group: "g", Name: "c"}
		j := redisstream.Join{Stream: "booking", Patterns: []string{"booking.*"}}
		joined, err := b.log.Join(t.Context(), c, j)
		if err != nil {
			t.Fatal(err)
		}
		for seq := range uint64(perType) {
			messages := make([]redisstream.Message, types+more)
			for i := range messages {
				messages[i].UUID = fmt.Sprint(i)
			}
			w := redisstream.Writer{Name: "w", Seq: seq + 1}
			if _, _, err := b.log.Append(t.Context(), "booking", w, messages); err != nil {
				t.Fatal(err)
			}
			read, err := b.log.Read(t.Context(), c, []string{"booking"}, len(messages), time.Second)
			if err != nil || len(read) != len(messages) {
				t.Fatal(len(read), err)
			}
			var skips []redisstream.Skip
			for _, d := range read {
				m, _ := d.Entry.Message()
				skips = append(skips, redisstream.Skip{Ref: d.Ref, Type: "other." + m.UUID})
			}
			settled, err := b.log.Skip(t.Context(), c, "booking", skips, joined.Patterns.Version)
			if err != nil || settled != redisstream.Done {
				t.Fatal(settled, err)
			}
		}
		awaitGroup(t, b, "booking", "g", func(g redisstream.GroupInfo) bool {
			u := g.Unhandled
			return len(u) == types+1 && u["*"] == perType*more && u["other.7"] == perType
		})
	})
}
