package pipeline

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/rishi-platform/millrace/internal/redistest"
)

// One event that always fails among 10,000 good ones: they do not wait for it, and each of its attempts comes when the deferred set says that it is due,
// to 10 % of the wait on a quiet machine, before it is a dead letter.
func TestF15AttemptsComeWhenTheyAreDue(t *testing.T) {
	t.Parallel()
	server, namespace := redistest.Shared(t), redistest.Namespace(t)
	b := openBus(t, Config{Redis: server.Options(), Namespace: namespace})
	client, key := server.Client(t), "{"+namespace+":booking}:deferred:g"
	good, failures := newTally(), make(chan time.Time, 10)
	handle(t, b, GroupConfig{Group: "g", Policy: Policy{Attempts: 4}}, "booking", func(_ context.Context, d *Delivery) error {
		if d.Event.ID != "bad" {
			good.add(d.Event.ID)
			return nil
		}
		failures <- time.Now()
		return errors.New("no")
	})
	publish(t, b, Event{ID: "bad", Type: "booking.created"})
	failed := within(t, "the first attempt", failures)
	recorded := func() (due time.Time) {
		awaitFact(t, "the recorded due time", func() bool {
			waiting := client.ZRangeWithScores(t.Context(), key, 0, -1).Val()
			if len(waiting) == 1 {
				due = time.UnixMilli(int64(waiting[0].Score))
			}
			return len(waiting) == 1
		})
		return due
	}
	due := recorded()
	var all []Event
	for i := range 10_000 {
		all = append(all, Event{ID: fmt.Sprint(i), Type: "booking.created"})
	}
	var publishing sync.WaitGroup // beside the attempts, however long it takes
	defer publishing.Wait()
	publishing.Go(func() {
		for chunk := range slices.Chunk(all, 500) {
			if _, err := b.Publish(t.Context(), chunk...); err != nil {
				t.Errorf("publish: %v", err)
			}
		}
	})
	for attempt := 2; attempt <= 4; attempt++ {
		if attempt > 2 {
			due = recorded()
		}
		at := within(t, fmt.Sprint("attempt ", attempt), failures)
		wait, off := due.Sub(failed), at.Sub(due)
		t.Logf("attempt %d: due after %v, came %v later", attempt, wait.Round(time.Millisecond), off.Round(time.Millisecond))
		if off < -time.Millisecond || off > max(wait/10, 500*time.Millisecond) { // half a second for the tests that run beside it
			t.Errorf("attempt %d was due after %v and came %v off", attempt, wait, off)
		}
		failed = at
	}
	good.await(t, 10_000)
	awaitDead(t, b, "booking", "g", 1)
}
