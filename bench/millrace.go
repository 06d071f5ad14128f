package main

import (
	"context"
	"log/slog"

	"github.com/redis/go-redis/v9"

	"github.com/rishi-platform/millrace/internal/loadgen"
	"github.com/rishi-platform/millrace/pipeline"
)

// runMillrace measures Millrace through its public API, configured as a user gets it, with a group on package router.
func runMillrace(ctx context.Context, s spec) (sample, error) {
	switch s.Kind {
	case kindIdle:
		return runIdle(ctx, s)
	case kindDrain:
		return runDrain(ctx, s)
	}
	m, err := newMeter(s)
	if err != nil {
		return nil, err
	}
	bus, err := pipeline.Open(ctx, pipeline.Config{
		Redis:      &redis.UniversalOptions{Addrs: []string{s.Addr}},
		Service:    service,
		HardMaxLen: maxLen / 2, // an append cuts at twice that
		Logger:     slog.New(slog.DiscardHandler),
	})
	if err != nil {
		return nil, err
	}
	cfg := loadgen.Config{
		Type: eventType, Group: group, Events: s.Events, Publishers: s.Publishers, Batch: s.Batch, Payload: s.Payload, Subjects: s.Subjects, Streams: s.Streams,
		Logger: slog.New(slog.DiscardHandler),
	}
	if s.Kind == kindLatency {
		cfg.Rate = latencyRate
	}

	switch s.Kind {
	case kindPublish, kindMemory:
		warmUp := cfg
		warmUp.Events = s.Publishers
		if _, err := loadgen.Publish(ctx, bus, warmUp); err != nil {
			return nil, err
		}
		if err := m.start(); err != nil {
			return nil, err
		}
		if _, err := loadgen.Publish(ctx, bus, cfg); err != nil {
			return nil, err
		}
		return m.stop(s.Events)

	case kindConsume:
		if err := fill(ctx, s); err != nil {
			return nil, err
		}
		if err := m.start(); err != nil {
			return nil, err
		}
		w, err := loadgen.Work(ctx, bus, cfg)
		if err != nil {
			return nil, err
		}
		if err := w.Settled(ctx, s.Events); err != nil {
			return nil, err
		}
		return m.stop(s.Events)
	}

	w, err := loadgen.Work(ctx, bus, cfg)
	if err != nil {
		return nil, err
	}
	if err := w.Ready(ctx); err != nil {
		return nil, err
	}
	if err := m.start(); err != nil {
		return nil, err
	}
	if _, err := loadgen.Publish(ctx, bus, cfg); err != nil {
		return nil, err
	}
	if err := w.Settled(ctx, s.Events); err != nil {
		return nil, err
	}
	got, err := m.stop(s.Events)
	if err != nil {
		return nil, err
	}
	got.addLatencies(w.Latencies())
	return got, nil
}
