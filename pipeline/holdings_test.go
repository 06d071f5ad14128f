package pipeline

import (
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
	var w holdings
	w.init(10, false)
	w.hold(nil, []redisstream.Delivered{running, settled, taken})

	listed, fresh, err := w.holdListed(nil, func() ([]redisstream.Delivered, error) {
		pending := []redisstream.Delivered{running, settled, unknown, taken}
		w.settled(w.held[settled.Ref])
		w.lose(taken.Ref) // a renewal finds it gone, which was our own acknowledgement
		return pending, nil
	})
	if err != nil || listed != 4 || len(fresh) != 1 || fresh[0].ref != unknown.Ref {
		t.Errorf("listed %d, fresh %v, error %v; want 4 and only what was unknown", listed, fresh, err)
	}
	if room := w.room(); room != 8 {
		t.Errorf("room %d, want 8: what runs and what was unknown are held", room)
	}
	// A later listing that still has it says that the settlement was undone: the entry is pending again.
	if _, fresh, _ := w.holdListed(nil, func() ([]redisstream.Delivered, error) { return []redisstream.Delivered{settled}, nil }); len(fresh) != 1 {
		t.Errorf("%d fresh entries, want the one that is pending again", len(fresh))
	}
}

// holds reports whether an entry is held.
func (w *holdings) holds(ref redisstream.Ref) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.held[ref] != nil
}

// waiting is how many deliveries wait for a place only.
func (w *holdings) waiting() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.count[heldTurn]
}
