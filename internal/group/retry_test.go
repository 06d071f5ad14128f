package group

import (
	"errors"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/rishi-platform/millrace/internal/memstream"
)

// A year is cut to a day, and that is said, once.
func TestG19RetryAfterOfAYearIsADay(t *testing.T) {
	t.Parallel()
	var log strings.Builder
	c := newTestConsumer(t, memstream.New(1))
	c.logger = slog.New(slog.NewTextHandler(&log, nil))
	for asked, want := range map[time.Duration]time.Duration{
		24 * time.Hour: 24 * time.Hour, 24*time.Hour - 1: 24*time.Hour - 1, time.Millisecond: time.Millisecond,
	} {
		if got := c.putOffFor(nobody{}.New(), 1, asked); got != want {
			t.Errorf("asked for %v: put off for %v, want %v", asked, got, want)
		}
	}
	if log.Len() > 0 {
		t.Errorf("it is said that something was cut: %s", log.String())
	}
	for range 2 {
		h := nobody{}.New()
		h.Attempt, h.First = 1, time.Now()
		s := c.resultOf(h, &Result{Err: errors.New("not yet"), Later: true, After: 365 * 24 * time.Hour})
		if s.retry == nil || s.retry.Delay != 24*time.Hour {
			t.Errorf("got %+v, want it put off for a day", s)
		}
	}
	if n := strings.Count(log.String(), "\n"); n != 1 || !strings.Contains(log.String(), "asked=8760h0m0s") {
		t.Errorf("want one line that says what was asked for, got %q", log.String())
	}
}
