package pipeline

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

// A webhook, a deploy or a database that is down for two hours makes no dead letters: the attempts
// of a group with the defaults end about 2.5 hours after the first, in virtual time.
func TestG10DefaultsOutlastTwoHours(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := openBus(t, Config{})
		var begun []time.Time
		g := GroupConfig{Group: "g", Patterns: []string{"booking.*"}}
		handle(t, b, g, AllStreams, func(context.Context, *Delivery) error {
			begun = append(begun, time.Now())
			return errors.New("no")
		})
		publish(t, b, Event{Type: "booking.created"})
		time.Sleep(4 * time.Hour) // of the bubble's time
		synctest.Wait()
		if len(begun) != 20 {
			t.Fatalf("got %d attempts, want 20", len(begun))
		}
		// 2 h 32 min on average; each wait is off by 20 % at most.
		if took := begun[19].Sub(begun[0]); took < 2*time.Hour || took > 3*time.Hour+3*time.Minute {
			t.Errorf("the attempts took %v, want about 2.5 h", took)
		}
		if d := onlyDead(t, b, "booking", "g"); d.Attempts != 20 || d.Kind != KindError {
			t.Errorf("dead letter %+v", d)
		}
	})
}

// What docs/operations.md says that the defaults sum up to.
func TestG10SumOfTheDefaultBackoff(t *testing.T) {
	t.Parallel()
	const rounds = 200
	var sum time.Duration
	for range rounds {
		for failures := 1; failures < (GroupConfig{}).withDefaults().Policy.Attempts; failures++ {
			sum += DefaultBackoff(failures)
		}
	}
	if got, want := sum/rounds, 2*time.Hour+32*time.Minute+3*time.Second; (got - want).Abs() > 5*time.Minute {
		t.Errorf("the waits sum up to %v, want about %v", got, want)
	}
}
