package group

import (
	"errors"
	"testing"
	"time"
)

// A step that failed once, and was not tried again, is not said for ever.
func TestG06StepThatIsTriedNoMoreIsOver(t *testing.T) {
	t.Parallel()
	var s setbacks
	begin, err := time.Unix(1_800_000_000, 0), errors.New("no")
	at := func(seconds int) time.Time { return begin.Add(time.Duration(seconds) * time.Second) }
	if !s.note(stepTake, err, at(0)) || s.note(stepTake, err, at(20)) || len(s.lasting(10*time.Second, at(21))) != 1 {
		t.Error("it fails for 20 s, and is news once")
	}
	if n := len(s.lasting(10*time.Second, at(90))); n != 0 {
		t.Error("it was tried last 70 s ago")
	}
	if !s.note(stepTake, err, at(100)) || len(s.lasting(10*time.Second, at(101))) != 0 {
		t.Error("it begins anew")
	}
	if !s.note(stepTake, nil, at(102)) || s.note(stepTake, nil, at(103)) {
		t.Error("that it succeeds is news once")
	}
}
