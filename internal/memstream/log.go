package memstream

import (
	"slices"
	"time"

	"github.com/rishi-platform/millrace/internal/redisstream"
)

// entryLog is a list of entries in the order of their IDs.
type entryLog struct {
	entries []redisstream.Entry // a part of memory
	memory  []redisstream.Entry
	last    redisstream.ID // ever given
	added   int64          // ever
}

func (l *entryLog) len() int { return len(l.entries) }

// next returns the first of n consecutive IDs for entries that are stored now, like Redis: the clock may go back, IDs don't.
func (l *entryLog) next(n int) redisstream.ID {
	id := redisstream.ID{MS: uint64(time.Now().UnixMilli())}
	if l.added > 0 && id.MS <= l.last.MS {
		id = l.last.Next()
	}
	l.last = id.Plus(n - 1)
	return id
}

func (l *entryLog) add(e redisstream.Entry) {
	if len(l.entries) == cap(l.entries) {
		l.makeRoom()
	}
	l.entries = append(l.entries, e)
	l.added++
}

// makeRoom moves the entries to the front of their memory, where those that were dropped have left room, or to a larger one: a log that
// is full drops as many as it adds, and takes no new memory.
func (l *entryLog) makeRoom() {
	n := len(l.entries)
	if len(l.memory) < 2*n+16 {
		l.memory = make([]redisstream.Entry, 3*n+16)
		copy(l.memory, l.entries)
	} else {
		copy(l.memory, l.entries)
		clear(l.memory[n:])
	}
	l.entries = l.memory[:n]
}

// drop removes the oldest n.
func (l *entryLog) drop(n int) {
	clear(l.entries[:n])
	l.entries = l.entries[n:]
}

// index returns the index of the first entry at id or behind it.
func (l *entryLog) index(id redisstream.ID) int {
	i, _ := slices.BinarySearchFunc(l.entries, id, func(e redisstream.Entry, id redisstream.ID) int { return e.ID.Compare(id) })
	return i
}

// after returns how many entries stand at id or before it.
func (l *entryLog) after(id redisstream.ID) int {
	i, found := slices.BinarySearchFunc(l.entries, id, func(e redisstream.Entry, id redisstream.ID) int { return e.ID.Compare(id) })
	if found {
		i++
	}
	return i
}

// between returns the entries from from to to, both included.
func (l *entryLog) between(from, to redisstream.ID) []redisstream.Entry {
	i, j := l.index(from), l.after(to)
	if i >= j {
		return nil
	}
	return l.entries[i:j]
}

// remove deletes the entry at id, if it is there. A lane is settled about in its order, so few stand before the entry and many
// behind it: those before it move.
func (l *entryLog) remove(id redisstream.ID) {
	if i := l.index(id); i < len(l.entries) && l.entries[i].ID == id {
		copy(l.entries[1:i+1], l.entries[:i])
		l.drop(1)
	}
}
