package redisstream

import (
	"context"
	"fmt"
	"io"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/rishi-platform/millrace/internal/redistest"
)

// Appends to many streams at once go in a few round trips, and the one who sends them may give up: his ctx ends nobody else's append.
func TestP11AppendsShareRoundTrips(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	c := New(Config{Redis: server.Options(), MaxLen: 1000, Appends: 1})
	t.Cleanup(func() { _ = c.Close() })
	const n = 40
	append1 := func(ctx context.Context, i int, seq uint64) error {
		_, _, err := c.Append(ctx, fmt.Sprint("s", i), Writer{Name: "w", Seq: seq}, messagesOf(1, 10))
		return err
	}
	for i := range n {
		if err := append1(t.Context(), i, 1); err != nil { // registers
			t.Fatal(err)
		}
	}
	hasty, giveUp := context.WithCancel(t.Context())
	trips := &underWay{each: func(n int32) {
		if n == 2 {
			giveUp()
		}
	}}
	c.appends.AddHook(trips)
	server.Freeze(t)
	errs := make(chan error, n)
	go func() { errs <- append1(t.Context(), 0, 2) }()
	trips.await(t, 1)
	gaveUp := make(chan error, 1)
	go func() { gaveUp <- append1(hasty, 1, 2) }() // sends the next batch, as the first who waits
	awaitWaiting(t, &c.flushes, 1)
	for i := 2; i < n; i++ {
		go func() { errs <- append1(t.Context(), i, 2) }()
	}
	awaitWaiting(t, &c.flushes, n-1)
	server.Thaw(t)
	for range n - 1 {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
	if err := <-gaveUp; err != nil {
		t.Errorf("an append that was on its way: %v", err)
	}
	if got := trips.begun.Load(); got > 3 {
		t.Errorf("%d round trips for %d appends", got, n)
	}
}

// A server that does not answer holds no append up beyond its deadline, though it goes with others that have more time.
func TestP11BatchKeepsToTheFirstDeadline(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	c := New(Config{Redis: server.Options(), MaxLen: 1000, Appends: 1})
	t.Cleanup(func() { _ = c.Close() })
	until := func(at time.Time, stream string, seq uint64) error {
		_, _, err := c.Append(withDeadline{t.Context(), at}, stream, Writer{Name: "w", Seq: seq}, messagesOf(1, 10))
		return err
	}
	later := time.Now().Add(time.Hour)
	for _, stream := range []string{"a", "b", "c"} {
		if err := until(later, stream, 1); err != nil { // registers
			t.Fatal(err)
		}
	}
	server.Freeze(t)
	defer server.Thaw(t)
	begun := time.Now()
	errs := make(chan error, 2)
	ahead := make(chan error, 1)
	go func() { ahead <- until(begun.Add(time.Second), "a", 2) }()
	awaitSenders(t, &c.flushes)
	go func() { errs <- until(later, "b", 2) }()
	awaitWaiting(t, &c.flushes, 1)
	go func() { errs <- until(begun.Add(1200*time.Millisecond), "c", 2) }()
	for range 2 {
		if err := <-errs; Classify(err) != Away || NotSent(err) {
			t.Errorf("got %v", err)
		}
	}
	if err := <-ahead; err == nil {
		t.Error("a frozen server answers")
	}
	if took := time.Since(begun); took > replyTimeout {
		t.Errorf("it took %v", took)
	}
}

// awaitSenders waits until somebody sends.
func awaitSenders(t *testing.T, b *batches) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); ; <-time.After(time.Millisecond) {
		b.mu.Lock()
		senders := b.senders
		b.mu.Unlock()
		if senders > 0 {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal("nobody sends")
		}
	}
}

// Other callers do not send too much at once.
func TestP11ABatchHasABoundOfBytes(t *testing.T) {
	t.Parallel()
	b := &batches{most: 1, senders: 1}
	first := &batchCall{bytes: 100 << 10}
	for _, bytes := range []int{100 << 10, 50 << 10, 100 << 10, 1 << 20} {
		b.waiting = append(b.waiting, &batchCall{bytes: bytes})
	}
	if got := len(b.take(first)); got != 3 || len(b.waiting) != 2 {
		t.Errorf("%d go together, %d wait", got, len(b.waiting))
	}
	if got := len(b.take(&batchCall{bytes: 2 << 20})); got != 1 {
		t.Errorf("%d go with a large one", got)
	}
}

// Callers that come at the same time, while others are on their way, do not each leave with one call.
func TestP11WhoComesWhileOneIsAboutToLeaveGoesWithHim(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		nobody := redis.NewClient(&redis.Options{MaxRetries: -1, DialerRetries: 1, Dialer: func(context.Context, string, string) (net.Conn, error) { return nil, io.EOF }})
		defer func() { _ = nobody.Close() }()
		b := &batches{client: nobody, most: 2, senders: 1, leaving: true}
		small := &batchCall{reply: redis.NewCmd(t.Context())}
		ended := make(chan *redis.Cmd, 1)
		go func() { ended <- b.eval(t.Context(), small) }()
		synctest.Wait()
		if b.senders != 1 || len(b.waiting) != 1 {
			t.Fatalf("%d send, %d wait for the one who is about to leave", b.senders, len(b.waiting))
		}
		large := &batchCall{bytes: batchBytes, turn: make(chan turn, 1)}
		b.waiting = append(b.waiting, large)
		if batch := b.take(&batchCall{bytes: 1}); len(batch) != 2 {
			t.Errorf("%d go together", len(batch))
		}
		if b.senders != 2 || len(b.waiting) != 0 || len(large.turn) != 1 || <-large.turn != sends {
			t.Errorf("what is too large to go along has to wait for the answer")
		}
		small.turn <- answered
		<-ended
	})
}

// awaitWaiting waits until so many calls wait for a sender.
func awaitWaiting(t *testing.T, b *batches, n int) {
	t.Helper()
	for {
		b.mu.Lock()
		waiting := len(b.waiting)
		b.mu.Unlock()
		if waiting == n {
			return
		}
		if t.Context().Err() != nil {
			t.Fatalf("%d wait, want %d", waiting, n)
		}
	}
}

// A caller that waits while another one sends his call waits for its answer, also when he has given up.
func TestG12WhoGivesUpWaitsForWhatIsOnItsWay(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := &batches{most: 1, senders: 1}
		ctx, giveUp := context.WithCancel(t.Context())
		call := &batchCall{}
		ended := make(chan *redis.Cmd, 1)
		go func() { ended <- b.eval(ctx, call) }()
		synctest.Wait()
		if batch := b.take(&batchCall{}); len(batch) != 2 {
			t.Fatalf("%d go together", len(batch))
		}
		giveUp()
		synctest.Wait()
		select {
		case <-ended:
			t.Fatal("he gave up though his call is on its way")
		default:
		}
		call.reply = redis.NewCmd(ctx)
		call.turn <- answered
		if reply := <-ended; reply != call.reply {
			t.Errorf("got %v", reply)
		}
	})
}
