package pipeline

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/rishi-platform/millrace/internal/redisstream"
	"github.com/rishi-platform/millrace/internal/redistest"
	"github.com/rishi-platform/millrace/internal/wire"
)

// noMoreMayWait makes the waiting set of the group "g" of the stream "booking" full.
func noMoreMayWait(t *testing.T, b *Bus) {
	t.Helper()
	if b.redis == nil {
		b.local.Bound(1)
		filler := redisstream.Consumer{Group: "g", Name: "filler"}
		never := redisstream.Wait{Type: "booking.never", Message: encode(&Event{ID: "never", Type: "booking.never"})}
		never.Ref = b.local.Give(filler, "booking", never.Message)
		patterns := b.local.Patterns("booking", "g")
		if settled, err := b.local.LetWait(t.Context(), filler, "booking", []redisstream.Wait{never}, patterns.Version); err != nil || settled[0] != redisstream.Done {
			t.Fatalf("%v, %v", settled, err)
		}
		return
	}
	const fill = `for i = tonumber(ARGV[1]), tonumber(ARGV[2]) do
		redis.call('ZADD', KEYS[1], 0, 'booking.never\0' .. string.format('%018d', i) .. '\0') end`
	key := []string{"{" + wire.Format{Namespace: b.cfg.Namespace}.Key("booking") + "}:waiting:g"}
	for n := 1; n <= redisstream.GroupBound; n += 5000 { // in steps that end long before a time-out
		err := redistest.Shared(t).Client(t).Eval(t.Context(), fill, key, n, n+4999).Err()
		if err != nil && err != redis.Nil {
			t.Fatal(err)
		}
	}
}

// joinAndLeave adds to what the group takes; nobody handles it then.
func joinAndLeave(t *testing.T, b *Bus, patterns ...string) {
	t.Helper()
	g := GroupConfig{Group: "g", Patterns: patterns}
	if err := consume(t, b, g, AllStreams, ack).Close(); err != nil {
		t.Fatal(err)
	}
}

// A type that nobody handles any more fills the waiting set, and then what can't wait there is held
// here: all else goes on, in its stream and in others.
func TestG08TypeThatNobodyHandlesStopsNothing(t *testing.T) {
	eachBus(t, func(t *testing.T, open func(func(*Config)) *Bus) {
		b := open(nil)
		joinAndLeave(t, b, "booking.old")
		noMoreMayWait(t, b)
		publish(t, b, events(300, "booking.old")...)
		var wanted []Event
		for i := range 20 {
			wanted = append(wanted, Event{ID: fmt.Sprint("b", i), Type: "booking.created"})
			wanted = append(wanted, Event{ID: fmt.Sprint("o", i), Type: "order.created"})
		}
		publish(t, b, wanted...)
		handled := newTally()
		g := GroupConfig{Group: "g", Patterns: []string{"booking.created", "order.created"}, InFlight: 4}
		consume(t, b, g, AllStreams, handled.ack)
		handled.await(t, len(wanted))
		held := func(g redisstream.GroupInfo) bool { return g.Pending == 300 && g.Lag == 0 }
		awaitGroup(t, b, "booking", "g", held)
	})
}

// waitsCounted is a transport that counts what is asked of it for events that wait for their
// handler.
type waitsCounted struct {
	transport
	scripts, most atomic.Int32
}

func (w *waitsCounted) LetWait(
	ctx context.Context, c redisstream.Consumer, stream string, waits []redisstream.Wait, version int64,
) ([]redisstream.Settled, error) {
	w.scripts.Add(1)
	w.most.Store(max(w.most.Load(), int32(len(waits))))
	return w.transport.LetWait(ctx, c, stream, waits, version)
}

// While no more events may wait, one is tried from time to time, and not one for each read; and as
// soon as a beat says that there is room all of them go.
func TestG08PassOnBacksOff(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := openBus(t, Config{})
		joinAndLeave(t, b, "booking.old")
		noMoreMayWait(t, b)
		counted := &waitsCounted{transport: b.log}
		b.log = counted
		g := GroupConfig{Group: "g", Patterns: []string{"booking.created"}, InFlight: 4}
		consume(t, b, g, AllStreams, ack)
		const n = 120
		for range n {
			publish(t, b, Event{Type: "booking.old"})
			time.Sleep(500 * time.Millisecond) // of the bubble's time
		}
		synctest.Wait()
		// 50 ms doubling to 30 s: 11 in a minute.
		if n := counted.scripts.Load(); n < 5 || n > 12 {
			t.Errorf("%d scripts in a minute, want about 11", n)
		}

		b.local.Bound(redisstream.GroupBound)
		before := counted.scripts.Load()
		time.Sleep(2 * beatEvery)
		synctest.Wait()
		groups, _ := b.log.Groups(t.Context(), "booking")
		if g := groups[0]; g.Deferred != n+1 || g.Pending != 0 {
			t.Errorf("%d wait and %d are pending, want %d and none", g.Deferred, g.Pending, n+1)
		}
		if n := counted.scripts.Load() - before; n > 3 || counted.most.Load() > waitAtOnce {
			t.Errorf("%d scripts with up to %d deliveries, want 2 with up to %d",
				n, counted.most.Load(), waitAtOnce)
		}
	})
}

// A stream with more entries that nobody handles than a consumer may hold is not read until some of
// them have gone; others are.
func TestG08StreamWithTooManyOthersIsNotRead(t *testing.T) {
	t.Parallel()
	b := openBus(t, Config{})
	joinAndLeave(t, b, "booking.old")
	noMoreMayWait(t, b)
	const n = othersLeast + 500
	for range n / 500 {
		publish(t, b, events(500, "booking.old")...)
	}
	publish(t, b, events(10, "booking.created")...)
	handled := newTally()
	g := GroupConfig{Group: "g", Patterns: []string{"booking.created", "order.created"}, InFlight: 64}
	consume(t, b, g, AllStreams, handled.ack)
	pending := func(g redisstream.GroupInfo) bool { return g.Pending > othersLeast }
	awaitGroup(t, b, "booking", "g", pending)
	for i := range 20 { // a stream that is read goes by meanwhile
		publish(t, b, Event{ID: fmt.Sprint("order", i), Type: "order.created"})
		handled.await(t, i+1)
	}
	groups, err := b.log.Groups(t.Context(), "booking")
	if err != nil {
		t.Fatal(err)
	}
	if g := groups[0]; g.Lag == 0 || g.Pending > othersLeast+64*(1+aheadMost) {
		t.Errorf("%d are held, %d not read, want %d and a bit held", g.Pending, g.Lag, othersLeast)
	}

	b.local.Bound(redisstream.GroupBound)
	handled.await(t, 30)
	awaitGroup(t, b, "booking", "g", func(g redisstream.GroupInfo) bool {
		return g.Pending == 0 && g.Lag == 0 && g.Deferred == n+1
	})
}

// A consumer finds what waits for it, however many other types wait: by name, or by a pattern that
// it has to be looked for with.
func TestG08ConsumerFindsItsTypesAmongManyOthers(t *testing.T) {
	eachBus(t, func(t *testing.T, open func(func(*Config)) *Bus) {
		b := open(nil)
		const others = typesAtOnce*walkMost + 50
		joinAndLeave(t, b, "booking.**")
		handle := func(pattern string) *tally {
			handled := newTally()
			consume(t, b, GroupConfig{Group: "g", Patterns: []string{pattern}}, AllStreams, handled.ack)
			return handled
		}
		handle("booking.created")
		var waiting []Event
		for i := range others {
			waiting = append(waiting, Event{Type: fmt.Sprintf("booking.a%04d", i)})
		}
		waiting = append(waiting, Event{ID: "exact", Type: "booking.z"})
		waiting = append(waiting, Event{ID: "wild", Type: "booking.z.done"})
		publish(t, b, waiting...)
		awaitGroup(t, b, "booking", "g", func(g redisstream.GroupInfo) bool {
			return g.Deferred == others+2 && g.Pending == 0 && g.Lag == 0
		})

		handle("booking.z").await(t, 1)
		handle("booking.*.done").await(t, 1)
		awaitGroup(t, b, "booking", "g", func(g redisstream.GroupInfo) bool {
			return g.Deferred == others && g.Pending == 0
		})
		got := b.Health(t.Context()).Streams[0].Groups[0].Waiting
		if b.redis != nil && len(got) != 64 || got[0].Type != "booking.a0000" {
			t.Errorf("health names %d types, the first is %s, want the first 64", len(got), got[0].Type)
		}
	})
}
