package main

import (
	"context"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"github.com/hibiken/asynq"

	"github.com/rishi-platform/millrace/internal/loadgen"
)

// runAsynq measures asynq: tasks with the same payload and headers, a handler that does nothing, a task that is done is deleted.
func runAsynq(ctx context.Context, s spec) (sample, error) {
	uuid.EnableRandPool() // Millrace does so as well
	m, err := newMeter(s)
	if err != nil {
		return nil, err
	}
	at := func(connections int) asynq.RedisClientOpt {
		return asynq.RedisClientOpt{Addr: s.Addr, PoolSize: connections}
	}
	var handled atomic.Int64
	server := asynq.NewServer(at(2*s.Handlers), asynq.Config{
		Concurrency: s.Handlers,
		// How long it pauses when it found nothing. The default of 1 s would be a third of what is measured.
		TaskCheckInterval: 10 * time.Millisecond,
		LogLevel:          asynq.FatalLevel,
	})
	if err := server.Start(asynq.HandlerFunc(func(context.Context, *asynq.Task) error { handled.Add(1); return nil })); err != nil {
		return nil, err
	}
	client := asynq.NewClient(at(s.Publishers))
	payload := loadgen.NewPayload(s.Payload)
	publish := func(loadgen.Share) error {
		headers := make(map[string]string, len(attributes))
		for _, a := range attributes {
			headers[a[0]] = a[1]
		}
		_, err := client.EnqueueContext(ctx, asynq.NewTaskWithHeaders(eventType, payload, headers))
		return err
	}

	redis, err := dial(s.Server)
	if err != nil {
		return nil, err
	}
	settled := func() (bool, error) {
		for _, list := range []string{"pending", "active"} {
			if n, err := redis.do("LLEN", "asynq:{default}:"+list); n != "0" || err != nil {
				return false, err
			}
		}
		return true, nil
	}
	if err := loadgen.Spread(ctx, s.Publishers, 1, s.Publishers, 0, publish); err != nil { // makes all connections
		return nil, err
	}
	if err := awaitSettled(ctx, &handled, s.Publishers, settled); err != nil {
		return nil, err
	}
	handled.Store(0)

	if err := m.start(); err != nil {
		return nil, err
	}
	if err := loadgen.Spread(ctx, s.Publishers, 1, s.Events, 0, publish); err != nil {
		return nil, err
	}
	if err := awaitSettled(ctx, &handled, s.Events, settled); err != nil {
		return nil, err
	}
	return m.stop(s.Events)
}
