package pipeline

import (
	"context"
	"time"
)

// ServerCPU is the time that a Redis server has computed since it started, for all its clients.
type ServerCPU struct {
	Total      time.Duration // of all threads
	MainThread time.Duration // of the one that runs commands: what it takes per second is how busy the server is
}

// ServerCPU asks the Redis server that keeps the stream how much it has computed. The error is ErrDenied where the user has no right to
// INFO, as with some hosted servers, and ErrInvalid where there is no Redis.
func (b *Bus) ServerCPU(ctx context.Context, stream string) (ServerCPU, error) {
	if err := b.needsRedis("read cpu"); err != nil {
		return ServerCPU{}, err
	}
	cpu, err := b.redis.CPU(ctx, stream)
	if err != nil {
		return ServerCPU{}, b.redisError("read cpu", stream, err)
	}
	return ServerCPU{Total: cpu.Total, MainThread: cpu.Main}, nil
}

// Ping returns how long Redis takes to answer a command that would write if there were anything to write: the round trip of an idle
// connection, and what a bus looks at to tell whether it can publish. ErrInvalid where there is no Redis.
func (b *Bus) Ping(ctx context.Context) (time.Duration, error) {
	if err := b.needsRedis("ping"); err != nil {
		return 0, err
	}
	latency, err := b.redis.Ping(ctx)
	return latency, b.redisError("ping", "", err)
}

func (b *Bus) needsRedis(op string) error {
	if b.redis == nil {
		return invalidCall(op, "no redis is configured")
	}
	return nil
}
