package pipeline

import (
	"context"
	"testing"

	"github.com/rishi-platform/millrace/internal/redisstream"
)

// The answer of the log to "what is pending with me?" is older than what was settled while it was on its way.
func TestWhatIsSettledWhileItIsListedIsNotRunAgain(t *testing.T) {
	t.Parallel()
	entry := func(ms uint64) redisstream.Delivered {
		return redisstream.Delivered{Ref: redisstream.Ref{Stream: "booking", ID: redisstream.ID{MS: ms}}}
	}
	running, settled, unknown, taken := entry(1), entry(2), entry(3), entry(4)
	var w window
	w.init(10)
	w.hold([]redisstream.Delivered{running, settled, taken})

	listed, fresh, err := w.holdListed(func() ([]redisstream.Delivered, error) {
		pending := []redisstream.Delivered{running, settled, unknown, taken}
		w.release(settled.Ref)
		w.takeAway(taken.Ref) // a renewal finds it gone, which was our own acknowledgement
		return pending, nil
	})
	if err != nil || listed != 4 || len(fresh) != 1 || fresh[0].Ref != unknown.Ref {
		t.Errorf("listed %d, fresh %v, error %v; want 4 and only what was unknown", listed, fresh, err)
	}
	if room := w.room(); room != 8 {
		t.Errorf("room %d, want 8: what runs and what was unknown are held", room)
	}
	// A later listing that still has it says that the settlement was undone: the entry is pending again.
	if _, fresh, _ := w.holdListed(func() ([]redisstream.Delivered, error) { return []redisstream.Delivered{settled}, nil }); len(fresh) != 1 {
		t.Errorf("%d fresh entries, want the one that is pending again", len(fresh))
	}
}

// Who waits for the result of a delivery does not wait for another one of the same entry, which may be behind him in the queue.
func TestF14ResultOfALostDeliveryIsNotWaitedFor(t *testing.T) {
	t.Parallel()
	var w window
	w.init(2)
	entry := redisstream.Delivered{Ref: redisstream.Ref{Stream: "booking", ID: redisstream.ID{MS: 1}}}
	h := &handed{Delivery: Delivery{ref: entry.Ref}}
	w.hold([]redisstream.Delivered{entry})
	if held, ok := w.hand(t.Context(), h); !held || !ok {
		t.Fatal("it is not handed out")
	}
	ended, end := context.WithCancel(t.Context())
	end()
	if w.awaitResult(ended, h) {
		t.Error("the result is not in the log yet")
	}
	if by := w.takeAway(entry.Ref); by != h {
		t.Fatalf("it was handed out to %v", by)
	}
	w.hold([]redisstream.Delivered{entry})
	if !w.awaitResult(t.Context(), h) {
		t.Error("it is waited for")
	}
}
