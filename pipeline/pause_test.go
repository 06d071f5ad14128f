package pipeline

import (
	"context"
	"encoding/json"
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rishi-platform/millrace/internal/group"
	"github.com/rishi-platform/millrace/internal/redisstream"
	"github.com/rishi-platform/millrace/internal/redistest"
)

// A database that is away makes everything fail: the group pauses instead of burying its stream, and goes on by itself.
func TestBreakerPausesAGroupThatFailsAsAWholeAndResumesIt(t *testing.T) {
	eachBus(t, func(t *testing.T, open func(func(*Config)) *Bus) {
		b := open(nil)
		changes := hears(t, b, Subscription{Patterns: []string{"system.group.*"}})
		var heals atomic.Bool
		done := newTally()
		handle(t, b, GroupConfig{Group: "g", Patterns: []string{"booking.*"}, Policy: Policy{Backoff: func(int) time.Duration { return 20 * time.Second }}}, AllStreams, func(_ context.Context, d *Delivery) error {
			if !heals.Load() {
				<-time.After(time.Millisecond) // so that a few hundred take more than an instant
				return errors.New("database is away")
			}
			done.add(d.Event.ID)
			return nil
		})
		publish(t, b, events(3000, "booking.created")...)
		within(t, "the event that tells of the pause", changes)
		var paused StreamHealth
		awaitFact(t, "the pause in the report", func() bool {
			for _, s := range b.Health(t.Context()).Streams {
				if s.Name == "booking" && s.Groups[0].Paused != nil {
					paused = s
					return true
				}
			}
			return false
		})
		if p := paused.Groups[0].Paused; p.By != PausedByBreaker || p.Reason != "database is away" || p.Fingerprint == "" || p.Consumer == "" {
			t.Errorf("pause %+v", p)
		}
		if h := b.Health(t.Context()); !hasProblem(h, "group-paused") || h.Status == StatusHealthy {
			t.Errorf("health %s with %+v", h.Status, h.Problems)
		}
		heals.Store(true)
		within(t, "the event that tells that it goes on", changes)
		done.await(t, 500) // those that had not been tried
		r, err := b.Group(t.Context(), "booking", "g")
		if err != nil || r.Paused != nil || r.Deferred > 2500 || r.Dead > 0 {
			t.Errorf("report %+v, %v", r, err)
		}
	})
}

func TestPausedGroupTakesNothingUntilItIsResumed(t *testing.T) {
	eachBus(t, func(t *testing.T, open func(func(*Config)) *Bus) {
		b := open(nil)
		handled := make(chan string, 10)
		g := GroupConfig{Group: "g", Patterns: []string{"booking.*", "invoice.*"}}
		handle(t, b, g, AllStreams, func(_ context.Context, d *Delivery) error { handled <- d.Event.ID; return nil })
		publish(t, b, Event{ID: "before", Type: "booking.created"})
		within(t, "an event before the pause", handled)

		if done, err := b.PauseGroup(t.Context(), "booking", "nobody", ""); done || !errors.Is(err, ErrUnknownGroup) {
			t.Errorf("pause of an unknown group: %v, %v", done, err)
		}
		if done, err := b.PauseGroup(t.Context(), "booking", "g", "maintenance"); !done || err != nil {
			t.Fatalf("pause: %v, %v", done, err)
		}
		if done, err := b.PauseGroup(t.Context(), "booking", "g", "again"); done || err != nil {
			t.Errorf("pause of a paused group: %v, %v", done, err)
		}
		c := onlyConsumer(t, b)
		awaitFact(t, "the consumer to hear of it", func() bool { return c.IsPaused("booking") })
		publish(t, b, Event{ID: "meanwhile", Type: "booking.created"})
		publish(t, b, Event{ID: "elsewhere", Type: "invoice.issued"}) // another stream goes on
		if got := within(t, "an event of another stream", handled); got != "elsewhere" {
			t.Errorf("got %s while paused", got)
		}
		awaitFact(t, "the next beat", beatOf(t, b, c))
		select {
		case got := <-handled:
			t.Errorf("got %s while paused", got)
		default:
		}
		if done, err := b.ResumeGroup(t.Context(), "booking", "g"); !done || err != nil {
			t.Fatalf("resume: %v, %v", done, err)
		}
		if got := within(t, "what came during the pause", handled); got != "meanwhile" {
			t.Errorf("got %s", got)
		}
		if done, err := b.ResumeGroup(t.Context(), "booking", "g"); done || err != nil {
			t.Errorf("resume of a group that is not paused: %v, %v", done, err)
		}
	})
}

// beatOf reports whether the consumer has beaten again since the call.
func beatOf(t *testing.T, b *Bus, c *group.Consumer) func() bool {
	t.Helper()
	seen := func() (beat int64) {
		groups, err := b.log.Groups(t.Context(), "booking")
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range groups[0].Members {
			if m.Name == c.Name() {
				beat = m.Beat
			}
		}
		return beat
	}
	before := seen()
	return func() bool { return seen() != before }
}

// Whoever tried a delivery of a paused group from time to time is gone: another consumer does it from then on.
func TestProbingIsInheritedFromAConsumerThatIsGone(t *testing.T) {
	t.Parallel()
	b := openBus(t, Config{Redis: redistest.Shared(t).Options(), Namespace: redistest.Namespace(t)})
	handled := make(chan string, 1)
	sub := handle(t, b, GroupConfig{Group: "g", Patterns: []string{"booking.*"}}, AllStreams, func(context.Context, *Delivery) error { return nil })
	publish(t, b, Event{Type: "booking.created"})
	awaitSettled(t, b, "booking", "g")
	_ = sub.Close()
	pause := Pause{By: PausedByBreaker, Reason: "database is away", Consumer: "dead", Since: time.Now()}
	if done, err := b.log.Pause(t.Context(), "booking", "g", "", pauseText(pause)); !done || err != nil {
		t.Fatal(done, err)
	}
	handle(t, b, GroupConfig{Group: "g", Patterns: []string{"booking.*"}}, AllStreams, func(_ context.Context, d *Delivery) error { handled <- d.Event.ID; return nil })
	publish(t, b, Event{ID: "e", Type: "booking.created"})
	if got := within(t, "the delivery that is tried", handled); got != "e" {
		t.Errorf("got %s", got)
	}
	awaitGroup(t, b, "booking", "g", func(g redisstream.GroupInfo) bool { return g.Paused == "" && g.Pending == 0 })
}

// What fails is of a type that the prober does not handle: it leaves the probes to the consumer that has
// such deliveries, and the group goes on though nothing comes that the first one handles.
func TestG09ProberWithNothingToTryLeavesItToAnother(t *testing.T) {
	eachBus(t, func(t *testing.T, open func(func(*Config)) *Bus) {
		b := open(nil)
		handle(t, b, GroupConfig{Group: "g", Patterns: []string{"booking.created"}}, AllStreams, func(context.Context, *Delivery) error { return nil })
		prober := onlyConsumer(t, b)
		handled := make(chan string, 1)
		handle(t, b, GroupConfig{Group: "g", Patterns: []string{"booking.changed"}}, AllStreams, func(_ context.Context, d *Delivery) error { handled <- d.Event.ID; return nil })
		publish(t, b, Event{ID: "0", Type: "booking.changed"})
		within(t, "a delivery", handled)
		awaitSettled(t, b, "booking", "g")
		pause := Pause{By: PausedByBreaker, Reason: "database is away", Consumer: prober.Name(), Since: time.Now()}
		if done, err := b.log.Pause(t.Context(), "booking", "g", "", pauseText(pause)); !done || err != nil {
			t.Fatal(done, err)
		}
		awaitFact(t, "both to hear of the pause", func() bool { return pausedAll(b, "booking") })
		publish(t, b, Event{ID: "1", Type: "booking.changed"})
		dueSince := func(d time.Duration) { prober.ProbeAt("booking", time.Now().Add(-d)) }
		dueSince(0) // it reads
		awaitFact(t, "the event to wait with the one that handles it", func() bool {
			for _, c := range b.consuming() {
				if c != prober {
					_, paused := c.Waiting()
					return paused == 1
				}
			}
			return false
		})
		dueSince(proberIdle)
		if got := within(t, "the delivery that is tried", handled); got != "1" {
			t.Errorf("got %s", got)
		}
		awaitGroup(t, b, "booking", "g", func(g redisstream.GroupInfo) bool { return g.Paused == "" && g.Pending == 0 })
	})
}

func TestGroupReportNamesItsConsumers(t *testing.T) {
	eachBus(t, func(t *testing.T, open func(func(*Config)) *Bus) {
		b := open(func(c *Config) { c.Version = "v1.2.3" })
		finish, running := make(chan struct{}), make(chan struct{}, 2)
		handle(t, b, GroupConfig{Group: "g", Patterns: []string{"booking.*"}}, AllStreams, func(_ context.Context, d *Delivery) error {
			running <- struct{}{}
			if d.Event.ID == "second" {
				<-finish
			}
			return nil
		})
		publish(t, b, Event{ID: "first", Type: "booking.created"}, Event{ID: "second", Type: "booking.created"})
		within(t, "a handler", running)
		within(t, "a handler", running)
		var r GroupReport
		awaitFact(t, "what the consumer says of itself", func() bool {
			var err error
			r, err = b.Group(t.Context(), "booking", "g")
			return err == nil && len(r.Members) == 1 && r.Members[0].Member != nil && r.Members[0].Handled == 1 && r.Members[0].InFlight == 1 && r.Members[0].Pending == 1
		})
		if m := r.Members[0]; m.State != "alive" || m.Version != "v1.2.3" || m.PID == 0 || m.Patterns[0] != "booking.*" || r.Pending != 1 {
			t.Errorf("report %+v", r)
		}
		if text, err := json.Marshal(r); err != nil || len(text) < 100 {
			t.Errorf("as JSON: %s, %v", text, err)
		}
		close(finish)
		if _, err := b.Group(t.Context(), "booking", "nobody"); !errors.Is(err, ErrUnknownGroup) {
			t.Errorf("unknown group: %v", err)
		}
	})
}
