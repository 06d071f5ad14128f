package loop

import (
	"context"
	"testing"
	"testing/synctest"
	"time"
)

func TestBackoffDoublesUpToItsBound(t *testing.T) {
	t.Parallel()
	var b Backoff
	about := func(got, want time.Duration) {
		t.Helper()
		if got < want*3/4 || got > want*5/4 {
			t.Errorf("pause of %v, want %v ± 25 %%", got, want)
		}
	}
	for _, want := range []time.Duration{50, 100, 200, 400, 800, 1600} {
		about(b.Next(), want*time.Millisecond)
	}
	if b.IsLong() {
		t.Error("it is long before its bound")
	}
	about(b.Next(), BackoffMost)
	if !b.IsLong() {
		t.Error("it is not long at its bound")
	}
	about(b.Within(time.Minute), 2*BackoffMost)
	about(b.Within(time.Second), time.Second)
	b.Reset()
	about(b.Next(), backoffFirst)
}

func TestSleepEndsWithItsContext(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if !Sleep(ctx, time.Millisecond) {
			t.Error("it was interrupted")
		}
		begun := time.Now()
		if Sleep(ctx, time.Hour) || time.Since(begun) >= time.Second {
			t.Errorf("it slept for %v", time.Since(begun))
		}
	})
}
