package memstream

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rishi-platform/millrace/internal/redisstream"
)

// A publish in memory cost as much as there were streams that somebody waited for: 11,375 a second with one, 334 with 500.
func TestP12PublishWakesOnlyWhoWaitsForItsStream(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m := New(100)
		publish := func(stream string) {
			if _, _, err := m.Append(t.Context(), stream, redisstream.Writer{}, make([]redisstream.Message, 1)); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
		}
		looks := 0
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error)
		go func() {
			ended <- m.await(ctx, time.Hour, []string{"booking", "payment"}, func() bool { looks++; return false })
		}()
		for _, step := range []struct {
			stream string
			looks  int
		}{{"shipment", 1}, {"booking", 2}, {"shipment", 2}, {"payment", 3}, {"booking", 4}} {
			if publish(step.stream); looks != step.looks {
				t.Errorf("after an event in %s: looked %d times, want %d", step.stream, looks, step.looks)
			}
		}
		cancel()
		if err := <-ended; err == nil {
			t.Error("waiting ended without an error though its context has ended")
		}
		if len(m.waiting) > 0 {
			t.Errorf("still told: %v", m.waiting)
		}
	})
}
