package router_test

import (
	"context"
	"encoding/binary"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/rishi-platform/millrace/internal/redistest"
	"github.com/rishi-platform/millrace/pipeline"
	"github.com/rishi-platform/millrace/router"
)

const (
	orderEvents   = 100_000
	orderSubjects = 64
	orderBatch    = 250
)

// order checks that the events of each subject come in the order of their numbers.
type order struct {
	mu    sync.Mutex
	last  map[string]uint64
	count int
	wrong int
	all   chan struct{} // closed when every event has come
}

func newOrder() *order { return &order{last: map[string]uint64{}, all: make(chan struct{})} }

func (o *order) see(e pipeline.Event) {
	n := binary.BigEndian.Uint64(e.Data)
	o.mu.Lock()
	defer o.mu.Unlock()
	if n <= o.last[e.Subject] {
		o.wrong++
	}
	o.last[e.Subject] = n
	if o.count++; o.count == orderEvents {
		close(o.all)
	}
}

// TestOrderAtFullSpeed publishes from one caller, as fast as it goes, while a group handles with Policy.PerSubject: neither in the stream
// nor in the handlers may one event of a subject overtake another.
func TestOrderAtFullSpeed(t *testing.T) {
	t.Parallel()
	bus, err := pipeline.Open(t.Context(), pipeline.Config{Redis: redistest.Shared(t).Options(), Namespace: redistest.Namespace(t), MaxLen: orderEvents})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := bus.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	handled := newOrder()
	r := router.New(bus, router.Config{})
	r.Group("g", router.Policy{PerSubject: true}).Handle("booking.*", func(_ context.Context, d *pipeline.Delivery) error {
		handled.see(d.Event)
		return nil
	})
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- r.Run(ctx) }()

	for n := 0; n < orderEvents; n += orderBatch {
		events := make([]pipeline.Event, orderBatch)
		for i := range events {
			number := uint64(n + i + 1)
			events[i] = pipeline.Event{Type: "booking.changed", Subject: fmt.Sprintf("booking/%d", number%orderSubjects), ContentType: "application/octet-stream", Data: binary.BigEndian.AppendUint64(nil, number)}
		}
		if _, err := bus.Publish(ctx, events...); err != nil {
			t.Fatal(err)
		}
	}
	stored := newOrder()
	for record, err := range bus.History(ctx, pipeline.Query{Source: pipeline.FromRedis}) {
		if err != nil {
			t.Fatal(err)
		}
		stored.see(record.Event)
	}
	if stored.wrong > 0 || stored.count != orderEvents {
		t.Errorf("stored: %d of %d out of order, want 0 of %d", stored.wrong, stored.count, orderEvents)
	}
	select {
	case <-handled.all:
	case <-time.After(time.Minute):
		t.Fatalf("handled %d of %d after a minute", handled.count, orderEvents)
	}
	if handled.wrong > 0 {
		t.Errorf("handled: %d of %d out of order", handled.wrong, handled.count)
	}
	stop()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}
