package group

import (
	"errors"
	"testing"
	"time"

	"github.com/rishi-platform/millrace/internal/memstream"
)

// What has been put off for a day is a failure like any other.
func TestRetryAfterEndsAfterADay(t *testing.T) {
	t.Parallel()
	c := newTestConsumer(t, memstream.New(1))
	c.cfg.Policy.Attempts = 1
	h := nobody{}.New()
	h.Attempt, h.First = 1, time.Now().Add(-putOffLimit+time.Minute)
	later := &Result{Err: errors.New("not yet"), Kind: "error", Later: true}
	if s := c.resultOf(h, later); s.retry == nil || s.retry.Delay <= 0 {
		t.Errorf("within a day: %+v, want it put off by the back-off", s)
	}
	h.First = time.Now().Add(-putOffLimit - time.Minute)
	if s := c.resultOf(h, later); s.burial == nil {
		t.Errorf("after a day: %+v, want it given up", s)
	}
}

func TestNegativeAttemptsAreWithoutEnd(t *testing.T) {
	t.Parallel()
	c := newTestConsumer(t, memstream.New(1))
	c.cfg.Policy.Attempts = -1
	h := nobody{}.New()
	h.Attempt = 1000
	if s := c.resultOf(h, &Result{Err: errors.New("no"), Kind: "error"}); s.retry == nil {
		t.Errorf("got %+v, want a retry", s)
	}
}

func TestFingerprint(t *testing.T) {
	t.Parallel()
	same := Fingerprint("error", `dial tcp 10.0.0.1:5432: order "a-1" of 0xdeadbeef01 550e8400-e29b-41d4-a716-446655440000 refused`)
	for _, cause := range []string{
		`dial tcp 10.0.0.7:9999: order "b" of 0x1 650e8400-e29b-41d4-a716-446655440fff refused`,
		"dial tcp 10.0.0.7:9999: order 'b c' of 0x1 650e8400-e29b-41d4-a716-446655440fff refused",
	} {
		if got := Fingerprint("error", cause); got != same {
			t.Errorf("%q has another fingerprint", cause)
		}
	}
	if Fingerprint("panic", "x") == Fingerprint("error", "x") || Fingerprint("error", "refused") == Fingerprint("error", "timed out") {
		t.Error("different reasons have one fingerprint")
	}
}
