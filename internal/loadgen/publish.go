package loadgen

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/rishi-platform/millrace/pipeline"
)

// Published is what Publish did.
type Published struct {
	Events  int // that were stored
	Elapsed time.Duration
}

// Publish publishes until Events or For is reached or ctx ends. It stops at the first error of the bus. An event counts when its
// receipt says that it is stored (in memory: kept).
func Publish(ctx context.Context, bus *pipeline.Bus, cfg Config) (Published, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return Published{}, fmt.Errorf("configure load: %w", err)
	}
	begin := time.Now() // before the timer: what ends by it has taken at least so long
	bounded := ctx
	if cfg.For > 0 {
		var cancel context.CancelFunc
		bounded, cancel = context.WithTimeout(ctx, cfg.For)
		defer cancel()
	}
	calls := make([][]pipeline.Event, cfg.Publishers)
	for i := range calls {
		calls[i] = newCall(cfg)
	}
	subjects := make([]string, cfg.Subjects)
	for i := range subjects {
		subjects[i] = fmt.Sprintf("subject/%d", i)
	}

	types := make([]string, cfg.Streams)
	for i := range types {
		word, rest, _ := strings.Cut(cfg.Type, ".")
		types[i] = fmt.Sprintf("%s%d.%s", word, i, rest)
	}

	before := cfg.Progress.Published.Load()
	err = Spread(bounded, cfg.Publishers, cfg.Batch, cfg.Events, cfg.Rate, func(s Share) error {
		events := calls[s.Worker][:s.Count] // may be used again: the bus copies what it keeps
		for i := range events {
			if len(subjects) > 0 {
				events[i].Subject = subjects[(s.First+i)%len(subjects)]
			}
			if len(types) > 0 {
				events[i].Type = types[(s.First+i)%len(types)]
			}
			if cfg.Rate > 0 {
				Stamp(events[i].Data)
			}
		}
		// With ctx, not with bounded: what was begun is finished and counted.
		if _, err := bus.Publish(ctx, events...); err != nil {
			return err
		}
		cfg.Progress.Published.Add(int64(s.Count))
		return nil
	})
	p := Published{Events: int(cfg.Progress.Published.Load() - before), Elapsed: time.Since(begin)}
	if err != nil {
		return p, fmt.Errorf("publish: %w", err)
	}
	return p, context.Cause(ctx)
}

// newCall returns the events of one call, each with a payload of its own.
func newCall(cfg Config) []pipeline.Event {
	events := make([]pipeline.Event, cfg.Batch)
	for i := range events {
		events[i] = pipeline.Event{Type: cfg.Type, Data: NewPayload(cfg.Payload)}
	}
	return events
}
