package pipeline

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/rishi-platform/millrace/internal/redisstream"
	"github.com/rishi-platform/millrace/internal/redistest"
)

// 16,384 events of 1 MiB in front of each of four writers would be 64 GiB.
func TestP15QueueIsBoundedInBytes(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWriter(&Bus{cfg: Config{QueueEvents: 100, QueueBytes: 10_000}}, "w")
		q := w.queue("booking")
		q.working = true // this test does the work
		events := func(n, bytes int) (events []*pending, of *call) {
			of = newCall(n)
			for i := range n {
				events = append(events, &pending{call: of, index: i, stream: "booking", message: redisstream.Message{Payload: string(make([]byte, bytes))}})
			}
			return events, of
		}
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan struct{})
		three, _ := events(3, 4_000)
		go func() { w.put(ctx, three); ended <- struct{}{} }()
		if synctest.Wait(); len(q.events) != 2 {
			t.Fatalf("%d events of 4 kB wait in a queue of 10 kB, want 2", len(q.events))
		}
		q.take()
		<-ended // the third has room
		q.take()
		large, _ := events(1, 50_000)
		w.put(ctx, large) // into an empty queue

		one, of := events(1, 1)
		go func() { w.put(ctx, one); ended <- struct{}{} }()
		synctest.Wait()
		cancel()
		<-ended
		if o := of.take()[0]; o.Durability != Refused || !errors.Is(o.Err, ErrBackPressure) {
			t.Errorf("got %s, %v; want it refused since the queue is full", o.Durability, o.Err)
		}
	})
}

// The state changes while events go through: who looks at it twice spools nothing the first time, and refuses the second.
func TestP15ChangeOfStateRefusesNothing(t *testing.T) {
	t.Parallel()
	b := openBus(t, Config{Redis: redistest.Shared(t).Options(), Namespace: redistest.Namespace(t), SpoolDir: t.TempDir()})
	flip := func(s State) {
		b.link.mu.Lock()
		defer b.link.mu.Unlock()
		b.link.state = s
	}
	done := make(chan struct{})
	var publishers, flipping sync.WaitGroup
	flipping.Go(func() {
		for {
			select {
			case <-done:
				flip(StateDurable)
				return
			default:
				flip(StateSpooling)
				flip(StateDurable)
			}
		}
	})
	for i := range 8 {
		publishers.Go(func() {
			for n := range 250 {
				receipt, err := b.Publish(t.Context(), Event{ID: fmt.Sprintf("%d-%d", i, n), Type: "booking.created"})
				if err != nil {
					t.Errorf("refused: %v, %+v", err, receipt.Outcomes)
					return
				}
			}
		})
	}
	publishers.Wait()
	close(done)
	flipping.Wait()
	b.link.suspect()
}
