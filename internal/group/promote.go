package group

import (
	"container/heap"
	"context"
	"math"
	"math/rand/v2"
	"sync"
	"time"
)

// dues is when the deliveries of a stream are due that this consumer has deferred: it has them moved
// to the lane then. So each retry costs one call at most, whoever else is in the group. Where a consumer
// dies, a beat of another one finds what it has deferred.
type dues struct {
	changed chan struct{} // says that there is an earlier one

	mu    sync.Mutex
	times timeHeap
	least time.Time // nothing is moved before
}

// timeHeap is a heap of times in Unix nanoseconds: 100,000 deliveries may be deferred.
type timeHeap []int64

func (h timeHeap) Len() int           { return len(h) }
func (h timeHeap) Less(i, j int) bool { return h[i] < h[j] }
func (h timeHeap) Swap(i, j int)      { h[i], h[j] = h[j], h[i] }
func (h *timeHeap) Push(at any)       { *h = append(*h, at.(int64)) }
func (h *timeHeap) Pop() any {
	last := len(*h) - 1
	at := (*h)[last]
	*h = (*h)[:last]
	return at
}

const (
	// promoteApart is the shortest time between two calls that move what is due at a stream.
	promoteApart = 50 * time.Millisecond
	// promoteSpread is the longest time by which such a call comes late, at random: consumers that defer
	// much at the same time need not all be there at once.
	promoteSpread = 20 * time.Millisecond
)

// add notes that something is due at the given time.
func (d *dues) add(at time.Time) {
	due := at.Add(rand.N(promoteSpread)).UnixNano()
	d.mu.Lock()
	heap.Push(&d.times, due)
	first := d.times[0] == due
	d.mu.Unlock()
	if first {
		select {
		case d.changed <- struct{}{}:
		default: // it is said already
		}
	}
}

// in returns in which time something is to be moved.
func (d *dues) in(now time.Time) time.Duration {
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(d.times) == 0 {
		return math.MaxInt64
	}
	return max(time.Duration(d.times[0]-now.UnixNano()), d.least.Sub(now))
}

// take reports whether something is to be moved now, which the caller does then.
func (d *dues) take(now time.Time) bool {
	if d.in(now) > 0 {
		return false
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	for len(d.times) > 0 && d.times[0] <= now.UnixNano() {
		heap.Pop(&d.times)
	}
	d.least = now.Add(promoteApart)
	return true
}

// promote moves what is due at a stream. What can't be moved now is left to the next beat.
func (c *Consumer) promote(m *membership) {
	ctx, cancel := context.WithTimeout(c.tended, settleTimeout)
	defer cancel()
	p, err := c.log.Promote(ctx, m.stream, c.cfg.Group)
	c.noteStep(m, stepPromote, err)
	if err == nil && p.Moved > 0 && p.Next == 0 { // more was due than goes at once
		m.dues.add(time.Now())
	}
}
