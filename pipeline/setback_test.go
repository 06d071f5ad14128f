package pipeline

import (
	"context"
	"log/slog"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rishi-platform/millrace/internal/redisstream"
)

// refusal is an error that a server answers.
type refusal string

func (r refusal) Error() string { return string(r) }
func (refusal) RedisError()     {}

// failingSteps is a transport that takes nothing over.
type failingSteps struct {
	transport
	heals atomic.Bool
}

func (f *failingSteps) TakeOver(
	ctx context.Context, c redisstream.Consumer, stream string, p redisstream.Peer, most redisstream.Most,
) ([]redisstream.Delivered, error) {
	if !f.heals.Load() {
		return nil, refusal("ERR something is wrong")
	}
	return f.transport.TakeOver(ctx, c, stream, p, most)
}

// A step that fails at a stream again and again is said in the log once, and in health until it
// succeeds; one that fails now and then is not.
func TestG06StepThatFailsIsSaid(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		log := newLogged()
		b := openBus(t, Config{Logger: slog.New(log)})
		f := &failingSteps{transport: b.log}
		b.log = f
		joinAndLeave(t, b, "booking.created")
		publish(t, b, events(3, "booking.created")...)
		gone := redisstream.Consumer{Group: "g", Name: "gone"}
		if read, err := b.log.Read(t.Context(), gone, []string{"booking"}, 3, 0); err != nil || len(read) != 3 {
			t.Fatal(read, err)
		}
		if err := b.log.Leave(t.Context(), gone, "booking"); err != nil {
			t.Fatal(err)
		}
		handled := newTally()
		consume(t, b, GroupConfig{Group: "g", Patterns: []string{"booking.*"}}, AllStreams, handled.ack)
		hindered := func() (text string) {
			for _, p := range b.Health(t.Context()).Problems {
				if p.Code == "consumer-hindered" {
					text += p.Text
				}
			}
			return text
		}
		time.Sleep(5 * time.Second) // of the bubble's time
		if text := hindered(); text != "" {
			t.Errorf("after 5 s: %s", text)
		}
		time.Sleep(15 * time.Second)
		if text := hindered(); !strings.Contains(text, "take over") || !strings.Contains(text, "booking") || !strings.Contains(text, "something is wrong") {
			t.Errorf("after 20 s: %q", text)
		}
		if lines := log.with("can't take over"); len(lines) != 1 {
			t.Errorf("said %d times: %v", len(lines), lines)
		}
		f.heals.Store(true)
		time.Sleep(2 * beatEvery)
		synctest.Wait()
		handled.await(t, 3)
		if text := hindered(); text != "" {
			t.Errorf("in the end: %s", text)
		}
	})
}
