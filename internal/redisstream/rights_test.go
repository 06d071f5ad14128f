package redisstream

import (
	"context"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/rishi-platform/millrace/internal/redistest"
)

// A user who lacks any one right may be refused in the middle of a script, and tries again: there is
// never more than one copy of a delivery.
func TestG19RefusedHalfwayLeavesOneCopy(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	admin := server.Client(t)
	message := Message{UUID: "e", Metadata: "\x80", Payload: "{}"}
	consumer := Consumer{Group: "g", Name: "c"}
	bounds := Bounds{Length: 100, Age: time.Hour}
	lane := func(ctx context.Context, c *Client) (Ref, error) { // the delivery stands in the lane
		if _, _, err := c.Enqueue(ctx, "booking", "g", []Copy{{Message: message}}); err != nil {
			return Ref{}, err
		}
		read, err := c.ReadInTurn(ctx, consumer, []string{"booking"}, 1)
		if err != nil || len(read) != 1 {
			return Ref{}, err
		}
		return read[0].Ref, nil
	}
	dead := func(ctx context.Context, c *Client) (Ref, error) {
		ref, err := lane(ctx, c)
		if err == nil {
			_, _, err = c.Bury(ctx, consumer, "booking", bounds, []Burial{{Ref: ref, Message: message, Report: "{}"}})
		}
		letters, rangeErr := c.Dead(ctx, "booking", "g", ID{}, MaxID, 10, false)
		if err != nil || rangeErr != nil || len(letters) != 1 {
			return Ref{}, err
		}
		return Ref{ID: letters[0].ID}, nil
	}
	retry := func(r Retry) func(ctx context.Context, c *Client, ref Ref) {
		return func(ctx context.Context, c *Client, ref Ref) {
			r.Ref, r.Message = ref, message
			_, _ = c.Retry(ctx, consumer, "booking", []Retry{r})
		}
	}
	wait := func(ctx context.Context, c *Client, ref Ref) {
		_, _ = c.LetWait(ctx, consumer, "booking", []Wait{{Ref: ref, Type: "booking.created", Message: message}}, 1)
	}
	waiting := func(ctx context.Context, c *Client) (Ref, error) {
		ref, err := lane(ctx, c)
		wait(ctx, c, ref)
		return ref, err
	}
	waits := func(r Retry) func(ctx context.Context, c *Client) (Ref, error) {
		return func(ctx context.Context, c *Client) (Ref, error) {
			ref, err := lane(ctx, c)
			retry(r)(ctx, c, ref)
			return ref, err
		}
	}
	for name, test := range map[string]struct {
		prepare func(ctx context.Context, c *Client) (Ref, error)
		do      func(ctx context.Context, c *Client, ref Ref)
	}{
		"defer":    {lane, retry(Retry{Delay: time.Hour})},
		"retry":    {lane, retry(Retry{})},
		"let wait": {lane, wait},
		"bury": {lane, func(ctx context.Context, c *Client, ref Ref) {
			_, _, _ = c.Bury(ctx, consumer, "booking", bounds, []Burial{{Ref: ref, Message: message, Report: "{}"}})
		}},
		"requeue": {dead, func(ctx context.Context, c *Client, ref Ref) {
			_, _, _ = c.Enqueue(ctx, "booking", "g", []Copy{{Dead: ref.ID, Message: message}})
		}},
		"retry now": {waits(Retry{Delay: time.Hour}), func(ctx context.Context, c *Client, _ Ref) { _, _, _ = c.RetryNow(ctx, "booking", "g") }},
		"promote":   {waits(Retry{Delay: time.Millisecond}), func(ctx context.Context, c *Client, _ Ref) { _, _ = c.Beat(ctx, consumer, "booking", Say{}) }},
		"fetch": {waiting, func(ctx context.Context, c *Client, _ Ref) {
			_, _ = c.Fetch(ctx, consumer, "booking", []string{"booking.created"}, 10)
		}},
		"acknowledge": {lane, func(ctx context.Context, c *Client, ref Ref) { _, _, _ = c.Ack(ctx, consumer, []Ref{ref}) }},
	} {
		for _, right := range []any{"xack", "xdel", "zrem", "zadd", "xadd", "hset", "hincrby", "xtrim", "time", "xreadgroup", "xpending", "zcard"} {
			namespace := name + right.(string)
			full := New(Config{Redis: server.Options(), Namespace: namespace, MaxLen: 1000})
			t.Cleanup(func() { _ = full.Close() })
			if _, err := full.Join(t.Context(), consumer, Join{Stream: "booking", Patterns: []string{"booking.*"}}); err != nil {
				t.Fatal(err)
			}
			ref, err := test.prepare(t.Context(), full)
			if err != nil || ref.ID.IsZero() {
				t.Fatalf("%s: prepare: %v, %v", name, ref, err)
			}
			less := New(Config{Redis: userWithout(t, server, "-"+right.(string)), Namespace: namespace, MaxLen: 1000})
			t.Cleanup(func() { _ = less.Close() })
			for range 3 {
				test.do(t.Context(), less, ref)
			}
			test.do(t.Context(), full, ref)
			if n := copiesOf(t, admin, full); n > 1 || n == 0 && name != "acknowledge" {
				t.Errorf("%s without %s: %d copies", name, right, n)
			}
		}
	}
}

// copiesOf counts the copies that there are of deliveries, wherever they stand.
func copiesOf(t *testing.T, admin redis.UniversalClient, c *Client) int64 {
	t.Helper()
	ctx := t.Context()
	return admin.XLen(ctx, c.laneKey("booking", "g")).Val() + admin.XLen(ctx, c.deadKey("booking", "g")).Val() +
		admin.ZCard(ctx, c.deferredKey("booking", "g")).Val() + admin.ZCard(ctx, c.waitingKey("booking", "g")).Val()
}
