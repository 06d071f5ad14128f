package handlers

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"testing"
	"time"

	"github.com/rishi-platform/millrace/internal/redistest"
	"github.com/rishi-platform/millrace/pipeline"
	"github.com/rishi-platform/millrace/router"
)

// marks is a store that fails as it is told.
type marks struct {
	marked          map[string]bool
	doneErr         error
	refuseMarks     int
	asked, attempts int
}

func (m *marks) Done(_ context.Context, d *pipeline.Delivery) (bool, error) {
	m.asked++
	return m.marked[d.Group+d.Event.ID], m.doneErr
}

func (m *marks) Mark(ctx context.Context, d *pipeline.Delivery) error {
	m.attempts++
	if m.refuseMarks >= m.attempts {
		return errors.New("away")
	}
	m.marked[d.Group+d.Event.ID] = true
	return ctx.Err()
}

func TestOnce(t *testing.T) {
	t.Parallel()
	refused := errors.New("refused")
	ended, end := context.WithCancel(t.Context())
	end()
	for name, test := range map[string]struct {
		store  marks
		ctx    context.Context
		err    error // of the handler
		called bool
		marked bool
		want   error
	}{
		"a new event":                         {called: true, marked: true},
		"one that is done":                    {store: marks{marked: map[string]bool{"maile-1": true}}, marked: true},
		"one that another group has done":     {store: marks{marked: map[string]bool{"billinge-1": true}}, called: true, marked: true},
		"one that fails":                      {err: refused, called: true, want: refused},
		"store is away":                       {store: marks{doneErr: refused}, want: refused},
		"store is away for a moment":          {store: marks{refuseMarks: 2}, called: true, marked: true},
		"handler outlives its ctx":            {ctx: ended, called: true},
		"handler fails at the end of its ctx": {ctx: ended, err: refused, called: true, want: refused},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			store, called := test.store, false
			if store.marked == nil {
				store.marked = map[string]bool{}
			}
			ctx := test.ctx
			if ctx == nil {
				ctx = t.Context()
			}
			err := Once(&store, func(context.Context, *pipeline.Delivery) error { called = true; return test.err })(ctx, delivery("{}"))
			if called != test.called || store.marked["maile-1"] != test.marked || !errors.Is(err, test.want) || (err == nil) != (test.want == nil) {
				t.Errorf("called %v, marked %v, %v; want %v, %v, %v", called, store.marked["maile-1"], err, test.called, test.marked, test.want)
			}
			var later *pipeline.RetryAfterError
			if test.store.doneErr != nil && !errors.As(err, &later) {
				t.Errorf("a store that is away costs an attempt: %v", err)
			}
		})
	}
}

// A failure marks nothing: the event comes again and is handled. And what tells two events apart is their identity, not their payload.
func TestF37MarkedAfterSuccessByIdentity(t *testing.T) {
	t.Parallel()
	for name, cfg := range map[string]pipeline.Config{
		"memory": {},
		"redis":  {Redis: redistest.Shared(t).Options(), Namespace: redistest.Namespace(t)},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			bus, err := pipeline.Open(t.Context(), cfg)
			if err != nil {
				t.Fatal(err)
			}
			r := router.New(bus, router.Config{Logger: slog.New(slog.DiscardHandler)})
			runs := make(chan string, 20)
			r.Group("g", router.Policy{Backoff: func(int) time.Duration { return 0 }}).Handle("booking.*", Once(bus.OnceStore(0), func(_ context.Context, d *pipeline.Delivery) error {
				runs <- fmt.Sprintf("%s, attempt %d", d.Event.ID, d.Attempt)
				if d.Event.ID == "flaky" && d.Attempt == 1 {
					return errors.New("refused")
				}
				return nil
			}))
			ctx, stop := context.WithCancel(t.Context())
			ended := make(chan error, 1)
			go func() { ended <- r.Run(ctx) }()
			expect := func(want ...string) {
				t.Helper()
				got := map[string]bool{}
				for range want {
					select {
					case run := <-runs:
						got[run] = true
					case <-time.After(20 * time.Second):
					}
				}
				for _, w := range want {
					if !got[w] {
						t.Errorf("ran %v, want %q", got, w)
					}
				}
			}
			publish := func(ids ...string) {
				t.Helper()
				for _, id := range ids {
					if _, err := bus.Publish(ctx, pipeline.Event{ID: id, Type: "booking.created", Source: "test", Data: []byte("same")}); err != nil {
						t.Fatal(err)
					}
				}
			}
			publish("one", "other", "flaky")
			expect("one, attempt 1", "other, attempt 1", "flaky, attempt 1", "flaky, attempt 2")
			publish("one", "other", "flaky", "last") // the first three again: a producer that repeats itself
			expect("last, attempt 1")
			stop()
			if err := <-ended; err != nil {
				t.Error(err)
			}
			if err := bus.Close(context.Background()); err != nil {
				t.Error(err)
			}
			close(runs)
			for run := range runs {
				t.Errorf("ran once more: %s", run)
			}
		})
	}
}
