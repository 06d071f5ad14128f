package router_test

import (
	"context"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rishi-platform/millrace/pipeline"
	"github.com/rishi-platform/millrace/router"
)

// waitForSomething is where the handler of the test hangs.
func waitForSomething(something <-chan struct{}) { <-something }

// A handler that hangs is named with its stack where the group has no timeout, too.
func TestG19HungHandlerHasItsStack(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		bus := open(t, pipeline.Config{})
		r := newRouter(bus)
		goOn := make(chan struct{})
		defer close(goOn)
		r.Group("billing", router.Policy{}).Handle("booking.created", func(_ context.Context, d *pipeline.Delivery) error {
			if d.Event.ID == "hung" {
				waitForSomething(goOn)
			}
			return nil
		})
		start(t, r)
		for _, id := range []string{"fine", "hung", "too"} {
			if _, err := bus.Publish(t.Context(), pipeline.Event{ID: id, Type: "booking.created"}); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(11 * time.Minute) // of the bubble's time
		var found []string
		for _, p := range bus.Health(t.Context()).Problems {
			if p.Code == "handler-stuck" {
				found = append(found, p.Text)
			}
		}
		if len(found) != 1 || !strings.Contains(found[0], " hung ") || !strings.Contains(found[0], "waitForSomething") {
			t.Errorf("health names %q, want the event, and where its handler is", found)
		}
	})
}
