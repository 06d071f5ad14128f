package redisstream

import (
	"context"
	"crypto/rand"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/rishi-platform/millrace/internal/redistest"
)

// deferred makes a group with messages in its deferred set, due a millisecond apart in their order.
func deferred(t *testing.T, messages ...Message) (*Client, redis.UniversalClient) {
	t.Helper()
	server := redistest.Start(t)
	c := connect(t, server, "acme")
	consumer := Consumer{Group: "g", Name: "c"}
	join := Join{Stream: "booking", Patterns: []string{"booking.*"}}
	if _, err := c.Join(t.Context(), consumer, join); err != nil {
		t.Fatal(err)
	}
	if _, _, err := c.Append(t.Context(), "booking", Writer{Name: "w", Seq: 1}, messages); err != nil {
		t.Fatal(err)
	}
	read, err := c.Read(t.Context(), consumer, []string{"booking"}, len(messages), MaxBlock)
	if err != nil || len(read) != len(messages) {
		t.Fatalf("read %d entries, error %v, want %d", len(read), err, len(messages))
	}
	retries := make([]Retry, len(messages))
	for i, m := range messages {
		delay := time.Hour + time.Duration(i)*10*time.Millisecond
		retries[i] = Retry{Ref: read[i].Ref, Message: m, Delay: delay}
	}
	settled, err := c.Retry(t.Context(), consumer, "booking", retries)
	if err != nil || len(settled) != len(messages) {
		t.Fatal(settled, err)
	}
	return c, server.Client(t)
}

// laneIDs are the event IDs of the last entries of the lane.
func laneIDs(t *testing.T, c *Client, most int) (ids []string) {
	t.Helper()
	entries, err := c.entries(t.Context(), c.laneKey("booking", "g"), ID{}, MaxID, most, true)
	if err != nil {
		t.Fatal(err)
	}
	slices.Reverse(entries)
	for _, e := range entries {
		m, _ := e.Message()
		ids = append(ids, m.UUID)
	}
	return ids
}

func numbered(n int, payload string) (messages []Message) {
	for i := range n {
		messages = append(messages, Message{UUID: fmt.Sprint("e-", i), Metadata: "\x80", Payload: payload})
	}
	return messages
}

// The lane takes as much as it has room for; those that are due soonest are left.
func TestG10RetryNowStopsWhereTheLaneIsFull(t *testing.T) {
	t.Parallel()
	c, client := deferred(t, numbered(10, "{}")...)
	const fill = `for i = 1, tonumber(ARGV[1]) do redis.call('XADD', KEYS[1], '*', 'a', '') end`
	lane := []string{c.laneKey("booking", "g")}
	for n := GroupBound - 4; n > 0; n -= 2000 { // in steps that end long before a time-out
		if err := client.Eval(t.Context(), fill, lane, min(n, 2000)).Err(); err != nil && err != redis.Nil {
			t.Fatal(err)
		}
	}
	moved, full, err := c.RetryNow(t.Context(), "booking", "g")
	if moved != 4 || !full || err != nil {
		t.Errorf("moved %d, full %v, error %v, want 4 and full", moved, full, err)
	}
	if got := strings.Join(laneIDs(t, c, 4), " "); got != "e-9 e-8 e-7 e-6" {
		t.Errorf("moved %s, want those that were due last", got)
	}
	if left, err := c.Deferred(t.Context(), "booking", "g"); left != 6 || err != nil {
		t.Errorf("%d are left, error %v, want 6", left, err)
	}
	if moved, full, err = c.RetryNow(t.Context(), "booking", "g"); moved != 0 || !full || err != nil {
		t.Errorf("again: moved %d, full %v, error %v, want 0 and full", moved, full, err)
	}
	if err := client.XTrimMaxLen(t.Context(), c.laneKey("booking", "g"), 0).Err(); err != nil {
		t.Fatal(err)
	}
	if moved, full, err = c.RetryNow(t.Context(), "booking", "g"); moved != 6 || full || err != nil {
		t.Errorf("with room: moved %d, full %v, error %v, want 6", moved, full, err)
	}
}

// Large ones make more steps, not longer ones, and none is left out at the seams.
func TestG10RetryNowOfLargeDeliveries(t *testing.T) {
	t.Parallel()
	const n = 9
	c, client := deferred(t, numbered(n, strings.Repeat("x", 400<<10))...)
	const few = 3 // of 400 KiB, which is beyond the bytes of a step
	keys := []string{c.streamKey("booking"), c.laneKey("booking", "g"), c.deferredKey("booking", "g")}
	args := []any{"g", GroupBound, retryNowBatch, retryNowBytes, "+inf"}
	got, err := retryNowScript.Run(t.Context(), client, keys, args...).Slice()
	if err != nil || got[0] != int64(few) || got[2] != int64(0) {
		t.Errorf("one step: %v, error %v, want %d moved", got, err, few)
	}
	moved, full, err := c.RetryNow(t.Context(), "booking", "g")
	if moved != n-few || full || err != nil {
		t.Errorf("moved %d, full %v, error %v, want %d", moved, full, err, n-few)
	}
	if ids := laneIDs(t, c, 1000); len(ids) != n || ids[0] != "e-8" || ids[n-1] != "e-0" {
		t.Errorf("lane holds %v, want all, those due last first", ids)
	}
}

// failing defers again, for twice as long, what a step of RetryNow has moved, before the next one.
type failing struct {
	client redis.UniversalClient
	key    string
}

func (f failing) DialHook(next redis.DialHook) redis.DialHook { return next }

func (f failing) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return next
}

func (f failing) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		err := next(ctx, cmd)
		if name := cmd.Name(); err != nil || name != "evalsha" && name != "eval" {
			return err
		}
		got, _ := cmd.(*redis.Cmd).Slice()
		moved, _ := got[0].(int64)
		for range moved {
			again := redis.Z{Score: float64(time.Now().Add(2 * time.Hour).UnixMilli()), Member: rand.Text()}
			if err := f.client.ZAdd(ctx, f.key, again).Err(); err != nil {
				return err
			}
		}
		return nil
	}
}

// What fails again between two steps is passed over, and all that was deferred before is moved.
func TestG10RetryNowPassesOverWhatFailsAgain(t *testing.T) {
	t.Parallel()
	const n = 2*retryNowBatch + 50
	c, client := deferred(t, numbered(n, "{}")...)
	c.admin.AddHook(failing{client, c.deferredKey("booking", "g")})
	if moved, full, err := c.RetryNow(t.Context(), "booking", "g"); moved != n || full || err != nil {
		t.Errorf("moved %d, full %v, error %v, want %d", moved, full, err, n)
	}
	if ids := laneIDs(t, c, 1000); len(ids) != n || ids[0] != fmt.Sprint("e-", n-1) || ids[n-1] != "e-0" {
		t.Errorf("lane holds %d, want the %d that were deferred", len(ids), n)
	}
	if left, err := c.Deferred(t.Context(), "booking", "g"); left != n || err != nil {
		t.Errorf("%d are deferred, error %v, want the %d that failed again", left, err, n)
	}
}
