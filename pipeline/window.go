package pipeline

import (
	"context"
	"sync"
	"time"

	"github.com/rishi-platform/millrace/internal/redisstream"
)

// window bounds the deliveries that are handed out and not settled, and knows everything that the consumer holds: an
// entry is held from the read that brought it until its settlement is in the log.
type window struct {
	size int

	mu               sync.Mutex // guards what follows
	held             map[redisstream.Ref]holding
	listing          int                          // listings that are under way
	settledMeanwhile map[redisstream.Ref]struct{} // forgotten since the first of them began
	handed           int                          // deliveries that are handed out and not settled
	results          int                          // deliveries that were settled, since pacedAt
	pacedAt          time.Time                    // when ahead was determined
	ahead            int                          // entries that may be held beyond size: see pace
	acking           int                          // held, but settled here: their results are on the way into the log
	parked           int                          // held, but waiting for something other than a free handler
	changed          chan struct{}                // there while somebody waits; closed when either number falls
}

// holding is an entry that the consumer holds.
type holding struct {
	since time.Time
	by    *handed // nil until it is handed out
}

func (w *window) init(size int) {
	w.size = size
	w.held = map[redisstream.Ref]holding{}
}

// holdListed holds what the log says is pending with this consumer. The answer is older than what was settled while it was on its
// way: that must not be taken for something unknown, and run again.
func (w *window) holdListed(list func() ([]redisstream.Delivered, error)) (listed int, fresh []redisstream.Delivered, err error) {
	w.mu.Lock()
	if w.listing++; w.listing == 1 {
		w.settledMeanwhile = map[redisstream.Ref]struct{}{}
	}
	w.mu.Unlock()
	defer func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		if w.listing--; w.listing == 0 {
			w.settledMeanwhile = nil
		}
	}()
	pending, err := list()
	return len(pending), w.hold(pending), err
}

// hold notes entries that were read and returns those that were not held before.
func (w *window) hold(read []redisstream.Delivered) []redisstream.Delivered {
	now := time.Now()
	w.mu.Lock()
	defer w.mu.Unlock()
	fresh := read[:0]
	for _, d := range read {
		_, known := w.held[d.Ref]
		_, settled := w.settledMeanwhile[d.Ref]
		if !known && !settled {
			w.held[d.Ref] = holding{since: now}
			fresh = append(fresh, d)
		}
	}
	return fresh
}

// release forgets entries that are settled in the log.
func (w *window) release(refs ...redisstream.Ref) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, r := range refs {
		w.forget(r)
	}
	w.signal()
}

// forget removes an entry, and keeps an answer that is on its way from bringing it back. The lock is held.
func (w *window) forget(r redisstream.Ref) {
	delete(w.held, r)
	if w.listing > 0 {
		w.settledMeanwhile[r] = struct{}{}
	}
}

// stillHeld returns those of n that are not settled in the log yet.
func (w *window) stillHeld(n *notHandled) *notHandled {
	w.mu.Lock()
	defer w.mu.Unlock()
	left := &notHandled{stream: n.stream}
	for i, d := range n.deliveries {
		if _, held := w.held[d.Ref]; held {
			left.add(d, n.events[i])
		}
	}
	return left
}

// free waits until there is room for entries and returns how much; 0 when ctx has ended.
func (w *window) free(ctx context.Context) int {
	room := 0
	w.await(ctx, func() bool { room = w.roomNow(); return room > 0 })
	if ctx.Err() != nil {
		return 0
	}
	return room
}

// freeMuch is free, but waits for up to a millisecond longer for a quarter of the window: a read for one entry costs as much as one for
// many.
func (w *window) freeMuch(ctx context.Context) int {
	w.pace(time.Now())
	room := w.free(ctx)
	if room == 0 || room >= w.size/4 {
		return room
	}
	moment, cancel := context.WithTimeout(ctx, time.Millisecond)
	defer cancel()
	w.await(moment, func() bool { room = w.roomNow(); return room >= w.size/4 })
	return max(room, 1)
}

const (
	// aheadFor is what is read ahead: as much as is handled in this time. Fast handlers get large reads, which cost the server and us
	// less per event; slow ones leave to their peers what they could not begin soon (RELIABILITY F13).
	aheadFor = 5 * time.Millisecond
	// aheadMost bounds it, as a multiple of the window's size.
	aheadMost = 3
	// paceEvery is the shortest time over which the speed is measured.
	paceEvery = 2 * time.Millisecond
)

// pace determines how much is read ahead of the handlers.
func (w *window) pace(now time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	since := now.Sub(w.pacedAt)
	if since < paceEvery {
		return
	}
	w.ahead = min(aheadMost*w.size, int(int64(w.results)*int64(aheadFor)/int64(since)))
	w.pacedAt, w.results = now, 0
}

// roomNow is how many more entries may be held. What is settled here, or waits for its subject or the end of a pause, takes no room, within
// bounds: who knows how long that takes.
func (w *window) roomNow() int {
	return min(w.size+w.ahead-len(w.held)+w.acking+w.parked, settledPerSize*w.size-len(w.held))
}

// settledPerSize bounds what is held, all that takes no room included, as a multiple of the window's size.
const settledPerSize = 6

// hand waits until one more delivery may be handed out; false when ctx has ended. The entry may be held no longer then: another consumer has it.
func (w *window) hand(ctx context.Context, h *handed) (held, ok bool) {
	ok = w.await(ctx, func() bool {
		if w.handed >= w.size {
			return false
		}
		w.handed++
		var entry holding
		if entry, held = w.held[h.ref]; held {
			entry.by = h
			w.held[h.ref] = entry
		}
		return true
	})
	return held, ok
}

// park notes that n more entries, or fewer, wait for something other than a free handler.
func (w *window) park(n int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.parked += n
	w.signal()
}

// heldLong returns what is held since before the given time, by stream.
func (w *window) heldLong(before time.Time) map[string][]redisstream.Ref {
	w.mu.Lock()
	defer w.mu.Unlock()
	long := map[string][]redisstream.Ref{}
	for ref, holding := range w.held {
		if holding.since.Before(before) && !ref.Spool {
			long[ref.Stream] = append(long[ref.Stream], ref)
		}
	}
	return long
}

// holds reports whether an entry is held.
func (w *window) holds(ref redisstream.Ref) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	_, ok := w.held[ref]
	return ok
}

// takeAway forgets an entry that another consumer has, and returns who handles it here, if anybody does.
func (w *window) takeAway(ref redisstream.Ref) *handed {
	w.mu.Lock()
	defer w.mu.Unlock()
	by := w.held[ref].by
	w.forget(ref) // it may have been our own acknowledgement, of which we have not heard yet
	w.signal()
	return by
}

// settled notes that a delivery that was handed out has its result.
func (w *window) settled() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.handed--
	w.results++
	w.signal()
}

// reported notes that the result of an entry is on its way into the log.
func (w *window) reported() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.acking++
	w.signal()
}

// acked forgets entries whose results are in the log.
func (w *window) acked(refs ...redisstream.Ref) {
	w.mu.Lock()
	w.acking -= len(refs)
	w.mu.Unlock()
	w.release(refs...)
}

// awaitResult waits until the result of a delivery that has ended is in the log; false when ctx ended first. The same entry may be held once more by
// then, lost and taken over again: who waits for that one would wait for himself.
func (w *window) awaitResult(ctx context.Context, h *handed) bool {
	return w.await(ctx, func() bool { entry, held := w.held[h.ref]; return !held || entry.by != h })
}

// inFlight is how many deliveries are handed out and not settled.
func (w *window) inFlight() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.handed
}

// drain waits until no delivery is handed out, or ctx has ended, and returns how many still are.
func (w *window) drain(ctx context.Context) int {
	w.await(ctx, func() bool { return w.handed == 0 })
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.handed
}

// await waits until the condition holds; false when ctx ended first.
func (w *window) await(ctx context.Context, condition func() bool) bool {
	for {
		w.mu.Lock()
		if condition() {
			w.mu.Unlock()
			return true
		}
		if w.changed == nil {
			w.changed = make(chan struct{})
		}
		changed := w.changed
		w.mu.Unlock()
		select {
		case <-changed:
		case <-ctx.Done():
			return false
		}
	}
}

func (w *window) signal() {
	if w.changed != nil {
		close(w.changed)
		w.changed = nil
	}
}

// room is how many more entries may be held.
func (w *window) room() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.roomNow()
}
