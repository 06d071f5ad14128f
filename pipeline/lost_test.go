package pipeline

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/rishi-platform/millrace/internal/redisstream"
	"github.com/rishi-platform/millrace/internal/redistest"
	"github.com/rishi-platform/millrace/internal/wire"
)

// Whatever takes the state of a group away, while its consumer waits in a read: it consumes again within 2 s, loses nothing of what is published
// then, and says so in a few lines.
func TestF02LostStateIsMadeAgain(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	for name, lose := range map[string]func(t *testing.T, s *redistest.Server, client redis.UniversalClient, key string){
		"flush": func(t *testing.T, s *redistest.Server, _ redis.UniversalClient, _ string) { s.Flush(t) },
		"group destroyed": func(_ *testing.T, _ *redistest.Server, c redis.UniversalClient, key string) {
			c.XGroupDestroy(ctx, key, "g")
		},
		"group of the lane destroyed": func(_ *testing.T, _ *redistest.Server, c redis.UniversalClient, key string) {
			c.XGroupDestroy(ctx, "{"+key+"}:lane:g", "g")
		},
		"stream deleted":              func(_ *testing.T, _ *redistest.Server, c redis.UniversalClient, key string) { c.Del(ctx, key) },
		"restart without persistence": func(t *testing.T, s *redistest.Server, _ redis.UniversalClient, _ string) { s.Restart(t) },
		"stream made anew": func(_ *testing.T, _ *redistest.Server, c redis.UniversalClient, key string) {
			c.Del(ctx, key)
			c.XAdd(ctx, &redis.XAddArgs{Stream: key, Values: []string{"a", "1"}})
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := redistest.Start(t)
			log := newLogged()
			b := openBus(t, Config{Redis: server.Options(), Namespace: "ns", Logger: slog.New(log)})
			handled := newTally()
			handle(t, b, GroupConfig{Group: "g", Patterns: []string{"booking.**", "booking"}}, AllStreams, func(_ context.Context, d *Delivery) error { handled.add(d.Event.ID); return nil })
			publish(t, b, events(100, "booking.created")...)
			handled.await(t, 100)
			awaitSettled(t, b, "booking", "g")
			awaitGroup(t, b, "booking", "g", func(g redisstream.GroupInfo) bool { return g.Frontier == g.LastDelivered }) // one beat
			before := len(log.with("level="))
			lose(t, server, server.Client(t), "ns:booking")

			started := time.Now()
			publish(t, b, Event{ID: "after", Type: "booking.created"})
			awaitFact(t, "the event that was published then", func() bool { handled.mu.Lock(); defer handled.mu.Unlock(); return handled.count["after"] == 1 })
			if took := time.Since(started); took > 4*time.Second { // 2 s on a machine that does nothing else
				t.Errorf("consuming again took %v", took)
			}
			awaitSettled(t, b, "booking", "g")
			if twice := handled.more(); len(twice) > 0 {
				t.Errorf("handled again: %v", twice)
			}
			if lines := log.with("level=")[before:]; len(lines) > 5 {
				t.Errorf("%d lines:\n%v", len(lines), lines)
			}
		})
	}
}

// What was pending at a consumer that died is not skipped, though its peers have acknowledged what stands behind it; nothing below the frontier
// comes again; and what a process has handled it does not run again.
func TestF02GroupIsMadeAgainAtItsFrontier(t *testing.T) {
	t.Parallel()
	server, namespace := redistest.Shared(t), redistest.Namespace(t)
	client, key := server.Client(t), namespace+":booking"
	b := openBus(t, Config{Redis: server.Options(), Namespace: namespace})
	var mu sync.Mutex
	handled := map[string]int{}
	g := GroupConfig{Group: "g", Patterns: []string{"booking.*"}}
	sub := handle(t, b, g, AllStreams, func(_ context.Context, d *Delivery) error {
		mu.Lock()
		defer mu.Unlock()
		handled[d.Event.ID]++
		return nil
	})
	count := func() int { mu.Lock(); defer mu.Unlock(); return len(handled) }
	publish(t, b, Event{ID: "below", Type: "booking.created"})
	awaitFact(t, "the first event", func() bool { return count() == 1 })
	_ = sub.Close()
	// A consumer that dies holds the next one: it beats, so that nobody claims it, and never again.
	publish(t, b, Event{ID: "pending", Type: "booking.created"})
	if read, err := client.XReadGroup(t.Context(), &redis.XReadGroupArgs{Group: "g", Consumer: "dead", Streams: []string{key, ">"}, Count: 1, Block: -1}).Result(); err != nil || len(read) != 1 {
		t.Fatal(read, err)
	}
	client.ZAdd(t.Context(), "{"+key+"}:alive:g", redis.Z{Score: 1, Member: "dead"})
	handle(t, b, g, AllStreams, func(_ context.Context, d *Delivery) error {
		mu.Lock()
		defer mu.Unlock()
		handled[d.Event.ID]++
		return nil
	})
	publish(t, b, events(50, "booking.created")...)
	awaitFact(t, "those behind it", func() bool { return count() == 51 })
	awaitGroup(t, b, "booking", "g", func(g redisstream.GroupInfo) bool {
		return !g.Frontier.IsZero() && g.Frontier.Compare(g.OldestPending) < 0 && g.Pending == 1
	})

	if err := client.XGroupDestroy(t.Context(), key, "g").Err(); err != nil {
		t.Fatal(err)
	}
	awaitFact(t, "what the dead one held", func() bool { mu.Lock(); defer mu.Unlock(); return handled["pending"] == 1 })
	awaitSettled(t, b, "booking", "g")
	mu.Lock()
	defer mu.Unlock()
	for id, n := range handled {
		if n != 1 {
			t.Errorf("%s was handled %d times", id, n)
		}
	}
}

// An entry that is trimmed while it is pending is a loss: it is counted and shown, and holds nothing up.
func TestF23EntryThatIsGoneIsCountedAsLost(t *testing.T) {
	t.Parallel()
	server, namespace := redistest.Shared(t), redistest.Namespace(t)
	client, key := server.Client(t), namespace+":booking"
	b := openBus(t, Config{Redis: server.Options(), Namespace: namespace})
	r := publish(t, b, events(4, "booking.created")...)
	g := GroupConfig{Group: "g", Patterns: []string{"booking.*"}}
	_ = consumeNothing(t, b, g).Close() // makes the group
	if _, err := client.XReadGroup(t.Context(), &redis.XReadGroupArgs{Group: "g", Consumer: "gone", Streams: []string{key, ">"}, Count: 4, Block: -1}).Result(); err != nil {
		t.Fatal(err)
	}
	client.ZAdd(t.Context(), "{"+key+"}:alive:g", redis.Z{Score: 0, Member: "gone"}) // it has left
	client.XDel(t.Context(), key, string(r.Outcomes[1].Position), string(r.Outcomes[2].Position))
	handled := newTally()
	handle(t, b, g, AllStreams, func(_ context.Context, d *Delivery) error { handled.add(d.Event.ID); return nil })
	handled.await(t, 2)
	awaitGroup(t, b, "booking", "g", func(g redisstream.GroupInfo) bool { return g.Lost == 2 && g.Pending == 0 })
	if h := b.Health(t.Context()); !hasProblem(h, "events-lost") {
		t.Errorf("health says nothing of it: %+v", h.Problems)
	}
}

func consumeNothing(t *testing.T, b *Bus, g GroupConfig) interface{ Close() error } {
	t.Helper()
	sub := b.Subscriber(g)
	if init, ok := sub.(interface{ SubscribeInitialize(string) error }); !ok {
		t.Fatal("subscriber can't be initialized")
	} else if err := init.SubscribeInitialize("booking"); err != nil {
		t.Fatal(err)
	}
	return sub
}

// A consumer that died held a delivery that was only waiting, one that is known to have run when a process died, and one that has killed too many.
func TestF14OnlyWhatWasRunningMovesTowardsTheCrashLimit(t *testing.T) {
	t.Parallel()
	server, namespace := redistest.Shared(t), redistest.Namespace(t)
	client, key := server.Client(t), namespace+":booking"
	b := openBus(t, Config{Redis: server.Options(), Namespace: namespace})
	g := GroupConfig{Group: "g", Patterns: []string{"booking.*"}}
	_ = consumeNothing(t, b, g).Close()
	var ids []string
	for i := range 5 {
		ids = append(ids, string(publish(t, b, Event{ID: fmt.Sprint(i), Type: "booking.created"}).Outcomes[0].Position))
	}
	if _, err := client.XReadGroup(t.Context(), &redis.XReadGroupArgs{Group: "g", Consumer: "dead", Streams: []string{key, ">"}, Count: 5, Block: -1}).Result(); err != nil {
		t.Fatal(err)
	}
	for i, n := range []int{1, 2, 2, 3, 4} { // the delivery counts that suspects have after 0, 1, 1, 2, 3 known crashes
		client.Do(t.Context(), "XCLAIM", key, "g", "dead", 0, ids[i], "RETRYCOUNT", n, "JUSTID")
	}
	client.ZAdd(t.Context(), "{"+key+"}:alive:g", redis.Z{Score: 1, Member: "dead"})

	type run struct {
		id               string
		attempt, crashes int
		count            int64 // of deliveries, as the server has it while the handler runs
	}
	runs, goOn := make(chan run), make(chan struct{})
	handle(t, b, g, AllStreams, func(ctx context.Context, d *Delivery) error {
		pending := client.XPendingExt(ctx, &redis.XPendingExtArgs{Stream: key, Group: "g", Start: string(d.Position), End: string(d.Position), Count: 1}).Val()
		runs <- run{d.Event.ID, d.Attempt, d.Crashes, pending[0].RetryCount}
		<-goOn
		return nil
	})
	want := map[string]run{"0": {"0", 1, 0, 2}, "1": {"1", 2, 1, 3}, "2": {"2", 2, 1, 3}, "3": {"3", 3, 2, 4}}
	got := map[string]run{}
	for range 2 { // the harmless one, and the first of the dangerous ones, which run one at a time
		r := within(t, "a suspect", runs)
		got[r.id] = r
	}
	if _, ok := got["0"]; !ok {
		t.Errorf("the harmless one waits for dangerous ones: %v", got)
	}
	select {
	case r := <-runs:
		t.Errorf("%v runs beside another dangerous one", r)
	case <-time.After(100 * time.Millisecond): // nothing tells that nothing comes
	}
	close(goOn)
	for range 2 {
		r := within(t, "a suspect", runs)
		got[r.id] = r
	}
	for id, w := range want {
		if got[id] != w {
			t.Errorf("got %+v, want %+v", got[id], w)
		}
	}
	awaitDead(t, b, "booking", "g", 1)
	if d := onlyDead(t, b, "booking", "g"); d.Kind != KindCrash || d.Event.ID != "4" || d.Attempts != 3 {
		t.Errorf("dead letter %+v, want the one that has killed three times", d)
	}
}

// Listing its own pending entries, which a consumer does every 10 s, counts none of them as delivered once more.
func TestF14LookingAtOnesOwnPendingEntriesCountsNothing(t *testing.T) {
	t.Parallel()
	server, namespace := redistest.Shared(t), redistest.Namespace(t)
	b := openBus(t, Config{Redis: server.Options(), Namespace: namespace})
	_ = consumeNothing(t, b, GroupConfig{Group: "g"}).Close()
	publish(t, b, events(3, "booking.created")...)
	c := redisstream.Consumer{Group: "g", Name: "c"}
	if _, err := b.log.Read(t.Context(), c, []string{"booking"}, 10, time.Second); err != nil {
		t.Fatal(err)
	}
	for range 5 {
		if held, err := b.log.Held(t.Context(), c, "booking", redisstream.ID{}, redisstream.ID{}, 10); err != nil || len(held) != 3 {
			t.Fatal(held, err)
		}
	}
	for _, p := range server.Client(t).XPendingExt(t.Context(), &redis.XPendingExtArgs{Stream: namespace + ":booking", Group: "g", Start: "-", End: "+", Count: 10}).Val() {
		if p.RetryCount != 1 {
			t.Errorf("%s counts as delivered %d times", p.ID, p.RetryCount)
		}
	}
}

// slowAcks is a transport that acknowledges the first delivery only when something has happened, or when it is not to be expected any more.
type slowAcks struct {
	transport
	happened <-chan struct{}
	once     sync.Once
	acked    atomic.Bool
}

func (s *slowAcks) Ack(ctx context.Context, c redisstream.Consumer, refs []redisstream.Ref) (settled, left []redisstream.Ref, err error) {
	s.once.Do(func() {
		select {
		case <-s.happened:
		case <-time.After(200 * time.Millisecond):
		}
	})
	defer s.acked.Store(true)
	return s.transport.Ack(ctx, c, refs)
}

// Events that processes may have died of run one at a time, and each begins when the result of the one before it is in the log: else that would be suspected
// of what this one does.
func TestF14ResultIsInTheLogBeforeTheNextSuspectRuns(t *testing.T) {
	t.Parallel()
	b := openBus(t, Config{Redis: redistest.Shared(t).Options(), Namespace: redistest.Namespace(t)})
	var messages []redisstream.Message
	for i := range 2 {
		m := encode(&Event{ID: fmt.Sprint(i), Type: "booking.created"})
		var err error
		if m.Metadata, err = redisstream.WithPairs(m.Metadata, redisstream.Pair{Key: wire.KeyCrashes, Value: "1"}); err != nil {
			t.Fatal(err)
		}
		messages = append(messages, m)
	}
	if _, _, err := b.redis.Append(t.Context(), "booking", redisstream.Writer{Name: "test", Seq: 1}, messages); err != nil {
		t.Fatal(err)
	}
	second := make(chan struct{})
	slow := &slowAcks{transport: b.log, happened: second}
	b.log = slow
	handled := newTally()
	handle(t, b, GroupConfig{Group: "g", From: Oldest, InFlight: 16}, "booking", func(_ context.Context, d *Delivery) error {
		if d.Event.ID == "1" {
			if !slow.acked.Load() {
				t.Error("the second one runs while the result of the first one is not in the log")
			}
			close(second)
		}
		handled.add(d.Event.ID)
		return nil
	})
	handled.await(t, 2)
}
