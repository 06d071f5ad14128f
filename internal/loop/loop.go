// Package loop is how the goroutines of a bus are started, wait, and try again.
package loop

import (
	"context"
	"math/rand/v2"
	"runtime/pprof"
	"sync"
	"time"
)

// Group starts goroutines with a name that shows in profiles and stack dumps, and waits for them. A leak
// has one address. The zero value is ready.
type Group struct{ wg sync.WaitGroup }

// Start runs f in a goroutine under the label "millrace" with the given name.
func (g *Group) Start(name string, f func()) {
	g.wg.Add(1)
	go pprof.Do(context.Background(), pprof.Labels("millrace", name), func(context.Context) {
		defer g.wg.Done()
		f()
	})
}

// Wait returns when every goroutine of the group has ended.
func (g *Group) Wait() { g.wg.Wait() }

// Sleep waits for d and reports whether nothing ended in between.
func Sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// Jittered is a pause of about d, ± 25 %: those that a server has lost at once must not come back to it
// at once.
func Jittered(d time.Duration) time.Duration { return d*3/4 + rand.N(d/2) }

// Backoff is the pause of a loop after an error, which doubles. The zero value is ready.
type Backoff struct{ last time.Duration }

const (
	backoffFirst = 50 * time.Millisecond
	// BackoffMost is the longest pause, unless another bound is given.
	BackoffMost = 2 * time.Second
)

// Next returns the next pause: 50 ms, 100 ms, … 2 s, jittered.
func (b *Backoff) Next() time.Duration { return b.Within(BackoffMost) }

// Within is Next with a bound of its own.
func (b *Backoff) Within(most time.Duration) time.Duration {
	b.last = min(max(2*b.last, backoffFirst), most)
	return Jittered(b.last)
}

// Wait waits for the next pause and reports whether ctx did not end meanwhile.
func (b *Backoff) Wait(ctx context.Context) bool { return Sleep(ctx, b.Next()) }

// IsLong reports whether the last pause was BackoffMost, or longer.
func (b *Backoff) IsLong() bool { return b.last >= BackoffMost }

// Reset begins anew with the shortest pause.
func (b *Backoff) Reset() { b.last = 0 }
