package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/redis/go-redis/v9"

	"github.com/rishi-platform/millrace/pipeline"
)

// fleet is some instances of one service in this process, each with a bus of its own and a consumer in each of the groups. Every
// consumer follows every stream. It uses nothing but what earlier revisions have as well (--against).
type fleet struct {
	instances       []*pipeline.Bus
	streams, groups int
	handled         atomic.Int64
	failed          chan error // of an instance that could not join
}

// lookEvery is the pause between two looks at whether a fleet is idle.
const lookEvery = 250 * time.Millisecond

// startFleet opens the instances, stores an event in each stream, and then lets all consumers join, those of different instances at
// the same time: as when a fleet is deployed. They are still joining when it returns.
func startFleet(ctx context.Context, s spec) (*fleet, error) {
	f := &fleet{streams: s.Streams, groups: s.Groups, failed: make(chan error, s.Instances)}
	for range s.Instances {
		bus, err := pipeline.Open(ctx, pipeline.Config{
			Redis:   &redis.UniversalOptions{Addrs: []string{s.Addr}},
			Service: service,
			Logger:  slog.New(slog.DiscardHandler),
		})
		if err != nil {
			return nil, err
		}
		f.instances = append(f.instances, bus)
	}
	events := make([]pipeline.Event, s.Streams)
	for i := range events {
		events[i] = pipeline.Event{Type: streamName(i) + ".event", Data: []byte("{}")}
	}
	if _, err := f.instances[0].Publish(ctx, events...); err != nil {
		return nil, err
	}
	for _, bus := range f.instances {
		go func() {
			if err := f.join(ctx, bus); err != nil {
				f.failed <- err
			}
		}()
	}
	return f, nil
}

// join lets one instance join all groups, one after the other, as package router does.
func (f *fleet) join(ctx context.Context, bus *pipeline.Bus) error {
	for g := range f.groups {
		cfg := pipeline.GroupConfig{Group: groupName(g), Patterns: []string{"**"}}
		messages, err := bus.Subscriber(cfg).Subscribe(ctx, pipeline.AllStreams)
		if err != nil {
			return fmt.Errorf("join group %q: %w", cfg.Group, err)
		}
		go f.handle(messages)
	}
	return nil
}

func (f *fleet) handle(messages <-chan *message.Message) {
	for msg := range messages {
		f.handled.Add(1)
		msg.Ack()
	}
}

// awaitIdle returns when every consumer has joined at every stream and all is handled and acknowledged; or, with false, when that takes too
// long. It asks the server itself: health would leave out what it can't find out in time.
func (f *fleet) awaitIdle(ctx context.Context, c *conn, patience time.Duration) (idle bool, err error) {
	late := time.After(patience)
	for {
		if idle, err := f.isIdle(c); idle || err != nil {
			return idle, err
		}
		select {
		case <-time.After(lookEvery):
		case <-late:
			return false, nil
		case err := <-f.failed:
			return false, err
		case <-ctx.Done():
			return false, context.Cause(ctx)
		}
	}
}

func (f *fleet) isIdle(c *conn) (bool, error) {
	if f.handled.Load() < int64(f.streams*f.groups) {
		return false, nil
	}
	joined, err := f.joined(c)
	if err != nil || joined < 100 {
		return false, err
	}
	pending, err := f.pending(c)
	return pending == 0, err
}

// joined returns how many of the memberships there are, in percent: each consumer has one at each stream.
func (f *fleet) joined(c *conn) (float64, error) {
	n, err := f.sum(c, func(stream, group string) []string {
		return []string{"ZCOUNT", "{" + stream + "}:alive:" + group, "(0", "+inf"} // 0: it has left
	}, c.text)
	return 100 * float64(n) / float64(f.streams*f.groups*len(f.instances)), err
}

// pending returns how many entries the groups were given and have not acknowledged.
func (f *fleet) pending(c *conn) (int, error) {
	return f.sum(c, func(stream, group string) []string { return []string{"XPENDING", stream, group} }, func() (string, error) {
		if _, err := c.array(); err != nil {
			return "", err
		}
		n, err := c.text()
		for range 3 { // first, last, consumers
			err = errors.Join(err, c.skip())
		}
		return n, err
	})
}

// sum sends a command for each group at each stream, and adds the numbers that are read from the replies.
func (f *fleet) sum(c *conn, command func(stream, group string) []string, read func() (string, error)) (int, error) {
	for s := range f.streams {
		for g := range f.groups {
			c.queue(command(streamName(s), groupName(g))...)
		}
	}
	if err := c.flush(); err != nil {
		return 0, err
	}
	total := 0
	for range f.streams * f.groups {
		text, err := read()
		if err != nil {
			return 0, err
		}
		n, err := strconv.Atoi(text)
		if err != nil {
			return 0, err
		}
		total += n
	}
	return total, nil
}

func streamName(n int) string { return "idle-" + strconv.Itoa(n) }
func groupName(n int) string  { return "group-" + strconv.Itoa(n) }

// watchConnections looks at how many clients a server has, and returns the function that ends this and returns the most that it
// saw, itself and one more connection of the benchmark not counted.
func watchConnections(server string) (most func() (float64, error), err error) {
	const every, ours = 20 * time.Millisecond, 2
	c, err := dial(server)
	if err != nil {
		return nil, err
	}
	stop, stopped := make(chan struct{}), make(chan struct{})
	var seen float64
	var failed error
	go func() {
		defer close(stopped)
		for {
			text, err := c.info("clients", "connected_clients")
			if err != nil {
				failed = err
				return
			}
			n, err := strconv.ParseFloat(text, 64)
			if err != nil {
				failed = err
				return
			}
			seen = max(seen, n-ours)
			select {
			case <-time.After(every):
			case <-stop:
				return
			}
		}
	}()
	return func() (float64, error) {
		close(stop)
		<-stopped
		return seen, errors.Join(failed, c.Close())
	}, nil
}
