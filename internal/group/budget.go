package group

import (
	"sync"

	"github.com/rishi-platform/millrace/internal/redisstream"
)

// budget bounds how many bytes one answer of the log brings, whose entries have a size that nobody
// knows before. An answer that is too large for the link, or for the output buffer that the server
// allows, never arrives: so the budget shrinks when an answer does not come, down to one entry, and
// grows again with each one that comes.
type budget struct {
	mu    sync.Mutex // guards what follows
	bytes int
	size  int // of an entry, as far as known: the mean of the last answer, or more where that is news
}

const (
	// budgetMost is what one answer brings at most: enough that a round trip of a few ms does not count.
	budgetMost = 4 << 20
	// budgetPerMS is what a read brings at most for each millisecond of a round trip, and for the first one
	// in any case. More gains nothing on the way, and spills the caches of both sides: with entries of
	// 1 KiB a read of 230 KB cost Redis a fifth more per entry than one of 130 KB.
	budgetPerMS = 128 << 10
	// budgetLeast is what a budget shrinks to: less saves nothing, since one entry is always asked for.
	budgetLeast = 16 << 10
	// sizeAtFirst is what an entry counts as before any is known: an entry may have 1 MiB.
	sizeAtFirst = 256 << 10
)

// entries returns how many entries may be asked for, at least 1 and at most the given number.
func (b *budget) entries(most int) int { return b.entriesWithin(most, budgetMost) }

// entriesWithin is entries for an answer that is not to bring more than so many bytes.
func (b *budget) entriesWithin(most, bytes int) int {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.begin()
	return max(1, min(most, min(b.bytes, bytes)/b.size))
}

// most returns how many bytes may be asked for.
func (b *budget) most() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.begin()
	return b.bytes
}

// begin gives the budget its first values. The lock is held.
func (b *budget) begin() {
	if b.bytes == 0 {
		b.bytes, b.size = budgetMost, sizeAtFirst
	}
}

// brought notes an answer.
func (b *budget) brought(entries, bytes int) {
	if entries == 0 {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.begin()
	b.size = max(1, bytes/entries, b.size/4)
	b.bytes = min(budgetMost, b.bytes+b.bytes/4)
}

// answered notes what an answer has brought, or that none came.
func (b *budget) answered(brought []redisstream.Delivered, err error) {
	if class := redisstream.Classify(err); class == redisstream.Silent || class == redisstream.Away {
		b.missed()
		return
	}
	bytes := 0
	for i := range brought {
		bytes += brought[i].Entry.Size()
	}
	b.brought(len(brought), bytes)
}

// missed notes an answer that did not come.
func (b *budget) missed() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.begin()
	b.bytes = max(budgetLeast, b.bytes/4)
}
