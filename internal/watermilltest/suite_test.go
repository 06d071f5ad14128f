package watermilltest

import (
	"context"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill"
	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/ThreeDotsLabs/watermill/pubsub/tests"
	"github.com/rishi-platform/millrace/internal/redistest"
	"github.com/rishi-platform/millrace/pipeline"
)

// run is one run of Watermill's suite.
type run struct {
	features tests.Features
	inFlight int                       // 0: the default
	group    func(t testing.TB) string // of the subscribers of a test
}

// policy: the suite nacks a message over and over, and waits for 15 s at most.
var policy = pipeline.Policy{DrainTimeout: time.Second, Attempts: -1, NeverPause: true, Backoff: func(int) time.Duration { return 0 }}

// Each run has a server of its own, since the suite restarts it; it keeps everything it acknowledged ("always").
func (r run) start(t *testing.T) {
	server := redistest.Start(t, "--appendonly", "yes", "--appendfsync", "always")
	if !raceEnabled {
		r.features.RestartServiceCommand = redistest.RestartOverSocket(t, server)
	}
	bus := openBus(t, pipeline.Config{Redis: server.Options(), Service: "suite"})
	createGroup := func(t *testing.T, group string) (message.Publisher, message.Subscriber) {
		return bus.Publisher(), bus.Subscriber(pipeline.GroupConfig{
			Group:    group,
			InFlight: r.inFlight,
			Policy:   policy,
		})
	}
	create := func(t *testing.T) (message.Publisher, message.Subscriber) {
		pub, sub := createGroup(t, r.group(t))
		if strings.Contains(t.Name(), "TestReconnect") {
			free := 0
			if r.inFlight == 1 {
				free = 9_980 // of the suite's 10,000: one after the other would be late for minutes
			}
			sub = late{sub, free}
		}
		return pub, sub
	}
	tests.TestPubSub(t, r.features, create, createGroup)
}

// late hands messages on 100 ms late, but for the first ones. The suite's TestReconnect notes a message as published only after Publish has returned,
// on another goroutine, and complains of a message that came sooner: "received: 10000, sent: 9999".
type late struct {
	message.Subscriber
	free int // messages that are not late
}

func (l late) Subscribe(ctx context.Context, topic string) (<-chan *message.Message, error) {
	in, err := l.Subscriber.Subscribe(ctx, topic)
	if err != nil {
		return nil, err
	}
	out := make(chan *message.Message)
	go func() {
		defer close(out)
		var under sync.WaitGroup
		defer under.Wait()
		for n := 0; ; n++ {
			m, ok := <-in
			if !ok {
				return
			}
			under.Go(func() {
				if n >= l.free {
					<-time.After(100 * time.Millisecond)
				}
				select {
				case out <- m:
				case <-m.Context().Done():
				}
			})
		}
	}()
	return out, nil
}

// One message at a time, in order.
func TestSuiteOrdered(t *testing.T) {
	run{
		features: tests.Features{ConsumerGroups: true, Persistent: true, GuaranteedOrder: true, GuaranteedOrderWithSingleSubscriber: true},
		inFlight: 1,
		group:    groupOf,
	}.start(t)
}

// The default window. GuaranteedOrder would switch TestNoAck on, which wants one message at a time.
func TestSuiteWindow(t *testing.T) {
	run{
		features: tests.Features{ConsumerGroups: true, Persistent: true},
		group:    groupOf,
	}.start(t)
}

// A fresh group for each subscriber, which gets everything that is kept.
func TestSuiteFreshGroups(t *testing.T) {
	server := redistest.Start(t, "--appendonly", "yes", "--appendfsync", "always")
	bus := openBus(t, pipeline.Config{Redis: server.Options(), Service: "suite"})
	features := tests.Features{ConsumerGroups: true, Persistent: true, NewSubscriberReceivesOldMessages: true}
	create := func(t *testing.T) (message.Publisher, message.Subscriber) {
		return bus.Publisher(), bus.Subscriber(pipeline.GroupConfig{Group: "g-" + watermill.NewShortUUID(), Policy: policy})
	}
	t.Run("NewSubscriberReceivesOldMessages", func(t *testing.T) {
		tests.TestNewSubscriberReceivesOldMessages(t, tests.TestContext{TestID: tests.NewTestID(), Features: features}, create)
	})
}
