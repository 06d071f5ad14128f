package pipeline

import (
	"context"
	"io"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/rishi-platform/millrace/internal/redisstream"
	"github.com/rishi-platform/millrace/internal/redistest"
	"github.com/rishi-platform/millrace/internal/wire"
)

// publishSuspect publishes an event of which is known that a process died of it.
func publishSuspect(t *testing.T, b *Bus, e Event) {
	t.Helper()
	m := encode(&e)
	var err error
	if m.Metadata, err = redisstream.WithPairs(m.Metadata, redisstream.Pair{Key: wire.KeyCrashes, Value: "1"}); err != nil {
		t.Fatal(err)
	}
	w := redisstream.Writer{Name: "test-" + e.ID, Seq: 1}
	if _, _, err = b.log.Append(t.Context(), e.Stream(), w, []redisstream.Message{m}); err != nil {
		t.Fatal(err)
	}
}

// slowRaises is a transport that raises counts only when it may go on.
type slowRaises struct {
	transport
	asked, goOn chan struct{}
	once        atomic.Bool
}

func (s *slowRaises) Raise(
	ctx context.Context, c redisstream.Consumer, stream string, suspects []redisstream.Suspect,
) ([]redisstream.Ref, error) {
	if !s.once.Swap(true) {
		close(s.asked)
		<-s.goOn
		ctx = context.WithoutCancel(ctx) // the answer comes all the same
	}
	return s.transport.Raise(ctx, c, stream, suspects)
}

// A consumer stops while the count of a suspect is raised: that costs no time, and no attempt.
func TestF16StopWhileACountIsRaised(t *testing.T) {
	eachBus(t, func(t *testing.T, open func(func(*Config)) *Bus) {
		b := open(nil)
		slow := &slowRaises{transport: b.log, asked: make(chan struct{}), goOn: make(chan struct{})}
		b.log = slow
		g := GroupConfig{Group: "g", Patterns: []string{"booking.*"}, Policy: Policy{DrainTimeout: time.Minute}}
		sub := handle(t, b, g, AllStreams, func(context.Context, *Delivery) error {
			t.Error("a handler ran")
			return nil
		})
		c := onlyConsumer(t, b)
		publishSuspect(t, b, Event{ID: "e", Type: "booking.created"})
		within(t, "its count to be raised", slow.asked)
		closed := make(chan struct{})
		go func() { _ = sub.Close(); close(closed) }()
		within(t, "the consumer to stop", c.Reading().Done())
		close(slow.goOn)
		within(t, "the end of the drain", closed)
		wantHandedBack(t, b, g)
	})
}

// A handler of a suspect that the drain deadline cuts off is not what its process died of.
func TestF16SuspectThatIsInterruptedIsNoCrash(t *testing.T) {
	eachBus(t, func(t *testing.T, open func(func(*Config)) *Bus) {
		b := open(nil)
		g := GroupConfig{Group: "g", Patterns: []string{"booking.*"}, Policy: Policy{DrainTimeout: 10 * time.Millisecond}}
		began := make(chan struct{})
		sub := handle(t, b, g, AllStreams, func(ctx context.Context, _ *Delivery) error {
			close(began)
			<-ctx.Done()
			return ctx.Err()
		})
		publishSuspect(t, b, Event{ID: "e", Type: "booking.created"})
		within(t, "the handler", began)
		_ = sub.Close()
		wantHandedBack(t, b, g)
	})
}

// wantHandedBack has another consumer handle an event that came with one crash, as it came.
func wantHandedBack(t *testing.T, b *Bus, g GroupConfig) {
	t.Helper()
	handled := make(chan *Delivery, 1)
	handle(t, b, g, AllStreams, func(_ context.Context, d *Delivery) error { handled <- d; return nil })
	if d := within(t, "the delivery that was handed back", handled); d.Crashes != 1 || d.Attempt != 1 {
		t.Errorf("it came as attempt %d after %d crashes, want attempt 1 and 1", d.Attempt, d.Crashes)
	}
	awaitSettled(t, b, "booking", g.Group)
}

// lostAnswers is a transport of which the first read and the first take-over that bring something are
// carried out, and their answers are lost.
type lostAnswers struct {
	transport
	read, taken atomic.Bool
}

func (l *lostAnswers) Read(
	ctx context.Context, c redisstream.Consumer, streams []string, count int, block time.Duration,
) ([]redisstream.Delivered, error) {
	read, err := l.transport.Read(ctx, c, streams, count, block)
	if len(read) > 0 && !l.read.Swap(true) {
		return nil, io.ErrUnexpectedEOF
	}
	return read, err
}

func (l *lostAnswers) TakeOver(
	ctx context.Context, c redisstream.Consumer, stream string, p redisstream.Peer, most redisstream.Most,
) ([]redisstream.Delivered, error) {
	taken, err := l.transport.TakeOver(ctx, c, stream, p, most)
	if len(taken) > 0 && !l.taken.Swap(true) {
		return nil, io.ErrUnexpectedEOF
	}
	return taken, err
}

// What is found pending after answers that were lost keeps what the log knows of it: what was taken over
// and has killed a process is a suspect still, and what was read is none.
func TestF14LostAnswers(t *testing.T) {
	t.Parallel()
	server, namespace := redistest.Shared(t), redistest.Namespace(t)
	client, key := server.Client(t), namespace+":booking"
	b := openBus(t, Config{Redis: server.Options(), Namespace: namespace})
	g := GroupConfig{Group: "g", Patterns: []string{"booking.*"}}
	_ = consumeNothing(t, b, g).Close()
	id := string(publish(t, b, Event{ID: "killed", Type: "booking.created"}).Outcomes[0].Position)
	deadConsumer(t, client, namespace, "dead", 1)
	client.Do(t.Context(), "XCLAIM", key, "g", "dead", 0, id, "RETRYCOUNT", 2, "JUSTID") // it was running then
	publish(t, b, Event{ID: "read", Type: "booking.created"})
	b.log = &lostAnswers{transport: b.log}

	type run struct {
		id      string
		claimed bool
		crashes int
		count   int64 // of deliveries, as the server has it while the handler runs
	}
	runs := make(chan run)
	handle(t, b, g, AllStreams, func(ctx context.Context, d *Delivery) error {
		at := string(d.Position)
		pending := client.XPendingExt(ctx, &redis.XPendingExtArgs{Stream: key, Group: "g", Start: at, End: at, Count: 1}).Val()
		runs <- run{d.Event.ID, d.Claimed, d.Crashes, pending[0].RetryCount}
		return nil
	})
	for _, want := range []run{{"read", false, 0, 1}, {"killed", true, 1, 3}} {
		if got := within(t, want.id, runs); got != want {
			t.Errorf("got %+v, want %+v", got, want)
		}
	}
	awaitSettled(t, b, "booking", "g")
}
