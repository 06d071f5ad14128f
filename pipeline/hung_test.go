package pipeline

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// problems returns those of one code that health has.
func problems(t *testing.T, b *Bus, code string) []Problem {
	t.Helper()
	var found []Problem
	for _, p := range b.Health(t.Context()).Problems {
		if p.Code == code {
			found = append(found, p)
		}
	}
	return found
}

// wantStuck holds health to name one handler that has run since a time.
func wantStuck(t *testing.T, b *Bus, id string, since time.Time) {
	t.Helper()
	got := problems(t, b, "handler-stuck")
	if len(got) != 1 || got[0].Severity != SeverityError || got[0].Hint == "" {
		t.Fatalf("problems %+v, want one", got)
	}
	for _, part := range []string{"group g ", "stream booking ", "booking.created " + id, since.UTC().Format(time.RFC3339), "10m0s"} {
		if !strings.Contains(got[0].Text, part) {
			t.Errorf("health says %q, without %q", got[0].Text, part)
		}
	}
}

// A handler that has no timeout and does not return is a problem after ten minutes, whoever has its event
// by then, until it returns.
func TestG19HungHandlerWithoutTimeout(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := openBus(t, Config{})
		goOn := make(chan struct{})
		release := sync.OnceFunc(func() { close(goOn) })
		defer release()
		var hung *Delivery
		handle(t, b, GroupConfig{Group: "g", Patterns: []string{"booking.*"}}, AllStreams, func(_ context.Context, d *Delivery) error {
			if d.Event.ID == "hung" {
				hung = d
				<-goOn
			}
			return nil
		})
		publish(t, b, Event{ID: "before", Type: "booking.created"})
		time.Sleep(time.Minute) // of the bubble's time
		publish(t, b, Event{ID: "hung", Type: "booking.created"}, Event{ID: "after", Type: "booking.created"})
		began := time.Now()
		time.Sleep(hungAfter - time.Second)
		if got := problems(t, b, "handler-stuck"); len(got) > 0 {
			t.Errorf("problems before its time is up: %+v", got)
		}
		time.Sleep(2 * time.Second)
		synctest.Wait()
		wantStuck(t, b, "hung", began)
		if got := problems(t, b, "delivery-unsettled"); len(got) > 0 {
			t.Errorf("what is named already is named again: %+v", got)
		}
		r, err := b.Group(t.Context(), "booking", "g")
		if err != nil || r.OldestUnackedSeconds == nil || *r.OldestUnackedSeconds != (hungAfter+time.Second).Seconds() {
			t.Errorf("report %+v, error %v, want the age of what hangs", r, err)
		}
		onlyConsumer(t, b).Lose(hung.holding.Ref())
		wantStuck(t, b, "hung", began)
		release()
		synctest.Wait()
		if got := problems(t, b, "handler-stuck"); len(got) > 0 {
			t.Errorf("problems after it has returned: %+v", got)
		}
	})
}

// Under a foreign router a message that is neither acked nor nacked counts from the time when the router
// has taken it. One that waits to be taken does not run.
func TestG19HungHandlerOfAForeignRouter(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := openBus(t, Config{})
		sub := b.Subscriber(GroupConfig{Group: "g", Patterns: []string{"booking.*"}})
		messages, err := sub.Subscribe(t.Context(), AllStreams)
		if err != nil {
			t.Fatal(err)
		}
		publish(t, b, Event{ID: "first", Type: "booking.created"}, Event{ID: "second", Type: "booking.created"})
		time.Sleep(2 * hungAfter) // of the bubble's time
		if got := problems(t, b, "handler-stuck"); len(got) > 0 {
			t.Errorf("problems before one was taken: %+v", got)
		}
		first := <-messages
		began := time.Now()
		time.Sleep(hungAfter + time.Second)
		wantStuck(t, b, "first", began)
		first.Ack()
		synctest.Wait()
		if got := problems(t, b, "handler-stuck"); len(got) > 0 {
			t.Errorf("problems after the ack: %+v", got)
		}
	})
}

// However much else is wrong, ten handlers are named, those first that have run longest, and the others
// are counted.
func TestG19ManyHungHandlersAreCounted(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := openBus(t, Config{})
		goOn := make(chan struct{})
		release := sync.OnceFunc(func() { close(goOn) })
		defer release()
		handle(t, b, GroupConfig{Group: "g", Patterns: []string{"booking.*"}}, AllStreams, func(context.Context, *Delivery) error {
			<-goOn
			return nil
		})
		for i := range maxStuck { // groups with work and without a consumer
			g := GroupConfig{Group: fmt.Sprint("idle", i), Patterns: []string{"booking.*"}}
			_ = consume(t, b, g, "booking", newTally().ack).Close()
		}
		for i := range maxStuck + 3 {
			publish(t, b, Event{ID: fmt.Sprintf("e-%02d", i), Type: "booking.created"})
			time.Sleep(time.Second)
		}
		time.Sleep(hungAfter)
		got := problems(t, b, "handler-stuck")
		if len(got) != maxStuck+1 {
			t.Fatalf("%d problems, want %d", len(got), maxStuck+1)
		}
		for i, p := range got[:maxStuck] {
			if id := fmt.Sprintf("e-%02d", i); !strings.Contains(p.Text, id) {
				t.Errorf("problem %d is %q, want %s", i, p.Text, id)
			}
		}
		if last := got[maxStuck].Text; !strings.HasPrefix(last, "3 more") {
			t.Errorf("the last one is %q, want 3 more", last)
		}
	})
}
