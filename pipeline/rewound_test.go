package pipeline

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/rishi-platform/millrace/internal/redisstream"
	"github.com/rishi-platform/millrace/internal/redistest"
)

// rewoundIDs returns the events that were named as lost.
func rewoundIDs(t testing.TB, b *Bus) (ids []string, restored int) {
	t.Helper()
	for _, r := range records(t, b, Query{Patterns: []string{"system.stream.rewound"}}) {
		var told struct {
			Loss
			IDs []string `json:"ids"`
		}
		if err := json.Unmarshal(r.Event.Data, &told); err != nil {
			t.Fatal(err)
		}
		if told.Events != max(1, len(told.IDs)) || told.Reason != ReasonRewound || len(told.IDs) > 0 && (told.From == "" || told.From.Compare(told.To) > 0) {
			t.Errorf("%s", r.Event.Data)
		}
		ids = append(ids, told.IDs...)
		restored += told.Restored
	}
	slices.Sort(ids)
	return ids, restored
}

// awaitRestored waits until the history holds these events of a stream, each once.
func awaitRestored(t testing.TB, b *Bus, stream string, want []string) {
	t.Helper()
	awaitFact(t, fmt.Sprintf("%d events", len(want)), func() bool {
		got := ids(records(t, b, Query{Streams: []string{stream}, Source: FromRedis}))
		slices.Sort(got)
		return slices.Equal(got, want)
	})
}

func numbered(from, to int) (events []Event, ids []string) {
	for i := from; i < to; i++ {
		id := fmt.Sprintf("%06d", i)
		events, ids = append(events, Event{ID: id, Type: "booking.created", Subject: fmt.Sprint(i % 3), Data: []byte(id)}), append(ids, id)
	}
	return events, ids
}

// What was stored and is flushed is named and appended again: the next append tells, and where there is none the marks do.
func TestF02FlushedEventsAreNamedAndAppendedAgain(t *testing.T) {
	t.Parallel()
	for _, publishes := range []bool{true, false} {
		t.Run(fmt.Sprintf("publishes=%v", publishes), func(t *testing.T) {
			t.Parallel()
			server := redistest.Start(t)
			var told []Loss
			var mu sync.Mutex
			cfg := Config{Redis: server.Options(), Writers: 1, Hooks: Hooks{Lost: func(l Loss) { mu.Lock(); defer mu.Unlock(); told = append(told, l) }}}
			b := openBus(t, cfg)
			events, want := numbered(0, 300)
			for chunk := range slices.Chunk(events, 30) {
				publish(t, b, chunk...)
			}
			server.Flush(t)
			if publishes {
				publish(t, b, Event{ID: "999999", Type: "booking.created"})
				awaitRestored(t, b, "booking", append(slices.Clone(want), "999999"))
			} else {
				b.suspectRewind() // what happens every 10 s
				awaitRestored(t, b, "booking", want)
			}
			awaitFact(t, "the events that name them", func() bool {
				named, restored := rewoundIDs(t, b)
				return slices.Equal(named, want) && restored == 300
			})
			h := b.Health(t.Context())
			if len(h.Lost) != 1 || h.Lost[0].Events != 300 || h.Lost[0].Restored != 300 || h.Lost[0].AtLeast || h.Lost[0].Stream != "booking" || !hasProblem(h, "stream-rewound") {
				t.Errorf("health tells of %+v", h.Lost)
			}
			mu.Lock()
			defer mu.Unlock()
			if len(told) != 1 || told[0].Events != 300 {
				t.Errorf("hook was told of %+v", told)
			}
		})
	}
}

// A server that starts again with an older state: only what it has forgotten is appended again, and only once, whatever it had under a key.
func TestF02RewoundServer(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, "--save", "", "--appendonly", "no", "--dbfilename", "dump.rdb")
	b := openBus(t, Config{Redis: server.Options(), SpoolDir: t.TempDir()})
	first, want := numbered(0, 50)
	publish(t, b, first...)
	if err := server.Client(t).Save(t.Context()).Err(); err != nil {
		t.Fatal(err)
	}
	second, lost := numbered(50, 100)
	publish(t, b, second[:40]...)
	if _, err := b.PublishWith(t.Context(), PublishOptions{Key: "k"}, second[40:]...); err != nil {
		t.Fatal(err)
	}
	server.Kill(t)
	server.StartAgain(t)
	awaitRestored(t, b, "booking", append(want, lost...))
	awaitFact(t, "the events that name them", func() bool { named, _ := rewoundIDs(t, b); return slices.Equal(named, lost) })
	// The key was forgotten with the events, and is known again.
	r, err := b.PublishWith(t.Context(), PublishOptions{Key: "k"}, second[40:]...)
	if err != nil || !r.Outcomes[0].Duplicate {
		t.Errorf("the same key again: %+v, %v", r.Outcomes[0], err)
	}
}

// An append-only file that was cut within an append: Redis keeps half of it, which comes back at the second start. It may not push out anything else.
func TestF02DamagedAppendOnlyFile(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, "--appendonly", "yes", "--appendfsync", "always")
	b := openBus(t, Config{Redis: server.Options()})
	events, want := numbered(0, 20)
	for _, e := range events[:10] {
		publish(t, b, e)
	}
	server.Kill(t)
	server.LoseBytes(t, 20) // the end of the last append
	server.StartAgain(t)
	b.suspectRewind()
	awaitRestored(t, b, "booking", want[:10])
	for _, e := range events[10:] {
		publish(t, b, e)
	}
	server.Restart(t)
	got := ids(records(t, b, Query{Streams: []string{"booking"}, Source: FromRedis}))
	slices.Sort(got)
	if len(got) == len(want) {
		t.Error("the half came not back: this test shows nothing")
	}
	if got = slices.Compact(got); !slices.Equal(got, want) {
		t.Errorf("Redis has %v", got)
	}
}

// What is drained is not safe before Redis has it for good.
func TestF02DrainedEventsAreRestored(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, "--save", "", "--appendonly", "no")
	b := openBus(t, Config{Redis: server.Options(), SpoolDir: t.TempDir()})
	server.Kill(t)
	awaitState(t, b, StateSpooling)
	events, want := numbered(0, 100)
	publishSpooled(t, b, events...)
	server.StartAgain(t)
	awaitState(t, b, StateDurable)
	server.Flush(t)
	b.suspectRewind()
	awaitRestored(t, b, "booking", want)
}

// Neither is what was drained by an append whose answer was lost.
func TestF02DrainedWithoutAnAnswer(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, "--save", "", "--appendonly", "no")
	proxy := redistest.NewProxy(t, server.Addr())
	b := openBus(t, Config{Redis: &redis.UniversalOptions{Addrs: []string{proxy.Addr()}}, SpoolDir: t.TempDir()})
	proxy.Refuse(true)
	proxy.Reset()
	awaitState(t, b, StateSpooling)
	events, want := numbered(0, 100)
	publishSpooled(t, b, events...)

	// The first 60 arrive.
	reader := b.spool.log.Reader()
	defer reader.Close()
	read, err := reader.Read(1000)
	if err != nil {
		t.Fatal(err)
	}
	var messages []redisstream.Message
	var last uint64
	for i := 0; len(messages) < 60; i++ {
		r, err := decodeSpooled(read[i].Data)
		if err != nil {
			t.Fatal(err)
		}
		r.number = read[i].Number
		if m, _ := b.spool.messages(&r); r.stream == "booking" {
			messages, last = append(messages, m...), r.number
		}
	}
	direct := redisstream.New(redisstream.Config{Redis: server.Options(), MaxLen: 1000})
	defer direct.Close()
	if done, _, _, err := direct.Drain(t.Context(), "booking", redisstream.Writer{Name: b.spool.log.ID(), Seq: last}, 0, messages); !done || err != nil {
		t.Fatal(done, err)
	}

	proxy.Refuse(false)
	awaitState(t, b, StateDurable)
	awaitRestored(t, b, "booking", want)
	server.Flush(t)
	b.suspectRewind()
	awaitRestored(t, b, "booking", want)
	for _, l := range b.Health(t.Context()).Lost {
		if l.Stream == "booking" && (l.Events != 100 || l.AtLeast) {
			t.Errorf("%+v", l)
		}
	}
}

// Who handled an event before Redis had forgotten it does not handle it again.
func TestF02RestoredEventsAreNotHandledAgain(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	b := openBus(t, Config{Redis: server.Options()})
	handled := newTally()
	consume(t, b, GroupConfig{Group: "g"}, "booking", handled.ack)
	events, want := numbered(0, 100)
	publish(t, b, events...)
	handled.await(t, 100)
	awaitSettled(t, b, "booking", "g")
	server.Flush(t)
	b.suspectRewind()
	awaitRestored(t, b, "booking", want)
	publish(t, b, Event{ID: "x", Type: "booking.created"})
	handled.await(t, 101)
	awaitSettled(t, b, "booking", "g")
	if twice := handled.more(); len(twice) > 0 {
		t.Errorf("handled again: %v", twice)
	}
}

// A stream that was removed is not lost, and neither is what stands in one whose marks are gone.
func TestF02RemovedStreamIsNotLost(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	b, other := openBus(t, Config{Redis: server.Options()}), openBus(t, Config{Redis: server.Options()})
	client := server.Client(t)
	events, want := numbered(0, 20)
	publish(t, b, events[:10]...)
	publish(t, other, events[10:]...)
	look := func() {
		t.Helper()
		for _, of := range []*Bus{b, other} {
			of.compareMarks("booking")
			f := of.confirmed.takeForgotten("booking")
			if lost := of.sift("booking", &f); len(lost) > 0 || len(f.gaps) > 0 {
				t.Errorf("%d events are taken for lost, gaps: %v", len(lost), f.gaps)
			}
		}
	}
	client.Del(t.Context(), "{booking}:writers")
	look()
	awaitRestored(t, other, "booking", want)
	publish(t, other, events[10:]...) // marks again
	if err := b.RemoveStream(t.Context(), "booking"); err != nil {
		t.Fatal(err)
	}
	look()
	publish(t, b, Event{ID: "anew", Type: "booking.created"})
	publish(t, other, Event{ID: "too", Type: "booking.created"})
	look()
	awaitRestored(t, other, "booking", []string{"anew", "too"})
	// What is published later is looked after as before.
	server.Flush(t)
	b.suspectRewind()
	other.suspectRewind()
	awaitRestored(t, other, "booking", []string{"anew", "too"})
}

// A bus that is closed before it has noticed a loss looks once more.
func TestF02CloseLooksForLosses(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	b, other := openBus(t, Config{Redis: server.Options()}), openBus(t, Config{Redis: server.Options()})
	events, want := numbered(0, 100)
	publish(t, b, events...)
	server.Flush(t)
	closeBus(t, b)
	got := ids(records(t, other, Query{Streams: []string{"booking"}, Source: FromRedis}))
	slices.Sort(got)
	if !slices.Equal(got, want) {
		t.Errorf("Redis has %v", got)
	}
	if named, restored := rewoundIDs(t, other); !slices.Equal(named, want) || restored != 100 {
		t.Errorf("%d named, %d restored", len(named), restored)
	}
}

// A loss that is known and not mended yet when Redis is away and the bus is closed is told, and goes into the spool.
func TestF02CloseKeepsAKnownLoss(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	told := make(chan Loss, 1)
	cfg := Config{Redis: server.Options(), SpoolDir: t.TempDir(), Hooks: Hooks{Lost: func(l Loss) { told <- l }}}
	b := openBus(t, cfg)
	events, want := numbered(0, 100)
	publish(t, b, events...)
	server.Stop(t)
	awaitState(t, b, StateSpooling)
	writers, should := b.confirmed.marks("booking")
	b.confirmed.check("booking", writers, should, make([]uint64, len(writers))) // as the answer would have been before Redis went away
	closeBus(t, b)
	if l := within(t, "the loss", told); l.Events != 100 || l.AtLeast {
		t.Errorf("told: %+v", l)
	}
	server.StartAgain(t)
	b = openBus(t, cfg)
	awaitState(t, b, StateDurable)
	got := ids(published(t, b, Query{}))
	slices.Sort(got)
	if !slices.Equal(got, want) {
		t.Errorf("Redis has %v", got)
	}
}

// Without a spool it is told, and the end of the bus does not wait for a Redis that does not come.
func TestF02CloseTellsAKnownLoss(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	told := make(chan Loss, 1)
	b := openBus(t, Config{Redis: server.Options(), Hooks: Hooks{Lost: func(l Loss) { told <- l }}})
	events, _ := numbered(0, 100)
	publish(t, b, events...)
	server.Stop(t)
	awaitState(t, b, StateUnavailable)
	writers, should := b.confirmed.marks("booking")
	b.confirmed.check("booking", writers, should, make([]uint64, len(writers)))
	if err := b.Close(context.Background()); err != nil {
		t.Errorf("close: %v", err)
	}
	if l := within(t, "the loss", told); l.Events != 100 || l.Restored != 0 {
		t.Errorf("told: %+v", l)
	}
}

func TestNoRestore(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	b := openBus(t, Config{Redis: server.Options(), NoRestore: true, RestoreEvents: 20})
	events, want := numbered(0, 30)
	for _, e := range events {
		publish(t, b, e)
	}
	server.Flush(t)
	b.suspectRewind()
	awaitFact(t, "the event that names them", func() bool { named, _ := rewoundIDs(t, b); return slices.Equal(named, want[10:]) })
	if h := b.Health(t.Context()); len(h.Lost) != 1 || h.Lost[0].Events != 20 || !h.Lost[0].AtLeast || h.Lost[0].Restored != 0 || h.Status != StatusDegraded {
		t.Errorf("health tells of %+v", h.Lost)
	}
	if got := records(t, b, Query{Streams: []string{"booking"}, Source: FromRedis}); len(got) > 0 {
		t.Errorf("%d events are back", len(got))
	}
}

// Nothing is taken for lost that is not: trimmed, deleted or expired entries, appends while marks are compared, appends whose answers get lost.
func TestF02NoFalseAlarm(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	proxy := redistest.NewProxy(t, server.Addr())
	options := server.Options()
	options.Addrs = []string{proxy.Addr()}
	b := openBus(t, Config{Redis: options, OutageAfter: 300_000_000})
	var publishers sync.WaitGroup
	ctx, cancel := context.WithCancel(t.Context())
	for p := range 4 {
		publishers.Go(func() {
			for n := 0; ctx.Err() == nil; n++ {
				o := PublishOptions{Once: n%5 == 0}
				_, _ = b.PublishWith(ctx, o, Event{ID: fmt.Sprintf("%d-%d", p, n), Type: "booking.created", Subject: fmt.Sprint(n % 7)}, Event{Type: "invoice.sent"})
			}
		})
	}
	client := server.Client(t)
	for i := range 100 {
		for _, stream := range b.confirmed.names() {
			b.compareMarks(stream)
		}
		switch i % 20 {
		case 3:
			proxy.DropReplies(true)
		case 5:
			proxy.Reset()
			proxy.DropReplies(false)
		case 10:
			client.XTrimMaxLen(ctx, "booking", 5)
		case 15:
			client.Del(ctx, "booking", "invoice")
		}
	}
	cancel()
	publishers.Wait()
	proxy.DropReplies(false)
	for _, stream := range b.confirmed.names() {
		b.compareMarks(stream)
		if f := b.confirmed.takeForgotten(stream); !f.isEmpty() {
			t.Errorf("%s: %d appends are taken for lost", stream, len(f.appends))
		}
	}
	if h := b.Health(t.Context()); len(h.Lost) > 0 {
		t.Errorf("taken for lost: %+v", h.Lost)
	}
}

func TestConfirmedIsBounded(t *testing.T) {
	t.Parallel()
	c := newConfirmed(&Config{RestoreEvents: 10})
	for seq := uint64(1); seq <= 100; seq++ {
		w := redisstream.Writer{Name: "w", Seq: seq}
		if c.note("s", w, seq-1, confirmedAppend{first: redisstream.ID{MS: seq}, messages: make([]redisstream.Message, 3)}) {
			t.Fatal("taken for lost", seq)
		}
	}
	if s := c.streams["s"]; s.events != 9 || len(s.appends) != 3 {
		t.Errorf("%d events in %d appends", s.events, len(s.appends))
	}
	if !c.heard("s", "w", 98) {
		t.Error("not taken for lost")
	}
	if f := c.takeForgotten("s"); len(f.appends) != 2 || len(f.gaps) > 0 {
		t.Errorf("%+v", f)
	}
	if !c.heard("s", "w", 50) || len(c.takeForgotten("s").gaps) != 1 || c.heard("s", "w", 50) {
		t.Error("what is not kept any more is not told of, or twice")
	}
}

// What is kept to be restored is bounded whatever the number of streams, and what is dropped is known to be.
func TestConfirmedOfManyStreamsIsBounded(t *testing.T) {
	t.Parallel()
	c := newConfirmed(&Config{RestoreEvents: 1000})
	message := redisstream.Message{UUID: "id", Payload: string(make([]byte, 1<<20))}
	const streams = 100
	for i := range streams {
		for seq := range uint64(20) {
			c.note(fmt.Sprint(i), redisstream.Writer{Name: "w", Seq: seq + 1}, seq, confirmedAppend{first: redisstream.ID{MS: seq}, messages: []redisstream.Message{message}})
		}
	}
	c.tidy()
	total := 0
	for _, s := range c.streams {
		total += s.bytes
	}
	if total > confirmedTotal {
		t.Errorf("%d bytes are kept, want at most %d", total, confirmedTotal)
	}
	if !c.heard("0", "w", 10) {
		t.Fatal("a mark that went back was not noticed")
	}
	if f := c.takeForgotten("0"); len(f.gaps) == 0 {
		t.Errorf("what was dropped is not said: %d appends", len(f.appends))
	}
	mark := c.streams["1"].marks["w"]
	mark.at = time.Now().Add(-markFor - time.Hour)
	c.streams["1"].marks["w"] = mark
	c.tidy()
	if n := len(c.streams["1"].marks); n > 0 {
		t.Errorf("%d old marks", n)
	}
}
