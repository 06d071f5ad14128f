package main

import (
	"context"
	"fmt"
	"sync/atomic"

	"github.com/ThreeDotsLabs/watermill"
	"github.com/ThreeDotsLabs/watermill-redisstream/pkg/redisstream"
	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/google/uuid"
	"github.com/redis/go-redis/v9"

	"github.com/rishi-platform/millrace/internal/loadgen"
)

// runWatermill measures watermill-redisstream as shipped, with its router. Each handler has a subscriber with a client of its own,
// and the publisher has a connection for each caller: on go-redis' default pool readers would hold all connections.
func runWatermill(ctx context.Context, s spec) (sample, error) {
	uuid.EnableRandPool() // Millrace does so as well
	m, err := newMeter(s)
	if err != nil {
		return nil, err
	}
	publisher, err := redisstream.NewPublisher(redisstream.PublisherConfig{
		Client:        redis.NewClient(&redis.Options{Addr: s.Addr, PoolSize: s.Publishers}),
		DefaultMaxlen: maxLen,
	}, watermill.NopLogger{})
	if err != nil {
		return nil, err
	}
	publish := func(payload []byte) error {
		msg := message.NewMessage(watermill.NewUUID(), payload)
		msg.Metadata = watermillMetadata()
		return publisher.Publish(stream, msg)
	}
	payload := loadgen.NewPayload(s.Payload)
	work := func() error {
		return loadgen.Spread(ctx, s.Publishers, 1, s.Events, 0, func(loadgen.Share) error { return publish(payload) })
	}
	if s.Kind == kindLatency {
		work = func() error {
			return loadgen.Spread(ctx, s.Publishers, 1, s.Events, latencyRate, func(loadgen.Share) error {
				stamped := loadgen.NewPayload(s.Payload)
				loadgen.Stamp(stamped)
				return publish(stamped)
			})
		}
	}
	if s.Kind == kindMemory {
		if err := m.start(); err != nil {
			return nil, err
		}
		if err := work(); err != nil {
			return nil, err
		}
		return m.stop(s.Events)
	}

	var handled atomic.Int64
	var latencies loadgen.Latencies
	err = startWatermillRouter(ctx, s, func(msg *message.Message) error {
		if s.Kind == kindLatency {
			if age, stamped := loadgen.Age(msg.Payload); stamped {
				latencies.Add(age)
			}
		}
		handled.Add(1)
		return nil
	})
	if err != nil {
		return nil, err
	}
	server, err := dial(s.Server)
	if err != nil {
		return nil, err
	}
	// All connections are made, and the first reads woken, which wait without end.
	if err := loadgen.Spread(ctx, s.Publishers, 1, s.Publishers, 0, func(loadgen.Share) error { return publish(payload) }); err != nil {
		return nil, err
	}
	if err := awaitSettled(ctx, &handled, s.Publishers, server.nothingPending); err != nil {
		return nil, err
	}
	handled.Store(0)

	if err := m.start(); err != nil {
		return nil, err
	}
	if err := work(); err != nil {
		return nil, err
	}
	if err := awaitSettled(ctx, &handled, s.Events, server.nothingPending); err != nil {
		return nil, err
	}
	got, err := m.stop(s.Events)
	if err != nil {
		return nil, err
	}
	got.addLatencies(&latencies)
	return got, nil
}

// startWatermillRouter runs a router with one subscriber per handler, all in one group, and returns when it runs.
func startWatermillRouter(ctx context.Context, s spec, handle message.NoPublishHandlerFunc) error {
	router, err := message.NewRouter(message.RouterConfig{}, watermill.NopLogger{})
	if err != nil {
		return err
	}
	for i := range s.Handlers {
		subscriber, err := redisstream.NewSubscriber(redisstream.SubscriberConfig{
			Client:        redis.NewClient(&redis.Options{Addr: s.Addr}),
			ConsumerGroup: group,
		}, watermill.NopLogger{})
		if err != nil {
			return err
		}
		router.AddConsumerHandler(fmt.Sprintf("handler-%d", i), stream, subscriber, handle)
	}
	ended := make(chan error, 1)
	go func() { ended <- router.Run(ctx) }()
	select {
	case <-router.Running():
		return nil
	case err := <-ended:
		return fmt.Errorf("run watermill's router: %w", err)
	}
}
