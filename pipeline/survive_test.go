package pipeline

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/rishi-platform/millrace/internal/redisstream"
	"github.com/rishi-platform/millrace/internal/redistest"
)

// These tests hold the table "What survives what" of the README, with those that docs/operations.md names beside them.

func TestVolatileEndsWithTheProcess(t *testing.T) {
	t.Parallel()
	b, err := Open(t.Context(), Config{})
	if err != nil {
		t.Fatal(err)
	}
	if r := publish(t, b, Event{Type: "booking.created"}); r.Durability() != Volatile {
		t.Errorf("it is %v", r.Durability())
	}
	if got := records(t, b, Query{}); len(got) != 1 {
		t.Errorf("%d events", len(got))
	}
	closeBus(t, b)
	if got := records(t, openBus(t, Config{}), Query{}); len(got) != 0 {
		t.Errorf("%d events, want none: this is not kept", len(got))
	}
}

// What is local only knows nothing of Redis.
func TestVolatileDoesNotNeedRedis(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	b := openBus(t, Config{Redis: server.Options(), SpoolDir: t.TempDir()})
	local := func(id string) {
		t.Helper()
		r, err := b.PublishWith(t.Context(), PublishOptions{Scope: LocalOnly}, Event{ID: id, Type: "booking.created"})
		if err != nil || r.Durability() != Volatile {
			t.Errorf("published %s: %v, %v", id, r.Durability(), err)
		}
	}
	local("1")
	server.Kill(t)
	local("2")
	awaitState(t, b, StateSpooling)
	local("3")
	if got := ids(records(t, b, Query{Streams: []string{"booking"}, Source: FromLocal})); !slices.Equal(got, []string{"1", "2", "3"}) {
		t.Errorf("kept %v", got)
	}
	server.StartAgain(t)
	awaitState(t, b, StateDurable)
	if got := ids(records(t, b, Query{Streams: []string{"booking"}})); !slices.Equal(got, []string{"1", "2", "3"}) {
		t.Errorf("kept %v", got)
	}
	if n := server.Client(t).Exists(t.Context(), "booking").Val(); n != 0 {
		t.Error("it has reached redis")
	}
}

// A redis-server that is killed: health says beforehand what is kept, and in the end everything is there, since what was lost is restored.
func TestF51DataAfterSIGKILL(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		args []string
		lost bool
	}{
		"none":         {nil, true},
		"rdb":          {[]string{"--save", "3600 1"}, true},
		"aof-everysec": {[]string{"--appendonly", "yes", "--appendfsync", "everysec"}, false}, // the kernel has it
		"aof-always":   {[]string{"--appendonly", "yes", "--appendfsync", "always"}, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := redistest.Start(t, test.args...)
			b := openBus(t, Config{Redis: server.Options()})
			if got := b.Health(t.Context()).Redis.Persistence; got != name {
				t.Errorf("health says %s", got)
			}
			events, want := numbered(0, 200)
			publish(t, b, events...)
			if name == "aof-everysec" { // on a busy disk the server keeps for up to 2 s what it has to write
				awaitFact(t, "the kernel to have it", func() bool {
					return strings.Contains(server.Client(t).Info(t.Context(), "persistence").Val(), "aof_buffer_length:0\r")
				})
			}
			server.Kill(t)
			server.StartAgain(t)
			awaitRestored(t, b, "booking", want)
			b.suspectRewind()
			publish(t, b, Event{ID: "end", Type: "booking.created"})
			lost := 0
			for _, l := range b.Health(t.Context()).Lost {
				lost += l.Events
			}
			if (lost == 200) != test.lost || (lost == 0) == test.lost {
				t.Errorf("%d events are said to have been lost", lost)
			}
		})
	}
}

// A server that is loading is away for as long as it loads, and has forgotten no group.
func TestF50RestartWhileLoading(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, "--save", "", "--rdbcompression", "no", "--key-load-delay", "20000", "--loading-process-events-interval-bytes", "1024")
	log := newLogged()
	b := openBus(t, Config{Redis: server.Options(), SpoolDir: t.TempDir(), Logger: slog.New(log)})
	handled := newTally()
	consume(t, b, GroupConfig{Group: "g"}, "booking", handled.ack)
	client := server.Client(t)
	for i := range 150 { // 3 s to load
		client.Set(t.Context(), fmt.Sprint("key", i), strings.Repeat("x", 2000), 0)
	}
	events, want := numbered(0, 100)
	publish(t, b, events...)
	handled.await(t, 100)
	awaitSettled(t, b, "booking", "g")
	if err := client.Save(t.Context()).Err(); err != nil {
		t.Fatal(err)
	}
	server.Kill(t)
	loaded := make(chan struct{})
	go func() { defer close(loaded); server.StartAgain(t) }()
	loading := false
	for n, done := 100, false; !done; n++ {
		select {
		case <-loaded:
			done = true
		default:
		}
		loading = loading || strings.HasPrefix(fmt.Sprint(client.Get(t.Context(), "key1").Err()), "LOADING")
		id := fmt.Sprintf("%06d", n)
		if _, err := b.Publish(t.Context(), Event{ID: id, Type: "booking.created"}); err != nil {
			t.Error(err)
		}
		want = append(want, id)
	}
	if !loading {
		t.Error("the server was never loading: this test shows nothing")
	}
	awaitState(t, b, StateDurable)
	awaitRestored(t, b, "booking", want)
	handled.await(t, len(want))
	awaitSettled(t, b, "booking", "g")
	if twice := handled.more(); len(twice) > 0 {
		t.Errorf("handled again: %v", twice)
	}
	if lines := log.with("is made again"); len(lines) > 0 {
		t.Errorf("%v", lines)
	}
	if h := b.Health(t.Context()); len(h.Lost) > 0 {
		t.Errorf("lost %+v", h.Lost)
	}
}

// One of two processes is cut off: it says so, goes on from its spool, and what its groups have handled their peers in the other one do not again.
func TestF59OneProcessIsCutOff(t *testing.T) {
	t.Parallel()
	server := alwaysServer(t)
	proxy := redistest.NewProxy(t, server.Addr())
	options := server.Options()
	options.Addrs = []string{proxy.Addr()}
	cut := openBus(t, Config{Redis: options, SpoolDir: t.TempDir(), Fallback: Local})
	other := openBus(t, Config{Redis: server.Options()})
	here, there, elsewhere := newTally(), newTally(), newTally()
	handle(t, cut, GroupConfig{Group: "shared"}, "booking", func(_ context.Context, d *Delivery) error { here.add(d.Event.ID); return nil })
	awaitGroup(t, other, "booking", "shared", func(g redisstream.GroupInfo) bool { return g.Alive == 1 })
	proxy.Refuse(true)
	proxy.Reset()
	awaitState(t, cut, StateSpooling)
	handle(t, other, GroupConfig{Group: "shared"}, "booking", func(_ context.Context, d *Delivery) error { there.add(d.Event.ID); return nil })
	handle(t, other, GroupConfig{Group: "only-there"}, "booking", func(_ context.Context, d *Delivery) error { elsewhere.add(d.Event.ID); return nil })
	events, _ := numbered(0, 100)
	publishSpooled(t, cut, events...)
	here.await(t, 100)
	if h := cut.Health(t.Context()); h.State != StateSpooling || h.Spool.Events < 100 || !hasProblem(h, "redis-away") {
		t.Errorf("the one that is cut off says %s, %+v", h.State, h.Spool)
	}
	if h := other.Health(t.Context()); h.State != StateDurable {
		t.Errorf("the other one says %s", h.State)
	}
	publish(t, other, Event{ID: "meanwhile", Type: "booking.created"})
	there.await(t, 1)
	proxy.Refuse(false)
	awaitState(t, cut, StateDurable)
	elsewhere.await(t, 101)
	awaitSettled(t, other, "booking", "shared")
	if there.count["meanwhile"] != 1 || len(there.count) != 1 || len(here.count) != 100 {
		t.Errorf("%d events were handled there and %d here", len(there.count), len(here.count))
	}
	for _, tally := range []*tally{here, there, elsewhere} {
		if twice := tally.more(); len(twice) > 0 {
			t.Errorf("handled again: %v", twice)
		}
	}
}

// A Redis whose disk is full takes nothing, and keeps what it has.
func TestStoredAndSpooledWhileTheDiskOfRedisIsFull(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, "--save", "3600 1000000", "--enable-protected-configs", "yes")
	client := server.Client(t)
	b := openBus(t, Config{Redis: server.Options(), SpoolDir: t.TempDir()})
	events, want := numbered(0, 20)
	publish(t, b, events[:10]...)
	before := client.ConfigGet(t.Context(), "dir").Val()["dir"]
	gone := t.TempDir()
	if err := client.ConfigSet(t.Context(), "dir", gone).Err(); err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(gone); err != nil {
		t.Fatal(err)
	}
	client.BgSave(t.Context())
	awaitFact(t, "the refusal", func() bool {
		return strings.HasPrefix(fmt.Sprint(client.Set(t.Context(), "x", "1", 0).Err()), "MISCONF")
	})
	for i, e := range events[10:] {
		r, err := b.Publish(t.Context(), e)
		if err != nil || r.Durability() != Spooled {
			t.Fatalf("event %d: %v, %v", i, r.Durability(), err)
		}
	}
	if got := ids(records(t, b, Query{Streams: []string{"booking"}, Source: FromRedis})); len(got) != 10 {
		t.Errorf("%d of what was stored is there", len(got))
	}
	client.ConfigSet(t.Context(), "dir", before)
	awaitFact(t, "a save that works", func() bool {
		client.BgSave(t.Context())
		return client.Set(t.Context(), "x", "1", 0).Err() == nil
	})
	awaitState(t, b, StateDurable)
	awaitRestored(t, b, "booking", want)
}
