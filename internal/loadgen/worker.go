package loadgen

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/rishi-platform/millrace/pipeline"
	"github.com/rishi-platform/millrace/router"
)

// lookEvery is the pause between two looks at what cannot be waited for.
const lookEvery = time.Millisecond

// Worker is one instance of the group. Work makes one, Stop ends it.
type Worker struct {
	cfg     Config
	bus     *pipeline.Bus
	before  int64 // what Progress had already
	latency Latencies
	cancel  context.CancelFunc
	ended   chan struct{}
	err     error // what Run returned; read after ended
}

// Work joins the group and begins to handle.
func Work(ctx context.Context, bus *pipeline.Bus, cfg Config) (*Worker, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, fmt.Errorf("configure load: %w", err)
	}
	w := &Worker{cfg: cfg, bus: bus, before: cfg.Progress.Handled.Load(), ended: make(chan struct{})}
	r := router.New(bus, router.Config{Logger: cfg.Logger})
	r.Group(cfg.Group, cfg.Policy).Handle(cfg.Type, w.handle)
	ctx, w.cancel = context.WithCancel(ctx)
	go func() {
		defer close(w.ended)
		w.err = r.Run(ctx)
	}()
	return w, nil
}

// handle is the handler that does nothing: what is measured is the way to it and back.
func (w *Worker) handle(_ context.Context, d *pipeline.Delivery) error {
	if w.cfg.Rate > 0 {
		if age, stamped := Age(d.Event.Data); stamped {
			w.latency.Add(age)
		}
	}
	w.cfg.Progress.Handled.Add(1)
	return nil
}

// Handled returns how often an event was handled; what Ready sent does not count.
func (w *Worker) Handled() int { return int(w.cfg.Progress.Handled.Load() - w.before) }

// Latencies are those from the call of Publish to the handler, of events that were published at a rate by this process.
func (w *Worker) Latencies() *Latencies { return &w.latency }

// Ready publishes one event, which does not count, and returns when it was handled: then the group is joined, connections are
// made and scripts are loaded. It is not for a worker that has a backlog.
func (w *Worker) Ready(ctx context.Context) error {
	first := w.cfg
	first.Events, first.Publishers, first.Batch, first.Subjects, first.Rate, first.Progress = 1, 1, 1, 0, 0, nil
	if _, err := Publish(ctx, w.bus, first); err != nil {
		return err
	}
	if err := w.Settled(ctx, 1); err != nil {
		return err
	}
	w.cfg.Progress.Handled.Add(-int64(w.Handled()))
	return nil
}

// Settled returns when n events have been handled and nothing of the group is unread or unacknowledged any more.
func (w *Worker) Settled(ctx context.Context, n int) error {
	for {
		if w.Handled() >= n && w.settled(ctx) {
			return nil
		}
		select {
		case <-time.After(lookEvery):
		case <-w.ended:
			return errors.Join(errors.New("worker has ended early"), w.err)
		case <-ctx.Done():
			return fmt.Errorf("wait for %d events, %d have been handled: %w", n, w.Handled(), context.Cause(ctx))
		}
	}
}

// settled asks health, which is what an operator sees as well.
func (w *Worker) settled(ctx context.Context) bool {
	for _, s := range w.bus.Health(ctx).Streams {
		for _, g := range s.Groups {
			if s.Name == pipeline.StreamOf(w.cfg.Type) && g.Name == w.cfg.Group {
				return g.Pending == 0 && g.Deferred == 0 && g.Lag != nil && *g.Lag == 0
			}
		}
	}
	return false
}

// Stop drains the worker and returns what its router did.
func (w *Worker) Stop() error {
	w.cancel()
	<-w.ended
	return w.err
}
