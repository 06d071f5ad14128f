package router_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/rishi-platform/millrace/pipeline"
	"github.com/rishi-platform/millrace/router"
)

// mask hides a payload in its place, and the second time shows it again.
func mask(payload []byte) {
	for i := range payload {
		payload[i] ^= 0x5a
	}
}

// unmask decrypts in place, as a cipher does.
func unmask(next message.HandlerFunc) message.HandlerFunc {
	return func(msg *message.Message) ([]*message.Message, error) {
		mask(msg.Payload)
		return next(msg)
	}
}

// migrate brings an older form up to date.
func migrate(next message.HandlerFunc) message.HandlerFunc {
	return func(msg *message.Message) ([]*message.Message, error) {
		msg.Payload = bytes.ReplaceAll(msg.Payload, []byte("sum"), []byte("total"))
		return next(msg)
	}
}

// What middleware makes of the payload is what the handler gets, typed or not, in each attempt: what is
// stored stays as it is.
func TestG19MiddlewareChangesThePayload(t *testing.T) {
	everywhere(t, func(t *testing.T, open opener) {
		bus := open(pipeline.Config{})
		got := make(chan string, 10)
		result := func(ctx context.Context, kind string, d *pipeline.Delivery, data any) error {
			stored := bytes.Clone(pipeline.CurrentDelivery(ctx).Event.Data)
			mask(stored)
			got <- fmt.Sprintf("%s, attempt %d: %v of %s, stored is %s", kind, d.Attempt, data, d.Event.Data, stored)
			if d.Attempt == 1 {
				return errors.New("no")
			}
			return nil
		}
		r := newRouter(bus)
		r.Use(unmask, migrate)
		atOnce := func(int) time.Duration { return time.Millisecond }
		g := r.Group("billing", router.Policy{InFlight: 1, Backoff: atOnce})
		router.Handle(g, bookingCreated, func(ctx context.Context, m router.Message[booking]) error {
			return result(ctx, "typed", m.Delivery, m.Data.Total)
		})
		g.Handle("booking.*", func(ctx context.Context, d *pipeline.Delivery) error {
			return result(ctx, "plain", d, len(d.Event.Data))
		})
		start(t, r)

		const old, current = `{"sum":790}`, `{"total":790}`
		for kind, data := range map[string]any{"typed": 790, "plain": len(current)} {
			eventType := bookingCreated.Name
			if kind == "plain" {
				eventType = bookingCancelled.Name
			}
			payload := []byte(old)
			mask(payload)
			if _, err := bus.Publish(t.Context(), pipeline.Event{Type: eventType, Data: payload}); err != nil {
				t.Fatal(err)
			}
			for attempt := 1; attempt <= 2; attempt++ {
				want := fmt.Sprintf("%s, attempt %d: %v of %s, stored is %s", kind, attempt, data, current, old)
				if got := receive(t, got); got != want {
					t.Errorf("got  %s,\nwant %s", got, want)
				}
			}
		}
	})
}
