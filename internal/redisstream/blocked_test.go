package redisstream

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/rishi-platform/millrace/internal/redistest"
)

// What a server says to a reader that waits differs by what took its group away. Each way is told from an outage, since the group has to be made
// again, or named to somebody.
func TestF03BlockedReaderIsToldWhatHappened(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		do   func(ctx context.Context, s redis.UniversalClient) error
		want Class
	}{
		"flush":  {func(ctx context.Context, s redis.UniversalClient) error { return s.FlushAll(ctx).Err() }, Lost},
		"delete": {func(ctx context.Context, s redis.UniversalClient) error { return s.Del(ctx, "booking").Err() }, Lost},
		"rename": {func(ctx context.Context, s redis.UniversalClient) error {
			return s.Rename(ctx, "booking", "away").Err()
		}, Lost},
		"group destroyed": {func(ctx context.Context, s redis.UniversalClient) error {
			return s.XGroupDestroy(ctx, "booking", "g").Err()
		}, Lost},
		"overwrite": {func(ctx context.Context, s redis.UniversalClient) error { return s.Set(ctx, "booking", "x", 0).Err() }, Lost},
		"connection killed": {func(ctx context.Context, s redis.UniversalClient) error {
			return s.ClientKillByFilter(ctx, "TYPE", "normal", "SKIPME", "yes").Err()
		}, Away},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := redistest.Start(t)
			c := New(Config{Redis: server.Options(), MaxLen: 1000})
			t.Cleanup(func() { _ = c.Close() })
			consumer := Consumer{Group: "g", Name: "c"}
			if _, err := c.Join(t.Context(), consumer, Join{Stream: "booking", Patterns: []string{"booking.*"}}); err != nil {
				t.Fatal(err)
			}
			answer := make(chan error, 1)
			go func() {
				_, err := c.Read(t.Context(), consumer, []string{"booking"}, 10, MaxBlock)
				answer <- err
			}()
			client := server.Client(t)
			for blocked := false; !blocked; {
				info, err := client.Info(t.Context(), "clients").Result()
				if err != nil {
					t.Fatal(err)
				}
				blocked = strings.Contains(info, "blocked_clients:1\r")
			}
			if err := test.do(t.Context(), client); err != nil {
				t.Fatal(err)
			}
			select {
			case err := <-answer:
				if got := Classify(err); got != test.want {
					t.Errorf("%v: class %d, want %d", err, got, test.want)
				}
			case <-time.After(10 * time.Second):
				t.Error("the reader was told nothing")
			}
		})
	}
}

// A server that says nothing is told from one that is away: it may only have begun to wait anew (redis #12998).
func TestF10ReadThatIsNotAnswered(t *testing.T) {
	t.Parallel()
	proxy := redistest.NewProxy(t, redistest.Start(t).Addr())
	c := New(Config{Redis: &redis.UniversalOptions{Addrs: []string{proxy.Addr()}}, Namespace: redistest.Namespace(t), MaxLen: 1000})
	t.Cleanup(func() { _ = c.Close() })
	consumer := Consumer{Group: "g", Name: "c"}
	if _, err := c.Join(t.Context(), consumer, Join{Stream: "booking", Patterns: []string{"booking.*"}}); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Read(t.Context(), consumer, []string{"booking"}, 1, time.Millisecond); err != nil {
		t.Fatal(err)
	}
	proxy.DropReplies(true)
	if _, err := c.Read(t.Context(), consumer, []string{"booking"}, 1, time.Millisecond); Classify(err) != Silent {
		t.Errorf("%v: class %d, want %d", err, Classify(err), Silent)
	}
	proxy.DropReplies(false)
	if _, err := c.Read(t.Context(), consumer, []string{"booking"}, 1, time.Millisecond); err != nil {
		t.Errorf("the next read, on a new connection: %v", err)
	}
}

// A server that stands still is noticed a second after the longest wait of a read, not ten (go-redis adds so many).
func TestF05BlockedReadGivesUpSoon(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	c := New(Config{Redis: server.Options(), MaxLen: 1000})
	t.Cleanup(func() { _ = c.Close() })
	consumer := Consumer{Group: "g", Name: "c"}
	if _, err := c.Join(t.Context(), consumer, Join{Stream: "booking", Patterns: []string{"booking.*"}}); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Read(t.Context(), consumer, []string{"booking"}, 1, time.Millisecond); err != nil { // connects
		t.Fatal(err)
	}
	server.Freeze(t)
	t.Cleanup(func() { server.Thaw(t) })
	begun := time.Now()
	_, err := c.Read(t.Context(), consumer, []string{"booking"}, 1, MaxBlock)
	if took := time.Since(begun); Classify(err) != Silent || took > MaxBlock+3*time.Second {
		t.Errorf("%v after %v, want it silent within %v", err, took, MaxBlock+3*time.Second)
	}
}
