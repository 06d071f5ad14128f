package pipeline

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/rishi-platform/millrace/internal/group"
	"github.com/rishi-platform/millrace/internal/redisstream"
	"github.com/rishi-platform/millrace/internal/redistest"
)

// A consumer died beside a busy one: what it held runs next there, ahead of what was read, however long
// the backlog is and however slow the handlers are. Health says who has died, and what it held.
func TestG01WhatADeadConsumerHeldRunsAheadOfTheBacklog(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct{ inFlight, held int }{
		"one at a time": {1, 1},
		"eight":         {8, 20}, // more than one batch
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			began, goOn := make(chan *Delivery), make(chan struct{})
			t.Cleanup(func() { close(began) }) // when the bus is closed: the rest of the backlog waits
			server, namespace := redistest.Shared(t), redistest.Namespace(t)
			b := openBus(t, Config{Redis: server.Options(), Namespace: namespace})
			g := GroupConfig{Group: "g", Patterns: []string{"booking.*"}, InFlight: test.inFlight}
			_ = consumeNothing(t, b, g).Close()
			for i := range test.held {
				publish(t, b, Event{ID: fmt.Sprint("held-", i), Type: "booking.created"})
			}
			deadConsumer(t, server.Client(t), namespace, "dead", test.held)
			publish(t, b, events(2000, "booking.created")...)

			handle(t, b, g, AllStreams, func(_ context.Context, d *Delivery) error {
				began <- d
				<-goOn
				return nil
			})
			// Each handler runs until another delivery has begun in its stead: the consumer is never idle.
			for range test.inFlight {
				within(t, "a delivery", began)
			}
			ran, newer := 0, 0 // since the first one that was taken over
			for ran < test.held {
				if ran == 0 {
					<-time.After(10 * time.Millisecond) // so that the backlog lasts for longer than it takes to be found dead
				}
				goOn <- struct{}{}
				switch d := within(t, "a delivery", began); {
				case d.Claimed:
					ran++
				case ran > 0:
					newer++
				case d.Event.ID == "e01999":
					t.Fatal("the whole backlog went first")
				}
			}
			if newer > 2*test.inFlight { // those may have had their places when the next batch was asked for
				t.Errorf("%d newer ones went between those that were taken over", newer)
			}
			close(goOn)
			go func() {
				for range began { // the rest
				}
			}()
			h := b.Health(t.Context())
			if !hasProblem(h, "consumer-died") {
				t.Errorf("problems %+v, want consumer-died", h.Problems)
			}
			groups, err := b.log.Groups(t.Context(), "booking")
			if died := groups[0].Died; err != nil || died.Name != "dead" || died.Taken != int64(test.held) {
				t.Errorf("died %+v, %v; want dead with %d", died, err, test.held)
			}
		})
	}
}

// All places are taken, and all that may be read ahead is: what a dead consumer held is taken over all the same, and waits here.
func TestG01TakingOverWaitsForNoHandler(t *testing.T) {
	t.Parallel()
	server, namespace := redistest.Shared(t), redistest.Namespace(t)
	b := openBus(t, Config{Redis: server.Options(), Namespace: namespace})
	g := GroupConfig{Group: "g", Patterns: []string{"booking.*"}, InFlight: 2}
	_ = consumeNothing(t, b, g).Close()
	publish(t, b, Event{ID: "held-0", Type: "booking.created"}, Event{ID: "held-1", Type: "booking.created"})
	deadConsumer(t, server.Client(t), namespace, "dead", 2)
	publish(t, b, events(100, "booking.created")...)

	began, goOn := make(chan string, 102), make(chan struct{})
	end := sync.OnceFunc(func() { close(goOn) })
	defer end()
	handle(t, b, g, AllStreams, func(_ context.Context, d *Delivery) error {
		began <- d.Event.ID
		<-goOn
		return nil
	})
	awaitGroup(t, b, "booking", "g", func(g redisstream.GroupInfo) bool { return g.Died.Taken == 2 })
	if len(began) != 2 {
		t.Errorf("%d handlers run, want 2", len(began))
	}
	end()
	awaitSettled(t, b, "booking", "g")
}

// A group is paused while handlers run, these fail, and the breaker of this very instance would pause
// it: after the resume everything is handled.
func TestG02PauseThatMeetsAnotherOneEnds(t *testing.T) {
	eachBus(t, func(t *testing.T, open func(func(*Config)) *Bus) {
		b := open(nil)
		const n = 300
		began, fail := make(chan struct{}, n), make(chan struct{})
		done := newTally()
		g := GroupConfig{Group: "g", Patterns: []string{"booking.*"}, InFlight: n, Policy: Policy{Backoff: atOnce}}
		handle(t, b, g, AllStreams, func(_ context.Context, d *Delivery) error {
			if d.Attempt == 1 && d.Event.ID < "e00300" {
				began <- struct{}{}
				<-fail
				return errors.New("database is away")
			}
			done.add(d.Event.ID)
			return nil
		})
		publish(t, b, events(n, "booking.created")...)
		for range n {
			within(t, "a delivery", began)
		}
		if done, err := b.PauseGroup(t.Context(), "booking", "g", "maintenance"); !done || err != nil {
			t.Fatal(done, err)
		}
		c := onlyConsumer(t, b)
		awaitFact(t, "the consumer to hear of it", func() bool { return c.IsPaused("booking") })
		close(fail)
		awaitGroup(t, b, "booking", "g", func(g redisstream.GroupInfo) bool { return g.Lane+g.Deferred >= n })
		if done, err := b.ResumeGroup(t.Context(), "booking", "g"); !done || err != nil {
			t.Fatal(done, err)
		}
		publish(t, b, Event{ID: "later", Type: "booking.created"})
		done.await(t, n+1)
		awaitSettled(t, b, "booking", "g")
	})
}

// An operator may pause what the breaker has paused: then nothing is tried any more, until it is resumed.
func TestG19OperatorTakesAPauseOver(t *testing.T) {
	eachBus(t, func(t *testing.T, open func(func(*Config)) *Bus) {
		b := open(nil)
		_ = consumeNothing(t, b, GroupConfig{Group: "g", Patterns: []string{"booking.*"}}).Close()
		if done, err := b.log.Pause(t.Context(), "booking", "g", "", pauseText(pausedBy("somebody"))); !done || err != nil {
			t.Fatal(done, err)
		}
		if done, err := b.PauseGroup(t.Context(), "booking", "g", "maintenance"); !done || err != nil {
			t.Errorf("pause: %v, %v", done, err)
		}
		if r, err := b.Group(t.Context(), "booking", "g"); err != nil || r.Paused == nil || r.Paused.By != PausedByOperator {
			t.Errorf("report %+v, %v", r.Paused, err)
		}
		if done, err := b.ResumeGroup(t.Context(), "booking", "g"); !done || err != nil {
			t.Errorf("resume: %v, %v", done, err)
		}
	})
}

// Deliveries wait for the end of a pause; after a stall a peer has them, it leaves, and they come back:
// each of them runs once.
func TestG04WhatComesBackIsAnotherDelivery(t *testing.T) {
	t.Parallel()
	server, namespace := redistest.Shared(t), redistest.Namespace(t)
	client, key := server.Client(t), namespace+":booking"
	b := openBus(t, Config{Redis: server.Options(), Namespace: namespace})
	began, goOn := make(chan struct{}), make(chan struct{})
	handled := newTally()
	handle(t, b, GroupConfig{Group: "g", Patterns: []string{"booking.*"}, InFlight: 1}, AllStreams, func(_ context.Context, d *Delivery) error {
		handled.add(d.Event.ID)
		if d.Event.ID == "first" {
			close(began)
			<-goOn
		}
		return nil
	})
	publish(t, b, Event{ID: "first", Type: "booking.created"})
	within(t, "the first delivery", began)
	waiting := string(publish(t, b, Event{ID: "waiting", Type: "booking.created"}).Outcomes[0].Position)
	c := onlyConsumer(t, b)
	if done, err := b.PauseGroup(t.Context(), "booking", "g", "maintenance"); !done || err != nil {
		t.Fatal(done, err)
	}
	awaitFact(t, "the consumer to hear of it", func() bool { return c.IsPaused("booking") })
	c.TakeOver("booking", false) // nothing is taken over until this test says so
	c.Take(entriesOf(t, b, c, waiting))
	close(goOn)
	awaitFact(t, "it to wait", func() bool { _, paused := c.Waiting(); return paused == 1 })

	// As a peer takes over: its count stays, so that it is no suspect, of which raising the count would find out that it is settled.
	client.XClaimJustID(t.Context(), &redis.XClaimArgs{Stream: key, Group: "g", Consumer: "peer", Messages: []string{waiting}})
	c.Lapse("booking") // as after a stall
	c.BeatSoon("booking")
	awaitFact(t, "it to be known as lost", func() bool { return !c.Holds(redisstream.Ref{Stream: "booking", ID: entryID(t, waiting)}) })
	client.ZAdd(t.Context(), "{"+key+"}:alive:g", redis.Z{Score: float64(redisstream.Left), Member: "peer"})
	c.TakeOver("booking", true)
	awaitFact(t, "it to be here again", func() bool { return c.Holds(redisstream.Ref{Stream: "booking", ID: entryID(t, waiting)}) })
	if done, err := b.ResumeGroup(t.Context(), "booking", "g"); !done || err != nil {
		t.Fatal(done, err)
	}
	handled.await(t, 2)
	awaitSettled(t, b, "booking", "g")
	publish(t, b, Event{ID: "last", Type: "booking.created"})
	handled.await(t, 3)
	if twice := handled.more(); len(twice) > 0 {
		t.Errorf("handled more than once: %v", twice)
	}
}

func entryID(t *testing.T, position string) redisstream.ID {
	t.Helper()
	id, err := redisstream.ParseID(position)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// entriesOf has the log give an entry to the consumer, as a read does.
func entriesOf(t *testing.T, b *Bus, c *group.Consumer, position string) []redisstream.Delivered {
	t.Helper()
	read, err := b.log.Read(t.Context(), c.Self(), []string{"booking"}, 10, time.Second)
	if err != nil || len(read) != 1 || read[0].ID.String() != position {
		t.Fatalf("read %v, %v; want the entry at %s", read, err, position)
	}
	return read
}

// A stream at which nobody can say that he lives any more stops itself, and no other one.
func TestG06StreamThatCannotBeBeatenAtStopsItself(t *testing.T) {
	t.Parallel()
	server, namespace := redistest.Shared(t), redistest.Namespace(t)
	client := server.Client(t)
	log := newLogged()
	b := openBus(t, Config{Redis: server.Options(), Namespace: namespace, Logger: slog.New(log)})
	handled := newTally()
	g := GroupConfig{Group: "g", Patterns: []string{"aaa.*", "bbb.*"}, InFlight: 2}
	handle(t, b, g, AllStreams, func(_ context.Context, d *Delivery) error { handled.add(d.Event.ID); return nil })
	publish(t, b, Event{ID: "a", Type: "aaa.x"}, Event{ID: "b", Type: "bbb.x"})
	handled.await(t, 2)
	awaitSettled(t, b, "aaa", "g")

	meta := "{" + namespace + ":aaa}:meta"
	client.Rename(t.Context(), meta, meta+":away")
	client.Set(t.Context(), meta, "x", 0)
	c := onlyConsumer(t, b)
	awaitFact(t, "a beat that fails", func() bool { return len(c.Troubles(0)) > 0 })
	c.Lapse("aaa") // as after 5.5 s
	for i := range 20 {
		publish(t, b, Event{ID: fmt.Sprint("a-", i), Type: "aaa.x"}, Event{ID: fmt.Sprint("b-", i), Type: "bbb.x"})
	}
	awaitFact(t, "the events of the other stream", func() bool {
		handled.mu.Lock()
		defer handled.mu.Unlock()
		for i := range 20 {
			if handled.count[fmt.Sprint("b-", i)] == 0 {
				return false
			}
		}
		return true
	})
	if lines := log.with("can't say that it lives", "stream=aaa", "WRONGTYPE"); len(lines) != 1 {
		t.Errorf("said %d times, want once: %v", len(lines), lines)
	}
	c.BeatenAt("aaa", time.Now().Add(-time.Minute)) // as if it had lasted
	if h := b.Health(t.Context()); !hasProblem(h, "consumer-stalled") || h.Status == StatusHealthy {
		t.Errorf("health %s with %+v", h.Status, h.Problems)
	}
	client.Rename(t.Context(), meta+":away", meta)
	handled.await(t, 42)
}

// One subject of which an event fails waits, however many events it has. The others go past, and its own
// order holds.
func TestG13OnlyTheFailingSubjectWaits(t *testing.T) {
	eachBus(t, func(t *testing.T, open func(func(*Config)) *Bus) {
		b := open(nil)
		const n = 200
		var heals atomic.Bool
		var mu sync.Mutex
		var order []string
		good := newTally()
		g := GroupConfig{Group: "g", Patterns: []string{"booking.*", "other.*"}, InFlight: 8, Policy: Policy{
			PerSubject: true, Attempts: -1, Backoff: func(int) time.Duration { return 300 * time.Millisecond },
		}}
		var all []Event
		for i := range n {
			// The first one has the greatest ID: what is due at one time stands in the order of the IDs.
			all = append(all, Event{ID: fmt.Sprintf("bad-%03d", n-1-i), Type: "booking.created", Subject: "bad"})
		}
		for i := range 20 {
			all = append(all, Event{ID: fmt.Sprint("good-", i), Type: "booking.created", Subject: fmt.Sprint(i)},
				Event{ID: fmt.Sprint("other-", i), Type: "other.created", Subject: "bad"}) // the same name in another stream
		}
		publish(t, b, all...)
		handle(t, b, g, AllStreams, func(_ context.Context, d *Delivery) error {
			if d.Stream == "other" || d.Event.Subject != "bad" {
				good.add(d.Event.ID)
				return nil
			}
			if !heals.Load() {
				return errors.New("no")
			}
			mu.Lock()
			defer mu.Unlock()
			order = append(order, d.Event.ID)
			return nil
		})
		good.await(t, 40)
		heals.Store(true)
		awaitFact(t, "all of the subject", func() bool { mu.Lock(); defer mu.Unlock(); return len(order) >= n })
		mu.Lock()
		defer mu.Unlock()
		if slices.Reverse(order); !slices.IsSorted(order) || len(order) != n {
			t.Errorf("%d ran, from the last one to the first: %v", len(order), order)
		}
		awaitSettled(t, b, "booking", "g")
	})
}

// Who only waits for a place has not run: his count stays as it is, and an answer that was lost raises
// nothing a second time.
func TestG15OnlyWhatHasItsPlaceIsCounted(t *testing.T) {
	t.Parallel()
	server, namespace := redistest.Shared(t), redistest.Namespace(t)
	client, key := server.Client(t), namespace+":booking"
	b := openBus(t, Config{Redis: server.Options(), Namespace: namespace})
	g := GroupConfig{Group: "g", Patterns: []string{"booking.*"}, InFlight: 1}
	_ = consumeNothing(t, b, g).Close()
	publish(t, b, events(20, "booking.created")...)
	deadConsumer(t, client, namespace, "dead", 20)
	began, goOn := make(chan *Delivery), make(chan struct{})
	handled := newTally()
	handle(t, b, g, AllStreams, func(_ context.Context, d *Delivery) error {
		select {
		case began <- d:
		case <-goOn:
		}
		<-goOn
		handled.add(d.Event.ID)
		return nil
	})
	d := within(t, "a delivery that was taken over", began)
	counts := func() map[int64]int {
		of := map[int64]int{}
		for _, p := range client.XPendingExt(t.Context(), &redis.XPendingExtArgs{Stream: key, Group: "g", Start: "-", End: "+", Count: 100}).Val() {
			of[p.RetryCount]++
		}
		return of
	}
	c := onlyConsumer(t, b)
	awaitFact(t, "the next one to wait for a place", func() bool {
		inFlight, _, _ := c.Counts()
		turn, _ := c.Waiting()
		return inFlight == 1 && turn > 0
	})
	if got := counts(); got[2] != 1 || got[1] != 19 {
		t.Errorf("delivery counts %v, want one that was raised", got)
	}
	again := []redisstream.Suspect{{Ref: d.holding.Ref(), Count: 1}}
	if gone, err := b.log.Raise(t.Context(), c.Self(), "booking", again); len(gone) > 0 || err != nil {
		t.Errorf("raise again: %v, %v", gone, err)
	}
	if got := counts(); got[2] != 1 || got[1] != 19 {
		t.Errorf("delivery counts %v after a repetition, want the same", got)
	}
	close(goOn)
	handled.await(t, 20)
	awaitSettled(t, b, "booking", "g")
}

// A replay that a group meets which was set back runs: the lane is not what was handled before. That the
// stream's entries are not handled again is said.
func TestG17ReplayRunsWhenTheGroupWasSetBack(t *testing.T) {
	t.Parallel()
	server, namespace := redistest.Shared(t), redistest.Namespace(t)
	log := newLogged()
	b := openBus(t, Config{Redis: server.Options(), Namespace: namespace, Logger: slog.New(log)})
	first, again := newTally(), newTally()
	handle(t, b, GroupConfig{Group: "g", Patterns: []string{"booking.*"}}, AllStreams, func(_ context.Context, d *Delivery) error {
		if d.Origin == OriginReplay {
			again.add(d.Event.ID)
		} else {
			first.add(d.Event.ID)
		}
		return nil
	})
	publish(t, b, events(10, "booking.created")...)
	first.await(t, 10)
	awaitSettled(t, b, "booking", "g")
	if done, err := b.PauseGroup(t.Context(), "booking", "g", "so that both are met by one read"); !done || err != nil {
		t.Fatal(done, err)
	}
	c := onlyConsumer(t, b)
	awaitFact(t, "the consumer to hear of it", func() bool { return c.IsPaused("booking") })
	// Reads that are under way end when they are brought something, and none begins: the next one meets both.
	var let func()
	ends := 0
	awaitFact(t, "the end of the reads", func() bool {
		var held bool
		if let, held = c.HoldReads(); held {
			return true
		}
		publish(t, b, Event{ID: fmt.Sprint("end-", ends), Type: "booking.created"})
		ends++
		return false
	})
	err := server.Client(t).XGroupSetID(t.Context(), namespace+":booking", "g", "0").Err()
	n, replayErr := b.Replay(t.Context(), Query{Streams: []string{"booking"}, Limit: 10}, "g", ReplayOptions{})
	let()
	if n != 10 || err != nil || replayErr != nil {
		t.Fatal(n, err, replayErr)
	}
	if done, err := b.ResumeGroup(t.Context(), "booking", "g"); !done || err != nil {
		t.Fatal(done, err)
	}
	again.await(t, 10)
	first.await(t, 10+ends)
	awaitSettled(t, b, "booking", "g")
	if twice := first.more(); len(twice) > 0 {
		t.Errorf("handled again without a replay: %v", twice)
	}
	if lines := log.with("acknowledged, and not handled again", "millrace replay"); len(lines) == 0 {
		t.Error("that they are not handled again is not said")
	}
}
