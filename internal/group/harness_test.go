package group

import (
	"context"
	"log/slog"
	"testing"
	"time"

	"github.com/rishi-platform/millrace/internal/memstream"
	"github.com/rishi-platform/millrace/internal/redisstream"
	"github.com/rishi-platform/millrace/internal/redistest"
	"github.com/rishi-platform/millrace/internal/wire"
)

// nobody is an Outlet whose deliveries nobody takes, and such a delivery.
type nobody struct{}

func (nobody) New() *Holding                      { return &Holding{Event: &wire.Event{}, Delivery: nobody{}} }
func (nobody) HandOut(*Holding) bool              { return false }
func (nobody) Close()                             {}
func (nobody) Cancel(error)                       {}
func (nobody) TakenBack()                         {}
func (nobody) Ended(error, time.Duration) *Result { return nil }

// newTestConsumer returns a consumer of the group "g" that does nothing: it does what a test says.
func newTestConsumer(t *testing.T, log Log, patterns ...string) *Consumer {
	t.Helper()
	host := Host{
		Log: log, Outlet: nobody{}, Logger: slog.New(slog.DiscardHandler), Started: time.Now(),
		Shape:    func(_, _ string, err error) error { return err },
		About:    func() string { return "{}" },
		Announce: func(context.Context, string, Pause, bool) {},
		Ended:    func() {},
	}
	policy := Policy{Attempts: 20, CrashLimit: 3, Backoff: func(int) time.Duration { return time.Second }, ClaimIdle: time.Minute}
	c := New(t.Context(), host, Config{Group: "g", Name: "me", Topic: AllStreams, Patterns: patterns, InFlight: 256, Policy: policy})
	t.Cleanup(func() { c.Undo(context.Canceled) })
	return c
}

// eachLog runs a test with a log in memory, and with Redis.
func eachLog(t *testing.T, test func(t *testing.T, log transport)) {
	t.Parallel()
	t.Run("memory", func(t *testing.T) {
		t.Parallel()
		test(t, memstream.New(1000))
	})
	t.Run("redis", func(t *testing.T) {
		t.Parallel()
		server := redistest.Shared(t)
		client := redisstream.New(redisstream.Config{Redis: server.Options(), Namespace: redistest.Namespace(t), MaxLen: 1000, Appends: 1})
		t.Cleanup(func() { _ = client.Close() })
		test(t, client)
	})
}

// transport is a Log of which a test can fill the streams.
type transport interface {
	Log
	Append(ctx context.Context, stream string, w redisstream.Writer, messages []redisstream.Message) (redisstream.ID, uint64, error)
	Groups(ctx context.Context, stream string) ([]redisstream.GroupInfo, error)
}
