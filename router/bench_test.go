package router_test

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/rishi-platform/millrace/internal/redistest"
	"github.com/rishi-platform/millrace/pipeline"
	"github.com/rishi-platform/millrace/router"
)

// BenchmarkEndToEnd publishes by Redis, and handles and acknowledges by the router; package bench compares it with others.
func BenchmarkEndToEnd(b *testing.B) {
	for _, how := range []struct{ publishers, batch int }{{4, 128}, {64, 1}} {
		b.Run(fmt.Sprintf("publishers=%d/batch=%d", how.publishers, how.batch), func(b *testing.B) {
			bus, err := pipeline.Open(b.Context(), pipeline.Config{Redis: redistest.Shared(b).Options(), Namespace: redistest.Namespace(b)})
			if err != nil {
				b.Fatal(err)
			}
			defer bus.Close(context.Background())
			r := router.New(bus, router.Config{})
			var handled atomic.Int64
			all := make(chan struct{})
			r.Group("g", router.Policy{}).Handle("booking.*", func(context.Context, *pipeline.Delivery) error {
				if handled.Add(1) == int64(b.N) {
					close(all)
				}
				return nil
			})
			ctx, stop := context.WithCancel(b.Context())
			ended := make(chan error, 1)
			go func() { ended <- r.Run(ctx) }()

			data := make([]byte, 256)
			b.ReportAllocs()
			b.ResetTimer()
			var next atomic.Int64
			var publishers sync.WaitGroup
			for range how.publishers {
				publishers.Go(func() {
					for {
						from := next.Add(int64(how.batch)) - int64(how.batch)
						n := min(int64(how.batch), int64(b.N)-from)
						if n <= 0 {
							return
						}
						events := make([]pipeline.Event, n)
						for i := range events {
							events[i] = pipeline.Event{Type: "booking.created", Data: data}
						}
						if _, err := bus.Publish(ctx, events...); err != nil {
							b.Error(err)
							return
						}
					}
				})
			}
			publishers.Wait()
			<-all
			b.StopTimer()
			stop()
			if err := <-ended; err != nil {
				b.Error(err)
			}
		})
	}
}
