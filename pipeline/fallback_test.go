package pipeline

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/google/go-cmp/cmp"

	"github.com/rishi-platform/millrace/internal/redisstream"
	"github.com/rishi-platform/millrace/internal/redistest"
)

// Groups of the process go on while Redis is away, each with every event once, in the order of the subject; and none of it again when it is there.
func TestF58GroupsGoOnFromTheSpool(t *testing.T) {
	t.Parallel()
	server := alwaysServer(t)
	b := openBus(t, Config{Redis: server.Options(), SpoolDir: t.TempDir(), Fallback: Local})
	billing, mail := newTally(), newTally()
	last := map[string]string{}
	origins := map[string]int{}
	handle(t, b, GroupConfig{Group: "billing", Policy: Policy{PerSubject: true}, InFlight: 1}, "booking", func(_ context.Context, d *Delivery) error {
		if d.Event.ID <= last[d.Event.Subject] {
			t.Errorf("subject %s: %s comes behind %s", d.Event.Subject, d.Event.ID, last[d.Event.Subject])
		}
		last[d.Event.Subject] = d.Event.ID
		origins[d.Origin]++
		billing.add(d.Event.ID)
		return nil
	})
	// Two consumers of one group share what there is.
	for range 2 {
		handle(t, b, GroupConfig{Group: "mail", Patterns: []string{"booking.*"}}, AllStreams, func(_ context.Context, d *Delivery) error { mail.add(d.Event.ID); return nil })
	}
	awaitGroup(t, b, "booking", "mail", func(g redisstream.GroupInfo) bool { return g.Alive == 2 })
	awaitGroup(t, b, "booking", "billing", func(g redisstream.GroupInfo) bool { return g.Alive == 1 })
	server.Kill(t)
	awaitState(t, b, StateSpooling)
	events, want := numbered(0, 600)
	for chunk := range slices.Chunk(events, 10) {
		publishSpooled(t, b, chunk...)
	}
	billing.await(t, 600)
	mail.await(t, 600)
	server.StartAgain(t)
	awaitState(t, b, StateDurable)
	awaitRestored(t, b, "booking", want)
	publish(t, b, Event{ID: "999999", Type: "booking.created"})
	billing.await(t, 601)
	mail.await(t, 601)
	awaitSettled(t, b, "booking", "billing")
	awaitSettled(t, b, "booking", "mail")
	for name, tally := range map[string]*tally{"billing": billing, "mail": mail} {
		if twice := tally.more(); len(twice) > 0 {
			t.Errorf("%s handled again: %v", name, twice)
		}
	}
	if origins[OriginDrain] != 600 || origins[OriginFresh] != 1 {
		t.Errorf("origins %v", origins)
	}
	// A group that was not here gets all of it.
	late := newTally()
	consume(t, b, GroupConfig{Group: "late"}, "booking", late.ack)
	late.await(t, 601)
	if n := len(b.spool.fallback.claims) + len(b.spool.fallback.running); n > 0 {
		t.Errorf("%d claims are left", n)
	}
}

// What fails here, and what nobody here handles, is handled when Redis is there, as a first attempt.
func TestF58WhatFailsInTheFallbackComesAgain(t *testing.T) {
	t.Parallel()
	server := alwaysServer(t)
	b := openBus(t, Config{Redis: server.Options(), SpoolDir: t.TempDir(), Fallback: Local})
	attempts := make(chan Delivery, 100)
	var healed atomic.Bool
	handle(t, b, GroupConfig{Group: "g", Patterns: []string{"booking.*"}}, AllStreams, func(_ context.Context, d *Delivery) error {
		attempts <- *d
		if !healed.Load() {
			return errors.New("no")
		}
		return nil
	})
	publish(t, b, Event{ID: "first", Type: "booking.created"})
	if d := within(t, "the first event", attempts); d.Event.ID != "first" {
		t.Fatal(d.Event.ID)
	}
	healed.Store(true)
	if d := within(t, "it again", attempts); d.Attempt != 2 {
		t.Fatal(d.Attempt)
	}
	healed.Store(false)
	server.Kill(t)
	awaitState(t, b, StateSpooling)
	publishSpooled(t, b, Event{ID: "bad", Type: "booking.created"})
	if d := within(t, "an attempt", attempts); d.Attempt != 1 || d.Position != "" || d.Origin != OriginDrain {
		t.Errorf("attempt %d at %q, origin %q", d.Attempt, d.Position, d.Origin)
	}
	healed.Store(true)
	server.StartAgain(t)
	if d := within(t, "an attempt", attempts); d.Event.ID != "bad" || d.Attempt != 1 || d.Position == "" || d.Origin != OriginDrain {
		t.Errorf("%s: attempt %d at %q, origin %q", d.Event.ID, d.Attempt, d.Position, d.Origin)
	}
	awaitSettled(t, b, "booking", "g")
}

// A delivery from Redis that may not begin while Redis is away, since nobody knows whether it is still ours, holds nothing up that comes from the spool.
func TestF58FallbackIsNotHeldUpByDeliveriesOfRedis(t *testing.T) {
	t.Parallel()
	server := alwaysServer(t)
	b := openBus(t, Config{Redis: server.Options(), SpoolDir: t.TempDir(), Fallback: Local})
	began, goOn := make(chan string, 10), make(chan struct{})
	handle(t, b, GroupConfig{Group: "g", InFlight: 2, Policy: Policy{PerSubject: true}}, "booking", func(_ context.Context, d *Delivery) error {
		began <- d.Event.ID
		if d.Event.ID == "1" {
			<-goOn
		}
		return nil
	})
	publish(t, b, Event{ID: "1", Type: "booking.created", Subject: "s"}, Event{ID: "2", Type: "booking.created", Subject: "s"})
	wantHeard(t, began, "1")
	c := onlyConsumer(t, b)
	awaitFact(t, "the second one to wait here", func() bool { return c.Held("booking") == 2 })
	server.Kill(t)
	awaitState(t, b, StateSpooling)
	c.Lapse("booking") // as after 5.5 s
	close(goOn)
	for i := range 20 {
		id := fmt.Sprintf("spooled-%d", i)
		publishSpooled(t, b, Event{ID: id, Type: "booking.created", Subject: fmt.Sprint(i)})
		wantHeard(t, began, id)
	}
	server.StartAgain(t)
	wantHeard(t, began, "2")
	awaitSettled(t, b, "booking", "g")
	quiet(t, began)
}

// The drain leaves an event to the handler that has it; and one whose consumer ends goes to Redis unhandled.
func TestF58DrainWaitsForTheHandler(t *testing.T) {
	t.Parallel()
	server := alwaysServer(t)
	b := openBus(t, Config{Redis: server.Options(), SpoolDir: t.TempDir(), Fallback: Local})
	began, finish := make(chan string, 10), make(chan struct{})
	s := handle(t, b, GroupConfig{Group: "g", InFlight: 4}, "booking", func(ctx context.Context, d *Delivery) error {
		began <- d.Event.ID
		select {
		case <-finish:
			return nil
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	})
	awaitGroup(t, b, "booking", "g", func(g redisstream.GroupInfo) bool { return g.Alive == 1 })
	server.Kill(t)
	awaitState(t, b, StateSpooling)
	publishSpooled(t, b, Event{ID: "1", Type: "booking.created"})
	within(t, "the handler", began)
	server.StartAgain(t)
	awaitState(t, b, StateDraining)
	for range 3 {
		b.spool.kick <- struct{}{} // each is taken when a step has ended: the drain has tried at least once by then
	}
	publish(t, b, Event{ID: "2", Type: "booking.created"})
	within(t, "the other handler", began)
	if b.spool.isEmpty() {
		t.Error("drained while a group handles it")
	}
	close(finish)
	awaitState(t, b, StateDurable)
	awaitSettled(t, b, "booking", "g")
	if len(began) > 0 {
		t.Errorf("handled again: %s", <-began)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}

func TestF58ConsumerThatEndsHoldsNoDrainUp(t *testing.T) {
	t.Parallel()
	server := alwaysServer(t)
	b := openBus(t, Config{Redis: server.Options(), SpoolDir: t.TempDir(), Fallback: Local})
	began, end := make(chan struct{}, 10), make(chan struct{})
	defer close(end)
	s := handle(t, b, GroupConfig{Group: "g", Policy: Policy{DrainTimeout: 1, PerSubject: true}}, "booking", func(context.Context, *Delivery) error {
		began <- struct{}{}
		<-end // deaf to its ctx
		return nil
	})
	awaitGroup(t, b, "booking", "g", func(g redisstream.GroupInfo) bool { return g.Alive == 1 })
	server.Kill(t)
	awaitState(t, b, StateSpooling)
	publishSpooled(t, b, Event{ID: "1", Type: "booking.created", Subject: "s"}, Event{ID: "2", Type: "booking.created", Subject: "s"}) // the second one waits for the first
	within(t, "the handler", began)
	awaitFact(t, "the claim of the other one", func() bool { b.spool.mu.Lock(); defer b.spool.mu.Unlock(); return len(b.spool.fallback.claims) == 2 })
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	server.StartAgain(t)
	awaitState(t, b, StateDurable)
	tally := newTally()
	consume(t, b, GroupConfig{Group: "g"}, "booking", tally.ack)
	tally.await(t, 2)
}

// An append of which nobody knows waits for Redis, and so does what follows it in its subject.
func TestF58DoubtfulEventsWait(t *testing.T) {
	t.Parallel()
	server := alwaysServer(t)
	proxy := redistest.NewProxy(t, server.Addr())
	options := server.Options()
	options.Addrs = []string{proxy.Addr()}
	b := openBus(t, Config{Redis: options, SpoolDir: t.TempDir(), Fallback: Local})
	handled := make(chan string, 10)
	consume(t, b, GroupConfig{Group: "g", Patterns: []string{"booking.*"}}, AllStreams, func(m *message.Message, d *Delivery) {
		handled <- fmt.Sprintf("%s %v", m.UUID, d.Position == "")
		m.Ack()
	})
	awaitGroup(t, b, "booking", "g", func(g redisstream.GroupInfo) bool { return g.Alive == 1 })
	proxy.Freeze()
	publishSpooled(t, b, Event{ID: "doubtful", Type: "booking.created", Subject: "s"})
	awaitState(t, b, StateSpooling)
	publishSpooled(t, b, Event{ID: "behind", Type: "booking.created", Subject: "s"}, Event{ID: "other", Type: "booking.created", Subject: "t"})
	if got := within(t, "the event of the other subject", handled); got != "other true" {
		t.Errorf("handled %s", got)
	}
	proxy.Reset()
	proxy.Thaw()
	got := []string{within(t, "an event", handled), within(t, "an event", handled)}
	if text := strings.Join(got, ", "); text != "doubtful false, behind false" {
		t.Errorf("handled %s", text)
	}
	awaitSettled(t, b, "booking", "g")
	if len(handled) > 0 {
		t.Errorf("handled again: %s", <-handled)
	}
}

// A delivery from the spool may not begin, and another one begins in its stead: the end of the first one
// does not give the event to the drain.
func TestF58EndOfALostDeliveryLeavesTheClaim(t *testing.T) {
	t.Parallel()
	server := alwaysServer(t)
	b := openBus(t, Config{Redis: server.Options(), SpoolDir: t.TempDir(), Fallback: Local})
	messages, err := b.Subscriber(GroupConfig{Group: "g", InFlight: 4, SettledByHandler: true}).Subscribe(t.Context(), "booking")
	if err != nil {
		t.Fatal(err)
	}
	c := onlyConsumer(t, b)
	awaitGroup(t, b, "booking", "g", func(g redisstream.GroupInfo) bool { return g.Alive == 1 })
	server.Kill(t)
	awaitState(t, b, StateSpooling)
	publishSpooled(t, b, Event{ID: "1", Type: "booking.created"})
	first := CurrentDelivery(within(t, "the event", messages).Context())
	c.Stop("no route to the database")
	c.TryNow()
	if first.Begin() {
		t.Fatal("it begins, and its consumer has stopped itself")
	}
	second := CurrentDelivery(within(t, "the trial", messages).Context())
	if !second.Begin() {
		t.Fatal("the trial may not begin")
	}
	first.Settle(ErrLeaseLost)
	server.StartAgain(t)
	awaitState(t, b, StateDraining)
	for range 3 {
		b.spool.kick <- struct{}{} // each is taken when a step has ended
	}
	if b.spool.isEmpty() {
		t.Error("drained while it is handled")
	}
	second.Settle(nil)
	awaitState(t, b, StateDurable)
	awaitSettled(t, b, "booking", "g")
	if len(messages) > 0 {
		t.Error("it came again")
	}
}

// What waits for its turn behind a delivery of its subject holds no drain up: it is handled when it is in Redis.
func TestF58WhatWaitsForItsTurnHoldsNoDrainUp(t *testing.T) {
	t.Parallel()
	server := alwaysServer(t)
	b := openBus(t, Config{Redis: server.Options(), SpoolDir: t.TempDir(), Fallback: Local})
	began, goOn := make(chan string, 10), make(chan struct{})
	handle(t, b, GroupConfig{Group: "g", Policy: Policy{PerSubject: true}}, "booking", func(_ context.Context, d *Delivery) error {
		began <- d.Event.ID
		if d.Event.ID == "1" {
			<-goOn
		}
		return nil
	})
	publish(t, b, Event{ID: "1", Type: "booking.created", Subject: "s"})
	wantHeard(t, began, "1")
	server.Kill(t)
	awaitState(t, b, StateSpooling)
	publishSpooled(t, b, Event{ID: "2", Type: "booking.created", Subject: "s"}, Event{ID: "3", Type: "booking.created", Subject: "other"})
	wantHeard(t, began, "3")
	server.StartAgain(t)
	awaitState(t, b, StateDurable)
	quiet(t, began)
	close(goOn)
	wantHeard(t, began, "2")
	awaitSettled(t, b, "booking", "g")
	quiet(t, began)
}

// What a process before this one has left in its spool may be in Redis: it waits, with what comes behind it of its subject.
func TestF58WhatWasSpooledBeforeWaits(t *testing.T) {
	t.Parallel()
	server := alwaysServer(t)
	cfg := Config{Redis: server.Options(), SpoolDir: t.TempDir(), Fallback: Local, Service: "s"}
	before := openBus(t, cfg)
	server.Kill(t)
	awaitState(t, before, StateSpooling)
	publishSpooled(t, before, Event{ID: "1", Type: "booking.created", Subject: "s"})
	closeBus(t, before)
	b := openBus(t, cfg)
	began := make(chan string, 10)
	handle(t, b, GroupConfig{Group: "g", Policy: Policy{PerSubject: true}}, "booking", func(_ context.Context, d *Delivery) error { began <- d.Event.ID; return nil })
	publishSpooled(t, b, Event{ID: "2", Type: "booking.created", Subject: "s"}, Event{ID: "3", Type: "booking.created", Subject: "other"})
	wantHeard(t, began, "3")
	quiet(t, began)
	server.StartAgain(t)
	wantHeard(t, began, "1", "2")
	awaitSettled(t, b, "booking", "g")
	quiet(t, began)
}

// Subscriptions hear what is spooled at once, only once, and in order.
func TestF60SpooledEventsAreHeardAtOnceAndOnce(t *testing.T) {
	t.Parallel()
	server := alwaysServer(t)
	b := openBus(t, Config{Redis: server.Options(), SpoolDir: t.TempDir()})
	heard := hears(t, b, Subscription{Patterns: []string{"booking.*"}})
	all := hears(t, b, Subscription{})
	var followed []string
	ctx, cancel := context.WithCancel(t.Context())
	follows := make(chan string, 10_000)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for r, err := range b.History(ctx, Query{Patterns: []string{"booking.*"}, Follow: true, After: Now}) {
			if err == nil {
				follows <- r.Event.ID
			}
		}
	}()
	defer func() { cancel(); <-done }()
	for first := false; !first; {
		publish(t, b, Event{ID: "000000", Type: "booking.ready"})
		select {
		case <-follows:
			first = true
		default:
		}
	}
	publish(t, b, Event{ID: "begin", Type: "booking.created"})
	for within(t, "an event", heard) != "begin" {
	}
	for within(t, "an event", all) != "begin" {
	}
	for within(t, "an event", follows) != "begin" {
	}
	server.Kill(t)
	awaitState(t, b, StateSpooling)
	events, want := numbered(0, 200)
	for _, e := range events {
		publishSpooled(t, b, e)
	}
	wantHeard(t, heard, want...)
	wantHeard(t, all, want...)
	server.StartAgain(t)
	awaitState(t, b, StateDurable)
	publish(t, b, Event{ID: "end", Type: "booking.created"})
	wantHeard(t, heard, "end")
	wantHeard(t, all, "end")
	for len(followed) <= len(want) { // a history that is followed goes on when Redis is back
		followed = append(followed, within(t, "a followed event", follows))
	}
	slices.Sort(followed)
	if diff := cmp.Diff(append(want, "end"), followed); diff != "" {
		t.Errorf("followed (-want +got):\n%s", diff)
	}
	awaitRestored(t, b, "booking", func() []string {
		got := ids(records(t, b, Query{Streams: []string{"booking"}}))
		slices.Sort(got)
		return got
	}())
}

// What a subscription has missed in the memory of the process it hears from Redis, and nothing twice.
func TestF60SpooledEventsThatTheMemoryDropped(t *testing.T) {
	t.Parallel()
	server := alwaysServer(t)
	b := openBus(t, Config{Redis: server.Options(), SpoolDir: t.TempDir(), LocalMaxLen: 10})
	heard := newTally()
	first, goOn := make(chan struct{}, 1000), make(chan struct{})
	subscribe(t, b, Subscription{Patterns: []string{"booking.*"}}, func(_ context.Context, e Event) error {
		first <- struct{}{}
		<-goOn
		heard.add(e.ID)
		return nil
	})
	server.Kill(t)
	awaitState(t, b, StateSpooling)
	events, _ := numbered(0, 200)
	publishSpooled(t, b, events[0])
	within(t, "the first event", first)
	publishSpooled(t, b, events[1:]...)
	close(goOn)
	awaitFact(t, "what the memory has kept", func() bool { heard.mu.Lock(); defer heard.mu.Unlock(); return heard.count["000199"] == 1 })
	server.StartAgain(t)
	heard.await(t, 200)
	publish(t, b, Event{ID: "end", Type: "booking.created"})
	heard.await(t, 201)
	if twice := heard.more(); len(twice) > 0 {
		t.Errorf("heard more than once: %v", twice)
	}
}

func TestNumbers(t *testing.T) {
	t.Parallel()
	var n numbers
	for _, one := range []uint64{5, 6, 4, 10, 8, 9, 7, 1} {
		if n.has(one) || !n.add(one) || !n.has(one) || n.add(one) {
			t.Errorf("%d: %v", one, n.ranges)
		}
	}
	if !slices.Equal(n.ranges, []numberRange{{1, 1}, {4, 10}}) || n.has(0) || n.has(2) || n.has(3) || n.has(11) {
		t.Errorf("%v", n.ranges)
	}
	n.forget(6)
	if !slices.Equal(n.ranges, []numberRange{{7, 10}}) {
		t.Errorf("%v", n.ranges)
	}
	n.forget(3)
	if !slices.Equal(n.ranges, []numberRange{{7, 10}}) {
		t.Errorf("%v", n.ranges)
	}
}
