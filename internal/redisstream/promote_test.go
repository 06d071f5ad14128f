package redisstream

import (
	"context"
	"fmt"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/rishi-platform/millrace/internal/redistest"
)

// deferMany has n deliveries deferred, each with a payload of so many bytes, which are due in their order.
func deferMany(t *testing.T, c *Client, consumer Consumer, n, size int, delay time.Duration) {
	t.Helper()
	join(t, c, consumer)
	for i := range n {
		add(t, c, i+1)
	}
	var retries []Retry
	for i, d := range read(t, c, consumer, n) {
		m := Message{UUID: fmt.Sprint("m", i), Payload: strings.Repeat("x", size)}
		retries = append(retries, Retry{Ref: d.Ref, Message: m, Delay: delay + time.Duration(i)*time.Microsecond})
	}
	settled, err := c.Retry(t.Context(), consumer, "booking", retries)
	if err != nil || len(settled) != n {
		t.Fatal(settled, err)
	}
}

// One step moves no more than its bounds, the first due first, says when the next one is due, and beats
// do the same: 200 deliveries of 1 MiB went at once.
func TestG11StepsThatMoveWhatIsDueAreBounded(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	for name, test := range map[string]struct{ n, size, most int }{
		"by their number": {promoteEntries + 50, 10, promoteEntries},
		"by their bytes":  {12, 1 << 20, promoteBytes >> 20},
	} {
		c := connect(t, server, redistest.Namespace(t))
		consumer := Consumer{Group: "g", Name: "c"}
		deferMany(t, c, consumer, test.n, test.size, time.Millisecond)
		lane := func() int64 { return server.Client(t).XLen(t.Context(), c.laneKey("booking", "g")).Val() }
		moved := 0
		for moved < test.n {
			p, err := c.Promote(t.Context(), "booking", "g")
			if err != nil || p.Moved > test.most {
				t.Fatalf("%s: %+v, %v", name, p, err)
			}
			moved += p.Moved
			if n := lane(); n != int64(moved) {
				t.Fatalf("%s: %d in the lane after %d", name, n, moved)
			}
			if left := test.n - moved; left == 0 && p.Next >= 0 {
				t.Errorf("%s: the next one is due in %v, and none is left", name, p.Next)
			}
		}
		for i, m := range server.Client(t).XRange(t.Context(), c.laneKey("booking", "g"), "-", "+").Val() {
			if m.Values[FieldUUID] != fmt.Sprint("m", i) {
				t.Fatalf("%s: %v stands at %d", name, m.Values[FieldUUID], i)
			}
		}
	}
}

// What is not due yet stays, and a lane that is full takes nothing more.
func TestG11WhatIsNotDueOrFindsNoRoomStays(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	client, c, consumer := server.Client(t), connect(t, server, ""), Consumer{Group: "g", Name: "c"}
	deferMany(t, c, consumer, 1, 10, time.Minute)
	p, err := c.Promote(t.Context(), "booking", "g")
	if err != nil || p.Moved != 0 || p.Next < 50*time.Second || p.Next > time.Minute+time.Second {
		t.Errorf("%+v, %v; want nothing to be moved, and one minute", p, err)
	}
	client.ZAdd(t.Context(), c.deferredKey("booking", "g"), redis.Z{Score: 1, Member: client.ZRange(t.Context(), c.deferredKey("booking", "g"), 0, 0).Val()[0]})
	const fill = `for i = 1, tonumber(ARGV[1]) do redis.call('XADD', KEYS[1], '*', 'a', '1') end`
	_ = client.Eval(t.Context(), fill, []string{c.laneKey("booking", "g")}, GroupBound).Err() // it answers nil
	if p, err = c.Promote(t.Context(), "booking", "g"); err != nil || p.Moved != 0 {
		t.Errorf("%+v, %v; want nothing to be moved into a full lane", p, err)
	}
	if _, err := c.Beat(t.Context(), consumer, "booking", Say{}); err != nil {
		t.Fatal(err)
	}
	if n := client.ZCard(t.Context(), c.deferredKey("booking", "g")).Val(); n != 1 {
		t.Errorf("%d deferred, want 1", n)
	}
	client.Del(t.Context(), c.laneKey("booking", "g"))
	if p, err = c.Promote(t.Context(), "booking", "g"); err != nil || p.Moved != 1 || p.Next >= 0 {
		t.Errorf("%+v, %v; want it to be moved now", p, err)
	}
}

// A beat of a consumer that rests costs the server eight small commands: it describes no groups, and
// writes nothing but that the consumer lives.
func TestG12BeatOfAnIdleConsumerWritesOneThing(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	client, c, consumer := server.Client(t), connect(t, server, ""), Consumer{Group: "g", Name: "c"}
	join(t, c, consumer)
	for i := range 20 {
		join(t, c, Consumer{Group: fmt.Sprint("g", i), Name: "c"})
		join(t, c, Consumer{Group: "g", Name: fmt.Sprint("peer", i)})
	}
	say := Say{About: "{}", Next: 15 * time.Second, Idle: true}
	b, err := c.Beat(t.Context(), consumer, "booking", say)
	if err != nil || len(b.Patterns.Set) == 0 || b.Members != 21 || b.Unknown {
		t.Fatalf("%+v, %v", b, err)
	}
	say.About, say.Patterns = "", b.Patterns.Version
	client.ConfigResetStat(t.Context())
	b, err = c.Beat(t.Context(), consumer, "booking", say)
	if err != nil || len(b.Patterns.Set) > 0 || b.Patterns.Version != say.Patterns || b.Unknown {
		t.Fatalf("%+v, %v", b, err)
	}
	for command, most := range map[string]int{"xinfo|groups": 0, "xinfo|consumers": 0, "hset": 0, "hget": 0, "zadd": 1, "zcount": 0, "zrangebyscore": 1} {
		if n := calls(t, client, command); n > most {
			t.Errorf("a beat runs %s %d times, want %d", command, n, most)
		}
	}
	all := 0
	for line := range strings.Lines(client.Info(t.Context(), "commandstats").Val()) {
		if name, _, ok := strings.Cut(line, ":"); ok && name != "cmdstat_info" && name != "cmdstat_config|resetstat" {
			all += calls(t, client, strings.TrimPrefix(name, "cmdstat_"))
		}
	}
	if all > 9 {
		t.Errorf("a beat runs %d commands, want 9 at most, its own included", all)
	}
	// What it says of itself is gone: it hears that.
	client.HDel(t.Context(), c.metaKey("booking"), "consumer:g:c")
	if b, err = c.Beat(t.Context(), consumer, "booking", say); err != nil || !b.Unknown {
		t.Errorf("%+v, %v; want it to hear that its record is gone", b, err)
	}
}

// A beat tells of those peers that are to be watched, or of all.
func TestG12BeatTellsOfPeersThatAreToBeWatched(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	client, c, consumer := server.Client(t), connect(t, server, ""), Consumer{Group: "g", Name: "c"}
	join(t, c, consumer)
	beat := func(name string, say Say) {
		if _, err := c.Beat(t.Context(), Consumer{Group: "g", Name: name}, "booking", say); err != nil {
			t.Fatal(err)
		}
	}
	beat("rests", Say{Next: 15 * time.Second, Idle: true})
	beat("holds", Say{Holds: true})
	client.ZAdd(t.Context(), c.aliveKey("booking", "g"), redis.Z{Score: 1, Member: "late"})
	client.ZAdd(t.Context(), c.aliveKey("booking", "g"), redis.Z{Score: float64(Left), Member: "left"})
	peers := func(say Say) map[string]Peer {
		b, err := c.Beat(t.Context(), consumer, "booking", say)
		if err != nil || b.Members != 5 {
			t.Fatalf("%+v, %v", b, err)
		}
		of := map[string]Peer{}
		for _, p := range b.Peers {
			of[p.Name] = p
		}
		return of
	}
	some := peers(Say{})
	if _, rests := some["rests"]; rests || len(some) != 3 {
		t.Errorf("told of %v, want all but the one that rests", some)
	}
	if h := some["holds"]; !h.Holds() || h.IsIdle() || h.Due < time.Second || h.Due > BeatEvery {
		t.Errorf("%+v, want it to hold something, and to be due within 2 s", h)
	}
	if l := some["late"]; l.Due > -time.Hour {
		t.Errorf("%+v, want it to be late", l)
	}
	all := peers(Say{AllPeers: true})
	if r := all["rests"]; len(all) != 4 || r.Holds() || !r.IsIdle() || r.Due < 10*time.Second || r.Due > 15*time.Second {
		t.Errorf("told of %v, want all four", all)
	}
}

// A beat says what is pending with its consumer, and whether something is with one that does not beat.
func TestG12BeatSaysWhatIsPending(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	client, c, consumer := server.Client(t), connect(t, server, ""), Consumer{Group: "g", Name: "c"}
	join(t, c, consumer)
	join(t, c, Consumer{Group: "g", Name: "peer"})
	for i := range 6 {
		add(t, c, i+1)
	}
	read(t, c, consumer, 2)
	read(t, c, Consumer{Group: "g", Name: "peer"}, 1)
	b, err := c.Beat(t.Context(), consumer, "booking", Say{})
	if err != nil || b.Pending != 2 || b.Strangers {
		t.Errorf("%+v, %v; want 2 pending, and no strangers", b, err)
	}
	read(t, c, Consumer{Group: "g", Name: "theirs"}, 1)
	client.XAdd(t.Context(), &redis.XAddArgs{Stream: c.laneKey("booking", "g"), Values: []string{"a", "1"}})
	if _, err := client.XReadGroup(t.Context(), &redis.XReadGroupArgs{
		Group: "g", Consumer: "c", Streams: []string{c.laneKey("booking", "g"), ">"}, Block: -1,
	}).Result(); err != nil {
		t.Fatal(err)
	}
	if b, err = c.Beat(t.Context(), consumer, "booking", Say{}); err != nil || b.Pending != 3 || !b.Strangers {
		t.Errorf("%+v, %v; want 3 pending, and strangers", b, err)
	}
}

// Scripts that are asked for at the same time go in a few round trips, also where the server knows none
// of them yet.
func TestG12BeatsShareRoundTrips(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	client, c := server.Client(t), connect(t, server, "")
	const n = 500
	join(t, c, Consumer{Group: "g", Name: "c"})
	client.ScriptFlush(t.Context())
	failed := make(chan error, n)
	for i := range n {
		go func() {
			_, err := c.Beat(t.Context(), Consumer{Group: "g", Name: fmt.Sprint("c", i)}, "booking", Say{})
			failed <- err
		}()
	}
	for range n {
		if err := <-failed; err != nil {
			t.Fatal(err)
		}
	}
	if got := client.ZCard(t.Context(), c.aliveKey("booking", "g")).Val(); got != n+1 {
		t.Errorf("%d beat, want %d", got, n+1)
	}
	if conns := c.beats.PoolStats().TotalConns; conns > batchSenders {
		t.Errorf("%d connections, want %d at most", conns, batchSenders)
	}
}

// A caller that gives up while its script is on its way waits for the answer: a beat that came after its
// consumer has left would make it look alive, and what it left behind look like that of a dead one. One
// that was not sent yet is never sent.
func TestG12NoBeatComesAfterItsCallerHasGivenUp(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	client, c, consumer := server.Client(t), connect(t, server, ""), Consumer{Group: "g", Name: "c"}
	join(t, c, consumer)
	trips := &underWay{}
	c.beats.AddHook(trips)
	server.Freeze(t)
	ctx, giveUp := context.WithCancel(t.Context())
	const n = 20
	gaveUp := make(chan error, n)
	for i := range n {
		go func() { _, err := c.Beat(ctx, consumer, "booking", Say{}); gaveUp <- err }()
		if i < batchSenders {
			trips.await(t, i+1)
		}
	}
	giveUp()
	for range n - batchSenders {
		<-gaveUp
	}
	returned := 0
	select {
	case <-gaveUp:
		t.Error("one gave up whose beat is on its way")
		returned++
	case <-time.After(200 * time.Millisecond):
	}
	server.Thaw(t)
	for range batchSenders - returned {
		<-gaveUp
	}
	if err := c.Leave(t.Context(), consumer, "booking"); err != nil {
		t.Fatal(err)
	}
	client.ConfigResetStat(t.Context())
	if _, err := c.Beat(t.Context(), Consumer{Group: "g", Name: "another"}, "booking", Say{}); err != nil {
		t.Fatal(err)
	}
	if alive := client.ZRange(t.Context(), c.aliveKey("booking", "g"), 0, -1).Val(); len(alive) != 1 || alive[0] != "another" {
		t.Errorf("%v beat, want another alone", alive)
	}
}

// underWay is a hook of a client that counts the round trips that were begun.
type underWay struct {
	begun atomic.Int32
	each  func(n int32) // called when the n-th begins; nil: nothing is
}

func (u *underWay) begin() {
	if n := u.begun.Add(1); u.each != nil {
		u.each(n)
	}
}

func (u *underWay) DialHook(next redis.DialHook) redis.DialHook { return next }

func (u *underWay) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error { u.begin(); return next(ctx, cmds) }
}

func (u *underWay) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error { u.begin(); return next(ctx, cmd) }
}

// await waits until so many were.
func (u *underWay) await(t *testing.T, n int) {
	t.Helper()
	for u.begun.Load() < int32(n) {
		if t.Context().Err() != nil {
			t.Fatal("it is not on its way")
		}
		runtime.Gosched()
	}
}
