package pipeline

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/rishi-platform/millrace/internal/redisstream"
	"github.com/rishi-platform/millrace/internal/redistest"
)

// Consumers that have nothing to do for longer than it takes to be found dead stay in their group.
func TestF20QuietConsumersLive(t *testing.T) {
	t.Parallel()
	server, namespace := redistest.Shared(t), redistest.Namespace(t)
	log := newLogged()
	b := openBus(t, Config{Redis: server.Options(), Namespace: namespace, Logger: slog.New(log)})
	handled := newTally()
	for range 2 {
		consume(t, b, GroupConfig{Group: "g", Patterns: []string{"booking.*"}}, AllStreams, handled.ack)
	}
	quiet := time.Now()
	awaitFact(t, "some quiet beats", func() bool { return time.Since(quiet) > deadAfter+2*beatEvery })
	if n := server.Client(t).ZCard(t.Context(), "{"+namespace+":booking}:alive:g").Val(); n != 2 {
		t.Errorf("%d consumers in the group, want 2", n)
	}
	if lines := log.with("taken over"); len(lines) > 0 {
		t.Errorf("somebody was taken over from: %v", lines)
	}
	publish(t, b, events(10, "booking.created")...)
	handled.await(t, 10)
}

// deadConsumer reads n entries of a group as a process that died then: it has beaten, and never again.
func deadConsumer(t *testing.T, client redis.UniversalClient, namespace, name string, n int) {
	t.Helper()
	key := namespace + ":booking"
	if read, err := client.XReadGroup(t.Context(), &redis.XReadGroupArgs{Group: "g", Consumer: name, Streams: []string{key, ">"}, Count: int64(n), Block: -1}).Result(); err != nil || len(read[0].Messages) != n {
		t.Fatal(read, err)
	}
	client.ZAdd(t.Context(), "{"+key+"}:alive:g", redis.Z{Score: 1, Member: name})
}

// Fifty processes that died, one after the other: what they held is handled, and nothing of them is left.
func TestF21DeadConsumersGo(t *testing.T) {
	t.Parallel()
	server, namespace := redistest.Shared(t), redistest.Namespace(t)
	client := server.Client(t)
	b := openBus(t, Config{Redis: server.Options(), Namespace: namespace})
	g := GroupConfig{Group: "g", Patterns: []string{"booking.*"}}
	_ = consumeNothing(t, b, g).Close()
	publish(t, b, events(100, "booking.created")...)
	for i := range 50 {
		deadConsumer(t, client, namespace, fmt.Sprint("dead-", i), 2)
	}
	handled := newTally()
	handle(t, b, g, AllStreams, func(_ context.Context, d *Delivery) error { handled.add(d.Event.ID); return nil })
	handled.await(t, 100)
	awaitFact(t, "one consumer in the group", func() bool {
		consumers := client.XInfoConsumers(t.Context(), namespace+":booking", "g").Val()
		return len(consumers) == 1 && client.ZCard(t.Context(), "{"+namespace+":booking}:alive:g").Val() == 1
	})
}

// A consumer that leaves at the very moment at which it is given something does not take that away with it.
func TestF19RemovalOfAConsumerLosesNothing(t *testing.T) {
	t.Parallel()
	const rounds = 1000
	server, namespace := redistest.Shared(t), redistest.Namespace(t)
	b := openBus(t, Config{Redis: server.Options(), Namespace: namespace})
	_ = consumeNothing(t, b, GroupConfig{Group: "g"}).Close()
	publish(t, b, events(rounds, "booking.created")...)
	c := redisstream.Consumer{Group: "g", Name: "c"}
	var both sync.WaitGroup
	read := 0
	both.Go(func() {
		for read < rounds && !t.Failed() {
			entries, err := b.log.Read(t.Context(), c, []string{"booking"}, 1, time.Second)
			if err != nil {
				t.Error(err)
			}
			read += len(entries)
		}
	})
	both.Go(func() {
		for range rounds {
			if err := b.log.Leave(t.Context(), c, "booking"); err != nil {
				t.Error(err)
			}
		}
	})
	both.Wait()
	if n := server.Client(t).XPending(t.Context(), namespace+":booking", "g").Val().Count; n != rounds {
		t.Errorf("%d of %d are pending: the others are lost", n, rounds)
	}
}

// One old entry stands behind more young ones than a batch has: it is found all the same, and they are left alone.
func TestF22OldEntryBehindYoungOnesIsFound(t *testing.T) {
	t.Parallel()
	const idle = 8 * time.Second
	server, namespace := redistest.Shared(t), redistest.Namespace(t)
	client, key := server.Client(t), namespace+":booking"
	b := openBus(t, Config{Redis: server.Options(), Namespace: namespace})
	g := GroupConfig{Group: "g", Patterns: []string{"booking.*"}, Policy: Policy{ClaimIdle: idle}}
	_ = consumeNothing(t, b, g).Close()
	publish(t, b, events(150, "booking.created")...)
	old := publish(t, b, Event{ID: "old", Type: "booking.created"})
	read := time.Now()
	if _, err := client.XReadGroup(t.Context(), &redis.XReadGroupArgs{Group: "g", Consumer: "theirs", Streams: []string{key, ">"}, Count: 151, Block: -1}).Result(); err != nil {
		t.Fatal(err)
	}
	if err := client.Do(t.Context(), "XCLAIM", key, "g", "theirs", 0, string(old.Outcomes[0].Position), "IDLE", time.Minute.Milliseconds(), "JUSTID").Err(); err != nil {
		t.Fatal(err)
	}
	got := make(chan string, 200)
	handle(t, b, g, AllStreams, func(_ context.Context, d *Delivery) error { got <- d.Event.ID; return nil })
	if id := within(t, "the old entry", got); id != "old" || time.Since(read) > idle {
		t.Errorf("%s was claimed first, after %v", id, time.Since(read))
	}
}

// Keys beside the stream that somebody deleted: what is pending is the truth, and nothing is orphaned.
func TestF24LostSideKeysOrphanNothing(t *testing.T) {
	t.Parallel()
	for _, suffix := range []string{"alive:g", "meta"} {
		t.Run(suffix, func(t *testing.T) {
			t.Parallel()
			server, namespace := redistest.Shared(t), redistest.Namespace(t)
			client := server.Client(t)
			b := openBus(t, Config{Redis: server.Options(), Namespace: namespace})
			g := GroupConfig{Group: "g", Patterns: []string{"booking.*"}, Policy: Policy{ClaimIdle: 500 * time.Millisecond}}
			_ = consumeNothing(t, b, g).Close()
			publish(t, b, events(20, "booking.created")...)
			deadConsumer(t, client, namespace, "dead", 20)
			handled := newTally()
			hold := make(chan struct{})
			handle(t, b, g, AllStreams, func(_ context.Context, d *Delivery) error {
				if d.Event.ID == "held" {
					<-hold
				}
				handled.add(d.Event.ID)
				return nil
			})
			publish(t, b, Event{ID: "held", Type: "booking.created"})
			if n := client.Del(t.Context(), "{"+namespace+":booking}:"+suffix).Val(); n != 1 {
				t.Fatal("there was no such key")
			}
			publish(t, b, Event{ID: "later", Type: "booking.created"})
			handled.await(t, 21)
			close(hold)
			handled.await(t, 22)
			awaitSettled(t, b, "booking", "g")
			if twice := handled.more(); len(twice) > 0 {
				t.Errorf("handled more than once: %v", twice)
			}
			awaitGroup(t, b, "booking", "g", func(g redisstream.GroupInfo) bool { // what is in them is there again
				return len(g.Patterns) == 1 && g.Alive == 1 && !g.Frontier.IsZero()
			})
		})
	}
}

// Two instances of one configuration are two consumers, and what one of them fails is acknowledged by neither.
func TestF65InstancesAreConsumersOfTheirOwn(t *testing.T) {
	eachBus(t, func(t *testing.T, open func(func(*Config)) *Bus) {
		b := open(nil)
		var mu sync.Mutex
		names := map[string]bool{}
		for range 2 {
			handle(t, b, GroupConfig{Group: "g", Patterns: []string{"booking.*"}, InFlight: 1, Policy: Policy{Attempts: 2, Backoff: atOnce}}, AllStreams, func(_ context.Context, d *Delivery) error {
				mu.Lock()
				names[d.Consumer] = true
				both := len(names) == 2
				mu.Unlock()
				if d.Event.Type == "booking.bad" {
					return errors.New("refused")
				}
				if !both {
					<-time.After(10 * time.Millisecond) // gives the other one its turn
				}
				return nil
			})
		}
		publish(t, b, Event{ID: "bad", Type: "booking.bad"})
		awaitFact(t, "a delivery to each of them", func() bool {
			publish(t, b, Event{Type: "booking.created"})
			mu.Lock()
			defer mu.Unlock()
			return len(names) == 2
		})
		awaitDead(t, b, "booking", "g", 1)
	})
}

// Who was found dead and has beaten since is alive: nothing is taken from it.
func TestF07TakeOverIsBoundToTheBeatThatWasSeen(t *testing.T) {
	eachBus(t, func(t *testing.T, open func(func(*Config)) *Bus) {
		b := open(nil)
		peer, other := redisstream.Consumer{Group: "g", Name: "peer"}, redisstream.Consumer{Group: "g", Name: "other"}
		publish(t, b, events(3, "booking.created")...)
		for _, c := range []redisstream.Consumer{peer, other} {
			if _, err := b.log.Join(t.Context(), c, redisstream.Join{Stream: "booking", Patterns: []string{"booking.*"}}); err != nil {
				t.Fatal(err)
			}
		}
		if read, err := b.log.Read(t.Context(), peer, []string{"booking"}, 10, time.Second); err != nil || len(read) != 3 {
			t.Fatal(read, err)
		}
		seen := func() redisstream.Peer {
			t.Helper()
			beat, err := b.log.Beat(t.Context(), other, "booking", redisstream.Say{})
			if err != nil || len(beat.Peers) != 1 {
				t.Fatal(beat, err)
			}
			return beat.Peers[0]
		}
		old := seen()
		awaitFact(t, "another beat of the peer", func() bool {
			_, err := b.log.Beat(t.Context(), peer, "booking", redisstream.Say{})
			return err == nil && seen().Beat != old.Beat
		})
		if taken, err := b.log.TakeOver(t.Context(), other, "booking", old, redisstream.Most{Entries: 100, Bytes: 1 << 20}); err != nil || len(taken) > 0 {
			t.Errorf("took %d from a living peer: %v", len(taken), err)
		}
		if taken, err := b.log.TakeOver(t.Context(), other, "booking", seen(), redisstream.Most{Entries: 100, Bytes: 1 << 20}); err != nil || len(taken) != 3 {
			t.Errorf("took %d from a peer that has not moved, want 3: %v", len(taken), err)
		}
	})
}
