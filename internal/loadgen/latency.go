package loadgen

import (
	"math"
	"slices"
	"sync"
	"time"
)

// Latencies collects how long things took. The zero value is empty; it is safe for concurrent use.
type Latencies struct {
	mu    sync.Mutex // guards what follows
	taken []time.Duration
}

// Add notes one.
func (l *Latencies) Add(d time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.taken = append(l.taken, d)
}

// Len returns how many there are.
func (l *Latencies) Len() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.taken)
}

// Quantile returns the smallest of them that at least the given part (0 to 1) of all does not exceed; 0 where there are none.
func (l *Latencies) Quantile(part float64) time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.taken) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(l.taken))
	rank := int(math.Ceil(part * float64(len(sorted))))
	return sorted[min(max(rank, 1), len(sorted))-1]
}
