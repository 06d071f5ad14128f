package loadgen_test

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/redis/go-redis/v9"

	"github.com/rishi-platform/millrace/internal/loadgen"
	"github.com/rishi-platform/millrace/internal/redistest"
	"github.com/rishi-platform/millrace/pipeline"
	"github.com/rishi-platform/millrace/router"
)

// everywhere runs a test on a bus in memory and on one with Redis.
func everywhere(t *testing.T, test func(t *testing.T, bus *pipeline.Bus)) {
	t.Parallel()
	t.Run("memory", func(t *testing.T) {
		t.Parallel()
		test(t, open(t, pipeline.Config{}))
	})
	t.Run("redis", func(t *testing.T) {
		t.Parallel()
		test(t, open(t, pipeline.Config{
			Redis:     &redis.UniversalOptions{Addrs: []string{redistest.Shared(t).Addr()}},
			Namespace: redistest.Namespace(t),
		}))
	})
}

func open(t *testing.T, cfg pipeline.Config) *pipeline.Bus {
	t.Helper()
	cfg.Logger = slog.New(slog.DiscardHandler)
	bus, err := pipeline.Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := bus.Close(context.Background()); err != nil {
			t.Errorf("close bus: %v", err)
		}
	})
	return bus
}

// work starts a worker that the test stops at its end at the latest.
func work(t *testing.T, bus *pipeline.Bus, cfg loadgen.Config) *loadgen.Worker {
	t.Helper()
	cfg.Logger = slog.New(slog.DiscardHandler)
	w, err := loadgen.Work(context.Background(), bus, cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := w.Stop(); err != nil {
			t.Errorf("stop worker: %v", err)
		}
	})
	return w
}

// soon is a ctx whose end is met by a broken program only.
func soon(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
	t.Cleanup(cancel)
	return ctx
}

func TestWhatIsPublishedIsHandledAndSettled(t *testing.T) {
	everywhere(t, func(t *testing.T, bus *pipeline.Bus) {
		progress := &loadgen.Progress{}
		cfg := loadgen.Config{
			Events: 1000, Publishers: 3, Batch: 7, Payload: 100, Subjects: 5,
			Policy: router.Policy{InFlight: 16}, Progress: progress,
		}
		w := work(t, bus, cfg)
		if err := w.Ready(soon(t)); err != nil {
			t.Fatalf("ready: %v", err)
		}
		if n := progress.Handled.Load(); n != 0 || w.Handled() != 0 {
			t.Errorf("got %d and %d handled events before anything was published, want 0", n, w.Handled())
		}
		published, err := loadgen.Publish(soon(t), bus, cfg)
		if err != nil {
			t.Fatal(err)
		}
		if published.Events != 1000 || published.Elapsed <= 0 {
			t.Errorf("got %+v, want 1000 events in some time", published)
		}
		if err := w.Settled(soon(t), published.Events); err != nil {
			t.Fatal(err)
		}
		if w.Handled() != 1000 || progress.Published.Load() != 1000 || progress.Handled.Load() != 1000 {
			t.Errorf("got %d handled, progress %d/%d, want 1000 of each", w.Handled(), progress.Published.Load(), progress.Handled.Load())
		}
		if w.Latencies().Len() != 0 {
			t.Errorf("got %d latencies without a rate, want none", w.Latencies().Len())
		}

		subjects := map[string]int{}
		for record, err := range bus.History(t.Context(), pipeline.Query{Streams: []string{"bench"}}) {
			if err != nil {
				t.Fatal(err)
			}
			subjects[record.Event.Subject]++
			if len(record.Event.Data) != 100 {
				t.Fatalf("got a payload of %d bytes, want 100: %s", len(record.Event.Data), record.Event.Data)
			}
		}
		for i, want := range map[string]int{"subject/0": 200, "subject/4": 200} {
			if subjects[i] != want {
				t.Errorf("got %d events of %s, want %d", subjects[i], i, want)
			}
		}
	})
}

func TestBacklogIsWorkedOff(t *testing.T) {
	everywhere(t, func(t *testing.T, bus *pipeline.Bus) {
		cfg := loadgen.Config{Events: 100, Batch: 100}
		if _, err := loadgen.Publish(soon(t), bus, cfg); err != nil {
			t.Fatal(err)
		}
		w := work(t, bus, cfg)
		if err := w.Settled(soon(t), 100); err != nil {
			t.Error(err)
		}
	})
}

func TestRateBringsLatencies(t *testing.T) {
	t.Parallel()
	bus := open(t, pipeline.Config{})
	cfg := loadgen.Config{Events: 50, Publishers: 8, Rate: 1000}
	w := work(t, bus, cfg)
	if err := w.Ready(soon(t)); err != nil {
		t.Fatal(err)
	}
	published, err := loadgen.Publish(soon(t), bus, cfg)
	if err != nil {
		t.Fatal(err)
	}
	if published.Elapsed < 49*time.Millisecond {
		t.Errorf("published 50 events at 1,000/s in %s, want at least 49 ms", published.Elapsed)
	}
	if err := w.Settled(soon(t), 50); err != nil {
		t.Fatal(err)
	}
	if n := w.Latencies().Len(); n != 50 {
		t.Errorf("got %d latencies, want 50", n)
	}
	if p50, p99 := w.Latencies().Quantile(0.5), w.Latencies().Quantile(0.99); p50 <= 0 || p99 < p50 {
		t.Errorf("got p50 %s and p99 %s, want something above 0, in this order", p50, p99)
	}
}

func TestForEndsPublishing(t *testing.T) {
	t.Parallel()
	bus := open(t, pipeline.Config{})
	for d := 20 * time.Millisecond; ; d *= 2 { // a machine that is busy may publish nothing in 20 ms
		published, err := loadgen.Publish(soon(t), bus, loadgen.Config{For: d, Publishers: 2})
		if err != nil {
			t.Fatal(err)
		}
		if published.Elapsed < d || d > 10*time.Second {
			t.Fatalf("got %+v, want events for %v", published, d)
		}
		if published.Events > 0 {
			return
		}
	}
}

func TestEndsAreSaid(t *testing.T) {
	t.Parallel()
	bus := open(t, pipeline.Config{})
	why := errors.New("enough")
	ended, end := context.WithCancelCause(t.Context())
	end(why)
	if _, err := loadgen.Publish(ended, bus, loadgen.Config{Events: 1}); !errors.Is(err, why) {
		t.Errorf("publish: got %v, want the cause of the end", err)
	}
	w := work(t, bus, loadgen.Config{})
	if err := w.Settled(ended, 1); !errors.Is(err, why) {
		t.Errorf("settled: got %v, want the cause of the end", err)
	}
	if _, err := loadgen.Publish(t.Context(), bus, loadgen.Config{Type: "Bench", Payload: 1, Batch: -1}); err == nil {
		t.Error("a wrong configuration: got nil, want an error")
	}
	refused := loadgen.Config{Type: "system.bench", Events: 10, Publishers: 2}
	if p, err := loadgen.Publish(t.Context(), bus, refused); !errors.As(err, new(*pipeline.ValidationError)) || p.Events != 0 {
		t.Errorf("events that the bus refuses: got %+v and %v, want the refusal", p, err)
	}
}

func TestWorkerThatEndedIsNotWaitedFor(t *testing.T) {
	t.Parallel()
	bus := open(t, pipeline.Config{})
	w, err := loadgen.Work(t.Context(), bus, loadgen.Config{Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	if err := w.Stop(); err != nil {
		t.Fatal(err)
	}
	if err := w.Settled(soon(t), 1); err == nil || errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v, want an error at once", err)
	}
}

func TestSpreadDealsEachEventOnceAndInTime(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		got := map[int]time.Duration{}
		begin := time.Now()
		err := loadgen.Spread(t.Context(), 3, 4, 10, 100, func(s loadgen.Share) error {
			mu.Lock()
			defer mu.Unlock()
			for i := range s.Count {
				got[s.First+i] = time.Since(begin)
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		want := map[int]time.Duration{}
		for i := range 10 {
			want[i] = time.Duration(i/4*4) * 10 * time.Millisecond
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("-want +got:\n%s", diff)
		}
	})
}

func TestSpreadStopsAtTheFirstError(t *testing.T) {
	t.Parallel()
	why := errors.New("refused")
	calls := 0
	err := loadgen.Spread(t.Context(), 1, 1, 10, 0, func(loadgen.Share) error { calls++; return why })
	if !errors.Is(err, why) || calls != 1 {
		t.Errorf("got %v after %d calls, want the error after one", err, calls)
	}
}

func TestPayloadsHaveTheirSizeAndTellTheirAge(t *testing.T) {
	t.Parallel()
	for _, size := range []int{loadgen.MinPayload, 256} {
		p := loadgen.NewPayload(size)
		if len(p) != size {
			t.Errorf("got %d bytes, want %d", len(p), size)
		}
		if age, stamped := loadgen.Age(p); stamped {
			t.Errorf("a payload without a moment: got age %s", age)
		}
		before := time.Now()
		loadgen.Stamp(p)
		age, stamped := loadgen.Age(p)
		if !stamped || age < 0 || age > time.Since(before) {
			t.Errorf("got age %s, %v, want one since it was stamped", age, stamped)
		}
	}
	for _, other := range []string{"", `{"total":1}`, string(make([]byte, 256))} {
		if age, stamped := loadgen.Age([]byte(other)); stamped {
			t.Errorf("%q: got age %s", other, age)
		}
	}
}

func TestQuantiles(t *testing.T) {
	t.Parallel()
	var l loadgen.Latencies
	if got := l.Quantile(0.5); got != 0 {
		t.Errorf("of none: got %s, want 0", got)
	}
	for _, d := range []time.Duration{4, 1, 3, 2} {
		l.Add(d)
	}
	for part, want := range map[float64]time.Duration{0: 1, 0.25: 1, 0.5: 2, 0.51: 3, 0.99: 4, 1: 4} {
		if got := l.Quantile(part); got != want {
			t.Errorf("quantile %v: got %d, want %d", part, got, want)
		}
	}
}
