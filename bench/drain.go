package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"strings"
	"sync/atomic"
	"syscall"

	"github.com/redis/go-redis/v9"

	"github.com/rishi-platform/millrace/pipeline"
)

// runDrain has events spooled while Redis can't be reached, and measures from the moment on at which it
// counts as there again, until all are there.
func runDrain(ctx context.Context, s spec) (sample, error) {
	if s.Subjects > 0 {
		return runReturn(ctx, s)
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
	states := make(chan pipeline.State, 10)
	began := make(chan error, 1)
	bus, err := openAway(ctx, s, dir, &there, func(to pipeline.State) {
		if to == pipeline.StateDraining {
			began <- m.start()
		}
		states <- to
	})
	if err != nil {
		return nil, err
	}
	if err := awaitState(ctx, states, pipeline.StateSpooling); err != nil {
		return nil, err
	}
	if err := publishSpooled(ctx, bus, s); err != nil {
		return nil, err
	}
	there.Store(true)
	if err := awaitState(ctx, states, pipeline.StateDraining); err != nil {
		return nil, err
	}
	if err := <-began; err != nil {
		return nil, err
	}
	if err := awaitState(ctx, states, pipeline.StateDurable); err != nil {
		return nil, err
	}
	return m.stop(s.Events)
}

// openAway opens a bus with a spool that reaches Redis as soon as there says so.
func openAway(ctx context.Context, s spec, dir string, there *atomic.Bool, state func(to pipeline.State)) (*pipeline.Bus, error) {
	var dialer net.Dialer
	return pipeline.Open(ctx, pipeline.Config{
		Redis: &redis.UniversalOptions{Addrs: []string{s.Addr}, Dialer: func(ctx context.Context, network, addr string) (net.Conn, error) {
			if !there.Load() {
				return nil, &net.OpError{Op: "dial", Net: network, Err: syscall.ECONNREFUSED}
			}
			return dialer.DialContext(ctx, network, addr)
		}},
		Service:  service,
		SpoolDir: dir,
		Logger:   slog.New(slog.DiscardHandler),
		Hooks:    pipeline.Hooks{State: func(_, to pipeline.State, _ error) { state(to) }},
	})
}

// awaitState waits for a state of a bus.
func awaitState(ctx context.Context, states <-chan pipeline.State, want pipeline.State) error {
	for {
		select {
		case got := <-states:
			if got == want {
				return nil
			}
		case <-ctx.Done():
			return fmt.Errorf("state %s: %w", want, context.Cause(ctx))
		}
	}
}

// publishSpooled publishes the events of a case, which must be spooled.
func publishSpooled(ctx context.Context, bus *pipeline.Bus, s spec) error {
	ended := make(chan error, s.Publishers)
	for range s.Publishers {
		go func() { ended <- publishInTurns(ctx, bus, s, s.Events/s.Publishers) }()
	}
	var err error
	for range s.Publishers {
		err = errors.Join(err, <-ended)
	}
	return err
}

// publishInTurns publishes n events; each is of another stream than the one before.
func publishInTurns(ctx context.Context, bus *pipeline.Bus, s spec, n int) error {
	data := []byte(`"` + strings.Repeat("x", s.Payload-2) + `"`)
	for ; n > 0; n -= s.Batch {
		events := make([]pipeline.Event, min(s.Batch, n))
		for i := range events {
			events[i] = pipeline.Event{Type: fmt.Sprintf("s%d.published", i%s.Streams), Data: data}
		}
		r, err := bus.Publish(ctx, events...)
		if err != nil {
			return err
		}
		if r.Durability() != pipeline.Spooled {
			return fmt.Errorf("events are %v, want them spooled", r.Durability())
		}
	}
	return nil
}
