package handlers

import (
	"context"
	"errors"
	"testing"

	"github.com/rishi-platform/millrace/pipeline"
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
