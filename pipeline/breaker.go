package pipeline

import (
	"hash/maphash"
	"sync"
	"sync/atomic"
	"time"
)

// breaker finds out that a group fails as a whole, at one stream: a database that is away makes every delivery fail, and would drain the
// stream into the dead letters. It counts what was settled here within a minute (DESIGN §15).
type breaker struct {
	succeeded atomic.Int64 // since a slice was looked at: all that a success costs

	mu      sync.Mutex // guards what follows
	slices  [breakerSlices]breakerSlice
	current int64     // number of the slice of time that is being filled
	judged  time.Time // when all slices were looked at last
}

const (
	breakerSlices  = 12
	breakerEach    = 5 * time.Second // 12 of them are the window of 60 s
	breakerKept    = 1000            // so many failed events are kept per slice; of more only the number
	breakerPause   = 50 * time.Millisecond
	breakerEvents  = 200  // so many different events must have been settled
	breakerFailed  = 0.95 // that part of them failed
	breakerOneKind = 0.80 // and that part of the failures has one fingerprint
)

// breakerSlice counts different events: a success ends its event, and an event that fails again is not counted again.
type breakerSlice struct {
	succeeded int
	failed    map[uint64]string // fingerprint by event
	more      int               // that failed beyond those kept
}

var breakerSeed = maphash.MakeSeed()

// success counts a delivery that was handled.
func (b *breaker) success() { b.succeeded.Add(1) }

// failure counts a delivery that failed, and reports whether the group is to be paused.
func (b *breaker) failure(id, print string, now time.Time) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.advance(now)
	s := &b.slices[b.current%breakerSlices]
	if s.failed == nil {
		s.failed = map[uint64]string{}
	}
	if len(s.failed) < breakerKept {
		s.failed[maphash.String(breakerSeed, id)] = print
	} else {
		s.more++
	}
	if now.Sub(b.judged) < breakerPause { // looking at all of them costs more than counting one
		return false
	}
	b.judged = now
	return b.bad()
}

// tick lets time pass where nothing fails.
func (b *breaker) tick(now time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.advance(now)
}

// advance notes the successes and empties the slices of time that have passed.
func (b *breaker) advance(now time.Time) {
	to := now.UnixNano() / int64(breakerEach)
	if b.current == 0 {
		b.current = to
	}
	b.slices[b.current%breakerSlices].succeeded += int(b.succeeded.Swap(0))
	for n := max(b.current+1, to-breakerSlices+1); n <= to; n++ {
		b.slices[n%breakerSlices] = breakerSlice{}
	}
	b.current = max(b.current, to)
}

func (b *breaker) bad() bool {
	succeeded, more := 0, 0
	failed := map[uint64]string{}
	for i := range b.slices {
		succeeded += b.slices[i].succeeded
		more += b.slices[i].more
		for id, print := range b.slices[i].failed {
			failed[id] = print
		}
	}
	all := float64(succeeded + len(failed) + more)
	if all < breakerEvents || float64(len(failed)+more) < breakerFailed*all {
		return false
	}
	most, of := 0, map[string]int{}
	for _, print := range failed {
		of[print]++
		most = max(most, of[print])
	}
	return float64(most) >= breakerOneKind*float64(len(failed))
}

// reset forgets everything: a group that goes on is judged anew.
func (b *breaker) reset() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.succeeded.Store(0)
	b.slices = [breakerSlices]breakerSlice{}
}
