package pipeline

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/rishi-platform/millrace/internal/group"
	"github.com/rishi-platform/millrace/internal/redisstream"
	"github.com/rishi-platform/millrace/internal/redistest"
)

// eachLog runs a test with either kind of log, and a group that holds so many entries.
func eachLog(t *testing.T, n int, test func(t *testing.T, b *Bus, refs []redisstream.Ref)) {
	eachBus(t, func(t *testing.T, open func(func(*Config)) *Bus) {
		b := open(nil)
		publish(t, b, events(n, "booking.created")...)
		me := redisstream.Consumer{Group: "g", Name: "me"}
		for _, c := range []string{"me", "peer"} {
			if _, err := b.log.Join(t.Context(), redisstream.Consumer{Group: "g", Name: c}, redisstream.Join{Stream: "booking"}); err != nil {
				t.Fatal(err)
			}
		}
		read, err := b.log.Read(t.Context(), me, []string{"booking"}, n, time.Second)
		if err != nil || len(read) != n {
			t.Fatalf("read %d, %v", len(read), err)
		}
		var refs []redisstream.Ref
		for _, d := range read {
			refs = append(refs, d.Ref)
		}
		test(t, b, refs)
	})
}

// The record of failures: what is counted, what is not, and that it ends with the pause.
func TestG09RecordOfFailures(t *testing.T) {
	eachLog(t, 6, func(t *testing.T, b *Bus, refs []redisstream.Ref) {
		me, peer := redisstream.Consumer{Group: "g", Name: "me"}, redisstream.Consumer{Group: "g", Name: "peer"}
		failing := func() bool {
			beat, err := b.log.Beat(t.Context(), me, "booking", redisstream.Say{})
			if err != nil {
				t.Fatal(err)
			}
			return beat.Failing
		}
		flow := func(c redisstream.Consumer, handled int64, anew bool) map[string]int64 {
			f, err := b.log.Flow(t.Context(), c, "booking", redisstream.Share{Handled: handled, Anew: anew, Sum: true})
			if err != nil || f.Age < 0 || f.Age > time.Minute {
				t.Fatalf("flow %+v, %v", f, err)
			}
			got := map[string]int64{}
			for _, row := range f.Rows {
				got[row.Consumer+" "+row.Print] = row.Events
			}
			return got
		}
		retry := func(ref redisstream.Ref, f redisstream.Failure) {
			r := redisstream.Retry{Ref: ref, Message: redisstream.Message{UUID: "m"}, Delay: time.Hour, Failure: f}
			if settled, err := b.log.Retry(t.Context(), me, "booking", []redisstream.Retry{r}); err != nil || settled[0] != redisstream.Done {
				t.Fatal(settled, err)
			}
		}
		retry(refs[0], redisstream.Failure{}) // a put-off, or one that is handed back
		if failing() || len(flow(me, 100, false)) > 0 {
			t.Error("there is a record, and nothing has failed")
		}
		retry(refs[1], redisstream.Failure{Print: "a", Event: "1"})
		retry(refs[2], redisstream.Failure{Print: "a", Event: "1"}) // the same event once more
		retry(refs[3], redisstream.Failure{Print: "a", Event: "2"})
		bury := []redisstream.Burial{{Ref: refs[4], Original: refs[4].ID, Report: "{}", Failure: redisstream.Failure{Print: "b", Event: "3"}}}
		if settled, _, err := b.log.Bury(t.Context(), me, "booking", redisstream.Bounds{Length: 10, Age: time.Hour}, bury); err != nil || settled[0] != redisstream.Done {
			t.Fatal(settled, err)
		}
		if !failing() {
			t.Error("the beat does not say that something has failed")
		}
		if f, err := b.log.Flow(t.Context(), peer, "booking", redisstream.Share{Handled: 7}); err != nil || len(f.Rows) > 0 {
			t.Errorf("flow %+v, %v; want no rows, which were not asked for", f, err)
		}
		want := map[string]int64{"me a": 2, "me b": 1, "me +": 5, "peer +": 7}
		if diff := cmp.Diff(want, flow(me, 5, false)); diff != "" {
			t.Errorf("flow (-want +got):\n%s", diff)
		}
		if diff := cmp.Diff(map[string]int64{"me a": 2, "me b": 1, "me +": 5}, flow(peer, 0, true)); diff != "" {
			t.Errorf("flow without what was forgotten (-want +got):\n%s", diff)
		}
		if diff := cmp.Diff(map[string]int64{}, flow(me, 0, true)); diff != "" || failing() {
			t.Errorf("no failure is left, and there is a record (-want +got):\n%s", diff)
		}
		retry(refs[5], redisstream.Failure{Print: "a", Event: "1"}) // forgotten with the record
		if diff := cmp.Diff(map[string]int64{"me a": 1}, flow(me, 0, false)); diff != "" {
			t.Errorf("flow (-want +got):\n%s", diff)
		}
		if done, err := b.log.Pause(t.Context(), "booking", "g", "", "x"); !done || err != nil {
			t.Fatal(done, err)
		}
		if failing() {
			t.Error("the pause has not ended the record")
		}
	})
}

// pausedStreams returns those streams at which the group is paused.
func pausedStreams(t *testing.T, b *Bus, group string) (names []string) {
	t.Helper()
	for _, s := range b.Health(t.Context()).Streams {
		for _, g := range s.Groups {
			if g.Name == group && g.Paused != nil {
				names = append(names, s.Name)
			}
		}
	}
	return names
}

// A group that fails for one reason in all its streams pauses in all of them, though no single one has
// failed often enough.
func TestG09GroupIsCountedOverItsStreams(t *testing.T) {
	eachBus(t, func(t *testing.T, open func(func(*Config)) *Bus) {
		b := open(nil)
		const streams, each = 12, 15
		g := GroupConfig{Group: "g", Policy: Policy{Attempts: 5, Backoff: func(int) time.Duration { return 20 * time.Second }}}
		var want []string
		var all []Event
		for i := range streams {
			name := fmt.Sprintf("s%02d", i)
			want = append(want, name)
			g.Patterns = append(g.Patterns, name+".*")
			for j := range each {
				all = append(all, Event{ID: fmt.Sprint(name, j), Type: name + ".x"})
			}
		}
		publish(t, b, all...)
		handle(t, b, g, AllStreams, func(context.Context, *Delivery) error { return errors.New("database is away") })
		awaitFact(t, "the pauses", func() bool { return slices.Equal(pausedStreams(t, b, "g"), want) })
		if p := b.Health(t.Context()).Streams[0].Groups[0].Paused; p.By != PausedByBreaker || p.Reason != "database is away" || p.Fingerprint == "" {
			t.Errorf("pause %+v", p)
		}
	})
}

// A stream that begins to fail when the group is paused at another one for the same reason is paused with
// its first failure; one that fails for another reason is not.
func TestG09PauseSpreadsToStreamsThatFailForTheSameReason(t *testing.T) {
	eachBus(t, func(t *testing.T, open func(func(*Config)) *Bus) {
		b := open(nil)
		hour := Policy{Backoff: func(int) time.Duration { return time.Hour }}
		g := GroupConfig{Group: "g", Patterns: []string{"first.*", "same.*", "other.*"}, Policy: hour}
		handle(t, b, g, AllStreams, func(_ context.Context, d *Delivery) error {
			if d.Stream == "other" {
				return errors.New("no such room")
			}
			return errors.New("database is away")
		})
		publish(t, b, events(1, "other.x")...)
		awaitGroup(t, b, "other", "g", func(g redisstream.GroupInfo) bool { return g.Deferred == 1 })
		pause := Pause{By: PausedByBreaker, Consumer: "peer", Fingerprint: group.Fingerprint(KindError, "database is away")}
		publish(t, b, events(1, "first.x")...)
		awaitGroup(t, b, "first", "g", func(g redisstream.GroupInfo) bool { return g.Deferred == 1 })
		if done, err := b.log.Pause(t.Context(), "first", "g", "", pauseText(pause)); !done || err != nil {
			t.Fatal(done, err)
		}
		publish(t, b, events(1, "same.x")...)
		awaitGroup(t, b, "same", "g", func(g redisstream.GroupInfo) bool { return g.Paused != "" })
		if got := pausedStreams(t, b, "g"); !slices.Equal(got, []string{"first", "same"}) {
			t.Errorf("paused at %v, want first and same", got)
		}
	})
}

// Several instances, none of which fails often enough, pause their group together. Each has a type of its
// own, so that it is known how many fail where.
func TestG09GroupIsCountedOverItsInstances(t *testing.T) {
	t.Parallel()
	cfg := Config{Redis: redistest.Shared(t).Options(), Namespace: redistest.Namespace(t)}
	const each = 8
	policy := Policy{Backoff: func(int) time.Duration { return time.Hour }}
	var all []Event
	var b *Bus
	for _, of := range []string{"a", "b", "c"} {
		b = openBus(t, cfg)
		g := GroupConfig{Group: "g", Patterns: []string{"booking." + of}, Policy: policy}
		handle(t, b, g, AllStreams, func(context.Context, *Delivery) error { return errors.New("database is away") })
		for i := range each {
			all = append(all, Event{ID: fmt.Sprint(of, i), Type: "booking." + of})
		}
	}
	publish(t, b, all...)
	awaitGroup(t, b, "booking", "g", func(g redisstream.GroupInfo) bool { return g.Paused != "" })
	if h := b.Health(t.Context()); hasProblem(h, "consumer-sick") {
		t.Errorf("problems %+v, want nobody sick", h.Problems)
	}
}

// An event that fails again and again remains one.
func TestG09FiveFailingEventsNeverPauseAGroup(t *testing.T) {
	eachBus(t, func(t *testing.T, open func(func(*Config)) *Bus) {
		b := open(nil)
		failed := newTally()
		g := GroupConfig{Group: "g", Patterns: []string{"booking.*"}, Policy: Policy{Attempts: 40, Backoff: atOnce}}
		handle(t, b, g, AllStreams, func(_ context.Context, d *Delivery) error {
			failed.add(fmt.Sprint(d.Event.ID, d.Attempt))
			return errors.New("no")
		})
		publish(t, b, events(5, "booking.created")...)
		failed.await(t, 5*40)
		awaitDead(t, b, "booking", "g", 5)
		if paused := pausedStreams(t, b, "g"); len(paused) > 0 || hasProblem(b.Health(t.Context()), "consumer-sick") {
			t.Errorf("paused: %v; problems %+v", paused, b.Health(t.Context()).Problems)
		}
	})
}

// Who asks for more time has not failed.
func TestG09PutOffIsNoFailure(t *testing.T) {
	eachBus(t, func(t *testing.T, open func(func(*Config)) *Bus) {
		b := open(nil)
		const n = 400
		off, done := newTally(), newTally()
		handle(t, b, GroupConfig{Group: "g", Patterns: []string{"booking.*"}}, AllStreams, func(_ context.Context, d *Delivery) error {
			if d.Origin == OriginFresh {
				off.add(d.Event.ID)
				return &RetryAfterError{Err: errors.New("not yet"), After: time.Millisecond}
			}
			done.add(d.Event.ID)
			return nil
		})
		publish(t, b, events(n, "booking.created")...)
		off.await(t, n)
		done.await(t, n)
		awaitSettled(t, b, "booking", "g")
		c := onlyConsumer(t, b)
		for range 2 { // the second one is sent when the first one is answered; a record lasts for a minute
			awaitFact(t, "the next beat", beatOf(t, b, c))
		}
		if c.IsPaused("booking") {
			t.Error("the group is paused")
		}
		asks := redisstream.Consumer{Group: "g", Name: "asks"}
		if beat, err := b.log.Beat(t.Context(), asks, "booking", redisstream.Say{}); beat.Failing || err != nil {
			t.Errorf("there is a record of failures, or %v", err)
		}
	})
}
