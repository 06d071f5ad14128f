package pipeline

import "hash/maphash"

// backlog counts the events that stand in a spool, by stream and subject: what is published meanwhile to a subject
// goes behind them. It knows subjects by their hash alone: a spool of 1 GiB may have millions. Two that share
// one wait for each other without need, and nothing else. It is guarded by the lock of spooling.
type backlog struct {
	events int64
	counts map[uint64]int32
	// waiting is who waits for a subject: closed when none of its events is left.
	waiting map[uint64]chan struct{}
}

// subjectKey names a subject of a stream.
type subjectKey struct{ stream, subject string }

var backlogSeed = maphash.MakeSeed()

func (k subjectKey) hash() uint64 { return maphash.Comparable(backlogSeed, k) }

// add notes that the events of a record are in the spool, remove that they are not any more: they were drained, or
// could not be kept.
func (b *backlog) add(r *spooled) {
	if b.counts == nil {
		b.counts, b.waiting = map[uint64]int32{}, map[uint64]chan struct{}{}
	}
	for _, e := range r.events {
		b.counts[subjectKey{r.stream, e.subject}.hash()]++
	}
	b.events += int64(len(r.events))
}

func (b *backlog) remove(r *spooled) {
	for _, e := range r.events {
		k := subjectKey{r.stream, e.subject}.hash()
		if b.counts[k]--; b.counts[k] == 0 {
			delete(b.counts, k)
			b.free(k)
		}
	}
	b.events -= int64(len(r.events))
}

// clear notes that nothing is in the spool.
func (b *backlog) clear() {
	for k := range b.waiting {
		b.free(k)
	}
	clear(b.counts)
	b.events = 0
}

func (b *backlog) free(k uint64) {
	if free := b.waiting[k]; free != nil {
		close(free)
		delete(b.waiting, k)
	}
}

func (b *backlog) isEmpty() bool { return b.events == 0 }

// has reports whether there are events of a subject.
func (b *backlog) has(k subjectKey) bool { return b.counts[k.hash()] > 0 }

// wait returns what is closed when there are none of a subject any more; nil where there are none.
func (b *backlog) wait(of subjectKey) <-chan struct{} {
	k := of.hash()
	if b.counts[k] == 0 {
		return nil
	}
	if b.waiting[k] == nil {
		b.waiting[k] = make(chan struct{})
	}
	return b.waiting[k]
}
