package pipeline

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/rishi-platform/millrace/internal/redisstream"
	"github.com/rishi-platform/millrace/internal/redistest"
)

// countedBeats is a transport that counts the scripts of an idle group, and can keep beats waiting.
type countedBeats struct {
	transport
	beats, promotes, abouts atomic.Int64
	first                   atomic.Int64  // beats at the stream s0
	stop                    chan struct{} // beats wait until it is closed; nil: they do not
}

func (l *countedBeats) Beat(ctx context.Context, c redisstream.Consumer, stream string, say redisstream.Say) (redisstream.Beat, error) {
	if l.stop != nil {
		<-l.stop
	}
	l.beats.Add(1)
	if stream == "s0" {
		l.first.Add(1)
	}
	if say.About != "" {
		l.abouts.Add(1)
	}
	return l.transport.Beat(ctx, c, stream, say)
}

func (l *countedBeats) Promote(ctx context.Context, stream, group string) (redisstream.Promoted, error) {
	l.promotes.Add(1)
	return l.transport.Promote(ctx, stream, group)
}

// countBeats has a bus count what its consumers ask for.
func countBeats(b *Bus) *countedBeats {
	l := &countedBeats{transport: b.log}
	b.log = l
	return l
}

// fleet starts n consumers of a group at several streams.
func fleet(t *testing.T, b *Bus, n, streams int, fn func(ctx context.Context, d *Delivery) error) {
	g := GroupConfig{Group: "g", Policy: Policy{NeverPause: true}}
	for s := range streams {
		g.Patterns = append(g.Patterns, fmt.Sprintf("s%d.*", s))
	}
	for range n {
		handle(t, b, g, AllStreams, fn)
	}
}

// Failures in one stream cost no beats, neither there nor elsewhere: 3 instances at 50 streams beat 75
// times a second, and 18 failures a second made 2,400 to 2,900 of that. Each retry still comes when it
// is due.
func TestG11FailuresMakeNoBeats(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const consumers, streams, perSecond, seconds = 3, 50, 18, 60
		b := openBus(t, Config{})
		l := countBeats(b)
		var mu sync.Mutex
		failed, late := map[string]time.Time{}, time.Duration(0)
		fleet(t, b, consumers, streams, func(_ context.Context, d *Delivery) error {
			mu.Lock()
			defer mu.Unlock()
			if at, again := failed[d.Event.ID]; again {
				late = max(late, time.Since(at)-2*time.Second)
				delete(failed, d.Event.ID)
				return nil
			}
			failed[d.Event.ID] = time.Now()
			return &RetryAfterError{Err: errors.New("no"), After: 2 * time.Second}
		})
		l.beats.Store(0)
		l.first.Store(0)
		l.promotes.Store(0)
		for range perSecond * seconds {
			publish(t, b, Event{Type: "s0.failed"})
			time.Sleep(time.Second / perSecond) // of the bubble's time
		}
		beats, promotes := l.beats.Load(), l.promotes.Load()
		if most := int64(consumers * streams * (seconds/2 + 2)); beats > most {
			t.Errorf("%d beats, want no more than without failures, %d", beats, most)
		}
		if n, most := l.first.Load(), int64(consumers*(seconds/2+2)); n > most {
			t.Errorf("%d beats at the stream that fails, want %d at most", n, most)
		}
		if most := int64(perSecond * seconds); promotes > most {
			t.Errorf("%d calls moved what was due, want %d at most", promotes, most)
		}
		time.Sleep(5 * time.Second)
		synctest.Wait()
		mu.Lock()
		defer mu.Unlock()
		if len(failed) > 0 || late > promoteApart+promoteSpread+20*time.Millisecond {
			t.Errorf("%d retries did not come, and the latest one was late by %v", len(failed), late)
		}
	})
}

// Deliveries that one consumer has deferred and that are due at the same time are moved by one call.
func TestG11WhatIsDueAtOnceIsMovedAtOnce(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const retries, times = 100, 10
		b := openBus(t, Config{})
		l := countBeats(b)
		var handled atomic.Int64
		var failed sync.Map
		fleet(t, b, 1, 1, func(_ context.Context, d *Delivery) error {
			if _, again := failed.LoadOrStore(d.Event.ID, true); again {
				handled.Add(1)
				return nil
			}
			last := d.Event.ID[len(d.Event.ID)-1] - '0'
			return &RetryAfterError{Err: errors.New("no"), After: time.Minute + 10*time.Second*time.Duration(last)}
		})
		publish(t, b, events(retries, "s0.failed")...)
		time.Sleep(3 * time.Minute)
		synctest.Wait()
		if n := handled.Load(); n != retries {
			t.Errorf("%d of %d came again", n, retries)
		}
		if n := l.promotes.Load(); n > 2*times {
			t.Errorf("%d calls moved what was due at %d times", n, times)
		}
	})
}

// Whoever has deferred a delivery is gone when it is due: a beat of somebody else finds it.
func TestG11WhatWasDeferredByTheDeadIsMovedByABeat(t *testing.T) {
	eachBus(t, func(t *testing.T, open func(func(*Config)) *Bus) {
		b := open(nil)
		handled := newTally()
		g := GroupConfig{Group: "g", Patterns: []string{"booking.*"}}
		_ = consumeNothing(t, b, g).Close()
		publish(t, b, Event{ID: "deferred", Type: "booking.created"})
		gone := redisstream.Consumer{Group: "g", Name: "gone"}
		read, err := b.log.Read(t.Context(), gone, []string{"booking"}, 1, time.Second)
		if err != nil || len(read) != 1 {
			t.Fatal(read, err)
		}
		m, _ := read[0].Entry.Message()
		if _, err := b.log.Retry(t.Context(), gone, "booking", []redisstream.Retry{{Ref: read[0].Ref, Message: m, Delay: 50 * time.Millisecond}}); err != nil {
			t.Fatal(err)
		}
		handle(t, b, g, AllStreams, func(_ context.Context, d *Delivery) error { handled.add(d.Event.ID); return nil })
		handled.await(t, 1)
	})
}

// Consumers that have nothing to do beat less often, the less often the more they are, say nothing new of
// themselves, and are not taken for dead.
func TestG12IdleConsumersRest(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const consumers, streams = 30, 5
		b := openBus(t, Config{})
		l := countBeats(b)
		var ran atomic.Int64
		fleet(t, b, consumers, streams, func(context.Context, *Delivery) error { ran.Add(1); return nil })
		for s := range streams {
			publish(t, b, Event{Type: fmt.Sprintf("s%d.made", s)})
		}
		time.Sleep(restAfter + sayEvery + restMost) // of the bubble's time
		synctest.Wait()
		l.beats.Store(0)
		l.abouts.Store(0)
		time.Sleep(time.Minute)
		beats, abouts := l.beats.Load(), l.abouts.Load()
		// 30 at 5 streams beat once in 13 to 15 s each; without resting they would 4,500 times.
		if beats < 600 || beats > 700 {
			t.Errorf("%d beats in a minute, want 600 to 700", beats)
		}
		if abouts > 0 {
			t.Errorf("%d records were written, want none: nothing is new", abouts)
		}
		groups, err := b.log.Groups(t.Context(), "s0")
		if err != nil || groups[0].Alive != consumers {
			t.Errorf("%+v, %v: want all to live", groups, err)
		}
		ran.Store(0)
		publish(t, b, Event{Type: "s0.made"})
		synctest.Wait() // no time passes
		if ran.Load() != 1 {
			t.Errorf("an event ran %d times while all rest, want once, at once", ran.Load())
		}
	})
}

// All of a group together beat about every 2 s, also where they are two.
func TestG12TwoConsumersRestForLess(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := openBus(t, Config{})
		l := countBeats(b)
		fleet(t, b, 2, 1, func(context.Context, *Delivery) error { return nil })
		time.Sleep(restAfter + restMost) // of the bubble's time
		l.beats.Store(0)
		time.Sleep(time.Minute)
		if beats := l.beats.Load(); beats < 28 || beats > 36 {
			t.Errorf("%d beats in a minute, want 28 to 36", beats)
		}
	})
}

// Nothing begins before a consumer that rested has said that it does so no more: until then its peers
// would notice its death late, and it might not know of a pause.
func TestG12NothingBeginsWhileAConsumerRests(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := openBus(t, Config{})
		l := countBeats(b)
		var ran atomic.Int64
		fleet(t, b, 2, 1, func(context.Context, *Delivery) error { ran.Add(1); return nil })
		publish(t, b, Event{Type: "s0.made"})
		time.Sleep(restAfter + restMost)
		synctest.Wait()
		if done, err := b.PauseGroup(t.Context(), "s0", "g", "maintenance"); !done || err != nil {
			t.Fatal(done, err)
		}
		publish(t, b, Event{Type: "s0.made"})
		synctest.Wait()
		if ran.Load() != 1 {
			t.Errorf("%d ran, want 1: the group is paused", ran.Load())
		}
		time.Sleep(2 * beatEvery)
		if done, err := b.ResumeGroup(t.Context(), "s0", "g"); !done || err != nil {
			t.Fatal(done, err)
		}
		time.Sleep(restAfter + restMost)
		synctest.Wait()
		if ran.Load() != 2 {
			t.Fatalf("%d ran, want 2", ran.Load())
		}
		l.stop = make(chan struct{}) // nobody looks: no time passes
		publish(t, b, Event{Type: "s0.made"})
		time.Sleep(100 * time.Millisecond)
		if ran.Load() != 2 {
			t.Error("it began before the beat")
		}
		close(l.stop)
		synctest.Wait()
		if ran.Load() != 3 {
			t.Errorf("%d ran, want 3", ran.Load())
		}
	})
}

// A peer that was given something while the others rested and died then is noticed soon after the next
// beat of any of them, whether it could say that it holds something or not: they rest no more.
func TestG12DeathIsNoticedWhileOthersRest(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		last   redisstream.Say
		beat   time.Duration // of the other one, so long after the last beat
		within time.Duration
	}{
		"it said that it holds something": {redisstream.Say{Holds: true}, time.Second, 10 * time.Second},
		"it rested":                       {redisstream.Say{Next: 4 * time.Second}, 6 * time.Second, 14 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				b := openBus(t, Config{})
				var ran atomic.Int64
				gone := redisstream.Consumer{Group: "g", Name: "gone"}
				fleet(t, b, 1, 1, func(context.Context, *Delivery) error { ran.Add(1); return nil })
				say := func(s redisstream.Say) {
					if _, err := b.log.Beat(t.Context(), gone, "s0", s); err != nil {
						t.Fatal(err)
					}
				}
				for i := range 7 { // so that they are many, who rest for long
					more := redisstream.Consumer{Group: "g", Name: fmt.Sprint("another", i)}
					if _, err := b.log.Beat(t.Context(), more, "s0", redisstream.Say{Next: time.Hour}); err != nil {
						t.Fatal(err)
					}
				}
				for range 10 {
					say(redisstream.Say{Next: 4 * time.Second})
					time.Sleep(3 * time.Second) // of the bubble's time
				}
				c := onlyConsumer(t, b)
				if !c.Rests("s0") {
					t.Fatal("the other one does not rest")
				}
				say(test.last)
				b.local.Give(redisstream.Consumer{Group: "g", Name: "gone"}, "s0", encode(&Event{ID: "held", Type: "s0.made"}))
				died := time.Now()
				time.Sleep(test.beat)
				c.BeatSoon("s0") // as it would have come
				for ran.Load() == 0 && time.Since(died) < time.Minute {
					time.Sleep(100 * time.Millisecond)
				}
				if took := time.Since(died); took > test.within {
					t.Errorf("what it held ran after %v, want %v at most", took, test.within)
				}
			})
		})
	}
}

// What the log has given to a consumer that rests, and it has not heard of, is found by a beat.
func TestG12WhatARestingConsumerHasNotHeardOfIsFound(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := openBus(t, Config{})
		var ran atomic.Int64
		fleet(t, b, 1, 1, func(context.Context, *Delivery) error { ran.Add(1); return nil })
		another := redisstream.Consumer{Group: "g", Name: "another"}
		publish(t, b, Event{Type: "s0.made"})
		for range 10 { // so that there are two of them
			if _, err := b.log.Beat(t.Context(), another, "s0", redisstream.Say{Next: restMost}); err != nil {
				t.Fatal(err)
			}
			time.Sleep(3 * time.Second) // of the bubble's time
		}
		c := onlyConsumer(t, b)
		if !c.Rests("s0") || ran.Load() != 1 {
			t.Fatal("it does not rest")
		}
		b.local.Give(redisstream.Consumer{Group: "g", Name: c.Name()}, "s0", encode(&Event{ID: "unheard", Type: "s0.made"}))
		time.Sleep(2*beatEvery + readBlock + time.Second)
		synctest.Wait()
		if ran.Load() != 2 {
			t.Errorf("%d ran, want 2", ran.Load())
		}
	})
}

// A process that follows 50 streams with 20 groups holds 30 connections at most: it was 102.
func TestG12ConnectionsOfAProcess(t *testing.T) {
	t.Parallel()
	const groups, streams, most = 20, 50, 30
	server := redistest.Start(t)
	b := openBus(t, Config{Redis: server.Options()})
	client := server.Client(t)
	var patterns []string
	for s := range streams {
		patterns = append(patterns, fmt.Sprintf("s%d.*", s))
		publish(t, b, Event{Type: fmt.Sprintf("s%d.made", s)})
	}
	handled := newTally()
	for n := range groups {
		g := GroupConfig{Group: fmt.Sprint("g", n), Patterns: patterns}
		consume(t, b, g, AllStreams, func(m *message.Message, d *Delivery) { handled.add(d.Group + m.UUID); m.Ack() })
	}
	handled.await(t, groups*streams)
	publish(t, b, Event{Type: "s0.made"})
	handled.await(t, groups*streams+groups)
	connections := func() (n int) {
		_, after, _ := strings.Cut(client.Info(t.Context(), "clients").Val(), "connected_clients:")
		_, _ = fmt.Sscan(after, &n)
		return n - 1 // this one's
	}
	awaitFact(t, fmt.Sprintf("%d connections at most, after %d", most, connections()), func() bool { return connections() <= most })
}

// A consumer with fewer places than streams asks them in turn, by a script that reads each of them. One that
// has waited in vain only waits: 600 readers of 50 streams made 28,000 reads a second.
func TestG12IdleReaderOnlyWaits(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const streams = 8
		b := openBus(t, Config{})
		l := &countedReads{transport: b.log}
		b.log = l
		g := GroupConfig{Group: "g", InFlight: 2}
		for s := range streams {
			g.Patterns = append(g.Patterns, fmt.Sprintf("s%d.*", s))
		}
		var ran atomic.Int64
		handle(t, b, g, AllStreams, func(context.Context, *Delivery) error { ran.Add(1); return nil })
		for s := range streams {
			publish(t, b, Event{Type: fmt.Sprintf("s%d.made", s)})
		}
		time.Sleep(time.Minute) // of the bubble's time
		synctest.Wait()
		if ran.Load() != streams {
			t.Fatalf("%d ran, want %d", ran.Load(), streams)
		}
		l.inTurn.Store(0)
		time.Sleep(time.Minute)
		if n := l.inTurn.Load(); n > 0 {
			t.Errorf("%d times it asked all streams in turn, want 0", n)
		}
	})
}

// countedReads is a transport that counts reads in turn.
type countedReads struct {
	transport
	inTurn atomic.Int64
}

func (l *countedReads) ReadInTurn(
	ctx context.Context, c redisstream.Consumer, streams []string, count int,
) ([]redisstream.Delivered, error) {
	l.inTurn.Add(1)
	return l.transport.ReadInTurn(ctx, c, streams, count)
}
