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

// BackoffFirst and BackoffMost bound the pause of a loop after an error; it doubles in between.
const (
	BackoffFirst = 50 * time.Millisecond
	BackoffMost  = 2 * time.Second
)
