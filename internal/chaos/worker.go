package chaos

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"os"
	"time"

	"github.com/rishi-platform/millrace/handlers"
	"github.com/rishi-platform/millrace/pipeline"
	"github.com/rishi-platform/millrace/router"
)

// Work opens a bus, handles events of the stream "chaos" in both groups until ctx ends, drains, and reports each run to out. The handlers of a
// sick one all fail.
func Work(ctx context.Context, cfg pipeline.Config, out io.Writer, log *slog.Logger, sick bool) error {
	bus, err := pipeline.Open(ctx, cfg)
	if err != nil {
		return err
	}
	r := router.New(bus, router.Config{Logger: log, DrainTimeout: 10 * time.Second})
	policy := router.Policy{InFlight: 128, Backoff: func(failures int) time.Duration { return time.Duration(failures) * 200 * time.Millisecond }}
	recorded := func(ctx context.Context, d *pipeline.Delivery) error {
		run := Record{Group: d.Group, ID: d.Event.ID, Attempt: d.Attempt, Begin: true, At: time.Now()}
		run.write(out)
		err := obey(ctx, d)
		if sick {
			err = errors.New("worker is sick")
		}
		run.Begin, run.At = false, time.Now()
		if err != nil {
			run.Error = err.Error()
		}
		run.write(out)
		return err
	}
	for _, name := range []string{Steady, Flaky} {
		r.Group(name, policy).Handle(EventType, recorded)
	}
	policy.CrashLimit = 2
	once := handlers.Once(bus.OnceStore(time.Hour), recorded)
	r.Group(Deadly, policy).Handle(DeadlyType, func(ctx context.Context, d *pipeline.Delivery) error {
		err := once(ctx, d)
		if orderOf(d).Die == Unsent && !d.Claimed {
			os.Exit(dieCode)
		}
		return err
	})
	err = r.Run(ctx)
	closing, cancel := context.WithTimeout(context.WithoutCancel(ctx), 15*time.Second)
	defer cancel()
	return errors.Join(err, bus.Close(closing))
}

// The types of events: each is a stream of its own.
const (
	EventType  = "chaos.happened"
	DeadlyType = "deadly.happened"
)

// dieCode is the exit code of a process that was ordered to die.
const dieCode = 9

func orderOf(d *pipeline.Delivery) (o Order) {
	_ = json.Unmarshal(d.Event.Data, &o) // obey says what is wrong with it
	return o
}

// obey does what the event orders.
func obey(ctx context.Context, d *pipeline.Delivery) error {
	var order Order
	if err := json.Unmarshal(d.Event.Data, &order); err != nil {
		return router.Permanent(err)
	}
	if order.Die == Always {
		os.Exit(dieCode)
	}
	select {
	case <-time.After(order.Wait):
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	switch {
	case d.Group != Flaky:
		return nil
	case order.Permanent:
		return router.Permanent(errors.New("ordered to give up"))
	case d.Attempt-d.Crashes <= order.Fails:
		return errors.New("ordered to fail")
	}
	return nil
}
