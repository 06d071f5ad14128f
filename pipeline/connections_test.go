package pipeline

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/rishi-platform/millrace/internal/redisstream"
	"github.com/rishi-platform/millrace/internal/redistest"
	"github.com/rishi-platform/millrace/internal/wire"
)

// A stop in the middle of a blocking read does not wait for its end, and what the server hands out to that read all the same is not lost.
func TestF06StopDoesNotWaitForTheRead(t *testing.T) {
	t.Parallel()
	server, namespace := redistest.Shared(t), redistest.Namespace(t)
	b := openBus(t, Config{Redis: server.Options(), Namespace: namespace})
	g := GroupConfig{Group: "g", Patterns: []string{"booking.*"}}
	handled := newTally()
	for i := range 5 {
		sub := consume(t, b, g, AllStreams, handled.ack)
		publish(t, b, Event{ID: fmt.Sprint("before-", i), Type: "booking.created"})
		handled.await(t, 2*i+1)
		begun := time.Now()
		closed := make(chan struct{})
		go func() { defer close(closed); _ = sub.Close() }()
		publish(t, b, Event{ID: fmt.Sprint("meanwhile-", i), Type: "booking.created"})
		within(t, "the end", closed)
		inTime(t, begun)
		sub = consume(t, b, g, AllStreams, handled.ack)
		handled.await(t, 2*i+2)
		begun = time.Now()
		_ = sub.Close() // while nothing comes that would end the read
		inTime(t, begun)
	}
	if twice := handled.more(); len(twice) > 0 {
		t.Errorf("handled more than once: %v", twice)
	}
}

// inTime checks that a stop which began then has not waited for the end of a read.
func inTime(t *testing.T, begun time.Time) {
	t.Helper()
	if took := time.Since(begun); took > readBlock/2 { // 300 ms on a machine that does nothing else
		t.Errorf("it took %v", took)
	}
}

// Readers that wait take no connection away from publishers.
func TestF09ReadersHaveConnectionsOfTheirOwn(t *testing.T) {
	t.Parallel()
	options := redistest.Shared(t).Options()
	options.PoolSize, options.PoolTimeout = 1, 500*time.Millisecond
	b := openBus(t, Config{Redis: options, Namespace: redistest.Namespace(t)})
	handled := newTally()
	for i := range 5 {
		consume(t, b, GroupConfig{Group: fmt.Sprint("g", i), Patterns: []string{"booking.*"}}, AllStreams, func(m *message.Message, d *Delivery) {
			handled.add(d.Group + m.UUID)
			m.Ack()
		})
	}
	for i := range 20 {
		publish(t, b, Event{Type: "booking.created"})
		handled.await(t, 5*(i+1))
	}
}

// silentReads is a transport whose reads get no answer in time now and then.
type silentReads struct {
	transport
	reads atomic.Int32
}

func (s *silentReads) Read(ctx context.Context, c redisstream.Consumer, streams []string, count int, block time.Duration) ([]redisstream.Delivered, error) {
	if s.reads.Add(1)%2 == 1 {
		// The server has handed something out all the same.
		_, _ = s.transport.Read(ctx, c, streams, count, time.Millisecond)
		return nil, redisstream.ErrSilent
	}
	return s.transport.Read(ctx, c, streams, count, 10*time.Millisecond)
}

// A blocking read that gets no answer in time, since the server stood still for a moment or began to wait anew (redis #12998), is no outage and no
// line in the log, and what the server has handed out to it is not lost.
func TestF10ReadTimeoutIsNoOutage(t *testing.T) {
	t.Parallel()
	log := newLogged()
	b := openBus(t, Config{Redis: redistest.Shared(t).Options(), Namespace: redistest.Namespace(t), Logger: slog.New(log)})
	reads := &silentReads{transport: b.log}
	b.log = reads
	handled := newTally()
	consume(t, b, GroupConfig{Group: "g", Patterns: []string{"booking.*"}}, AllStreams, handled.ack)
	for i := range 200 {
		publish(t, b, Event{ID: fmt.Sprint(i), Type: "booking.created"})
	}
	handled.await(t, 200)
	awaitFact(t, "some more reads", func() bool { return reads.reads.Load() > 20 })
	if lines := log.with("level="); len(lines) > 0 || b.State() != StateDurable {
		t.Errorf("state %s, lines:\n%v", b.State(), lines)
	}
	if twice := handled.more(); len(twice) > 0 {
		t.Errorf("handled more than once: %v", twice)
	}
}

// An acknowledgement whose reply is lost, or whose connection is, is repeated until it is certain.
func TestF17LostAckIsRepeated(t *testing.T) {
	t.Parallel()
	for name, break_ := range map[string]struct{ begin, end func(p *redistest.Proxy) }{
		"reply lost":      {func(p *redistest.Proxy) { p.DropReplies(true) }, func(p *redistest.Proxy) { p.DropReplies(false); p.Reset() }},
		"connection lost": {func(p *redistest.Proxy) { p.Reset() }, func(*redistest.Proxy) {}},
		"no connection":   {func(p *redistest.Proxy) { p.Refuse(true); p.Reset() }, func(p *redistest.Proxy) { p.Refuse(false) }},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server, namespace := redistest.Shared(t), redistest.Namespace(t)
			b, proxy := behind(t, namespace)
			handled, began, goOn := newTally(), make(chan struct{}, 20), make(chan struct{})
			handle(t, b, GroupConfig{Group: "g", Patterns: []string{"booking.*"}}, AllStreams, func(_ context.Context, d *Delivery) error {
				began <- struct{}{}
				<-goOn
				handled.add(d.Event.ID)
				return nil
			})
			publish(t, b, events(20, "booking.created")...)
			for range 20 {
				within(t, "a delivery", began)
			}
			break_.begin(proxy)
			close(goOn)
			handled.await(t, 20)
			tried := time.Now()
			awaitFact(t, "a lost acknowledgement", func() bool { return time.Since(tried) > 100*time.Millisecond })
			break_.end(proxy)
			other := openBus(t, Config{Redis: server.Options(), Namespace: namespace})
			awaitSettled(t, other, "booking", "g")
			if twice := handled.more(); len(twice) > 0 {
				t.Errorf("handled more than once: %v", twice)
			}
		})
	}
}

// The acknowledgement of what the server has forgotten is not repeated for ever.
func TestF17AckAfterAFlushIsGivenUp(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	b := openBus(t, Config{Redis: server.Options()})
	handled, began, goOn := newTally(), make(chan struct{}), make(chan struct{})
	handle(t, b, GroupConfig{Group: "g", Patterns: []string{"booking.*"}, InFlight: 1}, AllStreams, func(_ context.Context, d *Delivery) error {
		if d.Event.ID == "forgotten" {
			close(began)
			<-goOn
		}
		handled.add(d.Event.ID)
		return nil
	})
	publish(t, b, Event{ID: "forgotten", Type: "booking.created"})
	within(t, "the delivery", began)
	server.Flush(t)
	publish(t, b, Event{ID: "next", Type: "booking.created"})
	close(goOn) // its place in the window is free only when its acknowledgement is over
	handled.await(t, 2)
	awaitSettled(t, b, "booking", "g")
}

// Closing what one part of a program was given closes nothing that others use.
func TestF61CloseConcernsNobodyElse(t *testing.T) {
	eachBus(t, func(t *testing.T, open func(func(*Config)) *Bus) {
		b := open(nil)
		handled, others := newTally(), newTally()
		g := GroupConfig{Group: "g", Patterns: []string{"booking.*"}}
		sub := consume(t, b, g, AllStreams, handled.ack)
		consume(t, b, GroupConfig{Group: "other", Patterns: []string{"booking.*"}}, AllStreams, others.ack)
		first, second := b.Publisher(), b.Publisher()
		if err := first.Close(); err != nil {
			t.Fatal(err)
		}
		if err := sub.Close(); err != nil {
			t.Fatal(err)
		}
		m := message.NewMessage("by-second", []byte("1"))
		m.Metadata.Set(wire.KeyType, "booking.created")
		if err := second.Publish("booking", m); err != nil {
			t.Errorf("publish by the other publisher: %v", err)
		}
		publish(t, b, Event{ID: "by-bus", Type: "booking.created"})
		others.await(t, 2)
		consume(t, b, g, AllStreams, handled.ack)
		handled.await(t, 2)
	})
}

// A window that is full does not turn into a read without a bound: what the server hands out stays within what is read ahead.
func TestF64FullWindowIsNoUnlimitedRead(t *testing.T) {
	t.Parallel()
	server, namespace := redistest.Shared(t), redistest.Namespace(t)
	b := openBus(t, Config{Redis: server.Options(), Namespace: namespace})
	publish(t, b, events(2000, "booking.created")...)
	const inFlight = 8
	began, goOn := make(chan struct{}, 2000), make(chan struct{})
	handled := newTally()
	handle(t, b, GroupConfig{Group: "g", Patterns: []string{"booking.*"}, InFlight: inFlight}, AllStreams, func(_ context.Context, d *Delivery) error {
		began <- struct{}{}
		<-goOn
		handled.add(d.Event.ID)
		return nil
	})
	for range inFlight {
		within(t, "a delivery", began)
	}
	awaitFact(t, "no more reads", func() bool {
		waiting := 0
		for _, c := range b.consuming() {
			if c.WaitsForRoom() {
				waiting++
			}
		}
		return waiting == 1 // for room
	})
	last := server.Client(t).XPending(t.Context(), namespace+":booking", "g").Val().Count
	if last >= 2*inFlight || len(began) > 0 { // nothing is handled, so nothing is read ahead
		t.Errorf("%d are pending and %d more run, with a window of %d", last, len(began), inFlight)
	}
	close(goOn)
	handled.await(t, 2000)
}

// Nobody listens to errors, and every loop has one at once: each goes on.
func TestF64ErrorsThatNobodyHearsBlockNothing(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	b := openBus(t, Config{Redis: server.Options()})
	handled := newTally()
	consume(t, b, GroupConfig{Group: "g", Patterns: []string{"booking.*"}}, AllStreams, handled.ack)
	heard := hears(t, b, Subscription{Patterns: []string{"booking.*"}})
	for i := range 3 {
		server.Stop(t)
		awaitFact(t, "the outage to be known", func() bool {
			_, err := b.Publish(t.Context(), Event{Type: "booking.lost"})
			return err != nil
		})
		server.StartAgain(t)
		awaitFact(t, "its end", func() bool {
			_, err := b.Publish(t.Context(), Event{ID: fmt.Sprint(i), Type: "booking.created"})
			return err == nil
		})
		handled.await(t, i+1)
		awaitFact(t, "the subscription", func() bool { return within(t, "an event", heard) == fmt.Sprint(i) })
	}
}

// A consumer that has nothing to do and a bus that publishes nothing notice that the way to Redis is dead, and go on when it is not any more.
func TestF04IdleConsumerNoticesADeadLink(t *testing.T) {
	t.Parallel()
	b, proxy := behind(t, redistest.Namespace(t))
	handled := newTally()
	consume(t, b, GroupConfig{Group: "g", Patterns: []string{"booking.*"}}, AllStreams, handled.ack)
	awaitFact(t, "its place in the group", func() bool { return onlyConsumer(t, b).Memberships() == 1 })
	proxy.Freeze()
	begun := time.Now()
	awaitFact(t, "the outage", func() bool { return b.State() == StateUnavailable })
	if took := time.Since(begun); took > 8*time.Second { // 5 s on a machine that does nothing else
		t.Errorf("it took %v", took)
	}
	proxy.Thaw()
	awaitFact(t, "its end", func() bool { return b.State() == StateDurable })
	publish(t, b, Event{ID: "after", Type: "booking.created"})
	handled.await(t, 1)
}

// A peer that dies is taken over from, however often the connections are made anew.
func TestG14ConnectionChurnDoesNotStopTakeOver(t *testing.T) {
	t.Parallel()
	namespace := redistest.Namespace(t)
	dies, proxy := behind(t, namespace)
	g := GroupConfig{Group: "g", Patterns: []string{"booking.*"}}
	began, goOn := make(chan struct{}, 10), make(chan struct{})
	handle(t, dies, g, "booking", func(context.Context, *Delivery) error {
		began <- struct{}{}
		<-goOn
		return nil
	})
	publish(t, dies, events(10, "booking.created")...)
	for range 10 {
		within(t, "a delivery", began)
	}
	options := redistest.Shared(t).Options()
	options.ConnMaxLifetime = time.Second // less than a beat, so that each of them has a new one
	lives := openBus(t, Config{Redis: options, Namespace: namespace})
	handled := newTally()
	handle(t, lives, g, "booking", func(_ context.Context, d *Delivery) error {
		handled.add(d.Event.ID)
		return nil
	})
	proxy.Refuse(true) // the end of the first, as far as the server can see
	proxy.Reset()
	t.Cleanup(func() {
		close(goOn)
		proxy.Refuse(false)
	})
	handled.await(t, 10)
}

// A user without the right to CLIENT, or to a part of it, consumes and listens as any other does. A
// stop in the middle of a read waits for a moment, and loses nothing.
func TestG19WithoutClientEverythingIsRead(t *testing.T) {
	t.Parallel()
	for _, missing := range []string{"-client", "-client|unblock", "-client|id"} {
		t.Run(missing, func(t *testing.T) {
			t.Parallel()
			server := redistest.Start(t)
			client := server.Client(t)
			user := []any{"ACL", "SETUSER", "worker", "on", ">secret", "~*", "+@all", missing}
			if err := client.Do(t.Context(), user...).Err(); err != nil {
				t.Fatal(err)
			}
			options := server.Options()
			options.Username, options.Password = "worker", "secret"
			b := openBus(t, Config{Redis: options, RedisOnly: true}) // the subscription reads, too
			heard := hears(t, b, Subscription{Patterns: []string{"booking.*"}})
			g := GroupConfig{Group: "g", Patterns: []string{"booking.*"}}
			handled := newTally()
			for i := range 5 {
				sub := consume(t, b, g, AllStreams, handled.ack)
				publish(t, b, Event{ID: fmt.Sprint("before-", i), Type: "booking.created"})
				handled.await(t, 2*i+1)
				closed := make(chan struct{})
				go func() { defer close(closed); _ = sub.Close() }()
				publish(t, b, Event{ID: fmt.Sprint("meanwhile-", i), Type: "booking.created"})
				within(t, "the end", closed)
				sub = consume(t, b, g, AllStreams, handled.ack)
				handled.await(t, 2*i+2)
				_ = sub.Close()
			}
			if twice := handled.more(); len(twice) > 0 {
				t.Errorf("handled more than once: %v", twice)
			}
			for range 10 {
				within(t, "an event", heard)
			}
			sub := consume(t, b, g, AllStreams, handled.ack)
			awaitFact(t, "two reads that wait", func() bool {
				clients := client.Info(t.Context(), "clients").Val()
				return strings.Contains(clients, "blocked_clients:2\r")
			})
			begun := time.Now()
			_ = sub.Close()
			// 300 ms on a machine that does nothing else.
			if took := time.Since(begun); took > readBlock*3/4 {
				t.Errorf("the end took %v", took)
			}
		})
	}
}
