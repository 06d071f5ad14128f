package loadgen

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"
)

// Share is a part of the load: events First, First+1, …, as many as Count says.
type Share struct {
	Worker       int // 0 to workers-1; calls with one worker never overlap
	First, Count int
}

// Spread deals total events (0: without end) to workers, in shares of up to batch, and calls f for each. With a rate, the share
// that begins with event n is due n/rate seconds after the start, and a worker waits for that: a system that is too slow for the
// rate makes the later ones late, but never fewer. It returns when all are dealt, ctx has ended, or f has returned an error, which
// it returns.
func Spread(ctx context.Context, workers, batch, total int, rate float64, f func(Share) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var dealt atomic.Int64
	var working sync.WaitGroup
	begin := time.Now()
	for worker := range workers {
		working.Go(func() {
			for {
				end := int(dealt.Add(int64(batch)))
				s := Share{Worker: worker, First: end - batch, Count: batch}
				if total > 0 {
					s.Count = min(batch, total-s.First)
				}
				if s.Count <= 0 || rate > 0 && !sleepUntil(ctx, begin.Add(time.Duration(float64(s.First)/rate*1e9))) || ctx.Err() != nil {
					return
				}
				if err := f(s); err != nil {
					cancel(failure{err})
					return
				}
			}
		})
	}
	working.Wait()
	var failed failure
	if errors.As(context.Cause(ctx), &failed) {
		return failed.error
	}
	return nil
}

// failure tells an error of f from the end of the caller's ctx.
type failure struct{ error }

// sleepUntil reports whether the moment came before the end of ctx.
func sleepUntil(ctx context.Context, at time.Time) bool {
	wait := time.Until(at)
	if wait <= 0 {
		return true
	}
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
