package pipeline

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rishi-platform/millrace/internal/memstream"
	"github.com/rishi-platform/millrace/internal/redisstream"
	"github.com/rishi-platform/millrace/internal/redistest"
)

// blockedLog is memory in which one stream takes nothing until it is let.
type blockedLog struct {
	*memstream.Memory
	stream string
	let    chan struct{}
}

func (l *blockedLog) Append(ctx context.Context, stream string, w redisstream.Writer, messages []redisstream.Message) (redisstream.ID, uint64, error) {
	if stream == l.stream {
		<-l.let
	}
	return l.Memory.Append(ctx, stream, w, messages)
}

// A stream that takes long, or whose shard is away, holds up nobody else, in whatever order events come.
func TestP11SlowStreamHoldsUpNoOther(t *testing.T) {
	t.Parallel()
	b := openBus(t, Config{Writers: 1})
	let := make(chan struct{})
	b.log = &blockedLog{b.local, "slow", let}
	var slow sync.WaitGroup
	for range 3 {
		slow.Go(func() { publish(t, b, Event{Type: "slow.event"}, Event{Type: "quick.event"}) })
	}
	for i := range 20 {
		publish(t, b, Event{Type: fmt.Sprintf("quick%d.event", i%3)})
	}
	awaitFact(t, "what stands beside it in a call", func() bool { return len(records(t, b, Query{Streams: []string{"quick"}})) == 3 })
	close(let)
	slow.Wait()
	if n := len(records(t, b, Query{Streams: []string{"slow"}})); n != 3 {
		t.Errorf("%d events of the slow stream, want 3", n)
	}
}

// What waits for a stream whose append is being repeated leaves room to others in front of its writer.
func TestP11FailingStreamLeavesRoom(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWriter(&Bus{cfg: Config{QueueEvents: 100, QueueBytes: 1_000_000}}, "w")
		events := func(stream string, n int) (events []*pending) {
			of := newCall(n)
			for i := range n {
				events = append(events, &pending{call: of, index: i, stream: stream, message: redisstream.Message{Payload: "{}"}})
			}
			return events
		}
		dead, alive := w.queue("dead"), w.queue("alive")
		dead.working, alive.working, dead.begun = true, true, time.Now().Add(-2*slowAppend) // this test does the work
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan struct{})
		go func() { w.put(ctx, events("dead", 80)); close(ended) }()
		if synctest.Wait(); len(dead.events) != 50 {
			t.Errorf("%d events wait for the stream that is slow, want half of what there is room for", len(dead.events))
		}
		w.put(ctx, events("alive", 50))
		if synctest.Wait(); len(alive.events) != 50 {
			t.Errorf("%d events wait for the other stream, want 50", len(alive.events))
		}
		cancel()
		<-ended
	})
}

// Many callers and many streams: each event is stored once, those of a subject in their order.
func TestP11ManyStreamsKeepOrder(t *testing.T) {
	t.Parallel()
	b := openBus(t, Config{Redis: redistest.Shared(t).Options(), Namespace: redistest.Namespace(t)})
	var wg sync.WaitGroup
	for caller := range 16 {
		wg.Go(func() {
			for i := range 100 {
				publish(t, b, Event{ID: fmt.Sprintf("%02d-%03d", caller, i), Type: fmt.Sprintf("s%d.event", caller%8), Subject: fmt.Sprint("subject/", caller)},
					Event{Type: fmt.Sprintf("s%d.event", i%8)})
			}
		})
	}
	wg.Wait()
	last := map[string]string{}
	n := 0
	for r, err := range b.History(t.Context(), Query{}) {
		if err != nil {
			t.Fatal(err)
		}
		if n++; r.Event.Subject == "" {
			continue
		}
		if r.Event.ID <= last[r.Event.Subject] {
			t.Errorf("%s stands behind %s", r.Event.ID, last[r.Event.Subject])
		}
		last[r.Event.Subject] = r.Event.ID
	}
	if n != 2*16*100 {
		t.Errorf("%d events are stored, want %d", n, 2*16*100)
	}
}

// A stream that Redis refuses costs others nothing: neither a place nor time.
func TestP11RefusedStreamHoldsUpNoOther(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	b := openBus(t, Config{Redis: server.Options(), Writers: 1})
	if err := server.Client(t).Set(t.Context(), "wrong", "a string", 0).Err(); err != nil {
		t.Fatal(err)
	}
	for range 50 {
		r, err := b.Publish(t.Context(), Event{Type: "wrong.event"}, Event{Type: "right.event"})
		if !errors.Is(err, ErrDenied) || r.Outcomes[0].Durability != Refused || r.Outcomes[1].Durability != Stored {
			t.Fatalf("%v, %+v", err, r.Outcomes)
		}
	}
	if n := len(records(t, b, Query{Streams: []string{"right"}, Limit: 100})); n != 50 {
		t.Errorf("%d events are stored, want 50", n)
	}
}
