package pipeline

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rishi-platform/millrace/internal/redisstream"
)

// One consumer fails and its sibling does not: it stops itself, and the sibling handles everything. When it
// is mended it goes on by itself.
func TestG09SickConsumerStopsItself(t *testing.T) {
	eachBus(t, func(t *testing.T, open func(func(*Config)) *Bus) {
		log := newLogged()
		b := open(func(c *Config) { c.Logger = slog.New(log) })
		watcher := b
		if b.Mode() != ModeLocal {
			watcher = open(nil)
		}
		g := GroupConfig{Group: "g", Patterns: []string{"booking.*"}, InFlight: 8}
		var mended atomic.Bool
		names := make(chan string, 1)
		well, sick := newTally(), newTally()
		handle(t, b, g, AllStreams, func(_ context.Context, d *Delivery) error {
			select {
			case names <- d.Consumer:
			default:
			}
			if !mended.Load() {
				return errors.New("no route to the database")
			}
			sick.add(d.Event.ID)
			return nil
		})
		healthy := handle(t, b, g, AllStreams, func(_ context.Context, d *Delivery) error { well.add(d.Event.ID); return nil })

		published := 0
		more := func() {
			publish(t, b, Event{Type: "booking.created"}, Event{Type: "booking.created"})
			published += 2
		}
		for len(names) == 0 {
			more()
			<-time.After(time.Millisecond)
		}
		c := consumerNamed(t, b, <-names)
		awaitFact(t, "it to stop itself", func() bool { more(); return c.Sick() != nil })
		well.await(t, published)
		awaitSettled(t, b, "booking", "g")
		if r, err := b.Group(t.Context(), "booking", "g"); err != nil || r.Dead > 0 || r.Paused != nil {
			t.Errorf("report %+v, %v; want nothing dead and no pause", r, err)
		}
		awaitFact(t, "its record to say so", func() bool {
			r, err := watcher.Group(t.Context(), "booking", "g")
			if err != nil {
				t.Fatal(err)
			}
			for _, m := range r.Members {
				if m.Name == c.Name() && m.State == "sick" {
					return strings.Contains(m.Sick.Reason, "no route to the database")
				}
			}
			return false
		})
		for _, from := range []*Bus{b, watcher} {
			problems := 0
			for _, p := range from.Health(t.Context()).Problems {
				if p.Code == "consumer-sick" && p.Severity == SeverityError && strings.Contains(p.Text, c.Name()) {
					problems++
				}
			}
			if problems != 1 {
				t.Errorf("%d problems consumer-sick, want 1: %+v", problems, from.Health(t.Context()).Problems)
			}
		}
		if lines := log.with("stops itself", c.Name()); len(lines) != 1 {
			t.Errorf("said %d times, want once: %v", len(lines), lines)
		}

		_ = healthy.Close()
		mended.Store(true)
		publish(t, b, events(50, "booking.created")...)
		c.TryNow()
		sick.await(t, 50)
		awaitFact(t, "it to go on", func() bool { return c.Sick() == nil })
		awaitSettled(t, b, "booking", "g")
	})
}

// A process that can't run its handler takes no attempt from an event: it hands back what it holds, and a
// sibling handles everything.
func TestG09FaultOfAWorkerCostsNoAttempt(t *testing.T) {
	eachBus(t, func(t *testing.T, open func(func(*Config)) *Bus) {
		b := open(nil)
		const n = 150
		g := GroupConfig{Group: "g", Patterns: []string{"booking.*"}, InFlight: 4, Policy: Policy{Attempts: 1, PerSubject: true}}
		var ran atomic.Int64
		faulty := handle(t, b, g, AllStreams, func(context.Context, *Delivery) error {
			ran.Add(1)
			return &WorkerError{Err: errors.New("./missing.sh: not found")}
		})
		c := onlyConsumer(t, b)
		all := events(n, "booking.created")
		for i := range all {
			all[i].Subject = string(rune('a' + i%7))
		}
		publish(t, b, all...)
		awaitFact(t, "it to stop itself", func() bool { return c.Sick() != nil })
		awaitFact(t, "it to hand back what it holds", func() bool { return c.Held("booking") == 0 })
		if h := b.Health(t.Context()); !hasProblem(h, "consumer-sick") || hasProblem(h, "group-paused") {
			t.Errorf("problems %+v", h.Problems)
		}
		c.TryNow()
		awaitFact(t, "a trial to fail", c.HasTried)
		if most := int64(g.InFlight + 1); ran.Load() > most {
			t.Errorf("%d deliveries ran, want at most %d", ran.Load(), most)
		}

		done := newTally()
		handle(t, b, g, AllStreams, func(_ context.Context, d *Delivery) error {
			if d.Attempt != 1 || d.Origin != OriginFresh {
				t.Errorf("%s came as attempt %d, %q", d.Event.ID, d.Attempt, d.Origin)
			}
			done.add(d.Event.ID)
			return nil
		})
		done.await(t, n)
		awaitSettled(t, b, "booking", "g")
		if dead := deadLetters(t, b, "booking", "g"); len(dead) > 0 || c.IsPaused("booking") {
			t.Errorf("%d dead letters; paused: %v", len(dead), c.IsPaused("booking"))
		}
		_ = faulty.Close()
	})
}

// A process that can't run its handler hands back what it holds in the order of each subject: those that
// waited for another one go behind it, whichever of them had begun.
func TestG09HandBackKeepsTheOrderOfASubject(t *testing.T) {
	eachBus(t, func(t *testing.T, open func(func(*Config)) *Bus) {
		b := open(nil)
		const subjects, each = 3, 4
		g := GroupConfig{Group: "g", Patterns: []string{"booking.*"}, InFlight: subjects + 1, Policy: Policy{PerSubject: true}}
		began, fail := make(chan struct{}, subjects*each), make(chan struct{})
		faulty := handle(t, b, g, AllStreams, func(context.Context, *Delivery) error {
			began <- struct{}{}
			<-fail
			return &WorkerError{Err: errors.New("./missing.sh: not found")}
		})
		c := onlyConsumer(t, b)
		var all []Event
		for i := range subjects * each {
			all = append(all, Event{ID: fmt.Sprint(i / subjects), Source: fmt.Sprint(i % subjects), Type: "booking.created", Subject: fmt.Sprint(i % subjects)})
		}
		publish(t, b, all...)
		for range subjects {
			within(t, "a handler", began)
		}
		held := func() int { return c.Held("booking") }
		awaitFact(t, "the others to wait", func() bool { return held() == len(all) })
		close(fail)
		awaitFact(t, "it to hand back what it holds", func() bool { return held() == 0 })
		_ = faulty.Close()
		if len(began) > 0 {
			t.Errorf("%d more have begun", len(began))
		}

		g.InFlight = 1
		came := make(chan *Delivery)
		handle(t, b, g, AllStreams, func(_ context.Context, d *Delivery) error { came <- d; return nil })
		next := map[string]int{}
		for range all {
			d := within(t, "a delivery", came)
			if want := next[d.Event.Subject]; d.Event.ID != fmt.Sprint(want) {
				t.Errorf("subject %s: got %s, want %d", d.Event.Subject, d.Event.ID, want)
			}
			next[d.Event.Subject]++
		}
		awaitSettled(t, b, "booking", "g")
	})
}

// A consumer that has stopped itself leaves the probes of its group to another one.
func TestG09SickConsumerGivesUpTheProbes(t *testing.T) {
	eachBus(t, func(t *testing.T, open func(func(*Config)) *Bus) {
		b := open(nil)
		g := GroupConfig{Group: "g", Patterns: []string{"booking.*"}}
		handle(t, b, g, AllStreams, func(context.Context, *Delivery) error { return &WorkerError{Err: errors.New("no")} })
		sick := onlyConsumer(t, b)
		handled := make(chan string, 1)
		handle(t, b, g, AllStreams, func(_ context.Context, d *Delivery) error { handled <- d.Event.ID; return nil })
		awaitGroup(t, b, "booking", "g", func(g redisstream.GroupInfo) bool { return g.Alive == 2 })
		pause := Pause{By: PausedByBreaker, Reason: "database is away", Consumer: sick.Name(), Since: time.Now()}
		if done, err := b.log.Pause(t.Context(), "booking", "g", "", pauseText(pause)); !done || err != nil {
			t.Fatal(done, err)
		}
		awaitFact(t, "all to hear of the pause", func() bool { return pausedAll(b, "booking") })
		sick.Stop("the handler can't be run here")
		publish(t, b, Event{ID: "e", Type: "booking.created"})
		if got := within(t, "the delivery that is tried", handled); got != "e" {
			t.Errorf("got %s", got)
		}
		awaitGroup(t, b, "booking", "g", func(g redisstream.GroupInfo) bool { return g.Paused == "" && g.Pending == 0 })
	})
}

// What the group was paused for is mended for all but the consumer that makes the probes, which does not
// count as sick: whoever has failed leaves the next probe to another, and the group goes on.
func TestG09FailedProbeIsLeftToAnother(t *testing.T) {
	eachBus(t, func(t *testing.T, open func(func(*Config)) *Bus) {
		b := open(nil)
		g := GroupConfig{Group: "g", Patterns: []string{"booking.*"}, InFlight: 1, Policy: Policy{Backoff: func(int) time.Duration { return time.Hour }}}
		handle(t, b, g, AllStreams, func(context.Context, *Delivery) error { return errors.New("database is away") })
		failing := onlyConsumer(t, b)
		done := newTally()
		handle(t, b, g, AllStreams, func(_ context.Context, d *Delivery) error { done.add(d.Event.ID); return nil })
		awaitGroup(t, b, "booking", "g", func(g redisstream.GroupInfo) bool { return g.Alive == 2 })
		pause := Pause{By: PausedByBreaker, Reason: "database is away", Consumer: failing.Name(), Since: time.Now()}
		if done, err := b.log.Pause(t.Context(), "booking", "g", "", pauseText(pause)); !done || err != nil {
			t.Fatal(done, err)
		}
		awaitFact(t, "all to hear of the pause", func() bool { return pausedAll(b, "booking") })
		publish(t, b, events(20, "booking.created")...)
		awaitFact(t, "the group to go on", func() bool {
			paused := true
			for _, c := range b.consuming() {
				c.ProbeAt("booking", time.Now()) // its time comes
				paused = paused && c.IsPaused("booking")
			}
			return !paused
		})
		done.await(t, 1)
	})
}

// Where nobody is well, each tries by itself, also in a stream that the breaker has paused: nobody waits
// for another one. What an operator has paused is left alone.
func TestG09TrialBeginsInAStreamThatTheBreakerHasPaused(t *testing.T) {
	eachBus(t, func(t *testing.T, open func(func(*Config)) *Bus) {
		b := open(nil)
		handled := make(chan string, 2)
		g := GroupConfig{Group: "g", Patterns: []string{"booking.*", "invoice.*"}}
		handle(t, b, g, AllStreams, func(_ context.Context, d *Delivery) error { handled <- d.Event.ID; return nil })
		publish(t, b, Event{ID: "0", Type: "booking.created"}, Event{ID: "1", Type: "invoice.issued"})
		within(t, "a delivery", handled)
		within(t, "a delivery", handled)
		c := onlyConsumer(t, b)
		by := Pause{By: PausedByBreaker, Reason: "database is away", Since: time.Now()}
		if done, err := b.log.Pause(t.Context(), "booking", "g", "", pauseText(by)); !done || err != nil {
			t.Fatal(done, err)
		}
		if done, err := b.PauseGroup(t.Context(), "invoice", "g", "maintenance"); !done || err != nil {
			t.Fatal(done, err)
		}
		c.Stop("the handler can't be run here")
		awaitFact(t, "it to hear of the pauses", func() bool { return c.IsPaused("booking") && c.IsPaused("invoice") })
		publish(t, b, Event{ID: "invoice", Type: "invoice.issued"}, Event{ID: "booking", Type: "booking.created"})
		c.TryNow()
		if got := within(t, "the delivery that is tried", handled); got != "booking" {
			t.Errorf("got %s", got)
		}
		awaitFact(t, "it to go on", func() bool { return c.Sick() == nil })
		awaitGroup(t, b, "booking", "g", func(g redisstream.GroupInfo) bool { return g.Paused == "" && g.Pending == 0 })
		if !c.IsPaused("invoice") {
			t.Error("the pause of the operator has ended")
		}
	})
}
