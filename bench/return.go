package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/rishi-platform/millrace/pipeline"
)

// runReturn measures how long it takes after an outage, from the moment on at which Redis can be reached, until the bus is durable again,
// while events of a few hot subjects go on coming at half of the rate that it can take.
func runReturn(ctx context.Context, s spec) (sample, error) {
	rate, err := hottest(ctx, s)
	if err != nil {
		return nil, err
	}
	m, err := newMeter(s)
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "millrace-bench-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	var there atomic.Bool
	states := make(chan pipeline.State, 1000)
	bus, err := openAway(ctx, s, dir, &there, func(to pipeline.State) { states <- to })
	if err != nil {
		return nil, err
	}
	if err := awaitState(ctx, states, pipeline.StateSpooling); err != nil {
		return nil, err
	}
	traffic, stop := context.WithCancel(ctx)
	defer stop()
	ended := make(chan error, 1)
	go func() { _, err := publishHot(traffic, bus, s, rate/2); ended <- err }()
	select {
	case <-time.After(s.Window):
	case err := <-ended:
		return nil, err
	}
	if err := m.start(); err != nil {
		return nil, err
	}
	spooled := bus.Health(ctx).Published.Spooled
	begun := time.Now()
	there.Store(true)
	if err := awaitState(ctx, states, pipeline.StateDurable); err != nil {
		return nil, err
	}
	took := time.Since(begun)
	got, err := m.stop(int(spooled))
	stop()
	if err := errors.Join(err, <-ended); err != nil {
		return nil, err
	}
	got[durable] = took.Seconds()
	return got, nil
}

// hottest is how many events of the case a second a bus can publish.
func hottest(ctx context.Context, s spec) (float64, error) {
	bus, err := pipeline.Open(ctx, pipeline.Config{Redis: &redis.UniversalOptions{Addrs: []string{s.Addr}}, Service: service, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		return 0, err
	}
	defer bus.Close(ctx)
	const most = 3 * time.Second
	limited, cancel := context.WithTimeout(ctx, min(most, s.Window))
	defer cancel()
	n, err := publishHot(limited, bus, s, 0)
	return float64(n) / min(most, s.Window).Seconds(), err
}

// publishHot publishes until ctx ends, at so many events a second, or as fast as it can, and returns how many.
func publishHot(ctx context.Context, bus *pipeline.Bus, s spec, perSecond float64) (int64, error) {
	var published atomic.Int64
	data := []byte(`"` + strings.Repeat("x", s.Payload-2) + `"`)
	failed := make(chan error, s.Publishers)
	var callers sync.WaitGroup
	for caller := range s.Publishers {
		callers.Go(func() {
			var tick <-chan time.Time
			if perSecond > 0 {
				ticker := time.NewTicker(time.Duration(float64(s.Publishers) * float64(time.Second) / perSecond))
				defer ticker.Stop()
				tick = ticker.C
			}
			for i := caller; ctx.Err() == nil; i += s.Publishers {
				if tick != nil {
					select {
					case <-tick:
					case <-ctx.Done():
						return
					}
				}
				e := pipeline.Event{Type: fmt.Sprintf("s%d.published", i%s.Streams), Subject: fmt.Sprint("hot/", i%s.Subjects), Data: data}
				if _, err := bus.Publish(context.WithoutCancel(ctx), e); err != nil {
					failed <- err
					return
				}
				published.Add(1)
			}
		})
	}
	callers.Wait()
	close(failed)
	return published.Load(), <-failed
}
