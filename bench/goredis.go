package main

import (
	"context"

	"github.com/google/uuid"
	"github.com/redis/go-redis/v9"

	"github.com/rishi-platform/millrace/internal/loadgen"
)

// runGoRedis measures what a service does that has a Redis client and no library: one XADD per event, from many goroutines, with a
// connection for each of them.
func runGoRedis(ctx context.Context, s spec) (sample, error) {
	uuid.EnableRandPool() // Millrace does so as well
	m, err := newMeter(s)
	if err != nil {
		return nil, err
	}
	client := redis.NewClient(&redis.Options{Addr: s.Addr, PoolSize: s.Publishers})
	metadata, payload := msgpackMetadata(), loadgen.NewPayload(s.Payload)
	publish := func(loadgen.Share) error {
		return client.XAdd(ctx, &redis.XAddArgs{
			Stream: stream, MaxLen: maxLen, Approx: true,
			Values: []any{"_watermill_message_uuid", uuid.NewString(), "metadata", metadata, "payload", payload},
		}).Err()
	}
	if err := loadgen.Spread(ctx, s.Publishers, 1, s.Publishers, 0, publish); err != nil {
		return nil, err
	}
	if err := m.start(); err != nil {
		return nil, err
	}
	if err := loadgen.Spread(ctx, s.Publishers, 1, s.Events, 0, publish); err != nil {
		return nil, err
	}
	return m.stop(s.Events)
}
