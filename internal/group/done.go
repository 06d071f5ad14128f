package group

import (
	"hash/maphash"
	"strings"
	"sync"

	"github.com/rishi-platform/millrace/internal/wire"
)

// doneEvents remembers which events were handled here last, by identity: where a group has lost its state, what it gives out again must not be
// handled again by those who know that they have done it.
type doneEvents struct {
	mu     sync.Mutex // guards what follows
	ring   []doneKey  // up to doneBound, the oldest at next
	next   int
	source string  // the last one: most events of a stream have the same
	salt   doneKey // its hash
}

// doneKey is the hash of an identity, wide enough that two events never share one.
type doneKey [2]uint64

// doneBound is how many events are remembered: 256 KiB. A group is made again at its frontier, which is as old as the oldest delivery that
// any of its consumers held, or two beats.
const doneBound = 1 << 14

var doneSeeds = [2]maphash.Seed{maphash.MakeSeed(), maphash.MakeSeed()}

func hashes(text string) (k doneKey) {
	for i, seed := range doneSeeds {
		k[i] = maphash.String(seed, text)
	}
	return k
}

// key returns the key of an event. The lock is held.
func (d *doneEvents) key(source, id string) doneKey {
	if d.source != source || d.salt == (doneKey{}) {
		d.source, d.salt = strings.Clone(source), hashes(source) // a clone: the event's memory is not to be kept
	}
	k := hashes(id)
	return doneKey{k[0]*31 + d.salt[0], k[1]*31 + d.salt[1]}
}

// add remembers an event.
func (d *doneEvents) add(e *wire.Event) {
	d.mu.Lock()
	defer d.mu.Unlock()
	k := d.key(e.Source, e.ID)
	if len(d.ring) < doneBound {
		d.ring = append(d.ring, k)
		return
	}
	d.ring[d.next] = k
	d.next = (d.next + 1) % doneBound
}

// which returns those of the events that are remembered.
func (d *doneEvents) which(events []wire.Decoded) []bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	set := make(map[doneKey]bool, len(d.ring))
	for _, k := range d.ring {
		set[k] = true
	}
	known := make([]bool, len(events))
	for i := range events {
		known[i] = set[d.key(events[i].Source, events[i].ID)]
	}
	return known
}
